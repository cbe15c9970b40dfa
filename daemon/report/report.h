// `ultraepctl report`: a trace as one page.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "daemon/report/step_source.h"
#include "daemon/trace/convert.h"

namespace ultraep::report {

struct ReportOptions {
  std::string output;
  std::string plotly;       // path of the library
  trace::StepRange steps;   // embedded in full; empty: none
  uint64_t data_bytes = 0;  // of the page without the library, about
  uint64_t baseline_steps = 0;
  std::function<void(uint64_t)> progress;  // steps read
};

struct ReportResult {
  uint64_t embedded = 0;  // steps in full
  uint64_t compared = 0;  // steps that other planners planned
  uint64_t data_bytes = 0;
};

// Empty when all went well; else nothing is written.
std::string MakeReport(StepSource* source, const ReportOptions& options, ReportResult* result);

}  // namespace ultraep::report
