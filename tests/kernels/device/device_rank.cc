#include "tests/kernels/device/device_rank.h"

#include <algorithm>

#include "kernels/count_load.h"
#include "tests/support/scheduled_plan.h"

namespace ultraep::test {

RoutedStep RandomStep(const PlanShape& shape, uint32_t max_ids, uint64_t seed) {
  Random random(seed);
  RoutedStep step;
  step.plan.shape = shape;
  step.ids.resize(shape.ranks);
  step.load.assign(uint64_t{shape.ranks} * shape.experts, 0);
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    step.ids[r].resize(random.Below(max_ids + 1));
    for (int32_t& id : step.ids[r]) {
      const uint64_t e = random.Below(2) ? random.Below(shape.experts) : random.Below(3);
      id = random.Below(16) ? int32_t(e % shape.experts) : -1;
    }
    CountLoad(step.ids[r].data(), step.ids[r].size(), shape.experts,
              &step.load[uint64_t{r} * shape.experts]);
  }
  const LoadView load{step.load.data(), shape.ranks, shape.experts};
  std::vector<uint64_t> left(shape.experts);
  for (uint32_t e = 0; e < shape.experts; ++e) left[e] = ExpertTokens(load, e);
  std::vector<planner::Piece> pieces;
  for (uint32_t r = 0; r < shape.ranks; ++r)
    for (uint32_t s = 0; s < shape.slots; ++s) {
      const auto e = uint32_t(random.Below(std::min(shape.experts, 4u)));
      bool taken = shape.home(e) == r || left[e] == 0 || random.Below(8) == 0;
      for (const planner::Piece& p : pieces) taken |= p.rank == r && p.expert == e;
      if (taken) continue;
      // Sometimes the main copy keeps nothing.
      const uint64_t quota = random.Below(6) ? 1 + random.Below((left[e] + 2) / 3) : left[e];
      pieces.push_back({e, r, std::min(quota, left[e])});
      left[e] -= pieces.back().tokens;
    }
  step.plan.replicas = Scheduled(shape, uint32_t(random.Below(1200)), pieces);
  step.plan.Close(load);
  return step;
}

namespace {

// How a column splits for `rank`.
ColumnSplit Split(const RoutedStep& step, uint32_t rank, uint32_t expert,
                  std::vector<SplitInstance>* all) {
  const PlanShape& shape = step.plan.shape;
  const PhysicalIds numbering{shape.experts_per_rank(), shape.slots};
  std::vector<uint32_t> column;
  uint64_t quota = 0, before = 0;
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    column.push_back(step.row(r)[expert]);
    quota += column[r];
    if (r < rank) before += column[r];
  }
  std::vector<SplitInstance> instances = {{shape.home(expert), numbering.main(expert)}};
  for (const Replica& r : step.plan.replicas)
    if (r.expert == expert) {
      instances.push_back({r.rank, numbering.replica(r.rank, r.slot), r.tokens});
      quota -= r.tokens;
    }
  instances[0].quota = quota;
  const auto count = uint32_t(instances.size());
  const uint64_t pool = BuildSplit(column.data(), instances.data(), count);
  ColumnSplit split;
  split.expert = expert;
  split.first_instance = uint32_t(all->size());
  split.instances = count;
  split.source = SplitForSource(column.data(), rank, before, instances.data(), count, pool);
  all->insert(all->end(), instances.begin(), instances.end());
  return split;
}

// Parts one after the other, each on 16 bytes.
class Parts {
 public:
  template <class T>
  uint32_t Add(const T* from, uint64_t count) {
    const uint64_t at = bytes_.size();
    bytes_.resize(at + RoundUp(count * sizeof(T), 16));
    if (count) std::memcpy(&bytes_[at], static_cast<const void*>(from), count * sizeof(T));
    return uint32_t(at);
  }
  std::vector<unsigned char> Close(PlanImageHead head) {
    head.bytes = uint32_t(bytes_.size());
    std::memcpy(bytes_.data(), &head, sizeof head);
    return std::move(bytes_);
  }

 private:
  std::vector<unsigned char> bytes_ = std::vector<unsigned char>(sizeof(PlanImageHead));
};

}  // namespace

