#include "tests/bench/gpu_measure.h"

#include <algorithm>
#include <memory>
#include <string>

#include "tests/bench/gpu_group.h"
#include "tests/support/random.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;

// The smaller of two draws: low experts, and so low ranks, are hot.
std::vector<int32_t> Ids(const Workload& w, uint32_t rank) {
  test::Random random(rank + 1);
  std::vector<int32_t> ids(uint64_t{w.batch.tokens_per_rank} * w.batch.top_k);
  for (int32_t& id : ids)
    id = int32_t(std::min(random.Below(w.shape.experts), random.Below(w.shape.experts)));
  return ids;
}

std::vector<uint8_t> MapOf(const std::vector<int32_t>& ids, const Workload& w) {
  std::vector<uint8_t> map(uint64_t{w.batch.tokens_per_rank} * w.shape.experts);
  for (size_t i = 0; i < ids.size(); ++i)
    map[i / w.batch.top_k * w.shape.experts + uint32_t(ids[i])] = 1;
  return map;
}

GpuGroupOptions GroupOf(const GpuPlace& place, const Workload& w) {
  GpuGroupOptions o;
  o.ranks = place.ranks;
  o.experts = w.shape.experts;
  o.slots = w.shape.slots;
  return o;
}

// How a batch is given: ids, or a dense map.
struct Batches {
  std::vector<void*> in, out;  // [rank]
  uint64_t tokens = 0;
  uint32_t top_k = 0;
  bool dense = false;

  void Submit(GpuRank& rank) const {
    const void* const from = in[rank.number];
    if (dense)
      Demand(ultraep_cuda_submit_map(rank.plan, 0, 0, static_cast<const uint8_t*>(from), tokens,
                                     rank.stream),
             "submit_map");
    else
      Demand(ultraep_cuda_submit_ids(rank.plan, 0, 0, static_cast<const int32_t*>(from),
                                     tokens * top_k, rank.stream),
             "submit_ids");
  }
  void Route(GpuRank& rank) const {
    const void* const from = in[rank.number];
    void* const to = out[rank.number];
    if (dense)
      Demand(ultraep_cuda_route_map(rank.plan, static_cast<const uint8_t*>(from),
                                    static_cast<uint8_t*>(to), nullptr, nullptr, 0, tokens,
                                    rank.stream),
             "route_map");
    else
      Demand(ultraep_cuda_route(rank.plan, static_cast<const int32_t*>(from), tokens, top_k,
                                static_cast<int32_t*>(to), rank.stream),
             "route");
  }
};

Batches MakeBatches(GpuGroup* group, const Workload& w, bool dense) {
  Batches all{{}, {}, w.batch.tokens_per_rank, w.batch.top_k, dense};
  const GroupConfig& c = group->config();
  for (uint32_t r = 0; r < group->size(); ++r) {
    GpuRank& rank = group->rank(r);
    const std::vector<int32_t> ids = Ids(w, r);
    if (dense) {
      const std::vector<uint8_t> map = MapOf(ids, w);
      all.in.push_back(rank.Copied(map.data(), map.size()));
      all.out.push_back(rank.Bytes(all.tokens * (c.experts + uint64_t{c.ranks} * c.slots)));
    } else {
      all.in.push_back(rank.Copied(ids.data(), ids.size() * sizeof ids[0]));
      all.out.push_back(rank.Bytes(ids.size() * sizeof ids[0]));
    }
  }
  return all;
}

// Rank 0's kernels while no other rank's run.
Json MeasureForm(const GpuPlace& place, const Workload& w, bool dense) {
  GpuGroup group(*place.backend, GroupOf(place, w));
  const Batches batches = MakeBatches(&group, w, dense);
  GpuRank& rank = group.rank(0);
  GpuGate gate(*place.backend, rank.device);
  GpuMark at[5] = {{*place.backend, rank.device},
                   {*place.backend, rank.device},
                   {*place.backend, rank.device},
                   {*place.backend, rank.device},
                   {*place.backend, rank.device}};
  std::vector<double> count, await, route, all;
  double replicas = 0;
  Repeat(w.repeats, [&](bool counts) {
    for (uint32_t r = 1; r < group.size(); ++r) batches.Submit(group.rank(r));
    group.Synchronize();
    gate.Close();
    gate.Hold(rank.device, rank.stream);
    at[0].Put(rank.stream);
    batches.Submit(rank);
    at[1].Put(rank.stream);
    bool in_time = gate.InTime();
    group.AwaitVerdicts();
    gate.Close();
    gate.Hold(rank.device, rank.stream);
    at[2].Put(rank.stream);
    AwaitVerdict(rank);
    at[3].Put(rank.stream);
    batches.Route(rank);
    at[4].Put(rank.stream);
    in_time &= gate.InTime();
    group.Synchronize();
    for (uint32_t r = 1; r < group.size(); ++r) {
      AwaitVerdict(group.rank(r));
      batches.Route(group.rank(r));
    }
    group.Synchronize();
    ultraep_plan_info info;
    std::vector<ultraep_replica> plan;
    const bool planned = group.Read(&info, &plan);
    if (!planned || !in_time) return false;
    if (!counts) return true;
    count.push_back(at[1].UsSince(at[0]));
    await.push_back(at[3].UsSince(at[2]));
    route.push_back(at[4].UsSince(at[3]));
    all.push_back(count.back() + await.back() + route.back());
    replicas += double(plan.size()) / w.repeats;
    return true;
  });
  group.Check();
  return {{"form", dense ? "dense map" : "ids"}, {"replicas", replicas},
          {"count", Quartiles(count)},           {"await", Quartiles(await)},
          {"route", Quartiles(route)},           {"all", Quartiles(all)}};
}

}  // namespace

