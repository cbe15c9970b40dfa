#include "daemon/cli/event_line.h"

#include "absl/strings/str_format.h"
#include "daemon/cli/terminal.h"
#include "daemon/event_json.h"
#include "protocol/plan.h"

namespace ultraep {
namespace {

std::string Step(const Event& e) {
  if (!LayerKnown(e)) return absl::StrFormat("step %d", e.sequence);
  return absl::StrFormat("step %d, layer %d, microbatch %d", e.sequence, e.layer, e.microbatch);
}

std::string Why(const Event& e) {
  switch (FallbackReason(e.reason)) {
    case FallbackReason::kDeadline:
      return "no plan within a rank's solve_deadline";
    case FallbackReason::kOrderMismatch:
      return "the ranks' rows are of different layers or microbatches";
    case FallbackReason::kBadRow:
      return "a row contradicts its header";
    case FallbackReason::kNone:
      break;
  }
  return "unknown reason";
}

std::string Rank(const Event& e) {
  const std::string rank = absl::StrFormat("rank %d", e.rank);
  return e.value ? rank + absl::StrFormat(", pid %d", e.value)
                 : rank;  // 0: of another PID namespace
}

std::string About(const Event& e) {
  switch (EventKind(e.kind)) {
    case EventKind::kPlan:
      return absl::StrFormat("%s: imbalance %.3f -> %.3f, %d replicas, solved in %s", Step(e),
                             Imbalance(e.peak_before, e.tokens, uint32_t(e.value)),
                             Imbalance(e.peak, e.tokens, uint32_t(e.value)), e.replicas,
                             ShortUs(double(e.latency_ns) / 1e3));
    case EventKind::kFallback:
      return Step(e) + ": " + Why(e);
    case EventKind::kJoined:
    case EventKind::kLeft:
      return Rank(e);
    case EventKind::kGone:
      return Rank(e) + ": died, or closed its connection";
    case EventKind::kFenced:
      return Rank(e) + ": no heartbeat";
    case EventKind::kOpened:
      return absl::StrFormat("all ranks are ready, planned from step %d on", e.sequence);
    case EventKind::kOver:
      return "main copies until all ranks are back";
    case EventKind::kFailed:
      return "main copies until all ranks are back";
    case EventKind::kRefused:
      return absl::StrFormat("pid %d", e.value);
    case EventKind::kCreated:
      return absl::StrFormat("%s of shared memory", ShortBytes(e.value));
    case EventKind::kClosed:
      return "no member is left";
  }
  return "";
}

Color ColorOf(const Event& e) {
  if (EventKind(e.kind) == EventKind::kOpened) return Color::kGood;
  if (!IsTrouble(e)) return Color::kNone;
  return EventKind(e.kind) == EventKind::kFallback ? Color::kWarn : Color::kBad;
}

}  // namespace

std::string EventText(const Event& e) {
  std::string text = About(e);
  if (e.text[0]) text += (text.empty() ? "" : ": ") + GetText(e.text);
  return Printable(absl::StrFormat("%-8s  %s", EventName(e.kind), text));
}

std::string EventLine(const Event& e, bool colored) {
  const std::string group = e.group[0] ? Printable(GetText(e.group)) : "-";
  return absl::StrFormat("%s  %-16s  %s", Paint(IsoTime(e.time_ns), Color::kDim, colored), group,
                         Paint(EventText(e), ColorOf(e), colored));
}

}  // namespace ultraep
