// `ultraepctl top`: the groups live, on a terminal or as blocks of text.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/daemon_connection.h"
#include "daemon/cli/event_feed.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/terminal.h"
#include "daemon/cli/top/readings.h"
#include "daemon/cli/top/render.h"
#include "daemon/cli/top/screen.h"
#include "daemon/event_json.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

constexpr int kAnswerMs = 2000;  // keys must not wait for long
constexpr uint32_t kPlainWidth = 132;
constexpr size_t kEventsAtOnce = 10000;  // the rest at the next reading
constexpr double kSteps[] = {0.2, 0.5, 1, 2, 5, 10, 30, 60};

uint64_t RealtimeNs() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

// User and system time of a process, or -1.
double CpuSeconds(int64_t pid) {
  FILE* const file = std::fopen(absl::StrFormat("/proc/%d/stat", pid).c_str(), "re");
  if (!file) return -1;
  char text[1024] = {};
  const size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  const std::string all(text, size);
  const size_t name_end = all.rfind(')');  // the name may hold anything
  unsigned long long user = 0, system = 0;
  if (name_end == all.npos ||
      std::sscanf(all.c_str() + name_end + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
    return -1;
  return double(user + system) / double(sysconf(_SC_CLK_TCK));
}

class Top {
 public:
  explicit Top(std::string path) : path_(std::move(path)) {}

  // Asks the daemon; what went wrong stands in screen().lost.
  void Read() {
    screen_.lost = TryRead();
    if (!screen_.lost.empty()) {
      connection_.Close();
      screen_.view = TopView();
      screen_.view.unix_ns = RealtimeNs();
    }
  }
  void Sort(TopOrder order) { SortGroups(order, &screen_.view.groups); }
  const std::string& path() const { return path_; }
  TopScreen& screen() { return screen_; }

 private:
  std::string TryRead() {
    if (!connection_.connected()) {
      if (std::string wrong = connection_.Connect(path_, kAnswerMs); !wrong.empty()) return wrong;
      feed_.Connected();
    }
    Reading reading;
    std::string wrong = ReadStatus(&connection_, &reading.daemon, &reading.groups);
    if (!wrong.empty()) return wrong;
    reading.time_ns = NowNs();
    reading.unix_ns = RealtimeNs();
    reading.cpu_seconds = CpuSeconds(reading.daemon.pid);
    screen_.view = readings_.Add(std::move(reading));
    std::vector<Event> events;
    bool more = true;
    while (wrong.empty() && more && events.size() < kEventsAtOnce)
      wrong = feed_.Read(&connection_, &events, &more);
    AddEvents(events, &screen_.events);
    return wrong;
  }

  const std::string path_;
  DaemonConnection connection_;
  EventFeed feed_{/*verdicts=*/false, /*history=*/true};
  Readings readings_;
  TopScreen screen_;
};

struct Settings {
  double interval = 1;
  uint64_t iterations = 0;  // 0: until the user ends it
  TopOrder order = TopOrder::kName;
  TopStyle style;
};

// On a terminal, until it is ended.
class Live {
 public:
  Live(Top* top, const Settings& settings) : top_(top), s_(settings) {}

  void Run() {
    Draw();
    uint64_t next = NowNs(), done = 0;
    for (;;) {
      next = std::max(next + Ns(s_.interval), NowNs());
      int key;
      while ((key = screen_.Wait(next)) != Screen::kNothing)
        if (!Handle(key, &next)) return;
      top_->Read();
      if (!paused_) Draw();
      if (s_.iterations && ++done == s_.iterations) return;
    }
  }

 private:
  static uint64_t Ns(double seconds) { return uint64_t(seconds * 1e9); }

  // False: the end.
  bool Handle(int key, uint64_t* next) {
    if (key == 'q' || key == 'Q' || key == 3 || key == Screen::kEnd) return false;
    if (key == 'p' || key == ' ') paused_ = !paused_;
    if (key == 's') s_.order = TopOrder((int(s_.order) + 1) % int(std::size(kTopOrders)));
    if (key == '+' || key == '=' || key == '-') {
      const uint64_t begun = *next - Ns(s_.interval);
      s_.interval = Neighbour(s_.interval, key != '-');
      *next = begun + Ns(s_.interval);
    }
    Draw();
    return true;
  }

  static double Neighbour(double interval, bool longer) {
    const auto above = std::upper_bound(std::begin(kSteps), std::end(kSteps), interval + 1e-9);
    if (longer) return above == std::end(kSteps) ? interval : *above;
    const auto below = std::lower_bound(std::begin(kSteps), std::end(kSteps), interval - 1e-9);
    return below == std::begin(kSteps) ? interval : *(below - 1);
  }

  void Draw() {
    s_.style.width = screen_.width();
    s_.style.height = screen_.height();
    top_->Sort(s_.order);
    top_->screen().keys =
        absl::StrFormat("%sq quit   p pause   s sort: %s   + - interval: %g s",
                        paused_ ? "PAUSED  " : "", kTopOrders[int(s_.order)], s_.interval);
    screen_.Draw(RenderTop(top_->screen(), s_.style));
  }

  Top* const top_;
  Settings s_;
  Screen screen_;
  bool paused_ = false;
};

// Each block, or line of JSON, is about the interval before it.
void RunPlain(Top* top, const Settings& s, bool json) {
  for (uint64_t done = 0; s.iterations == 0 || done < s.iterations; ++done) {
    std::this_thread::sleep_for(std::chrono::duration<double>(s.interval));
    top->Read();
    top->Sort(s.order);
    TopScreen& screen = top->screen();
    if (json) {
      Json line = TopJson(screen.view);
      if (!screen.lost.empty())
        line = {{"time", IsoTime(screen.view.unix_ns)}, {"error", screen.lost}};
      std::printf("%s\n", OneLine(line).c_str());
    } else {
      if (done) std::printf("\n");
      for (const std::string& line : RenderTop(screen, s.style)) std::printf("%s\n", line.c_str());
      screen.events.clear();  // each is said once
    }
    if (std::fflush(stdout) || std::ferror(stdout)) return;
  }
}

int Fail(int status, const std::string& text) {
  std::fprintf(stderr, "ultraepctl top: %s\n", text.c_str());
  return status;
}

std::string TakeSettings(Settings* s) {
  s->interval = absl::GetFlag(FLAGS_interval);
  if (!(s->interval >= 0.1 && s->interval <= 3600))
    return absl::StrFormat("--interval is %g, must be 0.1..3600", s->interval);
  s->iterations = absl::GetFlag(FLAGS_once) ? 1 : absl::GetFlag(FLAGS_iterations);
  const std::string order = absl::GetFlag(FLAGS_sort);
  const auto at = std::find(std::begin(kTopOrders), std::end(kTopOrders), order);
  if (at == std::end(kTopOrders))
    return "--sort is '" + order + "', must be name, steps, imbalance, fallbacks or avoided";
  s->order = TopOrder(at - std::begin(kTopOrders));
  s->style.colored = ColorWanted();
  s->style.ascii = !Utf8Wanted() || absl::GetFlag(FLAGS_ascii);
  s->style.width = kPlainWidth;
  if (const char* columns = std::getenv("COLUMNS"); columns && std::atoi(columns) > 0)
    s->style.width = uint32_t(std::clamp(std::atoi(columns), 20, 1000));
  return "";
}

int RunTop(const std::vector<std::string>& positional) {
  if (!positional.empty()) return Fail(kExitUsage, "unexpected argument '" + positional[0] + "'");
  Settings settings;
  if (std::string wrong = TakeSettings(&settings); !wrong.empty()) return Fail(kExitFailed, wrong);
  Top top(SocketPath());
  top.Read();
  if (!top.screen().lost.empty()) return Fail(kExitFailed, top.path() + ": " + top.screen().lost);
  const bool json = absl::GetFlag(FLAGS_json);
  if (!json && Screen::Possible())
    Live(&top, settings).Run();
  else
    RunPlain(&top, settings, json);
  return kExitOk;
}

}  // namespace

const Command kTopCommand = {
    "top", "live view: imbalance before and after, latencies, fallbacks, last events",
    "socket json interval iterations once ascii sort",
    "usage: ultraepctl top [--interval SECONDS] [--iterations N | --once] [--sort ORDER] "
    "[--ascii]\n"
    "                      [--json] [--socket PATH]\n\n"
    "Shows each group over the last interval. Keys: q quit, p pause, s sort order, + and - longer\n"
    "and shorter interval. It goes on when the daemon is restarted. Where standard output is no\n"
    "terminal, each interval is a block of plain text, $COLUMNS wide.\n\n"
    "RANKS      ready / all            GATE       open: steps are planned\n"
    "STEPS/s    planned per second     BEFORE     imbalance (max/mean) without replicas\n"
    "AFTER      imbalance under the plans; both with the last minute, the scale is in the title\n"
    "REPLICAS   per step / slots of all ranks\n"
    "PLAN       p99 from the last row to the verdict; VERDICT: from a rank's submit to its "
    "verdict,\n"
    "           stragglers included; STREAM: from issue to all own slots complete\n"
    "FELL BACK  steps in the interval; IN ALL: since the group exists\n"
    "AVOIDED/s  tokens per second that the fullest ranks had less to compute\n\n"
    "--interval SECONDS  0.1..3600 (default 1)\n"
    "--iterations N      end after N intervals; 0: never (default); --once is --iterations 1\n"
    "--sort ORDER        name, steps, imbalance, fallbacks or avoided (default name)\n"
    "--ascii             no block characters, as in a locale without UTF-8\n"
    "--json              one JSON object per interval; \"error\" in it: no answer\n"
    "--socket PATH       else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock\n\n"
    "NO_COLOR=1 switches colours off.\n"
    "Exit status: 0 ended, 1 bad input, or no daemon or no answer at the start, 2 wrong usage.\n",
    RunTop};

}  // namespace ultraep
