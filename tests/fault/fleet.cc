#include "tests/fault/fleet.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "protocol/transport/waiting.h"

namespace ultraep::test {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;
// A group plans again long before a step's own deadline, or something is lost.
constexpr uint64_t kRecoveryNs = kStepTimeoutNs;
// Of a rank that is merely without a CPU: far shorter than any lease.
constexpr uint64_t kLongestPauseNs = 10'000'000;
// A call's own deadline, and what a starved machine may add.
constexpr uint64_t kCallNs = kStepTimeoutNs + 5 * kSecondNs;

}  // namespace

Fleet::Fleet(SharedState* shared, std::string daemon, uint64_t seed, uint32_t lease_ms)
    : shared_(shared),
      daemon_path_(std::move(daemon)),
      seed_(seed),
      lease_ms_(lease_ms),
      random_(seed) {
  char name[] = "/tmp/ultraep-kill-XXXXXX";
  directory_ = mkdtemp(name);
  socket_ = directory_ + "/daemon.sock";
}

Fleet::~Fleet() {
  StopRanks();
  KillDaemon();
  const std::string command = "rm -rf '" + directory_ + "'";
  if (std::system(command.c_str())) std::perror("rm");
}

void Fleet::Start(const std::vector<LoopConfig>& configs, const std::string& phase) {
  StopRanks();
  phase_ = phase;
  groups_.assign(configs.size(), {});
  for (uint32_t g = 0; g < configs.size(); ++g) {
    groups_[g].config = configs[g];
    GroupState& s = state(g);  // counters go on over all phases
    for (auto& step : s.ring)
      for (Entry& e : step) e.submitted = e.first = e.outcome = e.held = 0;
    for (RankState& r : s.ranks) {
      r.call = kIdle;
      r.next = r.at = r.planned_next = 0;
    }
    s.called = 0;
  }
  if (!daemon_alive()) StartDaemon("");
  for (uint32_t g = 0; g < configs.size(); ++g) {
    Disturb(g, true);
    for (uint32_t r = 0; r < configs[g].ranks; ++r) StartRank(g, r);
    Expect(g);
  }
  const pid_t pid = fork();
  if (pid == 0) RunReader(shared_, uint32_t(configs.size()), kMostRanks);
  reader_ = {pid, false, false};
}

void Fleet::StopRanks() {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    Disturb(g, true);
    for (uint32_t r = 0; r < groups_[g].config.ranks; ++r) KillRank(g, r);
  }
  groups_.clear();
  if (!reader_.pid) return;
  kill(reader_.pid, SIGKILL);
  waitpid(reader_.pid, nullptr, 0);
  reader_ = {};
}

void Fleet::StartDaemon(const std::string& kill_at) {
  daemon_started_ns_ = NowNs();
  const std::string at = "--socket=" + socket_, lease = "--lease_ms=" + std::to_string(lease_ms_);
  const std::string latency = "--flag_latency_ns=" + std::to_string(kFlagLatencyNs);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int log = open((directory_ + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, 2);
    if (kill_at.empty())
      unsetenv("ULTRAEP_KILL_AT");
    else
      setenv("ULTRAEP_KILL_AT", kill_at.c_str(), 1);
    execl(daemon_path_.c_str(), "ultraepd", at.c_str(), lease.c_str(), latency.c_str(),
          "--log_level=error", "--metrics_listen=off", nullptr);
    _exit(127);
  }
  daemon_ = {pid, !kill_at.empty(), false};
}

void Fleet::KillDaemon() {
  if (!daemon_.pid) return;
  kill(daemon_.pid, SIGKILL);
  waitpid(daemon_.pid, nullptr, 0);
  daemon_ = {};
}

void Fleet::StopDaemon(bool stop) {
  daemon_.stopped = stop;
  kill(daemon_.pid, stop ? SIGSTOP : SIGCONT);
}

void Fleet::StartRank(uint32_t group, uint32_t rank, const std::string& point, int64_t pass) {
  RankTask task;
  task.shared = shared_;
  task.group = group;
  task.rank = rank;
  task.config = groups_[group].config;
  task.seed = seed_ + group;
  task.socket = socket_;
  task.group_name = phase_ + "-" + std::to_string(group);
  task.kill_at = point;
  task.kill_pass = pass;
  state(group).ranks[rank].call = kIdle;
  const pid_t pid = fork();
  if (pid == 0) RunRank(task);
  groups_[group].ranks[rank] = {pid, pass != 0, false};
}

void Fleet::KillRank(uint32_t group, uint32_t rank) {
  Child& child = groups_[group].ranks[rank];
  if (!child.pid) return;
  kill(child.pid, SIGKILL);
  int status = 0;
  waitpid(child.pid, &status, 0);
  if (!WIFSIGNALED(status)) Ended(&child, status, "a rank");
  child = {};
}

void Fleet::StopRank(uint32_t group, uint32_t rank, bool stop) {
  Child& child = groups_[group].ranks[rank];
  if (!child.pid) return;
  if (!stop) state(group).ranks[rank].since_ns = NowNs();
  child.stopped = stop;
  kill(child.pid, stop ? SIGSTOP : SIGCONT);
}

void Fleet::PauseSomeRank(uint32_t group) {
  const uint32_t rank = uint32_t(random_.Below(groups_[group].config.ranks));
  const pid_t pid = groups_[group].ranks[rank].pid;
  if (!pid) return;
  kill(pid, SIGSTOP);
  pauses_.push_back({group, rank, pid, NowNs() + random_.Below(kLongestPauseNs)});
}

