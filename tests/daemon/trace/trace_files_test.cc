// Traces written and read again, cut off, and with hostile contents.
#include "daemon/trace/trace_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "daemon/trace/trace_writer.h"
#include "protocol/verdict_board.h"
#include "tests/support/random.h"

namespace ultraep::trace {
namespace {

namespace fs = std::filesystem;

constexpr PlanShape kShape{4, 8, 2, 0};

class TraceFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "trace-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    directory_ = root_ + "/trace";
  }
  void TearDown() override { fs::remove_all(root_); }

  TraceInfo Info() const {
    TraceInfo info;
    info.group = "g";
    info.shape = kShape;
    info.layers = 2;
    info.slot_sets = 1;
    return info;
  }

  // Adds a step with a real plan.
  std::string AddStep(TraceWriter* writer, uint64_t number) {
    test::Random random(number + 1);
    std::vector<uint32_t> tokens(kShape.ranks * kShape.experts);
    for (uint32_t i = 0; i < tokens.size(); ++i)
      tokens[i] = uint32_t(random.Below(i % kShape.experts < 2 ? 400 : 40));
    const LoadView load{tokens.data(), kShape.ranks, kShape.experts};
    Plan plan;
    SolvePlan(kShape, load, {}, &workspace_, &plan);
    StepRow row;
    row.sequence = int64_t(number);
    row.layer = int64_t(number % 2);
    row.microbatch = int64_t(number / 2);
    row.verdict = int64_t(Verdict::kPlan);
    row.tokens = int64_t(plan.certificate.total);
    row.peak_before = int64_t(plan.certificate.peak_before);
    row.peak = int64_t(plan.certificate.peak);
    row.lower_bound = int64_t(plan.certificate.lower_bound);
    loads_.push_back(tokens);
    plans_.push_back(plan.replicas);
    return writer->Add(row, load, plan.replicas);
  }
  void Write(uint64_t steps) {
    TraceWriter writer;
    ASSERT_EQ(writer.Create(directory_, Info(), {}, false), "");
    for (uint64_t i = 0; i < steps; ++i) ASSERT_EQ(AddStep(&writer, i), "");
    ASSERT_EQ(writer.Flush(), "");
  }
  std::string File(const char* name) const { return directory_ + "/" + name; }
  std::string Text(const char* name) const {
    std::ifstream file(File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Put(const char* name, const std::string& bytes) {
    std::ofstream(File(name), std::ios::binary) << bytes;
  }
  void Patch(const char* name, uint64_t offset, int64_t value) {
    std::string bytes = Text(name);
    bytes.replace(offset, 8, reinterpret_cast<const char*>(&value), 8);
    Put(name, bytes);
  }
  StepRow Row(uint64_t step) const {
    StepRow row;
    std::memcpy(&row, Text(kStepsFile).data() + kNpyHeaderBytes + step * sizeof row, sizeof row);
    return row;
  }
  // What reading everything says.
  std::string ReadAll() {
    TraceFiles trace;
    if (std::string wrong = trace.Open(directory_); !wrong.empty()) return wrong;
    TraceStep step;
    for (uint64_t i = 0; i < trace.steps(); ++i)
      if (std::string wrong = trace.Read(i, &step); !wrong.empty()) return wrong;
    return "";
  }

  std::string root_, directory_;
  PlanWorkspace workspace_;
  std::vector<std::vector<uint32_t>> loads_;
  std::vector<std::vector<Replica>> plans_;
};

TEST_F(TraceFilesTest, WhatIsWrittenIsRead) {
  Write(20);
  TraceFiles trace;
  ASSERT_EQ(trace.Open(directory_), "");
  EXPECT_EQ(trace.steps(), 20u);
  EXPECT_EQ(trace.info().group, "g");
  EXPECT_EQ(trace.shape().slots, 2u);
  uint64_t replicas = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    TraceStep step;
    ASSERT_EQ(trace.Read(i, &step), "");
    EXPECT_EQ(step.tokens, loads_[i]);
    EXPECT_EQ(step.replicas, plans_[i]);
    EXPECT_EQ(step.row.sequence, int64_t(i));
    EXPECT_LT(step.row.peak, step.row.peak_before);
    replicas += step.replicas.size();
  }
  EXPECT_EQ(trace.info().replicas, replicas);
  EXPECT_GT(replicas, 0u);
}

TEST_F(TraceFilesTest, AnExistingTraceIsNotOverwrittenUnlessAskedFor) {
  Write(3);
  TraceWriter writer;
  EXPECT_NE(writer.Create(directory_, Info(), {}, false).find("--force"), std::string::npos);
  EXPECT_EQ(ReadAll(), "");
  TraceWriter forced;
  ASSERT_EQ(forced.Create(directory_, Info(), {}, true), "");
  ASSERT_EQ(AddStep(&forced, 0), "");
  ASSERT_EQ(forced.Flush(), "");
  TraceFiles trace;
  ASSERT_EQ(trace.Open(directory_), "");
  EXPECT_EQ(trace.steps(), 1u);
}

TEST_F(TraceFilesTest, LimitsHold) {
  TraceWriter writer;
  ASSERT_EQ(writer.Create(directory_, Info(), {5, 12'000}, false), "");
  uint64_t steps = 0;
  for (; writer.Fits(16); ++steps) ASSERT_EQ(AddStep(&writer, steps), "");
  EXPECT_EQ(steps, 5u);
  TraceWriter small;
  ASSERT_EQ(small.Create(root_ + "/small", Info(), {UINT64_MAX, 12'000}, false), "");
  for (steps = 0; small.Fits(16); ++steps) ASSERT_EQ(AddStep(&small, steps), "");
  ASSERT_EQ(small.Flush(), "");
  uint64_t bytes = 0;
  for (const auto& file : fs::directory_iterator(root_ + "/small")) bytes += file.file_size();
  EXPECT_LE(bytes, 12'000u);
  EXPECT_GT(steps, 5u);
}

TEST_F(TraceFilesTest, ARecorderThatWasKilledLeavesWholeSteps) {
  Write(10);
  // Headers that promise more than came, in every place where a file can end.
  const std::string loads = Text(kLoadsFile), steps = Text(kStepsFile), all = Text(kReplicasFile);
  for (uint64_t cut = 0; cut < loads.size() - kNpyHeaderBytes; cut += 100) {
    Put(kLoadsFile, loads.substr(0, loads.size() - cut));
    TraceFiles trace;
    ASSERT_EQ(trace.Open(directory_), "");
    EXPECT_EQ(trace.steps(), 10 - (cut + 127) / 128);
    EXPECT_EQ(trace.lost(), (cut + 127) / 128);
    EXPECT_EQ(ReadAll(), "");
  }
  Put(kLoadsFile, loads);
  for (uint64_t cut = 1; cut < all.size() - kNpyHeaderBytes; cut += 40) {
    Put(kReplicasFile, all.substr(0, all.size() - cut));
    TraceFiles trace;
    ASSERT_EQ(trace.Open(directory_), "");
    EXPECT_LT(trace.steps(), 10u);
    EXPECT_EQ(ReadAll(), "");
  }
}

TEST_F(TraceFilesTest, WhatIsDiscardedIsGoneAndNothingElse) {
  TraceWriter writer;
  ASSERT_EQ(writer.Create(directory_, Info(), {}, false), "");
  ASSERT_EQ(AddStep(&writer, 0), "");
  writer.Discard();
  EXPECT_FALSE(fs::exists(directory_));
  Write(1);
  Put("other", "x");
  TraceWriter refused;
  EXPECT_NE(refused.Create(directory_, Info(), {}, false), "");
  refused.Discard();
  EXPECT_EQ(ReadAll(), "");
  TraceWriter forced;
  ASSERT_EQ(forced.Create(directory_, Info(), {}, true), "");
  forced.Discard();
  EXPECT_EQ(fs::directory_iterator(directory_)->path().filename(), "other");
}

TEST_F(TraceFilesTest, AFullDiskLosesNothingThatWasWritten) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 2 << 20;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  TraceWriter writer;
  EXPECT_EQ(writer.Create(directory_, Info(), {}, false), "");
  std::string wrong;
  for (uint64_t i = 0; i < 40'000 && wrong.empty(); ++i) {
    wrong = AddStep(&writer, i % 7);
    if (wrong.empty() && i % 1000 == 0) wrong = writer.Flush();
  }
  writer.Flush();
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_NE(wrong.find("cannot be written"), std::string::npos) << wrong;
  TraceFiles trace;
  ASSERT_EQ(trace.Open(directory_), "");
  EXPECT_GT(trace.steps(), 10'000u);
  EXPECT_EQ(ReadAll(), "");
}

TEST_F(TraceFilesTest, NumbersThatCannotBeAreNamed) {
  Write(4);
  struct Case {
    const char* file;
    uint64_t cell;
    int64_t value;
    const char* text;
  };
  const Case cases[] = {
      {kStepsFile, 1, 2, "layer is 2"},
      {kStepsFile, 3, 9, "verdict is 9"},
      {kStepsFile, 4, 4, "reason is 4"},
      {kStepsFile, 4, -1, "reason is -1"},
      {kStepsFile, 7, Row(0).peak + 1, "peak is"},
      {kStepsFile, 8, Row(0).peak + 1, "must rise"},
      {kReplicasFile, 0, 1, "is said to be of step 1"},
      {kReplicasFile, 5, 1, "peak is"},
      {kStepsFile, 5, -1, "has the number -1"},
      {kStepsFile, 5, 1 << 30, "loads.npy"},
      {kStepsFile, 7, INT64_MAX, "must rise"},
      {kStepsFile, 9, INT64_MAX, "replicas from row 0"},
      {kStepsFile, 10, INT64_MAX, "replicas"},
      {kReplicasFile, 1, 8, "expert out of range"},
      {kReplicasFile, 2, -5, "no replica can"},
      {kReplicasFile, 2, 4, "rank out of range"},
      {kReplicasFile, 3, 2, "slot out of range"},
      {kReplicasFile, 4, 0, "parent"},
      {kReplicasFile, 5, INT64_MAX, "exceed"},
  };
  for (const Case& c : cases) {
    const std::string good = Text(c.file);
    Patch(c.file, kNpyHeaderBytes + c.cell * 8, c.value);
    const std::string wrong = ReadAll();
    EXPECT_NE(wrong.find(c.text), std::string::npos) << c.file << " " << c.cell << ": " << wrong;
    EXPECT_NE(wrong.find("step 0"), std::string::npos) << wrong;
    Put(c.file, good);
  }
  EXPECT_EQ(ReadAll(), "");
}

TEST_F(TraceFilesTest, MetadataThatCannotBeIsRefused) {
  Write(2);
  const std::string good = Text(kInfoFile);
  const auto with = [&good](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const std::string& text :
       {std::string("{"), std::string("[]"), with("ultraep-trace", "other"),
        with("\"version\": 1", "\"version\": 2"), with("\"ranks\": 4", "\"ranks\": 100000"),
        with("\"ranks\": 4", "\"ranks\": -4"), with("\"experts\": 8", "\"experts\": 9"),
        with("\"ranks\": 4", "\"ranks\": \"4\""), with("\"slots\": 2", "\"slots\": 33"),
        with("\"experts\": 8", "\"experts\": 16"), with("\"ranks\": 4", "\"ranks\": 1e300")}) {
    Put(kInfoFile, text);
    EXPECT_NE(ReadAll(), "") << text;
  }
  Put(kInfoFile, good);
  fs::remove(File(kStepsFile));
  EXPECT_NE(ReadAll().find("steps.npy"), std::string::npos);
}

TEST_F(TraceFilesTest, NoMutationEndsTheReader) {
  Write(6);
  test::Random random(7);
  for (const char* file : {kLoadsFile, kStepsFile, kReplicasFile, kInfoFile}) {
    const std::string good = Text(file);
    for (int round = 0; round < 100; ++round) {
      std::string bytes = good;
      for (uint64_t k = 0; k <= random.Below(4); ++k)
        bytes[random.Below(random.Below(2) ? 128 : bytes.size())] = char(random.Next());
      if (random.Below(4) == 0) bytes.resize(random.Below(bytes.size()));
      Put(file, bytes);
      ReadAll();  // the sanitizers watch
    }
    Put(file, good);
  }
  EXPECT_EQ(ReadAll(), "");
}

}  // namespace
}  // namespace ultraep::trace
