// Ranks of a group on the GPUs there are, all in this process, with a daemon of their own: the real
// plugin through its C ABI, the real backend. One thread drives all ranks, since no call waits.
// Errors are thrown.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plugin/api/ultraep_cuda.h"
#include "plugin/core/device/device_client.h"
#include "tests/support/local_daemon.h"

namespace ultraep::bench {

struct GpuGroupOptions {
  uint32_t ranks = 0, experts = 0, slots = 0;
  uint64_t expert_bytes = 0;       // 0: plans only, nothing streams
  uint64_t gradient_elements = 0;  // of an expert; 0: serving
  uint32_t blocks = 0;             // of a stream, of a reduction; 0: as many as the plugin takes
};

// Points in streams of one device, and the time between them. Each is used again and again.
class GpuMark {
 public:
  GpuMark(DeviceBackend& backend, uint32_t device);
  GpuMark(const GpuMark&) = delete;
  GpuMark& operator=(const GpuMark&) = delete;
  ~GpuMark() { backend_.FreeEvent(device_, event_); }

  void Put(void* stream);
  // Both are over.
  double UsSince(const GpuMark& earlier) const;
  void* event() const { return event_; }

 private:
  DeviceBackend& backend_;
  const uint32_t device_;
  void* event_ = nullptr;
};

// Holds streams until the host has enqueued what is measured, so that its pace is not.
class GpuGate {
 public:
  GpuGate(DeviceBackend& backend, uint32_t device);
  ~GpuGate();

  void Close();
  void Hold(uint32_t device, void* stream);
  // Was the host done in time? If not the gate is closed for longer from now on, up to a limit at
  // which the answer is always yes.
  bool InTime();

 private:
  void Copy();

  DeviceBackend& backend_;
  const uint32_t device_;
  void* stream_ = nullptr;
  void* bytes_ = nullptr;
  std::unique_ptr<GpuMark> open_;
  double copy_us_ = 0, length_us_ = 0;
  uint64_t closed_ns_ = 0;
};

struct GpuRank {
  ~GpuRank();

  uint32_t number = 0, device = 0;
  ultraep_client* client = nullptr;
  DeviceClient* inside = nullptr;
  ultraep_cuda_plan* plan = nullptr;
  void* stream = nullptr;
  void* side = nullptr;                               // a stream for the copies beside
  std::vector<DeviceBytes> memory, mains, gradients;  // the last two: [own expert]

  void* Bytes(uint64_t bytes);                     // zero, as long as the rank lives
  void* Copied(const void* from, uint64_t bytes);  // the same with content
};

class GpuGroup {
 public:
  GpuGroup(DeviceBackend& backend, const GpuGroupOptions& options);

  uint32_t size() const { return uint32_t(ranks_.size()); }
  GpuRank& rank(uint32_t r) { return *ranks_[r]; }
  // After all ranks have submitted a step: until each one's verdict lies in its mailbox.
  void AwaitVerdicts();
  // Without looking at mailboxes: the step that was submitted last is over.
  void Passed() { ++sequence_; }
  void Synchronize();
  // The plan of rank 0's last step, whose replicas are appended; false: the step was not planned.
  bool Read(ultraep_plan_info* info, std::vector<ultraep_replica>* replicas);
  // Nothing has been lost so far.
  void Check();
  // Where `seer` sees a slot of another rank.
  unsigned char* Weights(uint32_t seer, const ultraep_replica& r);
  float* Gradients(uint32_t seer, const ultraep_replica& r);
  DeviceBackend& backend() { return backend_; }
  const GroupConfig& config() { return rank(0).inside->config(); }

 private:
  void Attach(const GpuGroupOptions& options);
  void AwaitOpen();
  void SetMains();
  SlotView Slots(uint32_t seer, std::vector<unsigned char*>* bases);

  DeviceBackend& backend_;
  test::TemporaryDirectory directory_;
  std::unique_ptr<test::LocalDaemon> daemon_;
  std::vector<std::unique_ptr<GpuRank>> ranks_;
  uint64_t sequence_ = 0;
  SlotLayout layout_{GroupConfig()};
};

// Enqueues it.
void AwaitVerdict(GpuRank& rank);

// Throws the text of a call that did not succeed.
void Demand(ultraep_status status, const char* call);
void Demand(bool fine, const BackendText& wrong);

}  // namespace ultraep::bench
