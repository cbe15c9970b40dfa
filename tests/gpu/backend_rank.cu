#include <cstring>

#include "tests/gpu/backend_rank.cuh"

#define ULTRAEP_ENTRY(name, arguments) extern "C" __global__ void name(const arguments)
ULTRAEP_ENTRY(ultraep_count_ids, ultraep::CountArguments);
ULTRAEP_ENTRY(ultraep_count_map, ultraep::CountArguments);
ULTRAEP_ENTRY(ultraep_submit_row, ultraep::CountArguments);
ULTRAEP_ENTRY(ultraep_await, ultraep::AwaitArguments);
ULTRAEP_ENTRY(ultraep_begin_stream, ultraep::OperationArguments);
ULTRAEP_ENTRY(ultraep_stream, ultraep::StreamArguments);
ULTRAEP_ENTRY(ultraep_stream_bulk, ultraep::StreamArguments);
ULTRAEP_ENTRY(ultraep_await_accepted, ultraep::OperationArguments);
ULTRAEP_ENTRY(ultraep_signal, ultraep::SignalArguments);
ULTRAEP_ENTRY(ultraep_arrive, ultraep::OperationArguments);
ULTRAEP_ENTRY(ultraep_release, ultraep::OperationArguments);
ULTRAEP_ENTRY(ultraep_route_ids, ultraep::RouteArguments);
ULTRAEP_ENTRY(ultraep_route_map, ultraep::RouteMapArguments);
ULTRAEP_ENTRY(ultraep_prepare, ultraep::PrepareArguments);
ULTRAEP_ENTRY(ultraep_publish, ultraep::OperationArguments);
ULTRAEP_ENTRY(ultraep_reduce, ultraep::ReduceArguments);
ULTRAEP_ENTRY(ultraep_end_reduce, ultraep::OperationArguments);
#undef ULTRAEP_ENTRY

namespace ultraep::gpu {

const void* EntryOf(Kernel kernel) {
  static const void* const entries[] = {
      (const void*)ultraep_count_ids,    (const void*)ultraep_count_map,
      (const void*)ultraep_submit_row,   (const void*)ultraep_await,
      (const void*)ultraep_begin_stream, (const void*)ultraep_stream,
      (const void*)ultraep_stream_bulk,  (const void*)ultraep_await_accepted,
      (const void*)ultraep_signal,       (const void*)ultraep_arrive,
      (const void*)ultraep_release,      (const void*)ultraep_route_ids,
      (const void*)ultraep_route_map,    (const void*)ultraep_prepare,
      (const void*)ultraep_publish,      (const void*)ultraep_reduce,
      (const void*)ultraep_end_reduce,
  };
  static_assert(sizeof entries / sizeof entries[0] == size_t(Kernel::kKernels));
  return entries[uint32_t(kernel)];
}

BackendRank::BackendRank(const GroupConfig& config, uint32_t rank, uint32_t plans,
                         cudaStream_t stream)
    : experts_(config.experts),
      layout_(config, PlanImageBytes(config)),
      stream_(stream),
      state_(DeviceStateLayout(config).bytes) {
  void* mapped = nullptr;
  ULTRAEP_CUDA(cudaHostAlloc((void**)&pinned_, layout_.bytes, cudaHostAllocMapped));
  std::memset(pinned_, 0, layout_.bytes);
  ULTRAEP_CUDA(cudaHostGetDevicePointer(&mapped, pinned_, 0));
  const DeviceStateLayout layout(config);
  DeviceState host(config, rank);
  host.bound_ns = uint64_t(options.timeout_s * 1e9 / 2);
  host.mailbox = {static_cast<unsigned char*>(mapped), layout_};
  host.counts = reinterpret_cast<uint32_t*>(state_.data() + layout.counts_at);
  for (uint32_t m = 0; m < kMemories; ++m) {
    host.memories[m].bases = reinterpret_cast<unsigned char**>(state_.data() + layout.bases_at +
                                                               layout.bases_stride * m);
    host.memories[m].uses = reinterpret_cast<DeviceGradientUse*>(state_.data() + layout.uses_at +
                                                                 layout.uses_stride * m);
  }
  ToDevice(state_.data(), &host, sizeof host);
  for (uint32_t i = 0; i < plans; ++i) plans_.emplace_back(DevicePlanLayout(config).bytes);
  for (uint32_t k = 0; k < uint32_t(Kernel::kKernels); ++k) {
    const KernelTraits& traits = kKernelTraits[k];
    AllowShared(EntryOf(Kernel(k)), traits.shared_bytes + traits.shared_per_expert * experts_);
  }
}

void BackendRank::Verdict(const std::vector<unsigned char>& image) const {
  PlanImageHead head;
  std::memcpy(&head, image.data(), sizeof head);
  std::memcpy(mailbox().image(head.sequence), image.data(), image.size());
  mailbox().verdict(head.sequence).value.store(head.sequence + 1, std::memory_order_release);
}

void BackendRank::Memory(uint32_t index, uint64_t generation, unsigned char* const* bases) const {
  MailboxMemory& memory = mailbox().memory(index);
  for (uint32_t r = 0; r < layout_.ranks; ++r)
    memory.bases()[r] = reinterpret_cast<uint64_t>(bases[r]);
  memory.generation.value.store(generation, std::memory_order_release);
}

std::string BackendRank::Failure() const {
  const FailureNote& note = mailbox().head().failure;
  const uint64_t code = note.code.value.load(std::memory_order_acquire);
  if (!code) return "";
  return Text("failure %llu (%llu, %llu) of step %llu", (unsigned long long)code,
              (unsigned long long)note.a, (unsigned long long)note.b,
              (unsigned long long)note.sequence);
}

}  // namespace ultraep::gpu
