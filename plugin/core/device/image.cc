#include "plugin/core/device/image.h"

#include <cstring>

namespace ultraep {
namespace {

constexpr uint32_t kAlign = 16;

// Parts one behind the other.
class Writer {
 public:
  explicit Writer(unsigned char* to) : to_(to) {}

  // Room for `count` of T; where it begins.
  template <class T>
  T* Part(uint32_t count, uint32_t* at) {
    *at = used_;
    used_ += uint32_t(RoundUp(uint64_t{count} * sizeof(T), kAlign));
    return reinterpret_cast<T*>(to_ + *at);
  }
  template <class T>
  void Put(const T* from, uint32_t count, uint32_t* at) {
    T* part = Part<T>(count, at);
    if (count) std::memcpy(static_cast<void*>(part), from, count * sizeof(T));
  }
  uint32_t used() const { return used_; }

 private:
  unsigned char* const to_;
  uint32_t used_ = uint32_t(RoundUp(sizeof(PlanImageHead), kAlign));
};

DeviceVerdict VerdictOf(const ResolvedStep& step, bool failed) {
  if (failed) return DeviceVerdict::kFailed;
  switch (step.verdict) {
    case ULTRAEP_PLAN:
      return DeviceVerdict::kPlan;
    case ULTRAEP_FALLBACK:
      return DeviceVerdict::kFallback;
    default:
      return DeviceVerdict::kDeclined;
  }
}

// How this rank's tokens of the replicated experts split, as TokenRouter has it.
void PutRoute(const RecordedPlan& plan, const TokenRouter& router, Writer* writer,
              PlanImageHead* head) {
  const uint32_t experts = plan.shape.experts;
  head->column_count = uint32_t(router.splits().size());
  head->instance_count = uint32_t(router.instances().size());
  auto* columns = writer->Part<ColumnSplit>(head->column_count, &head->columns_at);
  for (uint32_t c = 0; c < head->column_count; ++c) {
    const TokenRouter::ExpertSplit& split = router.splits()[c];
    columns[c] = {plan.column_experts[c], split.first_instance, split.instances, 0, split.source};
  }
  writer->Put(router.instances().data(), head->instance_count, &head->instances_at);
  auto* column_of = writer->Part<uint32_t>(experts, &head->column_of_at);
  for (uint32_t e = 0; e < experts; ++e) column_of[e] = kNoColumn;
  for (uint32_t c = 0; c < head->column_count; ++c) column_of[plan.column_experts[c]] = c;
}

}  // namespace

uint32_t BuildImage(const ResolvedStep& step, bool failed, const ImageContext& context,
                    TokenRouter* router, unsigned char* to) {
  RecordedPlan plain;
  plain.shape = step.plan.shape;
  const bool planned = step.verdict == ULTRAEP_PLAN && !failed && context.generation;
  const RecordedPlan& plan = planned ? step.plan : plain;
  PlanImageHead head;
  head.sequence = step.sequence;
  head.generation = context.generation;
  head.verdict = VerdictOf(step, failed);
  head.memory = context.memory;
  head.layer = step.layer;
  head.microbatch = step.microbatch;
  Writer writer(to);
  head.replica_count = uint32_t(plan.replicas.size());
  writer.Put(plan.replicas.data(), head.replica_count, &head.replicas_at);
  const SendQueue queue(plan.shape, plan.replicas.data(), head.replica_count, context.rank,
                        context.chunks, context.teams);
  head.send_count = uint32_t(queue.sends().size());
  head.transfer_count = uint32_t(queue.transfers().size());
  StreamOperation stream;
  queue.Fill(&stream);
  head.claims = stream.claims;
  writer.Put(stream.sends, head.send_count, &head.sends_at);
  writer.Put(stream.transfers, head.transfer_count, &head.transfers_at);
  const ReduceList list(plan.shape, plan.replicas.data(), head.replica_count, context.rank);
  ReduceOperation reduce;
  list.Fill(&reduce);
  head.reduction_count = reduce.reduction_count;
  head.reduce_replica_count = reduce.replica_count;
  writer.Put(reduce.reductions, head.reduction_count, &head.reductions_at);
  writer.Put(reduce.replicas, head.reduce_replica_count, &head.reduce_replicas_at);
  router->Reset(plan, context.rank, step.row.data());
  PutRoute(plan, *router, &writer, &head);
  writer.Put(step.row.data(), plan.shape.experts, &head.row_at);
  head.bytes = writer.used();
  if (planned) {
    head.certificate = plan.header.certificate;
    head.solve_ns = plan.header.solve_ns;
  }
  std::memcpy(to, &head, sizeof head);
  return head.bytes;
}

}  // namespace ultraep
