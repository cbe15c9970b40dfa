#include "daemon/report/step_source.h"

#include <algorithm>

#include "protocol/transport/waiting.h"
#include "protocol/verdict_board.h"

namespace ultraep::report {

std::string StepSource::Open(const std::string& path) {
  if (std::string wrong = trace_.Open(path); !wrong.empty()) return wrong;
  if (trace_.steps() == 0) return path + ": has no steps";
  shape_ = trace_.shape();
  options_ = trace_.info().options;
  trace::StepRow row;
  for (uint64_t i = 0; i < trace_.steps() && trace_.recorded() && !has_plans_; ++i) {
    if (std::string wrong = trace_.Row(i, &row); !wrong.empty()) return wrong;
    has_plans_ = row.verdict != int64_t(Verdict::kNone);
  }
  return "";
}

void StepSource::Replan(const PlanShape& shape, const PlanOptions& options) {
  shape_ = shape;
  options_ = options;
  replans_ = true;
}

std::string StepSource::Read(uint64_t step, trace::TraceStep* out) {
  if (std::string wrong = trace_.Read(step, out); !wrong.empty() || !replans_) return wrong;
  const uint64_t start = NowNs();
  SolvePlan(shape_, out->load(shape_), options_, &workspace_, &plan_);
  out->row.solve_ns = int64_t(NowNs() - start);
  out->replicas = plan_.replicas;
  out->row.verdict = int64_t(Verdict::kPlan);
  out->row.reason = 0;
  out->row.replicas = int64_t(plan_.replicas.size());
  out->row.peak = int64_t(plan_.certificate.peak);
  out->row.lower_bound = int64_t(plan_.certificate.lower_bound);
  return "";
}

uint32_t BusiestLink(const PlanShape& shape, const std::vector<Replica>& replicas) {
  std::vector<uint32_t> sends(shape.ranks, 0), receives(shape.ranks, 0);
  uint32_t most = 0;
  for (uint32_t i = 0; i < replicas.size(); ++i) {
    most = std::max(most, ++sends[SenderOf(shape, replicas.data(), i)]);
    most = std::max(most, ++receives[replicas[i].rank]);
  }
  return most;
}

}  // namespace ultraep::report
