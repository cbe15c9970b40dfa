// All ranks of a group stream at once on one device, operation after operation on the same slots
// without the host in between; every byte of every slot is compared, also those that must not
// change.
#include <algorithm>
#include <cstring>

#include "kernels/bulk_team.cuh"
#include "tests/gpu/device_group.cuh"
#include "tests/gpu/tests.cuh"
#include "tests/support/heap_slots.h"
#include "tests/support/scheduled_plan.h"

namespace ultraep::gpu {
namespace {

using test::HeapSlots;
using test::Random;
using Plan = std::vector<Replica>;
using Operations = std::vector<std::unique_ptr<GroupStream>>;

struct Shape {
  uint32_t blocks, threads;
  uint64_t offset;  // of the main weights
};

uint64_t Number(size_t at) { return OperationNumber::Make(at + 1, 0x9e3779 * (at + 3)); }

GroupConfig Config(uint32_t ranks, uint32_t experts, uint32_t slots, uint32_t sets,
                   const std::vector<uint64_t>& shards) {
  GroupConfig c;
  c.ranks = ranks;
  c.experts = experts;
  c.slots = slots;
  c.slot_sets = sets;
  c.shard_count = uint32_t(shards.size());
  std::copy(shards.begin(), shards.end(), c.shard_bytes);
  return c;
}

template <class Team>
constexpr uint32_t kShared = uint32_t(sizeof(typename Team::Shared));

// So few that all ranks' blocks run at once, with as much room again for the kernels around them.
template <class Team>
uint32_t Fitting(uint32_t wanted, uint32_t threads, uint32_t ranks) {
  AllowShared(StreamKernel<Team>, kShared<Team>);
  AllowShared(GroupStreamKernel<Team>, kShared<Team>);
  const uint32_t most = std::min(ResidentBlocks(StreamKernel<Team>, threads, kShared<Team>),
                                 ResidentBlocks(GroupStreamKernel<Team>, threads, kShared<Team>));
  return std::clamp(most / 2 / ranks, 1u, wanted);
}

// On each rank's stream: accept, send, receive, and so for every operation.
template <class Team>
void LaunchEach(const DeviceGroup& group, const Operations& ops, const Shape& shape,
                const std::vector<DeviceBytes>& snapshots) {
  const uint32_t ranks = group.config().ranks;
  for (size_t n = 0; n < ops.size(); ++n)
    for (uint32_t i = 0; i < ranks; ++i) {
      const uint32_t r = n % 2 ? ranks - 1 - i : i;
      const cudaStream_t stream = group.streams()[r];
      const StreamLaunch launch = ops[n]->launch(r, Number(n));
      PrepareStream<<<1, 128, 0, stream>>>(launch, group.accept(r));
      StreamKernel<Team><<<shape.blocks, shape.threads, kShared<Team>, stream>>>(launch);
      ReceiveStream<<<1, 512, 0, stream>>>(launch, uint32_t(ops[n]->plan().size()), r,
                                           snapshots[n * ranks + r].data());
      ULTRAEP_CUDA(cudaGetLastError());
    }
}

template <class Team>
void LaunchTogether(const DeviceGroup& group, const Operations& ops, const Shape& shape,
                    const std::vector<DeviceBytes>& snapshots) {
  const uint32_t ranks = group.config().ranks;
  const cudaStream_t stream = group.streams()[0];
  for (size_t n = 0; n < ops.size(); ++n) {
    for (uint32_t r = 0; r < ranks; ++r)
      PrepareStream<<<1, 128, 0, stream>>>(ops[n]->launch(r, Number(n)), group.accept(r));
    const StreamLaunch* senders = ops[n]->senders(Number(n));
    uint32_t blocks = shape.blocks;
    void* arguments[] = {&senders, &blocks};
    if (ops[n]->sender_count())
      ULTRAEP_CUDA(cudaLaunchCooperativeKernel((const void*)GroupStreamKernel<Team>,
                                               ops[n]->sender_count() * blocks, shape.threads,
                                               arguments, kShared<Team>, stream));
    for (uint32_t r = 0; r < ranks; ++r)
      ReceiveStream<<<1, 512, 0, stream>>>(ops[n]->launch(r, Number(n)),
                                           uint32_t(ops[n]->plan().size()), r,
                                           snapshots[n * ranks + r].data());
    ULTRAEP_CUDA(cudaGetLastError());
  }
}

void FillShard(unsigned char* to, uint64_t bytes, uint64_t seed) {
  for (uint64_t at = 0; at < bytes; at += 8) {
    const uint64_t word = PatternWord(seed, at / 8);
    std::memcpy(to + at, &word, std::min<uint64_t>(8, bytes - at));
  }
}

// Where the bytes differ from what they should be, or empty.
std::string Difference(const DeviceGroup& group, const Operations& ops,
                       const std::vector<DeviceBytes>& snapshots) {
  const GroupConfig& config = group.config();
  HeapSlots expected(config);
  std::vector<unsigned char> got(group.layout().slot_board_bytes);
  for (size_t n = 0; n < ops.size(); ++n) {
    uint64_t bytes = 0;
    for (const Replica& r : ops[n]->plan()) {
      for (uint32_t i = 0; i < config.shard_count; ++i)
        FillShard(expected.view().shard(r.rank, ops[n]->set(), r.slot, i), config.shard_bytes[i],
                  DeviceGroup::Seed(n % 2, r.expert, i));
      for (uint64_t c = 0; c < group.layout().chunks; ++c)
        expected.view().chunk_flags(r.rank, ops[n]->set(), r.slot)[c] = Number(n);
      bytes += config.expert_bytes();
    }
    for (uint32_t r = 0; r < config.ranks; ++r) {
      snapshots[n * config.ranks + r].Download(got.data());
      const unsigned char* wanted = expected.view().base[r];
      const auto at = uint64_t(std::mismatch(got.begin(), got.end(), wanted).first - got.begin());
      if (at < got.size())
        return Text("operation %zu, rank %u, byte %llu (weights from %llu): %02x, not %02x", n, r,
                    (unsigned long long)at, (unsigned long long)group.layout().weights_at, got[at],
                    wanted[at]);
    }
    const StreamTally tally = ops[n]->Tally();
    if (tally.bytes != bytes || tally.transfers != ops[n]->plan().size() || ops[n]->failures())
      return Text("operation %zu: %llu bytes stored, not %llu; %llu blocks stopped", n,
                  (unsigned long long)tally.bytes, (unsigned long long)bytes,
                  (unsigned long long)ops[n]->failures());
  }
  return "";
}

// One operation per plan, on the slot sets in turn, from two versions of the weights in turn.
template <class Team>
std::string Stream(const GroupConfig& config, const std::vector<Plan>& plans, Shape shape) {
  shape.blocks = Fitting<Team>(shape.blocks, shape.threads, config.ranks);
  const DeviceGroup group(config, 2, shape.offset);
  Operations ops;
  std::vector<DeviceBytes> snapshots;
  for (size_t n = 0; n < plans.size(); ++n) {
    ops.push_back(std::make_unique<GroupStream>(group, plans[n], uint32_t(n / 2 % config.slot_sets),
                                                uint32_t(n % 2), shape.blocks));
    for (uint32_t r = 0; r < config.ranks; ++r)
      snapshots.emplace_back(group.layout().slot_board_bytes);
  }
  ULTRAEP_CUDA(cudaDeviceSynchronize());
  if (options.one_launch)
    LaunchTogether<Team>(group, ops, shape, snapshots);
  else
    LaunchEach<Team>(group, ops, shape, snapshots);
  Finish(group.streams(), group.stop(), [&](uint32_t rank) {
    std::string all;
    for (const auto& op : ops) all += "\n    " + op->Describe(rank);
    return all;
  });
  return Difference(group, ops, snapshots);
}

template <class Team>
void RandomGroups(const std::string& team) {
  Random random(5);
  const uint32_t rounds = options.small ? 2 : 8;
  for (uint32_t round = 0; round < rounds; ++round) {
    const auto ranks = uint32_t(2 + random.Below(options.small ? 2 : 5));
    std::vector<uint64_t> shards(1 + random.Below(4));
    for (uint64_t& s : shards)
      s = 1 + random.Below(random.Below(2) ? (options.small ? 300'000 : 900'000) : 500);
    const GroupConfig config = Config(ranks, ranks * uint32_t(1 + random.Below(2)),
                                      uint32_t(1 + random.Below(3)), 2, shards);
    std::vector<Plan> plans;
    size_t replicas = 0, relayed = 0;
    for (uint32_t n = 0; n < (options.small ? 3 : 6); ++n) {
      plans.push_back(test::Scheduled(config.shape(), uint32_t(random.Below(1200)),
                                      test::RandomPieces(config.shape(), &random)));
      replicas += plans.back().size();
      for (const Replica& r : plans.back()) relayed += r.parent >= 0;
    }
    const uint32_t threads[] = {512, 96, 256, 64}, blocks[] = {1, 3, 8, 5};
    const uint64_t offsets[] = {0, 1, 16, 4, 0, 8, 32, 3};
    const Shape shape{options.small ? 2 : blocks[round / 2 % 4], threads[round % 4],
                      offsets[round % 8]};
    const std::string wrong = Stream<Team>(config, plans, shape);
    Report(wrong.empty(), "stream, random plans, " + team,
           Text("%u ranks, %llu bytes in %u shards, %u blocks of %u, mains at +%llu, %zu "
                "transfers, %zu relayed",
                ranks, (unsigned long long)config.expert_bytes(), config.shard_count, shape.blocks,
                shape.threads, (unsigned long long)shape.offset, replicas, relayed) +
               (wrong.empty() ? "" : ": " + wrong));
  }
}

template <class Team>
void Trees(const std::string& team) {
  const auto report = [&](const std::string& what, const std::string& wrong) {
    Report(wrong.empty(), "stream, " + what + ", " + team, wrong);
  };
  const uint64_t large = options.small ? 600'001 : 5 * kChunkBytes + 12'345;
  const uint16_t length = options.small ? 3 : 8;
  Plan chain;
  for (uint16_t r = 1; r < length; ++r) chain.push_back({0, r, 0, int32_t(r) - 2, 0, 1});
  report(Text("chain of %u", length), Stream<Team>(Config(length, length, 1, 1, {large, 77}),
                                                   {chain, chain, chain, chain}, {4, 256, 0}));
  const uint16_t leaves = options.small ? 4 : 16;
  Plan fan;
  for (uint16_t r = 1; r <= leaves; ++r) fan.push_back({0, r, 0, -1, 0, 1});
  report(
      Text("fan-out of %u", leaves),
      Stream<Team>(Config(leaves + 1, leaves + 1, 1, 1, {large, 3}), {fan, fan, fan}, {3, 512, 0}));
}

// Nobody accepts: senders stop when told, and have stored nothing.
template <class Team>
void Stopped(const std::string& team) {
  const GroupConfig config = Config(3, 3, 1, 1, {3 * kChunkBytes});
  const DeviceGroup group(config, 1, 0);
  const uint32_t blocks = Fitting<Team>(2, 128, 3);
  GroupStream op(group, {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}}, 0, 0, blocks);
  const cudaStream_t stream = group.streams()[0];
  const StreamLaunch* senders = op.senders(Number(0));
  if (options.one_launch) {  // it would not return before the kernel ends
    group.stop().Raise();
    ULTRAEP_CUDA(cudaDeviceSynchronize());
  }
  GroupStreamKernel<Team>
      <<<op.sender_count() * blocks, 128, kShared<Team>, stream>>>(senders, blocks);
  ULTRAEP_CUDA(cudaGetLastError());
  const bool waited = options.one_launch || !group.streams().BusyAfter(0.1).empty();
  group.stop().Raise();
  Finish(group.streams(), group.stop(), [&](uint32_t rank) { return op.Describe(rank); });
  std::vector<unsigned char> slots(group.layout().slot_board_bytes);
  bool untouched = true;
  for (uint32_t r = 0; r < 3; ++r) {
    group.slots(r).Download(slots.data());
    for (const unsigned char b : slots) untouched &= b == 0;
  }
  Report(waited && untouched && op.failures() == 2 * blocks,
         "stream, stopped while nobody accepts, " + team, "");
}

__global__ void CountWrong(const unsigned char* at, uint64_t bytes, uint64_t seed,
                           unsigned long long* wrong) {
  unsigned long long mine = 0;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < bytes;
       i += uint64_t{gridDim.x} * blockDim.x)
    mine += at[i] != PatternByte(seed, i);
  if (mine) atomicAdd(wrong, mine);
}

