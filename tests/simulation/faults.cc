// What goes wrong, drawn from the seed.
#include <iterator>

#include "tests/simulation/machine.h"

namespace ultraep::simulation {

// Around the bounds that matter: a solve deadline, a lease, a step timeout, or hardly anything.
uint64_t Machine::SomeTime() {
  const uint64_t bounds[] = {kMillisecond, scenario_.settings.solve_deadline_ns, scenario_.lease_ns,
                             scenario_.config.step_timeout_ns, 300 * kMillisecond};
  const uint64_t bound = bounds[world_.Below(5)];
  return bound / 2 + world_.Below(2 * bound) + world_.Below(2) * 300 * kMillisecond;
}

void Machine::StopFor(Process* process, int thread, uint64_t ns) {
  const uint64_t now = world_.now();
  if (thread < 0) {
    world_.Stop(process, now + ns);
    checks_.timeline.Stopped(process->name, now, now + ns);
  } else {
    Thread* one = process->threads[size_t(thread)].get();
    world_.Stop(one, now + ns);
    checks_.timeline.Stopped(one->name, now, now + ns);
  }
}

void Machine::KillRank(Place* place) {
  next_sequence_ = std::max(next_sequence_, place->rank->called());
  checks_.timeline.Died(place->rank->name, world_.now());
  world_.Kill(place->rank.get());
  place->rank.reset();
  place->start_at = world_.now() + world_.Below(800 * kMillisecond);
}

void Machine::KillDaemon() {
  checks_.timeline.Died(daemon_->name, world_.now());
  world_.Kill(daemon_.get());
  daemon_.reset();
  daemon_at_ = world_.now() + world_.Below(kSecond);
}

void Machine::FaultOfRank(Place* place) {
  if (!place->rank) return;
  switch (world_.Below(5)) {
    case 0:
    case 1:
      return KillRank(place);
    case 2:
    case 3:
      return StopFor(place->rank.get(), -1, SomeTime());
    case 4:
      return StopFor(place->rank.get(), int(world_.Below(2)), SomeTime());
  }
}

void Machine::FaultOfDaemon() {
  if (!daemon_) return;
  switch (world_.Below(7)) {
    case 0:
    case 1:
      return KillDaemon();
    case 2:
      return daemon_->Stop();
    case 3:
      return StopFor(daemon_.get(), -1, SomeTime());
    case 4:
      return StopFor(daemon_.get(), int(world_.Below(2)), SomeTime());
    default:
      slow_solve_ns_ = scenario_.settings.solve_deadline_ns * (1 + world_.Below(3));
  }
}

void Machine::FaultAt(Thread* thread) {
  if (daemon_ && thread->process == daemon_.get()) return FaultOfDaemon();
  for (Place& p : places_)
    if (p.rank && thread->process == p.rank.get()) return FaultOfRank(&p);
}

void Machine::ArmPoint() {
  static constexpr const char* kPoints[] = {
      "row:before",     "row:header",    "row:data",      "row:stamp",       "collected:before",
      "collected:set",  "record:before", "record:header", "record:replicas", "record:whole",
      "verdict:before", "verdict:set",   "gate:before",   "gate:moved",      "member:before",
      "member:set",     "pulse:before",  "pulse:raised",  "sleep:before",    "sleep:flag"};
  armed_point_ = kPoints[world_.Below(std::size(kPoints))];
}

void Machine::Fault() {
  if (world_.Below(16) == 0) {  // the machine itself stood still
    const uint64_t now = world_.now();
    world_.Jump(SomeTime());
    world_.Note(nullptr, "JUMP", world_.now() - now);
    return checks_.timeline.Stopped("", now, world_.now());
  }
  if (world_.Below(2)) return ArmPoint();
  if (world_.Below(3))
    FaultOfRank(&places_[world_.Below(places_.size())]);
  else
    FaultOfDaemon();
}

}  // namespace ultraep::simulation
