#include "plugin/core/workers.h"

#include <utility>

#include "plugin/core/quiet_thread.h"

namespace ultraep {

void Workers::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  for (std::thread& t : threads_) t.join();
  threads_.clear();
}

Workers::Place Workers::Prepare(std::shared_ptr<Job> job) {
  Place place(1, std::move(job));
  std::lock_guard lock(mutex_);
  threads_.reserve(wanted_);
  while (threads_.size() < wanted_) threads_.push_back(StartQuietThread(name_, [this] { Run(); }));
  return place;
}

void Workers::Add(Place place) noexcept {
  {
    std::lock_guard lock(mutex_);
    jobs_.splice(jobs_.end(), place);
  }
  changed_.notify_all();
}

void Workers::Run() {
  std::unique_lock lock(mutex_);
  for (uint64_t next = finished_;; ++next) {
    changed_.wait(
        lock, [&] { return (finished_ == next && !jobs_.empty()) || (stopped_ && jobs_.empty()); });
    if (jobs_.empty()) return;
    const std::shared_ptr<Job> job = jobs_.front();
    lock.unlock();
    job->Work();
    lock.lock();
    if (++back_ < wanted_) continue;
    lock.unlock();
    job->Finish();
    lock.lock();
    jobs_.pop_front();
    back_ = 0;
    ++finished_;
    changed_.notify_all();
  }
}

}  // namespace ultraep
