// The C ABI: checks pointers, catches what must not cross the boundary, keeps the error text.
#include <sys/un.h>

#include <cstdlib>
#include <string>

#include "kernels/count_load.h"
#include "plugin/api/ultraep.h"
#include "plugin/core/client.h"
#include "plugin/core/guard.h"
#include "plugin/core/plan_handle.h"
#include "plugin/core/read_config.h"
#include "protocol/version.h"

using ultraep::Guard;
using ultraep::Invalid;
using ultraep::Null;
using ultraep::Result;

namespace {

constexpr const char* kDefaultSocket = "/run/ultraep/ultraepd.sock";

Result Check(const ultraep_plan* plan) {
  if (!plan) return Null("plan");
  if (plan->forked()) return Invalid("this plan belongs to the parent process");
  return ultraep::Ok();
}

Result CheckSize(const ultraep_group_config* config) {
  if (!config) return Null("config");
  if (config->struct_size != sizeof *config)
    return Invalid("config->struct_size is " + std::to_string(config->struct_size) + ", must be " +
                   std::to_string(sizeof *config));
  return ultraep::Ok();
}

uint64_t Timeout(int64_t timeout_ns, uint64_t otherwise) {
  return timeout_ns < 0 ? otherwise : uint64_t(timeout_ns);
}

}  // namespace

extern "C" {

const char* ultraep_last_error(void) { return ultraep::LastError().c_str(); }

const char* ultraep_version(void) { return ultraep::kBuildVersion; }

const char* ultraep_status_name(ultraep_status status) {
  switch (status) {
    case ULTRAEP_OK:
      return "OK";
    case ULTRAEP_INVALID:
      return "INVALID";
    case ULTRAEP_REFUSED:
      return "REFUSED";
    case ULTRAEP_TIMEOUT:
      return "TIMEOUT";
    case ULTRAEP_FAILED:
      return "FAILED";
    case ULTRAEP_INTERNAL:
      return "INTERNAL";
  }
  return "UNKNOWN";
}

ultraep_status ultraep_attach(const ultraep_attach_options* options, ultraep_client** client) {
  return Guard("ultraep_attach", [&]() -> Result {
    if (!client) return Null("client");
    if (options && options->struct_size != sizeof *options)
      return Invalid("options->struct_size is " + std::to_string(options->struct_size) +
                     ", must be " + std::to_string(sizeof *options));
    const char* path = options ? options->socket_path : nullptr;
    if (!path) path = std::getenv("ULTRAEP_SOCKET");
    const std::string socket = path ? path : kDefaultSocket;
    if (socket.empty() || socket.size() >= sizeof(sockaddr_un::sun_path))
      return Invalid("the socket path has " + std::to_string(socket.size()) +
                     " bytes, must have 1..107");
    *client = new ultraep_client(socket);
    return ultraep::Ok();
  });
}

ultraep_status ultraep_join(ultraep_client* client, const ultraep_group_config* config,
                            int64_t timeout_ns) {
  return Guard("ultraep_join", [&]() -> Result {
    if (!client) return Null("client");
    if (Result wrong = CheckSize(config); !wrong.ok()) return wrong;
    return client->Join(*config, timeout_ns);
  });
}

ultraep_status ultraep_memory_of(const ultraep_group_config* config, ultraep_memory* memory) {
  return Guard("ultraep_memory_of", [&]() -> Result {
    if (!memory) return Null("memory");
    ultraep::GroupConfig wire;
    if (Result wrong = CheckSize(config); !wrong.ok()) return wrong;
    if (Result wrong = ultraep::ReadConfig(*config, &wire); !wrong.ok()) return wrong;
    *memory = ultraep::MemoryOf(wire);
    return ultraep::Ok();
  });
}

ultraep_status ultraep_client_state(ultraep_client* client, ultraep_client_info* info) {
  return Guard("ultraep_client_state", [&]() -> Result {
    if (!client) return Null("client");
    if (!info) return Null("info");
    return client->State(info);
  });
}

ultraep_status ultraep_count_load(const int32_t* ids, uint64_t count, uint32_t experts,
                                  uint32_t* row) {
  return Guard("ultraep_count_load", [&]() -> Result {
    if (!ids && count) return Null("ids");
    if (!row) return Null("row");
    if (!experts || experts > ultraep::kMaxExperts)
      return Invalid("experts is " + std::to_string(experts) + ", must be 1.." +
                     std::to_string(ultraep::kMaxExperts));
    if (count > ultraep::kMaxRowTokens)
      return Invalid("count is " + std::to_string(count) + ", the limit is " +
                     std::to_string(ultraep::kMaxRowTokens));
    const ultraep::IdFault fault = ultraep::CountLoad(ids, count, experts, row);
    return fault ? Invalid(fault.text(experts)) : ultraep::Ok();
  });
}

ultraep_status ultraep_submit_load(ultraep_client* client, uint64_t sequence, uint32_t layer,
                                   uint32_t microbatch, const uint32_t* row, uint32_t experts) {
  return Guard("ultraep_submit_load", [&]() -> Result {
    if (!client) return Null("client");
    if (!row) return Null("row");
    return client->Submit(sequence, layer, microbatch, row, experts);
  });
}

ultraep_status ultraep_await_verdict(ultraep_client* client, uint64_t sequence, int64_t timeout_ns,
                                     ultraep_plan** plan) {
  return Guard("ultraep_await_verdict", [&]() -> Result {
    if (!client) return Null("client");
    if (!plan) return Null("plan");
    *plan = nullptr;
    return client->Await(sequence, timeout_ns, plan);
  });
}

void ultraep_plan_retain(ultraep_plan* plan) {
  if (plan) plan->Retain();
}

void ultraep_plan_free(ultraep_plan* plan) {
  if (plan) plan->Free();
}

ultraep_status ultraep_plan_get_info(const ultraep_plan* plan, ultraep_plan_info* info) {
  return Guard("ultraep_plan_get_info", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!info) return Null("info");
    *info = plan->Info();
    return ultraep::Ok();
  });
}

