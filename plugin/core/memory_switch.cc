#include "plugin/core/memory_switch.h"

#include <algorithm>
#include <utility>

namespace ultraep {

void MemorySwitch::Add(std::shared_ptr<Generation> generation) {
  std::lock_guard lock(mutex_);
  later_.push_back(std::move(generation));
}

std::shared_ptr<Generation> MemorySwitch::Load(uint64_t sequence) {
  std::lock_guard lock(mutex_);
  for (size_t i = later_.size(); i-- > 0;) {
    const Gate gate = later_[i]->gate();
    const bool named = gate.state != GateState::kClosed && gate.state != GateState::kDead;
    if (!named || gate.value > sequence) continue;
    if (current_) left_behind_.push_back(current_);
    current_ = later_[i];
    for (size_t k = 0; k < i; ++k) left_behind_.push_back(std::move(later_[k]));
    later_.erase(later_.begin(), later_.begin() + ptrdiff_t(i) + 1);
    break;
  }
  return current_;
}

std::shared_ptr<Generation> MemorySwitch::current() const {
  std::lock_guard lock(mutex_);
  return current_;
}

std::vector<std::shared_ptr<Generation>> MemorySwitch::held() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Generation>> all = left_behind_;
  if (current_) all.push_back(current_);
  all.insert(all.end(), later_.begin(), later_.end());
  return all;
}

void MemorySwitch::FreeLeftBehind() {
  std::vector<std::shared_ptr<Generation>> now;
  std::lock_guard lock(mutex_);
  // A newer one that begins no later than an older one is taken in its place at every step. Without
  // this, a rank that loads nothing for long would hold all that came and went meanwhile.
  uint64_t first = UINT64_MAX;
  for (size_t i = later_.size(); i-- > 0;) {
    const Gate gate = later_[i]->gate();
    if (gate.state == GateState::kClosed) continue;
    if (gate.state == GateState::kDead || gate.value >= first) {
      left_behind_.push_back(std::move(later_[i]));
      later_.erase(later_.begin() + ptrdiff_t(i));
    } else {
      first = gate.value;
    }
  }
  // New users come only through this class, so who is alone here stays alone.
  const auto in_use = [](const auto& left) { return left.use_count() > 1; };
  const auto free = std::stable_partition(left_behind_.begin(), left_behind_.end(), in_use);
  now.assign(free, left_behind_.end());  // `now` goes after the lock
  left_behind_.erase(free, left_behind_.end());
}

void MemorySwitch::Clear() {
  std::vector<std::shared_ptr<Generation>> now;
  std::lock_guard lock(mutex_);
  now.swap(left_behind_);  // they go after the lock
  now.insert(now.end(), later_.begin(), later_.end());
  now.push_back(std::exchange(current_, nullptr));
  later_.clear();
}

}  // namespace ultraep
