// Threads for one kind of operation: they work on one job together, then on the next, and sleep
// while there is none.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ultraep {

class Job {
 public:
  virtual ~Job() = default;
  // Called once by every thread.
  virtual void Work() = 0;
  // Called by the last one, once all have come back.
  virtual void Finish() = 0;
};

// Any thread.
class Workers {
 public:
  // name: at most 15 characters. No thread runs before the first job.
  Workers(const char* name, uint32_t count) : name_(name), wanted_(count) {}
  ~Workers() { Stop(); }

  // Threads that share a job.
  uint32_t count() const { return wanted_; }
  // A job's place in the queue. Whatever may throw does so here: no memory, no more threads.
  using Place = std::list<std::shared_ptr<Job>>;
  Place Prepare(std::shared_ptr<Job> job);
  // Jobs are worked on in the order in which they are added.
  void Add(Place place) noexcept;
  // Jobs that were added are worked on to their end; none is added any more.
  void Stop();

 private:
  void Run();

  const char* const name_;
  const uint32_t wanted_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Place jobs_;
  uint64_t finished_ = 0;  // jobs that are over: the number of the first in `jobs_`
  uint32_t back_ = 0;      // threads that have come back from that one
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace ultraep
