// A rank's device memory and mailbox on the heap, and any kernel on it, in any kind of team.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "kernels/device/kernel_list.h"
#include "protocol/plan_record.h"
#include "tests/support/executor_kinds.h"
#include "tests/support/run_kernel.h"

namespace ultraep::test {

// Zeroed, on a line.
class HeapBytes {
 public:
  explicit HeapBytes(uint64_t bytes)
      : at_(static_cast<unsigned char*>(std::aligned_alloc(kLine, RoundUp(bytes, kLine)))) {
    if (!at_) throw std::bad_alloc();
    std::memset(at_.get(), 0, RoundUp(bytes, kLine));
  }
  unsigned char* at() const { return at_.get(); }

 private:
  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };
  std::unique_ptr<unsigned char, Free> at_;
};

// A step: what every source's gate chose, and a plan for it, with relays.
struct RoutedStep {
  RecordedPlan plan;
  std::vector<std::vector<int32_t>> ids;  // [source]
  std::vector<uint32_t> load;             // [source][expert]

  const uint32_t* row(uint32_t source) const {
    return &load[uint64_t{source} * plan.shape.experts];
  }
};
RoutedStep RandomStep(const PlanShape& shape, uint32_t max_ids, uint64_t seed);

struct ImageOf {
  uint64_t sequence = 0;
  uint64_t generation = 0;  // 0: none
  uint32_t memory = 0;
  uint32_t teams = 1;  // that share a stream
  DeviceVerdict verdict = DeviceVerdict::kPlan;
};
// The verdict on a step as `rank` needs it, built by plain loops.
std::vector<unsigned char> MakeImage(const GroupConfig& config, const RoutedStep& step,
                                     uint32_t rank, const ImageOf& of);

class DeviceRank {
 public:
  DeviceRank(const GroupConfig& config, uint32_t rank, uint32_t plans = 1);

  DeviceState& state() const { return *reinterpret_cast<DeviceState*>(state_.at()); }
  DevicePlan* plan(uint32_t i = 0) const { return reinterpret_cast<DevicePlan*>(plans_[i].at()); }
  const PlanImageHead& image(uint32_t i = 0) const {
    return device::PlanView(state(), plan(i)).head();
  }
  MailboxView mailbox() const { return state().mailbox; }
  MailboxHead& head() const { return mailbox().head(); }

  // What the carrier does.
  void Verdict(const std::vector<unsigned char>& image) const;
  void Memory(uint32_t index, uint64_t generation, unsigned char* const* bases) const;
  void SetGone(uint32_t memory, uint32_t rank) const {
    mailbox().memory(memory).gone(state().ranks)[rank].store(1);
  }
  // The note, taken: code, a, b, sequence.
  struct Failure {
    DeviceFailure code = DeviceFailure::kNone;
    uint64_t a = 0, b = 0, sequence = 0;
    bool operator==(const Failure&) const = default;
  };
  Failure TakeFailure() const;

  // Blocks and members as `kind` has teams and members; one block where the list says one.
  void Run(const ExecutorKind& kind, Kernel kernel, const void* arguments) const;
  void Operate(const ExecutorKind& kind, Kernel kernel, uint32_t plan_index,
               uint32_t set = 0) const {
    const OperationArguments a{&state(), plan(plan_index), set, UINT32_MAX, 0, 0};
    Run(kind, kernel, &a);
  }
  void Submit(const uint32_t* row) const {
    const CountArguments a{&state(), row, 0, 3, 5};
    Run({}, Kernel::kSubmitRow, &a);
  }
  void Await(const ExecutorKind& kind, uint32_t plan_index = 0) const {
    const AwaitArguments a{&state(), plan(plan_index)};
    Run(kind, Kernel::kAwait, &a);
  }

 private:
  HeapBytes state_, mailbox_;
  std::vector<HeapBytes> plans_;
};

}  // namespace ultraep::test
