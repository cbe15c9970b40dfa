// Gate and verdict words as the models of one and of several generations both have them.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ultraep::model {

enum Gate : uint8_t { kClosed, kOpen, kEnded, kFailed, kDead };
enum Value : uint8_t { kNone, kPlan, kFallback, kFailedWord };

struct Word {
  uint8_t tag;
  Value value;
};

// What a model's board begins with.
struct GateWord {
  Gate gate;
  uint8_t first;  // n while CLOSED, then s0
};

inline bool Over(const GateWord& board) { return board.gate > kOpen; }
inline bool InForce(const GateWord& board, int s) {
  return board.gate == kOpen && s >= board.first;
}
inline void End(GateWord& board) {
  if (!Over(board)) board.gate = board.gate == kClosed ? kDead : kEnded;
}
inline void Raise(GateWord& board, uint8_t to) {
  if (board.gate == kClosed) board.first = std::max(board.first, to);
}

}  // namespace ultraep::model
