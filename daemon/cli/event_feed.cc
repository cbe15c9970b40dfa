#include "daemon/cli/event_feed.h"

#include <time.h>

#include <algorithm>
#include <utility>

namespace ultraep {

void EventFeed::Connected() {
  first_ = true;
  if (connections_++) {
    after_ns_ = last_ns_;
    return;
  }
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  last_ns_ = uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

uint64_t EventFeed::TakeMissed() { return std::exchange(missed_, 0); }

std::string EventFeed::Read(DaemonConnection* connection, std::vector<Event>* events, bool* more) {
  EventsRequest request;
  if (verdicts_) request.flags = EventsRequest::kVerdicts;
  if (first_ && (connections_ > 1 || history_)) request.flags |= EventsRequest::kHistory;
  if (std::string wrong = connection->Send(request); !wrong.empty()) return wrong;
  for (;;) {
    Packet packet;
    Event event;
    EventsEnd end;
    if (std::string wrong = connection->Receive(&packet); !wrong.empty()) return wrong;
    if (As(packet.bytes, packet.size, &end)) {
      // What was overwritten before the first request was not asked for.
      if (!first_) missed_ += end.missed;
      first_ = false;
      *more = end.more;
      return "";
    }
    if (!As(packet.bytes, packet.size, &event)) {
      connection->Close();
      return "the daemon gave an unexpected answer";
    }
    last_ns_ = std::max(last_ns_, event.time_ns);
    if (event.time_ns > after_ns_) events->push_back(event);
  }
}

}  // namespace ultraep
