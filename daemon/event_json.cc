#include "daemon/event_json.h"

#include <time.h>

#include "absl/strings/str_format.h"
#include "protocol/plan.h"

namespace ultraep {
namespace {

void AddStep(const Event& e, Json* json) {
  (*json)["step"] = e.sequence;
  if (!LayerKnown(e)) return;
  (*json)["layer"] = e.layer;
  (*json)["microbatch"] = e.microbatch;
}

void AddPlan(const Event& e, Json* json) {
  const auto ranks = uint32_t(e.value);
  (*json)["ranks"] = ranks;
  (*json)["tokens"] = e.tokens;
  (*json)["peak_before"] = e.peak_before;
  (*json)["peak"] = e.peak;
  (*json)["imbalance_before"] = Imbalance(e.peak_before, e.tokens, ranks);
  (*json)["imbalance_after"] = Imbalance(e.peak, e.tokens, ranks);
  (*json)["replicas"] = e.replicas;
  (*json)["solve_us"] = double(e.latency_ns) / 1e3;
}

}  // namespace

const char* EventName(uint16_t kind) {
  static constexpr const char* kNames[] = {"unknown", "plan",    "fallback", "joined", "opened",
                                           "over",    "left",    "gone",     "fenced", "failed",
                                           "refused", "created", "closed"};
  return kind < sizeof kNames / sizeof kNames[0] ? kNames[kind] : kNames[0];
}

const char* ReasonName(uint16_t reason) {
  static constexpr const char* kNames[] = {"none", "deadline", "order_mismatch", "bad_row"};
  return reason < sizeof kNames / sizeof kNames[0] ? kNames[reason] : "unknown";
}

bool LayerKnown(const Event& event) { return event.layer != UINT32_MAX; }

bool IsTrouble(const Event& event) {
  switch (EventKind(event.kind)) {
    case EventKind::kFallback:
    case EventKind::kGone:
    case EventKind::kFenced:
    case EventKind::kFailed:
    case EventKind::kRefused:
      return true;
    default:
      return false;
  }
}

std::string IsoTime(uint64_t time_ns) {
  const auto seconds = time_t(time_ns / 1'000'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  return absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900, utc.tm_mon + 1,
                         utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                         time_ns / 1'000'000 % 1000);
}

Json EventJson(const Event& e) {
  Json json = {{"time", IsoTime(e.time_ns)}, {"event", EventName(e.kind)}};
  if (e.group[0]) json["group"] = GetText(e.group);
  switch (EventKind(e.kind)) {
    case EventKind::kPlan:
      AddStep(e, &json);
      AddPlan(e, &json);
      break;
    case EventKind::kFallback:
      AddStep(e, &json);
      json["reason"] = ReasonName(e.reason);
      break;
    case EventKind::kJoined:
    case EventKind::kLeft:
    case EventKind::kGone:
    case EventKind::kFenced:
      json["rank"] = e.rank;
      if (e.value) json["pid"] = e.value;  // none from another PID namespace
      break;
    case EventKind::kOpened:
      json["first_planned_step"] = e.sequence;
      break;
    case EventKind::kRefused:
      json["pid"] = e.value;
      break;
    case EventKind::kCreated:
      json["memory_bytes"] = e.value;
      break;
    case EventKind::kOver:
    case EventKind::kFailed:
    case EventKind::kClosed:
      break;
  }
  if (e.text[0]) json["text"] = GetText(e.text);
  return json;
}

}  // namespace ultraep
