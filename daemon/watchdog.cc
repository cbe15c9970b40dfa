#include "daemon/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "daemon/systemd.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kPeriod = 2 * kSecond;
// A thread that was asked and has not answered for so long is stuck.
constexpr uint64_t kStuck = 5 * kPeriod;

std::string Stuck(const char* thread, uint64_t seen_ns) {
  const uint64_t silent = NowNs() - seen_ns;
  if (silent < kStuck) return "";
  return absl::StrFormat("the %s thread has made no progress for %d s", thread, silent / kSecond);
}

// WATCHDOG_USEC is meant for this process only if WATCHDOG_PID says so, or says nothing.
uint64_t WatchdogUs() {
  const char* const us = std::getenv("WATCHDOG_USEC");
  const char* const pid = std::getenv("WATCHDOG_PID");
  if (!us || (pid && std::atol(pid) != getpid())) return 0;
  return std::strtoull(us, nullptr, 10);
}

}  // namespace

Watchdog::Watchdog(PlanLoop* planner, AttachServer* server, const NodeView* view)
    : planner_(planner), server_(server), view_(view), period_ns_(kPeriod) {
  planning_.seen_ns = session_.seen_ns = looked_ns_ = NowNs();
  const uint64_t limit_us = WatchdogUs();
  watched_ = limit_us > 0;
  // A round that was asked for is seen one period later: three periods fit into the limit.
  if (watched_) period_ns_ = std::clamp<uint64_t>(limit_us * 1000 / 4, kSecond / 100, kPeriod);
}

void Watchdog::Progress::See(uint64_t rounds_now, uint64_t now) {
  if (rounds_now != rounds) seen_ns = now;
  rounds = rounds_now;
}

void Watchdog::Ready() {
  ready_due_ = true;
  Look();
}

void Watchdog::Look() {
  const uint64_t now = NowNs();
  // Who was stopped itself knows nothing of the time it missed.
  if (now - looked_ns_.exchange(now) > kStuck) planning_.seen_ns = session_.seen_ns = now;
  const uint64_t rounds = planner_->rounds();
  const bool planner_alive = rounds != planning_.rounds;
  planning_.See(rounds, now);
  session_.See(server_->rounds(), now);
  planner_->Ping();
  server_->Ping();
  if (watched_ && planner_alive) NotifySystemd("WATCHDOG=1");
  const NodeSnapshot node = view_->Read();
  uint64_t ranks = 0, open = 0;
  for (const StatusGroup& group : node.groups) {
    ranks += group.config.ranks;
    open += group.gate_state == uint32_t(GateState::kOpen);
  }
  // Its queue may be full: what must arrive is said until it is taken.
  const bool taken = NotifySystemd(absl::StrFormat("%sSTATUS=%d groups, %d open, %d ranks",
                                                   ready_due_ ? "READY=1\n" : "",
                                                   node.groups.size(), open, ranks));
  ready_due_ &= !taken;
}

void Watchdog::Stopping() {
  stopping_ = true;
  NotifySystemd("STOPPING=1");
}

std::string Watchdog::Health() const {
  std::string wrong = Stuck("main", looked_ns_);  // without it nothing is known of the others
  return wrong.empty() ? Stuck("planner", planning_.seen_ns) : wrong;
}

std::string Watchdog::Readiness() const {
  if (stopping_) return "the daemon is stopping";
  std::string wrong = Health();
  return wrong.empty() ? Stuck("session", session_.seen_ns) : wrong;
}

}  // namespace ultraep
