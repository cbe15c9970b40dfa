// Who was stopped or dead when: which waits had to end by which time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/simulation/scenario.h"

namespace ultraep::simulation {

class Timeline {
 public:
  // Whoever can act does so within this time, also on a machine whose every step costs. A lost wake
  // costs a heartbeat.
  static constexpr uint64_t kSlackNs = kHeartbeatNs + 80 * kMillisecond;
  // From the last heartbeat to its end being noticed: a lease, looked at once per heartbeat by
  // somebody who may just have looked.
  static constexpr uint64_t kNoticeNs = 4 * kHeartbeatNs;

  explicit Timeline(uint64_t lease_ns) : lease_ns_(lease_ns) {}

  // `who` is a process ("r0#1") or a thread ("r0#1.link"); "" is everybody: the clock jumped.
  void Stopped(const std::string& who, uint64_t from, uint64_t to) {
    spans_.push_back({who, from, to, false});
  }
  void Died(const std::string& who, uint64_t at) { spans_.push_back({who, at, kForever, true}); }
  // All goes on.
  void Continued(uint64_t at) {
    for (Span& s : spans_)
      if (!s.died && s.to > at) s.to = at;
  }

  // Whose doing a generation is, and since when all watch each other there.
  struct Life {
    std::string daemon;
    std::vector<std::string> members;
    uint64_t opened = 0;
  };

  // Why a wait of `waiter`, from `from` to `to`, in that generation took too long; empty when it did
  // not. Only where everybody needed was able to act.
  std::string Late(const std::string& waiter, uint64_t from, uint64_t to, const Life& life) const {
    for (const Span& s : spans_) {
      const bool of_daemon = Of(s.who, life.daemon);
      bool of_member = false;
      for (const std::string& m : life.members) of_member |= m != waiter && Of(s.who, m);
      if (!of_daemon && !of_member) continue;
      if (!s.died && !BeatsStop(s.who)) continue;
      const uint64_t begin = std::max(s.from, life.opened);
      const uint64_t known = s.died ? begin : begin + lease_ns_ + kNoticeNs;
      const uint64_t due = std::max(known, from) + kSlackNs;
      if (to <= due || s.to <= due) continue;
      // A death is known to whoever can act then; a lease wants an undisturbed watcher all along.
      const uint64_t watched = s.died ? std::max(begin, from) : begin;
      if (Disturbed(waiter, watched, due)) continue;
      if (of_member && Disturbed(life.daemon, watched, due)) continue;
      return s.who + (s.died ? " died at " : " stopped at ") + std::to_string(begin) +
             ", known at " + std::to_string(known);
    }
    return "";
  }

  bool Disturbed(const std::string& process, uint64_t from, uint64_t to) const {
    for (const Span& s : spans_)
      if (s.from <= to && s.to >= from && (s.who.empty() || Of(s.who, process))) return true;
    return false;
  }

 private:
  struct Span {
    std::string who;
    uint64_t from, to;
    bool died;
  };

  static bool Of(const std::string& who, const std::string& process) {
    return who.compare(0, process.size(), process) == 0 &&
           (who.size() == process.size() || who[process.size()] == '.');
  }
  // Does a stop of this one stop its heartbeats?
  static bool BeatsStop(const std::string& who) {
    const size_t dot = who.find('.');
    if (dot == std::string::npos) return true;
    const std::string thread = who.substr(dot + 1);
    return thread == "link" || thread == "planner";
  }

  const uint64_t lease_ns_;
  std::vector<Span> spans_;
};

}  // namespace ultraep::simulation
