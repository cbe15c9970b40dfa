#include "daemon/session/plan_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// Longer than a layer of a large model takes: while steps run the planner is awake for every one.
constexpr uint64_t kPlannerSpinNs = 10'000'000;

bool AnySleeping(const Boards& boards) {
  for (uint32_t r = 0; r < boards.layout->config.ranks; ++r)
    if (boards.rank(r).sleeping.value.load(std::memory_order_seq_cst)) return true;
  return false;
}

}  // namespace

PlanLoop::PlanLoop(Waker* waker, int64_t spin_us)
    : waker_(waker),
      spin_us_(spin_us),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      control_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  // Edge-triggered and never read: each ring is a new edge, and a member who makes the shared
  // descriptor blocking cannot stop us in read().
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.fd = control_.get();
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, control_.get(), &event);
}

void PlanLoop::Add(std::shared_ptr<GroupGeneration> generation) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.fd = generation->doorbell();
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, generation->doorbell(), &event);
  {
    std::lock_guard lock(mutex_);
    wanted_.push_back(std::move(generation));
    version_.fetch_add(1, std::memory_order_release);
  }
  Ping();
}

void PlanLoop::Remove(const GroupGeneration* generation) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, generation->doorbell(), nullptr);
  {
    std::lock_guard lock(mutex_);
    std::erase_if(wanted_, [&](const auto& g) { return g.get() == generation; });
    version_.fetch_add(1, std::memory_order_release);
  }
  Ping();
}

void PlanLoop::Ping() {
  const uint64_t one = 1;
  if (write(control_.get(), &one, sizeof one) < 0) return;  // already ringing
}

void PlanLoop::Stop() {
  stopped_.store(true, std::memory_order_release);
  Ping();
}

void PlanLoop::TakeChanges() {
  const uint64_t version = version_.load(std::memory_order_acquire);
  if (version == seen_version_) return;
  seen_version_ = version;
  std::vector<std::shared_ptr<GroupGeneration>> before;
  {
    std::lock_guard lock(mutex_);
    before = std::exchange(generations_, wanted_);
  }
  // Freeing its memory may take long: the waker drops the last reference.
  for (auto& generation : before)
    if (std::find(generations_.begin(), generations_.end(), generation) == generations_.end()) {
      generation->steps().Account();
      waker_->Wake(std::move(generation));
    }
  uint32_t ranks = 0;
  for (const auto& g : generations_) ranks += g->layout().config.ranks;
  spin_ns_.store(spin_us_ >= 0 ? uint64_t(spin_us_) * 1000
                               : (AllowedCpus() > ranks ? kPlannerSpinNs : 0));
}

bool PlanLoop::PollAll(uint64_t now) {
  bool progress = false;
  for (const auto& generation : generations_) {
    ULTRAEP_POINT("heartbeat:before");
    generation->boards().plan().heartbeat.value.store(now, std::memory_order_relaxed);
    ULTRAEP_POINT("heartbeat:set");
    // At most a window per round: no group may keep the others waiting.
    for (uint32_t k = generation->layout().config.window; k > 0; --k) {
      if (generation->steps().Poll() != StepPlanner::Progress::kStep) break;
      progress = true;
      ULTRAEP_POINT("pulse:before");
      generation->boards().pulse().count.fetch_add(1, std::memory_order_seq_cst);
      ULTRAEP_POINT("pulse:raised");
      if (AnySleeping(generation->boards())) waker_->Wake(generation);
    }
  }
  return progress;
}

// The flag goes up, then the rows are looked at once more: a rank stores its stamp, then reads the
// flag, so one of the two sees the other.
void PlanLoop::Sleep() {
  for (const auto& g : generations_) {
    ULTRAEP_POINT("doze:before");
    g->boards().plan().sleeping.value.store(1, std::memory_order_seq_cst);
    ULTRAEP_POINT("doze:flag");
  }
  if (!PollAll(NowNs())) {
    epoll_event events[16];
    const int timeout = generations_.empty() ? -1 : int(kHeartbeatNs / 1'000'000);
    epoll_wait(epoll_.get(), events, 16, timeout);
  }
  for (const auto& g : generations_)
    g->boards().plan().sleeping.value.store(0, std::memory_order_relaxed);
}

void PlanLoop::Run() {
  uint64_t last = NowNs();
  while (!stopped_.load(std::memory_order_acquire)) {
    TakeChanges();
    rounds_.store(rounds_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    const uint64_t now = NowNs();
    if (PollAll(now)) {
      last = now;
    } else if (now - last < spin_ns()) {
      for (int i = 0; i < 16; ++i) CpuRelax();
    } else {
      Sleep();
      last = NowNs();
    }
  }
}

}  // namespace ultraep
