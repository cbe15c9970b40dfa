#include "daemon/session/event_log.h"

#include <algorithm>

#include "protocol/transport/waiting.h"

namespace ultraep {

Event EventLog::Now(const std::string& group, EventKind kind) {
  Event event;
  event.time_ns = WallNs();
  event.kind = uint16_t(kind);
  SetText(event.group, group);
  return event;
}

void EventLog::Append(uid_t uid, const Event& event) {
  std::lock_guard lock(mutex_);
  Log& log = logs_[uid];
  log.events.push_back(event);
  if (log.events.size() <= kKept) return;
  log.events.pop_front();
  ++log.begin;
}

void EventLog::Skip(uid_t uid, bool all, Cursors* cursors) const {
  std::lock_guard lock(mutex_);
  for (const auto& [owner, log] : logs_)
    if (all || owner == uid) (*cursors)[owner] = log.end();
}

uint64_t EventLog::Read(uid_t uid, bool all, size_t most, Cursors* cursors,
                        std::vector<Event>* events) const {
  uint64_t missed = 0;
  std::lock_guard lock(mutex_);
  for (const auto& [owner, log] : logs_) {
    if (!all && owner != uid) continue;
    uint64_t& cursor = (*cursors)[owner];
    if (log.begin > cursor) missed += log.begin - cursor;
    cursor = std::max(cursor, log.begin);
    for (; cursor < log.end() && most > 0; ++cursor, --most)
      events->push_back(log.events[cursor - log.begin]);
  }
  return missed;
}

}  // namespace ultraep
