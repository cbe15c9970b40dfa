#include "tests/support/device_group.h"

#include <map>

// A thread that ends gives back the thread-local variables of libraries that were loaded later,
// which ThreadSanitizer takes for a race with their last use by a thread before it.
extern "C" const char* __tsan_default_suppressions() { return "race:_dl_deallocate_tls\n"; }

namespace ultraep::test {

// Each id goes to an instance of its expert, each replica gets exactly its quota, and all ranks say
// the same.
std::string CheckStep(const ultraep_group_config& config, const std::vector<StepOutcome>& ranks) {
  const uint32_t own = config.experts / config.ranks, per_rank = own + config.slots;
  const StepOutcome& first = ranks[0];
  std::map<uint32_t, uint32_t> expert_of;  // of a physical id
  for (uint32_t e = 0; e < config.experts; ++e) expert_of[e / own * per_rank + e % own] = e;
  for (const ultraep_replica& r : first.replicas)
    expert_of[r.rank * per_rank + own + r.slot] = r.expert;
  std::map<uint32_t, uint64_t> tokens;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const StepOutcome& o = ranks[r];
    const std::string who = "rank " + std::to_string(r) + ": ";
    if (!o.wrong.empty()) return who + o.wrong;
    if (o.info.verdict != first.info.verdict || o.info.sequence != first.info.sequence)
      return who + "another verdict or step than rank 0: " + std::to_string(o.info.verdict);
    if (o.replicas.size() != first.replicas.size()) return who + "other replicas than rank 0";
    for (size_t i = 0; i < o.ids.size(); ++i) {
      if (o.ids[i] < 0 && o.physical[i] == -1) continue;
      const auto at = expert_of.find(uint32_t(o.physical[i]));
      if (at == expert_of.end() || int32_t(at->second) != o.ids[i])
        return who + "id " + std::to_string(o.ids[i]) + " went to " +
               std::to_string(o.physical[i]);
      ++tokens[uint32_t(o.physical[i])];
    }
  }
  for (const ultraep_replica& r : first.replicas)
    if (tokens[r.rank * per_rank + own + r.slot] != r.tokens)
      return "the replica of expert " + std::to_string(r.expert) + " on rank " +
             std::to_string(r.rank) + " got " +
             std::to_string(tokens[r.rank * per_rank + own + r.slot]) + " tokens, its quota is " +
             std::to_string(r.tokens);
  return "";
}

}  // namespace ultraep::test
