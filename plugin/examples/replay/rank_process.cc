#include "plugin/examples/replay/rank_process.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/count_load.h"
#include "plugin/api/ultraep.h"
#include "plugin/examples/replay/backward.h"
#include "plugin/examples/replay/copy_sampler.h"
#include "plugin/examples/replay/model_step.h"
#include "protocol/transport/waiting.h"

namespace ultraep::replay {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kJoinPollNs = 1'000'000;
constexpr uint64_t kSampleEvery = 8;  // operations with sends between two memcpy measurements

struct PlanDeleter {
  void operator()(ultraep_plan* plan) const { ultraep_plan_free(plan); }
};
using PlanPointer = std::unique_ptr<ultraep_plan, PlanDeleter>;

class RankProcess {
 public:
  RankProcess(const Options& options, const GroupIdentity& group, uint32_t rank, LoadSource* loads,
              SharedState* shared)
      : options_(options),
        group_(group),
        rank_(rank),
        loads_(loads),
        shared_(shared),
        record_(shared->rank(rank)),
        meeting_(&shared->control()->meeting),
        earlier_generations_(record_->generations.get()),
        model_(shared, rank, options.top_k, options.seed),
        row_(options.shape.experts),
        slots_(options.shape.slots) {
    if (options.train) backward_.emplace(shared, rank);
  }

  int Run() {
    if (!record_->filled.get()) FillOwnWeights();
    const uint32_t epoch = meeting_->epoch.count.load(std::memory_order_acquire);
    bool going = epoch == 0 || Attend(epoch);
    while (going && !RunSteps()) going = exit_ == kRankDone && Attend(epoch_ + 1);
    NoteGeneration();
    plan_.reset();
    ultraep_detach(client_);
    return exit_;
  }

 private:
  // True when the last step is done. False with exit_ still kRankDone: interrupted.
  bool RunSteps() {
    if (!client_ && !IsOver(sequence_) && !Join()) return false;
    if (epoch_ == 0 && !PassBarrier(options_.join_timeout_s)) return false;
    for (; !IsOver(sequence_); ++sequence_) {
      if (!Step()) return false;
    }
    return true;
  }

  // All ranks find the same, since rank 0 names the last step before its first barrier.
  bool IsOver(uint64_t sequence) const {
    return sequence >= options_.end_sequence() ||
           sequence > shared_->control()->last_sequence.value.load(std::memory_order_relaxed);
  }

  bool Step() {
    const auto layer = static_cast<uint32_t>(sequence_ % options_.layers);
    record_->begun.Set(sequence_ + 1);
    return Submit(layer) && Resolve() && Send(layer) && PassBarrier(0) && Receive() &&
           PassBarrier(0) && Finish(layer) && EndTogether();
  }

  // load
  bool Submit(uint32_t layer) {
    const uint64_t step = sequence_ / options_.layers;
    loads_->Ids(step, layer, rank_, &ids_);
    if (IdFault fault = CountLoad(ids_.data(), ids_.size(), options_.shape.experts, row_.data()))
      return Broken(fault.text(options_.shape.experts));
    model_.Begin(sequence_, layer, ids_);
    record_->note.submit_ns = NowNs();
    const auto submit = [&] {
      return ultraep_submit_load(client_, sequence_, layer, static_cast<uint32_t>(step),
                                 row_.data(), options_.shape.experts);
    };
    ultraep_status status = submit();
    // It is an earlier step's plan that could not be followed. Told once: this step is declined.
    if (status == ULTRAEP_FAILED && options_.respawn && (status = submit()) == ULTRAEP_FAILED)
      return Broken(std::string("FAILED twice for one step: ") + ultraep_last_error());
    return Check(status);
  }

