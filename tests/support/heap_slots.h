// All ranks' slots on heap memory, without boards, daemon or plugin.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "protocol/slot_board.h"

namespace ultraep::test {

class HeapSlots {
 public:
  explicit HeapSlots(const GroupConfig& config) : layout_(config) {
    for (uint32_t r = 0; r < config.ranks; ++r) {
      auto* at = static_cast<unsigned char*>(std::aligned_alloc(kLine, layout_.slot_board_bytes));
      if (!at) throw std::bad_alloc();
      std::memset(at, 0, layout_.slot_board_bytes);
      memory_.emplace_back(at);
      bases_.push_back(at);
    }
  }

  const SlotLayout& layout() const { return layout_; }
  SlotView view() const { return {&layout_, bases_.data()}; }
  // Everything a rank's slots hold.
  std::vector<unsigned char> Bytes(uint32_t rank) const {
    return {bases_[rank], bases_[rank] + layout_.slot_board_bytes};
  }

 private:
  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };

  const SlotLayout layout_;
  std::vector<std::unique_ptr<unsigned char, Free>> memory_;
  std::vector<unsigned char*> bases_;
};

}  // namespace ultraep::test
