// One run: daemon and ranks of a scenario, everything that happens to them, and the calm at the end.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/checks.h"
#include "tests/simulation/daemon.h"
#include "tests/simulation/rank.h"

namespace ultraep::simulation {

struct Report {
  std::string violation;  // empty: all held
  std::string tail;
  uint64_t digest = 0;
  uint64_t steps = 0;  // of the scheduler
  Coverage coverage;
};

class Machine : public Observer {
 public:
  Machine(const Scenario& scenario, const std::string& socket);
  ~Machine() override;
  Report Run();

  void Passed(Thread* thread, const char* point) override;
  void Suspended(Thread* thread) override;

 private:
  struct Place {  // of a rank
    std::unique_ptr<Rank> rank;
    uint64_t start_at = 0;  // while there is none
    uint32_t incarnations = 0;
  };

  void Busy();
  void Calm();
  void StartWhatIsDue();
  void StartRank(uint32_t r);
  uint64_t Alarm(uint64_t end) const;
  uint64_t Limit() const;
  std::vector<Rank*> Living() const;
  void Fault();
  void FaultOfRank(Place* place);
  void FaultOfDaemon();
  void FaultAt(Thread* thread);
  void ArmPoint();
  void KillRank(Place* place);
  void KillDaemon();
  void StopFor(Process* process, int thread, uint64_t ns);
  uint64_t SomeTime();

  const Scenario scenario_;
  const std::string socket_;
  World world_;
  Checks checks_;
  std::vector<Place> places_;
  std::unique_ptr<Daemon> daemon_;
  uint64_t daemon_at_ = 0;
  uint32_t daemons_ = 0;
  uint64_t next_sequence_ = 0;  // of a new rank: above all calls so far
  bool quiet_ = false;
  uint64_t slow_solve_ns_ = 0;  // the next solve takes so long
  // The next process to pass this point meets a fault there; some points are passed rarely.
  std::string armed_point_;
  Thread* met_ = nullptr;
};

}  // namespace ultraep::simulation
