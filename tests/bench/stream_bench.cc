// `ultraep-bench stream`: how fast this machine moves expert weights into slots beside a plain copy
// of the same bytes, and how long the relay schedules take on the modelled network beside their
// bound and the baselines.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/planner/baselines/ultraep_heuristic.h"
#include "daemon/planner/baselines/ultraep_relay.h"
#include "daemon/planner/solve_plan.h"
#include "kernels/copy_bytes.h"
#include "kernels/stream_weights.h"
#include "nlohmann/json.hpp"
#include "protocol/transport/waiting.h"
#include "tests/bench/bench.h"
#include "tests/support/memory_group.h"
#include "tests/support/network_model.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;
using planner::Piece;

// Bytes that the measured transfers move per timing: long enough for a clock, short enough to wait.
constexpr uint64_t kMinBytes = 256 << 20;

struct Free {
  void operator()(unsigned char* p) const { std::free(p); }
};
using Memory = std::unique_ptr<unsigned char, Free>;

// Touched, so that no page fault is timed.
Memory Touched(uint64_t bytes, int value) {
  const uint64_t whole = RoundUp(bytes, kLine);
  auto* at = static_cast<unsigned char*>(std::aligned_alloc(kLine, whole));
  if (!at) throw std::bad_alloc();
  std::memset(at, value, whole);
  return Memory(at);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + long(values.size() / 2), values.end());
  return values[values.size() / 2];
}

template <class Run>
double GbPerSecond(uint64_t bytes, const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return double(bytes) / took.count() * 1e-9;
}

// A destination accepts when it has forwarded what came before. Waits give the CPU away: on this
// machine who is waited for may need it.
class BenchWaits : public StreamWaits {
 public:
  explicit BenchWaits(const std::vector<std::atomic<uint64_t>>& sent) : sent_(sent) {}
  bool Accepted(uint32_t destination, uint32_t, uint64_t number) override {
    while (sent_[destination].load(std::memory_order_acquire) + 1 < number)
      std::this_thread::yield();
    return true;
  }
  bool Chunk(const std::atomic<uint64_t>& flag, uint64_t number, uint32_t) override {
    while (flag.load(std::memory_order_acquire) != number) std::this_thread::yield();
    return true;
  }

 private:
  const std::vector<std::atomic<uint64_t>>& sent_;  // [rank] the last operation it has sent
};

// A group whose ranks are threads of this process; its slots hold whatever the plan sends.
class Group {
 public:
  Group(const PlanShape& shape, uint64_t expert_bytes)
      : expert_bytes_(expert_bytes), memory_(Config(shape, expert_bytes)), sent_(shape.ranks) {
    for (uint32_t r = 0; r < shape.ranks; ++r)
      mains_.push_back(Touched(shape.experts_per_rank() * expert_bytes, int(r) + 1));
  }

  // `rounds` whole transfers: every rank that sends is a thread.
  void Stream(const PlanShape& shape, const std::vector<Replica>& replicas, uint64_t rounds) {
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < shape.ranks; ++r) {
      bool sends = false;
      for (uint32_t i = 0; i < replicas.size(); ++i)
        sends |= SenderOf(shape, replicas.data(), i) == r;
      if (!sends) sent_[r] = UINT64_MAX / 2;
      if (sends) threads.emplace_back([&, r] { Send(r, shape, replicas, rounds); });
    }
    for (auto& t : threads) t.join();
    number_ += rounds;
  }

 private:
  static GroupConfig Config(const PlanShape& shape, uint64_t expert_bytes) {
    GroupConfig c = test::SmallConfig(shape.ranks, shape.experts, shape.slots, 1);
    c.shard_count = 1;
    c.shard_bytes[0] = expert_bytes;
    return c;
  }

  void Send(uint32_t rank, const PlanShape& shape, const std::vector<Replica>& replicas,
            uint64_t rounds) {
    std::vector<const void*> mains;
    for (uint32_t e = 0; e < shape.experts_per_rank(); ++e)
      mains.push_back(mains_[rank].get() + e * expert_bytes_);
    StreamOperation op;
    op.shape = shape;
    op.replicas = replicas;
    op.mains = mains.data();
    BenchWaits waits(sent_);
    StreamTally tally;
    for (op.number = number_ + 1; op.number <= number_ + rounds; ++op.number) {
      SendWeights(memory_.boards(), rank, op, &waits, &tally);
      sent_[rank].store(op.number, std::memory_order_release);
    }
  }

  const uint64_t expert_bytes_;
  test::MemoryGroup memory_;
  std::vector<Memory> mains_;
  std::vector<std::atomic<uint64_t>> sent_;  // [rank]
  uint64_t number_ = 0;
};

