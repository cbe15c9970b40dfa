#include "daemon/session/event_log.h"

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
  entries_.push_back({uid, event});
  if (entries_.size() <= kKept) return;
  entries_.pop_front();
  ++begin_;
}

uint64_t EventLog::end() const {
  std::lock_guard lock(mutex_);
  return begin_ + entries_.size();
}

uint64_t EventLog::Read(uint64_t* cursor, uid_t uid, bool all, size_t most,
                        std::vector<Event>* events) const {
  std::lock_guard lock(mutex_);
  const uint64_t missed = begin_ > *cursor ? begin_ - *cursor : 0;
  *cursor += missed;
  for (; *cursor < begin_ + entries_.size() && most > 0; ++*cursor) {
    const Entry& entry = entries_[*cursor - begin_];
    if (!all && entry.uid != uid) continue;
    events->push_back(entry.event);
    --most;
  }
  return missed;
}

}  // namespace ultraep
