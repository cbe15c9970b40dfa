// A group's boards on plain heap memory: one mapping, so that sanitizers see every side of it.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "plugin/core/generation.h"
#include "plugin/core/reducer.h"
#include "plugin/core/steps.h"
#include "plugin/core/streamer.h"
#include "protocol/boards.h"

namespace ultraep::test {

inline GroupConfig SmallConfig(uint32_t ranks, uint32_t experts, uint32_t slots, uint32_t window) {
  GroupConfig c;
  std::strcpy(c.name, "test");
  c.ranks = ranks;
  c.experts = experts;
  c.slots = slots;
  c.layers = 4;
  c.window = window;
  c.slot_sets = 1;
  c.shard_count = 2;
  c.shard_bytes[0] = 300'001;  // two chunks, the second one odd
  c.shard_bytes[1] = 77;
  c.step_timeout_ns = 20'000'000'000;
  return c;
}

class MemoryGroup {
 public:
  static constexpr uint64_t kGeneration = 77;

  explicit MemoryGroup(const GroupConfig& config, uint32_t copy_threads = 1)
      : layout_(config), copy_threads_(copy_threads) {
    boards_.layout = &layout_;
    for (uint32_t r = 0; r < config.ranks; ++r)
      boards_.rank_base.push_back(Zeroed(layout_.rank_board_bytes));
    for (uint32_t r = 0; r < config.ranks; ++r)
      boards_.slot_base.push_back(Zeroed(layout_.slot_board_bytes));
    boards_.plan_base = Zeroed(layout_.plan_board_bytes);
    boards_.verdict_base = Zeroed(layout_.verdict_board_bytes);
  }

  const Boards& boards() const { return boards_; }
  const GroupLayout& layout() const { return layout_; }

  // What a rank would have mapped; without a doorbell.
  std::shared_ptr<Generation> Attach(uint32_t rank, uint64_t solve_deadline_ns = 20'000'000'000) {
    auto g = std::make_shared<Generation>(layout_.config, rank, kGeneration);
    g->boards = boards_;
    g->settings = {layout_.config.step_timeout_ns, solve_deadline_ns, 0, copy_threads_};
    g->StartOperations();
    return g;
  }
  void SetMember(uint32_t rank, MemberState state) {
    boards_.member(rank).value.store(uint64_t(state));
  }

 private:
  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };

  unsigned char* Zeroed(uint64_t bytes) {
    auto* at = static_cast<unsigned char*>(std::aligned_alloc(kLine, RoundUp(bytes, kLine)));
    if (!at) throw std::bad_alloc();
    std::memset(at, 0, bytes);
    memory_.emplace_back(at);
    return at;
  }

  const GroupLayout layout_;
  const uint32_t copy_threads_;
  std::vector<std::unique_ptr<unsigned char, Free>> memory_;
  Boards boards_;
};

}  // namespace ultraep::test
