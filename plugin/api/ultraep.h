/* ultraep.h: the C ABI of libultraep, what a framework may include.
 *
 * One client per rank. The main path of a step, every rank in the same order:
 *
 *   ultraep_submit_load      exact post-gating tokens per logical expert
 *   ultraep_await_verdict    the one decision for the step: a plan handle
 *   ultraep_stream_weights   main weights start to travel into redundant slots
 *   ultraep_route            logical ids -> physical ids, exact on both margins
 *   ultraep_await_weights    this rank's slots are complete
 *   (the framework dispatches, computes main experts and slots, combines)
 *   ultraep_release          slots may be written again, main weights may change again
 *   ultraep_plan_free
 *
 * In training the handle is kept for the backward pass (ultraep_plan_retain), again every rank in the
 * same order:
 *
 *   ultraep_stream_weights      again: a restore
 *   ultraep_prepare_gradients   this rank's slot gradients are free and zero
 *   ultraep_await_weights
 *   (the experts' backward adds to main gradients and to ultraep_plan_get_gradient)
 *   ultraep_reduce_gradients    homes pull and add the replicas' gradients
 *   ultraep_release
 *   (other work, for instance attention's backward)
 *   ultraep_await_gradients     this rank's main gradients are complete
 *
 * Without a daemon, and whenever balancing is not possible, the same calls work: the verdict is
 * DECLINED or FALLBACK, the plan has no replicas, routing goes to the main copies. Nothing here
 * ends or hangs the process. When the daemon restarts, or a member is lost and comes back (also as
 * a new process with the same group name, nonce and rank), the group goes on with a new generation
 * of shared memory by itself.
 *
 * On a kept handle ultraep_route refuses other counts. All ranks issue all streams, restores and
 * reductions in the same order.
 *
 * ULTRAEP_FAILED means: a rank could not follow a plan that others follow; treat it like a failed
 * collective. It is reported once per generation, and by every call for a plan or an open step that
 * the failure has cost. A caller that goes on all the same gets declined steps until the next
 * generation. Calls on one client come from one thread at a time, except ultraep_client_state; plan
 * handles may be used from any thread, one operation of a handle by one thread at a time.
 *
 * Units: times in nanoseconds, sizes in bytes. A timeout < 0 means the group's step_timeout.
 * Physical expert ids: rank * (experts / ranks + slots) + local, where local < experts / ranks is a
 * main copy and the others are slots. */
#ifndef ULTRAEP_PLUGIN_API_ULTRAEP_H_
#define ULTRAEP_PLUGIN_API_ULTRAEP_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ULTRAEP_API __attribute__((visibility("default")))
#define ULTRAEP_MAX_SHARDS 8

typedef enum ultraep_status {
  ULTRAEP_OK = 0,
  ULTRAEP_INVALID = 1,   /* the caller's argument or order of calls; nothing changed */
  ULTRAEP_REFUSED = 2,   /* the daemon refused the join; the text gives both sides' values */
  ULTRAEP_TIMEOUT = 3,   /* not yet; the call may be repeated */
  ULTRAEP_FAILED = 4,    /* after PLAN a rank could not follow: treat it like a failed collective */
  ULTRAEP_INTERNAL = 5   /* a defect of ultraep or of the system; the text says which */
} ultraep_status;

typedef enum ultraep_verdict {
  ULTRAEP_PLAN = 1,     /* replicas as listed */
  ULTRAEP_FALLBACK = 2, /* submitted, but all ranks use the main copies */
  ULTRAEP_DECLINED = 3  /* not submitted (no daemon, or the group is not complete): main copies */
} ultraep_verdict;

typedef enum ultraep_phase {
  ULTRAEP_DETACHED = 0, /* no daemon; trying to connect */
  ULTRAEP_JOINING = 1,  /* connected; other members are missing */
  ULTRAEP_OPEN = 2,     /* steps are planned */
  ULTRAEP_OVER = 3,     /* the generation ended, the next one is being joined: steps decline; or left */
  ULTRAEP_REFUSED_JOIN = 4 /* the daemon refused; steps decline */
} ultraep_phase;

typedef struct ultraep_client ultraep_client;
typedef struct ultraep_plan ultraep_plan;

typedef struct ultraep_attach_options {
  uint32_t struct_size;    /* sizeof(ultraep_attach_options) */
  const char* socket_path; /* NULL: $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock */
} ultraep_attach_options;

typedef enum ultraep_gradient_type {
  ULTRAEP_FLOAT32 = 0,
  ULTRAEP_BFLOAT16 = 1 /* added in float32, rounded once to nearest, ties to even */
} ultraep_gradient_type;

