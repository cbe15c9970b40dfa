// Reads traces: a trace directory, or one .npy of loads. Files are mapped, steps are copied out one
// by one and checked: nothing in a file is believed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/trace/mapped_file.h"
#include "daemon/trace/trace_info.h"
#include "protocol/check_plan.h"
#include "protocol/npy.h"
#include "protocol/plan.h"

namespace ultraep::trace {

struct TraceStep {
  StepRow row;
  std::vector<uint32_t> tokens;  // [source rank][expert]
  std::vector<uint64_t> expert_tokens;
  std::vector<Replica> replicas;  // legal for the loads

  LoadView load(const PlanShape& shape) const {
    return {tokens.data(), shape.ranks, shape.experts};
  }
};

class TraceFiles {
 public:
  // Texts are empty when all went well, else name the file, the place and what is allowed.
  std::string Open(const std::string& path);

  const std::string& path() const { return path_; }
  const TraceInfo& info() const { return info_; }
  const PlanShape& shape() const { return info_.shape; }
  uint64_t steps() const { return info_.steps; }
  // Steps that trace.json counts and of which something is missing.
  uint64_t lost() const { return said_ > info_.steps ? said_ - info_.steps : 0; }
  bool recorded() const { return recorded_; }  // a directory; else loads alone
  std::vector<std::string> files() const;      // that it is read from

  // The row of a step, 0..steps(). Of loads alone it is counted from them.
  std::string Row(uint64_t step, StepRow* row);
  std::string Read(uint64_t step, TraceStep* out);

 private:
  struct Array {
    MappedFile file;
    NpyArray npy;
    uint64_t rows = 0;  // whole ones that are there
    uint64_t row_cells = 1;
  };
  std::string OpenDirectory(const std::string& path);
  std::string OpenLoads(const std::string& path);
  std::string OpenArray(const std::string& path, bool growing, Array* array);
  std::string CheckShapes();
  void DropUnfinished();
  std::string CopyTokens(uint64_t step, std::vector<uint32_t>* tokens) const;
  std::string CopyReplicas(uint64_t number, const StepRow& row,
                           std::vector<Replica>* replicas) const;
  StepRow RawRow(uint64_t step) const;
  std::string Wrong(uint64_t step, const std::string& what) const;

  std::string path_;
  TraceInfo info_;
  bool recorded_ = false;
  Array loads_, step_rows_, replicas_;
  uint64_t said_ = 0;             // steps, by trace.json
  uint64_t layers_per_step_ = 1;  // of loads alone
  PlanChecker checker_;
  std::vector<uint64_t> before_, after_;  // tokens of every rank
};

// Tokens of every rank without replicas and with them.
void RankTokens(const PlanShape& shape, const TraceStep& step, std::vector<uint64_t>* before,
                std::vector<uint64_t>* after);

// "[4, 8]"
std::string ShapeText(const std::vector<uint64_t>& shape);

}  // namespace ultraep::trace
