#include "daemon/report/report.h"

#include "daemon/report/compare.h"
#include "daemon/report/details.h"
#include "daemon/report/gather.h"
#include "daemon/report/page.h"
#include "daemon/trace/output_file.h"
#include "protocol/version.h"

namespace ultraep::report {
namespace {

Json HeadJson(const StepSource& source) {
  const trace::TraceInfo& info = source.info();
  const PlanShape& shape = source.shape();
  const PlanOptions& options = source.options();
  return {{"source", info.source},
          {"group", info.group},
          {"started", info.started},
          {"ranks", shape.ranks},
          {"experts", shape.experts},
          {"slots", shape.slots},
          {"domain_size", shape.domain_size},
          {"training", info.training},
          {"expert_bytes", info.expert_bytes},
          {"epsilon", options.epsilon_ppm / 1e6},
          {"tile_tokens", options.tile_tokens},
          {"cost_token_ns", double(options.cost.token) / 1e3},
          {"cost_expert_us", double(options.cost.expert) / 1e6},
          {"cost_instance_us", double(options.cost.instance) / 1e6},
          {"dropped", info.dropped},
          {"steps_lost", source.lost()},
          {"replanned", source.replans()},
          {"version", kBuildVersion}};
}

Json DistributionJson(const trace::Distribution& s) {
  return {{"mean", Round(s.mean)},
          {"p50", Round(s.p50)},
          {"p99", Round(s.p99)},
          {"worst", Round(s.worst)},
          {"worst_step", s.worst_step}};
}

Json SummaryJson(const trace::Summary& s) {
  return {{"steps", s.steps},
          {"planned", s.planned},
          {"fallback", s.fallback},
          {"fallback_by_reason", s.fallback_by_reason},
          {"not_planned", s.unplanned},
          {"tokens", s.tokens},
          {"avoided", s.avoided},
          {"peak_before", s.peak_before},
          {"replicas", s.replicas},
          {"most_replicas", s.most_replicas},
          {"generations", s.generations.size()},
          {"seconds", Round(double(s.last_ns - s.first_ns) / 1e9)},
          {"before", DistributionJson(s.before)},
          {"after", DistributionJson(s.after)},
          {"floor", DistributionJson(s.floor)},
          {"gap", Round(s.gap, 5)},
          {"solve_p50_us", Round(s.solve_p50_us, 1)},
          {"solve_p99_us", Round(s.solve_p99_us, 1)}};
}

}  // namespace

std::string MakeReport(StepSource* source, const ReportOptions& options, ReportResult* result) {
  std::vector<std::string> inputs = source->files();
  inputs.push_back(options.plotly);
  if (std::string wrong = trace::CheckOutputs(inputs, {options.output}); !wrong.empty())
    return wrong;
  std::string plotly;
  if (std::string wrong = ReadPlotly(options.plotly, &plotly); !wrong.empty()) return wrong;
  Gather gather;
  if (std::string wrong = gather.Begin(source, options.data_bytes / 2); !wrong.empty())
    return wrong;
  trace::TraceStep step;
  for (uint64_t i = 0; i < source->steps(); ++i) {
    if (std::string wrong = source->Read(i, &step); !wrong.empty()) return wrong;
    gather.Add(i, step);
    options.progress(i + 1);
  }
  Json data = gather.Finish();
  data["head"] = HeadJson(*source);
  data["summary"] = SummaryJson(gather.summary());
  if (std::string wrong = ComparePlanners(source, options.baseline_steps, &data["planners"]);
      !wrong.empty())
    return wrong;
  result->compared = data["planners"]["steps"];
  const uint64_t used = JsonSafe(data).size();
  const uint64_t left = options.data_bytes > used ? options.data_bytes - used : 0;
  if (std::string wrong = AddDetails(source, gather, options.steps, left, &data["details"]);
      !wrong.empty())
    return wrong;
  result->embedded = data["details"]["count"];
  result->data_bytes = JsonSafe(data).size();
  return WritePage(options.output, plotly, data);
}

}  // namespace ultraep::report
