// Gradient reductions of a generation (training; rule 6): a slot's gradient is prepared by its own
// rank once the home that it last was for has taken it, published with the reduction, and pulled by
// the home of the expert that sits there now.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/reduce_gradients.h"
#include "plugin/core/operation.h"
#include "plugin/core/streamer.h"

namespace ultraep {

class Reducer;

struct Reduce final : Operation {
  explicit Reduce(Reducer* owner) : reducer(owner) {}
  void Work() override;
  void Finish() override;

  Reducer* const reducer;
  std::vector<void*> mains;
  std::optional<ReduceList> list;
  ReduceOperation operation;
  std::atomic<uint64_t> done{0};
  uint64_t prepare_ns = 0;
  // Guarded by the reducer's mutex:
  ReduceTally tally;  // of all threads
};

class Reducer : public Executor {
 public:
  explicit Reducer(Generation* generation) : Executor(generation, "ultraep-reduce") {}
  ~Reducer() { Stop(); }

  // Until the gradients of this rank's slots of the stream may be written; zeroes them if asked to.
  Result Prepare(Stream* stream, bool zero, uint64_t timeout_ns);
  // Publishes the gradients of this rank's slots and begins to add those of its own experts'
  // replicas elsewhere to `mains` ([own expert][part], of `type`). One reduction after the other.
  Result Start(const Stream& stream, void* const* mains, GradientType type, bool any_order,
               std::shared_ptr<Reduce>* reduce);
  // Until this rank's main gradients are complete.
  Result Await(Reduce* reduce, uint64_t timeout_ns);
  ReduceTally Tally(const Reduce& reduce);

 private:
  friend struct Reduce;
  class Waits;

  Result AwaitSlots(const Stream& stream, uint64_t timeout_ns);
  Result AwaitTaken(const Stream& stream, const Replica& replica, uint64_t timeout_ns);
  void Publish(const Reduce& reduce);
  void Add(Reduce* reduce);
  void Finish(Reduce* reduce);
};

}  // namespace ultraep
