/* The main path of one step for one rank, in C: load, verdict, weights, route, compute, release.
 *
 *   ultraepd --socket /tmp/ultraepd.sock &
 *   minimal_step /tmp/ultraepd.sock
 *
 * A group of one rank has nobody to move tokens to, so its plans have no replicas; a framework
 * makes the same calls on every rank. Without a daemon the verdict is DECLINED and the rest is the
 * same. */
#include <stdio.h>
#include <string.h>

#include "plugin/api/ultraep.h"

enum { kExperts = 4, kSlots = 1, kTokens = 6, kTopK = 2, kShardBytes = 4096 };

static unsigned char main_copies[kExperts][kShardBytes];

static int Fail(const char* call) {
  fprintf(stderr, "%s: %s\n", call, ultraep_last_error());
  return 1;
}

static int Step(ultraep_client* client, uint64_t sequence) {
  const int32_t ids[kTokens * kTopK] = {0, 1, 0, 2, 0, 3, 0, 1, 0, 2, 1, -1}; /* -1: no expert */
  int32_t physical[kTokens * kTopK];
  uint32_t row[kExperts] = {0};
  const void* main_weights[kExperts];
  const void* shards[ULTRAEP_MAX_SHARDS];
  ultraep_plan* plan = NULL;
  ultraep_plan_info info;
  uint32_t expert;
  int i;

  for (i = 0; i < kTokens * kTopK; ++i) {
    if (ids[i] >= 0) ++row[ids[i]];
  }
  if (ultraep_submit_load(client, sequence, 0, 0, row, kExperts)) return Fail("submit_load");
  if (ultraep_await_verdict(client, sequence, -1, &plan)) return Fail("await_verdict");

  for (i = 0; i < kExperts; ++i) main_weights[i] = main_copies[i];
  if (ultraep_stream_weights(plan, 0, main_weights)) return Fail("stream_weights");
  if (ultraep_route(plan, ids, kTokens, kTopK, physical)) return Fail("route");
  /* Here the framework dispatches tokens by physical id. */
  if (ultraep_await_weights(plan, -1)) return Fail("await_weights");
  if (ultraep_plan_get_slot(plan, 0, &expert, shards)) return Fail("plan_get_slot");
  /* Here it computes main experts and, where expert != UINT32_MAX, the slot; then it combines. */
  if (ultraep_release(plan, -1)) return Fail("release");

  if (ultraep_plan_get_info(plan, &info)) return Fail("plan_get_info");
  printf("step %llu: verdict %d, %u replicas, first token goes to %d and %d\n",
         (unsigned long long)sequence, (int)info.verdict, info.replica_count, physical[0],
         physical[1]);
  ultraep_plan_free(plan);
  return 0;
}

int main(int argc, char** argv) {
  ultraep_attach_options attach = {sizeof attach, argc > 1 ? argv[1] : NULL};
  ultraep_group_config config;
  ultraep_client* client = NULL;
  uint64_t sequence;
  int failed = 0;

  if (ultraep_attach(&attach, &client)) return Fail("attach");
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  config.group_name = "minimal";
  config.nonce[0] = 1; /* rank 0 draws it at random and sends it to the others */
  config.ranks = 1;
  config.experts = kExperts;
  config.slots = kSlots;
  config.layers = 1;
  config.window = 1;
  config.slot_sets = 1;
  config.shard_count = 1;
  config.shard_bytes[0] = kShardBytes;
  if (ultraep_join(client, &config, 1000000000)) fprintf(stderr, "%s\n", ultraep_last_error());

  for (sequence = 0; sequence < 3 && !failed; ++sequence) failed = Step(client, sequence);
  ultraep_detach(client);
  return failed;
}
