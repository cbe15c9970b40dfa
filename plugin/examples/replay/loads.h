// Where the replay's tokens come from: a recorded trace, or a profile of expert popularities with
// noise. Both are functions of (seed, step, layer, rank): every rank process makes its own part and
// all parts fit together.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ultraep::replay {

class LoadSource {
 public:
  virtual ~LoadSource() = default;

  // The logical expert ids of `rank`'s tokens, [tokens][top_k].
  virtual void Ids(uint64_t step, uint32_t layer, uint32_t rank, std::vector<int32_t>* ids) = 0;

  // The most ids that one call can give.
  virtual uint64_t max_ids() const = 0;
};

// Tokens per (step, layer, source rank, expert). Each routed copy counts as one token.
struct Trace {
  uint32_t steps = 0, layers = 0, ranks = 0, experts = 0;
  std::vector<uint32_t> tokens;  // row-major

  const uint32_t* row(uint32_t step, uint32_t layer, uint32_t rank) const {
    return &tokens[((uint64_t{step} * layers + layer) * ranks + rank) * experts];
  }
  uint64_t max_row() const;
};

// .npy with shape [steps, layers, ranks, experts] or, with one layer, [steps, ranks, experts] of
// uint32, int32 or int64; of a directory its loads.npy. Empty text when read, else what is wrong.
std::string ReadTrace(const std::string& path, Trace* trace);

// Relative popularity of each expert, one row per layer; every row's mean is 1.
struct Profile {
  uint32_t layers = 0, experts = 0;
  std::vector<double> popularity;  // [layers][experts]

  const double* row(uint32_t layer) const {
    return &popularity[uint64_t{layer % layers} * experts];
  }
};

// A text file: one line per layer, one positive number per expert. Empty text when read.
std::string ReadProfile(const std::string& path, Profile* profile);

// The profile for another number of experts: columns evenly spaced, or repeated when there are more
// experts than columns; every row's mean is 1 again.
Profile Resample(const Profile& profile, uint32_t experts);

struct ProfileLoadOptions {
  uint32_t layers = 0;
  uint32_t tokens = 0;  // per rank and step
  uint32_t top_k = 0;   // different experts per token
  uint64_t seed = 0;
};

std::unique_ptr<LoadSource> MakeTraceLoads(Trace trace, uint64_t seed);
// Popularity changes from step to step: slowly per domain of text (AR(1)), a little each step, and
// differently on each rank, which sees its own mixture of domains.
std::unique_ptr<LoadSource> MakeProfileLoads(Profile profile, const ProfileLoadOptions& options);

}  // namespace ultraep::replay
