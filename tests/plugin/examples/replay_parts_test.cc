#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "plugin/examples/replay/experts.h"
#include "plugin/examples/replay/histogram.h"
#include "plugin/examples/replay/loads.h"
#include "plugin/examples/replay/model_step.h"
#include "plugin/examples/replay/token_ids.h"
#include "protocol/npy.h"

namespace ultraep::replay {
namespace {

TEST(IdsOfRow, GivesEveryExpertExactlyItsCountInAShuffledOrder) {
  const std::vector<uint32_t> row = {3, 0, 500, 1, 0, 77};
  std::vector<int32_t> ids, again, other;
  IdsOfRow(row.data(), 6, Random(1), &ids);
  std::vector<uint32_t> counted(6, 0);
  for (const int32_t id : ids) ++counted.at(id);
  EXPECT_EQ(counted, row);
  EXPECT_FALSE(std::is_sorted(ids.begin(), ids.end()));
  IdsOfRow(row.data(), 6, Random(1), &again);
  IdsOfRow(row.data(), 6, Random(2), &other);
  EXPECT_EQ(ids, again);
  EXPECT_NE(ids, other);
}

TEST(IdsOfRow, GivesNoIdsForAnEmptyRow) {
  const std::vector<uint32_t> row(4, 0);
  std::vector<int32_t> ids = {9};
  IdsOfRow(row.data(), 4, Random(1), &ids);
  EXPECT_TRUE(ids.empty());
}

TEST(Experts, ARowHasTheSameBitsInEveryBatchAndAtEveryPlace) {
  // Widths that are no multiple of the register block, and 13 rows: blocks and a rest.
  for (const ExpertShape shape : {ExpertShape{32, 32}, ExpertShape{13, 7}, ExpertShape{1, 1}}) {
    constexpr uint32_t kRows = 13;
    std::vector<float> up(shape.up_floats()), down(shape.down_floats());
    FillWeights(shape, 1, 0, 5, up.data(), down.data());
    Random random(7);
    std::vector<float> x(kRows * shape.hidden);
    for (float& v : x) v = static_cast<float>(2 * random.Uniform() - 1);
    ExpertMath math(shape);
    std::vector<float> alone(x.size());
    for (uint32_t r = 0; r < kRows; ++r)
      math.Compute(up.data(), down.data(), &x[r * shape.hidden], 1, &alone[r * shape.hidden]);
    EXPECT_NE(alone, std::vector<float>(x.size(), 0.0f));
    for (uint32_t first = 0; first < kRows; ++first) {
      for (uint32_t rows = 1; rows <= kRows - first; ++rows) {
        std::vector<float> y(rows * shape.hidden);
        math.Compute(up.data(), down.data(), &x[first * shape.hidden], rows, y.data());
        ASSERT_EQ(std::memcmp(y.data(), &alone[first * shape.hidden], y.size() * sizeof(float)), 0)
            << "hidden " << shape.hidden << " first " << first << " rows " << rows;
      }
    }
  }
}

TEST(Experts, EveryExpertAndLayerHasItsOwnWeights) {
  const ExpertShape shape{8, 8};
  std::set<std::vector<float>> seen;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    for (uint32_t expert = 0; expert < 3; ++expert) {
      std::vector<float> up(shape.up_floats()), down(shape.down_floats());
      FillWeights(shape, 1, layer, expert, up.data(), down.data());
      EXPECT_TRUE(seen.insert(up).second);
      EXPECT_TRUE(seen.insert(down).second);
    }
  }
}

Profile SmallProfile() {
  Profile profile;
  profile.layers = 2;
  profile.experts = 8;
  for (uint32_t i = 0; i < 16; ++i) profile.popularity.push_back(i < 8 ? 1.0 + i : 9.0 - i / 2);
  return profile;
}

TEST(Resample, TakesEvenlySpacedColumnsAndKeepsAMeanOfOne) {
  const Profile half = Resample(SmallProfile(), 4);
  ASSERT_EQ(half.popularity.size(), 8u);
  // Columns 0, 2, 4, 6 with popularities 1, 3, 5, 7: mean 4.
  EXPECT_EQ(std::vector<double>(half.row(0), half.row(0) + 4),
            (std::vector<double>{0.25, 0.75, 1.25, 1.75}));
  EXPECT_EQ(half.row(2), half.row(0)) << "layers repeat";
}

TEST(Resample, RepeatsColumnsForMoreExperts) {
  const Profile wide = Resample(SmallProfile(), 20);
  const double* row = wide.row(1);
  EXPECT_NEAR(std::accumulate(row, row + 20, 0.0), 20.0, 1e-9);
  for (uint32_t e = 8; e < 20; ++e) EXPECT_EQ(row[e], row[e - 8]);
}

TEST(Profile, TheShippedFileHasAllLayersOfDeepSeekV3) {
  Profile profile;
  ASSERT_EQ(ReadProfile(std::string(ULTRAEP_SOURCE_DIR) +
                            "/plugin/examples/data/deepseek-v3-layer-popularity.txt",
                        &profile),
            "");
  EXPECT_EQ(profile.layers, 58u);
  EXPECT_EQ(profile.experts, 256u);
  for (uint32_t layer = 0; layer < 58; ++layer)
    EXPECT_NEAR(std::accumulate(profile.row(layer), profile.row(layer) + 256, 0.0), 256, 0.01);
}

// A file that is gone with the test.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& bytes) {
    path_ = testing::TempDir() + "replay-" + std::to_string(getpid());
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~ScratchFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Profile, ABadFileIsRefusedWithItsLine) {
  Profile profile;
  EXPECT_NE(ReadProfile("/nowhere", &profile).find("cannot be opened"), std::string::npos);
  const std::pair<const char*, const char*> bad[] = {{"1 2\n1\n", "line 2: 1 numbers"},
                                                     {"1 x\n", "\"x\" is not a number above 0"},
                                                     {"1 0\n", "\"0\" is not a number above 0"},
                                                     {"1 2\n\n1 2\n", "line 2: no numbers"},
                                                     {"", "empty"}};
  for (const auto& [text, wrong] : bad) {
    const ScratchFile file(text);
    const std::string found = ReadProfile(file.path(), &profile);
    EXPECT_NE(found.find(wrong), std::string::npos) << found;
  }
}

