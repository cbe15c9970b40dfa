// Other balancers, written from their descriptions, for comparison on the same loads. All integers,
// all deterministic, ties to the lowest id; every domain by itself.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

// One instance of an expert, with its tokens.
struct Instance {
  uint32_t expert = 0;
  uint32_t rank = 0;
  uint64_t tokens = 0;
};

struct Baseline {
  const char* name;
  const char* about;
  // Appends all instances with tokens of the domain's experts; their tokens add up to the experts'
  // loads. The domain's experts are sorted.
  void (*solve)(const Problem& problem, Domain domain, std::vector<Instance>* instances);
};

std::span<const Baseline> Baselines();

// The instances of a placement with mains at home: replicas as given, main copies take the rest.
void AddInstances(const Problem& problem, Domain domain, const std::vector<Piece>& replicas,
                  std::vector<Instance>* instances);

void SolveUltraEpHeuristic(const Problem&, Domain, std::vector<Instance>*);
void SolveEplbGlobal(const Problem&, Domain, std::vector<Instance>*);
void SolveEplbFixed(const Problem&, Domain, std::vector<Instance>*);
void SolveMoonEpFill(const Problem&, Domain, std::vector<Instance>*);
void SolveLeastLoadedSpill(const Problem&, Domain, std::vector<Instance>*);

}  // namespace ultraep::planner
