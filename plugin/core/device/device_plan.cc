#include "plugin/core/device/device_plan.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "protocol/boards.h"

using namespace ultraep;

namespace {

// Ids, or cells of a map, that one block counts: fewer blocks for small batches, no more than have
// room at once for large ones.
constexpr uint64_t kIdsPerBlock = 2048;
constexpr uint32_t kMaxCountBlocks = 128;
// One block per replicated expert is best; those without one take the others' ids.
constexpr uint32_t kRouteBlocks = 128;
constexpr uint32_t kPrepareBlocks = 32;

uint32_t CountBlocks(uint64_t ids) {
  return uint32_t(
      std::clamp<uint64_t>((ids + kIdsPerBlock - 1) / kIdsPerBlock, 1, kMaxCountBlocks));
}

Result Internal(const BackendText& wrong) { return {ULTRAEP_INTERNAL, wrong.text}; }

}  // namespace

Result ultraep_cuda_plan::Make(DeviceClient* client, ultraep_cuda_plan** out) {
  std::unique_ptr<ultraep_cuda_plan> made(new ultraep_cuda_plan(client));
  const DeviceContext& context = client->context();
  Result r = made->memory_.Allocate(context, client->memory()->plan_layout().bytes);
  for (DeviceQueue* event : {&made->issued_, &made->sent_, &made->published_, &made->reduced_})
    if (r.ok()) r = event->MakeEvent(context);
  if (r.ok()) *out = made.release();
  return r;
}

Result ultraep_cuda_plan::Operate(Kernel kernel, void* stream, uint32_t set,
                                  uint32_t transfer) const {
  const OperationArguments arguments{state(), plan(), set, transfer, layer_, 0};
  return client_->Launch(kernel, 1, &arguments, stream);
}

Result ultraep_cuda_plan::Submit(Kernel kernel, const void* from, uint64_t count, uint32_t layer,
                                 uint32_t microbatch, void* stream) {
  const GroupConfig& config = client_->config();
  if (layer >= config.layers)
    return Invalid("layer is " + std::to_string(layer) + ", the group has " +
                   std::to_string(config.layers) + " layers");
  const uint64_t limit =
      kernel == Kernel::kCountMap ? kMaxRowTokens / config.experts : kMaxRowTokens;
  if (count > limit)
    return Invalid("count is " + std::to_string(count) + ", the limit is " + std::to_string(limit));
  if (streamed_ || reducing_)
    return Invalid(
        "the plan is still used: release it, and await its gradients, before its next step");
  if (submitted_) return Invalid("the plan's step is submitted already; await its verdict first");
  const CountArguments arguments{state(), from, count, layer, microbatch};
  const uint64_t cells = kernel == Kernel::kCountMap ? count * config.experts : count;
  Result result = client_->Launch(kernel, kernel == Kernel::kSubmitRow ? 1 : CountBlocks(cells),
                                  &arguments, stream);
  if (!result.ok()) return result;
  layer_ = layer;
  submitted_ = true;
  return result;
}

Result ultraep_cuda_plan::AwaitVerdict(void* stream) {
  if (!submitted_) return Invalid("submit the plan's step first");
  const AwaitArguments arguments{state(), plan()};
  Result result = client_->Launch(Kernel::kAwait, 1, &arguments, stream);
  submitted_ = !result.ok();
  return result;
}

