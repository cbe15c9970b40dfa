#include "plugin/core/device/slots.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace ultraep {

DeviceSlots::DeviceSlots(const DeviceContext& context, const GroupLayout& layout, uint32_t rank,
                         uint64_t generation, std::vector<Descriptor> descriptors)
    : context_(context),
      kind_(layout.config.memory),
      rank_(rank),
      ranks_(layout.config.ranks),
      bytes_(layout.device_bytes()),
      generation_(generation),
      descriptors_(std::move(descriptors)),
      bases_(ranks_) {}

// The memory itself lives as long as any rank maps it.
DeviceSlots::~DeviceSlots() {
  for (void* base : bases_)
    if (base) context_.backend().Unmap(base, bytes_);
}

DeviceSlots::Progress DeviceSlots::Advance(std::string* wrong) {
  if (kind_ == MemoryKind::kCudaDaemon) {
    for (uint32_t r = 0; r < ranks_; ++r)
      if (!bases_[r] && !Import(r, descriptors_[r].get(), wrong)) return Progress::kFailed;
  } else {
    if (!made_ && !Make(wrong)) return Progress::kFailed;
    if (!Receive(wrong) || !Send(wrong)) return Progress::kFailed;
  }
  for (void* base : bases_)
    if (!base) return Progress::kMore;
  if (kind_ == MemoryKind::kCuda && sent_ < ranks_) return Progress::kMore;
  if (kind_ == MemoryKind::kCudaDaemon) {  // who maps it first may be anybody: its rank zeroes it
    BackendText text;
    if (!context_.backend().Zero(context_.device(), bases_[rank_], bytes_, &text)) {
      *wrong = text.text;
      return Progress::kFailed;
    }
  }
  descriptors_.clear();
  own_.reset();
  return Progress::kDone;
}

std::string DeviceSlots::Missing() const {
  std::string all;
  for (uint32_t r = 0; r < ranks_; ++r)
    if (!bases_[r]) all += (all.empty() ? "" : ", ") + std::to_string(r);
  return all;
}

// Zero before anybody else knows of it: flags and gradients begin at nothing.
bool DeviceSlots::Make(std::string* wrong) {
  DeviceBackend& backend = context_.backend();
  BackendText text;
  uint64_t handle = 0;
  const char* wish = std::getenv("ULTRAEP_CUDA_HANDLES");
  const bool fabric = wish && std::strcmp(wish, "fabric") == 0;
  const auto fail = [&] {
    *wrong = "slots of " + std::to_string(bytes_ >> 20) + " MiB on " + context_.info().name + ": " +
             text.text;
    if (handle) backend.Release(handle);
    return false;
  };
  if (!backend.Create(context_.device(), bytes_, fabric, &handle, &text)) return fail();
  message_.generation = generation_;
  message_.rank = rank_;
  message_.bytes = bytes_;
  if (fabric) {
    FabricHandle name;
    if (!backend.ExportFabric(handle, &name, &text)) return fail();
    message_.has_fabric = 1;
    std::memcpy(message_.fabric, name.bytes, sizeof message_.fabric);
  } else {
    int fd = -1;
    if (!backend.ExportDescriptor(handle, &fd, &text)) return fail();
    own_ = Descriptor(fd);
  }
  void* at = nullptr;
  if (!backend.Map(context_.device(), handle, bytes_, &at, &text)) return fail();
  bases_[rank_] = at;
  backend.Release(handle);  // the mapping holds it
  handle = 0;
  if (!backend.Zero(context_.device(), at, bytes_, &text)) return fail();
  made_ = true;
  return true;
}

// A peer that does not read yet is tried again later: meanwhile this rank reads its own.
bool DeviceSlots::Send(std::string* wrong) {
  for (; sent_ < ranks_; ++sent_) {
    if (sent_ == rank_) continue;
    const int fd = own_.get();
    if (SendMessage(descriptors_[1 + sent_].get(), message_, &fd, fd >= 0, MSG_DONTWAIT)) continue;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS || errno == ENOMEM)
      return true;
    if (errno == EPIPE || errno == ECONNRESET) continue;  // it went: the generation is over
    *wrong = "passing slots to rank " + std::to_string(sent_) + ": " + std::strerror(errno);
    return false;
  }
  return true;
}

bool DeviceSlots::Receive(std::string* wrong) {
  Packet packet;
  for (;;) {
    switch (ReceivePacket(descriptors_[0].get(), MSG_DONTWAIT, &packet)) {
      case Receive::kPacket:
        break;
      case Receive::kDescriptorsLost:
        *wrong = "out of file descriptors while joining: raise RLIMIT_NOFILE by " +
                 std::to_string(ranks_);
        return false;
      default:
        return true;
    }
    SlotMemory message;
    if (!CheckHead(packet.bytes, packet.size).empty() || !As(packet.bytes, packet.size, &message) ||
        message.generation != generation_)
      continue;  // not from a member of this generation
    if (!Take(message, packet.descriptors, wrong)) return false;
  }
}

bool DeviceSlots::Take(const SlotMemory& message, const std::vector<Descriptor>& descriptors,
                       std::string* wrong) {
  if (message.rank >= ranks_ || bases_[message.rank]) return true;
  const std::string who = "slots of rank " + std::to_string(message.rank);
  if (message.bytes != bytes_) {
    *wrong = who + " are " + std::to_string(message.bytes) + " bytes, expected " +
             std::to_string(bytes_);
    return false;
  }
  if (!message.has_fabric) {
    if (descriptors.size() == 1) return Import(message.rank, descriptors[0].get(), wrong);
    *wrong = who + " came with " + std::to_string(descriptors.size()) + " descriptors, expected 1";
    return false;
  }
  FabricHandle name;
  std::memcpy(name.bytes, message.fabric, sizeof name.bytes);
  uint64_t handle = 0;
  BackendText text;
  if (context_.backend().ImportFabric(name, &handle, &text))
    return MapOne(message.rank, handle, wrong);
  *wrong = who + ": " + text.text;
  return false;
}

bool DeviceSlots::Import(uint32_t rank, int fd, std::string* wrong) {
  uint64_t handle = 0;
  BackendText text;
  if (context_.backend().ImportDescriptor(fd, &handle, &text)) return MapOne(rank, handle, wrong);
  *wrong = "slots of rank " + std::to_string(rank) + ": " + text.text;
  return false;
}

bool DeviceSlots::MapOne(uint32_t rank, uint64_t handle, std::string* wrong) {
  BackendText text;
  const bool mapped =
      context_.backend().Map(context_.device(), handle, bytes_, &bases_[rank], &text);
  context_.backend().Release(handle);
  if (mapped) return true;
  bases_[rank] = nullptr;
  *wrong = "slots of rank " + std::to_string(rank) + " cannot be reached from " +
           context_.info().name + " (device " + std::to_string(context_.device()) +
           "): " + text.text;
  return false;
}

}  // namespace ultraep
