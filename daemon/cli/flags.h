// The flags of all subcommands.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"

ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, split);
ABSL_DECLARE_FLAG(int32_t, slots);
ABSL_DECLARE_FLAG(double, epsilon);
ABSL_DECLARE_FLAG(uint32_t, domain_size);
ABSL_DECLARE_FLAG(uint32_t, tile_tokens);
ABSL_DECLARE_FLAG(uint32_t, relay_hop);
ABSL_DECLARE_FLAG(double, cost_token_ns);
ABSL_DECLARE_FLAG(double, cost_expert_us);
ABSL_DECLARE_FLAG(double, cost_instance_us);
ABSL_DECLARE_FLAG(std::string, speeds);
ABSL_DECLARE_FLAG(std::string, without_slots);
ABSL_DECLARE_FLAG(std::string, socket);
ABSL_DECLARE_FLAG(bool, quiet);
ABSL_DECLARE_FLAG(std::string, group);
ABSL_DECLARE_FLAG(bool, verdicts);
ABSL_DECLARE_FLAG(int64_t, history);
ABSL_DECLARE_FLAG(bool, no_follow);
ABSL_DECLARE_FLAG(double, interval);
ABSL_DECLARE_FLAG(uint32_t, iterations);
ABSL_DECLARE_FLAG(bool, once);
ABSL_DECLARE_FLAG(bool, ascii);
ABSL_DECLARE_FLAG(std::string, sort);
ABSL_DECLARE_FLAG(double, timeout);
ABSL_DECLARE_FLAG(std::string, output);
ABSL_DECLARE_FLAG(double, seconds);
ABSL_DECLARE_FLAG(std::string, steps);
ABSL_DECLARE_FLAG(uint64_t, max_mib);
ABSL_DECLARE_FLAG(uint64_t, ring_mib);
ABSL_DECLARE_FLAG(bool, force);
ABSL_DECLARE_FLAG(bool, verify);
ABSL_DECLARE_FLAG(bool, by_rank);
ABSL_DECLARE_FLAG(uint32_t, ranks);
ABSL_DECLARE_FLAG(uint32_t, experts);
ABSL_DECLARE_FLAG(std::string, plotly);
ABSL_DECLARE_FLAG(uint32_t, baseline_steps);

namespace ultraep {

// --slots has no default: what a plan is made for must be said.
inline constexpr int32_t kSlotsNotGiven = INT32_MIN;

struct CommandLine {
  std::vector<std::string> positional;
  std::vector<std::string> flags;  // names of those that were given
  bool help = false;
  bool version = false;
  int exit_status = 0;  // not 0: stop with it and say `error`
  std::string error;
};

// Sets the flags. absl::ParseCommandLine is not used: its --help and its errors exit 1 from inside.
CommandLine ParseFlags(const std::vector<std::string>& arguments);

}  // namespace ultraep