std::vector<unsigned char> MakeImage(const GroupConfig& config, const RoutedStep& step,
                                     uint32_t rank, const ImageOf& of) {
  PlanImageHead head;
  head.sequence = of.sequence;
  head.generation = of.generation;
  head.memory = of.memory;
  head.verdict = of.verdict;
  std::vector<Replica> replicas;
  std::vector<ColumnSplit> columns;
  std::vector<SplitInstance> instances;
  std::vector<uint32_t> column_of(config.experts, kNoColumn);
  if (of.verdict == DeviceVerdict::kPlan) {
    replicas = step.plan.replicas;
    for (const uint32_t e : step.plan.column_experts) {
      column_of[e] = uint32_t(columns.size());
      columns.push_back(Split(step, rank, e, &instances));
    }
  }
  const auto count = uint32_t(replicas.size());
  const SendQueue queue(config.shape(), replicas.data(), count, rank, SlotLayout(config).chunks,
                        of.teams);
  const ReduceList list(config.shape(), replicas.data(), count, rank);
  StreamOperation stream;
  ReduceOperation reduce;
  queue.Fill(&stream);
  list.Fill(&reduce);
  Parts parts;
  head.replica_count = count;
  head.send_count = stream.send_count;
  head.transfer_count = uint32_t(queue.transfers().size());
  head.claims = stream.claims;
  head.reduction_count = reduce.reduction_count;
  head.reduce_replica_count = reduce.replica_count;
  head.column_count = uint32_t(columns.size());
  head.instance_count = uint32_t(instances.size());
  head.replicas_at = parts.Add(replicas.data(), count);
  head.sends_at = parts.Add(stream.sends, stream.send_count);
  head.transfers_at = parts.Add(queue.transfers().data(), queue.transfers().size());
  head.reductions_at = parts.Add(reduce.reductions, reduce.reduction_count);
  head.reduce_replicas_at = parts.Add(reduce.replicas, reduce.replica_count);
  head.columns_at = parts.Add(columns.data(), columns.size());
  head.instances_at = parts.Add(instances.data(), instances.size());
  head.column_of_at = parts.Add(column_of.data(), column_of.size());
  head.row_at = parts.Add(step.row(rank), config.experts);
  return parts.Close(head);
}

DeviceRank::DeviceRank(const GroupConfig& config, uint32_t rank, uint32_t plans)
    : state_(DeviceStateLayout(config).bytes),
      mailbox_(MailboxLayout(config, PlanImageBytes(config)).bytes) {
  const DeviceStateLayout layout(config);
  auto* const state = new (state_.at()) DeviceState(config, rank);
  state->bound_ns = 120'000'000'000;
  state->mailbox = {mailbox_.at(), MailboxLayout(config, PlanImageBytes(config))};
  state->counts = reinterpret_cast<uint32_t*>(state_.at() + layout.counts_at);
  for (uint32_t m = 0; m < kMemories; ++m) {
    state->memories[m].bases =
        reinterpret_cast<unsigned char**>(state_.at() + layout.bases_at + layout.bases_stride * m);
    state->memories[m].uses =
        reinterpret_cast<DeviceGradientUse*>(state_.at() + layout.uses_at + layout.uses_stride * m);
  }
  for (uint32_t i = 0; i < plans; ++i) plans_.emplace_back(DevicePlanLayout(config).bytes);
}

void DeviceRank::Verdict(const std::vector<unsigned char>& image) const {
  PlanImageHead head;
  std::memcpy(&head, image.data(), sizeof head);
  std::memcpy(mailbox().image(head.sequence), image.data(), image.size());
  mailbox().verdict(head.sequence).value.store(head.sequence + 1, std::memory_order_release);
}

void DeviceRank::Memory(uint32_t index, uint64_t generation, unsigned char* const* bases) const {
  MailboxMemory& memory = mailbox().memory(index);
  for (uint32_t r = 0; r < state().ranks; ++r) {
    memory.bases()[r] = reinterpret_cast<uint64_t>(bases[r]);
    memory.gone(state().ranks)[r].store(0);
  }
  memory.generation.value.store(generation, std::memory_order_release);
}

DeviceRank::Failure DeviceRank::TakeFailure() const {
  FailureNote& note = head().failure;
  const auto code = DeviceFailure(note.code.value.load(std::memory_order_acquire));
  if (code == DeviceFailure::kNone) return {};
  const Failure failure{code, note.a, note.b, note.sequence};
  note.code.value.store(uint64_t(DeviceFailure::kNone), std::memory_order_release);
  return failure;
}

void DeviceRank::Run(const ExecutorKind& kind, Kernel kernel, const void* arguments) const {
  const bool shared = kernel == Kernel::kCountIds || kernel == Kernel::kCountMap ||
                      kernel == Kernel::kStream || kernel == Kernel::kStreamBulk ||
                      kernel == Kernel::kRouteIds || kernel == Kernel::kRouteMap ||
                      kernel == Kernel::kPrepare || kernel == Kernel::kReduce;
  const uint32_t blocks = shared ? kind.teams : 1;
  const uint32_t experts = state().experts;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<ThreadedTeam::Shared>> teams;
  for (uint32_t b = 0; b < blocks; ++b) {
    if (kind.members == 0)
      threads.emplace_back([=] {
        std::vector<uint32_t> scratch(experts);
        SerialTeam team(scratch.data());
        RunKernel(kernel, team, {b, blocks}, arguments);
      });
    teams.push_back(std::make_unique<ThreadedTeam::Shared>(std::max(1u, kind.members), experts));
    for (uint32_t m = 0; m < kind.members; ++m)
      threads.emplace_back([=, shared_part = teams.back().get()] {
        ThreadedTeam team(shared_part, m);
        RunKernel(kernel, team, {b, blocks}, arguments);
      });
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace ultraep::test
