// `ultraepctl trace record`.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/daemon_connection.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/terminal.h"
#include "daemon/cli/trace_commands.h"
#include "daemon/trace/record.h"
#include "nlohmann/json.hpp"

namespace ultraep {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr uint64_t kDefaultMib = 1024;
constexpr uint64_t kMostMib = uint64_t{1} << 30;

std::atomic<bool> stop_asked{false};

void AskToStop(int) { stop_asked = true; }

// The first signal ends the recording, a second one the program.
void CatchSignals() {
  struct sigaction action {};
  action.sa_handler = AskToStop;
  action.sa_flags = SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of the write
}

std::string TakeOptions(trace::RecordOptions* options, TraceRequest* request) {
  options->directory = absl::GetFlag(FLAGS_output);
  options->force = absl::GetFlag(FLAGS_force);
  options->stop = &stop_asked;
  options->seconds = absl::GetFlag(FLAGS_seconds);
  if (!(options->seconds >= 0 && options->seconds <= 1e9))
    return absl::StrFormat("--seconds is %g, must be 0..1e9", options->seconds);
  const std::string steps = absl::GetFlag(FLAGS_steps);
  if (!steps.empty() &&
      (!absl::SimpleAtoi(steps, &options->limits.steps) || options->limits.steps == 0))
    return absl::StrFormat("--steps is '%s', must be a number of at least 1", steps);
  const uint64_t mib = absl::GetFlag(FLAGS_max_mib), ring = absl::GetFlag(FLAGS_ring_mib);
  if (mib > kMostMib || ring > kMostMib)
    return absl::StrFormat("--max_mib and --ring_mib must be 0..%d", kMostMib);
  options->limits.bytes = (mib ? mib : kDefaultMib) * kMib;
  request->ring_bytes = ring * kMib;
  const std::string group = absl::GetFlag(FLAGS_group);
  if (group.size() >= sizeof request->group)
    return absl::StrFormat("--group has %d characters, must have at most 63", group.size());
  SetText(request->group, group);
  return "";
}

std::string Start(const TraceRequest& request, DaemonConnection* connection, Packet* packet,
                  TraceStarted* started) {
  const std::string path = SocketPath();
  std::string wrong = connection->Connect(path);
  if (wrong.empty()) wrong = connection->Send(request);
  if (wrong.empty()) wrong = connection->Receive(packet, Descriptors::kTake);
  if (wrong.empty() &&
      (!As(packet->bytes, packet->size, started) || packet->descriptors.size() != 1))
    wrong = "the daemon gave an unexpected answer";
  return wrong.empty() ? "" : path + ": " + wrong;
}

void ShowProgress(const trace::RecordState& state) {
  if (!isatty(STDERR_FILENO)) return;
  std::fprintf(stderr, "\r\033[K%llu steps, %.1f MiB, %llu dropped, %.0f s; Ctrl-C ends it",
               static_cast<unsigned long long>(state.steps), double(state.bytes) / kMib,
               static_cast<unsigned long long>(state.dropped), state.seconds);
}

void PrintResult(const std::string& group, const std::string& directory,
                 const trace::RecordState& state) {
  if (absl::GetFlag(FLAGS_json)) {
    const Json json = {{"directory", directory},   {"group", group},
                       {"steps", state.steps},     {"bytes", state.bytes},
                       {"dropped", state.dropped}, {"seconds", state.seconds},
                       {"ended_by", state.ended}};
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    return;
  }
  std::printf("%s: %llu steps of group %s in %.1f s, %.1f MiB, %llu missed; ended by: %s\n",
              directory.c_str(), static_cast<unsigned long long>(state.steps), group.c_str(),
              state.seconds, double(state.bytes) / kMib,
              static_cast<unsigned long long>(state.dropped), state.ended.c_str());
}

}  // namespace

int RecordTrace() {
  trace::RecordOptions options;
  TraceRequest request;
  if (std::string wrong = TakeOptions(&options, &request); !wrong.empty())
    return FailTrace(kExitFailed, wrong);
  CatchSignals();
  DaemonConnection connection;
  Packet packet;
  TraceStarted started;
  if (std::string wrong = Start(request, &connection, &packet, &started); !wrong.empty())
    return FailTrace(kExitFailed, wrong);
  trace::RecordState state;
  const std::string wrong = trace::Record(connection.fd(), packet.descriptors[0].get(), started,
                                          options, ShowProgress, &state);
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K");
  if (!wrong.empty())
    return FailTrace(kExitFailed,
                     state.steps == 0
                         ? wrong
                         : absl::StrFormat("%s\nultraepctl trace: the %d steps before are whole",
                                           wrong, state.steps));
  PrintResult(Printable(GetText(started.config.name)), options.directory, state);
  return kExitOk;
}

}  // namespace ultraep
