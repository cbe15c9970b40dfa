#include "tests/bench/executors.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/copy_bytes.h"
#include "protocol/transport/waiting.h"
#include "tests/bench/bench.h"
#include "tests/support/memory_group.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;

// Bytes that one timing moves: long enough for a clock, short enough to wait.
constexpr uint64_t kMinBytes = 256 << 20;
constexpr uint64_t kLong = 60'000'000'000;

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

void Demand(const Result& result) {
  if (!result.ok()) throw std::runtime_error(result.text);
}

struct Pattern {
  const char* name;
  std::vector<Replica> replicas;
  uint32_t ranks() const { return uint32_t(replicas.size()) + 1; }
  uint32_t senders() const {
    uint32_t count = 1;
    for (const Replica& r : replicas) count += r.parent >= 0;
    return count;
  }
};

// Expert r lives on rank r. Few ranks: a machine's copy limit is reached soon.
std::vector<Pattern> Patterns() {
  return {{"one to one", {{0, 1, 0, -1, 0, 1}}},
          {"fan-out of 3", {{0, 1, 0, -1, 0, 1}, {0, 2, 0, -1, 0, 1}, {0, 3, 0, -1, 0, 1}}},
          {"chain of 2", {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}}},
          {"chain of 3", {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}, {0, 3, 0, 1, 0, 1}}}};
}

