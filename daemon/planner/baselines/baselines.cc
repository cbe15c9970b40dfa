#include "daemon/planner/baselines/baseline.h"
#include "daemon/planner/baselines/ultraep_heuristic.h"

namespace ultraep::planner {

std::span<const Baseline> Baselines() {
  static constexpr Baseline kAll[] = {
      {"ultraep-heuristic", "UltraEP's published planner", SolveUltraEpHeuristic},
      {"eplb-global", "EPLB: relocates all experts, even split", SolveEplbGlobal},
      {"eplb-fixed", "mains at home, hottest replicated, even split", SolveEplbFixed},
      {"moonep-fill", "MoonEP: every rank filled to the exact mean", SolveMoonEpFill},
      {"least-loaded-spill", "LLEP: excess in chunks to the least loaded", SolveLeastLoadedSpill},
  };
  return kAll;
}

void AddInstances(const Problem& problem, Domain domain, const std::vector<Piece>& replicas,
                  std::vector<Instance>* instances) {
  std::vector<uint64_t> left(problem.expert_tokens);
  for (const Piece& r : replicas) {
    left[r.expert] -= r.tokens;
    instances->push_back({r.expert, r.rank, r.tokens});
  }
  for (uint32_t e = problem.first_expert(domain.begin); e < problem.first_expert(domain.end); ++e)
    if (left[e] > 0) instances->push_back({e, problem.shape.home(e), left[e]});
}

void SolveUltraEpHeuristic(const Problem& problem, Domain domain,
                           std::vector<Instance>* instances) {
  thread_local UltraEpHeuristic heuristic;  // its memory is kept, as ours is in the benchmark
  thread_local std::vector<Piece> pieces;
  heuristic.Run(problem, domain, &pieces);
  AddInstances(problem, domain, pieces, instances);
}

}  // namespace ultraep::planner
