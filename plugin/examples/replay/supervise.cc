#include "plugin/examples/replay/supervise.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "plugin/examples/replay/rank_process.h"
#include "protocol/transport/waiting.h"

namespace ultraep::replay {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kTerminalPeriodNs = kSecond / 5;
constexpr uint64_t kMeetingPeriodNs = 5'000'000;  // who comes to a meeting wakes nobody
constexpr uint64_t kLogPeriodNs = 5 * kSecond;
constexpr uint64_t kGraceNs = 10 * kSecond;  // beyond step_timeout, then SIGKILL

class Supervisor {
 public:
  Supervisor(const Options& options, SharedState* shared,
             const std::function<int(uint32_t rank)>& rank_main)
      : options_(options),
        shared_(shared),
        meeting_(&shared->control()->meeting),
        rank_main_(rank_main),
        step_timeout_ns_(options.step_timeout_s * kSecond),
        terminal_(isatty(STDERR_FILENO)),
        children_(options.shape.ranks) {
    sigemptyset(&signals_);
    for (const int s : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&signals_, s);
    sigprocmask(SIG_BLOCK, &signals_, &old_signals_);
  }
  ~Supervisor() { sigprocmask(SIG_SETMASK, &old_signals_, nullptr); }

  RunOutcome Run() {
    for (uint32_t r = 0; r < options_.shape.ranks && !aborted_ns_; ++r) Start(r);
    next_progress_ns_ = NowNs() + (terminal_ ? 0 : kLogPeriodNs);
    const timespec tick = {0, long(options_.respawn ? kMeetingPeriodNs : kTerminalPeriodNs)};
    while (alive_) {
      const int signal = sigtimedwait(&signals_, nullptr, &tick);
      if (signal == SIGINT || signal == SIGTERM) Interrupt();
      Reap();
      HoldMeeting();
      ShowProgress();
      if (aborted_ns_ && NowNs() - aborted_ns_ > step_timeout_ns_ + kGraceNs) KillAll();
    }
    CountSteps(outcome_.failed);
    if (terminal_) std::fprintf(stderr, "\r\033[K");
    return outcome_;
  }

