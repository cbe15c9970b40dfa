#include "plugin/core/client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "plugin/core/forks.h"
#include "plugin/core/numa_node.h"
#include "plugin/core/plan_handle.h"
#include "plugin/core/read_config.h"

using namespace ultraep;

namespace {

// 2 ms suits a planner with a CPU of its own; with fewer CPUs than threads that want one, a wait
// for the scheduler is no sign of a stuck daemon.
uint64_t DefaultSolveDeadlineNs(uint32_t ranks) {
  return AllowedCpus() < ranks + 1 ? 1'000'000'000 : 2'000'000;
}

// A carrier that sleeps between a job's steps adds some 50 us to each: it spins over their pauses
// where there are CPUs for that.
constexpr uint64_t kCarrierSpinNs = 10'000'000;

// One thread copies some 10 GB/s, a socket's memory several times that; the framework's own threads
// want CPUs as well.
uint32_t DefaultCopyThreads(uint32_t ranks) {
  return std::clamp(AllowedCpus() / (2 * ranks), 1u, 4u);
}

}  // namespace

ultraep_client::ultraep_client(const std::string& socket_path)
    : forks_(ForkCount()), link_(socket_path) {}

ultraep_client::~ultraep_client() {
  if (!left_) Leave();
}

bool ultraep_client::forked() const { return ForkCount() != forks_; }

Result ultraep_client::CheckUsable() const {
  if (forked())
    return Invalid("this client belongs to the parent process; a forked child needs its own");
  if (!steps_) return Invalid("join a group first");
  if (left_) return Invalid("the client has left its group");
  return Ok();
}

Result ultraep_client::CheckOnHost() const {
  if (Result usable = CheckUsable(); !usable.ok()) return usable;
  if (device_) return Invalid("the group's slots are on GPUs: its steps go by ultraep_cuda.h");
  return Ok();
}

Result ultraep_client::Device(DeviceClient** device) const {
  if (forked() || !steps_) return CheckUsable();
  if (!device_)
    return Invalid("the group's slots are in host memory: join with memory ULTRAEP_CUDA_MEMORY");
  *device = device_.get();
  return Ok();
}

Result ultraep_client::Join(const ultraep_group_config& config, int64_t timeout_ns) {
  if (forked()) return CheckUsable();
  if (steps_) return Invalid("the client has joined already; attach another one");
  GroupConfig wire;
  if (Result usable = ReadConfig(config, &wire); !usable.ok()) return usable;
  ultraep::Join request;
  request.config = wire;
  request.rank = rank_ = config.rank;
  config_ = wire;
  request.fallback_tokens = config.fallback_tokens;
  request.numa_node = NodeOfAllowedCpus();
  RankSettings settings;
  settings.step_timeout_ns = wire.step_timeout_ns;
  settings.solve_deadline_ns =
      config.solve_deadline_ns ? config.solve_deadline_ns : DefaultSolveDeadlineNs(config.ranks);
  settings.spin_ns = DefaultSpinNs(config.ranks);
  settings.copy_threads =
      config.copy_threads ? config.copy_threads : DefaultCopyThreads(config.ranks);
  if (wire.on_device()) {
    if (Result refused = DeviceClient::Make(wire, config, &device_); !refused.ok()) return refused;
    request.device = device_->context().Description();
    link_.UseDevice(device_->memory());
  }
  steps_ = std::make_unique<Steps>(wire, config.next_sequence);
  if (device_) device_->Start(settings.spin_ns ? kCarrierSpinNs : 0, steps_.get());
  link_.Join(request, settings, steps_.get());
  if (timeout_ns == 0) return Ok();
  link_.AwaitOpen(timeout_ns < 0 ? config_.step_timeout_ns : uint64_t(timeout_ns));
  ultraep_client_info info;
  State(&info);
  switch (info.phase) {
    case ULTRAEP_OPEN:
      return Ok();
    case ULTRAEP_REFUSED_JOIN:
      return {ULTRAEP_REFUSED, info.text};
    default:
      return Timeout(std::string("the group is not complete: ") + info.text);
  }
}

Result ultraep_client::State(ultraep_client_info* info) const {
  if (forked()) return CheckUsable();
  std::string text;
  *info = {};
  link_.State(info, &text);
  SetText(info->text, text);
  return Ok();
}

Result ultraep_client::Submit(uint64_t sequence, uint32_t layer, uint32_t microbatch,
                              const uint32_t* row, uint32_t experts) {
  if (Result usable = CheckOnHost(); !usable.ok()) return usable;
  return steps_->Submit(sequence, layer, microbatch, row, experts);
}

Result ultraep_client::Await(uint64_t sequence, int64_t timeout_ns, ultraep_plan** plan) {
  if (Result usable = CheckOnHost(); !usable.ok()) return usable;
  ResolvedStep step;
  // Past the group's own timeout the step has been resolved for all; one heartbeat of slack.
  const uint64_t limit = timeout_ns < 0 ? DeadlineAfter(config_.step_timeout_ns, 10 * kHeartbeatNs)
                                        : uint64_t(timeout_ns);
  Result result = steps_->Await(sequence, limit, &step);
  if (!result.ok()) return result;
  const bool planned = step.verdict == ULTRAEP_PLAN;
  try {
    *plan = new ultraep_plan(std::move(step), config_, rank_, steps_->memory());
  } catch (...) {  // the step is resolved for all, and this rank has no plan to follow
    if (planned) steps_->memory()->current()->Fail();
    throw;
  }
  return result;
}

Result ultraep_client::Leave() {
  if (forked()) return CheckUsable();
  if (!steps_ || left_) return Ok();
  left_ = true;
  if (device_)
    device_->Leave();
  else
    steps_->ResolveAll();
  link_.Leave();
  steps_->memory()->Clear();  // plans that are kept pin no memory
  return Ok();
}
