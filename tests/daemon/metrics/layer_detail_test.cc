#include "daemon/metrics/layer_detail.h"

#include <gtest/gtest.h>

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
  Scraped Collected() {
    Families families;
    CollectLayers(node_, labels_, &families);
    return Scraped(families.Take());
  }

  NodeSnapshot node_;
  GroupLabels labels_;
  std::vector<std::string> names_;
};

TEST_F(LayerDetailTest, WhatIsKeptIsShown) {
  Add("all", 3, 4);
  Add("imbalance", 3, 4);
  for (LayerStatistics& layer : node_.layers[1]) layer.rank_tokens.clear();
  Add("none", 3, 4);
  node_.layers[2].clear();
  const Scraped s = Collected();
  EXPECT_EQ(s.series_of("ultraep_layer_imbalance_ratio"), 2u * 2 * 3);
  EXPECT_EQ(s.series_of("ultraep_layer_rank_tokens_total"), 3u * 4);
  EXPECT_EQ(s.at("ultraep_layer_imbalance_ratio imbalance 2 after"), 2);
}

TEST_F(LayerDetailTest, LayersThatNobodyAskedForAreNotThere) {
  Add("job", 2, 4);
  node_.layers.clear();
  EXPECT_EQ(Collected().series(), 0u);
}

TEST_F(LayerDetailTest, ALayerWithoutAPlanHasNoNumbersYet) {
  Add("job", 2, 4);
  node_.layers[0][1].steps = 0;
  EXPECT_EQ(Collected().series(), 2u + 4);
}

TEST_F(LayerDetailTest, LayersOfDifferentJobsAreNotMixed) {
  Add("job", 2, 4);
  Add("job", 3, 4);
  Add("alone", 2, 4);
  const Scraped s = Collected();
  EXPECT_EQ(s.series_of("ultraep_layer_imbalance_ratio"), 4u);
  EXPECT_EQ(s.at("ultraep_layer_imbalance_ratio alone 1 before"), 4);
  EXPECT_EQ(s.at("ultraep_layer_rank_tokens_total alone 1 3"), 10);
}

}  // namespace
}  // namespace ultraep::metrics
