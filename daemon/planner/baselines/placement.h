// What a placement comes to, the same for every planner.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/baselines/baseline.h"

namespace ultraep::planner {

struct PlacementFigures {
  uint64_t peak = 0;
  uint32_t replicas = 0;        // instances away from home
  uint32_t most_of_expert = 0;  // replicas of one expert
  uint32_t transfer = 0;        // experts through the busiest link, when copies are relayed
  uint32_t direct = 0;          // the same when every home sends all its copies
};

PlacementFigures FiguresOf(const PlanShape& shape, const std::vector<Instance>& instances);

// All domains of a load by one baseline.
void Place(const Baseline& baseline, const PlanShape& shape, LoadView load, Problem* problem,
           std::vector<Instance>* instances);

// The instances of a plan.
void AddPlan(const PlanShape& shape, LoadView load, const std::vector<Replica>& replicas,
             Problem* problem, std::vector<Instance>* instances);

}  // namespace ultraep::planner
