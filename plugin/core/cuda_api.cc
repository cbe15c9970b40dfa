// The C ABI of groups whose slots are on GPUs.
#include "plugin/api/ultraep_cuda.h"
#include "plugin/core/client.h"
#include "plugin/core/device/device_plan.h"
#include "plugin/core/guard.h"

using ultraep::DeviceClient;
using ultraep::Guard;
using ultraep::Invalid;
using ultraep::Kernel;
using ultraep::Null;
using ultraep::Ok;
using ultraep::Result;

static_assert(sizeof(ultraep_cuda_slot) == sizeof(ultraep::DeviceSlot));

namespace {

template <class Body>
ultraep_status WithDevice(const char* call, const ultraep_client* client, Body body) {
  return Guard(call, [&]() -> Result {
    if (!client) return Null("client");
    DeviceClient* device = nullptr;
    if (Result wrong = client->Device(&device); !wrong.ok()) return wrong;
    return body(*device);
  });
}

// bytes 0: any address will do.
Result Aligned(const char* name, const void* address, uint32_t bytes) {
  if (!bytes || reinterpret_cast<uintptr_t>(address) % bytes == 0) return Ok();
  return Invalid(std::string(name) + " is not on " + std::to_string(bytes) + " bytes");
}

template <class Plan, class Body>
ultraep_status WithPlan(const char* call, Plan* plan, Body body) {
  return Guard(call, [&]() -> Result {
    if (!plan) return Null("plan");
    if (Result usable = plan->client().CheckUsable(); !usable.ok()) return usable;
    return body(*plan);
  });
}

}  // namespace

