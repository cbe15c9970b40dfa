// What the members of an EP group agree on when they join.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "protocol/check_plan.h"
#include "protocol/load.h"
#include "protocol/words.h"

namespace ultraep {

// Where slots are. kCuda: each rank's on its GPU, made by the rank itself and passed to the others
// of the node; its boards stay the daemon's. kCudaDaemon: the same, made by the daemon.
enum class MemoryKind : uint16_t { kHost = 0, kCuda = 1, kCudaDaemon = 2 };

// GPUs that one node serves in a group: what descriptors in one message allow.
inline constexpr uint32_t kMaxDeviceRanks = 72;

//    0      64      80      84        88      92       96       100         104
//   +------+-------+-------+---------+-------+--------+--------+-----------+-------------+
//   | name | nonce | ranks | experts | slots | layers | window | slot_sets | domain_size |
//   +------+-------+-------+---------+-------+--------+--------+-----------+-------------+
//    108        110      112           116              120             184                248
//   +----------+--------+-------------+----------------+---------------+------------------+--------
//   | training | memory | shard_count | gradient_count | shard_bytes[8]| gradient_bytes[8]|
//   step_t..
//   +----------+--------+-------------+----------------+---------------+------------------+--------
//                                                                             step_timeout_ns u64
//                                                                             256
struct GroupConfig {
  char name[64] = {};  // zero padded
  uint8_t nonce[16] = {};
  uint32_t ranks = 0;
  uint32_t experts = 0;
  uint32_t slots = 0;
  uint32_t layers = 0;
  uint32_t window = 0;
  uint32_t slot_sets = 0;
  uint32_t domain_size = 0;
  uint16_t training = 0;
  MemoryKind memory = MemoryKind::kHost;
  uint32_t shard_count = 0;
  uint32_t gradient_count = 0;
  uint64_t shard_bytes[kMaxShards] = {};
  uint64_t gradient_bytes[kMaxShards] = {};  // float32, of one slot
  uint64_t step_timeout_ns = 0;

  bool on_device() const { return memory != MemoryKind::kHost; }
  PlanShape shape() const { return {ranks, experts, slots, domain_size}; }
  // Of the weights that travel for one replica.
  uint64_t expert_bytes() const {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < shard_count; ++i) sum += shard_bytes[i];
    return sum;
  }
};
static_assert(sizeof(GroupConfig) == 256 && alignof(GroupConfig) == 8, "bump kLayoutVersion");
static_assert(offsetof(GroupConfig, memory) == 110 && offsetof(GroupConfig, shard_bytes) == 120 &&
                  offsetof(GroupConfig, step_timeout_ns) == 248,
              "bump kLayoutVersion");

// A slot holds one expert; one of a tebibyte is a mistake in units.
inline constexpr uint64_t kMaxSlotBytes = uint64_t{1} << 40;

