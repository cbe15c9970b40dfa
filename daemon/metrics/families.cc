#include "daemon/metrics/families.h"

#include <algorithm>
#include <cassert>
#include <iterator>
#include <utility>

#include "absl/strings/str_split.h"

namespace ultraep::metrics {
namespace {

prometheus::MetricType TypeOf(const Metric& metric) {
  switch (metric.type) {
    case Type::kCounter:
      return prometheus::MetricType::Counter;
    case Type::kGauge:
      return prometheus::MetricType::Gauge;
    case Type::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

}  // namespace

std::vector<std::string> LabelNames(const Metric& metric) {
  std::vector<std::string> names;
  for (const absl::string_view label : absl::StrSplit(metric.labels, ',', absl::SkipEmpty()))
    names.emplace_back(label.substr(0, label.find('=')));
  return names;
}

Families::Families() {
  for (const Metric* metric : kAll) {
    prometheus::MetricFamily family;
    family.name = metric->name;
    family.help = metric->help;
    family.type = TypeOf(*metric);
    families_.push_back(std::move(family));
  }
}

prometheus::MetricFamily* Families::Of(const Metric& metric) {
  const auto found = std::find(std::begin(kAll), std::end(kAll), &metric);
  assert(found != std::end(kAll));
  return &families_[size_t(found - std::begin(kAll))];
}

void Families::Add(const Metric& metric, std::vector<std::string> labels, double value) {
  const std::vector<std::string> names = LabelNames(metric);
  assert(names.size() == labels.size());
  prometheus::ClientMetric series;
  for (size_t i = 0; i < names.size(); ++i) series.label.push_back({names[i], labels[i]});
  if (metric.type == Type::kCounter)
    series.counter.value = value;
  else
    series.gauge.value = value;
  Of(metric)->metric.push_back(std::move(series));
}

void Families::AddHistogram(const Metric& metric, const LatencyHistogram& latencies) {
  prometheus::ClientMetric series;
  uint64_t count = 0;
  for (uint32_t i = 0; i < kLatencyBounds; ++i) {
    count += latencies.buckets[i];
    series.histogram.bucket.push_back({count, double(kLatencyBoundsNs[i]) / 1e9});
  }
  count += latencies.buckets[kLatencyBounds];  // the serializer adds the bucket +Inf
  series.histogram.sample_count = count;
  series.histogram.sample_sum = double(latencies.sum_ns) / 1e9;
  Of(metric)->metric.push_back(std::move(series));
}

std::vector<prometheus::MetricFamily> Families::Take() {
  std::vector<prometheus::MetricFamily> taken;
  for (prometheus::MetricFamily& family : families_)
    if (!family.metric.empty()) taken.push_back(std::move(family));
  return taken;
}

}  // namespace ultraep::metrics
