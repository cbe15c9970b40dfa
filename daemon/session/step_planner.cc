#include "daemon/session/step_planner.h"

#include <cstring>
#include <utility>

#include "daemon/log.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// What the plan is a function of (rule 11): rows, shape, options.
uint64_t ProblemDigest(const PlanShape& shape, const PlanOptions& options, LoadView load) {
  Digest digest;
  digest.Add(uint64_t{shape.ranks} << 32 | shape.experts);
  digest.Add(uint64_t{shape.slots} << 32 | shape.domain_size);
  digest.Add(uint64_t{options.epsilon_ppm} << 32 | options.variants);
  digest.Add(uint64_t{options.work_limit} << 32 | options.tile_tokens);
  digest.Add(options.relay_hop);
  for (const uint64_t cost : {options.cost.token, options.cost.expert, options.cost.instance})
    digest.Add(cost);
  for (const uint32_t speed : options.speeds) digest.Add(speed);
  for (const uint8_t without : options.without_slots) digest.Add(without);
  digest.AddBytes(load.tokens, uint64_t{load.ranks} * load.experts * 4);
  return digest.value();
}

}  // namespace

StepPlanner::StepPlanner(const Boards& boards, uint64_t generation, const PlanOptions& options,
                         std::shared_ptr<StepStatistics> statistics)
    : boards_(boards),
      generation_(generation),
      options_(options),
      statistics_(std::move(statistics)) {
  const GroupConfig& c = boards_.layout->config;
  have_row_.resize(c.ranks);
  headers_.resize(c.ranks);
  row_stride_ = uint32_t(RoundUp(c.experts, 2));
  rows_.resize(uint64_t{c.ranks} * row_stride_);
  load_.resize(uint64_t{c.ranks} * c.experts);
  record_.shape = outcome_.shape = c.shape();
}

StepPlanner::Progress StepPlanner::Poll() {
  Account();
  const Gate gate = LoadGate(boards_.gate());
  if (gate.state == GateState::kClosed) return Progress::kNone;
  // Once the generation is over the ranks resolve their open steps among themselves.
  if (gate.over()) return Progress::kOver;
  if (!started_) {
    started_ = true;
    next_ = gate.value;
  }
  const uint64_t sequence = next_;
  const uint64_t word = boards_.word(sequence).value.load(std::memory_order_acquire);
  const uint64_t decided = VerdictWord::Decode(word).next;
  if (decided > sequence + 1) {  // no rank can be a ring ahead of us: somebody scribbles
    LogError("step %d: its verdict word says step %d; the generation is ended", sequence,
             decided - 1);
    EndGate(boards_.gate());
    return Progress::kOver;
  }
  if (decided == sequence + 1) {  // a rank's deadline was faster
    outcome_.verdict = StepOf(sequence, EventKind::kFallback, Reason::kDeadline);
    return Advance();
  }
  if (!CollectRows(sequence)) return Progress::kNone;
  ULTRAEP_POINT("collected:before");
  boards_.collected(sequence).value.store(sequence + 1, std::memory_order_release);
  ULTRAEP_POINT("collected:set");
  Decide(sequence);
  return Advance();
}

StepPlanner::Progress StepPlanner::Advance() {
  next_.fetch_add(1, std::memory_order_relaxed);
  copied_ = 0;
  have_row_.assign(have_row_.size(), false);
  return Progress::kStep;
}

// Copies the rows that have come since the last look; true when all are there. The stamp orders:
// whoever sees it sees header and row.
bool StepPlanner::CollectRows(uint64_t sequence) {
  const GroupConfig& c = boards_.layout->config;
  for (uint32_t r = 0; r < c.ranks; ++r) {
    if (have_row_[r]) continue;
    // Sequentially consistent: pairs with the rank that stores its stamp, then reads our sleeping
    // flag.
    if (boards_.stamp(r, sequence).value.load(std::memory_order_seq_cst) != sequence + 1) continue;
    CopyFromShared(&headers_[r], boards_.row_header(r, sequence), sizeof(RowHeader));
    CopyFromShared(&rows_[uint64_t{r} * row_stride_], boards_.row(r, sequence),
                   uint64_t{row_stride_} * 4);
    have_row_[r] = true;
    if (copied_++ == 0) {
      first_ = r;
      first_ns_ = NowNs();
    }
  }
  return copied_ == c.ranks;
}

