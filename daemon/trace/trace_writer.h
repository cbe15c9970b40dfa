// Writes a trace directory step by step. What is flushed is a whole trace: a recorder that is
// killed leaves all but its last second.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "daemon/trace/npy_appender.h"
#include "daemon/trace/trace_info.h"
#include "protocol/plan.h"

namespace ultraep::trace {

struct TraceLimits {
  uint64_t steps = UINT64_MAX;
  uint64_t bytes = UINT64_MAX;  // of all files
};

// The files of a trace directory.
std::vector<std::string> FilesIn(const std::string& directory);

// Peak before, tokens and a bound for a step that nobody planned.
void CountLoad(const PlanShape& shape, LoadView load, StepRow* row);

class TraceWriter {
 public:
  // Makes the directory if it is not there. An existing one must be empty, unless `force`; then the
  // four files in it are overwritten and others stay. Texts are empty when all went well.
  std::string Create(const std::string& directory, const TraceInfo& info, const TraceLimits& limits,
                     bool force);
  // Whether one more step with so many replicas stays within the limits.
  bool Fits(uint64_t replicas) const;
  // `row` as it will stand there but for replicas and first_replica.
  std::string Add(StepRow row, LoadView load, std::span<const Replica> replicas);
  std::string Flush();
  // Takes away what it has made: half of a trace looks like a whole one.
  void Discard();

  uint64_t steps() const { return steps_.rows(); }  // added; fewer are on the disk
  uint64_t bytes() const;
  TraceInfo* info() { return &info_; }  // dropped and seconds change while it is written

 private:
  std::string Open(const std::string& directory, int flags);
  std::string WriteInfo();

  std::string directory_;
  bool made_ = false;    // the directory
  bool opened_ = false;  // all files
  TraceInfo info_;
  TraceLimits limits_;
  std::string info_path_;
  Descriptor info_file_;
  NpyAppender loads_, steps_, replicas_;
  std::vector<ReplicaRow> rows_;
};

}  // namespace ultraep::trace