// While it lives, the calling thread, and those that it starts, run on `count` CPUs of this process
// from the first-th on: as ranks do that have CPUs of their own.
class OnCpus {
 public:
  OnCpus(uint32_t first, uint32_t count) {
    sched_getaffinity(0, sizeof before_, &before_);
    std::vector<int> allowed;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &before_)) allowed.push_back(cpu);
    cpu_set_t own;
    CPU_ZERO(&own);
    for (uint32_t i = 0; i < count; ++i) CPU_SET(allowed[(first + i) % allowed.size()], &own);
    sched_setaffinity(0, sizeof own, &own);
  }
  ~OnCpus() { sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

// Experts that a home takes in turn, so that caches hold none of them: layers do the same.
uint64_t Layers(uint64_t expert_bytes) { return std::max<uint64_t>(1, kMinBytes / expert_bytes); }

// One copy, from another place of several in each round.
struct Range {
  unsigned char* to;
  const unsigned char* from;
  uint64_t places, stride;
};

// A group whose ranks are in this process, each with the plugin's streamer and reducer.
class Group {
 public:
  // gradient_bytes 0: none.
  Group(const Pattern& pattern, uint64_t expert_bytes, uint64_t gradient_bytes, uint32_t threads)
      : threads_(threads),
        expert_bytes_(expert_bytes),
        apart_(pattern.senders() > 1),
        memory_(Config(pattern.ranks(), expert_bytes, gradient_bytes), threads),
        streams_{Streams(pattern.ranks()), Streams(pattern.ranks())},
        reduces_(pattern.ranks()) {
    plan_.shape = memory_.layout().config.shape();
    plan_.replicas = pattern.replicas;
    for (uint32_t r = 0; r < pattern.ranks(); ++r) {
      ranks_.push_back(memory_.Attach(r));
      mains_.push_back(Touched(expert_bytes * Layers(expert_bytes), int(r) + 1));
    }
  }

  // Operations on two slot sets in turn, so that one is issued while the other one travels.
  void Stream(uint64_t rounds) {
    for (uint64_t k = 0; k < rounds; ++k) {
      Start(uint32_t(k % 2));
      if (k > 0) Release(uint32_t((k - 1) % 2));
    }
    Release(uint32_t((rounds - 1) % 2));
  }
  // One reduction into `main` of rank 0, after Stream.
  void Reduce(void* main, GradientType type) {
    for (uint32_t r = 0; r < ranks_.size(); ++r) {
      ultraep::Stream& stream = *streams_[0][r];
      Demand(ranks_[r]->reducer->Prepare(&stream, /*zero=*/false, kLong));
      Demand(ranks_[r]->reducer->Start(stream, &main, type, false, &reduces_[r]));
    }
    for (uint32_t r = 0; r < ranks_.size(); ++r)
      Demand(ranks_[r]->reducer->Await(reduces_[r].get(), kLong));
  }

  // What the pattern moves, between the very same places: memory is not equally fast everywhere.
  std::vector<Range> Weights() const {
    std::vector<Range> all;
    for (const Replica& r : plan_.replicas) {
      const Replica* parent = r.parent < 0 ? nullptr : &plan_.replicas[size_t(r.parent)];
      all.push_back({memory_.boards().shard(r.rank, 0, r.slot, 0),
                     parent ? memory_.boards().shard(parent->rank, 0, parent->slot, 0)
                            : mains_[r.expert].get(),
                     parent ? 1 : Layers(expert_bytes_), expert_bytes_});
    }
    return all;
  }
  // One replica's gradient to another one's place.
  Range Gradients() const {
    const SlotView slots = memory_.boards().slot_view();
    return {reinterpret_cast<unsigned char*>(slots.gradient(1, 1, 0, 0)),
            reinterpret_cast<unsigned char*>(slots.gradient(1, 0, 0, 0)), 1, 0};
  }

 private:
  void Start(uint32_t set) {
    for (uint32_t r = 0; r < ranks_.size(); ++r) {
      const void* main = mains_[r].get() + layer_ * expert_bytes_;
      std::optional<OnCpus> here;
      if (!streamed_ && apart_) here.emplace(r * threads_, threads_);  // its threads start now
      Demand(ranks_[r]->streamer->Start(plan_, streamed_, set, &main, &streams_[set][r]));
    }
    streamed_ = true;
    layer_ = (layer_ + 1) % Layers(expert_bytes_);
  }
  void Release(uint32_t set) {
    for (uint32_t r = 0; r < ranks_.size(); ++r)
      Demand(ranks_[r]->streamer->Release(streams_[set][r].get(), kLong));
  }
  static GroupConfig Config(uint32_t ranks, uint64_t expert_bytes, uint64_t gradient_bytes) {
    GroupConfig c = test::SmallConfig(ranks, ranks, 1, 1);
    c.slot_sets = 2;
    c.shard_count = 1;
    c.shard_bytes[0] = expert_bytes;
    c.training = c.gradient_count = gradient_bytes > 0;
    c.gradient_bytes[0] = gradient_bytes;
    return c;
  }

  const uint32_t threads_;
  const uint64_t expert_bytes_;
  const bool apart_;  // several ranks send: each on CPUs of its own
  test::MemoryGroup memory_;
  RecordedPlan plan_;
  std::vector<Memory> mains_;
  std::vector<std::shared_ptr<Generation>> ranks_;
  using Streams = std::vector<std::shared_ptr<ultraep::Stream>>;
  Streams streams_[2];  // [slot set][rank]
  std::vector<std::shared_ptr<ultraep::Reduce>> reduces_;
  bool streamed_ = false;
  uint64_t layer_ = 0;
};

// Plain copies of `bytes` each, by `threads` threads, each with its part of every copy.
template <class One>
void Copy(const std::vector<Range>& ranges, uint64_t bytes, uint64_t rounds, uint64_t threads,
          const One& one) {
  auto part = [&](uint64_t t) {
    const uint64_t begin = bytes * t / threads / kLine * kLine;
    const uint64_t end = t + 1 == threads ? bytes : bytes * (t + 1) / threads / kLine * kLine;
    for (uint64_t k = 0; k < rounds; ++k)
      for (const Range& r : ranges)
        one(r.to + begin, r.from + k % r.places * r.stride + begin, end - begin);
  };
  std::vector<std::thread> others;
  for (uint64_t t = 1; t < threads; ++t) others.emplace_back(part, t);
  part(0);
  for (auto& t : others) t.join();
}

void PlainCopy(void* to, const void* from, uint64_t bytes) { std::memcpy(to, from, bytes); }
void PastCaches(void* to, const void* from, uint64_t bytes) {
  CopyNonTemporal(to, from, bytes);
  OrderCopies();
}

// The copies alternate with the streams, so that a change of the machine's mood meets all of them.
Json MeasureStreams(const Pattern& pattern, uint32_t threads, uint64_t expert_bytes,
                    uint32_t repeats) {
  Group group(pattern, expert_bytes, 0, threads);
  const std::vector<Range> ranges = group.Weights();
  const uint64_t once = pattern.replicas.size() * expert_bytes;
  const uint64_t rounds = std::max<uint64_t>(1, kMinBytes / once);
  const uint64_t copiers = uint64_t{pattern.senders()} * threads;
  std::vector<double> stream, memory, past, of_best;
  for (uint32_t i = 0; i < repeats; ++i) {
    memory.push_back(GbPerSecond(once * rounds,
                                 [&] { Copy(ranges, expert_bytes, rounds, copiers, PlainCopy); }));
    past.push_back(GbPerSecond(once * rounds,
                               [&] { Copy(ranges, expert_bytes, rounds, copiers, PastCaches); }));
    stream.push_back(GbPerSecond(once * rounds, [&] { group.Stream(rounds); }));
    of_best.push_back(stream[i] / std::max(memory[i], past[i]));
  }
  return {{"pattern", pattern.name},          {"threads", threads},
          {"expert_bytes", expert_bytes},     {"copy_threads", copiers},
          {"gb_s", Median(stream)},           {"memcpy_gb_s", Median(memory)},
          {"past_caches_gb_s", Median(past)}, {"of_best_copy", Median(of_best)}};
}

// Three replicas' gradients into one main gradient. Bytes are all that is read or written, for the
// copy beside it too: twice what it copies.
Json MeasureReductions(GradientType type, uint32_t threads, uint64_t expert_bytes,
                       uint32_t repeats) {
  const Pattern pattern = Patterns()[1];
  const uint64_t elements = std::max<uint64_t>(1, expert_bytes / 2);  // of bf16 weights
  const uint64_t size = type == GradientType::kFloat32 ? 4 : 2;
  Group group(pattern, expert_bytes, elements * 4, threads);
  Memory main = Touched(elements * size, 0);
  const std::vector<Range> ranges = {group.Gradients()};
  group.Stream(1);
  const uint64_t once = elements * (pattern.replicas.size() * 4 + 2 * size);
  const uint64_t rounds = std::max<uint64_t>(1, kMinBytes / once);
  const uint64_t copied = std::max<uint64_t>(1, kMinBytes / (elements * 8));
  const uint64_t copiers = std::min<uint64_t>(threads, AllowedCpus());
  std::vector<double> reduce, memory, of_copy;
  for (uint32_t i = 0; i < repeats; ++i) {
    memory.push_back(GbPerSecond(elements * 8 * copied,
                                 [&] { Copy(ranges, elements * 4, copied, copiers, PlainCopy); }));
    reduce.push_back(GbPerSecond(once * rounds, [&] {
      for (uint64_t k = 0; k < rounds; ++k) group.Reduce(main.get(), type);
    }));
    of_copy.push_back(reduce[i] / memory[i]);
  }
  return {{"main_gradients", type == GradientType::kFloat32 ? "float32" : "bfloat16"},
          {"threads", threads},
          {"replicas", pattern.replicas.size()},
          {"elements", elements},
          {"gb_s", Median(reduce)},
          {"memcpy_gb_s", Median(memory)},
          {"of_copy", Median(of_copy)}};
}

}  // namespace