// Offsets beyond 32 bits.
template <class Team>
void HugeShard(const std::string& team) {
  constexpr uint64_t kBytes = (uint64_t{4} << 30) + 777;
  const std::string what = "stream, a shard over 4 GiB through a relay, " + team;
  size_t available = 0, total = 0;
  ULTRAEP_CUDA(cudaMemGetInfo(&available, &total));
  if (options.small || available < 8 * kBytes) return Report(true, what, "skipped");
  const GroupConfig config = Config(3, 3, 1, 1, {kBytes});
  const DeviceGroup group(config, 1, 0);
  const uint32_t blocks = Fitting<Team>(16, 512, 3);
  GroupStream op(group, {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}}, 0, 0, blocks);
  for (uint32_t r = 0; r < 3; ++r) {
    const cudaStream_t stream = group.streams()[r];
    const StreamLaunch launch = op.launch(r, Number(0));
    PrepareStream<<<1, 128, 0, stream>>>(launch, group.accept(r));
    StreamKernel<Team><<<blocks, 512, kShared<Team>, stream>>>(launch);
    ReceiveStream<<<1, 512, 0, stream>>>(launch, 2, r, nullptr);
  }
  ULTRAEP_CUDA(cudaGetLastError());
  Finish(group.streams(), group.stop(), [&](uint32_t rank) { return op.Describe(rank); });
  const DeviceArray<unsigned long long> wrong(1);
  for (uint32_t r = 1; r < 3; ++r)
    CountWrong<<<1024, 256>>>(group.host_view().shard(r, 0, 0, 0), kBytes,
                              DeviceGroup::Seed(0, 0, 0), wrong.data());
  ULTRAEP_CUDA(cudaGetLastError());
  ULTRAEP_CUDA(cudaDeviceSynchronize());
  const unsigned long long count = wrong.Download()[0];
  Report(count == 0, what, count ? Text("%llu bytes wrong", count) : "");
}

template <class Team>
void AllTests(const std::string& team) {
  RandomGroups<Team>(team);
  Trees<Team>(team);
  Stopped<Team>(team);
  HugeShard<Team>(team);
}

}  // namespace

void TestStreams() {
  AllTests<BlockTeam>("plain copies");
  AllTests<BulkTeam<>>("bulk copies");
  AllTests<BulkTeam<4, 32 * 1024>>("bulk copies, large tiles");
}

}  // namespace ultraep::gpu
