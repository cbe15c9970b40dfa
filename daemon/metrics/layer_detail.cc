#include "daemon/metrics/layer_detail.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "daemon/log.h"

namespace ultraep::metrics {
namespace {

struct Layers {
  std::string group;
  GroupConfig config;
  const std::vector<LayerStatistics>* layers;
};

// Groups that are alone under their own name, those with the oldest labels first.
std::vector<Layers> AloneUnderTheirName(const NodeSnapshot& snapshot, const GroupLabels& labels) {
  std::vector<Layers> alone;
  for (const std::string& name : labels.named()) {
    std::vector<Layers> found;
    for (size_t i = 0; i < snapshot.groups.size() && i < snapshot.layers.size(); ++i)
      if (GetText(snapshot.groups[i].config.name) == name)
        found.push_back({name, snapshot.groups[i].config, &snapshot.layers[i]});
    if (found.size() == 1) alone.push_back(found[0]);
  }
  return alone;
}

}  // namespace

bool LayerDetail::Fits(const Metric& metric, const std::string& group, uint64_t series) {
  if (series <= left_) {
    left_ -= series;
    return true;
  }
  if (told_.size() < 1000 && told_.insert(std::string(metric.name) + " " + group).second)
    LogWarning("%s of group %s needs %d series, %d of --metrics_detail_series %d are left: none",
               metric.name, group, series, left_, most_series_);
  return false;
}

void LayerDetail::Collect(const NodeSnapshot& snapshot, const GroupLabels& labels,
                          Families* families) {
  left_ = most_series_;
  if (!most_series_) return;
  const std::vector<Layers> groups = AloneUnderTheirName(snapshot, labels);
  for (const Layers& g : groups) {
    if (!Fits(kLayerImbalanceRatio, g.group, uint64_t{2} * g.config.layers)) continue;
    for (size_t l = 0; l < g.layers->size(); ++l) {
      const LayerStatistics& layer = (*g.layers)[l];
      if (!layer.steps) continue;
      const auto imbalance = [&](uint64_t peak) {
        return Imbalance(peak, layer.last_tokens, g.config.ranks);
      };
      const std::string number = std::to_string(l);
      families->Add(kLayerImbalanceRatio, {g.group, number, "before"},
                    imbalance(layer.last_peak_before));
      families->Add(kLayerImbalanceRatio, {g.group, number, "after"}, imbalance(layer.last_peak));
    }
  }
  for (const Layers& g : groups) {
    if (!Fits(kLayerRankTokensTotal, g.group, uint64_t{g.config.layers} * g.config.ranks)) continue;
    for (size_t l = 0; l < g.layers->size(); ++l) {
      const LayerStatistics& layer = (*g.layers)[l];
      for (size_t r = 0; layer.steps && r < layer.rank_tokens.size(); ++r)
        families->Add(kLayerRankTokensTotal, {g.group, std::to_string(l), std::to_string(r)},
                      double(layer.rank_tokens[r]));
    }
  }
}

}  // namespace ultraep::metrics
