// What happened to groups and connections, for people: the last few thousand joins, losses,
// generations and refusals. Verdicts are not here but in each group's ring.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "protocol/operator_messages.h"

namespace ultraep {

// Any thread.
class EventLog {
 public:
  static constexpr size_t kKept = 4096;

  // Makes one of now. `fill` sets what the kind has besides.
  template <class Fill>
  void Add(uid_t uid, const std::string& group, EventKind kind, Fill fill) {
    Event event = Now(group, kind);
    fill(&event);
    Append(uid, event);
  }

  uint64_t end() const;  // index after the newest
  // Appends those from *cursor on that `uid` may see (all: everything), at most `most`, and moves
  // the cursor. Returns how many were forgotten before.
  uint64_t Read(uint64_t* cursor, uid_t uid, bool all, size_t most,
                std::vector<Event>* events) const;

 private:
  struct Entry {
    uid_t uid;
    Event event;
  };

  static Event Now(const std::string& group, EventKind kind);
  void Append(uid_t uid, const Event& event);

  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
  uint64_t begin_ = 0;  // index of the oldest
};

}  // namespace ultraep
