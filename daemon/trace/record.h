// Empties a running daemon's trace ring into a trace directory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "daemon/trace/ring_reader.h"
#include "daemon/trace/trace_writer.h"
#include "protocol/operator_messages.h"

namespace ultraep::trace {

struct RecordOptions {
  std::string directory;
  bool force = false;
  double seconds = 0;  // 0: no limit
  TraceLimits limits;
  const std::atomic<bool>* stop = nullptr;  // set by a signal
};

struct RecordState {
  uint64_t steps = 0;
  uint64_t bytes = 0;
  uint64_t dropped = 0;  // missed: the ring was full
  double seconds = 0;
  std::string ended;  // what ended the recording
};

// What trace.json says of a recording.
TraceInfo InfoOf(const TraceStarted& started);

// `socket`: the daemon's connection; when it closes, the recording ends. `progress` is called a few
// times a second. Empty when all went well, else what went wrong; `state` says what was written.
std::string Record(int socket, int ring, const TraceStarted& started, const RecordOptions& options,
                   const std::function<void(const RecordState&)>& progress, RecordState* state);

}  // namespace ultraep::trace
