#include "plugin/core/numa_node.h"

#include <sched.h>
#include <unistd.h>

#include <string>

namespace ultraep {
namespace {

constexpr int kMaxNodes = 64;  // as many as a Join's reader can prefer

int NodeOf(int cpu) {
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/node";
  for (int node = 0; node < kMaxNodes; ++node)
    if (access((folder + std::to_string(node)).c_str(), F_OK) == 0) return node;
  return -1;
}

}  // namespace

int32_t NodeOfAllowedCpus() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return -1;
  int node = -1;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const int here = NodeOf(cpu);
    if (here < 0 || (node >= 0 && here != node)) return -1;
    node = here;
  }
  return node;
}

}  // namespace ultraep
