#include "tests/simulation/checks.h"

#include <algorithm>

namespace ultraep::simulation {
namespace {

std::string Hex(uint64_t id) {
  char text[20];
  std::snprintf(text, sizeof text, "%04x", unsigned(id >> 48));
  return text;
}

std::string Text(const Rank& rank, uint64_t sequence) {
  return rank.name + " step " + std::to_string(sequence) + ": ";
}

}  // namespace

Checks::Checks(World* world, const Scenario& scenario)
    : timeline(scenario.lease_ns),
      world_(world),
      scenario_(scenario),
      members_(scenario.config.ranks) {}

void Checks::Violated(const std::string& what) {
  if (violation_.empty()) violation_ = what;
  world_->Note(nullptr, "VIOLATED");
}

Checks::Call& Checks::At(uint64_t sequence, uint32_t rank) {
  while (calls_.size() <= sequence) calls_.emplace_back(scenario_.config.ranks);
  return calls_[sequence][rank];
}

void Checks::BeforeSubmit(const Rank& rank, uint64_t sequence) {
  Call& call = At(sequence, rank.rank);
  call.state = State::kCalled;
  call.incarnation = rank.number;
  for (const auto& g : rank.held())
    if (g->gate().admits(sequence)) call.open_before = g->id;
  world_->Note(rank.threads[Rank::kMain].get(), "submit", sequence);
}

void Checks::SubmitRefused(const Rank& rank, uint64_t sequence, const Result& result) {
  world_->Note(rank.threads[Rank::kMain].get(), "submit FAILED", sequence);
  if (result.status != ULTRAEP_FAILED) return Violated(Text(rank, sequence) + result.text);
  ++coverage.failed;
  bool caused = false;
  for (const auto& g : rank.held()) caused |= not_followed_.count(g->id) && g->failed();
  if (!caused) Violated(Text(rank, sequence) + "Submit says FAILED, and every plan was followed");
}

void Checks::Submitted(const Rank& rank, uint64_t sequence, uint64_t admitted) {
  Call& call = At(sequence, rank.rank);
  call.state = State::kOpen;
  call.memory = rank.current();
  call.admitted = admitted;
  call.submitted_ns = world_->now();
  world_->Note(rank.threads[Rank::kMain].get(), admitted ? "submitted" : "declined", sequence);
  if (admitted && admitted != call.memory)
    Violated(Text(rank, sequence) + "submitted to generation " + Hex(admitted) +
             ", its operations use " + Hex(call.memory));
  // Rule 8. A new process holds no old memory, and has no operation to issue in it.
  for (const Call& other : calls_[sequence])
    if (other.memory && call.memory && other.memory != call.memory)
      Violated(Text(rank, sequence) + "its operations use generation " + Hex(call.memory) +
               ", another rank's " + Hex(other.memory));
  // Rule 0: what the gate was open for, and still is, may not be declined.
  if (!admitted && call.open_before)
    for (const auto& g : rank.held())
      if (g->id == call.open_before && g->gate().admits(sequence))
        Violated(Text(rank, sequence) + "declined, and generation " + Hex(g->id) + " plans it");
}

void Checks::BeforeAwait(const Rank& rank, uint64_t sequence) {
  Call& call = At(sequence, rank.rank);
  call.awaited_ns = world_->now();
  for (const auto& g : rank.held()) call.failed_before |= g->id == call.admitted && g->failed();
}

void Checks::Resolved(const Rank& rank, uint64_t sequence, const Result& result,
                      const ResolvedStep& step) {
  Call& call = At(sequence, rank.rank);
  const Thread* main = rank.threads[Rank::kMain].get();
  if (result.status == ULTRAEP_FAILED) {
    world_->Note(main, "await FAILED", sequence);
    call.state = State::kFailed;
    ++coverage.failed;
    if (!not_followed_.count(call.admitted))
      Violated(Text(rank, sequence) + "FAILED, and every plan was followed: " + result.text);
  } else if (!result.ok()) {
    return Violated(Text(rank, sequence) + result.text);
  } else if (step.verdict == ULTRAEP_PLAN) {
    world_->Note(main, "PLAN", sequence);
    call.state = State::kPlan;
    ++coverage.plans;
    CheckPlan(rank, sequence, step.plan);
    if (call.failed_before)  // rule 3
      Violated(Text(rank, sequence) + "PLAN, though its generation had failed before");
  } else {
    world_->Note(main, step.verdict == ULTRAEP_FALLBACK ? "FALLBACK" : "DECLINED", sequence);
    call.state = State::kMain;
    ++(call.admitted ? coverage.fallbacks : coverage.declined);
    if ((step.verdict == ULTRAEP_DECLINED) != (call.admitted == 0))
      Violated(Text(rank, sequence) + "declined and submitted are mixed up");
    for (const auto& g : rank.held())
      coverage.deadlines += g->id == call.admitted && !g->gate().over();
  }
  CheckAgreement(rank, sequence);
  CheckTime(rank, call, sequence);
  CheckTogether(sequence);
}

// The one unforgivable failure: one rank follows a plan, another one computes with its main copies.
void Checks::CheckAgreement(const Rank& rank, uint64_t sequence) {
  bool main = false, plan = false, failed = false;
  for (const Call& c : calls_[sequence]) {
    main |= c.state == State::kMain;
    plan |= c.state == State::kPlan;
    failed |= c.state == State::kFailed;
  }
  if (main && plan) Violated(Text(rank, sequence) + "PLAN on one rank, main copies on another");
  if (main && failed) Violated(Text(rank, sequence) + "FAILED on one rank, main copies on another");
}

const Plan& Checks::Solved(uint64_t sequence) {
  auto [at, fresh] = solved_.try_emplace(sequence);
  if (!fresh) return at->second;
  const GroupConfig& c = scenario_.config;
  std::vector<uint32_t> load;
  for (uint32_t r = 0; r < c.ranks; ++r) {
    const std::vector<uint32_t> row = Row(scenario_, r, sequence);
    load.insert(load.end(), row.begin(), row.end());
  }
  PlanOptions options;
  options.relay_hop = LinkModel().RelayHop(c.expert_bytes(), kChunkBytes);
  SolvePlan(c.shape(), {load.data(), c.ranks, c.experts}, options, &workspace_, &at->second);
  return at->second;
}

void Checks::CheckPlan(const Rank& rank, uint64_t sequence, const RecordedPlan& plan) {
  const Call& call = calls_[sequence][rank.rank];
  const Plan& expected = Solved(sequence);
  planned_on_.insert(plan.header.generation);
  coverage.planned_on = planned_on_.size();
  if (plan.header.generation != call.admitted || plan.header.generation != call.memory)
    Violated(Text(rank, sequence) + "the plan is generation " + Hex(plan.header.generation) +
             "'s, the rank uses " + Hex(call.memory));
  if (plan.replicas != expected.replicas || !(plan.header.certificate == expected.certificate))
    Violated(Text(rank, sequence) + "the plan is not the one of the submitted rows");
}

void Checks::CheckTime(const Rank& rank, const Call& call, uint64_t sequence) {
  const uint64_t now = world_->now();
  if (!call.admitted) return;
  const uint64_t due =
      std::max(call.awaited_ns, call.submitted_ns + scenario_.config.step_timeout_ns) +
      Timeline::kSlackNs;
  if (now > due && !timeline.Disturbed(rank.name, call.awaited_ns, now))
    Violated(Text(rank, sequence) + "waited beyond the step timeout, from " +
             std::to_string(call.awaited_ns));
  const std::string late =
      timeline.Late(rank.name, call.awaited_ns, now, generations_[call.admitted].life);
  if (!late.empty())
    Violated(Text(rank, sequence) + "waited from " + std::to_string(call.awaited_ns) + ", but " +
             late);
}

void Checks::CheckTogether(uint64_t sequence) {
  bool all = true;
  for (const Call& c : calls_[sequence])
    all &= c.state == State::kPlan && c.submitted_ns >= quiet_since_;
  planned_together_ |= all;
}

void Checks::CannotFollow(const Rank& rank, uint64_t generation) {
  world_->Note(rank.threads[Rank::kMain].get(), "cannot follow");
  not_followed_.insert(generation);
}

// Rule 1: what was promised on the old board is kept before the rank belongs to another one.
void Checks::Holds(const Rank& rank) {
  for (const auto& g : rank.held()) {
    if (!members_[rank.rank].emplace(g->id, rank.number).second) continue;
    world_->Note(rank.threads[Rank::kLink].get(), "adopted", g->id >> 48);
    coverage.dead += g->gate().state == GateState::kDead;
    for (uint64_t s = 0; s < calls_.size(); ++s) {
      const Call& c = calls_[s][rank.rank];
      if (c.incarnation == rank.number && c.state == State::kOpen && c.admitted &&
          c.admitted != g->id)
        Violated(Text(rank, s) + "still open on generation " + Hex(c.admitted) +
                 " when the rank joined " + Hex(g->id));
    }
  }
}

bool Checks::NextMayBe(const Gate& before, const Gate& after) {
  if (before.state == GateState::kClosed)
    return after.state == GateState::kDead || after.value >= before.value;
  if (before.value != after.value) return false;
  if (before.state == after.state) return true;
  if (before.state == GateState::kOpen)
    return after.state == GateState::kEnded || after.state == GateState::kFailed;
  return before.state == GateState::kEnded && after.state == GateState::kFailed;
}

void Checks::GateMoved(const std::vector<Rank*>& ranks, const std::string& daemon) {
  for (const Rank* rank : ranks)
    for (const auto& g : rank->held()) {
      const Gate gate = g->gate();
      Seen& seen = generations_[g->id];
      if (gate.Encode() == seen.gate.Encode()) continue;
      if (!NextMayBe(seen.gate, gate))
        Violated("generation " + Hex(g->id) + ": its gate went from state " +
                 std::to_string(int(seen.gate.state)) + " to " + std::to_string(int(gate.state)));
      seen.gate = gate;
      coverage.dead += gate.state == GateState::kDead;
      for (uint32_t r = 0; r < scenario_.config.ranks; ++r)
        coverage.fenced += g->boards.member(r).value.load() == uint64_t(MemberState::kFenced);
      if (gate.state == GateState::kOpen && !seen.opened) Opened(g->id, &seen, gate, daemon);
    }
}

// Rule 0: all members belong to it, and none has passed s0 on its own. A member may be dead by
// then: its rows never come, and whoever runs in its place is no member.
void Checks::Opened(uint64_t id, Seen* seen, const Gate& gate, const std::string& daemon) {
  seen->opened = true;
  seen->life.daemon = daemon;
  seen->life.opened = world_->now();
  ++coverage.opened;
  world_->Note(nullptr, "generation opens from step", gate.value);
  for (uint32_t r = 0; r < members_.size(); ++r) {
    const auto member = members_[r].find(id);
    if (member == members_[r].end())
      return Violated("generation " + Hex(id) + " opens without rank " + std::to_string(r));
    seen->life.members.push_back("r" + std::to_string(r) + "#" + std::to_string(member->second));
    for (uint64_t s = gate.value; s < calls_.size(); ++s) {
      const Call& c = calls_[s][r];
      if (c.incarnation == member->second && c.state >= State::kOpen)
        Violated("generation " + Hex(id) + " opens at " + std::to_string(gate.value) + ", rank " +
                 std::to_string(r) + " has declined step " + std::to_string(s));
    }
  }
}

}  // namespace ultraep::simulation
