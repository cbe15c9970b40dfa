// The recorder on rings that this test fills as the daemon does, and on ones that no daemon would.
#include "daemon/trace/record.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "daemon/trace/trace_files.h"
#include "protocol/verdict_board.h"

namespace {
// Called at every look at the clock, which then goes on by 10 ms.
std::function<void()> at_clock;
timespec made_now{1000, 0};
}  // namespace

// In place of the C library's.
extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  if (!at_clock) return int(syscall(SYS_clock_gettime, clock, now));
  at_clock();
  made_now.tv_nsec += 10'000'000;
  made_now.tv_sec += made_now.tv_nsec / 1'000'000'000;
  made_now.tv_nsec %= 1'000'000'000;
  *now = made_now;
  return 0;
}

namespace ultraep::trace {
namespace {

constexpr uint64_t kCapacity = 4096;

TraceStarted Started() {
  TraceStarted started;
  SetText(started.config.name, "g");
  started.config.ranks = 2;
  started.config.experts = 6;
  started.config.slots = 1;
  started.config.layers = 3;
  started.config.window = 8;
  started.config.slot_sets = 1;
  started.config.step_timeout_ns = 1'000'000'000;
  started.epsilon_ppm = 5000;
  started.variants = 8;
  return started;
}

// The writing end, by the rules of trace_ring.h.
class Ring {
 public:
  explicit Ring(uint64_t capacity = kCapacity, bool sealed = true) {
    file_ = Descriptor(memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const uint64_t bytes = sizeof(TraceRing) + kCapacity;
    EXPECT_EQ(ftruncate(file_.get(), off_t(bytes)), 0);
    if (sealed) fcntl(file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    EXPECT_EQ(mapping_.Map(file_.get(), 0, bytes, true), "");
    ring()->capacity.value.store(capacity);
  }
  int fd() const { return file_.get(); }
  TraceRing* ring() { return reinterpret_cast<TraceRing*>(mapping_.base()); }

  void Put(const void* bytes, uint64_t count) {
    AroundRing(kCapacity, head_, count, [&](uint64_t begin, uint64_t done, uint64_t part) {
      CopyToShared(ring()->data() + begin, static_cast<const char*>(bytes) + done, part);
    });
    head_ += count;
  }
  static std::vector<uint32_t> Load(uint32_t tokens) {
    std::vector<uint32_t> load(12, tokens);
    load[0] += 10;  // expert 0, from rank 0
    return load;
  }
  // False when the ring has no room; then the step is dropped and counted. Replicas are none, one
  // of expert 0 with 5 tokens, or that and one which brings as many back.
  bool Add(uint64_t sequence, const std::vector<Replica>& replicas, uint32_t tokens = 10) {
    const PlanShape shape = Started().config.shape();
    TraceRecord record;
    record.bytes = TraceRecordBytes(shape, uint32_t(replicas.size()));
    if (kCapacity - (head_ - ring()->tail.value.load()) < record.bytes) {
      ring()->dropped.value.fetch_add(1);
      return false;
    }
    record.sequence = sequence;
    record.generation = 77 + sequence / 50;
    record.layer = uint32_t(sequence % 3);
    record.microbatch = uint32_t(sequence / 3);
    record.verdict = uint16_t(Verdict::kPlan);
    record.replicas = uint32_t(replicas.size());
    const uint64_t mains = 6 * uint64_t{tokens};  // of one rank
    record.certificate = {2 * mains + 10, mains + 10, mains + (replicas.size() == 1 ? 5 : 10),
                          mains + 5};
    const std::vector<uint32_t> load = Load(tokens);
    Put(&record, sizeof record);
    Put(load.data(), 48);
    Put(replicas.data(), replicas.size() * sizeof(Replica));
    ring()->head.value.store(head_, std::memory_order_release);
    return true;
  }

 private:
  Descriptor file_;
  Mapping mapping_;
  uint64_t head_ = 0;
};

class RecordTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "record-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    options_.directory = name;
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    ours_ = Descriptor(ends[0]);
    daemons_ = Descriptor(ends[1]);
  }
  void TearDown() override { std::filesystem::remove_all(options_.directory); }

  std::string Run(const Ring& ring, const TraceStarted& started = Started()) {
    return Record(
        ours_.get(), ring.fd(), started, options_, [](const RecordState&) {}, &state_);
  }

