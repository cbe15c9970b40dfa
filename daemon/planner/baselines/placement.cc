#include "daemon/planner/baselines/placement.h"

#include <algorithm>

namespace ultraep::planner {

PlacementFigures FiguresOf(const PlanShape& shape, const std::vector<Instance>& instances) {
  std::vector<uint64_t> tokens(shape.ranks, 0);
  std::vector<uint32_t> received(shape.ranks, 0), sent(shape.ranks, 0),
      experts_sent(shape.ranks, 0), copies(shape.experts, 0);
  PlacementFigures out;
  for (const Instance& i : instances) {
    tokens[i.rank] += i.tokens;
    const uint32_t home = shape.home(i.expert);
    if (i.rank == home) continue;
    ++out.replicas;
    ++received[i.rank];
    ++sent[home];
    if (copies[i.expert]++ == 0) ++experts_sent[home];
  }
  auto most = [](const auto& v) { return *std::max_element(v.begin(), v.end()); };
  out.peak = most(tokens);
  out.most_of_expert = most(copies);
  out.transfer = std::max(most(received), most(experts_sent));
  out.direct = std::max(most(received), most(sent));
  return out;
}

void Place(const Baseline& baseline, const PlanShape& shape, LoadView load, Problem* problem,
           std::vector<Instance>* instances) {
  problem->Load(shape, load, {});
  instances->clear();
  for (uint32_t d = 0; d < problem->domains(); ++d) {
    problem->SortExperts(problem->domain(d));
    baseline.solve(*problem, problem->domain(d), instances);
  }
}

void AddPlan(const PlanShape& shape, LoadView load, const std::vector<Replica>& replicas,
             Problem* problem, std::vector<Instance>* instances) {
  problem->Load(shape, load, {});
  std::vector<Piece> pieces;
  for (const Replica& r : replicas) pieces.push_back({r.expert, r.rank, r.tokens});
  AddInstances(*problem, {0, shape.ranks}, pieces, instances);
}

}  // namespace ultraep::planner
