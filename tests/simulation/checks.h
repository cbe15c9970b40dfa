// The law, checked at every step of a simulation (see protocol/README.md for gate, word and
// record). Remembers the first thing that is wrong.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "plugin/core/steps.h"
#include "tests/simulation/rank.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/timeline.h"

namespace ultraep::simulation {

// What a run has seen.
struct Coverage {
  uint64_t daemon_restarts = 0, respawns = 0, fenced = 0, failed = 0, deadlines = 0, dead = 0;
  uint64_t opened = 0, planned_on = 0;  // generations
  uint64_t plans = 0, fallbacks = 0, declined = 0;
};

class Checks {
 public:
  Checks(World* world, const Scenario& scenario);

  // By the ranks' main threads.
  void BeforeSubmit(const Rank& rank, uint64_t sequence);
  void SubmitRefused(const Rank& rank, uint64_t sequence, const Result& result);
  void Submitted(const Rank& rank, uint64_t sequence, uint64_t admitted);
  void BeforeAwait(const Rank& rank, uint64_t sequence);
  void Resolved(const Rank& rank, uint64_t sequence, const Result& result,
                const ResolvedStep& step);
  void CannotFollow(const Rank& rank, uint64_t generation);

  // By the machine, while nobody runs. `ranks`: those that live; `daemon`: its name or "".
  void GateMoved(const std::vector<Rank*>& ranks, const std::string& daemon);
  void Holds(const Rank& rank);

  // From now on a step that all ranks plan together counts for liveness.
  void Quiet() { quiet_since_ = world_->now(); }
  bool planned_together() const { return planned_together_; }

  void Violated(const std::string& what);
  const std::string& violation() const { return violation_; }

  Timeline timeline;
  Coverage coverage;

 private:
  enum class State { kNever, kCalled, kOpen, kMain, kPlan, kFailed };
  // One call of one rank.
  struct Call {
    State state = State::kNever;
    uint32_t incarnation = 0;  // of the rank
    uint64_t memory = 0;    // the generation its operations use
    uint64_t admitted = 0;  // the generation it was submitted to, 0: declined
    uint64_t submitted_ns = 0, awaited_ns = 0;
    bool failed_before = false;  // its generation, when it began to wait
    uint64_t open_before = 0;  // a generation whose gate was open for it when the call began
  };
  struct Seen {
    bool opened = false;
    Gate gate;
    Timeline::Life life;
  };

  Call& At(uint64_t sequence, uint32_t rank);
  void Opened(uint64_t id, Seen* seen, const Gate& gate, const std::string& daemon);
  void CheckAgreement(const Rank& rank, uint64_t sequence);
  void CheckPlan(const Rank& rank, uint64_t sequence, const RecordedPlan& plan);
  void CheckTime(const Rank& rank, const Call& call, uint64_t sequence);
  void CheckTogether(uint64_t sequence);
  const Plan& Solved(uint64_t sequence);
  static bool NextMayBe(const Gate& before, const Gate& after);

  World* const world_;
  const Scenario& scenario_;
  std::string violation_;
  std::vector<std::vector<Call>> calls_;         // [sequence][rank]
  std::map<uint64_t, Seen> generations_;         // those that some rank has held
  // [rank]: by generation, the process that is its member. One rank of another incarnation is none.
  std::vector<std::map<uint64_t, uint32_t>> members_;
  std::set<uint64_t> not_followed_, planned_on_;
  std::map<uint64_t, Plan> solved_;
  PlanWorkspace workspace_;
  uint64_t quiet_since_ = kForever;
  bool planned_together_ = false;
};

}  // namespace ultraep::simulation
