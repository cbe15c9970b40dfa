#include "tests/gpu/device_group.cuh"

namespace ultraep::gpu {
namespace {

__global__ void FillPattern(unsigned char* at, uint64_t bytes, uint64_t seed) {
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < bytes;
       i += uint64_t{gridDim.x} * blockDim.x)
    at[i] = PatternByte(seed, i);
}

}  // namespace

DeviceGroup::DeviceGroup(const GroupConfig& config, uint32_t versions, uint64_t offset)
    : config_(config),
      layout_(config),
      device_layout_(std::vector<SlotLayout>{layout_}),
      accepts_(config.ranks),
      streams_(config.ranks) {
  for (uint32_t r = 0; r < config.ranks; ++r) {
    slots_.emplace_back(layout_.slot_board_bytes);
    host_bases_.push_back(slots_.back().data());
  }
  bases_ = std::make_unique<DeviceArray<unsigned char*>>(host_bases_);
  std::vector<const void*> mains;
  for (uint32_t v = 0; v < versions; ++v)
    for (uint32_t e = 0; e < config.experts; ++e)
      for (uint32_t i = 0; i < config.shard_count; ++i) {
        mains_.emplace_back(config.shard_bytes[i], offset);
        mains.push_back(mains_.back().data());
        FillPattern<<<256, 256>>>(mains_.back().data(), config.shard_bytes[i], Seed(v, e, i));
      }
  mains_at_ = std::make_unique<DeviceArray<const void*>>(mains);
  std::vector<std::atomic<uint64_t>*> accepts;
  for (uint32_t r = 0; r < config.ranks; ++r) accepts.push_back(accept(r));
  accepts_at_ = std::make_unique<DeviceArray<std::atomic<uint64_t>*>>(accepts);
  ULTRAEP_CUDA(cudaGetLastError());
  ULTRAEP_CUDA(cudaDeviceSynchronize());
}

GroupStream::GroupStream(const DeviceGroup& group, const std::vector<Replica>& plan, uint32_t set,
                         uint32_t version, uint32_t blocks)
    : plan_(plan),
      set_(set),
      blocks_(blocks),
      ranks_(group.config().ranks),
      replicas_(plan),
      tallies_(uint64_t{ranks_} * blocks),
      counters_(uint64_t{ranks_} * (2 + plan.size())),
      senders_(ranks_) {
  const PlanShape shape = group.config().shape();
  for (uint32_t r = 0; r < ranks_; ++r) {
    const SendQueue queue(shape, plan_.data(), uint32_t(plan_.size()), r, group.layout().chunks,
                          blocks);
    sends_.emplace_back(queue.sends());
    transfers_.emplace_back(queue.transfers());
    StreamLaunch l;
    queue.Fill(&l.op);
    l.op.sends = sends_.back().data();
    l.op.transfers = transfers_.back().data();
    l.op.set = set;
    l.op.self = r;
    l.op.replicas = replicas_.data();
    l.op.mains = group.mains(r, version);
    l.op.experts_per_rank = shape.experts_per_rank();
    l.slots = group.view();
    l.accepts = group.accepts();
    l.stop = group.stop().device();
    l.next = counters_.data() + r;
    l.failures = counters_.data() + ranks_ + r;
    l.done = counters_.data() + 2 * ranks_ + r * plan_.size();
    l.tallies = tallies_.data() + uint64_t{r} * blocks;
    launches_.push_back(l);
  }
}

const StreamLaunch* GroupStream::senders(uint64_t number) {
  std::vector<StreamLaunch> all;
  for (uint32_t r = 0; r < ranks_; ++r)
    if (send_count(r)) all.push_back(launch(r, number));
  sender_count_ = uint32_t(all.size());
  if (!all.empty()) ToDevice(senders_.data(), all.data(), all.size() * sizeof all[0]);
  return senders_.data();
}

StreamTally GroupStream::Tally() const {
  StreamTally all;
  for (const StreamTally& t : tallies_.Download()) all.Add(t);
  return all;
}

uint64_t GroupStream::failures() const {
  const std::vector<unsigned long long> counters = counters_.Download();
  uint64_t sum = 0;
  for (uint32_t r = 0; r < ranks_; ++r) sum += counters[ranks_ + r];
  return sum;
}

std::string GroupStream::Describe(uint32_t rank) const {
  const std::vector<unsigned long long> counters = counters_.Download();
  return Text("%llu of %llu claims taken, %llu blocks stopped in a wait, %u sends", counters[rank],
              (unsigned long long)launches_[rank].op.claims, counters[ranks_ + rank],
              send_count(rank));
}

__global__ void PrepareStream(StreamLaunch launch, std::atomic<uint64_t>* accept) {
  for (uint32_t i = threadIdx.x; i < launch.op.send_count; i += blockDim.x) launch.done[i] = 0;
  if (threadIdx.x == 0) *launch.next = 0;
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  team.Sync();
  if (threadIdx.x == 0) team.Signal(accept, launch.op.number);
}

__global__ void ReceiveStream(StreamLaunch launch, uint32_t count, uint32_t rank,
                              unsigned char* snapshot) {
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  const SlotView& slots = launch.slots;
  const bool here = team.Elect([&] {
    for (uint32_t i = 0; i < count; ++i) {
      const Replica& r = launch.op.replicas[i];
      if (r.rank != rank) continue;
      const std::atomic<uint64_t>* flags = slots.chunk_flags(rank, launch.op.set, r.slot);
      for (uint64_t c = 0; c < slots.layout->chunks; ++c)
        while (LoadAcquire(flags + c) != launch.op.number)
          if (LoadAcquire(launch.stop)) return uint64_t{0};
    }
    return uint64_t{1};
  });
  if (!here) {
    if (threadIdx.x == 0) atomicAdd(launch.failures, 1ull);
    return;
  }
  void* to = snapshot;
  if (snapshot) team.Copy(&to, 1, slots.base[rank], slots.layout->slot_board_bytes);
}

}  // namespace ultraep::gpu