/* Where slots are, and on a GPU who makes them. A group on GPUs steps by ultraep_cuda.h. */
typedef enum ultraep_memory_kind {
  ULTRAEP_HOST_MEMORY = 0,
  ULTRAEP_CUDA_MEMORY = 1,          /* each rank on its GPU */
  ULTRAEP_CUDA_MEMORY_OF_DAEMON = 2 /* the daemon on each rank's GPU */
} ultraep_memory_kind;

/* Members of a group must agree on everything but rank, solve_deadline_ns, next_sequence,
 * fallback_tokens, copy_threads and what follows memory. */
typedef struct ultraep_group_config {
  uint32_t struct_size;     /* sizeof(ultraep_group_config) */
  uint32_t rank;            /* 0 .. ranks-1 */
  const char* group_name;   /* 1..63 characters */
  uint8_t nonce[16];        /* made by rank 0, one per job */
  uint32_t ranks;           /* 1..512 */
  uint32_t experts;         /* logical experts, a multiple of ranks, at most 4096 */
  uint32_t slots;           /* redundant slots per rank, 0..32 */
  uint32_t layers;          /* MoE layers, >= 1 */
  uint32_t window;          /* steps one rank may have open at once, 1..64 */
  uint32_t slot_sets;       /* 1..8; operations that overlap need a set each */
  uint32_t domain_size;     /* ranks per scale-up domain, 0 = all ranks are one domain */
  uint32_t training;        /* 0 = serving */
  uint32_t shard_count;     /* opaque byte shards per expert, 0..8 (0: plan only, nothing streams) */
  uint32_t gradient_count;  /* parts of an expert's gradient, 0..8; 0 when serving */
  /* Any size; a shard starts on 128 bytes in a slot, main copies may lie anywhere. */
  uint64_t shard_bytes[ULTRAEP_MAX_SHARDS];
  /* Of each part in a slot, float32: a multiple of 4; a part starts on 128 bytes there. Main
   * gradients have as many elements, of either type, and may lie anywhere on their element's size. */
  uint64_t gradient_bytes[ULTRAEP_MAX_SHARDS];
  uint64_t step_timeout_ns; /* the framework's collective timeout; 0 = 600 s */
  uint64_t solve_deadline_ns; /* 0 = 2 ms, or 1 s when CPUs are fewer than local ranks + 1 */
  uint64_t next_sequence;   /* sequence of the first step this rank will submit; of a process that
                               replaces a lost one: above every step that any rank submitted */
  uint64_t fallback_tokens; /* tokens this rank's memory can take unbalanced; 0 = not stated */
  uint32_t copy_threads;    /* that send weights, and as many that add gradients, 0..64; 0 = a CPU of
                               this process per 2 x ranks, 1..4: say more where each rank has CPUs of
                               its own. They run where the thread that streams first may run. */
  uint32_t memory;          /* an ultraep_memory_kind */
  int32_t device;           /* CUDA ordinal; -1: that of the calling thread's current context */
  uint32_t stream_blocks;   /* SMs that weights may take while they travel, 1..512; 0: 32 */
  uint32_t reduce_blocks;   /* and gradients, 1..512; 0: 32 */
  uint32_t unused;
} ultraep_group_config;

/* Shared memory in bytes, all of it allocated when a generation begins; twice while the group changes
 * to a next one. slots_of_rank: about slots_per_rank x the three above. */
typedef struct ultraep_memory {
  uint64_t weights_per_slot;   /* all shards of one expert, scales included, each on 128 bytes */
  uint64_t flags_per_slot;
  uint64_t gradients_per_slot; /* 0 when serving */
  uint64_t slots_per_rank;     /* slots x slot_sets, shared by all layers */
  uint64_t slots_of_rank;
  uint64_t group;              /* all ranks' slots, rows, plans and verdicts */
} ultraep_memory;

typedef struct ultraep_client_info {
  ultraep_phase phase;
  uint64_t generation;  /* 0 before a join */
  char text[512];       /* why, in words */
  uint64_t generations; /* that opened for this client so far */
  uint64_t last_gap_ns; /* from noticing the end of the last one to the opening of the present one;
                           0 for the first */
} ultraep_client_info;

typedef struct ultraep_replica {
  uint32_t expert; /* logical */
  uint32_t rank;
  uint32_t slot;
  int32_t parent;  /* -1: weights come from the main copy; else index of an earlier replica */
  uint64_t tokens; /* quota */
} ultraep_replica;

