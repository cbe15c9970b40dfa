// What a kill loop does to a fleet: kills, stops, and kills at named points.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/fault/fleet.h"

namespace ultraep::test {

struct Totals {
  uint64_t rank_kills = 0, restarts = 0, stops = 0;
  std::vector<double> reattach_ms, recovery_ms;  // after a daemon's start; after a rank's
  std::map<std::string, uint64_t> points;        // role and name -> kills exactly there
};

struct KillOrders {
  uint64_t rank_kills = 0, daemon_kills = 0;
};

// All return false after a violation.
bool RunKills(Fleet* fleet, const KillOrders& orders, Totals* totals);
bool RunStops(Fleet* fleet, uint64_t stops, uint32_t lease_ms, Totals* totals);
bool RunPoints(Fleet* fleet, const std::vector<int64_t>& passes, Totals* totals);

// The difference between the points this program knows and those in the source tree; empty: none.
std::string PointsDiffer(const std::string& source);
// Those that no kill has hit, of those that their role passes.
std::string PointsMissed(const Totals& totals);

}  // namespace ultraep::test
