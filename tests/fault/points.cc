// SIGKILL exactly at every named test point, in the role that passes it.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "protocol/transport/waiting.h"
#include "tests/fault/phases.h"

namespace ultraep::test {
namespace {

constexpr uint64_t kMs = 1'000'000;
// How long a healthy group may run without passing the point, and how often something else is
// killed to bring it about: some points are passed only when a member or the daemon goes.
constexpr uint64_t kPatienceNs = 50 * kMs;
constexpr int kProvocations = 60;

struct Point {
  const char* name;
  bool rank, daemon;  // who passes it
};

constexpr Point kPoints[] = {
    {"gate:before", true, true},      {"gate:moved", true, true},
    {"pulse:before", true, true},     {"pulse:raised", true, true},
    {"sleep:before", true, false},    {"sleep:flag", true, false},
    {"verdict:before", true, true},   {"verdict:set", true, true},
    {"row:before", true, false},      {"row:header", true, false},
    {"row:data", true, false},        {"row:stamp", true, false},
    {"accepts:before", true, false},  {"accepts:set", true, false},
    {"chunk:before", true, false},    {"chunk:data", true, false},
    {"chunk:flag", true, false},      {"record:before", false, true},
    {"record:header", false, true},   {"record:replicas", false, true},
    {"record:whole", false, true},    {"collected:before", false, true},
    {"collected:set", false, true},   {"member:before", false, true},
    {"member:set", false, true},      {"heartbeat:before", true, true},
    {"heartbeat:set", true, true},    {"doze:before", false, true},
    {"doze:flag", false, true},       {"arrivals:before", true, false},
    {"arrivals:raised", true, false}, {"gradient:zero", true, false},
    {"ready:before", true, false},    {"ready:set", true, false},
    {"gradient:before", true, false}, {"gradient:added", true, false},
    {"taken:before", true, false},    {"taken:set", true, false},
};

struct Job {
  std::string point;
  int64_t pass;
};

// Kills one rank after the other at its point, in one group.
class PointKiller {
 public:
  PointKiller(Fleet* fleet, uint32_t group, std::deque<Job>* jobs, Totals* totals)
      : fleet_(fleet), group_(group), jobs_(jobs), totals_(totals) {}

  // False when there is nothing left to do.
  bool Tick(uint64_t now) {
    if (armed_) return Watch(now);
    if (!fleet_->Well(group_)) return true;
    if (jobs_->empty()) return false;
    job_ = jobs_->front();
    jobs_->pop_front();
    fleet_->Disturb(group_, true);
    victim_ = uint32_t(fleet_->random().Below(ranks()));
    Replace(victim_, job_.point, job_.pass);
    armed_ = true;
    provoked_ = 0;
    since_ns_ = 0;
    return true;
  }

 private:
  uint32_t ranks() { return fleet_->groups()[group_].config.ranks; }

  void Replace(uint32_t rank, const std::string& point, int64_t pass) {
    fleet_->KillRank(group_, rank);
    ++totals_->rank_kills;
    fleet_->StartRank(group_, rank, point, pass);
    fleet_->Expect(group_);
  }

  bool Watch(uint64_t now) {
    const bool hit = !fleet_->rank_alive(group_, victim_);
    if (hit) ++totals_->points["rank " + job_.point];
    if (hit || provoked_ == kProvocations) {
      Replace(victim_, "", 0);
      armed_ = false;
      return true;
    }
    // Not Well(): whatever the victim's end will do to the others has a reason.
    if (!fleet_->PlansAgain(group_)) return true;
    if (!since_ns_) since_ns_ = now;
    if (now - since_ns_ < kPatienceNs) return true;
    since_ns_ = 0;
    ++provoked_;
    Replace((victim_ + 1 + uint32_t(fleet_->random().Below(ranks() - 1))) % ranks(), "", 0);
    return true;
  }

