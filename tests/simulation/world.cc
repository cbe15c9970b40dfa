#include "tests/simulation/world.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace ultraep::simulation {
namespace {

constexpr size_t kTail = 60;

bool Free(pthread_mutex_t* mutex) {
  if (pthread_mutex_trylock(mutex)) return false;
  pthread_mutex_unlock(mutex);
  return true;
}

}  // namespace

World* World::running_ = nullptr;

World::World(const WorldOptions& options) : options_(options), random_(options.seed) {
  running_ = this;
  test::world = this;
}

World::~World() {
  running_ = nullptr;
  test::world = nullptr;
}

void World::ThrowIfKilled() const {
  if (current_ && current_->process->dying) throw Killed();
}

void World::Suspend() {
  current_->fiber.Yield();
  ThrowIfKilled();
}

void World::Point(const char* name) {
  if (!current_) return;
  ThrowIfKilled();
  Note(current_, name);
  if (!std::strcmp(name, "pulse:raised")) WakeSleepers();
  if (observer) observer->Passed(current_, name);
  Suspend();
}

// A tick per look: no loop around the clock lasts forever.
uint64_t World::Now() {
  ThrowIfKilled();
  return ++now_;
}

void World::SleepUntil(uint64_t deadline_ns) {
  if (!current_) return;
  ThrowIfKilled();
  current_->asleep = true;
  current_->woken = false;
  current_->wake_at = deadline_ns;
  Suspend();
  current_->watched.clear();
}

void World::WillWaitFor(const pollfd* fds, size_t count) {
  current_->watched.assign(fds, fds + count);
}

// Called where throwing is not allowed: a killed thread takes the mutex, runs to the next point and
// ends there.
void World::Lock(pthread_mutex_t* mutex) {
  while (pthread_mutex_trylock(mutex)) {
    current_->mutex = mutex;
    current_->fiber.Yield();
  }
  current_->mutex = nullptr;
}

// A futex wakes whoever sleeps on the pulse; a few wakes are lost with a waker that was killed.
void World::WakeSleepers() {
  for (Process* p : processes_)
    for (auto& t : p->threads)
      if (t->asleep && t->watched.empty() && !Chance(options_.lost_wakes)) t->woken = true;
}

void World::Start(Process* process, const char* name, std::function<void()> body) {
  if (process->threads.empty()) processes_.push_back(process);
  process->threads.push_back(
      std::make_unique<Thread>(process, process->name + "." + name, [process, body = std::move(body)] {
        if (process->dying) return;
        try {
          body();
        } catch (const Killed&) {
        }
      }));
  process->threads.back()->weight = uint32_t(1) << Below(4);
  Note(process->threads.back().get(), "starts");
}

void World::Run(Thread* thread) {
  thread->asleep = thread->woken = false;
  current_ = thread;
  thread->fiber.Resume();
  current_ = nullptr;
}

void World::Kill(Process* process) {
  Note(process->threads[0].get(), "KILLED");
  process->dying = true;
  // First those that may hold a mutex, then those that wait for one.
  for (const bool waiting : {false, true})
    for (auto& t : process->threads)
      if (!t->fiber.done() && (t->mutex != nullptr) == waiting) Run(t.get());
  if (!process->ended()) {
    std::fprintf(stderr, "simulation: %s does not end\n", process->name.c_str());
    std::abort();
  }
  Forget(process);
}

void World::Forget(Process* process) {
  std::erase(processes_, process);
  if (last_ && last_->process == process) last_ = nullptr;
}

void World::Stop(Process* process, uint64_t until) {
  Note(process->threads[0].get(), "STOPPED process until", until);
  process->stopped_until = std::max(process->stopped_until, until);
}

void World::Stop(Thread* thread, uint64_t until) {
  Note(thread, "STOPPED thread until", until);
  thread->stopped_until = std::max(thread->stopped_until, until);
}

bool World::Eligible(const Thread& t) const {
  if (t.fiber.done() || Stopped(t)) return false;
  if (t.mutex) return Free(t.mutex);
  return !t.asleep || t.woken || t.wake_at <= now_;
}

void World::WakePolled() {
  polled_.clear();
  pollers_.clear();
  for (Process* p : processes_)
    for (auto& t : p->threads)
      if (t->asleep && !t->woken)
        for (const pollfd& fd : t->watched) {
          polled_.push_back(fd);
          pollers_.push_back(t.get());
        }
  const timespec zero{};
  if (syscall(SYS_ppoll, polled_.data(), polled_.size(), &zero, nullptr, 8) <= 0) return;
  for (size_t i = 0; i < polled_.size(); ++i)
    if (polled_[i].revents) pollers_[i]->woken = true;
}

Thread* World::Choose() {
  eligible_.clear();
  uint64_t weights = 0;
  for (Process* p : processes_)
    for (auto& t : p->threads)
      if (Eligible(*t)) {
        eligible_.push_back(t.get());
        weights += t->weight;
      }
  if (eligible_.empty()) return nullptr;
  if (Below(100) >= options_.switch_percent &&
      std::find(eligible_.begin(), eligible_.end(), last_) != eligible_.end())
    return last_;
  uint64_t at = Below(weights);
  for (Thread* t : eligible_) {
    if (at < t->weight) return t;
    at -= t->weight;
  }
  return nullptr;
}

// To the next time at which anybody can go on.
void World::Advance(uint64_t alarm) {
  uint64_t next = alarm;
  for (Process* p : processes_)
    for (auto& t : p->threads) {
      if (t->fiber.done()) continue;
      uint64_t at = t->asleep && !t->woken ? t->wake_at : now_;
      if (t->mutex && !Free(t->mutex)) at = kForever;
      if (at != kForever) at = std::max({at, t->stopped_until, p->stopped_until});
      if (at > now_) next = std::min(next, at);
    }
  if (next != kForever) now_ = std::max(now_, next);
}

void World::Step(uint64_t alarm) {
  if (++steps_ % 4 == 0) WakePolled();
  Thread* next = Choose();
  if (!next) {
    WakePolled();
    next = Choose();
  }
  if (!next) return Advance(alarm);
  now_ += Below(options_.point_cost_ns + 1);
  last_ = next;
  Run(next);
  if (observer) observer->Suspended(next);
}

std::string World::Line(const Event& e) {
  char text[200];
  std::snprintf(text, sizeof text, "%14.6f ms  %-18s %s", double(e.at) / 1e6, e.who.c_str(), e.what);
  return std::string(text) + (e.value ? " " + std::to_string(e.value) : "");
}

void World::Note(const Thread* thread, const char* what, uint64_t value) {
  Event event{now_, thread ? thread->name : "world", what, value};
  digest_.Add(event.at);
  digest_.AddBytes(event.who.data(), event.who.size());
  digest_.AddBytes(what, std::strlen(what));
  digest_.Add(value);
  if (options_.trace) std::printf("%s\n", Line(event).c_str());
  if (tail_.size() == kTail) tail_.pop_front();
  tail_.push_back(std::move(event));
}

std::string World::Tail() const {
  std::string text;
  for (const Event& e : tail_) text += Line(e) + "\n";
  return text;
}

}  // namespace ultraep::simulation
