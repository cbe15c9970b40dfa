// One pass over all steps, and what the report's plots are made of: bounded, however long the
// trace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/report/step_source.h"
#include "daemon/trace/summary.h"
#include "nlohmann/json.hpp"

namespace ultraep::report {

using Json = nlohmann::ordered_json;

// Rounded to what a plot can show: shorter text.
double Round(double value, int decimals = 4);

// Means of cells, sent to the page as 16 bits each.
class Means {
 public:
  void Size(uint64_t cells) {
    sum_.assign(cells, 0);
    count_.assign(cells, 0);
  }
  void Add(uint64_t cell, double value) {
    sum_[cell] += float(value);
    ++count_[cell];
  }
  // {"max": .., "b64": 16-bit cells of value / max x 65534, 65535: no value}
  Json ToJson() const;

 private:
  std::vector<float> sum_;
  std::vector<uint32_t> count_;
};

class Gather {
 public:
  // `data_bytes`: what the heat maps may come to.
  std::string Begin(StepSource* source, uint64_t data_bytes);
  void Add(uint64_t number, const trace::TraceStep& step);
  Json Finish();

  const trace::Summary& summary() const { return summary_; }
  // Steps with the highest imbalance, worst first.
  std::vector<uint64_t> Worst(bool after, size_t count) const;

 private:
  struct Line {  // over time
    std::vector<double> sum, max;
    void Add(uint64_t bin, double value);
    Json ToJson(const std::vector<uint32_t>& counts) const;
  };
  struct Layer {
    std::vector<float> before, after;
  };

  std::string FindLayers(StepSource* source);
  void AddHeat(uint64_t number, uint64_t layer, const trace::TraceStep& step);
  Json LayersJson();

  PlanShape shape_;
  uint64_t steps_ = 0, bins_ = 0, heat_bins_ = 0;
  uint64_t layer_stride_ = 1;  // every so many layers has heat maps over time
  std::vector<int64_t> layers_;
  trace::Summarizer summarizer_{1};
  trace::Summary summary_;
  std::vector<float> before_, after_;
  std::vector<uint32_t> counts_, fallbacks_;
  std::vector<int64_t> times_ns_;  // of each bin's first step
  Line line_before_, line_after_, line_floor_, line_replicas_, line_transfer_;
  std::vector<Layer> by_layer_;
  Means expert_, rank_before_, rank_after_, layer_before_, layer_after_, layer_expert_,
      layer_replicas_;
  std::vector<uint64_t> tokens_before_, tokens_after_;
  std::vector<uint32_t> copies_;
};

}  // namespace ultraep::report
