#include "daemon/cli/plan_flags.h"

#include <cmath>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "daemon/cli/flags.h"
#include "protocol/limits.h"

namespace ultraep {
namespace {

constexpr uint32_t kMaxTile = 65536;

std::string TakeCost(const char* name, double value, double picoseconds, uint64_t* cost) {
  if (!(value >= 0 && value <= 1e6))
    return absl::StrFormat("--%s is %g, must be 0..1e6", name, value);
  *cost = uint64_t(std::llround(value * picoseconds));
  return "";
}

// One number per rank, relative to each other: the largest becomes kFullSpeed.
std::string TakeSpeeds(uint32_t ranks, PlanOptions* options) {
  const std::string text = absl::GetFlag(FLAGS_speeds);
  if (text.empty()) return "";
  std::vector<double> speeds;
  double fastest = 0;
  for (const auto word : absl::StrSplit(text, ',')) {
    double speed = 0;
    if (!absl::SimpleAtod(word, &speed) || !(speed > 0 && speed <= 1e9))
      return absl::StrFormat("--speeds has '%s', must be numbers above 0, as in 1,1,0.5", word);
    speeds.push_back(speed);
    fastest = std::max(fastest, speed);
  }
  if (speeds.size() != ranks)
    return absl::StrFormat("--speeds has %d values, the load has %d ranks", speeds.size(), ranks);
  for (const double speed : speeds) {
    const auto scaled = uint32_t(std::lround(speed / fastest * kFullSpeed));
    if (scaled == 0)
      return absl::StrFormat("--speeds: %g is less than 1/%d of the fastest, %g", speed,
                             2 * kFullSpeed, fastest);
    options->speeds.push_back(scaled);
  }
  return "";
}

std::string TakeWithoutSlots(uint32_t ranks, PlanOptions* options) {
  const std::string text = absl::GetFlag(FLAGS_without_slots);
  if (text.empty()) return "";
  options->without_slots.assign(ranks, 0);
  for (const auto word : absl::StrSplit(text, ',')) {
    uint32_t rank = 0;
    if (!absl::SimpleAtoi(word, &rank) || rank >= ranks)
      return absl::StrFormat("--without_slots has '%s', must be ranks 0..%d, as in 3,5", word,
                             ranks - 1);
    options->without_slots[rank] = 1;
  }
  return "";
}

std::string TakeCosts(CostModel* cost) {
  std::string wrong =
      TakeCost("cost_token_ns", absl::GetFlag(FLAGS_cost_token_ns), 1e3, &cost->token);
  if (wrong.empty())
    wrong = TakeCost("cost_expert_us", absl::GetFlag(FLAGS_cost_expert_us), 1e6, &cost->expert);
  if (wrong.empty())
    wrong =
        TakeCost("cost_instance_us", absl::GetFlag(FLAGS_cost_instance_us), 1e6, &cost->instance);
  return wrong;
}

}  // namespace

std::string TakePlanFlags(PlanShape* shape, PlanOptions* options) {
  const int32_t slots = absl::GetFlag(FLAGS_slots);
  if (slots == kSlotsNotGiven)
    return absl::StrFormat("--slots is missing: give the redundant slots per rank, 0..%d",
                           kMaxSlotsPerRank);
  if (slots < 0 || slots > int32_t{kMaxSlotsPerRank})
    return absl::StrFormat("--slots is %d, must be 0..%d", slots, kMaxSlotsPerRank);
  const double epsilon = absl::GetFlag(FLAGS_epsilon);
  if (!(epsilon >= 0 && epsilon <= 1))
    return absl::StrFormat("--epsilon is %g, must be 0..1; 0.005 allows half a percent", epsilon);
  options->tile_tokens = absl::GetFlag(FLAGS_tile_tokens);
  if (options->tile_tokens > kMaxTile)
    return absl::StrFormat("--tile_tokens is %d, must be 0..%d", options->tile_tokens, kMaxTile);
  options->relay_hop = absl::GetFlag(FLAGS_relay_hop);
  if (options->relay_hop > kMaxRelayHop)
    return absl::StrFormat("--relay_hop is %d, must be 0..%d", options->relay_hop, kMaxRelayHop);
  shape->slots = uint32_t(slots);
  shape->domain_size = absl::GetFlag(FLAGS_domain_size);
  options->epsilon_ppm = uint32_t(std::lround(epsilon * 1e6));
  std::string wrong = TakeCosts(&options->cost);
  if (wrong.empty()) wrong = TakeSpeeds(shape->ranks, options);
  if (wrong.empty()) wrong = TakeWithoutSlots(shape->ranks, options);
  return wrong;
}

}  // namespace ultraep
