// Weights and gradients of eight experts from rank 0 to rank 1 and back, beside copies.
#include <algorithm>
#include <future>
#include <string>

#include "tests/bench/gpu_group.h"
#include "tests/bench/gpu_measure.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kTravelling = 8;

struct Transfer {
  const char* name;
  uint32_t how;
};
constexpr Transfer kTransfers[] = {{"bulk copies", ULTRAEP_BY_BULK_COPIES},
                                   {"plain copies", ULTRAEP_BY_PLAIN_COPIES},
                                   {"copy engine", ULTRAEP_BY_COPY_ENGINE}};

class Pair {
 public:
  Pair(const GpuPlace& place, const Workload& w, uint32_t blocks)
      : w_(w),
        blocks_(blocks),
        // Half of the experts of a rank are what the other one lacks, in whole experts.
        group_(*place.backend,
               {2, 4 * kTravelling, kTravelling, w.expert_bytes, Elements(w), blocks}),
        gate_(*place.backend, 0),
        begin_(*place.backend, 0),
        end_(*place.backend, 0) {
    std::vector<uint32_t> row(group_.config().experts);
    std::fill_n(row.begin(), row.size() / 2, 1000);
    for (uint32_t r = 0; r < 2; ++r)
      rows_[r] = static_cast<uint32_t*>(group_.rank(r).Copied(row.data(), row.size() * 4));
  }

  Json Stream(const Transfer& transfer) {
    std::vector<double> us, copy_us;
    Repeat(w_.repeats, [&](bool counts) {
      double took = 0;
      if (!Step(transfer.how, &took)) return false;
      const double copy = CopyWeights();
      if (counts) {
        us.push_back(took);
        copy_us.push_back(copy);
      }
      return true;
    });
    group_.Check();
    const double bytes = double(w_.expert_bytes) * kTravelling;
    return Row(transfer.name, bytes, bytes, us, copy_us);
  }

  Json Reduce() {
    std::vector<double> us, copy_us;
    Repeat(w_.repeats, [&](bool counts) {
      double took = 0;
      if (!Step(ULTRAEP_BY_BULK_COPIES, &took) || !Backward(&took)) return false;
      const double copy = CopyGradients();
      if (counts) {
        us.push_back(took);
        copy_us.push_back(copy);
      }
      return true;
    });
    group_.Check();
    // On one device its memory is what limits: the sums read a gradient and a main gradient and
    // write the latter, a copy reads and writes. Between two the link is.
    const bool local = group_.rank(0).device == group_.rank(1).device;
    const double bytes = double(Elements(w_)) * 4 * kTravelling;
    return Row("float32 gradients", bytes * (local ? 3 : 1), bytes * (local ? 2 : 1), us, copy_us);
  }

 private:
  static uint64_t Elements(const Workload& w) { return std::max<uint64_t>(1, w.expert_bytes / 2); }

  Json Row(const char* what, double bytes, double copied, const std::vector<double>& us,
           const std::vector<double>& copy_us) const {
    const double rate = bytes / At(us, 0.5) * 1e-3, copy = copied / At(copy_us, 0.5) * 1e-3;
    Json row = {{"what", what},
                {"blocks", blocks_},
                {"bytes", bytes},
                {"gb_s", rate},
                {"copy_gb_s", copy},
                {"of_copy", rate / copy},
                {"copy", Quartiles(copy_us)}};
    row.update(Quartiles(us));
    return row;
  }

  // Each body enqueues on one rank.
  template <class Body>
  void Both(const Body& body) {
    for (uint32_t r = 0; r < 2; ++r) body(group_.rank(r));
  }
  void Hold() {
    group_.Synchronize();
    gate_.Close();
    Both([&](GpuRank& rank) { gate_.Hold(rank.device, rank.stream); });
  }
  void Send(GpuRank& rank, uint32_t how) {
    // By copy engine the host takes part, and its time counts.
    const bool by_host = how == ULTRAEP_BY_COPY_ENGINE;
    if (by_host && !rank.number) begin_.Put(rank.stream);
    Demand(ultraep_cuda_stream_weights(rank.plan, 0, how, rank.stream), "stream_weights");
    if (rank.number) return;
    if (!by_host) begin_.Put(rank.stream);  // the operation has begun
    end_.Put(rank.inside->transfers());
  }

