// The steps of a report: as recorded, or planned anew.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/planner/solve_plan.h"
#include "daemon/trace/trace_files.h"

namespace ultraep::report {

class StepSource {
 public:
  // Texts are empty when all went well.
  std::string Open(const std::string& path);
  bool has_plans() const { return has_plans_; }
  // From now on every step is planned for this shape, as the trace's but for slots and domains.
  void Replan(const PlanShape& shape, const PlanOptions& options);

  const PlanShape& shape() const { return shape_; }
  const PlanOptions& options() const { return options_; }
  const trace::TraceInfo& info() const { return trace_.info(); }
  bool replans() const { return replans_; }
  uint64_t steps() const { return trace_.steps(); }
  uint64_t lost() const { return trace_.lost(); }
  std::string Read(uint64_t step, trace::TraceStep* out);
  // Only what needs no plan: layer, microbatch.
  std::string Row(uint64_t step, trace::StepRow* row) { return trace_.Row(step, row); }
  bool recorded() const { return trace_.recorded(); }
  std::vector<std::string> files() const { return trace_.files(); }

 private:
  trace::TraceFiles trace_;
  PlanShape shape_;
  PlanOptions options_;
  bool has_plans_ = false;
  bool replans_ = false;
  PlanWorkspace workspace_;
  Plan plan_;
};

// Experts through the busiest link: the most that one rank sends or receives.
uint32_t BusiestLink(const PlanShape& shape, const std::vector<Replica>& replicas);

}  // namespace ultraep::report
