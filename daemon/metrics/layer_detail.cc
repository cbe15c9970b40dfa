#include "daemon/metrics/layer_detail.h"

#include <algorithm>
#include <string>
#include <vector>

namespace ultraep::metrics {
namespace {

void CollectLayer(const std::vector<std::string>& group_and_layer, const LayerStatistics& layer,
                  uint32_t ranks, Families* families) {
  if (!layer.steps) return;
  const auto with = [&](const std::string& last) {
    std::vector<std::string> labels = group_and_layer;
    labels.push_back(last);
    return labels;
  };
  families->Add(kLayerImbalanceRatio, with("before"),
                Imbalance(layer.last_peak_before, layer.last_tokens, ranks));
  families->Add(kLayerImbalanceRatio, with("after"),
                Imbalance(layer.last_peak, layer.last_tokens, ranks));
  for (size_t r = 0; r < layer.rank_tokens.size(); ++r)
    families->Add(kLayerRankTokensTotal, with(std::to_string(r)), double(layer.rank_tokens[r]));
}

}  // namespace

void CollectLayers(const NodeSnapshot& snapshot, const GroupLabels& labels, Families* families) {
  std::vector<std::string> names;
  for (const StatusGroup& group : snapshot.groups) names.push_back(GetText(group.config.name));
  for (size_t g = 0; g < snapshot.layers.size(); ++g) {
    if (labels.Of(names[g]) != names[g] || std::count(names.begin(), names.end(), names[g]) != 1)
      continue;
    for (size_t l = 0; l < snapshot.layers[g].size(); ++l)
      CollectLayer({names[g], std::to_string(l)}, snapshot.layers[g][l],
                   snapshot.groups[g].config.ranks, families);
  }
}

}  // namespace ultraep::metrics
