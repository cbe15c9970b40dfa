// SIGKILL and SIGSTOP at random instants.
#include <unistd.h>

#include <cstdio>

#include "protocol/transport/waiting.h"
#include "tests/fault/phases.h"

namespace ultraep::test {
namespace {

constexpr uint64_t kMs = 1'000'000;

// Something that happens once everything is well, or in the middle of a recovery.
struct Clock {
  uint64_t due_ns = 0;  // 0: not set
  uint64_t began_ns = 0;
  bool recovering = true, measured = true;

  bool due(uint64_t now) const { return due_ns && now >= due_ns; }
};

// One group's ranks die, one or two at once, and come back.
class RankKiller {
 public:
  RankKiller(Fleet* fleet, uint32_t group, Totals* totals)
      : fleet_(fleet), group_(group), totals_(totals) {}

  void Tick(uint64_t now) {
    Restart(now);
    if (!restart_.empty()) return;
    if (clock_.recovering && fleet_->Well(group_)) {
      clock_.recovering = false;
      if (clock_.began_ns && clock_.measured)
        totals_->recovery_ms.push_back(double(now - clock_.began_ns) / 1e6);
      clock_.due_ns = now + (random().Below(4) ? random().Below(4 * kMs) : 0);
    }
    if (clock_.due(now)) Kill(now);
  }

 private:
  struct Restarted {
    uint32_t rank;
    uint64_t due_ns;
  };

  Random& random() { return fleet_->random(); }

  void Kill(uint64_t now) {
    const uint32_t ranks = fleet_->groups()[group_].config.ranks;
    const uint32_t victims = random().Below(6) ? 1 : 2;
    const uint32_t first = uint32_t(random().Below(ranks));
    fleet_->Disturb(group_, true);
    if (random().Below(2)) fleet_->PauseSomeRank(group_);
    for (uint32_t i = 0; i < victims; ++i) {
      const uint32_t rank = (first + i * (1 + uint32_t(random().Below(ranks - 1)))) % ranks;
      if (!fleet_->rank_alive(group_, rank)) continue;
      fleet_->KillRank(group_, rank);
      ++totals_->rank_kills;
      restart_.push_back({rank, now + (random().Below(2) ? random().Below(5 * kMs) : 0)});
    }
    clock_ = {};
  }

  void Restart(uint64_t now) {
    if (restart_.empty()) return;
    for (size_t i = restart_.size(); i-- > 0;) {
      if (now < restart_[i].due_ns) continue;
      fleet_->StartRank(group_, restart_[i].rank);
      restart_.erase(restart_.begin() + ptrdiff_t(i));
    }
    if (!restart_.empty()) return;
    // New ranks begin no earlier than at the target: they read the same word later.
    fleet_->Expect(group_);
    clock_.began_ns = now;
    clock_.recovering = true;
    // One in four dies before the group has recovered.
    clock_.due_ns = random().Below(4) ? 0 : now + random().Below(20 * kMs) + 1;
  }

  Fleet* const fleet_;
  const uint32_t group_;
  Totals* const totals_;
  Clock clock_;
  std::vector<Restarted> restart_;
};

class DaemonKiller {
 public:
  DaemonKiller(Fleet* fleet, Totals* totals) : fleet_(fleet), totals_(totals) {}

  void Tick(uint64_t now, bool alone) {
    if (!fleet_->daemon_alive()) {
      if (now < clock_.due_ns) return;
      fleet_->StartDaemon("");
      clock_ = {0, now, true, alone};
      for (uint32_t g = 0; g < fleet_->groups().size(); ++g) fleet_->Expect(g);
      // One in five dies again before all are back.
      if (random().Below(5) == 0) clock_.due_ns = now + random().Below(60 * kMs) + 1;
    }
    if (clock_.recovering && fleet_->AllWell()) {
      clock_.recovering = false;
      if (clock_.began_ns && clock_.measured)
        totals_->reattach_ms.push_back(double(now - clock_.began_ns) / 1e6);
      clock_.due_ns = now + random().Below(alone ? 8 * kMs : 300 * kMs) + 1;
    }
    if (!clock_.recovering && !clock_.due_ns) clock_.due_ns = now + random().Below(300 * kMs);
    // With ranks dying all the time, all are never well at once.
    if (!alone && clock_.recovering && !clock_.due_ns)
      clock_.due_ns = now + random().Below(300 * kMs);
    if (clock_.due(now)) Kill(now);
  }