typedef struct ultraep_plan_info {
  ultraep_verdict verdict;
  uint32_t layer;
  uint32_t microbatch;
  uint32_t replica_count;
  uint64_t sequence;
  uint64_t total_tokens; /* 0 unless verdict is ULTRAEP_PLAN, as are the next four */
  uint64_t peak_before;
  uint64_t peak;
  uint64_t lower_bound;
  uint64_t solve_ns;
  uint64_t operation; /* number of its last stream or reduction in the generation, 0 = none yet */
  uint32_t slot_set;
  uint32_t unused;
  uint64_t handle_bytes; /* private memory of this handle; none of it is shared memory */
} ultraep_plan_info;

/* The plan's last stream or restore on this rank; complete once ultraep_release returned. */
typedef struct ultraep_stream_stats {
  uint64_t bytes;   /* stored into remote slots by this rank */
  uint64_t copy_ns; /* spent copying, all threads together */
  uint64_t wait_ns; /* spent waiting for slots to be released and for relayed chunks, all threads */
  uint64_t relayed_bytes; /* of bytes: forwarded from this rank's own slots */
  uint64_t transfers;     /* experts sent */
  uint64_t loaded_bytes;  /* read for it: less than bytes where one load served several transfers */
  uint64_t send_ns;   /* from ultraep_stream_weights to the last byte sent */
  uint64_t arrive_ns; /* from ultraep_stream_weights to this rank's slots being seen complete */
} ultraep_stream_stats;

/* The plan's last reduction on this rank; complete once ultraep_await_gradients returned. */
typedef struct ultraep_reduce_stats {
  uint64_t bytes;    /* of replica gradients that were added to this rank's main gradients */
  uint64_t replicas; /* whose gradients these were */
  uint64_t add_ns;     /* spent adding, all threads together */
  uint64_t wait_ns;    /* spent waiting for replicas' gradients, all threads together */
  uint64_t prepare_ns; /* in ultraep_prepare_gradients: waiting for slots to be free, and zeroing */
  uint64_t reduce_ns;  /* from ultraep_reduce_gradients to this rank's main gradients being complete */
} ultraep_reduce_stats;

/* Text of the calling thread's last call that did not return ULTRAEP_OK. Never NULL. */
ULTRAEP_API const char* ultraep_last_error(void);
ULTRAEP_API const char* ultraep_status_name(ultraep_status status);
ULTRAEP_API const char* ultraep_version(void);

/* Makes a client. An absent daemon is no error: the client keeps trying in the background. */
ULTRAEP_API ultraep_status ultraep_attach(const ultraep_attach_options* options,
                                          ultraep_client** client);

/* Asks to join; once per client. timeout_ns 0: returns at once, steps are declined until the group
 * is complete. > 0: waits for the group to be complete (OK), the daemon's refusal (REFUSED) or the
 * time (TIMEOUT; joining goes on in the background). */
ULTRAEP_API ultraep_status ultraep_join(ultraep_client* client, const ultraep_group_config* config,
                                        int64_t timeout_ns);
/* What a group of this configuration will take. Needs neither daemon nor client. */
ULTRAEP_API ultraep_status ultraep_memory_of(const ultraep_group_config* config,
                                             ultraep_memory* memory);
ULTRAEP_API ultraep_status ultraep_client_state(ultraep_client* client, ultraep_client_info* info);

/* Counts a step's row. ids: [count] logical ids after gating, -1 = none; row: [experts], overwritten.
 * INVALID, and nothing written, when an id is out of range. Needs neither daemon nor client. */
ULTRAEP_API ultraep_status ultraep_count_load(const int32_t* ids, uint64_t count, uint32_t experts,
                                              uint32_t* row);

/* row: tokens this rank routes to each logical expert, [experts] uint32, zeros allowed; its sum is
 * at most 2^32 - 1. Sequences rise by one per step, the same on all ranks; step s needs step
 * s - window to be resolved by ultraep_await_verdict. OK also when the step is declined. FAILED:
 * nothing was submitted, the same call may be repeated. */
ULTRAEP_API ultraep_status ultraep_submit_load(ultraep_client* client, uint64_t sequence,
                                               uint32_t layer, uint32_t microbatch,
                                               const uint32_t* row, uint32_t experts);

/* Gives a handle (reference count 1) for every verdict but FAILED. Steps resolve in order. */
ULTRAEP_API ultraep_status ultraep_await_verdict(ultraep_client* client, uint64_t sequence,
                                                 int64_t timeout_ns, ultraep_plan** plan);

ULTRAEP_API void ultraep_plan_retain(ultraep_plan* plan);
/* NULL allowed. The last free of a streamed plan awaits its gradients and releases it, if nobody
 * has. */
ULTRAEP_API void ultraep_plan_free(ultraep_plan* plan);
ULTRAEP_API ultraep_status ultraep_plan_get_info(const ultraep_plan* plan, ultraep_plan_info* info);
/* Copies up to `capacity` replicas, in transfer order. */
ULTRAEP_API ultraep_status ultraep_plan_get_replicas(const ultraep_plan* plan,
                                                     ultraep_replica* replicas, uint32_t capacity);