  Descriptor ours_, daemons_;
  RecordOptions options_;
  RecordState state_;
};

Replica Copy(uint32_t expert, uint16_t rank, uint64_t tokens) {
  Replica replica;
  replica.expert = expert;
  replica.rank = rank;
  replica.tokens = tokens;
  return replica;
}

TEST_F(RecordTest, EveryStepArrivesThoughTheRingGoesRoundManyTimes) {
  Ring ring;
  constexpr uint64_t kSteps = 500;
  std::thread daemon([&] {
    for (uint64_t i = 0; i < kSteps;) {
      const std::vector<Replica> replicas = {Copy(0, 1, 5), Copy(3, 0, 5)};
      // Waits where the real one drops.
      if (ring.Add(i, {replicas.begin(), replicas.begin() + int(i % 3)})) ++i;
    }
    ring.ring()->dropped.value.store(4);
    daemons_.reset();
  });
  EXPECT_EQ(Run(ring), "");
  daemon.join();
  EXPECT_EQ(state_.steps, kSteps);
  EXPECT_EQ(state_.dropped, 4u);
  EXPECT_EQ(state_.ended, "the daemon closed the connection");
  TraceFiles trace;
  ASSERT_EQ(trace.Open(options_.directory), "");
  ASSERT_EQ(trace.steps(), kSteps);
  EXPECT_EQ(trace.info().dropped, 4u);
  for (uint64_t i = 0; i < kSteps; ++i) {
    TraceStep step;
    ASSERT_EQ(trace.Read(i, &step), "");
    EXPECT_EQ(step.row.sequence, int64_t(i));
    EXPECT_EQ(step.row.generation, int64_t(i / 50));
    EXPECT_EQ(step.replicas.size(), i % 3);
    EXPECT_EQ(step.tokens, Ring::Load(10));
  }
}

TEST_F(RecordTest, ItStopsAtItsLimits) {
  Ring ring;
  for (uint64_t i = 0; ring.Add(i, {}); ++i) continue;
  options_.limits.steps = 7;
  EXPECT_EQ(Run(ring), "");
  EXPECT_EQ(state_.steps, 7u);
  EXPECT_EQ(state_.ended, "step limit");
}

TEST_F(RecordTest, TheTimeLimitAndASignalEndIt) {
  Ring ring;
  std::atomic<bool> stop{true};
  options_.stop = &stop;
  EXPECT_EQ(Run(ring), "");
  EXPECT_EQ(state_.ended, "signal");
  options_.stop = nullptr;
  options_.force = true;
  options_.seconds = 0.01;
  state_ = {};
  EXPECT_EQ(Run(ring), "");
  EXPECT_EQ(state_.ended, "time limit");
}

TEST_F(RecordTest, ItEndsAlsoWhenTheRingIsNeverEmpty) {
  for (const bool by_signal : {false, true}) {
    Ring ring;
    uint64_t looks = 0, sequence = 0;
    std::atomic<bool> stop{by_signal};
    options_.stop = &stop;
    options_.force = true;
    options_.seconds = by_signal ? 0 : 2;
    at_clock = [&] {
      if (++looks > 100'000) return;  // so that a recorder that never looks at it ends as well
      while (ring.Add(sequence, {})) ++sequence;
    };
    state_ = {};
    uint64_t shown = 0;
    EXPECT_EQ(Record(
                  ours_.get(), ring.fd(), Started(), options_,
                  [&shown](const RecordState&) { ++shown; }, &state_),
              "");
    at_clock = nullptr;
    EXPECT_EQ(state_.ended, by_signal ? "signal" : "time limit");
    EXPECT_LT(looks, 1000u);
    if (!by_signal) {
      EXPECT_GT(shown, 2u);
    }
  }
}

TEST_F(RecordTest, WhatIsInTheRingWhenTheDaemonEndsIsStillTaken) {
  Ring ring;
  uint64_t sequence = 0;
  at_clock = [&] {
    while (sequence < 500 && ring.Add(sequence, {})) ++sequence;
  };
  daemons_.reset();
  EXPECT_EQ(Run(ring), "");
  at_clock = nullptr;
  EXPECT_EQ(state_.steps, 500u);
  EXPECT_EQ(state_.ended, "the daemon closed the connection");
}

TEST_F(RecordTest, FallbacksAreCountedFromTheirLoads) {
  Ring ring;
  TraceRecord record;
  record.bytes = TraceRecordBytes(Started().config.shape(), 0);
  record.verdict = uint16_t(Verdict::kFallback);
  record.reason = uint16_t(FallbackReason::kOrderMismatch);
  const std::vector<uint32_t> load = {1, 2, 3, 4, 5, 6, 1, 1, 1, 1, 1, 1};
  ring.Put(&record, sizeof record);
  ring.Put(load.data(), 48);
  ring.ring()->head.value.store(record.bytes);
  daemons_.reset();
  EXPECT_EQ(Run(ring), "");
  TraceFiles trace;
  TraceStep step;
  ASSERT_EQ(trace.Open(options_.directory), "");
  ASSERT_EQ(trace.Read(0, &step), "");
  EXPECT_EQ(step.row.tokens, 27);
  EXPECT_EQ(step.row.peak, 18);
  EXPECT_EQ(step.row.reason, 2);
}

TEST_F(RecordTest, ARingThatCannotBeIsRefused) {
  EXPECT_NE(Run(Ring(4000)).find("capacity is 4000"), std::string::npos);
  EXPECT_NE(Run(Ring(8192)).find("capacity is 8192"), std::string::npos);
  EXPECT_NE(Run(Ring(0)).find("capacity is 0"), std::string::npos);
  EXPECT_NE(Run(Ring(kCapacity, false)).find("not sealed"), std::string::npos);
  TraceStarted started = Started();
  started.config.ranks = 5;
  EXPECT_NE(Run(Ring(), started).find("cannot be"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(options_.directory));
}

TEST_F(RecordTest, ABrokenRingEndsTheRecordingAndKeepsWhatCame) {
  for (int kind = 0; kind < 4; ++kind) {
    Ring ring;
    ring.Add(0, {});
    const uint64_t head = ring.ring()->head.value.load();
    TraceRecord record;
    record.bytes = kind == 0 ? 8 : kind == 1 ? uint64_t{1} << 60 : head;
    record.replicas = kind == 2 ? UINT32_MAX : 0;
    ring.Put(&record, sizeof record);
    ring.ring()->head.value.store(kind == 3 ? head + kCapacity * 3 : head + sizeof record);
    options_.force = true;
    state_ = {};
    EXPECT_NE(Run(ring).find("trace ring"), std::string::npos) << kind;
    EXPECT_EQ(state_.steps, kind == 3 ? 0u : 1u) << kind;
    TraceFiles trace;
    ASSERT_EQ(trace.Open(options_.directory), "");
    EXPECT_EQ(trace.steps(), state_.steps);
  }
}

}  // namespace
}  // namespace ultraep::trace
