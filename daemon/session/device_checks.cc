#include "daemon/session/device_checks.h"

#include <algorithm>
#include <cstring>

#include "protocol/device_backend.h"

namespace ultraep {
namespace {

std::string Rank(uint32_t rank) { return "rank " + std::to_string(rank); }

bool OnFabric(const JoinDevice& device) { return device.fabric == uint32_t(FabricState::kReady); }

// Also true where the fabric has told nothing of one of them.
bool MayReach(const JoinDevice& a, const JoinDevice& b) {
  if (!OnFabric(a) || !OnFabric(b)) return true;
  return a.clique == b.clique && std::memcmp(a.cluster, b.cluster, sizeof a.cluster) == 0;
}

std::string Hex(const unsigned char (&bytes)[16]) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < sizeof bytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

std::string Place(const JoinDevice& device) {
  return "clique " + std::to_string(device.clique) + " of cluster " + Hex(device.cluster);
}

// The first two ranks of one domain of this size that cannot reach each other; equal: there are
// none.
struct Pair {
  uint32_t a = 0, b = 0;
};
Pair Apart(uint32_t domain, const std::vector<JoinDevice>& devices) {
  for (uint32_t b = 0; b < devices.size(); ++b)
    for (uint32_t a = b / domain * domain; a < b; ++a)
      if (!MayReach(devices[a], devices[b])) return {a, b};
  return {};
}

// The largest domain that the ranks' order allows.
uint32_t LargestDomain(const std::vector<JoinDevice>& devices) {
  const auto ranks = uint32_t(devices.size());
  for (uint32_t size = ranks; size > 1; --size)
    if (const Pair pair = Apart(size, devices); ranks % size == 0 && pair.a == pair.b) return size;
  return 1;
}

}  // namespace

std::string UuidText(const unsigned char (&uuid)[16]) { return "GPU-" + Hex(uuid); }

std::string DeviceName(const JoinDevice& device) {
  std::string name = GetText(device.name);
  for (char& c : name)
    if (c < 0x20 || c > 0x7e) c = '?';
  return name + " (sm_" + std::to_string(device.architecture) + ")";
}

std::string CheckDevice(const GroupConfig& config, uint32_t rank, const JoinDevice& device) {
  if (!config.on_device()) return "";
  const unsigned char none[sizeof device.uuid] = {};
  if (device.architecture && std::memcmp(device.uuid, none, sizeof none) != 0) return "";
  return "memory is " + std::to_string(uint32_t(config.memory)) + " (slots on GPUs), but " +
         Rank(rank) +
         " names no GPU: give it one (CUDA_VISIBLE_DEVICES, a current device before it joins), or "
         "join with memory 0 (host)";
}

std::string CheckSameArchitecture(uint32_t rank, const JoinDevice& device, uint32_t other_rank,
                                  const JoinDevice& other) {
  if (device.architecture == other.architecture) return "";
  return "mixed devices: " + Rank(other_rank) + " has " + DeviceName(other) + ", " + Rank(rank) +
         " has " + DeviceName(device) +
         "; the ranks of a group need GPUs of one architecture, or memory 0 (host)";
}

std::string CheckOwnDevice(uint32_t rank, const JoinDevice& device, uint32_t other_rank,
                           const JoinDevice& other) {
  if (std::memcmp(device.uuid, other.uuid, sizeof device.uuid) != 0) return "";
  return Rank(other_rank) + " and " + Rank(rank) + " are both on " + UuidText(device.uuid) + ", " +
         DeviceName(device) +
         ": each rank needs a GPU of its own; choose it by local rank before joining";
}

std::string CheckDomains(const GroupConfig& config, const std::vector<JoinDevice>& devices) {
  if (!config.on_device()) return "";
  const uint32_t domain = config.domain_size ? config.domain_size : config.ranks;
  const auto [a, b] = Apart(domain, devices);
  if (a == b) return "";
  const uint32_t fits = LargestDomain(devices);
  return "domain_size is " + std::to_string(config.domain_size) +
         (config.domain_size ? "" : " (all ranks)") + ", but " + Rank(a) + " is in NVLink " +
         Place(devices[a]) + " and " + Rank(b) + " in " + Place(devices[b]) + ": " +
         (fits > 1 ? "domain_size " + std::to_string(fits) + " would fit"
                   : "give the GPUs of one clique to consecutive ranks, as many in each clique");
}

}  // namespace ultraep