extern "C" {

ultraep_status ultraep_cuda_get_device(ultraep_client* client, ultraep_cuda_device_info* info) {
  return WithDevice("ultraep_cuda_get_device", client, [&](DeviceClient& device) -> Result {
    if (!info) return Null("info");
    device.Describe(info);
    return Ok();
  });
}

ultraep_status ultraep_cuda_set_main_weights(ultraep_client* client, uint32_t layer,
                                             const void* const* main_weights) {
  return WithDevice("ultraep_cuda_set_main_weights", client,
                    [&](DeviceClient& device) { return device.SetMains(layer, main_weights); });
}

ultraep_status ultraep_cuda_set_main_gradients(ultraep_client* client, uint32_t layer,
                                               void* const* main_gradients, uint32_t type) {
  return WithDevice("ultraep_cuda_set_main_gradients", client, [&](DeviceClient& device) {
    return device.SetGradients(layer, main_gradients, type);
  });
}

ultraep_status ultraep_cuda_plan_create(ultraep_client* client, ultraep_cuda_plan** plan) {
  return WithDevice("ultraep_cuda_plan_create", client, [&](DeviceClient& device) -> Result {
    if (Result usable = device.CheckUsable(); !usable.ok()) return usable;
    if (!plan) return Null("plan");
    return ultraep_cuda_plan::Make(&device, plan);
  });
}

void ultraep_cuda_plan_free(ultraep_cuda_plan* plan) {
  if (plan && !plan->client().forked()) delete plan;  // the parent's are not ours to free
}

ultraep_status ultraep_cuda_submit_ids(ultraep_cuda_plan* plan, uint32_t layer, uint32_t microbatch,
                                       const int32_t* ids, uint64_t count, void* stream) {
  return WithPlan("ultraep_cuda_submit_ids", plan, [&](ultraep_cuda_plan& p) -> Result {
    if (!ids && count) return Null("ids");
    if (Result wrong = Aligned("ids", ids, sizeof *ids); !wrong.ok()) return wrong;
    return p.Submit(Kernel::kCountIds, ids, count, layer, microbatch, stream);
  });
}

ultraep_status ultraep_cuda_submit_map(ultraep_cuda_plan* plan, uint32_t layer, uint32_t microbatch,
                                       const uint8_t* map, uint64_t tokens, void* stream) {
  return WithPlan("ultraep_cuda_submit_map", plan, [&](ultraep_cuda_plan& p) -> Result {
    if (!map && tokens) return Null("map");
    return p.Submit(Kernel::kCountMap, map, tokens, layer, microbatch, stream);
  });
}

ultraep_status ultraep_cuda_submit_row(ultraep_cuda_plan* plan, uint32_t layer, uint32_t microbatch,
                                       const uint32_t* row, void* stream) {
  return WithPlan("ultraep_cuda_submit_row", plan, [&](ultraep_cuda_plan& p) -> Result {
    if (!row) return Null("row");
    if (Result wrong = Aligned("row", row, sizeof *row); !wrong.ok()) return wrong;
    return p.Submit(Kernel::kSubmitRow, row, 0, layer, microbatch, stream);
  });
}

ultraep_status ultraep_cuda_await_verdict(ultraep_cuda_plan* plan, void* stream) {
  return WithPlan("ultraep_cuda_await_verdict", plan,
                  [&](ultraep_cuda_plan& p) { return p.AwaitVerdict(stream); });
}

ultraep_status ultraep_cuda_stream_weights(ultraep_cuda_plan* plan, uint32_t slot_set,
                                           uint32_t transfer, void* stream) {
  return WithPlan("ultraep_cuda_stream_weights", plan, [&](ultraep_cuda_plan& p) {
    return p.StreamWeights(slot_set, transfer, stream);
  });
}

ultraep_status ultraep_cuda_route(ultraep_cuda_plan* plan, const int32_t* ids, uint64_t tokens,
                                  uint32_t top_k, int32_t* physical_ids, void* stream) {
  return WithPlan("ultraep_cuda_route", plan, [&](ultraep_cuda_plan& p) -> Result {
    uint64_t count = 0;
    if (__builtin_mul_overflow(tokens, uint64_t{top_k}, &count) || count > ultraep::kMaxRowTokens)
      return Invalid("tokens x top_k is " + std::to_string(tokens) + " x " + std::to_string(top_k) +
                     ", the limit is " + std::to_string(ultraep::kMaxRowTokens));
    if (!ids && count) return Null("ids");
    if (!physical_ids && count) return Null("physical_ids");
    if (ids == physical_ids && count) return Invalid("ids and physical_ids are the same memory");
    if (Result wrong = Aligned("ids", ids, sizeof *ids); !wrong.ok()) return wrong;
    if (Result wrong = Aligned("physical_ids", physical_ids, sizeof *ids); !wrong.ok())
      return wrong;
    return p.Route(ids, count, physical_ids, stream);
  });
}

ultraep_status ultraep_cuda_route_map(ultraep_cuda_plan* plan, const uint8_t* map,
                                      uint8_t* physical_map, const void* values,
                                      void* physical_values, uint32_t value_bytes, uint64_t tokens,
                                      void* stream) {
  return WithPlan("ultraep_cuda_route_map", plan, [&](ultraep_cuda_plan& p) -> Result {
    const uint64_t experts = p.client().config().experts;
    if (tokens > ultraep::kMaxRowTokens / experts)
      return Invalid("tokens is " + std::to_string(tokens) + ", the limit is " +
                     std::to_string(ultraep::kMaxRowTokens / experts));
    if (value_bytes != 0 && value_bytes != 2 && value_bytes != 4)
      return Invalid("value_bytes is " + std::to_string(value_bytes) + ", must be 0, 2 or 4");
    if (!map && tokens) return Null("map");
    if (!physical_map && tokens) return Null("physical_map");
    if (value_bytes && tokens && (!values || !physical_values))
      return Null(values ? "physical_values" : "values");
    if (Result wrong = Aligned("values", values, value_bytes); !wrong.ok()) return wrong;
    if (Result wrong = Aligned("physical_values", physical_values, value_bytes); !wrong.ok())
      return wrong;
    ultraep::RouteMapArguments what{};
    what.map = map;
    what.physical_map = physical_map;
    what.values = values;
    what.physical_values = physical_values;
    what.tokens = tokens;
    what.value_bytes = value_bytes;
    return p.RouteMap(what, stream);
  });
}

ultraep_status ultraep_cuda_await_weights(ultraep_cuda_plan* plan, void* stream) {
  return WithPlan("ultraep_cuda_await_weights", plan,
                  [&](ultraep_cuda_plan& p) { return p.AwaitWeights(stream); });
}

ultraep_status ultraep_cuda_plan_slots(const ultraep_cuda_plan* plan,
                                       const ultraep_cuda_slot** slots) {
  return WithPlan("ultraep_cuda_plan_slots", plan, [&](const ultraep_cuda_plan& p) -> Result {
    if (!slots) return Null("slots");
    *slots = p.slots();
    return Ok();
  });
}

ultraep_status ultraep_cuda_release(ultraep_cuda_plan* plan, void* stream) {
  return WithPlan("ultraep_cuda_release", plan,
                  [&](ultraep_cuda_plan& p) { return p.Release(stream); });
}

ultraep_status ultraep_cuda_prepare_gradients(ultraep_cuda_plan* plan, int zero, void* stream) {
  return WithPlan("ultraep_cuda_prepare_gradients", plan,
                  [&](ultraep_cuda_plan& p) { return p.PrepareGradients(zero != 0, stream); });
}

ultraep_status ultraep_cuda_reduce_gradients(ultraep_cuda_plan* plan, int any_order, void* stream) {
  return WithPlan("ultraep_cuda_reduce_gradients", plan,
                  [&](ultraep_cuda_plan& p) { return p.ReduceGradients(any_order != 0, stream); });
}

ultraep_status ultraep_cuda_await_gradients(ultraep_cuda_plan* plan, void* stream) {
  return WithPlan("ultraep_cuda_await_gradients", plan,
                  [&](ultraep_cuda_plan& p) { return p.AwaitGradients(stream); });
}

ultraep_status ultraep_cuda_plan_read(const ultraep_cuda_plan* plan, ultraep_plan_info* info,
                                      ultraep_replica* replicas, uint32_t capacity) {
  return Guard("ultraep_cuda_plan_read", [&]() -> Result {  // also after a leave
    if (!plan) return Null("plan");
    if (plan->client().forked()) return plan->client().CheckUsable();
    const ultraep_cuda_plan& p = *plan;
    if (!info) return Null("info");
    if (!replicas && capacity) return Null("replicas");
    return p.Read(info, replicas, capacity);
  });
}

ultraep_status ultraep_cuda_check(ultraep_client* client) {
  return WithDevice("ultraep_cuda_check", client,
                    [&](DeviceClient& device) { return device.carrier().Check(); });
}

ultraep_status ultraep_cuda_gather_rows(ultraep_client* client, void* communicator,
                                        const uint32_t* row, uint32_t* rows, void* stream) {
  return WithDevice("ultraep_cuda_gather_rows", client, [&](DeviceClient& device) -> Result {
    if (Result usable = device.CheckUsable(); !usable.ok()) return usable;
    if (!communicator) return Null("communicator");
    if (!row) return Null("row");
    if (!rows) return Null("rows");
    return device.GatherRows(communicator, row, rows, stream);
  });
}

}  // extern "C"
