#include "daemon/trace/record.h"

#include <poll.h>

#include <algorithm>
#include <ctime>
#include <vector>

#include "daemon/trace/trace_files.h"
#include "protocol/transport/waiting.h"
#include "protocol/verdict_board.h"

namespace ultraep::trace {
namespace {

constexpr int kIdleMs = 5;  // between looks at an empty ring
constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kFlushNs = kSecond / 2;
constexpr uint64_t kProgressNs = kSecond / 5;
constexpr uint64_t kDrainNs = kSecond / 5;  // at a time

std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

class Recorder {
 public:
  Recorder(const TraceStarted& started, const RecordOptions& options, RecordState* state)
      : shape_(started.config.shape()), options_(options), state_(*state) {}

  std::string Begin(int ring, const TraceInfo& info) {
    std::string wrong = reader_.Map(ring, shape_);
    if (wrong.empty())
      wrong = writer_.Create(options_.directory, info, options_.limits, options_.force);
    begun_ = flushed_ = NowNs();
    return wrong;
  }

  // Takes what is in the ring; *empty: all of it. On a slow disk the ring never is, and the caller
  // has to look at the clock and for signals. `ended` is set when the limits are reached.
  std::string Drain(bool* empty) {
    *empty = false;
    const uint64_t until = NowNs() + kDrainNs;
    while (state_.ended.empty() && NowNs() < until) {
      bool any = false;
      if (std::string wrong = reader_.Take(&step_, &any); !wrong.empty()) return wrong;
      *empty = !any;
      if (!any) break;
      if (std::string wrong = AddStep(); !wrong.empty()) return wrong;
      if (NowNs() - flushed_ >= kFlushNs)
        if (std::string wrong = Flush(); !wrong.empty()) return wrong;
    }
    Count();
    return NowNs() - flushed_ >= kFlushNs ? Flush() : "";
  }

  std::string Flush() {
    Count();
    flushed_ = NowNs();
    writer_.info()->dropped = state_.dropped;
    writer_.info()->seconds = state_.seconds;
    return writer_.Flush();
  }

  void Count() {
    state_.steps = writer_.steps();
    state_.bytes = writer_.bytes();
    state_.dropped = reader_.dropped() + unreadable_;
    state_.seconds = double(NowNs() - begun_) / double(kSecond);
  }

 private:
  int64_t GenerationNumber(uint64_t id) {
    const auto found = std::find(generations_.rbegin(), generations_.rend(), id);
    if (found != generations_.rend()) return generations_.rend() - found - 1;
    generations_.push_back(id);
    return int64_t(generations_.size()) - 1;
  }

  // Rows of a step that fell back as broken may be what no trace can hold.
  bool RowsAreLegal() const {
    for (uint32_t r = 0; r < shape_.ranks; ++r)
      if (RowTokens(step_.load(shape_).row(r), shape_.experts) > kMaxRowTokens) return false;
    return true;
  }

  std::string AddStep() {
    const TraceRecord& record = step_.record;
    if (record.verdict != uint16_t(Verdict::kPlan)) step_.replicas.clear();
    if (!writer_.Fits(step_.replicas.size())) {
      state_.ended = writer_.steps() >= options_.limits.steps ? "step limit" : "size limit";
      return "";
    }
    if (!RowsAreLegal()) {
      ++unreadable_;
      return "";
    }
    StepRow row;
    row.sequence = int64_t(record.sequence);
    row.layer = record.layer;
    row.microbatch = record.microbatch;
    row.verdict = record.verdict;
    row.reason = record.reason;
    row.solve_ns = int64_t(record.solve_ns);
    row.time_ns = int64_t(record.time_ns);
    row.generation = GenerationNumber(record.generation);
    if (record.verdict == uint16_t(Verdict::kPlan)) {
      row.tokens = int64_t(record.certificate.total);
      row.peak_before = int64_t(record.certificate.peak_before);
      row.peak = int64_t(record.certificate.peak);
      row.lower_bound = int64_t(record.certificate.lower_bound);
    } else {
      CountLoad(shape_, step_.load(shape_), &row);
    }
    return writer_.Add(row, step_.load(shape_), step_.replicas);
  }

  const PlanShape shape_;
  const RecordOptions& options_;
  RecordState& state_;
  RingReader reader_;
  TraceWriter writer_;
  RingStep step_;
  std::vector<uint64_t> generations_;
  uint64_t begun_ = 0, flushed_ = 0;
  uint64_t unreadable_ = 0;
};

// Waits a little for more steps; true when the daemon has closed the connection.
bool WaitOrClosed(int socket) {
  pollfd wait{socket, POLLIN, 0};
  return poll(&wait, 1, kIdleMs) > 0;
}

}  // namespace

TraceInfo InfoOf(const TraceStarted& started) {
  const GroupConfig& config = started.config;
  TraceInfo info;
  info.group = GetText(config.name);
  info.shape = config.shape();
  info.layers = config.layers;
  info.slot_sets = config.slot_sets;
  info.training = config.training != 0;
  info.expert_bytes = config.expert_bytes();
  info.options.epsilon_ppm = started.epsilon_ppm;
  info.options.variants = started.variants;
  info.options.work_limit = started.work_limit;
  info.options.tile_tokens = started.tile_tokens;
  info.options.relay_hop = started.relay_hop;
  info.options.cost = {started.cost_token_ps, started.cost_expert_ps, started.cost_instance_ps};
  info.started = Now();
  info.source = "ultraepctl trace record";
  return info;
}

std::string Record(int socket, int ring, const TraceStarted& started, const RecordOptions& options,
                   const std::function<void(const RecordState&)>& progress, RecordState* state) {
  if (std::string wrong = CheckConfig(started.config); !wrong.empty())
    return "the daemon described a group that cannot be: " + wrong;
  Recorder recorder(started, options, state);
  if (std::string wrong = recorder.Begin(ring, InfoOf(started)); !wrong.empty()) return wrong;
  std::string wrong;
  uint64_t shown = NowNs();
  while (wrong.empty() && state->ended.empty()) {
    const bool closed = WaitOrClosed(socket);  // before the last look into the ring
    bool empty = false;
    wrong = recorder.Drain(&empty);
    if (!state->ended.empty()) break;
    if (options.stop && options.stop->load()) state->ended = "signal";
    if (options.seconds > 0 && state->seconds >= options.seconds) state->ended = "time limit";
    if (closed && empty) state->ended = "the daemon closed the connection";
    if (NowNs() - shown < kProgressNs) continue;
    shown = NowNs();
    progress(*state);
  }
  const std::string last = recorder.Flush();
  if (wrong.empty()) wrong = last;
  TraceFiles trace;  // what its readers will find
  if (!wrong.empty() && trace.Open(options.directory).empty()) state->steps = trace.steps();
  return wrong;
}

}  // namespace ultraep::trace
