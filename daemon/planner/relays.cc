#include "daemon/planner/relays.h"

#include <algorithm>

namespace ultraep::planner {
namespace {

// Destinations looked at for one whose link is free: their order is good already.
constexpr uint32_t kLookAhead = 8;

// Heaps with the smallest on top.
constexpr auto kLaterHolder = [](const auto& a, const auto& b) {
  return a.ready != b.ready ? a.ready > b.ready : a.transfer > b.transfer;
};
constexpr auto kLaterTree = [](const auto& a, const auto& b) {
  if (a.start != b.start) return a.start > b.start;
  if (a.end - a.next != b.end - b.next) return a.end - a.next < b.end - b.next;
  return a.expert > b.expert;
};

}  // namespace

void Relays::Reserve(const PlanShape& shape) {
  const size_t most = size_t{shape.ranks} * shape.slots;
  transfers_.reserve(most);
  destinations_.reserve(most);
  trees_.reserve(std::min<size_t>(most, shape.experts));
  holders_.reserve(2 * most);
  for (auto* v : {&sends_until_, &receives_until_}) v->reserve(shape.ranks);
  for (auto* v : {&exports_, &unsent_}) v->reserve(shape.ranks);
}

// One tree per replicated expert; its destinations with least to send at home first, then those
// with most tokens: their grouped GEMM is the longest.
void Relays::Plant(const PlanShape& shape, const std::vector<Piece>& pieces) {
  sends_until_.assign(shape.ranks, 0);
  receives_until_.assign(shape.ranks, 0);
  exports_.assign(shape.ranks, 0);
  destinations_.resize(pieces.size());
  for (uint32_t i = 0; i < pieces.size(); ++i) destinations_[i] = i;
  std::sort(destinations_.begin(), destinations_.end(),
            [&](uint32_t a, uint32_t b) { return pieces[a].expert < pieces[b].expert; });
  trees_.clear();
  holders_.clear();
  for (uint32_t begin = 0, end; begin < destinations_.size(); begin = end) {
    const uint32_t expert = pieces[destinations_[begin]].expert;
    for (end = begin; end < destinations_.size() && pieces[destinations_[end]].expert == expert;)
      ++end;
    const uint32_t home = shape.home(expert);
    ++exports_[home];
    trees_.push_back({expert, begin, end, uint32_t(holders_.size()), 1, 0});
    holders_.push_back({0, 0, -1, home});
    holders_.resize(holders_.size() + (end - begin));
  }
  unsent_ = exports_;
  for (const Tree& tree : trees_)
    std::sort(destinations_.begin() + tree.next, destinations_.begin() + tree.end,
              [&](uint32_t a, uint32_t b) {
                const Piece &x = pieces[a], &y = pieces[b];
                if (exports_[x.rank] != exports_[y.rank])
                  return exports_[x.rank] < exports_[y.rank];
                return x.tokens != y.tokens ? x.tokens > y.tokens : x.rank < y.rank;
              });
}

// Links get busier while a holder waits in the heap: puts the one that is ready first on top.
void Relays::Settle(Tree* tree) {
  Holder* heap = &holders_[tree->holders];
  for (;;) {
    // A rank's own experts go before further copies of any: nobody else can send them first.
    const uint64_t own = tree->holder_count == 1 ? 0 : unsent_[heap->rank];
    const uint64_t ready = std::max(heap->since, sends_until_[heap->rank] + own * kExpertTime);
    if (ready == heap->ready) break;
    std::pop_heap(heap, heap + tree->holder_count, kLaterHolder);
    heap[tree->holder_count - 1].ready = ready;
    std::push_heap(heap, heap + tree->holder_count, kLaterHolder);
  }
}

// The first destination whose link is free by then, else the one that is free first.
uint32_t Relays::PickDestination(const Tree& tree, uint64_t ready,
                                 const std::vector<Piece>& pieces) {
  uint32_t best = tree.next;
  const uint32_t end = std::min(tree.end, tree.next + kLookAhead);
  for (uint32_t i = tree.next; i < end; ++i) {
    const uint64_t until = receives_until_[pieces[destinations_[i]].rank];
    if (until <= ready) return i;
    if (until < receives_until_[pieces[destinations_[best]].rank]) best = i;
  }
  return best;
}

void Relays::Send(Tree* tree, uint32_t picked, uint64_t start, uint32_t hop,
                  const std::vector<Piece>& pieces) {
  Holder* heap = &holders_[tree->holders];
  std::rotate(destinations_.begin() + tree->next, destinations_.begin() + picked,
              destinations_.begin() + picked + 1);
  const uint32_t index = destinations_[tree->next++];
  const uint32_t to = pieces[index].rank;
  sends_until_[heap->rank] = receives_until_[to] = start + kExpertTime;
  if (tree->holder_count == 1) --unsent_[heap->rank];
  transfers_.push_back({index, heap->transfer});
  const int32_t number = int32_t(transfers_.size()) - 1;
  heap[tree->holder_count++] = {start + hop, start + hop, number, to};
  std::push_heap(heap, heap + tree->holder_count, kLaterHolder);
}

const std::vector<Relays::Transfer>& Relays::Schedule(const PlanShape& shape, uint32_t hop,
                                                      const std::vector<Piece>& pieces) {
  Plant(shape, pieces);
  transfers_.clear();
  std::make_heap(trees_.begin(), trees_.end(), kLaterTree);
  while (!trees_.empty()) {
    std::pop_heap(trees_.begin(), trees_.end(), kLaterTree);
    Tree& tree = trees_.back();
    Settle(&tree);
    const uint64_t ready = holders_[tree.holders].ready;
    const uint32_t picked = PickDestination(tree, ready, pieces);
    const uint64_t start = std::max(ready, receives_until_[pieces[destinations_[picked]].rank]);
    if (start > tree.start) {  // another tree may be earlier
      tree.start = start;
    } else {
      Send(&tree, picked, start, hop, pieces);
      if (tree.next == tree.end) {
        trees_.pop_back();
        continue;
      }
    }
    std::push_heap(trees_.begin(), trees_.end(), kLaterTree);
  }
  return transfers_;
}

}  // namespace ultraep::planner
