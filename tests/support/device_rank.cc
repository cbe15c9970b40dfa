#include "tests/support/device_rank.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "protocol/transport/load_backend.h"
#include "tests/support/random.h"

namespace ultraep::test {

DeviceBackend& Backend() {
  static DeviceBackend* const backend = [] {
    // Kernels that poll others must not wait for them in a queue, or for a kernel to be loaded.
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    const LoadedBackend loaded = LoadBackendOfEnvironment("");
    EXPECT_NE(loaded.backend, nullptr) << loaded.why;
    if (!loaded.backend) std::abort();
    return loaded.backend;
  }();
  return *backend;
}

unsigned char WeightByte(uint32_t layer, uint32_t expert, uint32_t shard, uint64_t at) {
  return static_cast<unsigned char>(at * 7 + at / 251 + expert * 31 + shard * 101 + layer * 13 + 1);
}

float DeviceRank::GradientOf(uint32_t expert, uint32_t rank, uint64_t element) {
  return float(expert + 1) * 0.37f + float(rank) * 1.013f + float(element % 97) * 0.001f;
}

namespace {

ultraep_group_config OnItsDevice(ultraep_group_config config, uint32_t rank) {
  config.device = int32_t(rank % std::max(1u, Backend().device_count()));
  return config;
}

}  // namespace

DeviceRank::DeviceRank(const std::string& socket, const ultraep_group_config& config,
                       const DeviceRankOptions& options)
    : config_(OnItsDevice(config, options.rank)),
      options_(options),
      device_(uint32_t(config_.device)) {
  ultraep_attach_options attach{sizeof attach, socket.c_str()};
  Say(ultraep_attach(&attach, &client_), "attach");
}

DeviceRank::~DeviceRank() {
  if (stream_) Synchronize();
  ultraep_cuda_plan_free(plan_);
  ultraep_detach(client_);
  if (stream_) Backend().FreeStream(device_, stream_);
}

void DeviceRank::Say(ultraep_status status, const char* call) {
  if (status != ULTRAEP_OK)
    wrong_ += std::string(call) + ": " + ultraep_status_name(status) + " " + ultraep_last_error() +
              "\n";
}

ultraep_status DeviceRank::Join() {
  ultraep_group_config config = config_;
  config.rank = options_.rank;
  config.next_sequence = options_.next_sequence;
  const ultraep_status status = ultraep_join(client_, &config, -1);
  if (status == ULTRAEP_REFUSED || status == ULTRAEP_INVALID) return status;
  BackendText wrong;
  EXPECT_TRUE(Backend().MakeStream(device_, &stream_, &wrong)) << wrong.text;
  Say(ultraep_cuda_plan_create(client_, &plan_), "plan_create");
  const uint32_t own = config_.experts / config_.ranks;
  for (uint32_t layer = 0; layer < config_.layers; ++layer) {
    std::vector<const void*> weights;
    for (uint32_t e = 0; e < own; ++e)
      for (uint32_t s = 0; s < config_.shard_count; ++s) {
        std::vector<unsigned char> bytes(config_.shard_bytes[s]);
        for (uint64_t i = 0; i < bytes.size(); ++i)
          bytes[i] = WeightByte(layer, options_.rank * own + e, s, i);
        mains_.emplace_back(device_, bytes);
        weights.push_back(mains_.back().data());
      }
    Say(ultraep_cuda_set_main_weights(client_, layer, weights.data()), "set_main_weights");
  }
  std::vector<void*> gradients;
  for (uint32_t e = 0; e < own; ++e)
    for (uint32_t p = 0; p < config_.gradient_count; ++p) {
      gradients_.emplace_back(device_, config_.gradient_bytes[p] / sizeof(float));
      gradients.push_back(gradients_.back().data());
    }
  for (uint32_t layer = 0; layer < config_.layers && config_.gradient_count; ++layer)
    Say(ultraep_cuda_set_main_gradients(client_, layer, gradients.data(), ULTRAEP_FLOAT32),
        "set_main_gradients");
  ids_.emplace_back(device_, kStepTokens * kStepTopK);
  physical_.emplace_back(device_, kStepTokens * kStepTopK);
  return status;
}

bool DeviceRank::AwaitGenerations(uint64_t count) {
  ultraep_client_info info{};
  for (int i = 0; i < 2000; ++i) {
    ultraep_client_state(client_, &info);
    if (info.phase == ULTRAEP_OPEN && info.generations >= count) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

std::string DeviceRank::state_text() {
  ultraep_client_info info{};
  ultraep_client_state(client_, &info);
  return info.text;
}

std::vector<int32_t> DeviceRank::Ids(uint64_t step) const {
  Random random(1000 * step + options_.rank);
  std::vector<int32_t> ids(kStepTokens * kStepTopK);
  for (int32_t& id : ids) {
    const uint64_t roll = random.Below(16);
    id = roll == 0 ? -1
         : roll < 9 ? int32_t((step * 3) % config_.experts)  // hot
                    : int32_t(random.Below(config_.experts));
  }
  return ids;
}

void DeviceRank::SetIds(const std::vector<int32_t>& ids) {
  now_ = ids;
  ids_[0].Set(ids);
}

void DeviceRank::Enqueue(uint32_t set) {
  Say(ultraep_cuda_submit_ids(plan_, 0, 0, ids_[0].data(), now_.size(), stream_), "submit");
  Say(ultraep_cuda_await_verdict(plan_, stream_), "await_verdict");
  Say(ultraep_cuda_stream_weights(plan_, set, options_.transfer, stream_), "stream_weights");
  Say(ultraep_cuda_route(plan_, ids_[0].data(), kStepTokens, kStepTopK, physical_[0].data(),
                         stream_),
      "route");
  Say(ultraep_cuda_await_weights(plan_, stream_), "await_weights");
}

// What a step's compute would read: every slot of this rank.
std::string DeviceRank::CheckSlots() {
  const ultraep_cuda_slot* at = nullptr;
  Say(ultraep_cuda_plan_slots(plan_, &at), "plan_slots");
  std::vector<ultraep_cuda_slot> slots(config_.slots);
  BackendText wrong;
  if (!Backend().FromDevice(device_, slots.data(), at, slots.size() * sizeof slots[0], &wrong))
    return wrong.text;
  for (const ultraep_cuda_slot& slot : slots)
    for (uint32_t s = 0; slot.expert != UINT32_MAX && s < config_.shard_count; ++s) {
      std::vector<unsigned char> bytes(config_.shard_bytes[s]);
      if (!Backend().FromDevice(device_, bytes.data(), slot.shards[s], bytes.size(), &wrong))
        return wrong.text;
      for (uint64_t i = 0; i < bytes.size(); ++i)
        if (bytes[i] != WeightByte(0, slot.expert, s, i))
          return "expert " + std::to_string(slot.expert) + " shard " + std::to_string(s) +
                 " byte " + std::to_string(i) + " is wrong\n";
    }
  return "";
}

StepOutcome DeviceRank::Look(bool weights_streamed) {
  StepOutcome out;
  out.replicas.resize(uint64_t{config_.ranks} * config_.slots);
  const ultraep_status read =
      ultraep_cuda_plan_read(plan_, &out.info, out.replicas.data(), uint32_t(out.replicas.size()));
  Say(read, "plan_read");
  out.replicas.resize(out.info.replica_count);
  out.ids = now_;
  out.physical = physical_[0].Get();
  if (weights_streamed) wrong_ += CheckSlots();
  out.wrong = std::exchange(wrong_, "");
  return out;
}

void DeviceRank::Release() { Say(ultraep_cuda_release(plan_, stream_), "release"); }

StepOutcome DeviceRank::Step(uint64_t step, uint32_t set) {
  SetIds(Ids(step));
  Enqueue(set);
  Synchronize();
  StepOutcome out = Look(true);
  Release();
  Synchronize();
  out.wrong += std::exchange(wrong_, "");
  return out;
}

std::string DeviceRank::Backward(uint32_t set) {
  Say(ultraep_cuda_stream_weights(plan_, set, options_.transfer, stream_), "restore");
  Say(ultraep_cuda_prepare_gradients(plan_, 1, stream_), "prepare");
  Say(ultraep_cuda_await_weights(plan_, stream_), "await_weights");
  Synchronize();
  wrong_ += CheckSlots();
  const ultraep_cuda_slot* at = nullptr;
  Say(ultraep_cuda_plan_slots(plan_, &at), "plan_slots");
  std::vector<ultraep_cuda_slot> slots(config_.slots);
  BackendText wrong;
  EXPECT_TRUE(
      Backend().FromDevice(device_, slots.data(), at, slots.size() * sizeof slots[0], &wrong));
  for (const ultraep_cuda_slot& slot : slots)
    for (uint32_t p = 0; slot.expert != UINT32_MAX && p < config_.gradient_count; ++p) {
      std::vector<float> part(config_.gradient_bytes[p] / sizeof(float));
      EXPECT_TRUE(Backend().FromDevice(device_, part.data(), slot.gradients[p],
                                       config_.gradient_bytes[p], &wrong));
      for (uint64_t i = 0; i < part.size(); ++i) {
        if (part[i] != 0) wrong_ += "a slot's gradient is not zero\n";
        part[i] = GradientOf(slot.expert, options_.rank, i);
      }
      EXPECT_TRUE(Backend().ToDevice(device_, slot.gradients[p], part.data(),
                                     config_.gradient_bytes[p], &wrong));
    }
  Say(ultraep_cuda_reduce_gradients(plan_, 0, stream_), "reduce");
  Release();
  Say(ultraep_cuda_await_gradients(plan_, stream_), "await_gradients");
  Synchronize();
  return std::exchange(wrong_, "");
}

void DeviceRank::Synchronize() {
  BackendText wrong;
  EXPECT_TRUE(Backend().Synchronize(device_, stream_, &wrong)) << wrong.text;
}

ultraep_status DeviceRank::Check(std::string* text) {
  const ultraep_status status = ultraep_cuda_check(client_);
  *text = status == ULTRAEP_OK ? "" : ultraep_last_error();
  return status;
}

void DeviceRank::Leave() { Say(ultraep_leave(client_), "leave"); }

}  // namespace ultraep::test