TEST(ProfileLoads, AreAFunctionOfStepLayerAndRankAlone) {
  const ProfileLoadOptions options = {2, 50, 3, 11};
  const auto one = MakeProfileLoads(SmallProfile(), options);
  const auto two = MakeProfileLoads(SmallProfile(), options);
  std::vector<std::vector<int32_t>> seen;
  std::vector<int32_t> ids;
  for (uint64_t step = 0; step < 30; ++step) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (uint32_t rank = 0; rank < 4; ++rank) {
        one->Ids(step, layer, rank, &ids);
        seen.push_back(ids);
      }
    }
  }
  // Another order, other ranks first, some steps left out and one asked for again.
  const uint64_t steps[] = {7, 3, 29, 7};
  for (const uint64_t step : steps) {
    for (const uint32_t rank : {3u, 0u}) {
      two->Ids(step, 1, rank, &ids);
      EXPECT_EQ(ids, seen[(step * 2 + 1) * 4 + rank]) << "step " << step << " rank " << rank;
    }
  }
  EXPECT_EQ(std::set<std::vector<int32_t>>(seen.begin(), seen.end()).size(), seen.size());
  const auto other_seed = MakeProfileLoads(SmallProfile(), {2, 50, 3, 12});
  other_seed->Ids(0, 0, 0, &ids);
  EXPECT_NE(ids, seen[0]);
}

TEST(ProfileLoads, ATokenNeverGetsAnExpertTwiceAndPopularOnesMore) {
  const auto loads = MakeProfileLoads(SmallProfile(), {1, 4000, 4, 1});
  std::vector<int32_t> ids;
  std::vector<uint32_t> counts(8, 0);
  for (uint64_t step = 0; step < 5; ++step) {
    loads->Ids(step, 0, 0, &ids);
    ASSERT_EQ(ids.size(), loads->max_ids());
    for (size_t t = 0; t < ids.size(); t += 4) {
      EXPECT_EQ(std::set<int32_t>(&ids[t], &ids[t] + 4).size(), 4u);
      for (size_t k = 0; k < 4; ++k) ++counts.at(ids[t + k]);
    }
  }
  EXPECT_GT(counts[7], counts[0]);  // popularity 8 and 1
}

TEST(Trace, IsReadAndGivesIdsWithExactlyItsCounts) {
  const std::vector<uint32_t> cells = {1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 9, 1};  // [3, 1, 2, 2]
  std::string bytes = NpyHeader({3, 1, 2, 2}, "<u4");
  bytes.append(reinterpret_cast<const char*>(cells.data()), cells.size() * 4);
  const ScratchFile file(bytes);
  Trace trace;
  ASSERT_EQ(ReadTrace(file.path(), &trace), "");
  EXPECT_EQ(trace.tokens, cells);
  EXPECT_EQ(trace.max_row(), 15u);
  const auto loads = MakeTraceLoads(trace, 1);
  std::vector<int32_t> ids;
  for (uint64_t step = 0; step < 5; ++step) {  // beyond the end it starts again
    loads->Ids(step, 0, 1, &ids);
    const uint32_t* row = trace.row(step % 3, 0, 1);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), row[0]);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), row[1]);
  }
}

TEST(Trace, ThreeDimensionsAndARecordingsLoadsAreStepsOfOneLayer) {
  const std::vector<uint32_t> cells = {1, 2, 3, 4, 5, 6, 7, 8};
  std::string bytes = NpyHeader({2, 1, 4}, "<u4");
  bytes.append(reinterpret_cast<const char*>(cells.data()), cells.size() * 4);
  std::string directory = testing::TempDir() + "recording-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  std::ofstream(directory + "/loads.npy", std::ios::binary) << bytes;
  for (const std::string& path : {directory, directory + "/loads.npy"}) {
    Trace trace;
    ASSERT_EQ(ReadTrace(path, &trace), "");
    EXPECT_EQ(trace.steps, 2u);
    EXPECT_EQ(trace.layers, 1u);
    EXPECT_EQ(trace.ranks, 1u);
    EXPECT_EQ(trace.experts, 4u);
    EXPECT_EQ(trace.tokens, cells);
  }
  std::filesystem::remove_all(directory);
  Trace trace;
  EXPECT_NE(ReadTrace(testing::TempDir(), &trace).find("loads.npy"), std::string::npos);
}

