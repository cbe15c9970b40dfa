#include "plugin/examples/replay/supervise.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "plugin/examples/replay/rank_process.h"

namespace ultraep::replay {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kTerminalPeriodNs = kSecond / 5;
constexpr uint64_t kLogPeriodNs = 5 * kSecond;
constexpr uint64_t kGraceNs = 10 * kSecond;  // beyond step_timeout, then SIGKILL

class Supervisor {
 public:
  Supervisor(SharedState* shared, uint64_t total_steps, uint32_t step_timeout_s)
      : shared_(shared),
        total_steps_(total_steps),
        step_timeout_ns_(step_timeout_s * kSecond),
        terminal_(isatty(STDERR_FILENO)) {
    sigemptyset(&signals_);
    for (const int s : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&signals_, s);
    sigprocmask(SIG_BLOCK, &signals_, &old_signals_);
  }
  ~Supervisor() { sigprocmask(SIG_SETMASK, &old_signals_, nullptr); }

  void Start(const std::function<int(uint32_t rank)>& rank_main) {
    std::fflush(nullptr);
    const pid_t parent = getpid();
    for (uint32_t r = 0; r < shared_->sizes().shape.ranks; ++r) {
      const pid_t child = fork();
      if (child == 0) {
        BecomeRank(parent);
        const int status = rank_main(r);
        std::fflush(nullptr);
        _exit(status);
      }
      if (child < 0) {
        outcome_.start_error =
            "rank " + std::to_string(r) + " cannot be started: " + std::strerror(errno);
        outcome_.broken = true;
        Abort();
        return;
      }
      children_.push_back(child);
      ++alive_;
    }
  }

  RunOutcome Wait() {
    next_progress_ns_ = MonotonicNs() + (terminal_ ? 0 : kLogPeriodNs);
    const timespec tick = {0, long(kTerminalPeriodNs)};
    while (alive_) {
      const int signal = sigtimedwait(&signals_, nullptr, &tick);
      if (signal == SIGINT || signal == SIGTERM) Interrupt();
      Reap();
      ShowProgress();
      if (aborted_ns_ && MonotonicNs() - aborted_ns_ > step_timeout_ns_ + kGraceNs) KillAll();
    }
    if (terminal_) std::fprintf(stderr, "\r\033[K");
    return outcome_;
  }

 private:
  // A terminal and some tools send SIGINT and SIGTERM to the whole process group: it is the parent
  // that says when to stop.
  void BecomeRank(pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(kRankStopped);  // died before the line above
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    sigprocmask(SIG_SETMASK, &old_signals_, nullptr);
  }

  void Interrupt() {
    if (outcome_.interrupted) return Abort();
    outcome_.interrupted = true;
    shared_->control()->stop.count.store(1, std::memory_order_relaxed);
  }

  void Abort() {
    if (!aborted_ns_) aborted_ns_ = MonotonicNs();
    shared_->control()->abort.count.store(1, std::memory_order_release);
    shared_->control()->barrier.WakeAll();
  }

  void Reap() {
    for (uint32_t r = 0; r < children_.size(); ++r) {
      int status = 0;
      if (children_[r] == 0 || waitpid(children_[r], &status, WNOHANG) != children_[r]) continue;
      children_[r] = 0;
      --alive_;
      outcome_.last_stop_ns = MonotonicNs();
      const int exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      if (exit == kRankDone || exit == kRankStopped) continue;
      outcome_.broken |= exit == kRankBroken;
      outcome_.failed |= exit == kRankFailed;
      const bool died = exit != kRankBroken && exit != kRankFailed;
      // Those that were killed below are not the cause.
      if (died && outcome_.dead_rank < 0 && !killed_) {
        outcome_.dead_rank = static_cast<int>(r);
        outcome_.dead_wait_status = status;
        outcome_.dead_sequence = shared_->rank(r)->sequence.get();
        outcome_.dead_ns = outcome_.last_stop_ns;
      }
      Abort();
    }
  }

  void KillAll() {
    killed_ = true;
    for (const pid_t child : children_) {
      if (child) kill(child, SIGKILL);
    }
  }

  void ShowProgress() {
    const uint64_t now = MonotonicNs();
    if (now < next_progress_ns_) return;
    next_progress_ns_ = now + (terminal_ ? kTerminalPeriodNs : kLogPeriodNs);
    const RunRecord* run = shared_->run();
    uint64_t mismatches = 0;
    for (uint32_t r = 0; r < shared_->sizes().shape.ranks; ++r)
      mismatches += shared_->rank(r)->mismatches.get();
    const std::string of = total_steps_ ? " of " + std::to_string(total_steps_) : "";
    std::fprintf(stderr,
                 "%sstep %llu%s: planned %llu, fallback %llu, declined %llu, mismatches %llu%s",
                 terminal_ ? "\r\033[K" : "", (unsigned long long)run->steps.get(), of.c_str(),
                 (unsigned long long)run->planned.get(), (unsigned long long)run->fallbacks.get(),
                 (unsigned long long)run->declined.get(), (unsigned long long)mismatches,
                 terminal_ ? "" : "\n");
  }

  SharedState* const shared_;
  const uint64_t total_steps_;
  const uint64_t step_timeout_ns_;
  const bool terminal_;
  sigset_t signals_, old_signals_;
  std::vector<pid_t> children_;  // 0 once reaped
  uint32_t alive_ = 0;
  uint64_t next_progress_ns_ = 0;
  uint64_t aborted_ns_ = 0;
  bool killed_ = false;
  RunOutcome outcome_;
};

}  // namespace

RunOutcome RunRanks(SharedState* shared, uint64_t total_steps, uint32_t step_timeout_s,
                    const std::function<int(uint32_t rank)>& rank_main) {
  Supervisor supervisor(shared, total_steps, step_timeout_s);
  supervisor.Start(rank_main);
  return supervisor.Wait();
}

}  // namespace ultraep::replay