double At(std::vector<double> values, double quantile) {
  std::sort(values.begin(), values.end());
  return values[size_t(quantile * double(values.size() - 1) + 0.5)];
}

Json Quartiles(const std::vector<double>& us) {
  return {{"p25_us", At(us, 0.25)}, {"median_us", At(us, 0.5)}, {"p75_us", At(us, 0.75)}};
}

Json MeasureGpuKernels(const GpuPlace& place, const Workload& w) {
  Json rows = Json::array();
  for (const bool dense : {false, true}) rows.push_back(MeasureForm(place, w, dense));
  return rows;
}

// From the gate on, all ranks at once: with each rank's kernels, the slowest rank of a step counts.
Json MeasureGpuStep(const GpuPlace& place, const Workload& w) {
  GpuGroupOptions options = GroupOf(place, w);
  options.expert_bytes = w.expert_bytes;
  options.blocks = w.blocks;
  const uint32_t on_one = (place.ranks + place.devices - 1) / place.devices;
  const uint32_t room =
      place.backend->ResidentBlocks(0, Kernel::kStreamBulk, w.shape.experts) / on_one;
  // Senders that wait for another rank's relay must not keep it from running.
  if (on_one > 1 && room) options.blocks = std::clamp(w.blocks ? w.blocks : 32, 1u, room);
  GpuGroup group(*place.backend, options);
  const Batches batches = MakeBatches(&group, w, false);
  GpuGate gate(*place.backend, 0);
  std::vector<std::unique_ptr<GpuMark>> marks;
  for (uint32_t i = 0; i < 3 * group.size(); ++i)
    marks.push_back(std::make_unique<GpuMark>(*place.backend, group.rank(i % group.size()).device));
  const auto mark = [&](uint32_t which, const GpuRank& rank) -> GpuMark& {
    return *marks[which * group.size() + rank.number];
  };
  const uint32_t steps = 10 * w.repeats;  // for a 99th percentile
  std::vector<double> verdict, exposed, solve;
  double replicas = 0;
  Repeat(steps, [&](bool counts) {
    gate.Close();
    for (uint32_t r = 0; r < group.size(); ++r) {
      GpuRank& rank = group.rank(r);
      gate.Hold(rank.device, rank.stream);
      mark(0, rank).Put(rank.stream);
      batches.Submit(rank);
      AwaitVerdict(rank);
      mark(1, rank).Put(rank.stream);
      Demand(ultraep_cuda_stream_weights(rank.plan, 0, ULTRAEP_BY_BULK_COPIES, rank.stream),
             "stream_weights");
      batches.Route(rank);
      Demand(ultraep_cuda_await_weights(rank.plan, rank.stream), "await_weights");
      mark(2, rank).Put(rank.stream);
      Demand(ultraep_cuda_release(rank.plan, rank.stream), "release");
    }
    const bool in_time = gate.InTime();
    group.Passed();
    group.Synchronize();
    ultraep_plan_info info;
    std::vector<ultraep_replica> plan;
    if (!group.Read(&info, &plan) || !in_time) return false;
    if (!counts) return true;
    double latest[2] = {};
    for (uint32_t r = 0; r < group.size(); ++r)
      for (uint32_t i = 0; i < 2; ++i)
        latest[i] = std::max(latest[i], mark(i + 1, group.rank(r)).UsSince(mark(0, group.rank(r))));
    verdict.push_back(latest[0]);
    exposed.push_back(latest[1]);
    solve.push_back(double(info.solve_ns) * 1e-3);
    replicas += double(plan.size()) / steps;
    return true;
  });
  group.Check();
  return {{"steps", steps},
          {"stream_blocks", group.rank(0).inside->stream_blocks()},
          {"replicas", replicas},
          {"expert_bytes", w.expert_bytes},
          {"solve_p50_us", At(solve, 0.5)},
          {"verdict_p50_us", At(verdict, 0.5)},
          {"verdict_p99_us", At(verdict, 0.99)},
          {"exposed_p50_us", At(exposed, 0.5)},
          {"exposed_p99_us", At(exposed, 0.99)}};
}

}  // namespace ultraep::bench