/* ids: [tokens][top_k] logical ids, -1 = none; physical_ids: same shape, may be the same memory.
 * Refuses (INVALID, nothing written) ids out of range and counts that differ from the submitted
 * row. The result is a function of plan and ids alone. */
ULTRAEP_API ultraep_status ultraep_route(const ultraep_plan* plan, const int32_t* ids,
                                         uint64_t tokens, uint32_t top_k, int32_t* physical_ids);

/* Starts this rank's sends of the plan, on slot set `slot_set`. main_weights: [experts / ranks]
 * [shard_count] pointers to this rank's main copies, which must stay unchanged until
 * ultraep_release returned. Every rank calls it for every step, in the same order. Called again
 * after ultraep_release it is a restore, also when the plan's generation is over: every rank calls
 * it then, at the same place among its loads, streams and restores. FAILED when a rank is gone. */
ULTRAEP_API ultraep_status ultraep_stream_weights(ultraep_plan* plan, uint32_t slot_set,
                                                  const void* const* main_weights);
/* Waits until all replicas of the plan on this rank are complete. FAILED names a missing rank. */
ULTRAEP_API ultraep_status ultraep_await_weights(ultraep_plan* plan, int64_t timeout_ns);
/* Who sits in this rank's slot: the logical expert, or UINT32_MAX, and its shards' addresses
 * ([shard_count], 128-byte aligned). Valid after ultraep_await_weights until ultraep_release. */
ULTRAEP_API ultraep_status ultraep_plan_get_slot(const ultraep_plan* plan, uint32_t slot,
                                                 uint32_t* expert, const void** shards);
/* Says that this rank's compute on the slots is done; waits for its own sends. In training after
 * ultraep_reduce_gradients. */
ULTRAEP_API ultraep_status ultraep_release(ultraep_plan* plan, int64_t timeout_ns);
ULTRAEP_API ultraep_status ultraep_plan_get_stream_stats(const ultraep_plan* plan,
                                                         ultraep_stream_stats* stats);

/* Training. Waits until the slot gradients that the streamed plan uses on this rank are free (the home
 * they last were for has added them) and, unless `zero` is 0, zeroes them; a backward that overwrites
 * need not. Best called while the weights travel. OK at once when the plan has no replicas. */
ULTRAEP_API ultraep_status ultraep_prepare_gradients(ultraep_plan* plan, int zero,
                                                     int64_t timeout_ns);
/* Where the backward of this rank's slot adds its gradient: the logical expert, or UINT32_MAX, and
 * the addresses of its parts ([gradient_count], float32, 128-byte aligned). Valid after
 * ultraep_prepare_gradients until ultraep_reduce_gradients. */
ULTRAEP_API ultraep_status ultraep_plan_get_gradient(const ultraep_plan* plan, uint32_t slot,
                                                     uint32_t* expert, float** parts);
/* Publishes this rank's slot gradients and begins to add those of its own experts' replicas to
 * main_gradients: [experts / ranks][gradient_count] pointers, of `type` (an ultraep_gradient_type),
 * which belong to ultraep from here until ultraep_await_gradients returned. Every rank calls it for
 * every plan it restores for a backward, in the same order, before ultraep_release. Replicas are added
 * in ascending rank order, so the sums are the same bits in every run; `any_order` other than 0 adds
 * whoever is there first (to bfloat16 all at once even then). */
ULTRAEP_API ultraep_status ultraep_reduce_gradients(ultraep_plan* plan, void* const* main_gradients,
                                                    uint32_t type, int any_order);
/* Waits until this rank's main gradients are complete. FAILED names a missing rank; the main
 * gradients are then to be thrown away. OK at once when nothing is being reduced. */
ULTRAEP_API ultraep_status ultraep_await_gradients(ultraep_plan* plan, int64_t timeout_ns);
ULTRAEP_API ultraep_status ultraep_plan_get_reduce_stats(const ultraep_plan* plan,
                                                         ultraep_reduce_stats* stats);

/* Ends the membership: ends the generation, so that every open step resolves at once, then tells the
 * daemon. The group's other members go on without plans. Plans stay valid, but for new streams. */
ULTRAEP_API ultraep_status ultraep_leave(ultraep_client* client);
/* Leaves if need be and frees the client. Plans stay valid until freed. NULL allowed. */
ULTRAEP_API void ultraep_detach(ultraep_client* client);

#ifdef __cplusplus
}
#endif

#endif /* ULTRAEP_PLUGIN_API_ULTRAEP_H_ */
