// ultraepd: options, listener, three threads, wait for a signal, stop in reverse order.
#include <signal.h>
#include <sys/resource.h>

#include <thread>
#include <utility>

#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/session/attach_server.h"
#include "daemon/session/listener.h"
#include "daemon/session/plan_loop.h"
#include "daemon/session/waker.h"
#include "protocol/version.h"

using namespace ultraep;

namespace {

// A group of 256 ranks passes some 500 descriptors to each of them.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit)) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  const DaemonOptions options = ParseOptions(argc, argv);
  SetLogLevel(options.log_level);
  RaiseDescriptorLimit();
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
  AttachServer server(options, listener.Take(), &planner);
  std::jthread waker_thread([&] { waker.Run(); });
  std::jthread planner_thread([&] { planner.Run(); });
  std::jthread session_thread([&] { server.Run(); });
  LogInfo("ultraepd %s serves %s on host memory", kBuildVersion, options.socket);

  int signal = 0;
  sigwait(&stop_signals, &signal);
  LogInfo("stopping: %s", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  server.Stop();
  session_thread.join();
  planner.Stop();
  planner_thread.join();
  waker.Stop();
  return 0;
}
