#include "tests/fault/loop_rank.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <vector>

#include "plugin/api/ultraep.h"
#include "protocol/plan.h"
#include "protocol/test_points.h"
#include "protocol/transport/waiting.h"
#include "tests/fault/loop_gradients.h"

namespace ultraep::test {

void Violation(SharedState* shared, const char* format, ...) {
  const uint32_t at = shared->violations.fetch_add(1);
  if (at >= SharedState::kTexts) return;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(shared->text[at], SharedState::kTextBytes, format, arguments);
  va_end(arguments);
}

namespace {

constexpr uint64_t kKeepEvery = 16, kKeepAt = 7, kRestoreAfter = 8, kRestoreEvery = 4;

class LoopRank {
 public:
  explicit LoopRank(const RankTask& task)
      : task_(task),
        config_(task.config),
        shared_(*task.shared),
        group_(shared_.groups[task.group]),
        state_(group_.ranks[task.rank]),
        expected_(task.config, task.seed, 5000),
        gradients_(task.config, task.rank),
        row_(config_.experts) {
    uint64_t all = 0;
    for (const uint64_t bytes : config_.shard_bytes) all += bytes;
    const uint32_t own = config_.experts / config_.ranks;
    memory_.resize(own * all + 16);
    unsigned char* at = memory_.data();
    for (uint32_t e = 0; e < own; ++e)
      for (const uint64_t bytes : config_.shard_bytes) {
        mains_.push_back(at);
        at += bytes;
      }
  }

  void Run() {
    first_ = group_.called.load();
    Begin(kAttach);
    const ultraep_attach_options attach{sizeof attach, task_.socket.c_str()};
    Demand(ultraep_attach(&attach, &client_), "attach");
    Begin(kJoin);
    Demand(Join(), "join");
    uint64_t next = first_;
    for (uint64_t step = first_;; ++step) {
      state_.at = step;
      for (; next < step + config_.window; ++next) Submit(next);
      Resolve(step);
    }
  }

 private:
  ultraep_status Join() {
    ultraep_group_config c{};
    c.struct_size = sizeof c;
    c.rank = task_.rank;
    c.group_name = task_.group_name.c_str();
    std::memcpy(c.nonce, &task_.seed, 8);
    c.ranks = config_.ranks;
    c.experts = config_.experts;
    c.slots = config_.slots;
    c.layers = 4;
    c.window = config_.window;
    c.slot_sets = config_.slot_sets;
    c.shard_count = 2;
    std::memcpy(c.shard_bytes, config_.shard_bytes, sizeof config_.shard_bytes);
    c.training = 1;
    c.gradient_count = 2;
    for (uint32_t i = 0; i < 2; ++i) c.gradient_bytes[i] = config_.gradient_elements(i) * 4;
    c.copy_threads = 1 + task_.group % 2;
    c.step_timeout_ns = kStepTimeoutNs;
    c.solve_deadline_ns = kStepTimeoutNs / 2;  // a starved daemon is no reason: FALLBACK needs one
    c.next_sequence = first_;
    return ultraep_join(client_, &c, 0);
  }

  void Begin(Call call) {
    state_.since_ns = NowNs();
    state_.call = call;
  }

  [[noreturn]] void Stop() { _exit(9); }

  void Demand(ultraep_status status, const char* call) {
    if (status == ULTRAEP_OK) return;
    Violation(&shared_, "group %u rank %u step %lu: %s says %s: %s", task_.group, task_.rank,
              state_.at.load(), call, ultraep_status_name(status), ultraep_last_error());
    Stop();
  }

  // True when the call succeeded; FAILED needs a reason, and nothing else may be said.
  bool Follows(ultraep_status status, const char* call, uint64_t step) {
    if (status == ULTRAEP_OK) return true;
    if (status != ULTRAEP_FAILED) Demand(status, call);
    group_.counters.failed.fetch_add(1);
    if (!group_.loss.active()) {
      Violation(&shared_, "group %u rank %u step %lu: FAILED although no rank was lost: %s",
                task_.group, task_.rank, step, ultraep_last_error());
      Stop();
    }
    return false;
  }

