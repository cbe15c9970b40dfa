// A simulated rank: the product's steps and link, and a framework that calls one step after the
// other.
#pragma once

#include <deque>
#include <functional>
#include <string>

#include "plugin/core/link.h"
#include "plugin/core/steps.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/world.h"

namespace ultraep::simulation {

class Checks;

class Rank : public Process {
 public:
  enum { kMain, kLink };  // its threads

  Rank(World* world, const Scenario& scenario, Checks* checks, const std::string& socket,
       uint32_t rank, uint32_t incarnation, uint64_t next_sequence);

  // What the framework lets this rank call now, in steps.
  std::function<uint64_t()> limit;
  // No more faults: calls follow each other quickly and every plan is followed.
  bool quiet = false;

  const uint32_t rank;
  const uint32_t number;
  // The memory its operations may use, oldest first; from anywhere, at any time.
  std::vector<std::shared_ptr<Generation>> held() const { return steps_.memory()->held(); }
  uint64_t current() const {
    const auto g = steps_.memory()->current();
    return g ? g->id : 0;
  }
  uint64_t called() const { return called_; }  // the next sequence; a call under way counts

 private:
  void Main();
  void Think();
  void Submit();
  void Await();
  uint64_t AdmittedTo(uint64_t sequence) const;

  World* const world_;
  const Scenario& scenario_;
  Checks* const checks_;
  Steps steps_;
  Link link_;
  uint64_t called_, awaited_;
};

}  // namespace ultraep::simulation
