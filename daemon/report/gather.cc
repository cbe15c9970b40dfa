#include "daemon/report/gather.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/escaping.h"
#include "protocol/verdict_board.h"

namespace ultraep::report {
namespace {

constexpr uint64_t kBins = 1000;        // points of a line: what a screen is wide
constexpr uint64_t kHeatBins = 240;     // columns of a heat map over time, at most
constexpr uint64_t kFewHeatBins = 24;   // fewer say nothing: rather leave layers out
constexpr double kCellBytes = 8.0 / 3;  // 16 bits as base64

float PercentileOf(std::vector<float>* values, double part) {
  if (values->empty()) return 0;
  const auto at = values->begin() + ptrdiff_t(part * double(values->size() - 1) + 0.5);
  std::nth_element(values->begin(), at, values->end());
  return *at;
}

}  // namespace

double Round(double value, int decimals) {
  const double scale = std::pow(10, decimals);
  return std::round(value * scale) / scale;
}

Json Means::ToJson() const {
  float max = 0;
  for (size_t i = 0; i < sum_.size(); ++i)
    if (count_[i]) max = std::max(max, sum_[i] / float(count_[i]));
  std::string bytes;
  bytes.reserve(sum_.size() * 2);
  for (size_t i = 0; i < sum_.size(); ++i) {
    uint32_t cell = 65535;
    if (count_[i])
      cell = max > 0 ? uint32_t(std::lround(sum_[i] / float(count_[i]) / max * 65534)) : 0;
    bytes += char(cell & 0xff);
    bytes += char(cell >> 8);
  }
  return {{"max", max}, {"b64", absl::Base64Escape(bytes)}};
}

void Gather::Line::Add(uint64_t bin, double value) {
  sum[bin] += value;
  max[bin] = std::max(max[bin], value);
}

Json Gather::Line::ToJson(const std::vector<uint32_t>& counts) const {
  Json means = Json::array(), maxima = Json::array();
  for (size_t i = 0; i < sum.size(); ++i) {
    means.push_back(Round(sum[i] / std::max(1u, counts[i])));
    maxima.push_back(Round(max[i]));
  }
  return {{"mean", means}, {"max", maxima}};
}

// Only layers that occur get a row in the plots.
std::string Gather::FindLayers(StepSource* source) {
  layers_.clear();
  if (!source->recorded()) {
    layers_.resize(source->info().layers);
    std::iota(layers_.begin(), layers_.end(), 0);
    return "";
  }
  trace::StepRow row;
  for (uint64_t i = 0; i < steps_; ++i) {
    if (std::string wrong = source->Row(i, &row); !wrong.empty()) return wrong;
    const auto at = std::lower_bound(layers_.begin(), layers_.end(), row.layer);
    if (at == layers_.end() || *at != row.layer) layers_.insert(at, row.layer);
  }
  return "";
}

std::string Gather::Begin(StepSource* source, uint64_t data_bytes) {
  shape_ = source->shape();
  steps_ = source->steps();
  summarizer_ = trace::Summarizer(shape_.ranks);
  if (std::string wrong = FindLayers(source); !wrong.empty()) return wrong;
  bins_ = std::min(steps_, kBins);
  for (Line* line : {&line_before_, &line_after_, &line_floor_, &line_replicas_, &line_transfer_}) {
    line->sum.assign(bins_, 0);
    line->max.assign(bins_, 0);
  }
  counts_.assign(bins_, 0);
  fallbacks_.assign(bins_, 0);
  times_ns_.assign(bins_, 0);
  const uint64_t layers = layers_.size();
  by_layer_.resize(layers);
  const uint64_t row = shape_.experts + 2 * shape_.ranks;
  const auto cells = uint64_t(double(data_bytes) / kCellBytes);
  const uint64_t with_heat = std::clamp<uint64_t>(cells / (kFewHeatBins * row), 1, layers);
  layer_stride_ = (layers + with_heat - 1) / with_heat;
  const uint64_t kept = (layers + layer_stride_ - 1) / layer_stride_;
  heat_bins_ = std::clamp<uint64_t>(cells / (kept * row), 1, kHeatBins);
  heat_bins_ = std::min(heat_bins_, (steps_ + layers - 1) / layers);
  expert_.Size(kept * heat_bins_ * shape_.experts);
  rank_before_.Size(kept * heat_bins_ * shape_.ranks);
  rank_after_.Size(kept * heat_bins_ * shape_.ranks);
  layer_before_.Size(layers * heat_bins_);
  layer_after_.Size(layers * heat_bins_);
  layer_expert_.Size(layers * shape_.experts);
  layer_replicas_.Size(layers * shape_.experts);
  return "";
}

void Gather::Add(uint64_t number, const trace::TraceStep& step) {
  const trace::StepRow& row = step.row;
  summarizer_.Add(row);
  const auto tokens = uint64_t(row.tokens);
  const double before = Imbalance(uint64_t(row.peak_before), tokens, shape_.ranks);
  const double after = Imbalance(uint64_t(row.peak), tokens, shape_.ranks);
  before_.push_back(float(before));
  after_.push_back(float(after));
  const uint64_t bin = number * bins_ / steps_;
  if (counts_[bin]++ == 0) times_ns_[bin] = row.time_ns;
  fallbacks_[bin] +=
      row.verdict != int64_t(Verdict::kPlan) && row.verdict != int64_t(Verdict::kNone);
  line_before_.Add(bin, before);
  line_after_.Add(bin, after);
  line_floor_.Add(bin, Imbalance(uint64_t(row.lower_bound), tokens, shape_.ranks));
  line_replicas_.Add(bin, double(row.replicas));
  line_transfer_.Add(bin, BusiestLink(shape_, step.replicas));
  const auto layer =
      uint64_t(std::lower_bound(layers_.begin(), layers_.end(), row.layer) - layers_.begin());
  by_layer_[layer].before.push_back(float(before));
  by_layer_[layer].after.push_back(float(after));
  const uint64_t heat = layer * heat_bins_ + number * heat_bins_ / steps_;
  layer_before_.Add(heat, before);
  layer_after_.Add(heat, after);
  if (tokens) AddHeat(number, layer, step);
}

// Loads are relative to the step's mean over experts or ranks: 1 is the fair share.
void Gather::AddHeat(uint64_t number, uint64_t layer, const trace::TraceStep& step) {
  const auto tokens = double(step.row.tokens);
  const bool over_time = layer % layer_stride_ == 0;
  const uint64_t cell = layer / layer_stride_ * heat_bins_ + number * heat_bins_ / steps_;
  copies_.assign(shape_.experts, 0);
  for (const Replica& r : step.replicas) ++copies_[r.expert];
  for (uint32_t e = 0; e < shape_.experts; ++e) {
    const double share = double(step.expert_tokens[e]) * shape_.experts / tokens;
    layer_expert_.Add(layer * shape_.experts + e, share);
    layer_replicas_.Add(layer * shape_.experts + e, copies_[e]);
    if (over_time) expert_.Add(cell * shape_.experts + e, share);
  }
  if (!over_time) return;
  trace::RankTokens(shape_, step, &tokens_before_, &tokens_after_);
  for (uint32_t r = 0; r < shape_.ranks; ++r) {
    rank_before_.Add(cell * shape_.ranks + r, double(tokens_before_[r]) * shape_.ranks / tokens);
    rank_after_.Add(cell * shape_.ranks + r, double(tokens_after_[r]) * shape_.ranks / tokens);
  }
}

Json Gather::LayersJson() {
  Json out = {{"number", layers_}};
  for (const char* name :
       {"steps", "before_mean", "before_p99", "before_max", "after_mean", "after_p99", "after_max"})
    out[name] = Json::array();
  for (Layer& layer : by_layer_) {
    out["steps"].push_back(layer.before.size());
    const auto add = [&out](const std::string& stage, std::vector<float>* values) {
      double sum = 0;
      float most = 0;
      for (const float v : *values) {
        sum += v;
        most = std::max(most, v);
      }
      out[stage + "_mean"].push_back(Round(values->empty() ? 0 : sum / double(values->size())));
      out[stage + "_p99"].push_back(Round(PercentileOf(values, 0.99)));
      out[stage + "_max"].push_back(Round(most));
    };
    add("before", &layer.before);
    add("after", &layer.after);
  }
  return out;
}

Json Gather::Finish() {
  summary_ = summarizer_.Finish();
  Json heat_layers = Json::array();
  for (uint64_t l = 0; l < layers_.size(); l += layer_stride_) heat_layers.push_back(l);
  Json seconds = Json::array();
  const int64_t first = times_ns_.empty() ? 0 : times_ns_[0];
  for (const int64_t t : times_ns_) seconds.push_back(Round(double(t - first) / 1e9));
  return {{"bins",
           {{"count", bins_},
            {"steps", counts_},
            {"seconds", seconds},
            {"fallbacks", fallbacks_},
            {"before", line_before_.ToJson(counts_)},
            {"after", line_after_.ToJson(counts_)},
            {"floor", line_floor_.ToJson(counts_)},
            {"replicas", line_replicas_.ToJson(counts_)},
            {"transfer", line_transfer_.ToJson(counts_)}}},
          {"layers", LayersJson()},
          {"heat",
           {{"bins", heat_bins_},
            {"layers", heat_layers},
            {"expert", expert_.ToJson()},
            {"rank_before", rank_before_.ToJson()},
            {"rank_after", rank_after_.ToJson()},
            {"layer_before", layer_before_.ToJson()},
            {"layer_after", layer_after_.ToJson()},
            {"layer_expert", layer_expert_.ToJson()},
            {"layer_replicas", layer_replicas_.ToJson()}}}};
}

std::vector<uint64_t> Gather::Worst(bool after, size_t count) const {
  const std::vector<float>& values = after ? after_ : before_;
  std::vector<uint64_t> steps(values.size());
  std::iota(steps.begin(), steps.end(), 0);
  count = std::min(count, steps.size());
  std::partial_sort(steps.begin(), steps.begin() + ptrdiff_t(count), steps.end(),
                    [&values](uint64_t a, uint64_t b) {
                      return values[a] != values[b] ? values[a] > values[b] : a < b;
                    });
  steps.resize(count);
  return steps;
}

}  // namespace ultraep::report
