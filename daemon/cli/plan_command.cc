// `ultraepctl plan`: plans for recorded loads, offline and without a daemon.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/load_file.h"
#include "daemon/cli/plan_flags.h"
#include "daemon/cli/progress.h"
#include "daemon/planner/solve_plan.h"
#include "nlohmann/json.hpp"
#include "protocol/check_plan.h"
#include "protocol/split.h"

namespace ultraep {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Solved {
  Plan plan;
  double seconds = 0;
};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// An illegal plan is our bug; nothing of it may be printed.
void Recheck(const PlanShape& shape, const PlanOptions& options, LoadView load, const Plan& plan,
             uint64_t matrix) {
  auto abort_with = [matrix](const std::string& text) {
    std::fprintf(stderr,
                 "ultraepctl: bug: the plan of matrix %llu is wrong: %s; please report it with the "
                 "load file\n",
                 static_cast<unsigned long long>(matrix), text.c_str());
    std::abort();
  };
  PlanChecker checker;
  if (const PlanFault fault = checker.Check(
          shape, plan.replicas, [load](uint32_t expert) { return ExpertTokens(load, expert); }))
    abort_with(fault.text());
  std::vector<uint64_t> rank_tokens(shape.ranks);
  for (uint32_t e = 0; e < shape.experts; ++e) rank_tokens[shape.home(e)] += ExpertTokens(load, e);
  for (const Replica& r : plan.replicas) {
    rank_tokens[shape.home(r.expert)] -= r.tokens;
    rank_tokens[r.rank] += r.tokens;
  }
  uint64_t peak = 0;  // in tokens of the fastest rank
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    const uint64_t speed = options.speeds.empty() ? kFullSpeed : options.speeds[r];
    peak = std::max(peak, (rank_tokens[r] * kFullSpeed + speed - 1) / speed);
  }
  if (peak != plan.certificate.peak)
    abort_with(
        absl::StrFormat("the peak is %d, the certificate says %d", peak, plan.certificate.peak));
}

// Nonzero [source, expert, rank, tokens] of one expert, appended to `cells`.
void AddSplit(const PlanShape& shape, LoadView load, const Plan& plan, uint32_t expert,
              Json* cells) {
  std::vector<uint32_t> column(shape.ranks);
  for (uint32_t r = 0; r < shape.ranks; ++r) column[r] = load.at(r, expert);
  std::vector<SplitInstance> instances(1);
  instances[0].rank = shape.home(expert);
  instances[0].quota = ExpertTokens(load, expert);
  for (const Replica& r : plan.replicas) {
    if (r.expert != expert) continue;
    SplitInstance instance;
    instance.rank = r.rank;
    instance.quota = r.tokens;
    instances[0].quota -= r.tokens;
    instances.push_back(instance);
  }
  const auto count = uint32_t(instances.size());
  const uint64_t pool = BuildSplit(column.data(), instances.data(), count);
  uint64_t before = 0;
  for (uint32_t source = 0; source < shape.ranks; ++source) {
    const SourceSplit split =
        SplitForSource(column.data(), source, before, instances.data(), count, pool);
    before += column[source];
    for (uint32_t j = 0; j < count; ++j)
      if (const uint64_t tokens = TokensToInstance(split, j, instances.data()))
        cells->push_back({source, expert, instances[j].rank, tokens});
  }
}

Json ToJson(const PlanShape& shape, LoadView load, const Solved& solved, bool with_split) {
  const Certificate& c = solved.plan.certificate;
  Json replicas = Json::array(), transfers = Json::array();
  for (uint32_t i = 0; i < solved.plan.replicas.size(); ++i) {
    const Replica& r = solved.plan.replicas[i];
    replicas.push_back(
        {{"expert", r.expert}, {"rank", r.rank}, {"slot", r.slot}, {"tokens", r.tokens}});
    transfers.push_back({{"expert", r.expert},
                         {"from_rank", SenderOf(shape, solved.plan.replicas.data(), i)},
                         {"to_rank", r.rank},
                         {"slot", r.slot},
                         {"parent", r.parent}});
  }
  Json out = {{"ranks", shape.ranks},
              {"experts", shape.experts},
              {"slots", shape.slots},
              {"domain_size", shape.domain_size},
              {"imbalance_before", Imbalance(c.peak_before, c.total, shape.ranks)},
              {"imbalance_after", Imbalance(c.peak, c.total, shape.ranks)},
              {"imbalance_floor", Imbalance(c.lower_bound, c.total, shape.ranks)},
              {"peak", c.peak},
              {"lower_bound", c.lower_bound},
              {"gap", c.gap()},
              {"replicas", std::move(replicas)},
              {"transfers", std::move(transfers)}};
  if (with_split) {
    Json cells = Json::array();
    for (uint32_t e = 0; e < shape.experts; ++e) AddSplit(shape, load, solved.plan, e, &cells);
    out["split"] = std::move(cells);
  }
  out["solve_seconds"] = solved.seconds;
  return out;
}

