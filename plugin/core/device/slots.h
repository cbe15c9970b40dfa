// The slots of one generation on GPUs, as this rank maps them: its own, which it makes (or the
// daemon did), and its peers', whose handles come through the socket pairs of the group.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plugin/core/device/context.h"
#include "protocol/boards.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// One thread's. Made in turns (Advance), so that the caller may beat and look elsewhere meanwhile.
class DeviceSlots {
 public:
  // descriptors: what came with Joined behind the boards (JoinedDescriptors in message.h).
  DeviceSlots(const DeviceContext& context, const GroupLayout& layout, uint32_t rank,
              uint64_t generation, std::vector<Descriptor> descriptors);
  ~DeviceSlots();

  enum class Progress { kMore, kDone, kFailed };
  // Does what can be done now; nothing blocks for long. kFailed: `wrong` says why.
  Progress Advance(std::string* wrong);
  // Until then, which ranks' memory is missing.
  std::string Missing() const;

  // Where this rank's GPU sees each rank's slots; complete once done. [ranks]
  const std::vector<void*>& bases() const { return bases_; }

 private:
  bool Make(std::string* wrong);
  bool Send(std::string* wrong);
  bool Receive(std::string* wrong);
  bool Take(const SlotMemory& message, const std::vector<Descriptor>& descriptors,
            std::string* wrong);
  bool MapOne(uint32_t rank, uint64_t handle, std::string* wrong);
  bool Import(uint32_t rank, int fd, std::string* wrong);

  const DeviceContext& context_;
  const MemoryKind kind_;
  const uint32_t rank_, ranks_;
  const uint64_t bytes_, generation_;
  std::vector<Descriptor> descriptors_;
  Descriptor own_;  // this rank's memory, for its peers
  bool made_ = false;
  SlotMemory message_;  // what peers are sent
  uint32_t sent_ = 0;   // ranks that have been sent ours
  std::vector<void*> bases_;
};

}  // namespace ultraep
