// The ways in which one rank can work on an operation: one or several teams, of one or several
// threads each.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/team.h"
#include "tests/support/threaded_team.h"

namespace ultraep::test {

struct ExecutorKind {
  uint32_t teams = 1;
  uint32_t members = 0;  // threads of a ThreadedTeam each; 0: SerialTeam

  std::string name() const {
    return std::to_string(teams) + " teams of " + std::to_string(members) + " members";
  }
};

inline std::vector<ExecutorKind> ExecutorKinds() { return {{1, 0}, {3, 0}, {1, 3}, {2, 2}}; }

// Runs work(team) in every member of every team.
template <class Work>
void RunTeams(const ExecutorKind& kind, const Work& work) {
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<ThreadedTeam::Shared>> shared;
  for (uint32_t t = 0; t < kind.teams; ++t) {
    if (kind.members == 0)
      threads.emplace_back([&work] {
        SerialTeam team;
        work(team);
      });
    shared.push_back(std::make_unique<ThreadedTeam::Shared>(std::max(1u, kind.members)));
    for (uint32_t m = 0; m < kind.members; ++m)
      threads.emplace_back([&work, m, s = shared.back().get()] {
        ThreadedTeam team(s, m);
        work(team);
      });
  }
  for (auto& t : threads) t.join();
}

}  // namespace ultraep::test