void PrintTable(const PlanShape& shape, const std::vector<Solved>& plans) {
  std::printf("%u ranks, %u experts, %u slots per rank\n\n", shape.ranks, shape.experts,
              shape.slots);
  std::printf("%6s  %6s  %6s  %12s  %12s  %7s  %8s  %9s\n", "matrix", "before", "after", "peak",
              "bound", "gap", "replicas", "solve us");
  for (size_t i = 0; i < plans.size(); ++i) {
    const Certificate& c = plans[i].plan.certificate;
    std::printf("%6zu  %6.3f  %6.3f  %12llu  %12llu  %6.2f%%  %8zu  %9.1f\n", i,
                Imbalance(c.peak_before, c.total, shape.ranks),
                Imbalance(c.peak, c.total, shape.ranks), static_cast<unsigned long long>(c.peak),
                static_cast<unsigned long long>(c.lower_bound), 100 * c.gap(),
                plans[i].plan.replicas.size(), 1e6 * plans[i].seconds);
  }
  std::printf("\n%6s  %6s  %4s  %4s  %4s  %12s\n", "matrix", "expert", "from", "rank", "slot",
              "tokens");
  for (size_t i = 0; i < plans.size(); ++i)
    for (uint32_t k = 0; k < plans[i].plan.replicas.size(); ++k) {
      const Replica& r = plans[i].plan.replicas[k];
      std::printf("%6zu  %6u  %4u  %4u  %4u  %12llu\n", i, r.expert,
                  SenderOf(shape, plans[i].plan.replicas.data(), k), r.rank, r.slot,
                  static_cast<unsigned long long>(r.tokens));
    }
}

int Fail(int status, const std::string& text) {
  std::fprintf(stderr, "ultraepctl plan: %s\n", text.c_str());
  return status;
}

int RunPlan(const std::vector<std::string>& positional) {
  if (positional.size() != 1)
    return Fail(kExitUsage, absl::StrFormat("%d files given, needed is one: ultraepctl plan "
                                            "LOADS.npy --slots S; see --help",
                                            positional.size()));
  if (absl::GetFlag(FLAGS_split) && !absl::GetFlag(FLAGS_json))
    return Fail(kExitUsage, "--split goes with --json; see --help");
  PlanShape shape;
  PlanOptions options;
  LoadFile loads;
  if (absl::GetFlag(FLAGS_slots) == kSlotsNotGiven)  // before a large file is read
    return Fail(kExitFailed, TakePlanFlags(&shape, &options));
  if (const std::string wrong = ReadLoadFile(positional[0], &loads); !wrong.empty())
    return Fail(kExitFailed, wrong);
  shape.ranks = loads.ranks;
  shape.experts = loads.experts;
  if (const std::string wrong = TakePlanFlags(&shape, &options); !wrong.empty())
    return Fail(kExitFailed, wrong);
  if (const std::string wrong = CheckShape(shape); !wrong.empty())
    return Fail(kExitFailed, positional[0] + ": " + wrong);

  std::vector<Solved> plans(loads.matrices);
  {
    PlanWorkspace workspace;
    Progress progress("planned", loads.matrices);
    for (uint64_t i = 0; i < loads.matrices; ++i) {
      const Clock::time_point start = Clock::now();
      SolvePlan(shape, loads.view(i), options, &workspace, &plans[i].plan);
      plans[i].seconds = Since(start);
      Recheck(shape, options, loads.view(i), plans[i].plan, i);
      progress.Done(i + 1);
    }
  }
  if (!absl::GetFlag(FLAGS_json)) {
    PrintTable(shape, plans);
  } else {
    Json out = {{"plans", Json::array()}};
    for (uint64_t i = 0; i < loads.matrices; ++i)
      out["plans"].push_back(ToJson(shape, loads.view(i), plans[i], absl::GetFlag(FLAGS_split)));
    std::printf("%s\n", out.dump().c_str());
  }
  return kExitOk;
}

}  // namespace

const Command kPlanCommand = {
    "plan", "plan replicas for recorded loads, without a daemon",
    "json split slots epsilon domain_size tile_tokens relay_hop cost_token_ns cost_expert_us "
    "cost_instance_us speeds without_slots",
    "usage: ultraepctl plan LOADS.npy --slots S [flags] [--json [--split]]\n"
    "\n"
    "Plans every load matrix of the file as the daemon would and prints the balance before and\n"
    "after, the proven lower bound of the peak and the gap to it, and the replicas.\n"
    "\n"
    "LOADS.npy   uint32, int32 or int64 array [ranks, experts] or [matrices, ranks, experts]:\n"
    "            tokens each source rank routes to each logical expert\n"
    "--slots S   redundant slots per rank, 0..32\n"
    "--epsilon X allowed distance of the peak from the lower bound, 0..1 (default 0.005);\n"
    "            0 is the exact mode: ranks differ by one token at most where the slots allow it\n"
    "--domain-size D      ranks per scale-up domain, a divisor of the ranks; replicas stay in\n"
    "            their home's domain; 0: all ranks are one domain (default)\n"
    "--tile-tokens T      quotas are multiples of T where the peak allows it; 0: off (default)\n"
    "--relay-hop H        what forwarding through one relay adds, in 1/1024 of an expert's "
    "transfer\n"
    "            (default 46: 37.75 MB experts, 710 GB/s, 2 us flags); shapes who sends to whom\n"
    "--cost-token-ns X --cost-expert-us X --cost-instance-us X\n"
    "            what a token on a rank, an expert's weights on a link, and one more active "
    "expert\n"
    "            on a rank cost: balance only as far as it pays (default 0: always to epsilon)\n"
    "--speeds A,B,...     relative speed of every rank; peak and bound then count tokens of the\n"
    "            fastest rank\n"
    "--without-slots R,.. ranks that cannot take replicas\n"
    "--json      one line of JSON instead of a table\n"
    "--split     with --json: the tokens of every (source, expert, rank)\n"
    "\n"
    "Exit status: 0 done, 1 bad input, 2 the command line is not understood.\n",
    RunPlan};

}  // namespace ultraep
