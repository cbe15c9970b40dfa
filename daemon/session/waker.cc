#include "daemon/session/waker.h"

#include <algorithm>
#include <utility>

#include "protocol/transport/waiting.h"

namespace ultraep {

void Waker::Run() {
  std::vector<std::shared_ptr<GroupGeneration>> now;
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    changed_.wait(lock, [&] { return stopped_ || !waiting_.empty(); });
    std::swap(now, waiting_);
    lock.unlock();
    for (const auto& generation : now) WakeAll(generation->boards().pulse());
    now.clear();
    lock.lock();
  }
}

void Waker::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_one();
}

void Waker::Wake(std::shared_ptr<GroupGeneration> generation) {
  std::lock_guard lock(mutex_);
  if (std::find(waiting_.begin(), waiting_.end(), generation) == waiting_.end())
    waiting_.push_back(std::move(generation));
  changed_.notify_one();
}

}  // namespace ultraep
