// What a run came to, as a table for people and as one JSON object for scripts.
#pragma once

#include <string>

#include "plugin/examples/replay/options.h"
#include "plugin/examples/replay/shared_state.h"
#include "plugin/examples/replay/supervise.h"

namespace ultraep::replay {

struct Report {
  uint64_t steps, planned, fallbacks, declined;  // of steps that every rank has finished
  uint64_t lost, failed;                         // failed: of the lost ones, nobody had died
  uint64_t respawned;
  uint64_t generations;  // the most that one rank and its successors were part of
  uint64_t tokens_checked;
  uint64_t mismatches;  // tokens that differ + steps in which ranks or quotas disagreed
  uint64_t bytes_streamed;
  uint64_t replicas_reduced, gradient_mismatches;  // the latter: restored slots, main gradients
  bool joined;  // at least one rank was in a complete group
  struct {
    double mean, p99, max;
  } before, after;
  struct {
    double p50, p99;
  } solve_us, verdict_us, reduce_us;
  double stream_gb_per_s, memcpy_gb_per_s;  // medians, 0 without streams
};

Report MakeReport(SharedState* shared);
std::string TableOf(const Report& report, const Options& options);
// One line without its newline.
std::string JsonOf(const Report& report);
// What ended the run early, for stderr: one line per rank that has something to say. Empty when it
// ended as it should.
std::string TroubleOf(SharedState* shared, const RunOutcome& outcome, const Options& options);

}  // namespace ultraep::replay
