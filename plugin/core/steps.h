// The rank's side of gate, promise, window and verdict words (design rules 0 to 5). Knows nothing
// of sockets; works on whatever memory the generation's boards point to.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "plugin/core/generation.h"
#include "plugin/core/memory_switch.h"
#include "plugin/core/result.h"
#include "protocol/plan_record.h"

namespace ultraep {

// How a step ended for all ranks.
struct ResolvedStep {
  ultraep_verdict verdict = ULTRAEP_DECLINED;
  uint64_t sequence = 0;
  uint32_t layer = 0;
  uint32_t microbatch = 0;
  std::vector<uint32_t> row;  // own load
  RecordedPlan plan;          // empty unless verdict is ULTRAEP_PLAN
};

// One thread submits and awaits; another one may adopt generations meanwhile.
class Steps {
 public:
  Steps(const GroupConfig& config, uint64_t next_sequence);

  // The link's thread: the memory is mapped, steps from now on pass through its gate. Afterwards,
  // and not before, the rank may say Ready. No step is open on an earlier generation.
  void Adopt(std::shared_ptr<Generation> generation);
  std::shared_ptr<Generation> generation() const;
  const std::shared_ptr<MemorySwitch>& memory() const { return memory_; }
  uint64_t next_sequence() const;
  // Promised and not yet resolved (rule 1): until then the rank may not join another generation.
  bool has_promises() const;

  Result Submit(uint64_t sequence, uint32_t layer, uint32_t microbatch, const uint32_t* row,
                uint32_t experts);
  Result Await(uint64_t sequence, uint64_t timeout_ns, ResolvedStep* resolved);
  // One look, without waiting: would Await of the oldest open step return with a verdict now?
  bool Poll();
  // Ends the generation, then resolves every open step.
  void ResolveAll();
  bool has_open_steps() const;

 private:
  struct OpenStep {
    uint64_t sequence = 0;
    uint32_t layer = 0;
    uint32_t microbatch = 0;
    uint64_t submitted_ns = 0;
    uint64_t collected_ns = 0;               // when this rank first saw it
    std::shared_ptr<Generation> generation;  // null: declined
    std::vector<uint32_t> row;
  };

  std::shared_ptr<Generation> Admit(uint64_t sequence);
  bool TellFailure(const std::shared_ptr<Generation>& generation);
  void WriteRow(const Generation& generation, const OpenStep& step, uint64_t tokens);
  bool Look(OpenStep* step, VerdictWord* word);
  uint64_t NextClock(const OpenStep& step) const;
  Result TakePlan(OpenStep* step, ResolvedStep* resolved);
  void Count(const OpenStep& step, const Result& result, ultraep_verdict verdict);

  const GroupConfig config_;
  const std::shared_ptr<MemorySwitch> memory_ = std::make_shared<MemorySwitch>();
  mutable std::mutex mutex_;  // guards generation_, next_, resolved_, promises_
  std::shared_ptr<Generation> generation_;
  uint64_t next_;      // sequence of the next Submit
  uint64_t resolved_;  // sequence of the next Await
  uint32_t promises_ = 0;
  uint64_t declined_ = 0;       // steps that no board has been told of; the submitting thread's own
  std::vector<OpenStep> open_;  // [window], the submitting thread's own
  PlanChecker checker_;
};

}  // namespace ultraep