ultraep_status ultraep_plan_get_replicas(const ultraep_plan* plan, ultraep_replica* replicas,
                                         uint32_t capacity) {
  return Guard("ultraep_plan_get_replicas", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!replicas && capacity) return Null("replicas");
    return plan->Replicas(replicas, capacity);
  });
}

ultraep_status ultraep_route(const ultraep_plan* plan, const int32_t* ids, uint64_t tokens,
                             uint32_t top_k, int32_t* physical_ids) {
  return Guard("ultraep_route", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!ids && tokens) return Null("ids");
    if (!physical_ids && tokens) return Null("physical_ids");
    return plan->Route(ids, tokens, top_k, physical_ids);
  });
}

ultraep_status ultraep_stream_weights(ultraep_plan* plan, uint32_t slot_set,
                                      const void* const* main_weights) {
  return Guard("ultraep_stream_weights", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    return plan->Stream(slot_set, main_weights);
  });
}

ultraep_status ultraep_await_weights(ultraep_plan* plan, int64_t timeout_ns) {
  return Guard("ultraep_await_weights", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    return plan->AwaitWeights(Timeout(timeout_ns, plan->step_timeout_ns()));
  });
}

ultraep_status ultraep_plan_get_slot(const ultraep_plan* plan, uint32_t slot, uint32_t* expert,
                                     const void** shards) {
  return Guard("ultraep_plan_get_slot", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!expert) return Null("expert");
    if (!shards) return Null("shards");
    return plan->Slot(slot, expert, shards);
  });
}

ultraep_status ultraep_release(ultraep_plan* plan, int64_t timeout_ns) {
  return Guard("ultraep_release", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    return plan->Release(Timeout(timeout_ns, plan->step_timeout_ns()));
  });
}

ultraep_status ultraep_plan_get_stream_stats(const ultraep_plan* plan,
                                             ultraep_stream_stats* stats) {
  return Guard("ultraep_plan_get_stream_stats", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!stats) return Null("stats");
    return plan->Stats(stats);
  });
}

ultraep_status ultraep_prepare_gradients(ultraep_plan* plan, int zero, int64_t timeout_ns) {
  return Guard("ultraep_prepare_gradients", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    return plan->PrepareGradients(zero != 0, Timeout(timeout_ns, plan->step_timeout_ns()));
  });
}

ultraep_status ultraep_plan_get_gradient(const ultraep_plan* plan, uint32_t slot, uint32_t* expert,
                                         float** parts) {
  return Guard("ultraep_plan_get_gradient", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!expert) return Null("expert");
    if (!parts) return Null("parts");
    return plan->Gradient(slot, expert, parts);
  });
}

ultraep_status ultraep_reduce_gradients(ultraep_plan* plan, void* const* main_gradients,
                                        uint32_t type, int any_order) {
  return Guard("ultraep_reduce_gradients", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (type != ULTRAEP_FLOAT32 && type != ULTRAEP_BFLOAT16)
      return Invalid("type is " + std::to_string(type) +
                     ", must be ULTRAEP_FLOAT32 or ULTRAEP_BFLOAT16");
    return plan->ReduceGradients(main_gradients, ultraep::GradientType(type), any_order != 0);
  });
}

ultraep_status ultraep_await_gradients(ultraep_plan* plan, int64_t timeout_ns) {
  return Guard("ultraep_await_gradients", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    return plan->AwaitGradients(Timeout(timeout_ns, plan->step_timeout_ns()));
  });
}

ultraep_status ultraep_plan_get_reduce_stats(const ultraep_plan* plan,
                                             ultraep_reduce_stats* stats) {
  return Guard("ultraep_plan_get_reduce_stats", [&]() -> Result {
    if (Result wrong = Check(plan); !wrong.ok()) return wrong;
    if (!stats) return Null("stats");
    return plan->Stats(stats);
  });
}

ultraep_status ultraep_leave(ultraep_client* client) {
  return Guard("ultraep_leave", [&]() -> Result {
    if (!client) return Null("client");
    return client->Leave();
  });
}

void ultraep_detach(ultraep_client* client) {
  if (!client || client->forked()) return;  // the parent's threads are not ours to stop
  delete client;
}

}  // extern "C"
