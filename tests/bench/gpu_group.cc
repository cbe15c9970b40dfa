#include "tests/bench/gpu_group.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "plugin/core/client.h"
#include "protocol/transport/waiting.h"

namespace ultraep::bench {
namespace {

constexpr uint64_t kGateCopy = 32 << 20;
constexpr double kGateUs = 300, kLongestGateUs = 20'000;
constexpr uint64_t kPatienceNs = 60'000'000'000;

template <class Condition>
void Await(const char* what, const Condition& condition) {
  for (const uint64_t start = NowNs(); !condition(); CpuRelax())
    if (NowNs() - start > kPatienceNs) throw std::runtime_error(std::string("no end of: ") + what);
}

}  // namespace

void Demand(ultraep_status status, const char* call) {
  if (status != ULTRAEP_OK)
    throw std::runtime_error(std::string(call) + ": " + ultraep_status_name(status) + ", " +
                             ultraep_last_error());
}

void Demand(bool fine, const BackendText& wrong) {
  if (!fine) throw std::runtime_error(wrong.text);
}

void AwaitVerdict(GpuRank& rank) {
  Demand(ultraep_cuda_await_verdict(rank.plan, rank.stream), "await_verdict");
}

GpuMark::GpuMark(DeviceBackend& backend, uint32_t device) : backend_(backend), device_(device) {
  BackendText wrong;
  Demand(backend.MakeEvent(device, /*timed=*/true, &event_, &wrong), wrong);
}

void GpuMark::Put(void* stream) {
  BackendText wrong;
  Demand(backend_.Record(device_, event_, stream, &wrong), wrong);
}

double GpuMark::UsSince(const GpuMark& earlier) const {
  float ms = 0;
  BackendText wrong;
  Demand(backend_.Elapsed(device_, earlier.event_, event_, &ms, &wrong), wrong);
  return 1e3 * ms;
}

GpuGate::GpuGate(DeviceBackend& backend, uint32_t device)
    : backend_(backend), device_(device), length_us_(kGateUs) {
  BackendText wrong;
  Demand(backend.Use(device, &wrong), wrong);
  Demand(backend.MakeStream(device, &stream_, &wrong), wrong);
  Demand(backend.Allocate(device, 2 * kGateCopy, &bytes_, &wrong), wrong);
  open_ = std::make_unique<GpuMark>(backend, device);
  GpuMark begin(backend, device);
  for (int i = 0; i < 2; ++i) {  // the first one warms up
    begin.Put(stream_);
    Copy();
    open_->Put(stream_);
    Demand(backend.Synchronize(device, stream_, &wrong), wrong);
    copy_us_ = std::max(1.0, open_->UsSince(begin));
  }
}

GpuGate::~GpuGate() {
  if (bytes_) backend_.Free(device_, bytes_);
  if (stream_) backend_.FreeStream(device_, stream_);
}

void GpuGate::Copy() {
  void* const to = static_cast<unsigned char*>(bytes_) + kGateCopy;
  const void* const from = bytes_;
  const uint64_t bytes = kGateCopy;
  BackendText wrong;
  Demand(backend_.CopyAsync(device_, &to, &from, &bytes, 1, stream_, &wrong), wrong);
}

void GpuGate::Close() {
  closed_ns_ = NowNs();
  for (int i = 0; i < int(std::ceil(length_us_ / copy_us_)); ++i) Copy();
  open_->Put(stream_);
}

void GpuGate::Hold(uint32_t device, void* stream) {
  BackendText wrong;
  Demand(backend_.WaitEvent(device, stream, open_->event(), &wrong), wrong);
}

bool GpuGate::InTime() {
  if (double(NowNs() - closed_ns_) * 1e-3 < length_us_ || length_us_ >= kLongestGateUs) return true;
  length_us_ *= 2;
  return false;
}

// The plan's memory goes before its client, and both before the bytes that its kernels use.
GpuRank::~GpuRank() {
  if (inside) {
    DeviceBackend& backend = inside->context().backend();
    BackendText wrong;
    for (void* s : {stream, side})
      if (s) {
        backend.Synchronize(device, s, &wrong);
        backend.FreeStream(device, s);
      }
  }
  ultraep_cuda_plan_free(plan);
  memory.clear();
  mains.clear();
  gradients.clear();
  ultraep_detach(client);
}

void* GpuRank::Bytes(uint64_t bytes) {
  const Result made = memory.emplace_back().Allocate(inside->context(), bytes);
  if (!made.ok()) throw std::runtime_error(made.text);
  return memory.back().at();
}

void* GpuRank::Copied(const void* from, uint64_t bytes) {
  void* const at = Bytes(bytes);
  BackendText wrong;
  Demand(inside->context().backend().ToDevice(device, at, from, bytes, &wrong), wrong);
  return at;
}

GpuGroup::GpuGroup(DeviceBackend& backend, const GpuGroupOptions& options) : backend_(backend) {
  DaemonOptions daemon = test::LocalDaemon::Defaults();
  daemon.share_devices = true;
  const std::string socket = directory_.path() + "/daemon.sock";
  daemon_ = std::make_unique<test::LocalDaemon>(socket, daemon);
  if (!daemon_->wrong().empty()) throw std::runtime_error(daemon_->wrong());
  const ultraep_attach_options attach{sizeof attach, socket.c_str()};
  for (uint32_t r = 0; r < options.ranks; ++r) {
    ranks_.push_back(std::make_unique<GpuRank>());
    ranks_[r]->number = r;
    ranks_[r]->device = r % backend.device_count();
    Demand(ultraep_attach(&attach, &ranks_[r]->client), "attach");
  }
  Attach(options);
  AwaitOpen();
  layout_ = SlotLayout(config());
  SetMains();
}

void GpuGroup::Attach(const GpuGroupOptions& options) {
  ultraep_group_config c{};
  c.struct_size = sizeof c;
  c.group_name = "bench";
  c.ranks = options.ranks;
  c.experts = options.experts;
  c.slots = options.slots;
  c.layers = c.slot_sets = 1;
  c.window = 2;
  c.shard_count = options.expert_bytes > 0;
  c.shard_bytes[0] = options.expert_bytes;
  c.training = c.gradient_count = options.gradient_elements > 0;
  c.gradient_bytes[0] = options.gradient_elements * sizeof(float);
  c.step_timeout_ns = kPatienceNs / 2;
  c.memory = ULTRAEP_CUDA_MEMORY;
  c.stream_blocks = c.reduce_blocks = options.blocks;
  for (auto& rank : ranks_) {
    c.rank = rank->number;
    c.device = int32_t(rank->device);
    if (const ultraep_status joined = ultraep_join(rank->client, &c, 0); joined != ULTRAEP_TIMEOUT)
      Demand(joined, "join");
    const Result r = rank->client->Device(&rank->inside);
    if (!r.ok()) throw std::runtime_error(r.text);
    BackendText wrong;
    Demand(backend_.MakeStream(rank->device, &rank->stream, &wrong), wrong);
    Demand(backend_.MakeStream(rank->device, &rank->side, &wrong), wrong);
    Demand(ultraep_cuda_plan_create(rank->client, &rank->plan), "plan_create");
  }
}

void GpuGroup::AwaitOpen() {
  for (auto& rank : ranks_)
    Await("joining", [&] {
      ultraep_client_info info{};
      Demand(ultraep_client_state(rank->client, &info), "client_state");
      if (info.phase == ULTRAEP_REFUSED_JOIN) throw std::runtime_error(info.text);
      return info.phase == ULTRAEP_OPEN;
    });
}

void GpuGroup::SetMains() {
  const GroupConfig& c = config();
  for (auto& rank : ranks_) {
    std::vector<const void*> weights;
    std::vector<void*> gradients;
    const auto add = [&](std::vector<DeviceBytes>* to, uint64_t bytes) {
      const Result made = to->emplace_back().Allocate(rank->inside->context(), bytes);
      if (!made.ok()) throw std::runtime_error(made.text);
      return to->back().at();
    };
    for (uint32_t e = 0; e < c.experts / c.ranks; ++e) {
      if (c.shard_count) weights.push_back(add(&rank->mains, c.shard_bytes[0]));
      if (c.gradient_count) gradients.push_back(add(&rank->gradients, c.gradient_bytes[0]));
    }
    if (c.shard_count)
      Demand(ultraep_cuda_set_main_weights(rank->client, 0, weights.data()), "set_main_weights");
    if (c.gradient_count)
      Demand(ultraep_cuda_set_main_gradients(rank->client, 0, gradients.data(), ULTRAEP_FLOAT32),
             "set_main_gradients");
  }
}

void GpuGroup::AwaitVerdicts() {
  for (auto& rank : ranks_) {
    const Word& verdict = rank->inside->memory()->mailbox().verdict(sequence_);
    Await("a verdict",
          [&] { return verdict.value.load(std::memory_order_acquire) == sequence_ + 1; });
  }
  ++sequence_;
}

void GpuGroup::Synchronize() {
  BackendText wrong;
  for (auto& rank : ranks_)
    for (void* stream :
         {rank->stream, rank->side, rank->inside->transfers(), rank->inside->reductions()})
      Demand(backend_.Synchronize(rank->device, stream, &wrong), wrong);
}

bool GpuGroup::Read(ultraep_plan_info* info, std::vector<ultraep_replica>* replicas) {
  replicas->resize(uint64_t{config().ranks} * config().slots);
  Demand(ultraep_cuda_plan_read(rank(0).plan, info, replicas->data(), uint32_t(replicas->size())),
         "plan_read");
  replicas->resize(info->replica_count);
  return info->verdict == ULTRAEP_PLAN;
}

void GpuGroup::Check() {
  for (auto& rank : ranks_) Demand(ultraep_cuda_check(rank->client), "check");
}

SlotView GpuGroup::Slots(uint32_t seer, std::vector<unsigned char*>* bases) {
  // One generation, so the first of the memories that it has had.
  for (uint32_t r = 0; r < size(); ++r) bases->push_back(rank(seer).inside->memory()->base(0, r));
  return {&layout_, bases->data()};
}

unsigned char* GpuGroup::Weights(uint32_t seer, const ultraep_replica& r) {
  std::vector<unsigned char*> bases;
  return Slots(seer, &bases).shard(r.rank, 0, r.slot, 0);
}

float* GpuGroup::Gradients(uint32_t seer, const ultraep_replica& r) {
  std::vector<unsigned char*> bases;
  return Slots(seer, &bases).gradient(r.rank, 0, r.slot, 0);
}

}  // namespace ultraep::bench
