#include "tests/simulation/rank.h"

#include "tests/simulation/checks.h"

namespace ultraep::simulation {

Rank::Rank(World* world, const Scenario& scenario, Checks* checks, const std::string& socket,
           uint32_t own_rank, uint32_t incarnation, uint64_t next_sequence)
    : Process("r" + std::to_string(own_rank) + "#" + std::to_string(incarnation)),
      rank(own_rank),
      number(incarnation),
      world_(world),
      scenario_(scenario),
      checks_(checks),
      steps_(scenario.config, next_sequence),
      link_(socket),
      called_(next_sequence),
      awaited_(next_sequence) {
  Join request;
  request.config = scenario.config;
  request.rank = rank;
  link_.Prepare(request, scenario.settings, &steps_);
  world->Start(this, "main", [this] { Main(); });
  world->Start(this, "link", [this] { link_.Run(); });
}

void Rank::Main() {
  for (;;) {
    Think();
    const bool full = called_ - awaited_ == scenario_.config.window;
    const bool may_submit = !full && called_ < limit();
    if (may_submit && (called_ == awaited_ || world_->Below(2)))
      Submit();
    else if (called_ != awaited_)
      Await();
  }
}

void Rank::Think() {
  const uint64_t most = quiet ? kMillisecond : scenario_.think_ns;
  const uint64_t until = world_->Now() + (world_->Below(4) ? world_->Below(most) : kMicrosecond);
  while (world_->Now() < until) world_->SleepUntil(until);
}

// The generation on whose board the row stands, 0 when the step was declined.
uint64_t Rank::AdmittedTo(uint64_t sequence) const {
  for (const auto& g : held())
    if (g->boards.stamp(rank, sequence).value.load() == sequence + 1) return g->id;
  return 0;
}

void Rank::Submit() {
  const uint64_t sequence = called_++;
  const std::vector<uint32_t> row = Row(scenario_, rank, sequence);
  checks_->BeforeSubmit(*this, sequence);
  for (;;) {
    const Result result = steps_.Submit(sequence, uint32_t(sequence % 2), uint32_t(sequence / 2),
                                        row.data(), scenario_.config.experts);
    if (result.ok()) break;
    checks_->SubmitRefused(*this, sequence, result);
  }
  checks_->Submitted(*this, sequence, AdmittedTo(sequence));
}

void Rank::Await() {
  const uint64_t sequence = awaited_;
  ResolvedStep step;
  checks_->BeforeAwait(*this, sequence);
  // As ultraep_await_verdict does without a timeout of the caller's.
  const Result result =
      steps_.Await(sequence, scenario_.config.step_timeout_ns + 10 * kHeartbeatNs, &step);
  ++awaited_;
  checks_->Resolved(*this, sequence, result, step);
  if (quiet || step.verdict != ULTRAEP_PLAN || !world_->Chance(scenario_.fail_in_1024)) return;
  const auto generation = steps_.memory()->current();
  checks_->CannotFollow(*this, generation->id);
  generation->Fail();
}

}  // namespace ultraep::simulation