  void Submit(uint64_t step) {
    Entry& entry = group_.at(step, task_.rank);
    entry.first = first_;
    entry.submitted = step + 1;
    RaiseTo(group_.called, step + 1);
    ExpectedRow(task_.seed, step, task_.rank, config_.experts, row_.data());
    Begin(kSubmit);
    for (int i = 0; i < 8; ++i) {  // FAILED: an earlier step's, told once per generation
      const ultraep_status status = ultraep_submit_load(
          client_, step, uint32_t(step % 4), uint32_t(step), row_.data(), config_.experts);
      if (Follows(status, "submit", step)) {
        state_.next = step + 1;
        return;
      }
    }
    Violation(&shared_, "group %u rank %u step %lu: submit fails for ever", task_.group, task_.rank,
              step);
    Stop();
  }

  void Resolve(uint64_t step) {
    Begin(kAwait);
    ultraep_plan* plan = nullptr;
    Outcome outcome = kLost;
    ultraep_plan_info info{};
    if (Follows(ultraep_await_verdict(client_, step, -1, &plan), "await", step)) {
      Demand(ultraep_plan_get_info(plan, &info), "get_info");
      outcome = Outcome(info.verdict);
    }
    Publish(step, outcome);
    const bool held = outcome == kPlanned && Follow(plan, info, step);
    if (outcome == kFellBack || outcome == kDeclined) UseMains(plan, info, step, outcome);
    group_.at(step, task_.rank).held = (step + 1) << 1 | held;
    if (held && step % kKeepEvery == kKeepAt) {
      if (config_.restore_declined) FreeKept();
      kept_[step] = plan;
    } else {
      Begin(kFree);
      ultraep_plan_free(plan);
    }
    if (config_.restore_declined) {
      if (step % kRestoreEvery == 0 && !kept_.empty()) Restore(kept_.begin()->second, step);
    } else if (step % kKeepEvery == kKeepAt + kRestoreAfter) {
      RestoreKept(step, outcome);
    }
    Begin(kIdle);
    if (outcome == kPlanned) state_.planned_next = step + 1;
    if (outcome == kDeclined) Pace(step);
  }

  // Published first and compared then: of two ranks at least one sees the other.
  void Publish(uint64_t step, Outcome outcome) {
    Counters& c = group_.counters;
    c.steps.fetch_add(1);
    if (outcome == kPlanned) c.planned.fetch_add(1);
    if (outcome == kFellBack) c.fallback.fetch_add(1);
    if (outcome == kDeclined) c.declined.fetch_add(1);
    group_.at(step, task_.rank).outcome = (step + 1) << 3 | outcome;
    for (uint32_t r = 0; r < config_.ranks; ++r) {
      const uint64_t word = group_.at(step, r).outcome;
      if (word >> 3 != step + 1 || !Mixed(outcome, word & 7)) continue;
      Violation(&shared_, "group %u step %lu: rank %u has %s and rank %u has %s", task_.group, step,
                task_.rank, OutcomeName(outcome), r, OutcomeName(word & 7));
      Stop();
    }
  }

  void UseMains(ultraep_plan* plan, const ultraep_plan_info& info, uint64_t step, Outcome outcome) {
    if (info.replica_count || info.total_tokens)
      Wrong(step, "main copies only, yet there are replicas");
    if (outcome == kFellBack && !group_.any.active())
      Wrong(step, "FALLBACK although nothing happened");
    if (step % 8 == 0) Route(plan, {}, step);
  }

  void Wrong(uint64_t step, const std::string& what) {
    Violation(&shared_, "group %u rank %u step %lu: %s", task_.group, task_.rank, step,
              what.c_str());
    Stop();
  }