  Fleet* const fleet_;
  const uint32_t group_;
  std::deque<Job>* const jobs_;
  Totals* const totals_;
  Job job_;
  uint32_t victim_ = 0;
  bool armed_ = false;
  int provoked_ = 0;
  uint64_t since_ns_ = 0;
};

void ReplaceRandomRank(Fleet* fleet, uint32_t group, Totals* totals) {
  const uint32_t rank = uint32_t(fleet->random().Below(fleet->groups()[group].config.ranks));
  fleet->Disturb(group, true);
  fleet->KillRank(group, rank);
  ++totals->rank_kills;
  fleet->StartRank(group, rank);
  fleet->Expect(group);
}

bool KillDaemonAt(Fleet* fleet, const Job& job, Totals* totals) {
  const uint32_t groups = uint32_t(fleet->groups().size());
  // FAILED has no reason unless a rank dies as well.
  for (uint32_t g = 0; g < groups; ++g) fleet->Disturb(g, false);
  fleet->KillDaemon();
  fleet->StartDaemon(job.point + ":" + std::to_string(job.pass));
  for (uint32_t g = 0; g < groups; ++g) fleet->Expect(g);
  uint64_t since = 0;
  for (int provoked = 0; fleet->daemon_alive() && provoked < kProvocations;) {
    if (!fleet->Tick()) return false;
    usleep(500);
    bool again = true;
    for (uint32_t g = 0; g < groups; ++g) again &= fleet->PlansAgain(g);
    if (!again) continue;
    const uint64_t now = NowNs();
    if (!since) since = now;
    if (now - since < kPatienceNs) continue;
    since = 0;
    ++provoked;
    for (uint32_t g = 0; g < groups; ++g) ReplaceRandomRank(fleet, g, totals);
  }
  totals->points["daemon " + job.point] += !fleet->daemon_alive();
  fleet->KillDaemon();
  ++totals->restarts;
  for (uint32_t g = 0; g < groups; ++g) fleet->Expect(g);
  fleet->StartDaemon("");
  while (fleet->Tick()) {
    if (fleet->AllWell()) return true;
    usleep(500);
  }
  return false;
}

}  // namespace

bool RunPoints(Fleet* fleet, const std::vector<int64_t>& passes, Totals* totals) {
  std::deque<Job> jobs;
  std::vector<Job> daemon_jobs;
  for (const Point& p : kPoints)
    for (const int64_t pass : passes) {
      const int64_t exact = pass ? pass : 1 + int64_t(fleet->random().Below(60));
      if (p.rank) jobs.push_back({p.name, exact});
      if (p.daemon) daemon_jobs.push_back({p.name, exact});
    }
  std::vector<PointKiller> killers;
  for (uint32_t g = 0; g < fleet->groups().size(); ++g)
    killers.emplace_back(fleet, g, &jobs, totals);
  for (bool busy = true; busy;) {
    if (!fleet->Tick()) return false;
    busy = false;
    for (PointKiller& k : killers) busy |= k.Tick(NowNs());
    usleep(500);
  }
  std::fprintf(stderr, "kill_loop: ranks were killed at %zu points\n", totals->points.size());
  for (const Job& job : daemon_jobs)
    if (!KillDaemonAt(fleet, job, totals)) return false;
  std::fprintf(stderr, "kill_loop: with the daemon, at %zu points\n", totals->points.size());
  return true;
}

std::string PointsDiffer(const std::string& source) {
  std::set<std::string> there, here;
  for (const Point& p : kPoints) here.insert(p.name);
  const std::regex pattern("ULTRAEP_POINT\\(\"([^\"]+)\"\\)");
  for (const char* folder : {"protocol", "kernels", "plugin", "daemon"})
    for (const auto& file : std::filesystem::recursive_directory_iterator(source + "/" + folder)) {
      if (!file.is_regular_file()) continue;
      std::ifstream in(file.path());
      const std::string text{std::istreambuf_iterator<char>(in), {}};
      for (std::sregex_iterator m(text.begin(), text.end(), pattern), end; m != end; ++m)
        there.insert((*m)[1]);
    }
  std::string differ;
  for (const std::string& name : there)
    if (!here.count(name)) differ += " unknown here: " + name;
  for (const std::string& name : here)
    if (!there.count(name)) differ += " not in the source: " + name;
  return differ;
}

std::string PointsMissed(const Totals& totals) {
  std::string missed;
  for (const Point& p : kPoints)
    for (const char* role : {"rank", "daemon"}) {
      const std::string key = std::string(role) + " " + p.name;
      if ((role[0] == 'r' ? p.rank : p.daemon) && !totals.points.count(key)) missed += " " + key;
    }
  return missed;
}

}  // namespace ultraep::test
