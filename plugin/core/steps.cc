#include "plugin/core/steps.h"

#include <algorithm>
#include <utility>

namespace ultraep {
namespace {

std::string Step(uint64_t sequence) { return "step " + std::to_string(sequence); }

}  // namespace

Steps::Steps(const GroupConfig& config, uint64_t next_sequence)
    : config_(config), next_(next_sequence), resolved_(next_sequence), open_(config.window) {}

std::shared_ptr<Generation> Steps::generation() const {
  std::lock_guard lock(mutex_);
  return generation_;
}

uint64_t Steps::next_sequence() const {
  std::lock_guard lock(mutex_);
  return next_;
}

bool Steps::has_open_steps() const {
  std::lock_guard lock(mutex_);
  return resolved_ != next_;
}

bool Steps::has_promises() const {
  std::lock_guard lock(mutex_);
  return promises_ != 0;
}

// Rule 0. Under the lock no step is being submitted, so `next_` is the truth of this moment.
void Steps::Adopt(std::shared_ptr<Generation> generation) {
  std::lock_guard lock(mutex_);
  RaiseGate(generation->boards.gate(), next_);
  memory_->Add(generation);
  generation_ = std::move(generation);
}

// Does the step pass the gate? Null: declined, and if the gate is still closed, n says so.
std::shared_ptr<Generation> Steps::Admit(uint64_t sequence) {
  if (!generation_) return nullptr;
  const Gate gate = RaiseGate(generation_->boards.gate(), sequence + 1);
  return gate.admits(sequence) ? generation_ : nullptr;
}

// True once per generation: a failed one is reported like a failed collective, then its steps are
// declined.
bool Steps::TellFailure(const std::shared_ptr<Generation>& generation) {
  return generation && generation->failed() && !generation->failure_told.exchange(true);
}

Result Steps::Submit(uint64_t sequence, uint32_t layer, uint32_t microbatch, const uint32_t* row,
                     uint32_t experts) {
  if (experts != config_.experts)
    return Invalid("row has " + std::to_string(experts) + " experts, the group has " +
                   std::to_string(config_.experts));
  if (layer >= config_.layers)
    return Invalid("layer is " + std::to_string(layer) + ", the group has " +
                   std::to_string(config_.layers) + " layers");
  const uint64_t tokens = RowTokens(row, experts);
  if (tokens > kMaxRowTokens)
    return Invalid("the row's sum is " + std::to_string(tokens) + " tokens, the limit is " +
                   std::to_string(kMaxRowTokens));
  std::lock_guard lock(mutex_);
  if (sequence != next_)
    return Invalid("sequence is " + std::to_string(sequence) + ", the next one is " +
                   std::to_string(next_));
  if (sequence > kMaxSequence)
    return Invalid("sequence is " + std::to_string(sequence) + ", the limit is " +
                   std::to_string(kMaxSequence));
  if (next_ - resolved_ >= config_.window)
    return Invalid(Step(sequence) + " needs step " + std::to_string(resolved_) +
                   " to be resolved first: window is " + std::to_string(config_.window));
  // A PLAN for this step needs this rank's row, so a caller that gives up here misses none.
  std::shared_ptr<Generation> admitted = Admit(sequence);
  const std::shared_ptr<Generation> in_use = memory_->Load(sequence);
  if (TellFailure(generation_) || TellFailure(in_use))
    return Failed(Step(sequence) +
                  ": a rank could not follow an earlier plan, the generation has failed; nothing "
                  "was submitted, the call may be repeated");
  OpenStep& step = open_[sequence % config_.window];
  step.sequence = sequence;
  step.layer = layer;
  step.microbatch = microbatch;
  step.row.assign(row, row + experts);
  step.collected_ns = 0;
  step.submitted_ns = NowNs();
  step.generation = std::move(admitted);
  if (step.generation) {
    WriteRow(*step.generation, step, tokens);
    ++promises_;
  }
  ++next_;
  return Ok();
}

// The stamp is stored last and in the same total order as the planner's sleeping flag: of the two
// sides, one sees the other.
void Steps::WriteRow(const Generation& g, const OpenStep& step, uint64_t tokens) {
  RowHeader header;
  header.generation = g.id;
  header.sequence = step.sequence;
  header.layer = step.layer;
  header.microbatch = step.microbatch;
  header.tokens = tokens;
  const Boards& b = g.boards;
  ULTRAEP_POINT("row:before");
  CopyToShared(b.row_header(g.rank, step.sequence), &header, sizeof header);
  ULTRAEP_POINT("row:header");
  const size_t whole = step.row.size() / 2;
  unsigned char* row = b.row(g.rank, step.sequence);
  CopyToShared(row, step.row.data(), whole * 8);
  if (step.row.size() % 2) {
    const uint64_t last = step.row.back();
    CopyToShared(row + whole * 8, &last, 8);
  }
  ULTRAEP_POINT("row:data");
  b.stamp(g.rank, step.sequence).value.store(step.sequence + 1, std::memory_order_seq_cst);
  ULTRAEP_POINT("row:stamp");
  g.RingDoorbell();
}

// Looks at the step once, and proposes or ends what the clocks demand. True when its word is there.
bool Steps::Look(OpenStep* step, VerdictWord* found) {
  const Generation& g = *step->generation;
  Word& word = g.boards.word(step->sequence);
  *found = VerdictWord::Decode(word.value.load(std::memory_order_acquire));
  if (found->next > step->sequence) return true;
  const uint64_t now = NowNs();
  if (!step->collected_ns &&
      g.boards.collected(step->sequence).value.load(std::memory_order_acquire) ==
          step->sequence + 1)
    step->collected_ns = now;
  bool may_fall_back = LoadGate(g.boards.gate()).over();
  if (!may_fall_back && step->collected_ns)  // second clock: the solve
    may_fall_back = now - step->collected_ns >= g.settings.solve_deadline_ns;
  if (!may_fall_back && now - step->submitted_ns >= g.settings.step_timeout_ns) {
    g.End();  // first clock: end the generation before anything else
    may_fall_back = true;
  }
  if (!may_fall_back) return false;
  bool won = false;
  *found = Propose(word, step->sequence, Verdict::kFallback, &won);
  if (won) g.WakeMembers();
  return true;
}

// When the step's own clocks want the next look.
uint64_t Steps::NextClock(const OpenStep& step) const {
  const RankSettings& settings = step.generation->settings;
  const uint64_t rows = DeadlineAfter(step.submitted_ns, settings.step_timeout_ns);
  if (!step.collected_ns) return rows;
  return std::min(rows, DeadlineAfter(step.collected_ns, settings.solve_deadline_ns));
}

Result Steps::Await(uint64_t sequence, uint64_t timeout_ns, ResolvedStep* resolved) {
  {
    std::lock_guard lock(mutex_);
    if (sequence != resolved_ || sequence == next_)
      return Invalid(Step(sequence) +
                     " cannot be awaited: steps resolve in order, the next one is " +
                     std::to_string(resolved_) + (resolved_ == next_ ? ", not submitted yet" : ""));
  }
  OpenStep& step = open_[sequence % config_.window];
  Result result;
  resolved->verdict = ULTRAEP_DECLINED;
  resolved->plan.shape = config_.shape();
  if (step.generation) {
    const Generation& g = *step.generation;
    const uint64_t deadline = DeadlineAfter(NowNs(), timeout_ns);
    VerdictWord word;
    auto look = [&] { return Look(&step, &word); };
    for (;;) {  // the clocks may move nearer while waiting
      if (WaitFor(g.boards.pulse(), &g.boards.rank(g.rank).sleeping, g.settings.spin_ns,
                  std::min(deadline, NextClock(step)), look))
        break;
      if (NowNs() >= deadline && !look())
        return Timeout(Step(sequence) + ": no verdict within " + std::to_string(timeout_ns) +
                       " ns; rows or the daemon's answer are missing");
    }
    if (word.next > sequence + 1)
      result = Failed(Step(sequence) + ": its verdict word belongs to step " +
                      std::to_string(word.next - 1) + ", this rank has lost its lease");
    else if (word.verdict == Verdict::kFallback)
      resolved->verdict = ULTRAEP_FALLBACK;
    else if (word.verdict == Verdict::kPlan)
      result = TakePlan(&step, resolved);
    else
      result = Failed(Step(sequence) + ": its verdict word is " +
                      std::to_string(int(word.verdict)) + ", neither PLAN nor FALLBACK");
    if (!result.ok()) {
      g.Fail();
      step.generation->failure_told = true;
    }
  }
  Count(step, result, resolved->verdict);
  resolved->sequence = sequence;
  resolved->layer = step.layer;
  resolved->microbatch = step.microbatch;
  resolved->row = step.row;
  std::lock_guard lock(mutex_);
  ++resolved_;
  promises_ -= step.generation != nullptr;
  step.generation = nullptr;
  return result;
}

// The submitting thread alone moves next_ and resolved_.
bool Steps::Poll() {
  if (resolved_ == next_) return false;
  OpenStep& step = open_[resolved_ % config_.window];
  VerdictWord word;
  return !step.generation || Look(&step, &word);
}

// Rule 3: after PLAN nobody falls back; a rank that cannot follow fails the generation.
Result Steps::TakePlan(OpenStep* step, ResolvedStep* resolved) {
  const Generation& g = *step->generation;
  if (g.failed())
    return Failed(Step(step->sequence) + ": a rank could not follow a plan, " + g.FailureText());
  const RecordExpectation expect{g.id, step->sequence, g.rank, step->row.data()};
  std::string wrong = ReadRecord(g.layout.record, config_.shape(), g.boards.record(step->sequence),
                                 expect, &checker_, &resolved->plan);
  if (!wrong.empty()) return Failed(Step(step->sequence) + ": " + wrong);
  resolved->verdict = ULTRAEP_PLAN;
  return Ok();
}

// Declined steps have no board: the next one that is there says how many they were.
void Steps::Count(const OpenStep& step, const Result& result, ultraep_verdict verdict) {
  if (!step.generation) {
    ++declined_;
    return;
  }
  const Generation& g = *step.generation;
  RankStatistics& statistics = g.boards.rank(g.rank).statistics;
  CountLatencyShared(&statistics.verdict, NowNs() - step.submitted_ns);
  CountShared(!result.ok()              ? &statistics.failed
              : verdict == ULTRAEP_PLAN ? &statistics.planned
                                        : &statistics.fallback,
              1);
  CountShared(&statistics.declined, declined_);
  declined_ = 0;
}

void Steps::ResolveAll() {
  const std::shared_ptr<Generation> g = generation();
  if (g) g->End();
  while (has_open_steps()) {
    ResolvedStep step;
    Await(resolved_, config_.step_timeout_ns, &step);
    // Nobody will follow this plan here; whoever waits for this rank's part must learn it (rule 3).
    if (step.verdict == ULTRAEP_PLAN) g->Fail();
  }
}

}  // namespace ultraep