  // verdict
  bool Resolve() {
    ultraep_plan* plan = nullptr;
    if (!Check(ultraep_await_verdict(client_, sequence_, -1, &plan))) return false;
    verdict_ns_ = NowNs();
    plan_.reset(plan);
    if (!Check(ultraep_plan_get_info(plan, &info_))) return false;
    record_->note.verdict = info_.verdict;
    (info_.verdict == ULTRAEP_PLAN       ? record_->planned
     : info_.verdict == ULTRAEP_FALLBACK ? record_->fallbacks
                                         : record_->declined)
        .Add(1);
    replicas_.resize(info_.replica_count);
    return Check(ultraep_plan_get_replicas(plan, replicas_.data(), info_.replica_count));
  }

  // weights and route
  bool Send(uint32_t layer) {
    main_weights_.clear();
    const uint32_t mains = options_.shape.experts_per_rank();
    for (uint32_t e = rank_ * mains; e < (rank_ + 1) * mains; ++e) {
      main_weights_.push_back(shared_->main_up(layer, e));
      main_weights_.push_back(shared_->main_down(layer, e));
    }
    if (!Check(ultraep_stream_weights(plan_.get(), 0, main_weights_.data()))) return false;
    physical_.resize(ids_.size());
    if (!Check(ultraep_route(plan_.get(), ids_.data(), model_.tokens(), options_.top_k,
                             physical_.data())))
      return false;
    model_.Dispatch(physical_);
    Control* control = shared_->control();
    if (rank_ == 0 && control->stop.count.load(std::memory_order_relaxed))
      control->last_sequence.value.store(sequence_, std::memory_order_relaxed);
    return true;
  }

  // Between the step's barriers: all ranks' notes and send buffers stand still.
  bool Receive() {
    if (info_.verdict == ULTRAEP_PLAN) NoteVerdictTime();
    if (rank_ == 0) {
      RecordStep(shared_);  // the step before, which all have finished
      MeasureStep(shared_, sequence_, info_.solve_ns);
    }
    if (!Check(ultraep_await_weights(plan_.get(), -1))) return false;
    for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
      uint32_t expert = UINT32_MAX;
      const void* shards[ULTRAEP_MAX_SHARDS] = {};
      if (!Check(ultraep_plan_get_slot(plan_.get(), slot, &expert, shards))) return false;
      slots_[slot] = {};
      if (expert != UINT32_MAX)
        slots_[slot] = {static_cast<const float*>(shards[0]), static_cast<const float*>(shards[1])};
    }
    std::vector<uint64_t> missing = model_.Compute(slots_);
    for (const ultraep_replica& replica : replicas_) {
      if (replica.rank == rank_) missing[replica.slot] -= replica.tokens;
    }
    const bool exact = std::all_of(missing.begin(), missing.end(), [](uint64_t n) { return !n; });
    record_->quota_misses.Add(exact ? 0 : 1);
    return true;
  }

  bool Finish(uint32_t layer) {
    record_->mismatches.Add(model_.Check());
    record_->tokens.Set(model_.tokens());
    if (!Check(ultraep_release(plan_.get(), -1))) return false;
    ultraep_stream_stats stats = {};
    if (!Check(ultraep_plan_get_stream_stats(plan_.get(), &stats))) return false;
    if (options_.train && !Train(layer)) return false;
    plan_.reset();
    if (stats.bytes != 0) NoteStream(stats, layer);
    record_->finished.Set(sequence_ + 1);
    return true;
  }

  // grads
  bool Train(uint32_t layer) {
    if (!Check(backward_->Run(plan_.get(), layer, main_weights_.data(), replicas_))) return false;
    record_->gradient_mismatches.Add(backward_->mismatches());
    const ultraep_reduce_stats& stats = backward_->stats();
    record_->replicas_reduced.Add(stats.replicas);
    if (stats.replicas) record_->reduce_ns.Add(stats.reduce_ns);
    return true;
  }

  // Nobody leaves while another rank still has a step open, nor fills its send buffer again while
  // others compute a backward from it. And where ranks may die, nobody begins a step before all
  // have finished the last one: a death costs one step, not two.
  bool EndTogether() {
    const bool apart = !options_.respawn && !options_.train && !IsOver(sequence_ + 1);
    return apart || PassBarrier(0);
  }