struct Pattern {
  const char* name;
  PlanShape shape;
  std::vector<Replica> replicas;
};

// Ranks are few: each one's slots hold real experts, and this machine's copy limit is reached soon.
std::vector<Pattern> Patterns() {
  return {
      {"one to one", {2, 2, 1, 0}, {{0, 1, 0, -1, 0, 1}}},
      {"fan-out of 3",
       {4, 4, 1, 0},
       {{0, 1, 0, -1, 0, 1}, {0, 2, 0, -1, 0, 1}, {0, 3, 0, -1, 0, 1}}},
      {"chain of 3", {4, 4, 1, 0}, {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}, {0, 3, 0, 1, 0, 1}}}};
}

// The copies alternate with the streams, so that a change of the machine's mood meets all of them.
Json MeasureOne(const Pattern& pattern, uint64_t expert_bytes, uint32_t repeats) {
  Group group(pattern.shape, expert_bytes);
  const uint64_t once = pattern.replicas.size() * expert_bytes;
  const uint64_t rounds = std::max<uint64_t>(1, kMinBytes / once);
  const uint64_t bytes = once * rounds;
  Memory from = Touched(expert_bytes, 1);
  std::vector<Memory> to;
  for (size_t i = 0; i < pattern.replicas.size(); ++i) to.push_back(Touched(expert_bytes, 0));
  // The same bytes to as many places, by one thread and by one per CPU that senders could use.
  size_t senders = 1;
  for (const Replica& r : pattern.replicas) senders += r.parent >= 0;
  senders = std::min<size_t>(senders, AllowedCpus());
  auto copy = [&](size_t threads, auto one) {
    std::vector<std::thread> others;
    auto part = [&](size_t first) {
      for (uint64_t k = 0; k < rounds; ++k)
        for (size_t i = first; i < to.size(); i += threads) one(to[i].get(), from.get());
    };
    for (size_t t = 1; t < threads; ++t) others.emplace_back(part, t);
    part(0);
    for (auto& t : others) t.join();
  };
  auto plain = [&](void* out, const void* in) { std::memcpy(out, in, expert_bytes); };
  auto past_caches = [&](void* out, const void* in) {
    CopyNonTemporal(out, in, expert_bytes), OrderCopies();
  };
  std::vector<double> stream, memory, past;
  for (uint32_t i = 0; i < repeats; ++i) {
    memory.push_back(GbPerSecond(bytes, [&] { copy(senders, plain); }));
    past.push_back(GbPerSecond(bytes, [&] { copy(senders, past_caches); }));
    stream.push_back(
        GbPerSecond(bytes, [&] { group.Stream(pattern.shape, pattern.replicas, rounds); }));
  }
  std::vector<double> of_best;  // of each round: what slows the machine down slows all three
  for (uint32_t i = 0; i < repeats; ++i)
    of_best.push_back(stream[i] / std::max(memory[i], past[i]));
  return {{"pattern", pattern.name},          {"executor", "host threads"},
          {"expert_bytes", expert_bytes},     {"senders", senders},
          {"gb_s", Median(stream)},           {"memcpy_gb_s", Median(memory)},
          {"past_caches_gb_s", Median(past)}, {"of_best_copy", Median(of_best)}};
}

// Of one way to send, over the loads.
struct Simulated {
  std::string name;
  double times = 0, worst = 0, us = 0, bound = 0, depth = 0, over = 0;

  void Add(const test::Makespan& m) {
    times += m.expert_times;
    worst = std::max(worst, m.expert_times);
    us += m.us;
    bound += m.bound;
    depth += m.depth;
    if (m.bound_with_flags > 0) over = std::max(over, m.expert_times / m.bound_with_flags);
  }
  Json ToJson(double n) const {
    return {{"schedule", name},
            {"makespan_us", us / n},
            {"expert_times", times / n},
            {"expert_times_worst", worst},
            {"bound", bound / n},
            {"flags", depth / n},
            {"worst_of_bound_and_flags", over}};
  }
};

std::vector<Replica> Direct(const std::vector<Piece>& pieces) {
  std::vector<Replica> replicas;
  for (const Piece& p : pieces)
    replicas.push_back({p.expert, uint16_t(p.rank), 0, -1, 0, p.tokens});
  return replicas;
}