// The sends wait, on a stream of their own, for what the caller's stream holds now: main weights
// are written, the slots' last use is over.
Result ultraep_cuda_plan::StreamWeights(uint32_t slot_set, uint32_t transfer, void* stream) {
  const GroupConfig& config = client_->config();
  if (slot_set >= config.slot_sets)
    return Invalid("slot_set is " + std::to_string(slot_set) + ", the group has " +
                   std::to_string(config.slot_sets));
  if (transfer > ULTRAEP_BY_COPY_ENGINE)
    return Invalid("transfer is " + std::to_string(transfer) + ", must be 0..2");
  if (!moves()) return Ok();
  if (submitted_) return Invalid("await the verdict of the plan's step first");
  if (streamed_)
    return Invalid("the plan's weights are streamed already; release them before a restore");
  if (!client_->mains().layer(layer_))
    return Invalid("the main weights of layer " + std::to_string(layer_) +
                   " are not known: ultraep_cuda_set_main_weights comes first");
  const bool copies = transfer == ULTRAEP_BY_COPY_ENGINE;
  const DeviceContext& context = client_->context();
  if (copies && context.backend().IsCapturing(context.device(), stream))
    return Invalid(
        "the copy engine needs the plan on the host, a capture has none: use "
        "ULTRAEP_BY_BULK_COPIES");
  if (Result r = Operate(Kernel::kBeginStream, stream, slot_set); !r.ok()) return r;
  streamed_ = true;
  Result sent = SendBy(transfer, stream);
  return sent.ok() ? sent : GiveUp(std::move(sent));
}

// Peers wait for this rank's part: they must not wait in vain.
Result ultraep_cuda_plan::GiveUp(Result wrong) const {
  client_->carrier().Fail(wrong.text);
  return wrong;
}

Result ultraep_cuda_plan::SendBy(uint32_t transfer, void* stream) {
  Result result = client_->Join(stream, issued_.get(), client_->transfers());
  if (result.ok())
    result = transfer == ULTRAEP_BY_COPY_ENGINE ? SendByCopies(stream)
                                                : SendByKernel(transfer == ULTRAEP_BY_BULK_COPIES);
  if (!result.ok()) return result;
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (!context.backend().Record(context.device(), sent_.get(), client_->transfers(), &wrong))
    return Internal(wrong);
  return Ok();
}

// Nobody may be left waiting: what was begun ends here, on ultraep's own streams.
ultraep_cuda_plan::~ultraep_cuda_plan() {
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (reducing_) Operate(Kernel::kEndReduce, client_->reductions());
  if (reducing_) context.backend().Synchronize(context.device(), client_->reductions(), &wrong);
  if (streamed_) Operate(Kernel::kRelease, client_->transfers());
  if (streamed_) context.backend().Synchronize(context.device(), client_->transfers(), &wrong);
}

Result ultraep_cuda_plan::SendByKernel(bool bulk) {
  const StreamArguments arguments{state(), plan(), client_->mains().layer(layer_)};
  return client_->Launch(bulk ? Kernel::kStreamBulk : Kernel::kStream, client_->stream_blocks(),
                         &arguments, client_->transfers());
}

Result ultraep_cuda_plan::ReadImage(std::vector<unsigned char>* image) const {
  const DevicePlanLayout& layout = client_->memory()->plan_layout();
  image->resize(layout.image_bytes);
  BackendText wrong;
  const DeviceContext& context = client_->context();
  if (!context.backend().FromDevice(context.device(), image->data(), memory_.at() + layout.image_at,
                                    image->size(), &wrong))
    return Internal(wrong);
  return Ok();
}

// In the queue's order, each expert whole: the lowest unfinished transfer of the group can always
// run, as with kernels.
Result ultraep_cuda_plan::SendByCopies(void* stream) {
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (!context.backend().Synchronize(context.device(), stream, &wrong)) return Internal(wrong);
  DevicePlan now;
  if (!context.backend().FromDevice(context.device(), &now, plan(), sizeof now, &wrong))
    return Internal(wrong);
  if (!now.stream.active) return Ok();
  std::vector<unsigned char> bytes;
  if (Result r = ReadImage(&bytes); !r.ok()) return r;
  const PlanImageView image{bytes.data()};
  for (uint32_t s = 0; s < image.head().send_count; ++s)
    if (Result r = CopySend(image, image.sends()[s], now.stream.set, now.stream.memory); !r.ok())
      return r;
  return Ok();
}