  // False: does not count.
  bool Step(uint32_t how, double* us) {
    Both([&](GpuRank& rank) {
      Demand(ultraep_cuda_submit_row(rank.plan, 0, 0, rows_[rank.number], rank.stream), "submit");
    });
    group_.AwaitVerdicts();
    Hold();
    Both(AwaitVerdict);
    // By copy engine a rank's call waits until the other one accepts.
    std::future<void> other =
        std::async(std::launch::async, [&] { Send(group_.rank(1), how); });
    Send(group_.rank(0), how);
    other.get();
    Both([](GpuRank& rank) {
      Demand(ultraep_cuda_await_weights(rank.plan, rank.stream), "await_weights");
      Demand(ultraep_cuda_release(rank.plan, rank.stream), "release");
    });
    // By copy engine the host waits for the operation to begin, and reads the plan.
    const bool in_time = how == ULTRAEP_BY_COPY_ENGINE || gate_.InTime();
    group_.Synchronize();
    *us = end_.UsSince(begin_);
    ultraep_plan_info info;
    return group_.Read(&info, &plan_) && in_time && plan_.size() == kTravelling;
  }

  bool Backward(double* us) {
    Both([](GpuRank& rank) {
      Demand(ultraep_cuda_stream_weights(rank.plan, 0, ULTRAEP_BY_BULK_COPIES, rank.stream),
             "restore");
      Demand(ultraep_cuda_prepare_gradients(rank.plan, 0, rank.stream), "prepare_gradients");
      Demand(ultraep_cuda_await_weights(rank.plan, rank.stream), "await_weights");
    });
    Hold();
    Both([&](GpuRank& rank) {
      Demand(ultraep_cuda_reduce_gradients(rank.plan, 0, rank.stream), "reduce_gradients");
      if (rank.number) return;
      begin_.Put(rank.stream);
      end_.Put(rank.inside->reductions());
    });
    Both([](GpuRank& rank) {
      Demand(ultraep_cuda_release(rank.plan, rank.stream), "release");
      Demand(ultraep_cuda_await_gradients(rank.plan, rank.stream), "await_gradients");
    });
    const bool in_time = gate_.InTime();
    group_.Synchronize();
    *us = end_.UsSince(begin_);
    return in_time;
  }

  // Of the last plan, on the copy engines of rank 0's device, between the same places.
  double CopyWeights() {
    std::vector<void*> to;
    std::vector<const void*> from;
    for (const ultraep_replica& r : plan_) {
      to.push_back(group_.Weights(0, r));
      from.push_back(group_.rank(0).mains[r.expert].at());
    }
    return Copy(to, from, w_.expert_bytes);
  }
  double CopyGradients() {
    std::vector<void*> to;
    std::vector<const void*> from;
    for (const ultraep_replica& r : plan_) {
      to.push_back(group_.rank(0).gradients[r.expert].at());
      from.push_back(group_.Gradients(0, r));
    }
    return Copy(to, from, Elements(w_) * 4);
  }
  double Copy(const std::vector<void*>& to, const std::vector<const void*>& from, uint64_t each) {
    const std::vector<uint64_t> bytes(to.size(), each);
    GpuRank& rank = group_.rank(0);
    BackendText wrong;
    gate_.Close();
    gate_.Hold(rank.device, rank.side);
    begin_.Put(rank.side);
    Demand(group_.backend().CopyAsync(rank.device, to.data(), from.data(), bytes.data(),
                                      uint32_t(to.size()), rank.side, &wrong),
           wrong);
    end_.Put(rank.side);
    group_.Synchronize();
    return end_.UsSince(begin_);
  }

  const Workload& w_;
  const uint32_t blocks_;
  GpuGroup group_;
  GpuGate gate_;
  GpuMark begin_, end_;
  uint32_t* rows_[2] = {};
  std::vector<ultraep_replica> plan_;
};

}  // namespace

Json MeasureGpuTransfers(const GpuPlace& place, const Workload& w) {
  Json out = {{"stream", Json::array()}, {"reduce", Json::array()}};
  std::vector<uint32_t> counts = {32, 64, 128};
  if (w.blocks) counts = {w.blocks};
  for (const uint32_t blocks : counts) {
    Pair pair(place, w, blocks);
    for (const Transfer& t : kTransfers) {
      if (t.how == ULTRAEP_BY_COPY_ENGINE && blocks != counts[0]) continue;  // takes no blocks
      ShowProgress(std::string(t.name) + ", " + std::to_string(blocks) + " blocks");
      out["stream"].push_back(pair.Stream(t));
    }
    out["reduce"].push_back(pair.Reduce());
  }
  EndProgress();
  return out;
}

}  // namespace ultraep::bench