 private:
  void Start(uint32_t rank) {
    std::fflush(nullptr);
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0) {
      BecomeRank(parent);
      const int status = rank_main_(rank);
      std::fflush(nullptr);
      _exit(status);
    }
    if (child < 0)
      return GiveUp("rank " + std::to_string(rank) + " cannot be started: " + std::strerror(errno));
    children_[rank] = child;
    ++alive_;
  }

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
    if (!aborted_ns_) aborted_ns_ = NowNs();
    meeting_->End();
  }

  void GiveUp(const std::string& error) {
    outcome_.error = error;
    outcome_.broken = true;
    Abort();
  }

  void Reap() {
    for (uint32_t r = 0; r < children_.size(); ++r) {
      int status = 0;
      if (children_[r] == 0 || waitpid(children_[r], &status, WNOHANG) != children_[r]) continue;
      children_[r] = 0;
      --alive_;
      outcome_.last_stop_ns = NowNs();
      if (WIFSIGNALED(status) && options_.respawn && !aborted_ns_) {
        Respawn(r);
        continue;
      }
      meeting_->Excuse(r);
      const int exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      if (exit == kRankDone || exit == kRankStopped) continue;
      outcome_.broken |= exit == kRankBroken;
      outcome_.failed |= exit == kRankFailed;
      const bool died = exit != kRankBroken && exit != kRankFailed;
      // Those that were killed below are not the cause.
      if (died && outcome_.dead_rank < 0 && !killed_) {
        const uint64_t begun = shared_->rank(r)->begun.get();
        outcome_.dead_rank = static_cast<int>(r);
        outcome_.dead_wait_status = status;
        outcome_.dead_sequence = begun ? begun - 1 : 0;
        outcome_.dead_ns = outcome_.last_stop_ns;
      }
      Abort();
    }
  }

  // The new process goes to the meeting, as everybody else does.
  void Respawn(uint32_t rank) {
    died_ = true;
    meeting_->ForgetDead(rank);
    meeting_->Interrupt(meeting_->epoch.count.load());
    shared_->run()->respawned.Add(1);
    Start(rank);
  }

  // While the run is interrupted: lets it go on once all ranks have come.
  void HoldMeeting() {
    if (!Meeting::Interrupted(meeting_->epoch.count.load())) return;
    const uint64_t now = NowNs();
    if (!meeting_ns_) meeting_ns_ = now;
    std::string missing;
    for (uint32_t r = 0; r < children_.size(); ++r) {
      if (meeting_->IsMissing(r)) missing += " " + std::to_string(r);
    }
    if (!missing.empty()) {
      const uint64_t patience = 2 * step_timeout_ns_ + options_.join_timeout_s * kSecond;
      if (now - meeting_ns_ > patience)
        GiveUp("the run was interrupted and cannot go on: after " +
               std::to_string(patience / kSecond) + " s these ranks are missing:" + missing);
      return;
    }
    CountSteps(!died_);
    died_ = false;
    meeting_ns_ = 0;
    meeting_->Open(shared_->run()->totals().steps + shared_->run()->lost.get());
  }

  // While no rank is inside a step: each one that any rank has begun is finished or lost.
  void CountSteps(bool failed) {
    RecordStep(shared_);
    RunRecord* run = shared_->run();
    uint64_t begun = 0;
    for (uint32_t r = 0; r < children_.size(); ++r)
      begun = std::max(begun, shared_->rank(r)->begun.get());
    const uint64_t lost = begun - run->totals().steps - run->lost.get();
    run->lost.Add(lost);
    if (failed) run->failed.Add(lost);
  }

  void KillAll() {
    killed_ = true;
    for (const pid_t child : children_) {
      if (child) kill(child, SIGKILL);
    }
  }

  void ShowProgress() {
    const uint64_t now = NowNs();
    if (now < next_progress_ns_) return;
    next_progress_ns_ = now + (terminal_ ? kTerminalPeriodNs : kLogPeriodNs);
    const RunRecord* run = shared_->run();
    const Totals totals = run->totals();
    uint64_t mismatches = 0;
    for (uint32_t r = 0; r < children_.size(); ++r)
      mismatches += shared_->rank(r)->mismatches.get();
    const std::string of = options_.forever ? "" : " of " + std::to_string(options_.end_sequence());
    const std::string lost = options_.respawn ? ", lost " + std::to_string(run->lost.get()) : "";
    std::fprintf(stderr,
                 "%sstep %llu%s: planned %llu, fallback %llu, declined %llu%s, mismatches %llu%s",
                 terminal_ ? "\r\033[K" : "", (unsigned long long)totals.steps, of.c_str(),
                 (unsigned long long)totals.planned, (unsigned long long)totals.fallbacks,
                 (unsigned long long)totals.declined, lost.c_str(), (unsigned long long)mismatches,
                 terminal_ ? "" : "\n");
  }

  const Options& options_;
  SharedState* const shared_;
  Meeting* const meeting_;
  const std::function<int(uint32_t rank)>& rank_main_;
  const uint64_t step_timeout_ns_;
  const bool terminal_;
  sigset_t signals_, old_signals_;
  std::vector<pid_t> children_;  // 0 once reaped
  uint32_t alive_ = 0;
  uint64_t next_progress_ns_ = 0;
  uint64_t aborted_ns_ = 0;
  uint64_t meeting_ns_ = 0;  // since when the run is interrupted, 0: it is not
  bool died_ = false;        // a rank was killed since the last meeting
  bool killed_ = false;
  RunOutcome outcome_;
};

}  // namespace

RunOutcome RunRanks(const Options& options, SharedState* shared,
                    const std::function<int(uint32_t rank)>& rank_main) {
  return Supervisor(options, shared, rank_main).Run();
}

}  // namespace ultraep::replay
