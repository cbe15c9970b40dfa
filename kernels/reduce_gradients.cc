#include "kernels/reduce_gradients.h"

#include <algorithm>

namespace ultraep {

ReduceList::ReduceList(const PlanShape& shape, const Replica* replicas, uint32_t count,
                       uint32_t self) {
  for (uint32_t i = 0; i < count; ++i)
    if (shape.home(replicas[i].expert) == self && replicas[i].tokens > 0)
      replicas_.push_back(replicas[i]);
  std::sort(replicas_.begin(), replicas_.end(), [](const Replica& a, const Replica& b) {
    return a.expert != b.expert ? a.expert < b.expert : a.rank < b.rank;
  });
  for (uint32_t i = 0; i < replicas_.size(); ++i) {
    const uint32_t own = replicas_[i].expert % shape.experts_per_rank();
    if (reductions_.empty() || reductions_.back().expert != own) reductions_.push_back({own, i, 0});
    ++reductions_.back().count;
  }
}

void ReduceList::Fill(ReduceOperation* operation) const {
  operation->reductions = reductions_.data();
  operation->reduction_count = uint32_t(reductions_.size());
  operation->replicas = replicas_.data();
  operation->replica_count = uint32_t(replicas_.size());
}

}  // namespace ultraep