Json MeasureExecutors(uint64_t expert_bytes, uint32_t repeats) {
  Json out = {{"weights", Json::array()}, {"gradients", Json::array()}};
  std::vector<uint32_t> counts = {1};
  if (AllowedCpus() > 1) counts.push_back(std::min(AllowedCpus(), 4u));
  for (const uint32_t threads : counts) {
    for (const Pattern& pattern : Patterns()) {
      if (pattern.senders() * threads > AllowedCpus()) continue;  // would measure the scheduler
      ShowProgress(absl::StrFormat("%s, %d threads", pattern.name, threads));
      out["weights"].push_back(MeasureStreams(pattern, threads, expert_bytes, repeats));
    }
    for (const GradientType type : {GradientType::kFloat32, GradientType::kBfloat16}) {
      ShowProgress(absl::StrFormat("reduction, %d threads", threads));
      out["gradients"].push_back(MeasureReductions(type, threads, expert_bytes, repeats));
    }
  }
  EndProgress();
  return out;
}

void PrintExecutors(const Json& measured, uint32_t repeats) {
  std::printf("\nThis machine, weights into slots:\n%-14s %7s %10s %8s %8s %12s %8s\n", "pattern",
              "threads", "expert MB", "GB/s", "memcpy", "past caches", "of best");
  for (const Json& r : measured["weights"])
    std::printf("%-14s %7u %10.2f %8.2f %8.2f %12.2f %7.2fx\n",
                r["pattern"].get<std::string>().c_str(), r["threads"].get<uint32_t>(),
                r["expert_bytes"].get<double>() * 1e-6, r["gb_s"].get<double>(),
                r["memcpy_gb_s"].get<double>(), r["past_caches_gb_s"].get<double>(),
                r["of_best_copy"].get<double>());
  std::printf("\nThis machine, gradients of three replicas added:\n%-14s %7s %10s %8s %8s %21s\n",
              "main", "threads", "M elements", "GB/s", "memcpy", "of memcpy");
  for (const Json& r : measured["gradients"])
    std::printf("%-14s %7u %10.2f %8.2f %8.2f %20.2fx\n",
                r["main_gradients"].get<std::string>().c_str(), r["threads"].get<uint32_t>(),
                r["elements"].get<double>() * 1e-6, r["gb_s"].get<double>(),
                r["memcpy_gb_s"].get<double>(), r["of_copy"].get<double>());
  std::printf(
      "\nmedians of %u; threads: of each rank that sends; copies: the same bytes by as many\n"
      "threads. Gradients: bytes read and written, of the copy too\n",
      repeats);
}

}  // namespace ultraep::bench
