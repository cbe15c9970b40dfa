// One rank's membership: its link to the daemon and its steps.
#pragma once

#include <memory>
#include <string>

#include "plugin/api/ultraep.h"
#include "plugin/core/device/device_client.h"
#include "plugin/core/link.h"
#include "plugin/core/result.h"
#include "plugin/core/steps.h"

// The C ABI's opaque type.
struct ultraep_client {
 public:
  explicit ultraep_client(const std::string& socket_path);
  ~ultraep_client();

  ultraep::Result Join(const ultraep_group_config& config, int64_t timeout_ns);
  ultraep::Result State(ultraep_client_info* info) const;
  ultraep::Result Submit(uint64_t sequence, uint32_t layer, uint32_t microbatch,
                         const uint32_t* row, uint32_t experts);
  ultraep::Result Await(uint64_t sequence, int64_t timeout_ns, ultraep_plan** plan);
  ultraep::Result Leave();
  // Of a group with slots on GPUs that this client has joined, also once it has left it; INVALID
  // otherwise.
  ultraep::Result Device(ultraep::DeviceClient** device) const;
  // A forked child (data loader) has the handle but neither threads nor memory.
  bool forked() const;

 private:
  ultraep::Result CheckUsable() const;
  ultraep::Result CheckOnHost() const;

  const int forks_;  // of the process when the client was made
  ultraep::Link link_;  // it, or its thread, frees memory: the last to go
  uint32_t rank_ = 0;
  ultraep::GroupConfig config_;
  bool left_ = false;
  std::unique_ptr<ultraep::Steps> steps_;  // null before Join
  // Null: slots are in host memory. Its carrier thread submits the steps.
  std::unique_ptr<ultraep::DeviceClient> device_;
};
