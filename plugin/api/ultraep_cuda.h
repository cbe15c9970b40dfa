/* ultraep_cuda.h: a step on the GPU that never leaves the stream.
 *
 * For groups that were joined with memory = ULTRAEP_CUDA_MEMORY (or ..._OF_DAEMON). Attach, join,
 * leave, detach and ultraep_client_state stay those of ultraep.h; the host's step calls
 * (ultraep_submit_load and what follows) refuse such a group, these refuse all others.
 *
 * Every call below that takes a `stream` puts its work there and returns at once: no host
 * synchronisation, no allocation, so a CUDA graph may capture all of them. A captured graph stays
 * valid for the life of the client, over new generations and daemon restarts: step numbers, memory
 * and verdicts are looked up on the device. `stream` is a cudaStream_t (CUstream) of the client's
 * device. All calls of one client are ordered, by one stream or by events between several, in the
 * same order on all ranks; each call comes from one thread at a time.
 *
 *   ultraep_cuda_submit_ids      tokens per expert are counted and submitted
 *   ultraep_cuda_await_verdict   the stream waits for the group's decision
 *   ultraep_cuda_stream_weights  experts travel beside, on a stream of ultraep's own
 *   ultraep_cuda_route           logical ids -> physical ids
 *   ultraep_cuda_await_weights   the stream waits until this rank's slots are complete
 *   (dispatch, main experts and slots, combine)
 *   ultraep_cuda_release
 *
 * In training the plan is kept and, for its backward:
 *
 *   ultraep_cuda_stream_weights       a restore
 *   ultraep_cuda_prepare_gradients
 *   ultraep_cuda_await_weights
 *   (the experts' backward)
 *   ultraep_cuda_reduce_gradients     beside, on another stream of ultraep's own
 *   ultraep_cuda_release
 *   (attention's backward)
 *   ultraep_cuda_await_gradients
 *
 * Failures. What a call can see (arguments, an error of the driver) it returns. What kernels find
 * (another rank is gone or does not come, ids that differ from the counted ones) shows, as with a
 * collective, later: the next ultraep_cuda_check says FAILED, and so does each one after a step
 * that lost something to that failure. Kernels never hang: each wait ends with the group's failure,
 * with the loss of the rank it waits for, or at step_timeout and a little more. A failure on one
 * rank voids the step on all: the failing rank's kernel tells the others before it computes, and
 * their ultraep_cuda_release (or ultraep_cuda_await_gradients), put into the stream behind what
 * combines the results, hears it. So: release behind the combine, synchronise, check; then results
 * may leave the rank.
 *
 * Synchronise the streams before ultraep_leave and ultraep_detach. After a leave a plan can be read
 * and freed, nothing more; after fork() the child can do nothing with it. */
#ifndef ULTRAEP_PLUGIN_API_ULTRAEP_CUDA_H_
#define ULTRAEP_PLUGIN_API_ULTRAEP_CUDA_H_

#include "plugin/api/ultraep.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One step's verdict and plan in device memory. May be used for step after step, each beginning
 * with a submit; a plan that is kept for a backward must not be. Holds no slot. */
typedef struct ultraep_cuda_plan ultraep_cuda_plan;

/* How weights travel. ULTRAEP_BY_COPY_ENGINE uses no SMs, sends every expert whole and in plan
 * order, and needs the plan on the host: ultraep_cuda_stream_weights then synchronises with the
 * stream, and cannot be captured. */
typedef enum ultraep_cuda_transfer {
  ULTRAEP_BY_BULK_COPIES = 0, /* TMA: one thread moves tiles through shared memory */
  ULTRAEP_BY_PLAIN_COPIES = 1,
  ULTRAEP_BY_COPY_ENGINE = 2
} ultraep_cuda_transfer;

/* What computes with a slot needs, in device memory; the address is the plan's and never changes.
 * Written when the stream begins, valid until the release. */
typedef struct ultraep_cuda_slot {
  uint32_t expert; /* logical, UINT32_MAX: empty */
  uint32_t unused;
  uint64_t tokens;                      /* quota */
  void* shards[ULTRAEP_MAX_SHARDS];     /* weights, 128-byte aligned */
  float* gradients[ULTRAEP_MAX_SHARDS]; /* parts, 128-byte aligned; training */
} ultraep_cuda_slot;

typedef struct ultraep_cuda_device_info {
  char name[64];
  uint32_t device;       /* CUDA ordinal */
  uint32_t architecture; /* compute capability: 10 x major + minor */
  uint32_t stream_blocks;
  uint32_t reduce_blocks;
  uint64_t slot_bytes;   /* device memory of this rank's slots */
  uint64_t state_bytes;  /* device memory besides, without plans */
  uint64_t plan_bytes;   /* of each ultraep_cuda_plan */
  uint64_t pinned_bytes; /* host memory of the mailbox */
} ultraep_cuda_device_info;

ULTRAEP_API ultraep_status ultraep_cuda_get_device(ultraep_client* client,
                                                   ultraep_cuda_device_info* info);

/* Where a layer's main copies lie: [experts / ranks][shard_count] addresses on the client's device,
 * which must not change while a stream of that layer is under way. Synchronous; before the layer's
 * first ultraep_cuda_stream_weights, and before a capture. */
ULTRAEP_API ultraep_status ultraep_cuda_set_main_weights(ultraep_client* client, uint32_t layer,
                                                         const void* const* main_weights);
/* Likewise the main gradients: [experts / ranks][gradient_count], of `type`
 * (ultraep_gradient_type), each on its element's size. Training. */
