// Turns a rank's logical expert ids into physical ones by the quotas of a plan (rule 10, see
// protocol/split.h): a function of plan and ids alone, so every source gets exactly its share and
// every instance exactly its quota.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/plan.h"
#include "protocol/plan_record.h"
#include "protocol/split.h"

namespace ultraep {

// One source rank's view of one plan. Reset once, then Route from any thread.
class TokenRouter {
 public:
  TokenRouter() = default;
  TokenRouter(const RecordedPlan& plan, uint32_t source, const uint32_t* row) {
    Reset(plan, source, row);
  }

  // `plan` has passed ReadRecord's checks; without replicas it needs its shape only, and all tokens
  // go to the main copies. row: [experts], what `source` submitted. Both are copied as far as they
  // are needed; a router that is reset again allocates only to grow.
  void Reset(const RecordedPlan& plan, uint32_t source, const uint32_t* row);

  // ids, physical: [tokens][top_k], may be the same memory; -1 = none stays -1. Empty text when
  // done. Refuses ids out of range and counts that differ from the submitted row: then nothing is
  // written and the text has the value and what was expected. Allocates nothing after a thread's
  // first call, except for such a text.
  std::string Route(const int32_t* ids, uint64_t tokens, uint32_t top_k, int32_t* physical) const;

  // On the heap.
  uint64_t bytes() const {
    return (row_.capacity() + split_of_.capacity()) * sizeof(uint32_t) +
           splits_.capacity() * sizeof(ExpertSplit) + instances_.capacity() * sizeof(SplitInstance);
  }

  // How the tokens of each replicated expert split; what a GPU routes by.
  struct ExpertSplit {
    SourceSplit source;
    uint32_t first_instance = 0;  // index into instances()
    uint32_t instances = 0;
  };
  const std::vector<ExpertSplit>& splits() const { return splits_; }  // in the columns' order
  const std::vector<SplitInstance>& instances() const { return instances_; }

 private:
  static constexpr uint32_t kMainOnly = UINT32_MAX;

  void PlaceInstances(const RecordedPlan& plan);
  void CutColumn(const uint32_t* column, uint32_t source, ExpertSplit* split);

  PlanShape shape_;
  PhysicalIds numbering_ = {1, 0};
  std::vector<uint32_t> row_;
  std::vector<uint32_t> split_of_;  // [experts] -> index into splits_, or kMainOnly
  std::vector<ExpertSplit> splits_;
  std::vector<SplitInstance> instances_;  // of one expert: main first, then replicas in plan order
};

}  // namespace ultraep
