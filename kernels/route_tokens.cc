#include "kernels/route_tokens.h"

#include "kernels/count_load.h"

namespace ultraep {
namespace {

// Where one replicated expert stands while a batch is walked in order. Each place is the permuted
// number of the next token; adding the stride is the same as Permuted() of the next number, without
// its division.
struct Cursor {
  uint64_t own_place = 0;
  uint64_t travel_place = 0;
};

uint64_t Advance(uint64_t place, uint64_t stride, uint64_t n) {
  // stride <= n, and 1 for n == 0, where the place is never used.
  const uint64_t next = place + stride;
  return next >= n ? next - n : next;
}

// Scratch of the calling thread: plan handles are shared between threads.
struct Scratch {
  std::vector<uint64_t> counts;
  std::vector<Cursor> cursors;
};

Scratch& ThreadScratch() {
  static thread_local Scratch scratch;
  return scratch;
}

}  // namespace

void TokenRouter::Reset(const RecordedPlan& plan, uint32_t source, const uint32_t* row) {
  shape_ = plan.shape;
  numbering_ = {shape_.experts_per_rank(), shape_.slots};
  row_.assign(row, row + shape_.experts);
  split_of_.assign(shape_.experts, kMainOnly);
  splits_.clear();
  instances_.clear();
  if (plan.replicas.empty()) return;
  splits_.resize(plan.column_experts.size());
  for (uint32_t c = 0; c < splits_.size(); ++c) split_of_[plan.column_experts[c]] = c;
  PlaceInstances(plan);
  for (uint32_t c = 0; c < splits_.size(); ++c) CutColumn(plan.column(c), source, &splits_[c]);
}

void TokenRouter::PlaceInstances(const RecordedPlan& plan) {
  for (ExpertSplit& split : splits_) split.instances = 1;  // the main copy
  for (const Replica& r : plan.replicas) ++splits_[split_of_[r.expert]].instances;
  instances_.resize(splits_.size() + plan.replicas.size());
  uint32_t next = 0;
  for (uint32_t c = 0; c < splits_.size(); ++c) {
    const uint32_t expert = plan.column_experts[c];
    splits_[c].first_instance = next;
    instances_[next] = {shape_.home(expert), numbering_.main(expert)};
    next += splits_[c].instances;
    splits_[c].instances = 1;
  }
  for (const Replica& r : plan.replicas) {
    ExpertSplit& split = splits_[split_of_[r.expert]];
    instances_[split.first_instance + split.instances++] = {
        r.rank, numbering_.replica(r.rank, r.slot), r.tokens};
  }
}

void TokenRouter::CutColumn(const uint32_t* column, uint32_t source, ExpertSplit* split) {
  uint64_t left = 0;  // what the replicas leave to the main copy
  uint64_t before = 0;
  for (uint32_t r = 0; r < shape_.ranks; ++r) {
    left += column[r];
    if (r < source) before += column[r];
  }
  SplitInstance* instances = &instances_[split->first_instance];
  for (uint32_t j = 1; j < split->instances; ++j) left -= instances[j].quota;
  instances[0].quota = left;
  const uint64_t pool = BuildSplit(column, instances, split->instances);
  split->source = SplitForSource(column, source, before, instances, split->instances, pool);
}

std::string TokenRouter::Route(const int32_t* ids, uint64_t tokens, uint32_t top_k,
                               int32_t* physical) const {
  uint64_t n;
  if (__builtin_mul_overflow(tokens, uint64_t{top_k}, &n))
    return "tokens x top_k is " + std::to_string(tokens) + " x " + std::to_string(top_k) +
           ", must be below 2^64";
  if (IdFault fault = CheckIds(ids, n, shape_.experts)) return fault.text(shape_.experts);
  Scratch& scratch = ThreadScratch();
  scratch.counts.assign(shape_.experts, 0);
  for (uint64_t i = 0; i < n; ++i) {
    if (ids[i] >= 0) ++scratch.counts[ids[i]];
  }
  for (uint32_t e = 0; e < shape_.experts; ++e) {
    if (scratch.counts[e] != row_[e])
      return "ids name expert " + std::to_string(e) + " " + std::to_string(scratch.counts[e]) +
             " times, the submitted row says " + std::to_string(row_[e]);
  }

  scratch.cursors.clear();
  for (const ExpertSplit& split : splits_) {
    const SourceSplit& s = split.source;
    // first == pool when all travelling tokens belong to earlier sources: never used then.
    scratch.cursors.push_back({0, s.first < s.pool ? Permuted(s.first, s.stride, s.pool) : 0});
  }
  for (uint64_t i = 0; i < n; ++i) {
    const int32_t id = ids[i];
    if (id < 0) {
      physical[i] = -1;
      continue;
    }
    const uint32_t at = split_of_[id];
    if (at == kMainOnly) {
      physical[i] = numbering_.main(id);
      continue;
    }
    const SourceSplit& s = splits_[at].source;
    const SplitInstance* instances = &instances_[splits_[at].first_instance];
    Cursor& cursor = scratch.cursors[at];
    uint32_t j = s.local_index;
    if (cursor.own_place >= s.local) {
      j = 0;
      while (instances[j].end <= cursor.travel_place) ++j;
      cursor.travel_place = Advance(cursor.travel_place, s.stride, s.pool);
    }
    cursor.own_place = Advance(cursor.own_place, s.own_stride, s.own);
    physical[i] = instances[j].physical;
  }
  return "";
}

}  // namespace ultraep
