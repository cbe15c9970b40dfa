#include "tests/support/network_model.h"

#include <algorithm>
#include <limits>
#include <map>

#include "kernels/stream_weights.h"

namespace ultraep::test {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

using planner::Multicast;
using planner::Piece;

class Transfer {
 public:
  Transfer(const NetworkModel& model, const PlanShape& shape, const std::vector<Piece>& pieces,
           const std::vector<Multicast>& multicasts)
      : model_(model), shape_(shape), pieces_(pieces), multicasts_(multicasts) {
    chunks_ = (model.expert_bytes + model.chunk_bytes - 1) / model.chunk_bytes;
    egress_.assign(shape.ranks, 0);
    ingress_.assign(shape.ranks, 0);
    arrived_.assign(pieces.size() * chunks_, kNever);
    depth_.assign(pieces.size(), 0);
    for (uint32_t m = 0; m < multicasts.size(); ++m)
      queues_[{multicasts[m].sender, multicasts[m].stage}].pending.push_back(m);
  }

  Makespan Run() {
    while (SendNext()) {
    }
    Makespan result;
    result.bound = Bound();
    for (size_t p = 0; p < pieces_.size(); ++p) {
      const double end = arrived_[(p + 1) * chunks_ - 1];
      if (end <= result.us) continue;
      result.us = end;
      result.depth = depth_[p];
    }
    result.expert_times = result.us / model_.expert_us();
    result.bound_with_flags = result.bound + result.depth * model_.flag_us / model_.expert_us();
    return result;
  }

 private:
  // One sender's list: where it is.
  struct Queue {
    std::vector<uint32_t> pending;  // multicasts
    uint32_t multicast = 0, destination = 0;
    uint64_t chunk = 0;
    double idle_since = 0;
    bool done() const { return multicast == pending.size(); }
  };

  double ChunkUs(uint64_t chunk) const {
    const uint64_t at = chunk * model_.chunk_bytes;
    return double(std::min(model_.chunk_bytes, model_.expert_bytes - at)) / model_.link_gb_s * 1e-3;
  }

  // When the sender could put its next chunk on its link, whatever the destination does.
  double Ready(uint32_t sender, const Queue& q) const {
    const Multicast& m = multicasts_[q.pending[q.multicast]];
    const double here =
        m.parent < 0 ? 0 : arrived_[size_t(m.parent) * chunks_ + q.chunk] + model_.flag_us;
    return std::max({egress_[sender], here, q.idle_since});
  }

  // The chunk that starts first; those that wait for one link in the order in which they came.
  bool SendNext() {
    Queue* next = nullptr;
    uint32_t sender = 0;
    double start = kNever, asked = kNever;
    for (auto& [key, q] : queues_) {
      if (q.done()) continue;
      const Multicast& m = multicasts_[q.pending[q.multicast]];
      const double ready = Ready(key.first, q);
      const double at = std::max(ready, ingress_[pieces_[m.pieces[q.destination]].rank]);
      if (at > start || at == kNever || (at == start && ready >= asked)) continue;
      next = &q;
      sender = key.first;
      start = at;
      asked = ready;
    }
    if (!next) return false;
    const Multicast& m = multicasts_[next->pending[next->multicast]];
    const uint32_t piece = m.pieces[next->destination];
    const double end = start + ChunkUs(next->chunk);
    egress_[sender] = ingress_[pieces_[piece].rank] = next->idle_since = end;
    arrived_[size_t(piece) * chunks_ + next->chunk] = end;
    depth_[piece] = m.parent < 0 ? 0 : depth_[m.parent] + 1;
    Advance(m, next);
    return true;
  }

  void Advance(const Multicast& m, Queue* q) const {
    if (++q->destination < m.pieces.size()) return;
    q->destination = 0;
    if (++q->chunk < chunks_) return;
    q->chunk = 0;
    ++q->multicast;
  }

  double Bound() const {
    std::vector<uint32_t> received(shape_.ranks, 0), exported(shape_.ranks, 0);
    std::vector<char> seen(shape_.experts, 0);
    for (const Piece& p : pieces_) {
      ++received[p.rank];
      if (!seen[p.expert]++) ++exported[shape_.home(p.expert)];
    }
    uint32_t most = 0;
    for (uint32_t r = 0; r < shape_.ranks; ++r) most = std::max({most, received[r], exported[r]});
    return std::max(double(most), double(pieces_.size()) / shape_.ranks);
  }

  const NetworkModel& model_;
  const PlanShape& shape_;
  const std::vector<Piece>& pieces_;
  const std::vector<Multicast>& multicasts_;
  uint64_t chunks_ = 0;
  std::vector<double> egress_, ingress_;                   // [rank] busy until
  std::vector<double> arrived_;                            // [piece][chunk]
  std::vector<uint32_t> depth_;                            // [piece]
  std::map<std::pair<uint32_t, uint32_t>, Queue> queues_;  // (sender, stage)
};

}  // namespace

Makespan SimulateTransfer(const NetworkModel& model, const PlanShape& shape,
                          const std::vector<Piece>& pieces,
                          const std::vector<Multicast>& multicasts) {
  return Transfer(model, shape, pieces, multicasts).Run();
}

Makespan SimulateTransfer(const NetworkModel& model, const PlanShape& shape,
                          const std::vector<Replica>& replicas) {
  std::vector<Piece> pieces;
  std::vector<Multicast> multicasts;
  for (const Replica& r : replicas) pieces.push_back({r.expert, r.rank, r.tokens});
  for (uint32_t rank = 0; rank < shape.ranks; ++rank) {
    const SendQueue queue(shape, replicas.data(), uint32_t(replicas.size()), rank,
                          (model.expert_bytes + model.chunk_bytes - 1) / model.chunk_bytes, 1);
    for (const Send& send : queue.sends()) {
      const auto first = queue.transfers().begin() + send.first;
      multicasts.push_back({rank, 0, send.parent, {first, first + send.count}});
    }
  }
  return SimulateTransfer(model, shape, pieces, multicasts);
}

}  // namespace ultraep::test
