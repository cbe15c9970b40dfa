// Trace loads: the recorded row decides how many tokens each expert gets, the seed their order.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <utility>

#include "plugin/examples/replay/loads.h"
#include "plugin/examples/replay/token_ids.h"
#include "protocol/load.h"

namespace ultraep::replay {
namespace {

class TraceLoads : public LoadSource {
 public:
  TraceLoads(Trace trace, uint64_t seed)
      : trace_(std::move(trace)), seed_(seed), max_row_(trace_.max_row()) {}

  uint64_t max_ids() const override { return max_row_; }

  void Ids(uint64_t step, uint32_t layer, uint32_t rank, std::vector<int32_t>* ids) override {
    const auto recorded = static_cast<uint32_t>(step % trace_.steps);
    Random random(seed_, kShuffleStream, step * trace_.layers + layer, rank);
    IdsOfRow(trace_.row(recorded, layer, rank), trace_.experts, random, ids);
  }

 private:
  const Trace trace_;
  const uint64_t seed_;
  const uint64_t max_row_;
};

}  // namespace

uint64_t Trace::max_row() const {
  uint64_t most = 0;
  for (uint64_t at = 0; at < tokens.size(); at += experts)
    most = std::max(most, RowTokens(&tokens[at], experts));
  return most;
}

std::unique_ptr<LoadSource> MakeTraceLoads(Trace trace, uint64_t seed) {
  return std::make_unique<TraceLoads>(std::move(trace), seed);
}

}  // namespace ultraep::replay
