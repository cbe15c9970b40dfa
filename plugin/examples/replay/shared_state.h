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
#include "plugin/examples/replay/experts.h"
#include "plugin/examples/replay/histogram.h"
#include "plugin/examples/replay/meeting.h"
#include "protocol/plan.h"
#include "protocol/words.h"

namespace ultraep::replay {

// Written by one process, read by others at any time. What was written before a change is there for
// whoever sees the change, also when the writer was killed since.
class Counter {
 public:
  void Add(uint64_t n) { Set(get() + n); }
  void Set(uint64_t n) { value_.store(n, std::memory_order_release); }
  uint64_t get() const { return value_.load(std::memory_order_acquire); }

 private:
  std::atomic<uint64_t> value_;
};

struct Control {
  Meeting meeting;
  Pulse stop;          // 1: the parent asks for a clean end
  Word last_sequence;  // written by rank 0 before a step's first barrier: all stop after this step
};

// One step for all ranks.
struct StepResult {
  uint64_t excess_before, excess_after;  // imbalance - 1, in units of kExcessUnit
  uint64_t solve_ns;
  ultraep_verdict verdict;
};
inline constexpr double kExcessUnit = 1e-9;

// Of all steps that every rank has finished.
struct Totals {
  uint64_t end;  // sequence + 1 of the last one
  uint64_t steps, planned, fallbacks, declined;
  uint64_t tokens_checked;
};

// Of the run as a whole. Rank 0 may be killed at any instruction, so it changes nothing in place: a
// step is measured into `step` and published by `measured`; once all ranks have finished it, it is
// added into the totals that are not current, and `version` makes those current. Only a histogram
// may get the value of a step twice, or that of a step that is lost.
struct alignas(kLine) RunRecord {
  StepResult step;
  Counter measured;  // sequence + 1 of `step`
  Totals both[2];
  Counter version;
  Counter disagreements;  // steps in which one rank had a plan and another one had not
  Counter lost, failed;   // steps begun and not finished, by the parent; failed: nobody had died
  Counter respawned;      // rank processes started in a dead one's place, by the parent
  Histogram solve_ns;
  Histogram excess_before, excess_after;

  const Totals& totals() const { return both[version.get() % 2]; }
};

// What a rank tells the others about the current step, before the step's first barrier.
struct StepNote {
  uint64_t submit_ns;
  ultraep_verdict verdict;
};

// One per rank, written by that rank: by one process after the other when it is respawned.
struct alignas(kLine) RankRecord {
  StepNote note;
  Counter filled;                        // 1: its main weights stand
  Counter begun, finished;               // sequence + 1 of its last step
  Counter tokens;                        // checked in the last finished step
  Counter planned, fallbacks, declined;  // verdicts it got
  Counter mismatches;                    // tokens whose result differs
  Counter quota_misses;  // steps in which one of its slots got other than the plan's tokens
  Counter joined;        // generation, 0 = went on without
  Counter generations;   // how many it was part of, as far as it could say before it was killed
  Counter gradient_mismatches;  // restored slots and main gradients that are wrong
  Counter replicas_reduced;
  Counter bytes_streamed;
  Histogram verdict_ns;  // of steps with a plan: own verdict - the last rank's submit
  Histogram stream_kb_per_s, memcpy_kb_per_s;
  Histogram reduce_ns;  // of reductions of own experts: from issue to complete main gradients
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

// Rank 0 between a step's barriers: what the step comes to for all ranks. `solve_ns` counts with a
// plan only.
void MeasureStep(SharedState* shared, uint64_t sequence, uint64_t solve_ns);
// Adds the measured step to the totals if all ranks have finished it. Rank 0 after the first
// barrier of the next step, the parent while no rank is inside a step.
void RecordStep(SharedState* shared);

}  // namespace ultraep::replay