// The first reason not to plan from the private copies, or none.
std::optional<StepPlanner::Reason> StepPlanner::CheckRows(uint64_t sequence) {
  const GroupConfig& c = boards_.layout->config;
  for (uint32_t r = 0; r < c.ranks; ++r) {
    const RowHeader& h = headers_[r];
    if (h.generation != generation_ || h.sequence != sequence) return Reason::kBadRow;
    if (h.layer != headers_[0].layer || h.microbatch != headers_[0].microbatch)
      return Reason::kOrderMismatch;
    const uint32_t* row = &rows_[uint64_t{r} * row_stride_];
    const uint64_t tokens = RowTokens(row, c.experts);
    if (h.layer >= c.layers || h.tokens != tokens || tokens > kMaxRowTokens) return Reason::kBadRow;
    std::memcpy(&load_[uint64_t{r} * c.experts], row, uint64_t{c.experts} * 4);
  }
  return std::nullopt;
}

StepVerdict StepPlanner::StepOf(uint64_t sequence, EventKind kind, Reason reason) const {
  StepVerdict step;
  step.time_ns = WallNs();
  step.generation = generation_;
  step.sequence = sequence;
  step.layer = copied_ ? headers_[first_].layer : UINT32_MAX;
  step.microbatch = copied_ ? headers_[first_].microbatch : 0;
  step.kind = kind;
  step.reason = reason;
  return step;
}

void StepPlanner::FillRecord(uint64_t sequence, uint64_t solve_ns, LoadView load) {
  record_.header = PlanHeader{};
  record_.header.generation = generation_;
  record_.header.sequence = sequence;
  record_.header.layer = headers_[0].layer;
  record_.header.microbatch = headers_[0].microbatch;
  record_.header.problem = ProblemDigest(record_.shape, options_, load);
  record_.header.certificate = plan_.certificate;
  record_.header.solve_ns = solve_ns;
  record_.replicas = plan_.replicas;
  record_.Close(load);
}

void StepPlanner::Decide(uint64_t sequence) {
  const PlanShape& shape = record_.shape;
  Word& word = boards_.word(sequence);
  bool won = false;
  const uint64_t collected = NowNs();
  if (const std::optional<Reason> wrong = CheckRows(sequence)) {
    Propose(word, sequence, Verdict::kFallback, &won);
    outcome_.verdict = StepOf(sequence, EventKind::kFallback, *wrong);
    return;
  }
  const LoadView load{load_.data(), shape.ranks, shape.experts};
  const uint64_t start = NowNs();
  SolvePlan(shape, load, options_, &workspace_, &plan_);
  const uint64_t solve_ns = NowNs() - start;

  PlanFault fault =
      checker_.Check(shape, plan_.replicas, [&](uint32_t e) { return ExpertTokens(load, e); });
  if (fault) {  // our defect; the group goes on with main copies
    LogError("step %d: the planner made an illegal plan: %s", sequence, fault.text());
    plan_.replicas.clear();
    plan_.certificate.peak = plan_.certificate.peak_before;
  }
  FillRecord(sequence, solve_ns, load);
  WriteRecord(boards_.layout->record, boards_.record(sequence), record_);
  Propose(word, sequence, Verdict::kPlan, &won);
  const uint64_t decided = NowNs();
  // A rank's deadline may have been faster: then nobody follows this plan.
  outcome_.verdict = won ? StepOf(sequence, EventKind::kPlan, Reason::kNone)
                         : StepOf(sequence, EventKind::kFallback, Reason::kDeadline);
  outcome_.load = load;
  outcome_.collect_ns = collected - first_ns_;
  outcome_.plan_ns = decided - collected;
  if (!won) return;
  outcome_.verdict.replicas = uint32_t(plan_.replicas.size());
  outcome_.verdict.certificate = plan_.certificate;
  outcome_.verdict.solve_ns = solve_ns;
  outcome_.replicas = &plan_.replicas;
}

void StepPlanner::Account() {
  if (!outcome_.verdict.time_ns) return;
  statistics_->Count(outcome_);
  outcome_ = {};
  outcome_.shape = record_.shape;
}

}  // namespace ultraep
