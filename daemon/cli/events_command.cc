// `ultraepctl events`: what happens in the daemon, line by line.
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/daemon_connection.h"
#include "daemon/cli/event_feed.h"
#include "daemon/cli/event_line.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/terminal.h"
#include "daemon/event_json.h"

namespace ultraep {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(200);
constexpr int64_t kHistoryFollowed = 10;

class Printer {
 public:
  Printer() : colored_(ColorWanted()) {}

  bool wants(const Event& event) const { return group_.empty() || GetText(event.group) == group_; }
  void Print(const Event& event) const {
    const std::string line = json_ ? OneLine(EventJson(event)) : EventLine(event, colored_);
    std::printf("%s\n", line.c_str());
  }
  void PrintMissed(uint64_t count) const {
    if (json_)
      std::printf("%s\n", OneLine({{"event", "missed"}, {"count", count}}).c_str());
    else
      std::printf("(%llu events were overwritten before they could be read)\n",
                  static_cast<unsigned long long>(count));
  }

 private:
  const bool json_ = absl::GetFlag(FLAGS_json);
  const std::string group_ = absl::GetFlag(FLAGS_group);
  const bool colored_;
};

int Fail(int status, const std::string& text) {
  std::fflush(stdout);
  std::fprintf(stderr, "ultraepctl events: %s\n", text.c_str());
  return status;
}

// The first events: of the time before, at most `most`.
std::string PrintHistory(DaemonConnection* connection, EventFeed* feed, const Printer& printer,
                         uint64_t most) {
  std::vector<Event> events;
  for (bool more = true; more;) {
    if (std::string wrong = feed->Read(connection, &events, &more); !wrong.empty()) return wrong;
    std::erase_if(events, [&](const Event& e) { return !printer.wants(e); });
    if (events.size() > most) events.erase(events.begin(), events.end() - long(most));
  }
  for (const Event& event : events) printer.Print(event);
  return "";
}

// Prints until the connection is lost (why) or the output is (empty).
std::string Follow(DaemonConnection* connection, EventFeed* feed, const Printer& printer) {
  for (;;) {
    std::vector<Event> events;
    bool more = false;
    std::string wrong = feed->Read(connection, &events, &more);
    if (const uint64_t missed = feed->TakeMissed()) printer.PrintMissed(missed);
    for (const Event& event : events)
      if (printer.wants(event)) printer.Print(event);
    if (std::fflush(stdout) || std::ferror(stdout)) return "";
    if (!wrong.empty()) return wrong;
    if (!more) std::this_thread::sleep_for(kPoll);
  }
}

// Waits for the next daemon, saying so once.
void Reconnect(DaemonConnection* connection, EventFeed* feed, const std::string& path,
               const std::string& why) {
  Fail(0, path + ": " + why + "; trying again until it answers");
  while (!connection->Connect(path).empty()) std::this_thread::sleep_for(kPoll);
  feed->Connected();
  Fail(0, path + ": connected again");
}

int RunEvents(const std::vector<std::string>& positional) {
  if (!positional.empty()) return Fail(kExitUsage, "unexpected argument '" + positional[0] + "'");
  const bool follow = !absl::GetFlag(FLAGS_no_follow);
  int64_t history = absl::GetFlag(FLAGS_history);
  if (history < -1)
    return Fail(kExitFailed, absl::StrFormat("--history is %d, must be -1 or more", history));
  if (history < 0) history = follow ? kHistoryFollowed : INT64_MAX;
  const Printer printer;
  const std::string path = SocketPath();
  DaemonConnection connection;
  EventFeed feed(absl::GetFlag(FLAGS_verdicts), history != 0);
  std::string wrong = connection.Connect(path);
  feed.Connected();
  if (wrong.empty()) wrong = PrintHistory(&connection, &feed, printer, uint64_t(history));
  if (!wrong.empty()) return Fail(kExitFailed, path + ": " + wrong);
  while (follow) {
    wrong = Follow(&connection, &feed, printer);
    if (wrong.empty()) break;
    Reconnect(&connection, &feed, path, wrong);
  }
  return kExitOk;
}

}  // namespace

const Command kEventsCommand = {
    "events", "what happens: fallbacks, joins, losses, generations, refusals",
    "socket json group verdicts history no_follow",
    "usage: ultraepctl events [--group NAME] [--verdicts] [--no-follow] [--history N] [--json]\n"
    "                         [--socket PATH]\n\n"
    "Prints the last ten events, then each new one until it is interrupted; also over restarts of\n"
    "the daemon, which it says on standard error. Times are UTC.\n\n"
    "--group NAME   only this group's; without it also the refusals of connections\n"
    "--verdicts     also every planned step: some hundred lines per second of a busy group\n"
    "--no-follow    print what the daemon still knows, then end\n"
    "--history N    events of the time before to print first; -1: 10, or all with --no-follow\n"
    "               (default -1)\n"
    "--json         one JSON object per line\n"
    "--socket PATH  else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock\n\n"
    "Events: plan, fallback (by reason), joined, opened (a generation: all ranks are ready), over\n"
    "(main copies until all are back), left, gone, fenced (a rank without heartbeat), failed (a\n"
    "rank could not follow a plan), refused, created, closed (a group); missed (in JSON): so many\n"
    "were overwritten before they were read.\n"
    "Exit status: 0 ended, 1 a bad value, no daemon or no answer at the start, 2 wrong usage.\n",
    RunEvents};

}  // namespace ultraep
