// Profile loads: popularity times noise, then each token's experts drawn without replacement.
#include <algorithm>
#include <cmath>
#include <utility>

#include "plugin/examples/replay/loads.h"
#include "plugin/examples/replay/random.h"

namespace ultraep::replay {
namespace {

constexpr uint32_t kDomains = 3;
constexpr double kDomainSigma = 0.5;         // of the log popularity, per domain
constexpr double kDomainMemory = 0.99;       // AR(1) per step: hot experts stay hot for ~100 steps
constexpr double kJitterSigma = 0.2;         // of the log popularity, new in each step
constexpr double kSwitchProbability = 0.05;  // per step, that a rank gets another domain mixture

class ProfileLoads : public LoadSource {
 public:
  ProfileLoads(Profile profile, const ProfileLoadOptions& options)
      : profile_(std::move(profile)), options_(options), layers_(options.layers) {}

  uint64_t max_ids() const override { return uint64_t{options_.tokens} * options_.top_k; }

  void Ids(uint64_t step, uint32_t layer, uint32_t rank, std::vector<int32_t>* ids) override {
    AdvanceTo(step, layer);
    FindPopularity(step, layer, rank);
    Random random(options_.seed, kTokenStream, step * options_.layers + layer, rank);
    ids->resize(max_ids());
    for (uint32_t t = 0; t < options_.tokens; ++t)
      DrawExperts(&random, ids->data() + uint64_t{t} * options_.top_k);
  }

 private:
  struct Layer {
    uint64_t next_step = 0;
    std::vector<double> domain;  // [kDomains][experts], standard normal
  };

  // The AR(1) walk of the layer's domains; starts again when asked for an earlier step.
  void AdvanceTo(uint64_t step, uint32_t layer) {
    Layer& state = layers_[layer];
    if (step + 1 < state.next_step) state.next_step = 0;
    state.domain.resize(uint64_t{kDomains} * profile_.experts);
    for (; state.next_step <= step; ++state.next_step) {
      const bool first = state.next_step == 0;
      const double keep = first ? 0 : kDomainMemory;
      const double renew = std::sqrt(1 - keep * keep);
      Random random(options_.seed, kDomainStream, layer, state.next_step);
      for (double& z : state.domain) z = (first ? 0 : keep * z) + renew * random.Normal();
    }
  }

  // Dirichlet(1, ..., 1): normalised exponentials. Redrawn in some steps, so look back for the
  // last.
  void FindMixture(uint64_t step, uint32_t rank, double* mixture) const {
    while (step > 0 &&
           Random(options_.seed, kSwitchStream, rank, step).Uniform() >= kSwitchProbability)
      --step;
    Random random(options_.seed, kMixtureStream, rank, step);
    double sum = 0;
    for (uint32_t d = 0; d < kDomains; ++d) sum += mixture[d] = random.Exponential();
    for (uint32_t d = 0; d < kDomains; ++d) mixture[d] /= sum;
  }

  void FindPopularity(uint64_t step, uint32_t layer, uint32_t rank) {
    double mixture[kDomains];
    FindMixture(step, rank, mixture);
    const std::vector<double>& domain = layers_[layer].domain;
    Random jitter(options_.seed, kJitterStream, layer, step);
    inverse_.resize(profile_.experts);
    for (uint32_t e = 0; e < profile_.experts; ++e) {
      double mixed = 0;
      for (uint32_t d = 0; d < kDomains; ++d)
        mixed += mixture[d] * std::exp(kDomainSigma * domain[uint64_t{d} * profile_.experts + e]);
      const double noise = mixed * std::exp(kJitterSigma * jitter.Normal());
      inverse_[e] = 1 / (profile_.row(layer)[e] * noise);
    }
  }

  // The top_k smallest of Exponential / popularity: the Gumbel-top-k trick without its second
  // logarithm. Equal to drawing one expert after the other without replacement.
  void DrawExperts(Random* random, int32_t* ids) {
    nearest_.clear();
    for (uint32_t e = 0; e < profile_.experts; ++e) {
      const std::pair<double, int32_t> arrival = {random->Exponential() * inverse_[e],
                                                  static_cast<int32_t>(e)};
      if (nearest_.size() == options_.top_k) {
        if (arrival >= nearest_.back()) continue;
        nearest_.pop_back();
      }
      nearest_.insert(std::upper_bound(nearest_.begin(), nearest_.end(), arrival), arrival);
    }
    for (uint32_t k = 0; k < options_.top_k; ++k) ids[k] = nearest_[k].second;
  }

  const Profile profile_;
  const ProfileLoadOptions options_;
  std::vector<Layer> layers_;
  std::vector<double> inverse_;                      // 1 / popularity of the current call
  std::vector<std::pair<double, int32_t>> nearest_;  // of the current token, ascending
};

}  // namespace

std::unique_ptr<LoadSource> MakeProfileLoads(Profile profile, const ProfileLoadOptions& options) {
  return std::make_unique<ProfileLoads>(std::move(profile), options);
}

}  // namespace ultraep::replay