  // True when the plan was followed to the end.
  bool Follow(ultraep_plan* plan, const ultraep_plan_info& info, uint64_t step) {
    std::vector<ultraep_replica> replicas(info.replica_count);
    Demand(ultraep_plan_get_replicas(plan, replicas.data(), info.replica_count), "get_replicas");
    const std::string wrong = expected_.Compare(step, info, replicas);
    if (!wrong.empty() || info.sequence != step || info.layer != step % 4)
      Wrong(step, "a wrong plan: " + wrong);
    if (!Stream(plan, replicas, kStream, step, step * 2)) return false;
    if (step % 8 == 0) Route(plan, replicas, step);
    return true;
  }

  // One operation from its first store to its release, with new weights.
  bool Stream(ultraep_plan* plan, const std::vector<ultraep_replica>& replicas, Call call,
              uint64_t step, uint64_t tag) {
    const uint32_t per_rank = config_.experts / config_.ranks;
    for (const ultraep_replica& r : replicas)
      for (uint32_t i = 0; r.expert / per_rank == task_.rank && i < 2; ++i)
        FillWeights(mains_[r.expert % per_rank * 2 + i], config_.shard_bytes[i],
                    WeightBase(r.expert, i, tag));
    Begin(call);
    const auto* mains = reinterpret_cast<const void* const*>(mains_.data());
    bool followed = Follows(ultraep_stream_weights(plan, uint32_t(step % config_.slot_sets), mains),
                            "stream", step);
    if (!followed) return false;
    Begin(kPrepare);
    followed = Follows(ultraep_prepare_gradients(plan, 1, -1), "prepare_gradients", step);
    Begin(kAwaitWeights);
    followed &= Follows(ultraep_await_weights(plan, -1), "await_weights", step);
    if (followed) CheckSlots(plan, replicas, step, tag);
    followed = followed && Reduce(plan, step, tag);
    Begin(kRelease);
    followed &= Follows(Repeat([&] { return ultraep_release(plan, -1); }), "release", step);
    Begin(kAwaitGradients);  // also after a failure: they are its own until it returned
    followed &=
        Follows(Repeat([&] { return ultraep_await_gradients(plan, -1); }), "await_gradients", step);
    if (!followed) return false;
    if (const std::string wrong = gradients_.Check(replicas, tag); !wrong.empty())
      Wrong(step, wrong);
    for (const ultraep_replica& r : replicas)
      group_.counters.gradients_checked +=
          r.expert / (config_.experts / config_.ranks) == task_.rank;
    return true;
  }

  template <class Again>
  static ultraep_status Repeat(const Again& call) {
    ultraep_status status;
    do status = call();
    while (status == ULTRAEP_TIMEOUT);
    return status;
  }

  // The backward of this rank's slots, and the reduction's begin.
  bool Reduce(ultraep_plan* plan, uint64_t step, uint64_t tag) {
    for (uint32_t slot = 0; slot < config_.slots; ++slot) {
      uint32_t expert = 0;
      float* parts[ULTRAEP_MAX_SHARDS];
      Demand(ultraep_plan_get_gradient(plan, slot, &expert, parts), "get_gradient");
      if (expert != UINT32_MAX) gradients_.Add(expert, parts, tag);
    }
    Begin(kReduce);
    return Follows(ultraep_reduce_gradients(plan, gradients_.Begin(), ULTRAEP_FLOAT32, 0), "reduce",
                   step);
  }

  void CheckSlots(ultraep_plan* plan, const std::vector<ultraep_replica>& replicas, uint64_t step,
                  uint64_t tag) {
    for (const ultraep_replica& r : replicas) {
      if (r.rank != task_.rank) continue;
      uint32_t expert = 0;
      const void* shards[ULTRAEP_MAX_SHARDS];
      Demand(ultraep_plan_get_slot(plan, r.slot, &expert, shards), "get_slot");
      if (expert != r.expert) Wrong(step, "another expert in the slot");
      for (uint32_t i = 0; i < 2; ++i) {
        const uint64_t bytes = config_.shard_bytes[i];
        const uint64_t at = FirstWrongWeight(static_cast<const unsigned char*>(shards[i]), bytes,
                                             WeightBase(expert, i, tag));
        if (at != bytes)
          Wrong(step, std::string(tag & 1 ? "restored" : "streamed") + " weights of expert " +
                          std::to_string(expert) + " shard " + std::to_string(i) +
                          " are wrong from byte " + std::to_string(at));
      }
      group_.counters.slots_checked.fetch_add(1);
    }
  }

