// A whole EP group on one device: every rank's slots and main weights in device memory of their
// own, one stream per rank.
#pragma once

#include <memory>

#include "kernels/executors.cuh"
#include "tests/gpu/device.cuh"

namespace ultraep::gpu {

class DeviceGroup {
 public:
  // Main weights begin `offset` bytes behind an aligned address; `versions` different ones, so that
  // an operation that brings old bytes is found out.
  DeviceGroup(const GroupConfig& config, uint32_t versions, uint64_t offset);

  const GroupConfig& config() const { return config_; }
  const SlotLayout& layout() const { return layout_; }
  SlotView view() const { return {device_layout_.data(), bases_->data()}; }
  // As the host computes with it; the addresses are the device's.
  SlotView host_view() const { return {&layout_, host_bases_.data()}; }
  const DeviceBytes& slots(uint32_t rank) const { return slots_[rank]; }
  // [experts_per_rank][shard_count] of a rank.
  const void* const* mains(uint32_t rank, uint32_t version) const {
    const uint64_t own = uint64_t{config_.shape().experts_per_rank()} * config_.shard_count;
    return mains_at_->data() + uint64_t{version} * config_.experts * config_.shard_count +
           rank * own;
  }
  std::atomic<uint64_t>* const* accepts() const { return accepts_at_->data(); }
  std::atomic<uint64_t>* accept(uint32_t rank) const { return &accepts_.data()[rank].value; }
  const Streams& streams() const { return streams_; }
  const StopWord& stop() const { return stop_; }

  static uint64_t Seed(uint32_t version, uint32_t expert, uint32_t shard) {
    return PatternWord(PatternWord(7, version), uint64_t{expert} * kMaxShards + shard);
  }

 private:
  const GroupConfig config_;
  const SlotLayout layout_;
  DeviceArray<SlotLayout> device_layout_;
  std::vector<DeviceBytes> slots_;
  std::vector<unsigned char*> host_bases_;
  std::unique_ptr<DeviceArray<unsigned char*>> bases_;
  std::vector<DeviceBytes> mains_;  // [version][expert][shard]
  std::unique_ptr<DeviceArray<const void*>> mains_at_;
  DeviceArray<Word> accepts_;
  std::unique_ptr<DeviceArray<std::atomic<uint64_t>*>> accepts_at_;
  Streams streams_;
  StopWord stop_;
};

// One stream operation of a group, ready to be launched as often as its number changes.
class GroupStream {
 public:
  GroupStream(const DeviceGroup& group, const std::vector<Replica>& plan, uint32_t set,
              uint32_t version, uint32_t blocks);

  const std::vector<Replica>& plan() const { return plan_; }
  uint32_t set() const { return set_; }
  uint32_t blocks() const { return blocks_; }
  uint32_t send_count(uint32_t rank) const { return launches_[rank].op.send_count; }
  StreamLaunch launch(uint32_t rank, uint64_t number) const {
    StreamLaunch l = launches_[rank];
    l.op.number = number;
    return l;
  }
  // Senders' launches in device memory, for kernels that run the whole group.
  const StreamLaunch* senders(uint64_t number);
  uint32_t sender_count() const { return sender_count_; }
  const Replica* replicas() const { return replicas_.data(); }
  StreamTally Tally() const;
  uint64_t failures() const;
  // Where a rank is, for a hang.
  std::string Describe(uint32_t rank) const;

 private:
  const std::vector<Replica> plan_;
  const uint32_t set_, blocks_, ranks_;
  DeviceArray<Replica> replicas_;
  std::vector<DeviceArray<Send>> sends_;
  std::vector<DeviceArray<uint32_t>> transfers_;
  DeviceArray<StreamTally> tallies_;          // [rank][block]
  DeviceArray<unsigned long long> counters_;  // next and failures of each rank, then their dones
  std::vector<StreamLaunch> launches_;
  uint32_t sender_count_ = 0;
  DeviceArray<StreamLaunch> senders_;
};

// Counters to 0; then the rank accepts the operation. One block.
__global__ void PrepareStream(StreamLaunch launch, std::atomic<uint64_t>* accept);
// Waits for the chunks of all transfers to the rank, then copies its slots away: what computing
// with them would read. One block, whose word `failures` counts waits that were stopped.
__global__ void ReceiveStream(StreamLaunch launch, uint32_t count, uint32_t rank,
                              unsigned char* snapshot);

}  // namespace ultraep::gpu
