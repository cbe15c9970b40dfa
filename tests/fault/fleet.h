// The processes of a kill loop: one daemon, the ranks of several groups, one reader. Only processes
// started here are ever signalled, by their pid.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fault/loop_rank.h"
#include "tests/fault/shared_state.h"
#include "tests/support/random.h"

namespace ultraep::test {

struct Child {
  pid_t pid = 0;        // 0: none
  bool doomed = false;  // it may end by SIGKILL at any time
  bool stopped = false;
};

struct FleetGroup {
  LoopConfig config;
  Child ranks[kMostRanks];
  uint64_t target = 0;       // the group is well once all ranks have followed a plan from there on
  uint64_t deadline_ns = 0;  // until when it must be
};

class Fleet {
 public:
  Fleet(SharedState* shared, std::string daemon, uint64_t seed, uint32_t lease_ms);
  ~Fleet();

  void Start(const std::vector<LoopConfig>& configs, const std::string& phase);
  void StopRanks();

  // `kill_at`: NAME:N, or empty.
  void StartDaemon(const std::string& kill_at);
  void KillDaemon();
  void StopDaemon(bool stop);  // SIGSTOP, SIGCONT
  bool daemon_alive() const { return daemon_.pid != 0; }
  uint64_t daemon_started_ns() const { return daemon_started_ns_; }

  void StartRank(uint32_t group, uint32_t rank, const std::string& point = "", int64_t pass = 0);
  void KillRank(uint32_t group, uint32_t rank);
  void StopRank(uint32_t group, uint32_t rank, bool stop);
  // A living rank of the group loses its CPU for a few milliseconds, as on a crowded machine.
  void PauseSomeRank(uint32_t group);
  bool rank_alive(uint32_t group, uint32_t rank) const { return groups_[group].ranks[rank].pid; }

  // Before a kill: what happens from now on has a reason.
  void Disturb(uint32_t group, bool loss);
  // After it: the group is well again once it plans steps that nobody has submitted so far.
  void Expect(uint32_t group);
  bool PlansAgain(uint32_t group);
  // The same; and from now on nothing has a reason any more.
  bool Well(uint32_t group);
  bool AllWell();

  // Reaps, watches calls and deadlines. False when something is wrong: then the run is over.
  bool Tick();
  void Describe();

  std::vector<FleetGroup>& groups() { return groups_; }
  GroupState& state(uint32_t group) { return shared_->groups[group]; }
  SharedState* shared() { return shared_; }
  Random& random() { return random_; }

 private:
  struct Pause {
    uint32_t group, rank;
    pid_t pid;
    uint64_t until_ns;
  };

  void Resume(uint64_t now);
  void Reap();
  void Watch(uint64_t now);
  void Ended(Child* child, int status, const std::string& who);

  SharedState* const shared_;
  const std::string daemon_path_;
  const uint64_t seed_;
  const uint32_t lease_ms_;
  Random random_;
  std::string directory_, socket_, phase_;
  std::vector<FleetGroup> groups_;
  std::vector<Pause> pauses_;
  Child daemon_, reader_;
  uint64_t daemon_started_ns_ = 0, watched_ns_ = 0;
};

}  // namespace ultraep::test