Json SimulateLoads(const Workload& w, const test::NetworkModel& model) {
  std::vector<Simulated> rows = {{"ultraep"},
                                 {"ultraep, all direct"},
                                 {"ultraep, two-stage relay"},
                                 {"ultraep-heuristic, two-stage relay"},
                                 {"ultraep-heuristic, all direct"}};
  PlanWorkspace workspace;
  PlanOptions options;
  options.epsilon_ppm = w.epsilon_ppm;
  const LinkModel link{uint32_t(model.link_gb_s * 1e3), uint32_t(model.flag_us * 1e3)};
  options.relay_hop = link.RelayHop(model.expert_bytes, model.chunk_bytes);
  double before = 0;
  for (uint32_t i = 0; i < w.seeds; ++i) {
    ShowProgress(absl::StrFormat("load %d of %d", i + 1, w.seeds));
    const test::LoadMatrix load = w.Draw(i);
    Plan plan;
    SolvePlan(w.shape, load.view(), options, &workspace, &plan);
    std::vector<Piece> ours, theirs;
    for (const Replica& r : plan.replicas) ours.push_back({r.expert, r.rank, r.tokens});
    planner::Problem problem;
    problem.Load(w.shape, load.view(), {});
    before += Imbalance(problem.peak, problem.total, w.shape.ranks);
    planner::UltraEpHeuristic heuristic;
    heuristic.Reserve(w.shape);
    for (uint32_t d = 0; d < problem.domains(); ++d) {
      std::vector<Piece> part;
      problem.SortExperts(problem.domain(d));
      heuristic.Run(problem, problem.domain(d), &part);
      theirs.insert(theirs.end(), part.begin(), part.end());
    }
    rows[0].Add(SimulateTransfer(model, w.shape, plan.replicas));
    rows[1].Add(SimulateTransfer(model, w.shape, Direct(ours)));
    rows[2].Add(SimulateTransfer(model, w.shape, ours, UltraEpRelays(w.shape, ours)));
    rows[3].Add(SimulateTransfer(model, w.shape, theirs, UltraEpRelays(w.shape, theirs)));
    rows[4].Add(SimulateTransfer(model, w.shape, Direct(theirs)));
  }
  EndProgress();
  Json out = {{"imbalance_before", before / w.seeds}, {"expert_us", model.expert_us()}};
  for (const Simulated& row : rows) out["rows"].push_back(row.ToJson(w.seeds));
  return out;
}

void Print(const Workload& w, const Json& out) {
  const Json& model = out["simulated"];
  std::printf(
      "Modelled network: %u ranks, %u experts, %u slots, generator %s, %u loads, imbalance "
      "%.2f;\nexperts of %.2f MB on %.0f GB/s links (%.1f us), flags of %.1f us\n\n",
      w.shape.ranks, w.shape.experts, w.shape.slots, w.generator.c_str(), w.seeds,
      model["imbalance_before"].get<double>(), double(w.expert_bytes) * 1e-6, w.link_gb_s,
      model["expert_us"].get<double>(), w.flag_us);
  std::printf("%-36s %9s %13s %7s %7s %6s %11s\n", "plan, schedule", "us", "expert-times", "worst",
              "bound", "flags", "of its bound");
  for (const Json& r : model["rows"]) {
    auto value = [&r](const char* key) { return r[key].get<double>(); };
    std::printf("%-36s %9.1f %13.3f %7.3f %7.2f %6.1f %10.3fx\n",
                r["schedule"].get<std::string>().c_str(), value("makespan_us"),
                value("expert_times"), value("expert_times_worst"), value("bound"), value("flags"),
                value("worst_of_bound_and_flags"));
  }
  std::printf("\nof its bound: worst makespan over (bound + flags on the way)\n\nThis machine:\n");
  std::printf("%-14s %12s %9s %9s %12s %8s\n", "pattern", "expert MB", "GB/s", "memcpy",
              "past caches", "of best");
  for (const Json& r : out["measured"])
    std::printf("%-14s %12.2f %9.2f %9.2f %12.2f %7.2fx\n", r["pattern"].get<std::string>().c_str(),
                r["expert_bytes"].get<double>() * 1e-6, r["gb_s"].get<double>(),
                r["memcpy_gb_s"].get<double>(), r["past_caches_gb_s"].get<double>(),
                r["of_best_copy"].get<double>());
  std::printf("\nmedians of %u; copies: the same bytes by as many threads\n", w.repeats);
}

}  // namespace

int RunStreamBench(const Workload& w, bool json) {
  test::NetworkModel model;
  model.expert_bytes = w.expert_bytes;
  model.link_gb_s = w.link_gb_s;
  model.flag_us = w.flag_us;
  Json out = {{"simulated", SimulateLoads(w, model)}, {"measured", Json::array()}};
  for (const Pattern& pattern : Patterns()) {
    ShowProgress(pattern.name);
    out["measured"].push_back(MeasureOne(pattern, w.expert_bytes, w.repeats));
  }
  EndProgress();
  if (json)
    std::printf("%s\n", out.dump().c_str());
  else
    Print(w, out);
  return 0;
}

}  // namespace ultraep::bench