// Empty when a group may be made of it, else the value, the limit, and so the fix.
inline std::string CheckConfig(const GroupConfig& c) {
  auto bad = [](const char* name, uint64_t value, const std::string& need) {
    return std::string(name) + " is " + std::to_string(value) + ", must be " + need;
  };
  const size_t length = strnlen(c.name, sizeof c.name);
  if (length == 0 || length == sizeof c.name) return "group_name must have 1..63 characters";
  for (size_t i = 0; i < length; ++i)
    if (c.name[i] < 0x21 || c.name[i] > 0x7e)
      return "group_name has the byte " +
             std::to_string(int(static_cast<unsigned char>(c.name[i]))) + " at " +
             std::to_string(i) + ", must be printable ASCII without spaces";
  if (std::string wrong = CheckShape(c.shape()); !wrong.empty()) return wrong;
  if (c.layers < 1) return bad("layers", c.layers, "at least 1");
  if (c.window < 1 || c.window > kMaxWindow)
    return bad("window", c.window, "1.." + std::to_string(kMaxWindow));
  if (c.slot_sets < 1 || c.slot_sets > kMaxSlotSets)
    return bad("slot_sets", c.slot_sets, "1.." + std::to_string(kMaxSlotSets));
  if (c.training > 1) return bad("training", c.training, "0 or 1");
  if (c.memory > MemoryKind::kCudaDaemon)
    return bad("memory", uint64_t(c.memory), "0 (host), 1 (CUDA) or 2 (CUDA, the daemon's)");
  if (c.on_device() && c.ranks > kMaxDeviceRanks)
    return bad("ranks", c.ranks,
               "at most " + std::to_string(kMaxDeviceRanks) + " with slots on GPUs");
  const auto parts = [&](const char* count_name, uint32_t count, const std::string& name,
                         const uint64_t* bytes) -> std::string {
    if (count > kMaxShards) return bad(count_name, count, "0.." + std::to_string(kMaxShards));
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; ++i) {
      if (bytes[i] < 1 || bytes[i] > kMaxSlotBytes)
        return bad(name.c_str(), bytes[i], "1.." + std::to_string(kMaxSlotBytes));
      sum += bytes[i];
    }
    if (sum <= kMaxSlotBytes) return "";
    return bad(("the sum of " + name).c_str(), sum, "at most " + std::to_string(kMaxSlotBytes));
  };
  if (std::string wrong = parts("shard_count", c.shard_count, "shard_bytes", c.shard_bytes);
      !wrong.empty())
    return wrong;
  if (std::string wrong =
          parts("gradient_count", c.gradient_count, "gradient_bytes", c.gradient_bytes);
      !wrong.empty())
    return wrong;
  for (uint32_t i = 0; i < c.gradient_count; ++i)
    if (c.gradient_bytes[i] % 4)
      return bad("gradient_bytes", c.gradient_bytes[i], "a multiple of 4: gradients are float32");
  if (c.gradient_count && !c.training)
    return bad("gradient_count", c.gradient_count, "0 when serving");
  if (c.gradient_count && !c.shard_count)
    return bad("gradient_count", c.gradient_count, "0 when no weights travel (shard_count 0)");
  if (c.step_timeout_ns < 1'000'000)
    return bad("step_timeout_ns", c.step_timeout_ns, "at least 1000000 (1 ms)");
  return "";
}

// The first difference with both values, or empty. Name and nonce are the key of a group and equal
// here by construction.
inline std::string FirstDifference(const GroupConfig& group, const GroupConfig& member) {
  auto differ = [](const std::string& what, uint64_t ours, uint64_t theirs) {
    return what + " is " + std::to_string(theirs) + " here and " + std::to_string(ours) +
           " in the group";
  };
#define ULTRAEP_DIFFER(field) \
  if (group.field != member.field) return differ(#field, group.field, member.field)
  ULTRAEP_DIFFER(ranks);
  ULTRAEP_DIFFER(experts);
  ULTRAEP_DIFFER(slots);
  ULTRAEP_DIFFER(layers);
  ULTRAEP_DIFFER(window);
  ULTRAEP_DIFFER(slot_sets);
  ULTRAEP_DIFFER(domain_size);
  ULTRAEP_DIFFER(training);
  if (group.memory != member.memory)
    return differ("memory", uint64_t(group.memory), uint64_t(member.memory));
  ULTRAEP_DIFFER(shard_count);
  for (uint32_t i = 0; i < group.shard_count; ++i) {
    if (group.shard_bytes[i] != member.shard_bytes[i])
      return differ("shard_bytes[" + std::to_string(i) + "]", group.shard_bytes[i],
                    member.shard_bytes[i]);
  }
  ULTRAEP_DIFFER(gradient_count);
  for (uint32_t i = 0; i < group.gradient_count; ++i) {
    if (group.gradient_bytes[i] != member.gradient_bytes[i])
      return differ("gradient_bytes[" + std::to_string(i) + "]", group.gradient_bytes[i],
                    member.gradient_bytes[i]);
  }
  ULTRAEP_DIFFER(step_timeout_ns);
#undef ULTRAEP_DIFFER
  return "";
}

}  // namespace ultraep