ULTRAEP_API ultraep_status ultraep_cuda_set_main_gradients(ultraep_client* client, uint32_t layer,
                                                           void* const* main_gradients,
                                                           uint32_t type);

ULTRAEP_API ultraep_status ultraep_cuda_plan_create(ultraep_client* client,
                                                    ultraep_cuda_plan** plan);
/* NULL allowed. The caller's streams hold no work of the plan. What it has begun and not ended (a
 * stream without its release, a reduction that is not awaited) ends here, and is waited for. */
ULTRAEP_API void ultraep_cuda_plan_free(ultraep_cuda_plan* plan);

/* ids: device memory, [count] int32 logical ids in the order in which ultraep_cuda_route will see
 * them, -1 = none. Every rank submits every step, also with count 0. Step numbers count up by
 * themselves from the join's next_sequence. */
ULTRAEP_API ultraep_status ultraep_cuda_submit_ids(ultraep_cuda_plan* plan, uint32_t layer,
                                                   uint32_t microbatch, const int32_t* ids,
                                                   uint64_t count, void* stream);
/* map: device memory, [tokens][experts] uint8, 1 where the token goes to the expert, else 0. */
ULTRAEP_API ultraep_status ultraep_cuda_submit_map(ultraep_cuda_plan* plan, uint32_t layer,
                                                   uint32_t microbatch, const uint8_t* map,
                                                   uint64_t tokens, void* stream);
/* row: device memory, [experts] uint32, counted by the framework; its sum below 2^32. */
ULTRAEP_API ultraep_status ultraep_cuda_submit_row(ultraep_cuda_plan* plan, uint32_t layer,
                                                   uint32_t microbatch, const uint32_t* row,
                                                   void* stream);
ULTRAEP_API ultraep_status ultraep_cuda_await_verdict(ultraep_cuda_plan* plan, void* stream);

/* The first one after ultraep_cuda_await_verdict is the forward stream, a further one a restore. */
ULTRAEP_API ultraep_status ultraep_cuda_stream_weights(ultraep_cuda_plan* plan, uint32_t slot_set,
                                                       uint32_t transfer, void* stream);
/* ids, physical_ids: device memory, [tokens][top_k] int32; not the same memory. The ids' counts
 * must be those that were submitted, else the step fails. */
ULTRAEP_API ultraep_status ultraep_cuda_route(ultraep_cuda_plan* plan, const int32_t* ids,
                                              uint64_t tokens, uint32_t top_k,
                                              int32_t* physical_ids, void* stream);
/* map: [tokens][experts] uint8; physical_map: [tokens][ranks * (experts / ranks + slots)] uint8;
 * values, physical_values: the same shapes, elements of value_bytes 2 or 4 (probabilities), which
 * travel along, zero elsewhere; or NULL with value_bytes 0. Device memory, none the same. */
ULTRAEP_API ultraep_status ultraep_cuda_route_map(ultraep_cuda_plan* plan, const uint8_t* map,
                                                  uint8_t* physical_map, const void* values,
                                                  void* physical_values, uint32_t value_bytes,
                                                  uint64_t tokens, void* stream);
ULTRAEP_API ultraep_status ultraep_cuda_await_weights(ultraep_cuda_plan* plan, void* stream);
/* The device address of [slots] ultraep_cuda_slot; the same for the life of the plan. */
ULTRAEP_API ultraep_status ultraep_cuda_plan_slots(const ultraep_cuda_plan* plan,
                                                   const ultraep_cuda_slot** slots);
ULTRAEP_API ultraep_status ultraep_cuda_release(ultraep_cuda_plan* plan, void* stream);

/* The stream waits until the slot gradients that the streamed plan uses on this rank are free; zero
 * other than 0: they are zeroed. */
ULTRAEP_API ultraep_status ultraep_cuda_prepare_gradients(ultraep_cuda_plan* plan, int zero,
                                                          void* stream);
ULTRAEP_API ultraep_status ultraep_cuda_reduce_gradients(ultraep_cuda_plan* plan, int any_order,
                                                         void* stream);
ULTRAEP_API ultraep_status ultraep_cuda_await_gradients(ultraep_cuda_plan* plan, void* stream);

/* Reads the plan from the device; blocks, but for no stream: synchronise with the one that awaited
 * the verdict first. replicas: up to `capacity`, in transfer order. Not during a capture. */
ULTRAEP_API ultraep_status ultraep_cuda_plan_read(const ultraep_cuda_plan* plan,
                                                  ultraep_plan_info* info,
                                                  ultraep_replica* replicas, uint32_t capacity);

/* FAILED with a text for a failure that has not been said yet, else OK. Any thread; costs nothing.
 */
ULTRAEP_API ultraep_status ultraep_cuda_check(ultraep_client* client);

/* For groups that span nodes without a network path between their daemons: rows [ranks][experts]
 * uint32 = all ranks' row [experts] uint32, in the rank order of `communicator`, an ncclComm_t of
 * the framework whose ranks are the group's. One ncclAllGather on `stream`: every rank calls it at
 * the same place among its collectives. Device memory. */
ULTRAEP_API ultraep_status ultraep_cuda_gather_rows(ultraep_client* client, void* communicator,
                                                    const uint32_t* row, uint32_t* rows,
                                                    void* stream);

#ifdef __cplusplus
}
#endif

#endif /* ULTRAEP_PLUGIN_API_ULTRAEP_CUDA_H_ */
