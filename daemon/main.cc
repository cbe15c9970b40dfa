// ultraepd: options, listener, threads, wait for a signal, stop in reverse order.
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "daemon/descriptor_budget.h"
#include "daemon/log.h"
#include "daemon/memory/device_memory.h"
#include "daemon/metrics/metrics_server.h"
#include "daemon/options.h"
#include "daemon/session/attach_server.h"
#include "daemon/session/listener.h"
#include "daemon/session/plan_loop.h"
#include "daemon/session/waker.h"
#include "daemon/watchdog.h"
#include "protocol/message.h"
#include "protocol/version.h"

using namespace ultraep;

namespace {

// Out of descriptors for one user, out for all: so the limits of connections fit into what there is,
// and a quarter is always others'.
void FitDescriptors(DaemonOptions* options) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit)) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const uint64_t usable = limit.rlim_cur > kDescriptorsOwn ? limit.rlim_cur - kDescriptorsOwn : 0;
  const uint64_t fit = std::max<uint64_t>(usable / kDescriptorsPerConnection, 1);
  if (fit >= options->max_connections) return;
  options->max_connections = uint32_t(fit);
  options->uid_connections =
      std::min(options->uid_connections, uint32_t(std::max<uint64_t>(fit * 3 / 4, 1)));
  LogWarning("RLIMIT_NOFILE is %d: at most %d connections, %d of one user; raise LimitNOFILE",
             limit.rlim_cur, options->max_connections, options->uid_connections);
}

// It may sit in a driver that makes memory. Ranks then learn of the end as of a daemon that is
// killed: by their connections.
constexpr std::chrono::seconds kSessionEnds{3};

// ../lib of this program: where a build and an installation have the CUDA backend.
std::string LibraryFolder() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "" : (self.parent_path().parent_path() / "lib").string();
}

}  // namespace

int main(int argc, char** argv) {
  DaemonOptions options = ParseOptions(argc, argv);
  SetLogLevel(options.log_level);
  FitDescriptors(&options);
  signal(SIGPIPE, SIG_IGN);  // a closed log must not end the daemon
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);  // inherited by every thread below

  Listener listener;
  if (std::string wrong = listener.Open(options.socket, options.socket_mode); !wrong.empty()) {
    LogError("%s", wrong);
    return 1;
  }
  Waker waker;
  PlanLoop planner(&waker, options.spin_us);
  NodeView view;
  NodeDevices devices;
  options.cuda.beside = LibraryFolder();
  AttachServer server(options, listener.Take(), devices, &planner, &view);
  Watchdog watchdog(&planner, &server, &view);
  MetricsServer metrics(&view, options.metrics_detail_series, [&] { return watchdog.Health(); },
                        [&] { return watchdog.Readiness(); });
  std::jthread waker_thread([&] { waker.Run(); });
  std::jthread planner_thread([&] { planner.Run(); });
  metrics.Start(options.metrics_listen);
  view.set_metrics_port(metrics.port());  // before the first status is answered
  std::promise<void> served;
  std::jthread session_thread([&] {
    server.Run();
    served.set_value();
  });
  LogInfo("ultraepd %s serves %s", kBuildVersion, options.socket);
  devices.Open(options.cuda);  // says itself what it found

  watchdog.Ready();
  const timespec period{time_t(watchdog.period_ns() / 1'000'000'000),
                        long(watchdog.period_ns() % 1'000'000'000)};
  int signal = -1;
  for (; signal < 0; signal = sigtimedwait(&stop_signals, nullptr, &period)) watchdog.Look();
  LogInfo("stopping: %s", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  watchdog.Stopping();
  server.Stop();
  if (served.get_future().wait_for(kSessionEnds) != std::future_status::ready) {
    LogError("the session thread does not end, its CUDA driver does not answer: ending without it");
    _exit(0);
  }
  session_thread.join();
  planner.Stop();
  planner_thread.join();
  waker.Stop();
  metrics.Stop();
  // A driver that never answers holds the loader's lock, which the usual end would wait for.
  if (devices.state().use == CudaUse::kOpening) _exit(0);
  return 0;
}
