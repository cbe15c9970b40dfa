// What streams and reductions of a generation have in common: a job for several threads, how those
// wait for other ranks, and what happens when one cannot go on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "plugin/core/generation.h"
#include "plugin/core/operation_book.h"
#include "plugin/core/result.h"
#include "plugin/core/workers.h"
#include "protocol/plan_record.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

// One operation as this rank sees it; kept by its plan and by the threads that work on it.
struct Operation : Job {
  std::string text() const {
    return "step " + std::to_string(sequence) + " on slot set " + std::to_string(set);
  }

  uint64_t number = 0;
  uint64_t sequence = 0;  // the step whose plan it follows
  uint32_t set = 0;
  PlanShape shape;
  std::vector<Replica> replicas;
  uint64_t issued_ns = 0;
  std::atomic<uint64_t> next{0};  // the threads' common claim
  // Guarded by the executor's mutex:
  bool over = false;  // on this rank
  uint64_t over_ns = 0;
  std::string failure;  // why it stopped
};

// What to do about ranks whose operations have different numbers.
inline constexpr const char* kOneOrder = ": all ranks must stream, restore and reduce in one order";

// Issues operations of one kind and works on them.
class Executor {
 public:
  // Until the operation is over on this rank. False: the time is; never for a time of the step
  // timeout or more, since the operation's own waits end there. Allocates nothing.
  bool AwaitOver(Operation* operation, uint64_t timeout_ns);

 protected:
  Executor(Generation* generation, const char* thread_name);

  // Ends every wait of its threads, then them; a derived class calls it before anything of it goes.
  void Stop() {
    stopped_ = true;
    workers_.Stop();
  }
  bool failed() const { return generation_->failed(); }
  uint64_t step_timeout_ns() const { return generation_->settings.step_timeout_ns; }
  uint32_t rank() const { return generation_->rank; }
  const Boards& boards() const { return generation_->boards; }

  Result Fail(std::string text);
  // The caller learns of the failure by this result: its next step need not say it again.
  Result Tell(Result result);
  // What every operation ends with once it is numbered and published. An empty place: it has no
  // work here, and nobody need wake up for it.
  void Enqueue(Operation* operation, Workers::Place place) {
    if (place.empty())
      End(operation);
    else
      workers_.Add(std::move(place));
  }
  // One thread's part: work(&tally) is false when a wait of `waits` failed. Running out of memory
  // is no reason to end the framework's process.
  template <class Waits, class Tally, class Work>
  void RunPart(Operation* operation, const Waits& waits, Tally* sum, const Work& work) {
    Tally tally;
    try {
      // Rule 7: after a failure nothing is stored any more.
      if (failed() || !work(&tally)) GiveUp(operation, waits.failure());
    } catch (const std::exception&) {
      static const std::string why = "out of memory";
      GiveUp(operation, why);
    }
    std::lock_guard lock(mutex_);
    sum->Add(tally);
  }
  // A thread cannot go on. `text` empty: because the generation has failed.
  void GiveUp(Operation* operation, const std::string& text);
  // All threads have come back.
  void End(Operation* operation);
  // Of one that is over: why it could not go on, if so.
  Result OutcomeOf(const Operation& operation);
  // Something has come into that rank's slots.
  void Announce(uint32_t rank) const;

  // Until done(), or something that ends the operation: hopeless(), the group has failed, the step
  // timeout since its issue. What a rank did before it went counts.
  template <class Done, class Hopeless>
  bool Wait(const Operation& operation, const Pulse& pulse, Word* sleeping, const Done& done,
            const Hopeless& hopeless) const {
    const RankSettings& settings = generation_->settings;
    WaitFor(pulse, sleeping, settings.spin_ns,
            DeadlineAfter(operation.issued_ns, settings.step_timeout_ns), [&] {
              return done() || hopeless() || failed() || stopped_.load(std::memory_order_relaxed);
            });
    return done();
  }

  Generation* const generation_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> stopped_{false};
  Workers workers_;
};

}  // namespace ultraep