// Copies cannot be called off in stream order: the host looks before each, so that nothing is
// stored into slots that have not accepted it (rule 6) or have failed (rule 7).
Result ultraep_cuda_plan::Accepted(const PlanImageView& image, const Send& send, uint32_t set,
                                   uint32_t memory, bool* accepted) {
  void* const stream = client_->transfers();
  for (uint32_t i = 0; i < send.count;
       ++i)  // also until what is relayed is in this rank's own slot
    if (Result r = Operate(Kernel::kAwaitAccepted, stream, set, image.transfers()[send.first + i]);
        !r.ok())
      return r;
  const DeviceContext& context = client_->context();
  uint64_t failed = 0;
  BackendText wrong;
  if (!context.backend().Synchronize(context.device(), stream, &wrong) ||
      !context.backend().FromDevice(context.device(), &failed, &state()->memories[memory].failed,
                                    sizeof failed, &wrong))
    return Internal(wrong);
  *accepted = failed == 0;
  return Ok();
}

Result ultraep_cuda_plan::CopySend(const PlanImageView& image, const Send& send, uint32_t set,
                                   uint32_t memory) {
  const GroupConfig& config = client_->config();
  const SlotLayout layout(config);
  std::vector<unsigned char*> bases;
  for (uint32_t r = 0; r < config.ranks; ++r) bases.push_back(client_->memory()->base(memory, r));
  const SlotView slots{&layout, bases.data()};
  bool accepted = false;
  if (Result r = Accepted(image, send, set, memory, &accepted); !r.ok() || !accepted) return r;
  std::vector<void*> to;
  std::vector<const void*> from;
  std::vector<uint64_t> size;
  const uint64_t own = send.expert % (config.experts / config.ranks);
  for (uint32_t i = 0; i < send.count; ++i) {
    const Replica& replica = image.replicas()[image.transfers()[send.first + i]];
    for (uint32_t p = 0; p < config.shard_count; ++p) {
      to.push_back(slots.shard(replica.rank, set, replica.slot, p));
      from.push_back(send.parent < 0 ? client_->mains().host(layer_)[own * config.shard_count + p]
                                     : slots.shard(client_->rank(), set,
                                                   image.replicas()[send.parent].slot, p));
      size.push_back(config.shard_bytes[p]);
    }
  }
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (!context.backend().CopyAsync(context.device(), to.data(), from.data(), size.data(),
                                   uint32_t(to.size()), client_->transfers(), &wrong))
    return Internal(wrong);
  const SignalArguments arguments{state(), plan(), send.first, send.count};
  return client_->Launch(Kernel::kSignal, 1, &arguments, client_->transfers());
}

Result ultraep_cuda_plan::Route(const int32_t* ids, uint64_t count, int32_t* physical,
                                void* stream) {
  const RouteArguments arguments{state(), plan(), ids, physical, count};
  return client_->Launch(Kernel::kRouteIds, kRouteBlocks, &arguments, stream);
}

Result ultraep_cuda_plan::RouteMap(const RouteMapArguments& what, void* stream) {
  RouteMapArguments arguments = what;
  arguments.state = state();
  arguments.plan = plan();
  return client_->Launch(Kernel::kRouteMap, kRouteBlocks, &arguments, stream);
}

Result ultraep_cuda_plan::AwaitWeights(void* stream) {
  if (!moves()) return Ok();
  if (!streamed_) return Invalid("the plan's weights are not streamed, or released already");
  return Operate(Kernel::kArrive, stream);
}

Result ultraep_cuda_plan::Release(void* stream) {
  if (!moves() || !streamed_) return Ok();
  if (prepared_)
    return Invalid("the plan's gradients are prepared: reduce them first, homes wait for them");
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (!context.backend().WaitEvent(context.device(), stream, sent_.get(), &wrong))
    return Internal(wrong);
  if (Result r = Operate(Kernel::kRelease, stream); !r.ok()) return r;
  streamed_ = false;
  return Ok();
}

Result ultraep_cuda_plan::CheckGradients() const {
  if (!client_->config().gradient_count)
    return Invalid(
        "the group has no gradients: join with training, gradient_count and gradient_bytes");
  return Ok();
}

