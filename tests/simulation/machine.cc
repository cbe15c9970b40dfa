#include "tests/simulation/machine.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ultraep::simulation {
namespace {

constexpr uint64_t kMostSteps = 2'000'000;
// After the last fault: leases, back-off, joining, and a step timeout on top.
constexpr uint64_t kCalmNs = 10 * kSecond;

}  // namespace

Machine::Machine(const Scenario& scenario, const std::string& socket)
    : scenario_(scenario),
      socket_(socket),
      world_(scenario.world),
      checks_(&world_, scenario_),
      places_(scenario.config.ranks) {
  world_.observer = this;
  daemon_at_ = world_.now() + (world_.Below(2) ? 0 : world_.Below(kSecond));
  for (Place& p : places_) p.start_at = world_.now() + world_.Below(200 * kMillisecond);
}

Machine::~Machine() {
  world_.observer = nullptr;
  for (Place& p : places_)
    if (p.rank) world_.Kill(p.rank.get());
  if (daemon_) world_.Kill(daemon_.get());
}

Report Machine::Run() {
  Busy();
  Calm();
  Report report;
  report.violation = checks_.violation();
  report.tail = world_.Tail();
  report.digest = world_.digest();
  report.steps = world_.steps();
  report.coverage = checks_.coverage;
  return report;
}

void Machine::Busy() {
  const uint64_t end = world_.now() + scenario_.busy_ns;
  uint64_t next_fault = world_.Below(2 * scenario_.fault_period);
  while (world_.now() < end && checks_.violation().empty()) {
    StartWhatIsDue();
    world_.Step(Alarm(end));
    if (met_) FaultAt(std::exchange(met_, nullptr));
    if (world_.steps() < next_fault) continue;
    next_fault = world_.steps() + 1 + world_.Below(2 * scenario_.fault_period);
    Fault();
  }
}

// Liveness: once nothing goes wrong any more, all plan together again.
void Machine::Calm() {
  if (!checks_.violation().empty()) return;
  quiet_ = true;
  slow_solve_ns_ = 0;
  checks_.Quiet();
  checks_.timeline.Continued(world_.now());
  world_.Note(nullptr, "CALM");
  auto go_on = [](Process* p) {
    p->stopped_until = 0;
    for (auto& t : p->threads) t->stopped_until = 0;
  };
  if (daemon_) go_on(daemon_.get());
  daemon_at_ = 0;
  for (Place& p : places_) {
    p.start_at = 0;
    if (!p.rank) continue;
    p.rank->quiet = true;
    go_on(p.rank.get());
  }
  const uint64_t end = world_.now() + kCalmNs + scenario_.config.step_timeout_ns;
  while (!checks_.planned_together() && checks_.violation().empty()) {
    StartWhatIsDue();
    world_.Step(Alarm(end));
    if (world_.now() >= end)
      return checks_.Violated("nothing goes wrong any more, and no step was planned together");
    if (world_.steps() > kMostSteps) return checks_.Violated("it goes round and round");
  }
}

uint64_t Machine::Alarm(uint64_t end) const {
  if (!daemon_) end = std::min(end, daemon_at_);
  for (const Place& p : places_)
    if (!p.rank) end = std::min(end, p.start_at);
  return end;
}

void Machine::StartWhatIsDue() {
  if (daemon_ && daemon_->ended()) {  // after SIGTERM
    checks_.timeline.Died(daemon_->name, world_.now());
    world_.Forget(daemon_.get());
    daemon_.reset();
    daemon_at_ = world_.now() + (quiet_ ? 0 : world_.Below(kSecond));
  }
  if (!daemon_ && world_.now() >= daemon_at_) {
    daemon_ = std::make_unique<Daemon>(&world_, scenario_, socket_, ++daemons_);
    checks_.coverage.daemon_restarts += daemons_ > 1;
    if (!daemon_->wrong.empty()) checks_.Violated(daemon_->wrong);
  }
  for (uint32_t r = 0; r < places_.size(); ++r)
    if (!places_[r].rank && world_.now() >= places_[r].start_at) StartRank(r);
}

void Machine::StartRank(uint32_t r) {
  Place& place = places_[r];
  for (Rank* other : Living()) next_sequence_ = std::max(next_sequence_, other->called());
  ++place.incarnations;
  checks_.coverage.respawns += place.incarnations > 1;
  place.rank = std::make_unique<Rank>(&world_, scenario_, &checks_, socket_, r, place.incarnations,
                                      next_sequence_);
  place.rank->limit = [this] { return Limit(); };
  place.rank->quiet = quiet_;
}

std::vector<Rank*> Machine::Living() const {
  std::vector<Rank*> all;
  for (const Place& p : places_)
    if (p.rank) all.push_back(p.rank.get());
  return all;
}

// Dispatch needs all ranks: nobody is far ahead of a rank that lives.
uint64_t Machine::Limit() const {
  uint64_t least = kForever;
  for (const Place& p : places_)
    if (p.rank) least = std::min(least, p.rank->called());
  return least + (quiet_ ? scenario_.config.window : scenario_.skew);
}

void Machine::Passed(Thread* thread, const char* point) {
  const bool daemons = daemon_ && thread->process == daemon_.get();
  if (!std::strcmp(point, "gate:moved")) checks_.GateMoved(Living(), daemons ? daemon_->name : "");
  if (!quiet_ && armed_point_ == point) {
    armed_point_.clear();
    met_ = thread;
  }
  if (daemons && slow_solve_ns_ && !std::strcmp(point, "collected:set")) {
    StopFor(daemon_.get(), Daemon::kPlanner, slow_solve_ns_);
    slow_solve_ns_ = 0;
  }
}

void Machine::Suspended(Thread* thread) {
  for (const Place& p : places_)
    if (p.rank && thread == p.rank->threads[Rank::kLink].get()) checks_.Holds(*p.rank);
}

}  // namespace ultraep::simulation
