// Every setting of ultraepd: unit, range, default and cost stand once, with the flags in
// options.cc.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/log.h"
#include "daemon/memory/device_memory.h"
#include "daemon/metrics/listen_address.h"
#include "daemon/planner/plan_options.h"

namespace ultraep {

struct DaemonOptions {
  std::string socket;
  uint32_t socket_mode;
  PlanOptions plan;
  LinkModel link;
  int64_t spin_us;              // < 0: from the number of allowed CPUs
  uint64_t memory_limit_bytes;  // 0: from what the machine has left
  uint32_t max_connections;
  uint64_t lease_ns;
  uint32_t uid_groups;
  uint32_t uid_connections;
  uint64_t uid_memory_limit_bytes;  // 0: none of its own
  uint64_t uid_gpu_memory_limit_bytes = 0;  // that the daemon makes; 0: none
  LogLevel log_level;
  CudaOptions cuda;
  bool share_devices = false;  // several ranks of a group may be on one GPU
  ListenAddress metrics_listen;
  uint32_t metrics_detail_series = 0;  // 0: no numbers per layer
};

// Reads the command line. On --help or --version prints and exits 0; on a wrong value prints the
// value, the range and exits 2.
DaemonOptions ParseOptions(int argc, char** argv);

}  // namespace ultraep
