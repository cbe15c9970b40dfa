#include "plugin/core/read_config.h"

#include <cstring>
#include <string>

#include "kernels/device/state.h"
#include "protocol/boards.h"
#include "protocol/transport/seqpacket.h"
#include "protocol/verdict_board.h"

namespace ultraep {
namespace {

constexpr uint64_t kDefaultStepTimeoutNs = 600'000'000'000;
// More only wait for one memory.
constexpr uint32_t kMaxCopyThreads = 64;

GroupConfig WireConfig(const ultraep_group_config& c) {
  GroupConfig w;
  std::memcpy(w.nonce, c.nonce, sizeof w.nonce);
  w.ranks = c.ranks;
  w.experts = c.experts;
  w.slots = c.slots;
  w.layers = c.layers;
  w.window = c.window;
  w.slot_sets = c.slot_sets;
  w.domain_size = c.domain_size;
  w.training = uint16_t(c.training < 2 ? c.training : 2);  // 2: refused
  w.memory = MemoryKind(c.memory < 3 ? c.memory : 3);      // 3: refused
  w.shard_count = c.shard_count;
  for (uint32_t i = 0; i < c.shard_count && i < kMaxShards; ++i)
    w.shard_bytes[i] = c.shard_bytes[i];
  w.gradient_count = c.gradient_count;
  for (uint32_t i = 0; i < c.gradient_count && i < kMaxShards; ++i)
    w.gradient_bytes[i] = c.gradient_bytes[i];
  w.step_timeout_ns = c.step_timeout_ns ? c.step_timeout_ns : kDefaultStepTimeoutNs;
  return w;
}

}  // namespace

Result ReadConfig(const ultraep_group_config& config, GroupConfig* wire) {
  if (!config.group_name || std::strlen(config.group_name) > 63)
    return Invalid("group_name must have 1..63 characters");
  *wire = WireConfig(config);
  SetText(wire->name, config.group_name);
  if (std::string wrong = CheckConfig(*wire); !wrong.empty()) return Invalid(wrong);
  if (config.rank >= config.ranks)
    return Invalid("rank is " + std::to_string(config.rank) + ", must be below ranks (" +
                   std::to_string(config.ranks) + ")");
  if (config.next_sequence > kMaxSequence)
    return Invalid("next_sequence is " + std::to_string(config.next_sequence) + ", the limit is " +
                   std::to_string(kMaxSequence));
  if (config.copy_threads > kMaxCopyThreads)
    return Invalid("copy_threads is " + std::to_string(config.copy_threads) + ", the limit is " +
                   std::to_string(kMaxCopyThreads));
  const auto blocks = [](const char* name, uint32_t value) {
    return Invalid(std::string(name) + " is " + std::to_string(value) + ", the limit is " +
                   std::to_string(kMaxBlocks));
  };
  if (config.stream_blocks > kMaxBlocks) return blocks("stream_blocks", config.stream_blocks);
  if (config.reduce_blocks > kMaxBlocks) return blocks("reduce_blocks", config.reduce_blocks);
  return Ok();
}

ultraep_memory MemoryOf(const GroupConfig& config) {
  const GroupLayout layout(config);
  ultraep_memory memory{};
  memory.weights_per_slot = layout.slot_bytes;
  memory.flags_per_slot = layout.flag_stride;
  memory.gradients_per_slot = layout.gradient_stride;
  if (config.gradient_count) memory.flags_per_slot += sizeof(GradientWords);
  memory.slots_per_rank = uint64_t{config.slot_sets} * config.slots;
  memory.slots_of_rank = config.on_device()
                             ? layout.device_bytes()
                             : RoundUp(layout.bytes(SegmentKind::kSlots), kSegmentAlign);
  memory.group = layout.total_bytes();
  return memory;
}

}  // namespace ultraep