  void NoteStream(const ultraep_stream_stats& stats, uint32_t layer) {
    record_->bytes_streamed.Add(stats.bytes);
    record_->stream_kb_per_s.Add(stats.bytes * 1'000'000 / std::max<uint64_t>(stats.copy_ns, 1));
    if (sends_++ % kSampleEvery == 0) SampleMemcpy(layer);
  }

  void NoteVerdictTime() {
    uint64_t last_submit = 0;
    for (uint32_t r = 0; r < options_.shape.ranks; ++r)
      last_submit = std::max(last_submit, shared_->rank(r)->note.submit_ns);
    record_->verdict_ns.Add(verdict_ns_ > last_submit ? verdict_ns_ - last_submit : 0);
  }

  // Copies the experts this rank sent in this operation, from the same main copies.
  void SampleMemcpy(uint32_t layer) {
    sent_.clear();
    for (const ultraep_replica& replica : replicas_) {
      const uint32_t sender =
          replica.parent < 0 ? options_.shape.home(replica.expert) : replicas_[replica.parent].rank;
      if (sender == rank_)
        sent_.push_back(
            {shared_->main_up(layer, replica.expert), shared_->main_down(layer, replica.expert)});
    }
    if (sent_.empty()) return;
    // Made here: touching its memory would hold up a respawned rank, for which all others wait.
    if (!sampler_) sampler_.emplace(options_.expert, options_.shape.ranks);
    record_->memcpy_kb_per_s.Add(sampler_->KilobytesPerSecond(sent_));
  }

  void FillOwnWeights() {
    const uint32_t mains = options_.shape.experts_per_rank();
    for (uint32_t layer = 0; layer < std::min(options_.layers, kWeightLayers); ++layer) {
      for (uint32_t e = rank_ * mains; e < (rank_ + 1) * mains; ++e)
        FillWeights(options_.expert, options_.seed, layer, e, shared_->main_up(layer, e),
                    shared_->main_down(layer, e));
    }
    record_->filled.Set(1);
  }

  bool Attend(uint32_t odd);
  bool Join();
  void AwaitGroup();
  void NoteGeneration();
  bool PassBarrier(uint32_t extra_s);
  bool Check(ultraep_status status);
  bool Broken(const std::string& text);
  void Stop(int exit, const std::string& text);

  const Options& options_;
  const GroupIdentity& group_;
  const uint32_t rank_;
  LoadSource* const loads_;
  SharedState* const shared_;
  RankRecord* const record_;
  Meeting* const meeting_;
  const uint64_t earlier_generations_;  // of its predecessors: a new process is in none of theirs
  ModelStep model_;
  std::optional<CopySampler> sampler_;
  std::optional<Backward> backward_;  // with --train
  uint32_t epoch_ = 0;
  uint64_t sequence_ = 0;
  ultraep_client* client_ = nullptr;
  PlanPointer plan_;
  ultraep_plan_info info_ = {};
  std::vector<ultraep_replica> replicas_;
  std::vector<int32_t> ids_, physical_;
  std::vector<uint32_t> row_;
  std::vector<const void*> main_weights_;
  std::vector<ExpertWeights> slots_, sent_;
  uint64_t verdict_ns_ = 0;
  uint64_t sends_ = 0;
  int exit_ = kRankDone;
};

// Leaves the step, which is lost, and waits until all ranks go on together.
bool RankProcess::Attend(uint32_t odd) {
  plan_.reset();
  NoteGeneration();  // the next one to be killed may be this one
  if (!meeting_->Attend(rank_, odd)) {
    exit_ = kRankStopped;
    return false;
  }
  epoch_ = odd + 1;
  sequence_ = meeting_->next_sequence.value.load(std::memory_order_relaxed);
  return true;
}