Result ultraep_cuda_plan::PrepareGradients(bool zero, void* stream) {
  if (Result wrong = CheckGradients(); !wrong.ok()) return wrong;
  if (!streamed_) return Invalid("stream the plan's weights first: they say which slots are used");
  if (reducing_)
    return Invalid("the plan's gradients are being reduced; await them before a next reduction");
  if (prepared_)
    return Invalid("the plan's gradients are prepared already: what was added would be lost");
  const PrepareArguments arguments{state(), plan(), zero, 0};
  Result result = client_->Launch(Kernel::kPrepare, kPrepareBlocks, &arguments, stream);
  prepared_ = result.ok();
  return result;
}

Result ultraep_cuda_plan::ReduceGradients(bool any_order, void* stream) {
  if (Result wrong = CheckGradients(); !wrong.ok()) return wrong;
  if (reducing_) return Invalid("the plan's gradients are being reduced already");
  if (!streamed_ || !prepared_)
    return Invalid("reduce the plan's gradients after they were prepared and before its release");
  if (!client_->gradients().layer(layer_))
    return Invalid("the main gradients of layer " + std::to_string(layer_) +
                   " are not known: ultraep_cuda_set_main_gradients comes first");
  if (Result r = Operate(Kernel::kPublish, stream); !r.ok()) return r;
  prepared_ = false;
  reducing_ = true;
  if (Result r = client_->Join(stream, published_.get(), client_->reductions()); !r.ok())
    return GiveUp(r);
  const ReduceArguments arguments{state(), plan(), client_->gradients().layer(layer_),
                                  client_->gradient_type(layer_), any_order};
  if (Result r = client_->Launch(Kernel::kReduce, client_->reduce_blocks(), &arguments,
                                 client_->reductions());
      !r.ok())
    return GiveUp(r);
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (!context.backend().Record(context.device(), reduced_.get(), client_->reductions(), &wrong))
    return GiveUp(Internal(wrong));
  return Ok();
}

Result ultraep_cuda_plan::AwaitGradients(void* stream) {
  if (!reducing_) return Ok();
  const DeviceContext& context = client_->context();
  BackendText wrong;
  if (!context.backend().WaitEvent(context.device(), stream, reduced_.get(), &wrong))
    return Internal(wrong);
  if (Result r = Operate(Kernel::kEndReduce, stream); !r.ok()) return r;
  reducing_ = false;
  return Ok();
}

const ultraep_cuda_slot* ultraep_cuda_plan::slots() const {
  return reinterpret_cast<const ultraep_cuda_slot*>(memory_.at() +
                                                    client_->memory()->plan_layout().slots_at);
}

Result ultraep_cuda_plan::Read(ultraep_plan_info* info, ultraep_replica* replicas,
                               uint32_t capacity) const {
  std::vector<unsigned char> bytes;
  if (Result r = ReadImage(&bytes); !r.ok()) return r;
  const PlanImageView image{bytes.data()};
  const PlanImageHead& head = image.head();
  *info = {};
  if (head.verdict == DeviceVerdict::kFailed)
    return Failed("step " + std::to_string(head.sequence) + " has failed");
  info->verdict = ultraep_verdict(head.verdict);
  info->layer = head.layer;
  info->microbatch = head.microbatch;
  info->replica_count = head.replica_count;
  info->sequence = head.sequence;
  info->total_tokens = head.certificate.total;
  info->peak_before = head.certificate.peak_before;
  info->peak = head.certificate.peak;
  info->lower_bound = head.certificate.lower_bound;
  info->solve_ns = head.solve_ns;
  info->handle_bytes = memory_.bytes();
  for (uint32_t i = 0; i < std::min(capacity, head.replica_count); ++i) {
    const Replica& r = image.replicas()[i];
    replicas[i] = {r.expert, r.rank, r.slot, r.parent, r.tokens};
  }
  return Ok();
}