void Fleet::Resume(uint64_t now) {
  for (size_t i = pauses_.size(); i-- > 0;) {
    const Pause& p = pauses_[i];
    if (now < p.until_ns) continue;
    if (p.group < groups_.size() && groups_[p.group].ranks[p.rank].pid == p.pid)
      kill(p.pid, SIGCONT);  // else it is dead and reaped
    pauses_.erase(pauses_.begin() + ptrdiff_t(i));
  }
}

void Fleet::Disturb(uint32_t group, bool loss) {
  state(group).any.Disturb();
  if (loss) state(group).loss.Disturb();
}

void Fleet::Expect(uint32_t group) {
  groups_[group].target = state(group).called.load();
  groups_[group].deadline_ns = NowNs() + kRecoveryNs;
}

bool Fleet::PlansAgain(uint32_t group) {
  FleetGroup& g = groups_[group];
  for (uint32_t r = 0; r < g.config.ranks; ++r)
    if (!g.ranks[r].pid || state(group).ranks[r].planned_next.load() <= g.target) return false;
  g.deadline_ns = 0;
  return true;
}

bool Fleet::Well(uint32_t group) {
  if (!PlansAgain(group)) return false;
  GroupState& s = state(group);
  if (s.any.active()) s.any.Settle();
  if (s.loss.active()) s.loss.Settle();
  return true;
}

bool Fleet::AllWell() {
  bool all = true;
  for (uint32_t g = 0; g < groups_.size(); ++g) all &= Well(g);
  return all;
}

bool Fleet::Tick() {
  Reap();
  const uint64_t now = NowNs();
  Resume(now);
  if (now - watched_ns_ > kSecondNs / 10) Watch(now);
  return shared_->violations.load() == 0;
}

void Fleet::Reap() {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid == daemon_.pid) Ended(&daemon_, status, "the daemon");
    if (pid == reader_.pid) Ended(&reader_, status, "the reader");
    for (uint32_t g = 0; g < groups_.size(); ++g)
      for (uint32_t r = 0; r < kMostRanks; ++r)
        if (groups_[g].ranks[r].pid == pid)
          Ended(&groups_[g].ranks[r], status,
                "rank " + std::to_string(r) + " of group " + std::to_string(g));
  }
}

void Fleet::Ended(Child* child, int status, const std::string& who) {
  const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  if (!child->doomed || !killed)
    Violation(shared_, "%s (pid %d) has ended by itself, wait status 0x%x", who.c_str(), child->pid,
              status);
  *child = {};
}

// No call outlives its deadline, and no group stays without plans.
void Fleet::Watch(uint64_t now) {
  // After a pause of this process itself nobody's deadline counts.
  const bool late = watched_ns_ && now - watched_ns_ > kSecondNs;
  watched_ns_ = now;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    FleetGroup& group = groups_[g];
    if (late && group.deadline_ns) group.deadline_ns = now + kRecoveryNs;
    for (uint32_t r = 0; r < group.config.ranks; ++r) {
      RankState& rank = state(g).ranks[r];
      if (!group.ranks[r].pid || group.ranks[r].stopped || rank.call == kIdle || late) continue;
      const uint64_t since = rank.since_ns.load();
      if (now > since + kCallNs)
        Violation(shared_, "group %u rank %u step %lu: HANG: in %s for %lu ms", g, r,
                  rank.at.load(), CallName(rank.call), (now - since) / 1'000'000);
    }
    if (group.deadline_ns && now > group.deadline_ns)
      Violation(shared_, "group %u: HANG: not planning again within %lu ms (steps from %lu on)", g,
                kRecoveryNs / 1'000'000, group.target);
  }
}

void Fleet::Describe() {
  const uint64_t now = NowNs();
  std::fprintf(stderr, "daemon pid %d%s\n", daemon_.pid, daemon_.pid ? "" : " (down)");
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    GroupState& s = state(g);
    std::fprintf(stderr, "group %u: called %lu, target %lu\n", g, s.called.load(),
                 groups_[g].target);
    for (uint32_t r = 0; r < groups_[g].config.ranks; ++r) {
      RankState& rank = s.ranks[r];
      const pid_t pid = groups_[g].ranks[r].pid;
      std::fprintf(stderr,
                   "  rank %u pid %d: at step %lu, next %lu, planned up to %lu, in %s for %lu ms\n",
                   r, pid, rank.at.load(), rank.next.load(), rank.planned_next.load(),
                   CallName(rank.call), (now - rank.since_ns.load()) / 1'000'000);
    }
  }
  for (uint32_t g = 0; g < groups_.size(); ++g)
    for (uint32_t r = 0; r < groups_[g].config.ranks; ++r) {
      const pid_t pid = groups_[g].ranks[r].pid;
      const RankState& rank = state(g).ranks[r];
      if (!pid || rank.call == kIdle || now - rank.since_ns.load() < 2 * kSecondNs) continue;
      const std::string command = "timeout 20 gdb -p " + std::to_string(pid) +
                                  " -batch -ex 'thread apply all bt 12' 2>/dev/null >&2";
      if (std::system(command.c_str())) std::fprintf(stderr, "(no backtrace of pid %d)\n", pid);
    }
  if (std::system(("tail -n 20 '" + directory_ + "/log' >&2").c_str())) return;
}

}  // namespace ultraep::test
