// What happened to groups and connections, for people: each user's last few hundred joins, losses,
// generations and refusals. Verdicts are not here but in each group's ring.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "protocol/operator_messages.h"

namespace ultraep {

// Any thread.
class EventLog {
 public:
  // Of each user: nobody's events push out another one's.
  static constexpr size_t kKept = 1024;
  // How far somebody has read each user's.
  using Cursors = std::map<uid_t, uint64_t>;

  // Makes one of now. `fill` sets what the kind has besides.
  template <class Fill>
  void Add(uid_t uid, const std::string& group, EventKind kind, Fill fill) {
    Event event = Now(group, kind);
    fill(&event);
    Append(uid, event);
  }

  // What `uid` may see is its own; all: everybody's. Moves the cursors behind the newest.
  void Skip(uid_t uid, bool all, Cursors* cursors) const;
  // Appends those from the cursors on, at most `most`, and moves them. Returns how many of them
  // were forgotten before.
  uint64_t Read(uid_t uid, bool all, size_t most, Cursors* cursors,
                std::vector<Event>* events) const;

 private:
  struct Log {
    std::deque<Event> events;
    uint64_t begin = 0;  // number of the oldest

    uint64_t end() const { return begin + events.size(); }
  };

  static Event Now(const std::string& group, EventKind kind);
  void Append(uid_t uid, const Event& event);

  mutable std::mutex mutex_;
  std::map<uid_t, Log> logs_;
};

}  // namespace ultraep