  void Route(ultraep_plan* plan, const std::vector<ultraep_replica>& replicas, uint64_t step) {
    ExpectedRow(task_.seed, step, task_.rank, config_.experts, row_.data());
    std::vector<int32_t> ids, physical(kRowTokens);
    for (uint32_t e = 0; e < config_.experts; ++e) ids.insert(ids.end(), row_[e], int32_t(e));
    Begin(kRoute);
    Demand(ultraep_route(plan, ids.data(), ids.size(), 1, physical.data()), "route");
    const PhysicalIds layout{config_.experts / config_.ranks, config_.slots};
    std::vector<int64_t> holds(layout.per_rank() * config_.ranks, -1);
    for (uint32_t e = 0; e < config_.experts; ++e) holds[layout.main(e)] = e;
    for (const ultraep_replica& r : replicas) holds[layout.replica(r.rank, r.slot)] = r.expert;
    std::vector<uint64_t> taken(holds.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (size_t(physical[i]) >= holds.size() || holds[size_t(physical[i])] != ids[i])
        Wrong(step, "a token went to a copy that is none of its expert's");
      ++taken[size_t(physical[i])];
    }
    for (const ultraep_replica& r : replicas)
      if (taken[layout.replica(r.rank, r.slot)] > r.tokens)
        Wrong(step, "more tokens than the quota");
  }

  void Restore(ultraep_plan* plan, uint64_t step) {
    ultraep_plan_info info{};
    Demand(ultraep_plan_get_info(plan, &info), "get_info");
    std::vector<ultraep_replica> replicas(info.replica_count);
    Demand(ultraep_plan_get_replicas(plan, replicas.data(), info.replica_count), "get_replicas");
    if (Stream(plan, replicas, kRestore, step, step * 2 + 1)) group_.counters.restored.fetch_add(1);
  }

  // All ranks come to the same answer: after a PLAN every rank of the step has said of which
  // process it is and what became of the earlier step.
  bool AllHold(uint64_t kept, uint64_t step, Outcome outcome) {
    if (outcome != kPlanned) return false;
    for (uint32_t r = 0; r < config_.ranks; ++r)
      if (group_.at(kept, r).held != ((kept + 1) << 1 | 1) || group_.at(step, r).first > kept)
        return false;
    return true;
  }

  void RestoreKept(uint64_t step, Outcome outcome) {
    if (kept_.empty()) return;
    const auto [kept, plan] = *kept_.begin();
    if (kept == step - kRestoreAfter && AllHold(kept, step, outcome)) Restore(plan, step);
    FreeKept();
  }

  void FreeKept() {
    Begin(kFree);
    for (const auto& [step, plan] : kept_) ultraep_plan_free(plan);
    kept_.clear();
  }

  // The first rank of a group without a daemon sets the pace, the others catch up.
  void Pace(uint64_t step) {
    ultraep_client_info info;
    Demand(ultraep_client_state(client_, &info), "client_state");
    state_.phase = uint32_t(info.phase);
    if (info.phase == ULTRAEP_REFUSED_JOIN) Wrong(step, std::string("refused: ") + info.text);
    if (group_.called.load() <= step + config_.window) usleep(500);
  }

  const RankTask& task_;
  const LoopConfig config_;
  SharedState& shared_;
  GroupState& group_;
  RankState& state_;
  ExpectedPlan expected_;
  LoopGradients gradients_;
  std::vector<uint32_t> row_;
  std::vector<unsigned char> memory_;
  std::vector<unsigned char*> mains_;  // [own expert][shard]
  std::map<uint64_t, ultraep_plan*> kept_;
  ultraep_client* client_ = nullptr;
  uint64_t first_ = 0;
};

}  // namespace

void RunRank(const RankTask& task) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (task.kill_pass) TheKill().Set(task.kill_at, task.kill_pass);
  LoopRank(task).Run();
  _exit(0);
}

}  // namespace ultraep::test
