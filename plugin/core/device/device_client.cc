#include "plugin/core/device/device_client.h"

#include <algorithm>
#include <utility>

#include "kernels/bfloat16.h"
#include "plugin/core/forks.h"
#include "protocol/lease.h"

namespace ultraep {
namespace {

constexpr uint32_t kDefaultBlocks = 32;
// Kernels give up after everybody else has: the group's own clocks come first.
constexpr uint64_t kBoundSlackNs = 20 * kHeartbeatNs;

Result Internal(const BackendText& wrong) { return {ULTRAEP_INTERNAL, wrong.text}; }

}  // namespace

DeviceQueue::~DeviceQueue() {
  if (!at_) return;
  if (stream_)
    context_->backend().FreeStream(context_->device(), at_);
  else
    context_->backend().FreeEvent(context_->device(), at_);
}

Result DeviceQueue::MakeStream(const DeviceContext& context) {
  context_ = &context;
  stream_ = true;
  BackendText wrong;
  return context.backend().MakeStream(context.device(), &at_, &wrong) ? Ok() : Internal(wrong);
}

Result DeviceQueue::MakeEvent(const DeviceContext& context) {
  context_ = &context;
  BackendText wrong;
  return context.backend().MakeEvent(context.device(), /*timed=*/false, &at_, &wrong)
             ? Ok()
             : Internal(wrong);
}

Result AddressTable::Make(const DeviceContext& context, uint32_t layers, uint64_t entries) {
  entries_ = entries;
  host_.resize(layers * entries);
  set_.resize(layers);
  return entries ? device_.Allocate(context, layers * entries * sizeof(void*)) : Ok();
}

Result AddressTable::Set(const DeviceContext& context, uint32_t layer, const void* const* addresses,
                         uint64_t align, const char* name) {
  for (uint64_t i = 0; i < entries_; ++i)
    if (!addresses || !addresses[i] || reinterpret_cast<uintptr_t>(addresses[i]) % align)
      return Invalid(std::string(name) + "[" + std::to_string(i) + "] is NULL or not on " +
                     std::to_string(align) + " bytes");
  if (!entries_) return Ok();
  const uint64_t bytes = entries_ * sizeof(void*);
  BackendText wrong;
  if (!context.backend().ToDevice(context.device(), device_.at() + layer * bytes, addresses, bytes,
                                  &wrong))
    return Internal(wrong);
  std::copy_n(addresses, entries_, &host_[layer * entries_]);
  set_[layer] = true;
  return Ok();
}

void* const* AddressTable::layer(uint32_t layer) const {
  if (!set_[layer]) return nullptr;
  return reinterpret_cast<void* const*>(device_.at()) + layer * entries_;
}

DeviceClient::DeviceClient(const GroupConfig& config, const ultraep_group_config& asked)
    : forks_(ForkCount()),
      config_(config),
      rank_(asked.rank),
      stream_blocks_(asked.stream_blocks ? asked.stream_blocks : kDefaultBlocks),
      reduce_blocks_(asked.reduce_blocks ? asked.reduce_blocks : kDefaultBlocks),
      types_(config.layers) {}

// Kernels that wait end by the stop words; what they use goes afterwards.
DeviceClient::~DeviceClient() {
  if (carrier_) carrier_->Stop();
  BackendText wrong;
  for (void* stream : {transfers_.get(), reductions_.get()})
    if (stream) context().backend().Synchronize(context().device(), stream, &wrong);
}

Result DeviceClient::Make(const GroupConfig& config, const ultraep_group_config& asked,
                          std::unique_ptr<DeviceClient>* out) {
  std::shared_ptr<DeviceContext> context;
  if (Result r = DeviceContext::Open(asked.device, &context); !r.ok()) return r;
  std::unique_ptr<DeviceClient> made(new DeviceClient(config, asked));
  const uint64_t bound = config.step_timeout_ns + kBoundSlackNs;
  Result r = StepMemory::Make(std::move(context), config, asked.rank, asked.next_sequence, bound,
                              &made->memory_);
  if (r.ok()) r = made->MakeQueues();
  if (r.ok()) *out = std::move(made);
  return r;
}

Result DeviceClient::MakeQueues() {
  const uint64_t own = config_.experts / config_.ranks;
  Result r = transfers_.MakeStream(context());
  if (r.ok()) r = reductions_.MakeStream(context());
  if (r.ok()) r = mains_.Make(context(), config_.layers, own * config_.shard_count);
  if (r.ok()) r = gradients_.Make(context(), config_.layers, own * config_.gradient_count);
  if (!r.ok()) r.status = ULTRAEP_REFUSED;
  return r;
}

void DeviceClient::Start(uint64_t spin_ns, Steps* steps) {
  carrier_ = std::make_unique<Carrier>(config_, rank_, stream_blocks_, spin_ns, steps, memory_);
  carrier_->Start();
}

void DeviceClient::Leave() {
  left_ = true;
  carrier_->Leave();
}

bool DeviceClient::forked() const { return ForkCount() != forks_; }

Result DeviceClient::CheckUsable() const {
  if (forked())
    return Invalid("this plan belongs to the parent process; a forked child needs its own client");
  if (left_) return Invalid("the client has left its group");
  return Ok();
}

Result DeviceClient::CheckLayer(uint32_t layer) const {
  if (layer < config_.layers) return Ok();
  return Invalid("layer is " + std::to_string(layer) + ", the group has " +
                 std::to_string(config_.layers) + " layers");
}

Result DeviceClient::SetMains(uint32_t layer, const void* const* weights) {
  if (Result wrong = CheckLayer(layer); !wrong.ok()) return wrong;
  return mains_.Set(context(), layer, weights, 1, "main_weights");
}

Result DeviceClient::SetGradients(uint32_t layer, void* const* gradients, uint32_t type) {
  if (Result wrong = CheckLayer(layer); !wrong.ok()) return wrong;
  if (type != ULTRAEP_FLOAT32 && type != ULTRAEP_BFLOAT16)
    return Invalid("type is " + std::to_string(type) +
                   ", must be ULTRAEP_FLOAT32 or ULTRAEP_BFLOAT16");
  Result set =
      gradients_.Set(context(), layer, gradients,
                     type == ULTRAEP_FLOAT32 ? sizeof(float) : sizeof(Bfloat16), "main_gradients");
  if (set.ok()) types_[layer] = GradientType(type);
  return set;
}

Result DeviceClient::GatherRows(void* communicator, const uint32_t* row, uint32_t* rows,
                                void* stream) const {
  BackendText wrong;
  return context().backend().GatherRows(context().device(), communicator, row, rows,
                                        config_.experts, stream, &wrong)
             ? Ok()
             : Internal(wrong);
}

void DeviceClient::Describe(ultraep_cuda_device_info* info) const {
  *info = {};
  SetText(info->name, context().info().name);
  info->device = context().device();
  info->architecture = context().info().architecture;
  info->stream_blocks = stream_blocks_;
  info->reduce_blocks = reduce_blocks_;
  info->slot_bytes = GroupLayout(config_).device_bytes();
  info->state_bytes = memory_->state_bytes();
  info->plan_bytes = memory_->plan_layout().bytes;
  info->pinned_bytes = memory_->pinned_bytes();
}

Result DeviceClient::Launch(Kernel kernel, uint32_t blocks, const void* arguments,
                            void* stream) const {
  BackendText wrong;
  return context().backend().Launch(context().device(), kernel, blocks, config_.experts, arguments,
                                    stream, &wrong)
             ? Ok()
             : Internal(wrong);
}

Result DeviceClient::Join(void* stream, void* event, void* later) const {
  DeviceBackend& backend = context().backend();
  BackendText wrong;
  return backend.Record(context().device(), event, stream, &wrong) &&
                 backend.WaitEvent(context().device(), later, event, &wrong)
             ? Ok()
             : Internal(wrong);
}

}  // namespace ultraep
