// What the parent and all rank processes share: one anonymous mapping, made before the fork, gone
// with the last process. Stands in for the framework's network and for the GPUs' memory.
//
//   Control | RunRecord | RankRecord[ranks] | main weights | send and return buffers
//
// Pull model: a source sorts its routed copies by physical expert into its own send buffer; the
// destination reads its part there and writes results to the same positions of the source's return
// buffer. Two barriers per step keep writers and readers apart:
//
//   all: write own send buffer, starts, StepNote    | barrier | all: read any of these,
//   write results into any return buffer            | barrier | all: read own return buffer
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "plugin/api/ultraep.h"
#include "plugin/examples/replay/barrier.h"
#include "plugin/examples/replay/experts.h"
#include "plugin/examples/replay/histogram.h"
#include "protocol/plan.h"
#include "protocol/words.h"

namespace ultraep::replay {

// Written by one process, read by others at any time.
class Counter {
 public:
  void Add(uint64_t n) { value_.store(get() + n, std::memory_order_relaxed); }
  void Set(uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_;
};

struct Control {
  Barrier barrier;
  Pulse abort;         // 1: stop at the next wait (a process is gone or cannot go on)
  Pulse stop;          // 1: the parent asks for a clean end
  Word last_sequence;  // written by rank 0 before a step's first barrier: all stop after this step
};

// Of the run as a whole; written by rank 0 between a step's barriers, from what all ranks noted.
struct alignas(kLine) RunRecord {
  Counter steps, planned, fallbacks, declined;
  Counter disagreements;  // steps in which one rank had a plan and another one had not
  Histogram solve_ns;
  Histogram excess_before, excess_after;  // imbalance - 1, in units of kExcessUnit
};
inline constexpr double kExcessUnit = 1e-9;

// What a rank tells the others about the current step, before the step's first barrier.
struct StepNote {
  uint64_t submit_ns;
  ultraep_verdict verdict;
};

// One per rank, written by that rank.
struct alignas(kLine) RankRecord {
  StepNote note;
  Counter sequence;                              // step it works on
  Counter planned, fallbacks, declined, failed;  // verdicts it got
  Counter tokens_checked;
  Counter mismatches;    // tokens whose result differs
  Counter quota_misses;  // steps in which one of its slots got other than the plan's tokens
  Counter joined;        // generation, 0 = went on without
  Counter bytes_streamed;
  Histogram verdict_ns;  // of steps with a plan: own verdict - the last rank's submit
  Histogram stream_kb_per_s, memcpy_kb_per_s;
  char text[1024];  // why it stopped early, or why it has no daemon
};

struct SharedSizes {
  PlanShape shape;
  uint32_t layers = 0;
  ExpertShape expert;
  uint64_t max_copies = 0;  // routed copies of one source in one step
};

// Layers beyond this many use the main weights of layer % kWeightLayers: enough that a slot with
// the previous layer's weights is noticed, without the memory of a whole model.
inline constexpr uint32_t kWeightLayers = 4;

class SharedState {
 public:
  // Does not map yet.
  explicit SharedState(const SharedSizes& sizes);
  ~SharedState();
  SharedState(const SharedState&) = delete;
  SharedState& operator=(const SharedState&) = delete;

  // Address space; pages count once they are written.
  static uint64_t BytesFor(const SharedSizes& sizes);

  // Empty when mapped, else why not.
  std::string Map();

  const SharedSizes& sizes() const { return sizes_; }
  Control* control() { return At<Control>(0); }
  RunRecord* run() { return At<RunRecord>(run_at_); }
  RankRecord* rank(uint32_t r) { return At<RankRecord>(ranks_at_) + r; }

  float* main_up(uint32_t layer, uint32_t expert) {
    return At<float>(weights_at_ +
                     (uint64_t{layer % kWeightLayers} * sizes_.shape.experts + expert) *
                         (up_bytes_ + down_bytes_));
  }
  float* main_down(uint32_t layer, uint32_t expert) {
    return main_up(layer, expert) + up_bytes_ / sizeof(float);
  }

  // Of one source: positions [starts[p], starts[p + 1]) of its buffers go to physical expert p.
  uint32_t* starts(uint32_t source) { return At<uint32_t>(buffers_at_ + source * buffer_bytes_); }
  // Its tokens per home rank: what each rank would receive without replicas. [ranks]
  uint32_t* home_tokens(uint32_t source) {
    return At<uint32_t>(buffers_at_ + source * buffer_bytes_ + starts_bytes_);
  }
  float* send(uint32_t source) {
    return At<float>(buffers_at_ + source * buffer_bytes_ + starts_bytes_ + homes_bytes_);
  }
  float* returned(uint32_t source) { return send(source) + rows_bytes_ / sizeof(float); }

 private:
  template <class T>
  T* At(uint64_t offset) {
    return reinterpret_cast<T*>(static_cast<char*>(memory_) + offset);
  }

  const SharedSizes sizes_;
  uint64_t run_at_, ranks_at_, weights_at_, buffers_at_, total_bytes_;
  uint64_t up_bytes_, down_bytes_;  // one expert's shards, padded to kLine
  uint64_t starts_bytes_, homes_bytes_, rows_bytes_, buffer_bytes_;  // one source's buffers
  void* memory_ = nullptr;
};

// Rank 0 between a step's barriers: what the step came to for all ranks. `solve_ns` counts with a
// plan only.
void RecordStep(SharedState* shared, uint64_t solve_ns);

}  // namespace ultraep::replay
