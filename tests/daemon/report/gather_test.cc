// Figures of the report that can be worked out by hand.
#include "daemon/report/gather.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/report/step_source.h"
#include "protocol/npy.h"

namespace ultraep::report {
namespace {

Replica Copy(uint32_t expert, uint16_t rank, uint16_t slot, int32_t parent) {
  Replica replica;
  replica.expert = expert;
  replica.rank = rank;
  replica.slot = slot;
  replica.parent = parent;
  replica.tokens = 1;
  return replica;
}

TEST(BusiestLinkTest, SendsAndReceivesAreCountedApart) {
  const PlanShape shape{4, 8, 3, 0};  // experts 0 and 1 on rank 0, ..
  EXPECT_EQ(BusiestLink(shape, {}), 0u);
  // Rank 3 receives three experts of three ranks.
  EXPECT_EQ(BusiestLink(shape, {Copy(0, 3, 0, -1), Copy(2, 3, 1, -1), Copy(4, 3, 2, -1)}), 3u);
  // Rank 0 sends two, the third copy comes from the first one.
  EXPECT_EQ(BusiestLink(shape, {Copy(0, 1, 0, -1), Copy(0, 2, 0, -1), Copy(0, 3, 0, 0)}), 2u);
}

TEST(GatherTest, HeatOfRanksIsBeforeAndAfterThePlan) {
  std::string directory = testing::TempDir() + "gather-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const std::string path = directory + "/loads.npy";
  // Rank 0 has 12 tokens of its expert, rank 1 has 4: half of the surplus can move.
  const std::vector<uint32_t> load = {6, 2, 6, 2};
  {
    std::ofstream file(path, std::ios::binary);
    file << NpyHeader({1, 2, 2}, "<u4");
    file.write(reinterpret_cast<const char*>(load.data()), 16);
  }
  StepSource source;
  ASSERT_EQ(source.Open(path), "");
  source.Replan({2, 2, 1, 0}, {});
  Gather gather;
  ASSERT_EQ(gather.Begin(&source, 1 << 20), "");
  trace::TraceStep step;
  ASSERT_EQ(source.Read(0, &step), "");
  gather.Add(0, step);
  const Json data = gather.Finish();
  EXPECT_EQ(data["heat"]["rank_before"]["max"], 1.5);
  EXPECT_EQ(data["heat"]["rank_after"]["max"], 1.0);
  EXPECT_EQ(data["heat"]["layer_before"]["max"], 1.5);
  EXPECT_EQ(data["heat"]["layer_after"]["max"], 1.0);
  EXPECT_EQ(data["bins"]["transfer"]["max"][0], 1.0);
  EXPECT_EQ(gather.summary().avoided, 4u);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace ultraep::report
