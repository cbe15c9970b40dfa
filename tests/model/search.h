// Breadth-first search through every interleaving of a small model. The first violation found has
// a shortest trace.
//
// A model provides
//   State                    plain bytes without padding; equal bytes are the same state
//   State Initial()
//   Successors(state, sink)  calls sink(next, Move) for every atomic operation possible in `state`
//   Violation(state)         the property broken in `state`, or nullptr
//   AtRest(state)            the property broken when nothing but faults can happen, or nullptr
//   Goal(state)              true for the end a healthy run should come to
//   Describe(move)           one line of a trace
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace ultraep::model {

struct Move {
  int rank;            // who moves; -1: the daemon or the environment
  const char* deed;    // what it does
  int number;          // step or operation it is about; -1: none
  bool fault = false;  // need not ever happen: a crash never counts as a way on
};

struct Result {
  enum Kind { kHolds, kBroken, kTooLarge } kind;
  std::string property;
  std::vector<std::string> trace;
  size_t states;
};

template <class Model>
class Search {
  using State = typename Model::State;
  static_assert(std::has_unique_object_representations_v<State>, "padding would hide equality");

 public:
  Search(const Model& model, size_t limit) : model_(model), limit_(limit), buckets_(1 << 16) {}

  // Visits everything reachable, then proves that no run goes round in a circle.
  Result Run() {
    bool goal = false;
    Intern(model_.Initial(), kNowhere);
    for (uint32_t at = 0; at < size_; ++at) {
      const State now = StateAt(at);
      if (const char* broken = model_.Violation(now)) return Broken(broken, at);
      bool rests = true;
      model_.Successors(now, [&](const State& next, const Move& move) {
        rests = rests && move.fault;
        ++incoming_[Intern(next, at)];
      });
      if (size_ > limit_) return {Result::kTooLarge, "more states than the limit", {}, size_};
      if (!rests) continue;
      if (const char* broken = model_.AtRest(now)) return Broken(broken, at);
      goal = goal || model_.Goal(now);
    }
    if (!goal) return {Result::kBroken, "no run comes to the end that is wanted", {}, size_};
    const uint32_t circle = FindCircle();
    if (circle != kNowhere) return Broken("a run that never ends comes back to this state", circle);
    return {Result::kHolds, "", {}, size_};
  }

 private:
  static constexpr uint32_t kNowhere = UINT32_MAX;
  static constexpr size_t kPage = 1 << 14;  // states per allocation: growing never copies them

  State& StateAt(size_t i) const { return pages_[i / kPage][i % kPage]; }

  static size_t Hash(const State& state) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(&state);
    uint64_t hash = sizeof state;
    for (size_t at = 0; at < sizeof state; at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes + at, std::min<size_t>(8, sizeof state - at));
      hash = (hash ^ word) * 0x9fb21c651e98df25u;
      hash ^= hash >> 29;
    }
    return hash;
  }

  // Where `state` is or belongs. A bucket holds the state's number + 1; 0 is empty.
  uint32_t& Bucket(const State& state) {
    const size_t mask = buckets_.size() - 1;
    size_t at = Hash(state) & mask;
    while (buckets_[at] && std::memcmp(&StateAt(buckets_[at] - 1), &state, sizeof state)) {
      at = (at + 1) & mask;
    }
    return buckets_[at];
  }

  uint32_t Intern(const State& state, uint32_t from) {
    if (size_ * 3 >= buckets_.size() * 2) {
      buckets_.assign(buckets_.size() * 2, 0);
      for (size_t i = 0; i < size_; ++i) Bucket(StateAt(i)) = i + 1;
    }
    uint32_t& bucket = Bucket(state);
    if (bucket == 0) {
      if (size_ % kPage == 0) pages_.emplace_back(new State[kPage]);
      StateAt(size_) = state;
      from_.push_back(from);
      incoming_.push_back(0);
      bucket = ++size_;
    }
    return bucket - 1;
  }

  // Takes away states that nothing left leads to, as long as there are any. What stays is a circle
  // or behind one; walking backwards inside it must enter the circle. Returns a state on it.
  uint32_t FindCircle() {
    std::vector<uint32_t> free;
    if (incoming_[0] == 0) free.push_back(0);
    size_t taken = 0;
    for (; !free.empty(); ++taken) {
      const State now = StateAt(free.back());
      free.pop_back();
      model_.Successors(now, [&](const State& next, const Move&) {
        const uint32_t to = Bucket(next) - 1;
        if (--incoming_[to] == 0) free.push_back(to);
      });
    }
    if (taken == size_) return kNowhere;
    std::vector<uint32_t> before(size_, kNowhere);
    uint32_t at = 0;
    for (uint32_t i = 0; i < size_; ++i) {
      if (incoming_[i] == 0) continue;
      at = i;
      model_.Successors(StateAt(i),
                        [&](const State& next, const Move&) { before[Bucket(next) - 1] = i; });
    }
    for (size_t i = 0; i < size_; ++i) at = before[at];
    return at;
  }

  Result Broken(const char* property, uint32_t at) const {
    std::vector<std::string> trace;
    for (; from_[at] != kNowhere; at = from_[at]) {
      const State& goal = StateAt(at);
      std::string line;
      model_.Successors(StateAt(from_[at]), [&](const State& next, const Move& move) {
        if (line.empty() && !std::memcmp(&next, &goal, sizeof next)) line = model_.Describe(move);
      });
      trace.push_back(line);
    }
    std::reverse(trace.begin(), trace.end());
    return {Result::kBroken, property, trace, size_};
  }

  const Model& model_;
  const size_t limit_;
  size_t size_ = 0;
  std::vector<std::unique_ptr<State[]>> pages_;
  std::vector<uint32_t> from_, incoming_, buckets_;
};

}  // namespace ultraep::model
