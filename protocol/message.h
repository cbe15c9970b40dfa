// Messages over the attach socket (AF_UNIX SOCK_SEQPACKET): fixed size, one per packet, descriptors
// by SCM_RIGHTS. The head never changes, so that any two versions can refuse each other by name.
//
//   member                              daemon
//     Hello(role, version)      ->
//                               <-      Welcome | Refused
//     Join(config, rank)        ->
//                               <-      Joined(generation, fds) | Refused
//                                       (once every rank of the group has asked, and this one has
//                                       read what it was sent before)
//     Ready                     ->      (mapped, gate raised, steps go through the gate)
//                               <-      Over(generation)   (a member is gone, left or fenced)
//     Join(config, rank)        ->      (again, for the next generation)
//     Refused                   ->      (it cannot use what it was sent: its group is told why)
//     Leave                     ->      (or the connection closes: member gone)
//
//   ultraepctl says Hello as well; its messages stand in operator_messages.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "protocol/group_config.h"
#include "protocol/version.h"

namespace ultraep {

enum class MessageType : uint16_t {
  kHello = 1,
  kWelcome = 2,
  kRefused = 3,
  kJoin = 4,
  kJoined = 5,
  kReady = 6,
  kLeave = 7,
  kStatusRequest = 8,
  kStatusDaemon = 9,
  kStatusGroup = 10,
  kStatusEnd = 11,
  kOver = 12,
  kEventsRequest = 13,
  kEvent = 14,
  kEventsEnd = 15,
  kTraceRequest = 16,
  kTraceStarted = 17,
  kSlotMemory = 18,
};

//    0       4         6      8      12     16
//   +-------+---------+------+------+------+
//   | magic | version | type | size | zero |
//   +-------+---------+------+------+------+
struct MessageHead {
  uint32_t magic = kMagic;
  uint16_t version = kLayoutVersion;
  uint16_t type = 0;
  uint32_t size = 0;  // of the whole message
  uint32_t zero = 0;
};
static_assert(sizeof(MessageHead) == 16 && alignof(MessageHead) == 4 &&
                  offsetof(MessageHead, type) == 6 && offsetof(MessageHead, size) == 8,
              "never changes");

// Every message begins with `kType` and a head made from it, so that sender and receiver cannot
// disagree about the number.
constexpr MessageHead HeadOf(MessageType type, size_t size) {
  MessageHead head;
  head.type = uint16_t(type);
  head.size = uint32_t(size);
  return head;
}

// head 16 | build text 64                                                        80
struct Hello {
  static constexpr MessageType kType = MessageType::kHello;
  MessageHead head = HeadOf(kType, 80);
  char build[64] = {};
};
static_assert(sizeof(Hello) == 80 && alignof(Hello) == 4, "bump kLayoutVersion");

// head 16 | build text 64                                                        80
struct Welcome {
  static constexpr MessageType kType = MessageType::kWelcome;
  MessageHead head = HeadOf(kType, 80);
  char build[64] = {};
};
static_assert(sizeof(Welcome) == 80 && alignof(Welcome) == 4, "bump kLayoutVersion");

// Why not, in words that name both sides' values. head 16 | retry 4 | zero 4 | text 1000
struct Refused {
  static constexpr MessageType kType = MessageType::kRefused;
  MessageHead head = HeadOf(kType, 1024);
  uint32_t retry = 0;  // 1: the reason may go away by itself
  uint32_t zero = 0;
  char text[1000] = {};
};
static_assert(sizeof(Refused) == 1024 && alignof(Refused) == 4, "bump kLayoutVersion");

// The GPU of a rank, as the rank sees it; all zero with slots in host memory.
// name 64 | uuid 16 | cluster 16 | clique 4 | fabric 4 | architecture 4 | flags 4 | free 8  | zero
// 8 128
struct JoinDevice {
  char name[64] = {};
  unsigned char uuid[16] = {};
  unsigned char cluster[16] = {};  // NVLink fabric: cluster and clique say who may reach whom
  uint32_t clique = 0;
  uint32_t fabric = 0;        // a FabricState
  uint32_t architecture = 0;  // compute capability: 10 x major + minor
  uint32_t flags = 0;         // none yet
  uint64_t free_bytes = 0;
  uint64_t zero = 0;
};
static_assert(sizeof(JoinDevice) == 128 && alignof(JoinDevice) == 8 &&
                  offsetof(JoinDevice, clique) == 96 && offsetof(JoinDevice, free_bytes) == 112,
              "bump kLayoutVersion");

// head 16 | config 256 | rank 4 | numa_node 4 | next_sequence 8 | fallback_tokens 8 | device 128
// 424
struct Join {
  static constexpr MessageType kType = MessageType::kJoin;
  MessageHead head = HeadOf(kType, 424);
  GroupConfig config;
  uint32_t rank = 0;
  int32_t numa_node = -1;  // where the rank's CPUs all are; -1: on several, or unknown
  uint64_t next_sequence = 0;
  uint64_t fallback_tokens = 0;
  JoinDevice device;
};
static_assert(sizeof(Join) == 424 && alignof(Join) == 8 && offsetof(Join, rank) == 272 &&
                  offsetof(Join, device) == 296,
              "bump kLayoutVersion");

// Doorbell eventfd, then the files of plan and boards (SegmentFile in boards.h), then the slots:
//   kHost        their file
//   kCuda        the end of a socket pair at which this rank receives, then the other ends of all
//                ranks' pairs, in rank order: ranks pass each other SlotMemory, the daemon never
//                takes a descriptor from anybody
//   kCudaDaemon  all ranks' memory, in rank order: CUDA's handles as descriptors
inline uint32_t JoinedDescriptors(MemoryKind memory, uint32_t ranks) {
  return 3 + (memory == MemoryKind::kHost ? 1 : memory == MemoryKind::kCuda ? 1 + ranks : ranks);
}
inline constexpr uint32_t kMaxJoinedDescriptors = 4 + kMaxDeviceRanks;

// From rank to rank, with CUDA's handle of the rank's slots as a descriptor, unless `fabric` is
// there: then the handle is in it.
// head 16 | generation 8 | rank 4 | has_fabric 4 | bytes 8 | fabric 64                  104
struct SlotMemory {
  static constexpr MessageType kType = MessageType::kSlotMemory;
  MessageHead head = HeadOf(kType, 104);
  uint64_t generation = 0;
  uint32_t rank = 0;
  uint32_t has_fabric = 0;
  uint64_t bytes = 0;
  unsigned char fabric[64] = {};
};
static_assert(sizeof(SlotMemory) == 104 && alignof(SlotMemory) == 8 &&
                  offsetof(SlotMemory, bytes) == 32,
              "bump kLayoutVersion");

// head 16 | generation 8 | lease_ns 8                                             32
// lease_ns: a heartbeat that stands still for so long is a wedged process; for both sides.
// JoinedDescriptors() travel with it.
struct Joined {
  static constexpr MessageType kType = MessageType::kJoined;
  MessageHead head = HeadOf(kType, 32);
  uint64_t generation = 0;
  uint64_t lease_ns = 0;
};
static_assert(offsetof(Joined, lease_ns) == 24, "bump kLayoutVersion");
static_assert(sizeof(Joined) == 32 && alignof(Joined) == 8, "bump kLayoutVersion");

// head 16 | generation 8                                                          24
struct Ready {
  static constexpr MessageType kType = MessageType::kReady;
  MessageHead head = HeadOf(kType, 24);
  uint64_t generation = 0;
};
static_assert(sizeof(Ready) == 24 && alignof(Ready) == 8, "bump kLayoutVersion");

// head 16 | generation 8                                                          24
struct Over {
  static constexpr MessageType kType = MessageType::kOver;
  MessageHead head = HeadOf(kType, 24);
  uint64_t generation = 0;
};
static_assert(sizeof(Over) == 24 && alignof(Over) == 8, "bump kLayoutVersion");

// head 16                                                                         16
struct Leave {
  static constexpr MessageType kType = MessageType::kLeave;
  MessageHead head = HeadOf(kType, 16);
};
static_assert(sizeof(Leave) == 16 && alignof(Leave) == 4, "bump kLayoutVersion");

inline constexpr size_t kMaxMessage = 4096;

// What is wrong with a packet's head, or empty. Sizes are checked against the type by As().
inline std::string CheckHead(const void* packet, size_t bytes) {
  MessageHead head;
  if (bytes < sizeof head)
    return "message of " + std::to_string(bytes) + " bytes, a head has " +
           std::to_string(sizeof head);
  std::memcpy(&head, packet, sizeof head);
  if (head.magic != kMagic) return "message does not begin with ultraep's magic number";
  if (head.version != kLayoutVersion)
    return "layout version " + std::to_string(head.version) + " there, " +
           std::to_string(kLayoutVersion) +
           " here: daemon and libultraep must come from the same release";
  if (head.size != bytes)
    return "message says " + std::to_string(head.size) + " bytes, " + std::to_string(bytes) +
           " came";
  return "";
}

// Copies the packet into a message of type T; false when it is another type or size.
template <class T>
bool As(const void* packet, size_t bytes, T* message) {
  MessageHead head;
  if (bytes != sizeof(T)) return false;
  std::memcpy(&head, packet, sizeof head);
  if (head.type != uint16_t(T::kType)) return false;
  std::memcpy(static_cast<void*>(message), packet, sizeof(T));
  return true;
}

template <size_t kSize>
void SetText(char (&to)[kSize], const std::string& from) {
  const size_t length = from.size() < kSize - 1 ? from.size() : kSize - 1;
  std::memcpy(to, from.data(), length);
  to[length] = 0;
}

// Reads a text field of a peer, terminated or not.
template <size_t kSize>
std::string GetText(const char (&from)[kSize]) {
  return std::string(from, strnlen(from, kSize));
}

}  // namespace ultraep
