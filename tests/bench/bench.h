// What the benchmarks share. One subcommand of ultraep-bench per file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/flags/declare.h"
#include "tests/support/load_generators.h"

ABSL_DECLARE_FLAG(uint32_t, ranks);
ABSL_DECLARE_FLAG(uint32_t, experts);
ABSL_DECLARE_FLAG(uint32_t, slots);
ABSL_DECLARE_FLAG(uint32_t, domain_size);
ABSL_DECLARE_FLAG(double, imbalance);
ABSL_DECLARE_FLAG(std::string, generator);
ABSL_DECLARE_FLAG(uint32_t, seeds);
ABSL_DECLARE_FLAG(uint32_t, tokens);
ABSL_DECLARE_FLAG(uint32_t, top_k);
ABSL_DECLARE_FLAG(double, epsilon);
ABSL_DECLARE_FLAG(uint32_t, repeats);
ABSL_DECLARE_FLAG(uint64_t, expert_bytes);
ABSL_DECLARE_FLAG(double, link_gb_s);
ABSL_DECLARE_FLAG(double, flag_us);
ABSL_DECLARE_FLAG(std::string, plan);
ABSL_DECLARE_FLAG(uint32_t, gpu_ranks);
ABSL_DECLARE_FLAG(uint32_t, blocks);
ABSL_DECLARE_FLAG(bool, json);

namespace ultraep::bench {

// What the flags ask for.
struct Workload {
  PlanShape shape;
  std::string generator;
  double imbalance = 0;
  uint32_t seeds = 0;
  uint32_t repeats = 0;
  uint32_t epsilon_ppm = 0;
  test::BatchShape batch;
  uint64_t expert_bytes = 0;
  double link_gb_s = 0;
  double flag_us = 0;
  std::string plan_file;  // instead of loads
  uint32_t gpu_ranks = 0;  // 0: one on each device, at least 2
  uint32_t blocks = 0;     // 0: several counts, or the plugin's

  // Number `index` of the workload's loads, index < seeds.
  test::LoadMatrix Draw(uint32_t index) const;
};

// One line on a terminal's stderr while something takes long.
void ShowProgress(const std::string& text);
void EndProgress();

int RunPlanBench(const Workload& workload, bool json);
int RunCountBench(const Workload& workload, bool json);
int RunRouteBench(const Workload& workload, bool json);
int RunGpuBench(const Workload& workload, bool json);
int RunStreamBench(const Workload& workload, bool json);
int SaveLoads(const Workload& workload, const std::string& path);

}  // namespace ultraep::bench
