// Which GPUs may form a group, as far as the daemon can tell from what their ranks say: each check
// gives what was found and what is needed, or nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/message.h"

namespace ultraep {

// Of one member: with slots on GPUs it has one.
std::string CheckDevice(const GroupConfig& config, uint32_t rank, const JoinDevice& device);
// Of two members: one kernel image for all.
std::string CheckSameArchitecture(uint32_t rank, const JoinDevice& device, uint32_t other_rank,
                                  const JoinDevice& other);
// Of two members: one GPU is one rank's.
std::string CheckOwnDevice(uint32_t rank, const JoinDevice& device, uint32_t other_rank,
                           const JoinDevice& other);
// Of all, by rank: where the NVLink fabric has told who may reach whom, the ranks of a scale-up
// domain reach each other.
std::string CheckDomains(const GroupConfig& config, const std::vector<JoinDevice>& devices);

// "H100 (sm_90)"; the name came from a peer.
std::string DeviceName(const JoinDevice& device);
// As nvidia-smi writes it: "GPU-0a1b...".
std::string UuidText(const unsigned char (&uuid)[16]);

}  // namespace ultraep