 private:
  Random& random() { return fleet_->random(); }

  void Kill(uint64_t now) {
    for (uint32_t g = 0; g < fleet_->groups().size(); ++g) {
      fleet_->Disturb(g, false);
      if (random().Below(2)) fleet_->PauseSomeRank(g);
    }
    fleet_->KillDaemon();
    ++totals_->restarts;
    clock_.due_ns = now + random().Below(50 * kMs);
    clock_.recovering = true;
    // Nobody is well before the next daemon is there.
    for (uint32_t g = 0; g < fleet_->groups().size(); ++g) fleet_->Expect(g);
  }

  Fleet* const fleet_;
  Totals* const totals_;
  Clock clock_;
};

void Progress(const Totals& totals, uint64_t* last, uint64_t now) {
  if (now - *last < 5'000 * kMs) return;
  *last = now;
  std::fprintf(stderr, "kill_loop: %lu ranks killed, %lu daemons, %lu stops\n", totals.rank_kills,
               totals.restarts, totals.stops);
}

}  // namespace

bool RunKills(Fleet* fleet, const KillOrders& orders, Totals* totals) {
  std::vector<RankKiller> killers;
  for (uint32_t g = 0; g < fleet->groups().size(); ++g) killers.emplace_back(fleet, g, totals);
  DaemonKiller daemon(fleet, totals);
  const uint64_t last_rank = totals->rank_kills + orders.rank_kills;
  const uint64_t last_daemon = totals->restarts + orders.daemon_kills;
  uint64_t told = NowNs();
  while (fleet->Tick()) {
    const uint64_t now = NowNs();
    const bool ranks = totals->rank_kills < last_rank;
    const bool daemons = totals->restarts < last_daemon || !fleet->daemon_alive();
    if (!ranks && !daemons) return true;
    if (orders.rank_kills)
      for (RankKiller& k : killers) k.Tick(now);
    if (daemons) daemon.Tick(now, !orders.rank_kills);
    Progress(*totals, &told, now);
    usleep(500);
  }
  return false;
}

namespace {

bool TickUntil(Fleet* fleet, uint64_t until_ns) {
  while (NowNs() < until_ns) {
    if (!fleet->Tick()) return false;
    usleep(2000);
  }
  return true;
}

bool AwaitWell(Fleet* fleet) {
  while (fleet->Tick()) {
    if (fleet->AllWell()) return true;
    usleep(2000);
  }
  return false;
}

}  // namespace

// A rank or the daemon stands still for longer than the lease. The others go on without it.
bool RunStops(Fleet* fleet, uint64_t stops, uint32_t lease_ms, Totals* totals) {
  const uint32_t groups = uint32_t(fleet->groups().size());
  uint64_t told = NowNs();
  for (uint64_t i = 0; i < stops; ++i, ++totals->stops) {
    if (!AwaitWell(fleet)) return false;
    if (!TickUntil(fleet, NowNs() + fleet->random().Below(20 * kMs))) return false;
    const bool daemon = i % 4 == 3;
    std::vector<uint32_t> victim(groups);
    for (uint32_t g = 0; g < groups; ++g) {
      victim[g] = uint32_t(fleet->random().Below(fleet->groups()[g].config.ranks));
      fleet->Disturb(g, true);
      if (!daemon) fleet->StopRank(g, victim[g], true);
    }
    if (daemon) fleet->StopDaemon(true);
    const uint64_t noticed = NowNs() + (lease_ms * 2 + 500) * kMs;
    std::vector<uint64_t> before(groups);
    if (!TickUntil(fleet, noticed)) return false;
    for (uint32_t g = 0; g < groups; ++g) before[g] = fleet->state(g).called;
    if (!TickUntil(fleet, noticed + 300 * kMs + fleet->random().Below(300 * kMs))) return false;
    for (uint32_t g = 0; g < groups; ++g)
      if (fleet->state(g).called == before[g])
        Violation(fleet->shared(), "group %u: HANG: no step while %s stands still", g,
                  daemon ? "the daemon" : "a rank");
    if (daemon) fleet->StopDaemon(false);
    for (uint32_t g = 0; g < groups; ++g) {
      if (!daemon) fleet->StopRank(g, victim[g], false);
      fleet->Expect(g);
    }
    Progress(*totals, &told, NowNs());
  }
  return AwaitWell(fleet);
}

}  // namespace ultraep::test
