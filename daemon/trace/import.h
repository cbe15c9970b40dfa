// Foreign counts as a trace directory: loads without plans.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/trace/trace_writer.h"

namespace ultraep::trace {

struct ImportOptions {
  uint32_t ranks = 0;
  uint32_t experts = 0;  // 0: the highest in the file, and so many more that ranks divide it
  uint32_t slots = 0;
  std::string directory;
  bool force = false;
};

struct ImportResult {
  TraceInfo info;
  uint64_t empty = 0;  // (step, layer) matrices without any token, left out
};

// `layer,expert,count` with one header row or none; columns `step` and `rank` may come with them.
// Rows of one (step, layer) stand together. Texts are empty when all went well, else they name the
// file, the place and what is allowed.
std::string ImportCsv(const std::string& path, const ImportOptions& options, ImportResult* result);

// SGLang's logical_count as .npy: [layers, experts] or [steps, layers, experts].
std::string ImportCounts(const std::string& path, const ImportOptions& options,
                         ImportResult* result);

// Counts of an expert without their sources: as even as it goes, the remainder to the first ranks.
void Spread(uint64_t count, uint32_t ranks, uint32_t experts, uint32_t expert, uint32_t* matrix);

// Writes matrices one after the other; takes all away again when it was not finished.
class ImportWriter {
 public:
  ~ImportWriter() {
    if (!finished_) writer_.Discard();
  }
  std::string Create(const ImportOptions& options, const PlanShape& shape, uint32_t layers,
                     const std::string& source);
  std::string Add(uint64_t step, uint32_t layer, const uint32_t* matrix);
  std::string Finish(ImportResult* result);

 private:
  TraceWriter writer_;
  PlanShape shape_;
  uint64_t empty_ = 0;
  bool finished_ = false;
};

// Ranks, experts and slots as a shape that can be planned for; experts are rounded up.
std::string ImportShape(const ImportOptions& options, uint64_t experts, PlanShape* shape);

}  // namespace ultraep::trace
