// What `ultraep-bench gpu` measures, part by part. Each throws std::runtime_error where it cannot.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "nlohmann/json.hpp"
#include "protocol/device_backend.h"
#include "tests/bench/bench.h"

namespace ultraep::bench {

struct GpuPlace {
  DeviceBackend* backend = nullptr;
  uint32_t devices = 0;
  uint32_t ranks = 0;
};

// Kernels of one rank alone on its device: count, await with the verdict already there, route.
nlohmann::ordered_json MeasureGpuKernels(const GpuPlace& place, const Workload& w);
// Weights and gradients of eight experts at once, beside copies of as many bytes between the same
// places: {"stream": [...], "reduce": [...]}.
nlohmann::ordered_json MeasureGpuTransfers(const GpuPlace& place, const Workload& w);
// A whole step on all ranks at once.
nlohmann::ordered_json MeasureGpuStep(const GpuPlace& place, const Workload& w);

// The value at a quantile, 0..1; not empty.
double At(std::vector<double> values, double quantile);
// {"p25_us", "median_us", "p75_us"}
nlohmann::ordered_json Quartiles(const std::vector<double>& us);

inline constexpr uint32_t kWarmUps = 5;
// Steps that were not planned, or that the host could not enqueue in time, are measured again.
inline constexpr uint32_t kTries = 1000;

// once(counts), until `repeats` and the warm-ups have succeeded; false: to be done again.
template <class Once>
void Repeat(uint32_t repeats, const Once& once) {
  for (uint32_t i = 0, tries = 0; i < kWarmUps + repeats;) {
    if (once(i >= kWarmUps))
      ++i;
    else if (++tries == kTries)
      throw std::runtime_error("a thousand steps were not planned, or not enqueued in time");
  }
}

}  // namespace ultraep::bench