bool RankProcess::Join() {
  ultraep_attach_options attach = {};
  attach.struct_size = sizeof attach;
  attach.socket_path = options_.socket.empty() ? nullptr : options_.socket.c_str();
  if (!Check(ultraep_attach(&attach, &client_))) return false;
  ultraep_group_config config = {};
  config.struct_size = sizeof config;
  config.rank = rank_;
  config.group_name = group_.name.c_str();
  std::copy(group_.nonce.begin(), group_.nonce.end(), config.nonce);
  config.ranks = options_.shape.ranks;
  config.experts = options_.shape.experts;
  config.slots = options_.shape.slots;
  config.layers = options_.layers;
  config.window = options_.window;
  config.slot_sets = 1;
  config.shard_count = 2;
  config.shard_bytes[0] = options_.expert.up_floats() * sizeof(float);
  config.shard_bytes[1] = options_.expert.down_floats() * sizeof(float);
  config.training = options_.train;
  config.gradient_count = options_.train ? 2 : 0;
  for (uint32_t i = 0; i < config.gradient_count; ++i)
    config.gradient_bytes[i] = config.shard_bytes[i];  // both are float32
  config.step_timeout_ns = options_.step_timeout_s * kSecond;
  config.next_sequence = sequence_;
  if (!Check(ultraep_join(client_, &config, 0))) return false;
  if (epoch_ == 0) AwaitGroup();  // later the others do not wait: steps are declined meanwhile
  return true;
}

// As ultraep_join with a timeout would, but an interruption ends it.
void RankProcess::AwaitGroup() {
  const uint64_t deadline = NowNs() + options_.join_timeout_s * kSecond;
  ultraep_client_info info = {};
  while (meeting_->epoch.count.load(std::memory_order_acquire) == epoch_) {
    if (ultraep_client_state(client_, &info) != ULTRAEP_OK || info.phase == ULTRAEP_OPEN) return;
    if (info.phase == ULTRAEP_REFUSED_JOIN || NowNs() >= deadline) break;
    SleepWhile(meeting_->epoch, epoch_, kJoinPollNs);
  }
  if (rank_ == 0)
    std::fprintf(stderr, "ultraep-replay: warning: going on without plans: %s\n", info.text);
}

void RankProcess::NoteGeneration() {
  ultraep_client_info info;
  if (!client_ || ultraep_client_state(client_, &info) != ULTRAEP_OK) return;
  record_->joined.Set(std::max(record_->joined.get(), info.generation));
  record_->generations.Set(earlier_generations_ + info.generations);
}

bool RankProcess::PassBarrier(uint32_t extra_s) {
  // Twice the collective timeout: a rank that waits for it inside a call must come first.
  const uint64_t patience = (2 * uint64_t{options_.step_timeout_s} + extra_s) * kSecond;
  const std::atomic<uint32_t>& epoch = meeting_->epoch.count;
  switch (meeting_->barrier.Wait(options_.shape.ranks, epoch, epoch_, patience)) {
    case Arrival::kAll:
      return true;
    case Arrival::kInterrupted:
      if (epoch.load(std::memory_order_acquire) == Meeting::kEnd) exit_ = kRankStopped;
      return false;
    case Arrival::kTimeout:
      break;
  }
  return Broken("other ranks did not reach the barrier in " + std::to_string(patience / kSecond) +
                " s");
}

bool RankProcess::Check(ultraep_status status) {
  if (status == ULTRAEP_OK) return true;
  if (status != ULTRAEP_FAILED)
    return Broken(std::string(ultraep_status_name(status)) + ": " + ultraep_last_error());
  if (options_.respawn) {
    meeting_->Interrupt(epoch_);
    return false;
  }
  Stop(kRankFailed, ultraep_last_error());
  return false;
}

bool RankProcess::Broken(const std::string& text) {
  Stop(kRankBroken, text);
  return false;
}

void RankProcess::Stop(int exit, const std::string& text) {
  exit_ = exit;
  std::snprintf(record_->text, sizeof record_->text, "%s", text.c_str());
  meeting_->End();
}

}  // namespace

int RunRank(const Options& options, const GroupIdentity& group, uint32_t rank, LoadSource* loads,
            SharedState* shared) {
  return RankProcess(options, group, rank, loads, shared).Run();
}

}  // namespace ultraep::replay
