#include "daemon/metrics/layer_detail.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "tests/daemon/metrics/scraped.h"

namespace ultraep::metrics {
namespace {

using test::GroupCalled;
using test::Scraped;

class LayerDetailTest : public testing::Test {
 protected:
  // Every layer has planned.
  void Add(const std::string& name, uint32_t layers, uint32_t ranks) {
    node_.groups.push_back(GroupCalled(name, ranks));
    node_.groups.back().config.layers = layers;
    node_.layers.emplace_back();
    for (uint32_t l = 0; l < layers; ++l)
      node_.layers.back().push_back({1, 40, 20, 40, std::vector<uint64_t>(ranks, 10)});
    names_.push_back(name);
    labels_.Update(names_, {});
  }
  Scraped Collected(LayerDetail* detail) {
    Families families;
    detail->Collect(node_, labels_, &families);
    return Scraped(families.Take());
  }

  NodeSnapshot node_;
  GroupLabels labels_;
  std::vector<std::string> names_;
};

TEST_F(LayerDetailTest, ItIsOffAt0) {
  Add("job", 2, 4);
  LayerDetail detail(0);
  EXPECT_EQ(Collected(&detail).series(), 0u);
}

// a has 2 x 3 series of imbalance and 3 x 4 of tokens, b 2 x 2 and 2 x 8.
TEST_F(LayerDetailTest, AMetricOfAGroupIsThereWholeOrNotAtAllImbalanceFirst) {
  Add("a", 3, 4);
  Add("b", 2, 8);
  for (const auto& [budget, imbalance, tokens] : std::vector<std::array<size_t, 3>>{{5, 4, 0},
                                                                                    {9, 6, 0},
                                                                                    {10, 10, 0},
                                                                                    {21, 10, 0},
                                                                                    {22, 10, 12},
                                                                                    {37, 10, 12},
                                                                                    {38, 10, 28}}) {
    LayerDetail detail(budget);
    const Scraped s = Collected(&detail);
    EXPECT_EQ(s.series_of("ultraep_layer_imbalance_ratio"), imbalance) << budget;
    EXPECT_EQ(s.series_of("ultraep_layer_rank_tokens_total"), tokens) << budget;
  }
}

TEST_F(LayerDetailTest, WhatHasNoRoomIsLoggedOnce) {
  Add("a", 3, 4);
  LayerDetail detail(10);
  testing::internal::CaptureStderr();
  Collected(&detail);
  Collected(&detail);
  const std::string log = testing::internal::GetCapturedStderr();
  const std::string line =
      "ultraep_layer_rank_tokens_total of group a needs 12 series, 4 of --metrics_detail_series 10";
  const size_t at = log.find(line);
  ASSERT_NE(at, log.npos) << log;
  EXPECT_EQ(log.find(line, at + 1), log.npos) << log;
}

TEST_F(LayerDetailTest, LayersOfDifferentJobsAreNotMixed) {
  Add("job", 2, 4);
  Add("job", 3, 4);
  Add("alone", 2, 4);
  LayerDetail detail(1000);
  const Scraped s = Collected(&detail);
  EXPECT_EQ(s.series_of("ultraep_layer_imbalance_ratio"), 4u);
  EXPECT_EQ(s.at("ultraep_layer_imbalance_ratio alone 1 before"), 4);
  EXPECT_EQ(s.at("ultraep_layer_rank_tokens_total alone 1 3"), 10);
}

}  // namespace
}  // namespace ultraep::metrics