TEST(Trace, ABadFileIsRefusedWithItsValueAndLimit) {
  const auto refused = [](const std::string& bytes) {
    const ScratchFile file(bytes);
    Trace trace;
    return ReadTrace(file.path(), &trace);
  };
  EXPECT_NE(refused("nonsense").find("not an npy file"), std::string::npos);
  EXPECT_NE(refused(NpyHeader({1, 1, 2, 2}, "<u4") + "short").find("truncated"), std::string::npos);
  EXPECT_NE(refused(NpyHeader({2, 2}, "<u4") + std::string(16, '\0'))
                .find("the array has 2 dimensions, shape [2, 2]; needed are 4, [steps, layers, "
                      "ranks, experts]"),
            std::string::npos);
  EXPECT_NE(refused(NpyHeader({0, 1, 2, 2}, "<u4")).find("shape is [0, 1, 2, 2]"),
            std::string::npos);
  const std::string minus =
      NpyHeader({1, 1, 1, 2}, "<i4") + std::string(4, '\0') + std::string(4, '\xff');
  EXPECT_NE(refused(minus).find("cell [0, 0, 0, 1] is -1"), std::string::npos);
  const std::string full = NpyHeader({1, 1, 1, 2}, "<u4") + std::string(8, '\xff');
  EXPECT_NE(refused(full).find("has 8589934590 tokens, must have at most 4294967295"),
            std::string::npos);
}

TEST(Histogram, PercentilesAreRightToTheirResolution) {
  auto histogram = std::make_unique<Histogram>();
  EXPECT_EQ(histogram->Percentile(0.5), 0);
  for (uint64_t v = 1; v <= 100000; ++v) histogram->Add(v * 1000);
  EXPECT_NEAR(histogram->Percentile(0.5), 5e7, 5e7 / 2048);
  EXPECT_NEAR(histogram->Percentile(0.99), 9.9e7, 9.9e7 / 2048);
  EXPECT_EQ(histogram->Percentile(1), 1e8);
  EXPECT_EQ(histogram->mean(), 50000500);
  histogram->Add(0);
  histogram->Add(UINT64_MAX);
  EXPECT_EQ(histogram->max, UINT64_MAX);
}

TEST(Histogram, AWriterKilledInsideAddSpoilsOneValueAtMost) {
  auto histogram = std::make_unique<Histogram>();
  for (uint64_t v = 1; v <= 100; ++v) histogram->Add(v);
  ++histogram->buckets[Histogram::BucketOf(50)];  // as far as the killed one came
  EXPECT_EQ(histogram->count, 100u);
  EXPECT_EQ(histogram->Percentile(0.99), 98);
}

// Two ranks, two experts each, one slot: all in one process, since nothing here blocks.
class ModelStepTest : public testing::Test {
 protected:
  ModelStepTest() {
    EXPECT_EQ(shared_.Map(), "");
    for (uint32_t e = 0; e < 4; ++e)
      FillWeights({8, 8}, 1, 0, e, shared_.main_up(0, e), shared_.main_down(0, e));
  }

  // Expert 0's tokens of both ranks go to its replica in rank 1's slot (physical 5), which holds
  // the weights of `held`. Returns how many tokens differ.
  uint64_t Differ(ExpertWeights held) {
    const std::vector<int32_t> ids = {0, 1, 0, 3, 2, 0, -1, 1};
    const std::vector<int32_t> physical = {5, 1, 5, 4, 3, 5, -1, 1};
    ModelStep steps[2] = {{&shared_, 0, 2, 1}, {&shared_, 1, 2, 1}};
    for (ModelStep& step : steps) step.Begin(0, 0, ids);
    for (ModelStep& step : steps) step.Dispatch(physical);
    EXPECT_EQ(steps[0].Compute({{}}), std::vector<uint64_t>{0});
    EXPECT_EQ(steps[1].Compute({held}), std::vector<uint64_t>{6});
    return steps[0].Check() + steps[1].Check();
  }

  SharedState shared_{{{2, 4, 1, 0}, 1, {8, 8}, 8}};
};

TEST_F(ModelStepTest, AReplicaWithTheMainWeightsGivesTheSameBits) {
  EXPECT_EQ(Differ({shared_.main_up(0, 0), shared_.main_down(0, 0)}), 0u);
  EXPECT_EQ(shared_.home_tokens(0)[0], 5u);
  EXPECT_EQ(shared_.home_tokens(0)[1], 2u);
}

TEST_F(ModelStepTest, WrongOrMissingWeightsAreFound) {
  EXPECT_EQ(Differ({shared_.main_up(0, 1), shared_.main_down(0, 1)}), 6u);
  EXPECT_EQ(Differ({}), 6u);
}

}  // namespace
}  // namespace ultraep::replay
