#include "daemon/session/groups.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "daemon/memory/system_memory.h"
#include "daemon/session/device_checks.h"

namespace ultraep {
namespace {

std::string Mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

uint64_t OrNone(uint64_t limit) { return limit ? limit : UINT64_MAX; }

// Of a machine: not all, frameworks and page cache want theirs.
uint64_t Usable(uint64_t bytes) { return bytes / 10 * 8; }

}  // namespace

std::shared_ptr<Group> Groups::Join(uint64_t owner, uid_t uid, const ultraep::Join& request,
                                    Refusal* refusal) {
  const GroupConfig& config = request.config;
  *refusal = {CheckConfig(config), false, RefusalKind::kConfig};
  if (refusal->text.empty() && request.rank >= config.ranks)
    *refusal = {"rank is " + std::to_string(request.rank) + ", must be below ranks (" +
                    std::to_string(config.ranks) + ")",
                false, RefusalKind::kConfig};
  if (refusal->text.empty())
    *refusal = {CheckDevice(config, request.rank, request.device), false, RefusalKind::kConfig};
  if (!refusal->text.empty()) return nullptr;
  GroupKey key;
  key.uid = uid;
  key.name = GetText(config.name);
  std::memcpy(key.nonce.data(), config.nonce, sizeof config.nonce);
  const auto at = groups_.find(key);
  std::shared_ptr<Group> group;
  if (at != groups_.end()) {
    group = at->second;
    *refusal = group->CheckJoin(owner, request);
  } else {
    group = std::make_shared<Group>(key, config, options_.share_devices);
    *refusal = CheckNewGroup(*group);
  }
  if (!refusal->text.empty()) return nullptr;
  if (at == groups_.end()) {
    LogInfo("group %s: %d ranks, %d experts, %d slots per rank, %s of shared memory%s", key.name,
            config.ranks, config.experts, config.slots, Mib(group->next_generation_bytes()),
            config.on_device() ? ", " + Mib(group->device_bytes()) + " of each GPU" : "");
    KeepLayers(group.get());
    groups_[key] = group;
    view_->events().Add(uid, key.name, EventKind::kCreated,
                        [&](Event* e) { e->value = group->next_generation_bytes(); });
  }
  const std::shared_ptr<GroupGeneration> before = group->generation();
  group->Join(owner, request);
  if (before && group->generation() != before) {
    planner_->Remove(before.get());
    before->Retire();
  }
  return group;
}

// One budget for all living groups: what has no room in the metrics is not kept either, since jobs
// may say any number of layers.
void Groups::KeepLayers(Group* group) const {
  const uint64_t all = options_.metrics_detail_series;
  if (!all) return;
  uint64_t left = all;
  for (const auto& [key, other] : groups_) left -= other->statistics().detail_series();
  const auto fits = [&](const char* what, uint64_t series) {
    if (series <= left) {
      left -= series;
      return true;
    }
    LogWarning(
        "group %s: no %s in the metrics: %d series, %d of --metrics_detail_series %d are left",
        group->key().name, what, series, left, all);
    return false;
  };
  const uint64_t layers = group->config().layers, ranks = group->config().ranks;
  if (!fits("imbalance per layer", 2 * layers)) return;
  const bool tokens = fits("tokens per layer and rank", layers * ranks);
  group->statistics().KeepLayers(uint32_t(layers), tokens ? uint32_t(ranks) : 0);
}

// What can be known before its ranks are there. A group that could never have its memory is refused
// for good, at its first rank.
Refusal Groups::CheckNewGroup(const Group& group) const {
  const uid_t uid = group.key().uid;
  uint64_t own = 0;
  for (const auto& [key, other] : groups_) own += key.uid == uid;
  if (own >= options_.uid_groups)
    return {"uid " + std::to_string(uid) + " has " + std::to_string(own) +
                " groups, --uid_groups is " + std::to_string(options_.uid_groups),
            true, RefusalKind::kLimit};
  Refusal refusal = CheckMemory(group);
  const uint64_t most =
      options_.memory_limit_bytes ? options_.memory_limit_bytes : Usable(ReadSystemMemory().total);
  refusal.retry =
      group.next_generation_bytes() <= std::min(most, OrNone(options_.uid_memory_limit_bytes)) &&
      group.next_gpu_bytes() <= OrNone(options_.uid_gpu_memory_limit_bytes);
  return refusal;
}

// Without a limit set, what counts is what is left now: after a restart the ranks still map the
// slots of the daemon before, and give them back later.
Refusal Groups::CheckMemory(const Group& group) const {
  const uid_t uid = group.key().uid;
  const uint64_t bytes = group.next_generation_bytes(), all = memory_bytes();
  uint64_t own = 0;
  for (const auto& [key, other] : groups_) own += key.uid == uid ? other->memory_bytes() : 0;
  const auto check = [&](uint64_t used, uint64_t limit, const char* whose, const char* or_else) {
    const uint64_t left = limit - std::min(limit, used);
    if (bytes <= left) return Refusal{};
    return Refusal{"the group needs " + Mib(bytes + (1 << 20) - 1) + " of shared memory, " +
                       Mib(left) + " are left" + whose + "; lower slots or slot_sets, " + or_else,
                   true, RefusalKind::kLimit};
  };
  const uint64_t limit = options_.memory_limit_bytes ? options_.memory_limit_bytes
                                                     : Usable(ReadSystemMemory().available + all);
  Refusal refusal = check(all, limit, "", "or raise --memory_limit_mib");
  if (!refusal.text.empty()) return refusal;
  refusal = check(own, OrNone(options_.uid_memory_limit_bytes), " to its user",
                  "or raise --uid_memory_mib");
  return refusal.text.empty() ? CheckGpuMemory(group) : refusal;
}

Refusal Groups::CheckGpuMemory(const Group& group) const {
  uint64_t own = 0;
  for (const auto& [key, other] : groups_)
    own += key.uid == group.key().uid ? other->gpu_memory_bytes() : 0;
  const uint64_t limit = OrNone(options_.uid_gpu_memory_limit_bytes);
  const uint64_t left = limit - std::min(limit, own);
  if (group.next_gpu_bytes() <= left) return {};
  return {"the group needs " + Mib(group.next_gpu_bytes() + (1 << 20) - 1) +
              " of GPU memory of the daemon's, " + Mib(left) +
              " are left to its user; lower slots or slot_sets, join with ULTRAEP_CUDA_MEMORY, or "
              "raise --uid_gpu_memory_mib",
          true, RefusalKind::kLimit};
}

// How deep trees of relays are depends on how large the group's experts are.
PlanOptions Groups::OptionsFor(const GroupConfig& config) const {
  PlanOptions options = options_.plan;
  options.relay_hop = options_.link.RelayHop(config.expert_bytes(), kChunkBytes);
  return options;
}

bool Groups::Begin(Group* group, Refusal* refusal) {
  *refusal = {};
  if (!group->complete()) return false;
  *refusal = CheckMemory(*group);
  if (refusal->text.empty()) *refusal = group->Begin(OptionsFor(group->config()), devices_);
  if (!refusal->text.empty()) return false;
  planner_->Add(group->generation());
  return true;
}

void Groups::Gone(const std::shared_ptr<Group>& group, uint64_t owner, uint32_t rank,
                  MemberState how) {
  group->Gone(owner, rank, how);
  CloseIfEmpty(group);
}

void Groups::CloseIfEmpty(const std::shared_ptr<Group>& group) {
  const auto at = groups_.find(group->key());
  if (at == groups_.end() || at->second != group || !group->empty()) return;
  if (group->generation()) planner_->Remove(group->generation().get());
  LogInfo("group %s: closed", group->key().name);
  view_->events().Add(group->key().uid, group->key().name, EventKind::kClosed, [](Event*) {});
  view_->Close(group->Source());
  groups_.erase(at);
}

std::vector<Groups::Fenced> Groups::Fence(uint64_t now) {
  std::vector<Fenced> all;
  for (const auto& [key, group] : groups_) {
    std::vector<uint32_t> ranks = group->Fence(now, options_.lease_ns);
    if (!ranks.empty()) all.push_back({group, std::move(ranks)});
  }
  for (const Fenced& fenced : all) CloseIfEmpty(fenced.group);
  return all;
}

uint64_t Groups::memory_bytes() const {
  uint64_t all = 0;
  for (const auto& [key, group] : groups_) all += group->memory_bytes();
  return all;
}

void Groups::EndAll() {
  for (const auto& [key, group] : groups_)
    if (group->generation()) group->generation()->End();
}

}  // namespace ultraep
