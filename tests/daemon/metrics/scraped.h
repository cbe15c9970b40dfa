// What a scrape says, easy to ask for.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "daemon/metrics/collect.h"

namespace ultraep::test {

// Of the daemon's state before anything has happened: numbers with which steps are planned by hand.
inline StatusGroup GroupCalled(const std::string& name, uint32_t ranks = 4) {
  StatusGroup group;
  SetText(group.config.name, name);
  group.config.ranks = ranks;
  group.config.slots = 2;
  group.config.layers = 1;
  return group;
}

class Scraped {
 public:
  explicit Scraped(std::vector<prometheus::MetricFamily> families)
      : families_(std::move(families)) {
    for (const prometheus::MetricFamily& family : families_)
      for (const prometheus::ClientMetric& series : family.metric) {
        std::string key = family.name;
        for (const auto& label : series.label) key += " " + label.value;
        const bool counter = family.type == prometheus::MetricType::Counter;
        const double value = family.type == prometheus::MetricType::Histogram
                                 ? double(series.histogram.sample_count)
                             : counter ? series.counter.value
                                       : series.gauge.value;
        EXPECT_TRUE(values_.emplace(key, value).second) << key << " is there twice";
        if (family.type != prometheus::MetricType::Gauge) counters_[key] = value;
      }
  }

  const std::vector<prometheus::MetricFamily>& families() const { return families_; }
  // Counters, and how much histograms have counted.
  const std::map<std::string, double>& counters() const { return counters_; }
  bool has(const std::string& key) const { return values_.count(key) == 1; }
  // key: the metric's name and its labels' values, with a space before each.
  double at(const std::string& key) const {
    EXPECT_TRUE(has(key)) << "no series " << key;
    return has(key) ? values_.at(key) : 0;
  }
  // As Prometheus stores them.
  size_t series() const {
    size_t count = 0;
    for (const prometheus::MetricFamily& family : families_)
      for (const prometheus::ClientMetric& series : family.metric)
        count += family.type == prometheus::MetricType::Histogram
                     ? series.histogram.bucket.size() + 3  // +Inf, _sum, _count
                     : 1;
    return count;
  }
  size_t series_of(const std::string& metric) const {
    for (const prometheus::MetricFamily& family : families_)
      if (family.name == metric) return family.metric.size();
    return 0;
  }

 private:
  std::vector<prometheus::MetricFamily> families_;
  std::map<std::string, double> values_, counters_;
};

}  // namespace ultraep::test
