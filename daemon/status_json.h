// The daemon's status as `ultraepctl status --json` and the status page show it: words for the
// numbers of operator_messages.h, and the figures computed from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "protocol/operator_messages.h"

namespace ultraep {

using Json = nlohmann::ordered_json;

const char* GateName(uint32_t state);
const char* MemberName(uint8_t state);
const char* RefusalName(uint32_t kind);
const char* MemoryName(MemoryKind memory);  // where slots are: "host", "cuda, ranks own", ...
const char* CudaName(CudaUse use);
std::string CudaVersion(uint32_t driver);  // 13000: "13.0", 0: "none"

// Tokens of the fullest ranks / mean over the ranks; peak_sum: one of the counters' sums of peaks.
// 1 before the first planned step.
double MeanImbalance(const GroupCounters& counters, uint64_t peak_sum, uint32_t ranks);
// How far the peaks are above what any plan could have reached.
double MeanGap(const GroupCounters& counters);
// 0 where nothing was counted.
double GbPerSecond(uint64_t bytes, uint64_t ns);
double MeanUs(uint64_t ns, uint64_t count);
// What balancing took off the fullest ranks. A plan is never worse than none.
uint64_t TokensAvoided(const GroupCounters& counters);
uint64_t Refusals(const StatusDaemon& daemon);

Json LatencyJson(const LatencyHistogram& latency);  // {count, mean_us, p50_us, p99_us}
Json GroupJson(const StatusGroup& group);
// {"daemon": {...}, "groups": [...]}
Json StatusJson(const StatusDaemon& daemon, const std::vector<StatusGroup>& groups);

// On one line. What a peer said need not be UTF-8; it must not end the program.
std::string OneLine(const Json& json);

}  // namespace ultraep
