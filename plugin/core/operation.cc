#include "plugin/core/operation.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace ultraep {

Executor::Executor(Generation* generation, const char* thread_name)
    : generation_(generation),
      workers_(thread_name, std::max(1u, generation->settings.copy_threads)) {}

Result Executor::Fail(std::string text) {
  generation_->Fail();
  return Tell(Failed(std::move(text)));
}

Result Executor::Tell(Result result) {
  generation_->failure_told = true;
  return result;
}

void Executor::GiveUp(Operation* operation, const std::string& text) {
  {
    std::lock_guard lock(mutex_);  // the first one knows why, the others stop because of it
    if (operation->failure.empty())
      operation->failure = text.empty() ? generation_->FailureText() : text;
  }
  generation_->Fail();
}

void Executor::End(Operation* operation) {
  std::lock_guard lock(mutex_);
  operation->over = true;
  operation->over_ns = NowNs();
  changed_.notify_all();
}

bool Executor::AwaitOver(Operation* operation, uint64_t timeout_ns) {
  std::unique_lock lock(mutex_);
  const auto over = [&] { return operation->over; };
  if (timeout_ns < step_timeout_ns())
    return changed_.wait_for(
        lock, std::chrono::nanoseconds(std::min<uint64_t>(timeout_ns, INT64_MAX / 2)), over);
  changed_.wait(lock, over);
  return true;
}

Result Executor::OutcomeOf(const Operation& operation) {
  std::lock_guard lock(mutex_);
  return operation.failure.empty() ? Ok() : Tell(Failed(operation.failure));
}

void Executor::Announce(uint32_t rank) const {
  SlotBoard& slots = boards().slots(rank);
  ULTRAEP_POINT("arrivals:before");
  slots.arrivals.count.fetch_add(1, std::memory_order_seq_cst);
  ULTRAEP_POINT("arrivals:raised");
  if (slots.sleeping.value.load(std::memory_order_seq_cst)) WakeAll(slots.arrivals);
}

}  // namespace ultraep
