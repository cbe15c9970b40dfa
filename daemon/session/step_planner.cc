#include "daemon/session/step_planner.h"

#include <algorithm>
#include <cstring>

#include "daemon/log.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

constexpr size_t kSolvesRemembered = 4096;

// What the plan is a function of (rule 11): rows, shape, options.
uint64_t ProblemDigest(const PlanShape& shape, const PlanOptions& options, LoadView load) {
  Digest digest;
  digest.Add(uint64_t{shape.ranks} << 32 | shape.experts);
  digest.Add(uint64_t{shape.slots} << 32 | shape.domain_size);
  digest.Add(uint64_t{options.epsilon_ppm} << 32 | options.variants);
  digest.Add(options.work_limit);
  digest.AddBytes(load.tokens, uint64_t{load.ranks} * load.experts * 4);
  return digest.value();
}

}  // namespace

StepPlanner::StepPlanner(const Boards& boards, uint64_t generation, const PlanOptions& options)
    : boards_(boards), generation_(generation), options_(options) {
  const GroupConfig& c = boards_.layout->config;
  have_row_.resize(c.ranks);
  headers_.resize(c.ranks);
  row_stride_ = uint32_t(RoundUp(c.experts, 2));
  rows_.resize(uint64_t{c.ranks} * row_stride_);
  load_.resize(uint64_t{c.ranks} * c.experts);
  record_.shape = c.shape();
}

StepPlanner::Progress StepPlanner::Poll() {
  const Gate gate = LoadGate(boards_.gate());
  if (gate.state == GateState::kClosed) return Progress::kNone;
  // Once the generation is over the ranks resolve their open steps among themselves.
  if (gate.over()) return Progress::kOver;
  if (!started_) {
    started_ = true;
    next_ = gate.value;
  }
  const uint64_t word = boards_.word(next_).value.load(std::memory_order_acquire);
  const uint64_t decided = VerdictWord::Decode(word).next;
  if (decided > next_ + 1) {  // no rank can be a ring ahead of us: somebody scribbles
    LogError("step %d: its verdict word says step %d; the generation is ended", next_, decided - 1);
    EndGate(boards_.gate());
    return Progress::kOver;
  }
  if (decided == next_ + 1) {  // a rank's deadline was faster
    CountFallback();
    return Advance();
  }
  if (!CollectRows()) return Progress::kNone;
  boards_.collected(next_).value.store(next_ + 1, std::memory_order_release);
  Decide();
  return Advance();
}

StepPlanner::Progress StepPlanner::Advance() {
  ++next_;
  copied_ = 0;
  have_row_.assign(have_row_.size(), false);
  return Progress::kStep;
}

void StepPlanner::CountFallback() {
  std::lock_guard lock(mutex_);
  ++counters_.steps_fallback;
}

// Copies the rows that have come since the last look; true when all are there. The stamp orders:
// whoever sees it sees header and row.
bool StepPlanner::CollectRows() {
  const GroupConfig& c = boards_.layout->config;
  for (uint32_t r = 0; r < c.ranks; ++r) {
    if (have_row_[r]) continue;
    // Sequentially consistent: pairs with the rank that stores its stamp, then reads our sleeping
    // flag.
    if (boards_.stamp(r, next_).value.load(std::memory_order_seq_cst) != next_ + 1) continue;
    CopyFromShared(&headers_[r], boards_.row_header(r, next_), sizeof(RowHeader));
    CopyFromShared(&rows_[uint64_t{r} * row_stride_], boards_.row(r, next_),
                   uint64_t{row_stride_} * 4);
    have_row_[r] = true;
    ++copied_;
  }
  return copied_ == c.ranks;
}

// The first reason not to plan from the private copies, or null.
const char* StepPlanner::CheckRows() {
  const GroupConfig& c = boards_.layout->config;
  for (uint32_t r = 0; r < c.ranks; ++r) {
    const RowHeader& h = headers_[r];
    if (h.generation != generation_ || h.sequence != next_) return "bad row";
    if (h.layer != headers_[0].layer || h.microbatch != headers_[0].microbatch)
      return "order mismatch";
    const uint32_t* row = &rows_[uint64_t{r} * row_stride_];
    const uint64_t tokens = RowTokens(row, c.experts);
    if (h.layer >= c.layers || h.tokens != tokens || tokens > kMaxRowTokens) return "bad row";
    std::memcpy(&load_[uint64_t{r} * c.experts], row, uint64_t{c.experts} * 4);
  }
  return nullptr;
}

void StepPlanner::Decide() {
  const GroupConfig& c = boards_.layout->config;
  Word& word = boards_.word(next_);
  bool won = false;
  if (const char* wrong = CheckRows()) {
    Propose(word, next_, Verdict::kFallback, &won);
    std::lock_guard lock(mutex_);
    ++counters_.steps_fallback;
    ++(wrong[0] == 'o' ? counters_.order_mismatch : counters_.bad_rows);
    return;
  }
  const LoadView load{load_.data(), c.ranks, c.experts};
  const uint64_t start = NowNs();
  SolvePlan(c.shape(), load, options_, &workspace_, &plan_);
  const uint64_t solve_ns = NowNs() - start;

  PlanFault fault =
      checker_.Check(c.shape(), plan_.replicas, [&](uint32_t e) { return ExpertTokens(load, e); });
  if (fault) {  // our defect; the group goes on with main copies
    LogError("step %d: the planner made an illegal plan: %s", next_, fault.text());
    plan_.replicas.clear();
    plan_.certificate.peak = plan_.certificate.peak_before;
  }
  record_.header = PlanHeader{};
  record_.header.generation = generation_;
  record_.header.sequence = next_;
  record_.header.layer = headers_[0].layer;
  record_.header.microbatch = headers_[0].microbatch;
  record_.header.problem = ProblemDigest(c.shape(), options_, load);
  record_.header.certificate = plan_.certificate;
  record_.header.solve_ns = solve_ns;
  record_.replicas = plan_.replicas;
  record_.Close(load);
  WriteRecord(boards_.layout->record, boards_.record(next_), record_);
  Propose(word, next_, Verdict::kPlan, &won);
  if (won) {
    Account(plan_, solve_ns);
  } else {
    CountFallback();
  }
}

void StepPlanner::Account(const Plan& plan, uint64_t solve_ns) {
  const uint32_t ranks = boards_.layout->config.ranks;
  const Certificate& c = plan.certificate;
  std::lock_guard lock(mutex_);
  if (solve_ns_.size() < kSolvesRemembered)
    solve_ns_.push_back(solve_ns);
  else
    solve_ns_[counters_.steps_planned % kSolvesRemembered] = solve_ns;
  ++counters_.steps_planned;
  counters_.replicas += plan.replicas.size();
  counters_.peak_before_sum += c.peak_before;
  counters_.peak_sum += c.peak;
  counters_.tokens_sum += c.total;
  counters_.last_imbalance_before = Imbalance(c.peak_before, c.total, ranks);
  counters_.last_imbalance_after = Imbalance(c.peak, c.total, ranks);
}

GroupCounters StepPlanner::Counters() const {
  GroupCounters counters;
  std::vector<uint64_t> solves;
  {
    std::lock_guard lock(mutex_);
    counters = counters_;
    solves = solve_ns_;
  }
  if (!solves.empty()) {
    std::sort(solves.begin(), solves.end());
    counters.solve_p50_ns = solves[solves.size() / 2];
    counters.solve_p99_ns = solves[solves.size() * 99 / 100];
  }
  return counters;
}

}  // namespace ultraep
