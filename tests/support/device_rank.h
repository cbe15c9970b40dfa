// A rank whose slots are on a GPU, step by step through the C ABI, for tests on the CPU driver and
// on real devices alike: device memory is reached through the backend only.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "plugin/api/ultraep_cuda.h"
#include "protocol/device_backend.h"

namespace ultraep::test {

// The backend that the plugin has loaded; fails the test when there is none.
DeviceBackend& Backend();

// Elements in device memory, zero at first.
template <class T>
class OnDevice {
 public:
  OnDevice(uint32_t device, uint64_t count) : device_(device), count_(count) {
    EXPECT_TRUE(Backend().Allocate(device_, count * sizeof(T) + 16, &at_, &wrong_)) << wrong_.text;
    EXPECT_TRUE(Backend().Zero(device_, at_, count * sizeof(T), &wrong_)) << wrong_.text;
  }
  OnDevice(uint32_t device, const std::vector<T>& from) : OnDevice(device, from.size()) {
    Set(from);
  }
  OnDevice(OnDevice&& o) noexcept : device_(o.device_), count_(o.count_), at_(o.at_) {
    o.at_ = nullptr;
  }
  ~OnDevice() {
    if (at_) Backend().Free(device_, at_);
  }

  T* data() const { return static_cast<T*>(at_); }
  void Set(const std::vector<T>& from) {
    if (from.empty()) return;
    EXPECT_TRUE(Backend().ToDevice(device_, at_, from.data(), from.size() * sizeof(T), &wrong_))
        << wrong_.text;
  }
  std::vector<T> Get() const {
    std::vector<T> all(count_);
    BackendText wrong;
    if (all.empty()) return all;
    EXPECT_TRUE(Backend().FromDevice(device_, all.data(), at_, count_ * sizeof(T), &wrong))
        << wrong.text;
    return all;
  }

 private:
  const uint32_t device_;
  const uint64_t count_;
  void* at_ = nullptr;
  BackendText wrong_;
};

// Byte `at` of a shard of an expert, in version `version` of its weights.
unsigned char WeightByte(uint32_t layer, uint32_t expert, uint32_t shard, uint64_t at);

struct DeviceRankOptions {
  uint32_t rank = 0;
  uint32_t transfer = ULTRAEP_BY_BULK_COPIES;
  uint64_t next_sequence = 0;
};

// What a step came to on a rank.
struct StepOutcome {
  ultraep_plan_info info{};
  std::vector<ultraep_replica> replicas;
  std::vector<int32_t> ids, physical;
  std::string wrong;  // slots that do not hold what they should, calls that failed
};

class DeviceRank {
 public:
  // Attaches; on the device of its number, or shared where there are fewer than ranks.
  DeviceRank(const std::string& socket, const ultraep_group_config& config,
             const DeviceRankOptions& options);
  ~DeviceRank();

  ultraep_status Join();  // waits until the group is complete, or refused
  // Until so many generations have opened for it, and the last one is open.
  bool AwaitGenerations(uint64_t count);
  std::string state_text();
  // Ids of a step, the same for equal arguments: skewed, so that there is something to balance.
  std::vector<int32_t> Ids(uint64_t step) const;

  // One forward step on slot set `set`, everything synchronised and looked at.
  StepOutcome Step(uint64_t step, uint32_t set = 0);
  // Its parts, enqueued only.
  void Enqueue(uint32_t set);
  void SetIds(const std::vector<int32_t>& ids);
  void Release();
  StepOutcome Look(bool weights_streamed);
  // A backward of the plan of the last Step: restores, adds `value(expert, rank, element)` in its
  // slots, reduces; afterwards the main gradients hold the sums.
  std::string Backward(uint32_t set);
  std::vector<float> MainGradient(uint32_t own, uint32_t part) const {
    return gradients_[own * config_.gradient_count + part].Get();
  }
  static float GradientOf(uint32_t expert, uint32_t rank, uint64_t element);

  void Synchronize();
  ultraep_status Check(std::string* text);
  ultraep_client* client() const { return client_; }
  ultraep_cuda_plan* plan() const { return plan_; }
  void* stream() const { return stream_; }
  int32_t* ids() const { return ids_[0].data(); }
  int32_t* physical() const { return physical_[0].data(); }
  void ClearErrors() { wrong_.clear(); }
  uint32_t device() const { return device_; }
  void Leave();

 private:
  std::string CheckSlots();
  void Say(ultraep_status status, const char* call);

  const ultraep_group_config config_;
  const DeviceRankOptions options_;
  uint32_t device_ = 0;
  ultraep_client* client_ = nullptr;
  ultraep_cuda_plan* plan_ = nullptr;
  void* stream_ = nullptr;
  std::vector<OnDevice<unsigned char>> mains_;
  std::vector<OnDevice<float>> gradients_;
  std::vector<OnDevice<int32_t>> ids_, physical_;  // one each, made with the first step
  std::vector<int32_t> now_;
  std::string wrong_;
};

inline constexpr uint32_t kStepTokens = 96, kStepTopK = 2;

}  // namespace ultraep::test
