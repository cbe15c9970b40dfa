#include "plugin/core/operation_book.h"

#include <cstring>
#include <string>

namespace ultraep {

OperationBook::OperationBook(const GroupConfig& config, RankBoard* board)
    : slots_(config.slots),
      board_(board),
      sets_(config.slot_sets),
      gradients_(uint64_t{config.slot_sets} * config.slots) {}

Result OperationBook::CheckStream(uint64_t sequence, bool restore, uint32_t set) const {
  std::lock_guard lock(mutex_);
  if (set >= sets_.size())
    return Invalid("slot_set is " + std::to_string(set) + ", the group has " +
                   std::to_string(sets_.size()));
  if (!restore && sequence < next_forward_)
    return Invalid("step " + std::to_string(sequence) + " cannot be streamed after step " +
                   std::to_string(next_forward_ - 1) + ": streams go in the order of their steps");
  if (!sets_[set].released)
    return Invalid("slot set " + std::to_string(set) + " is in use by the plan of step " +
                   std::to_string(sets_[set].sequence) +
                   ": release it first, or join with more slot_sets for steps that overlap");
  return Ok();
}

uint64_t OperationBook::IssueStream(uint64_t sequence, bool restore, uint32_t set) {
  std::lock_guard lock(mutex_);
  if (!restore) next_forward_ = sequence + 1;
  sets_[set] = {sequence, false};
  return history_.Issue(sequence, restore ? OperationKind::kRestore : OperationKind::kForward, set);
}

void OperationBook::Release(uint32_t set) {
  std::lock_guard lock(mutex_);
  sets_[set].released = true;
}

uint64_t OperationBook::IssueReduction(uint64_t sequence, uint32_t set) {
  std::lock_guard lock(mutex_);
  return history_.Issue(sequence, OperationKind::kReduce, set);
}

OperationBook::GradientUse OperationBook::last_use(uint32_t set, uint32_t slot) const {
  std::lock_guard lock(mutex_);
  return gradients_[uint64_t{set} * slots_ + slot];
}

void OperationBook::Use(uint32_t set, uint32_t slot, GradientUse use) {
  std::lock_guard lock(mutex_);
  gradients_[uint64_t{set} * slots_ + slot] = use;
}

void OperationBook::Count(const TransferTotals& more) {
  uint64_t words[sizeof more / 8];
  std::memcpy(words, &more, sizeof more);
  auto* const shared = reinterpret_cast<uint64_t*>(&board_->statistics.transfers);
  for (size_t i = 0; i < sizeof more / 8; ++i)
    if (words[i]) CountShared(shared + i, words[i]);
}

}  // namespace ultraep
