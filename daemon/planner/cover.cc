#include "daemon/planner/cover.h"

#include <algorithm>
#include <cstring>

namespace ultraep::planner {
namespace {

// 256 * exp(0.35 * z) for z = the 16 mid-quantiles of the normal distribution.
constexpr uint32_t kNoise[16] = {133, 161, 180, 195, 209, 222, 236, 249,
                                 263, 278, 295, 314, 336, 365, 406, 491};
constexpr uint32_t kNoNoise = 256;

// Murmur3's finaliser: fixed pseudo-random numbers.
uint32_t Scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  return x ^ (x >> 16);
}

uint32_t NoiseOf(uint32_t variant, uint32_t rank) {
  if (variant == 0 || variant == kPublishedOrder) return kNoNoise;
  return kNoise[Scramble((variant << 16) + rank + 1) & 15];
}

uint64_t RoundUp(uint64_t tokens, uint32_t tile) { return (tokens + tile - 1) / tile * tile; }

}  // namespace

void Cover::Reserve(const PlanShape& shape) { ranks_.reserve(shape.ranks); }

void Cover::Insert(List* list, uint32_t* size, uint64_t packed) {
  uint32_t i = (*size)++;
  for (; i > 0 && (*list)[i - 1] > packed; --i) (*list)[i] = (*list)[i - 1];
  (*list)[i] = packed;
}

void Cover::Prepare(Problem* problem, Domain domain, const Target& target) {
  problem_ = problem;
  domain_ = domain;
  start_rooms_size_ = start_exporters_size_ = 0;
  ranks_.resize(domain.size());
  uint64_t room = 0, need = 0;
  for (uint32_t i = 0; i < domain.size(); ++i) {
    const uint32_t r = domain.begin + i;
    const uint64_t tokens = problem->rank_tokens[r], limit = target.limit[r];
    if (tokens > limit) {
      problem->SortExpertsOf(r);
      start_exporters_[start_exporters_size_++] = Pack(tokens - limit, i);
      need += tokens - limit;
    } else if (tokens < limit && problem->slots_of(r) > 0) {
      start_rooms_[start_rooms_size_++] = Pack(limit - tokens, i);
      room += limit - tokens;
    }
  }
  std::sort(start_rooms_.begin(), start_rooms_.begin() + start_rooms_size_);
  start_spare_ = room >= need ? room - need : 0;
  // Exporters without slots could not use what chaining gives them, but room elsewhere is needed in
  // any case.
  possible_ = room >= need;
  work_->spent += domain.size();
  FindBound();
}

// Pieces: the fewest rooms that take all excess, and the fewest each exporter needs alone, for its
// rooms and for its experts. With chaining the number of pairs of ranks does not get smaller: in
// both cases it is ranks involved minus independent groups of them.
void Cover::FindBound() {
  bound_ = {1, 0};
  uint64_t open = 0;
  for (uint32_t i = 0; i < start_exporters_size_; ++i) {
    const uint32_t rank = domain_.begin + RankIn(start_exporters_[i]);
    const uint64_t need = Tokens(start_exporters_[i]);
    open += need;
    uint32_t rooms = 0, experts = 0;
    for (uint64_t sum = 0; sum < need && rooms < start_rooms_size_;)
      sum += Tokens(start_rooms_[start_rooms_size_ - ++rooms]);
    const uint32_t* const heaviest = problem_->experts_of(rank);
    for (uint64_t sum = 0; sum < need && experts < problem_->shape.experts_per_rank();)
      sum += problem_->expert_tokens[heaviest[experts++]];
    bound_.pieces += std::max(rooms, experts);
    bound_.transfer = std::max(bound_.transfer, experts);
  }
  uint32_t rooms = 0;
  for (uint64_t sum = 0; sum < open && rooms < start_rooms_size_;)
    sum += Tokens(start_rooms_[start_rooms_size_ - ++rooms]);
  bound_.pieces = std::max(bound_.pieces, rooms);
}

void Cover::QueueExporter(uint32_t rank) {
  const uint64_t key = ranks_[rank].need * ranks_[rank].noise / kNoNoise;
  Insert(&exporters_, &exporters_size_, Pack(key, rank));
}

void Cover::Start(const CoverOptions& options) {
  rooms_size_ = start_rooms_size_;
  std::memcpy(rooms_.data(), start_rooms_.data(), rooms_size_ * sizeof rooms_[0]);
  spare_ = start_spare_;
  random_ = options.variant * 7919 + 13;
  current_ = kNone;
  transfer_ = 0;
  for (uint32_t i = 0; i < domain_.size(); ++i)
    ranks_[i].slots = std::min(options.slots, problem_->slots_of(domain_.begin + i));
  exporters_size_ = start_exporters_size_;
  for (uint32_t i = 0; i < exporters_size_; ++i) {
    const uint32_t rank = RankIn(start_exporters_[i]);
    Rank& exporter = ranks_[rank];
    exporter.need = Tokens(start_exporters_[i]);
    exporter.noise = NoiseOf(options.variant, rank);
    exporter.next = 0;
    exporter.left = problem_->expert_tokens[problem_->experts_of(domain_.begin + rank)[0]];
    exporters_[i] = Pack(exporter.need * exporter.noise / kNoNoise, rank);
  }
  std::sort(exporters_.begin(), exporters_.begin() + exporters_size_);
}

// Its next expert with tokens, when the present one has gone.
bool Cover::NextExpert(uint32_t rank) {
  Rank& exporter = ranks_[rank];
  if (exporter.left > 0) return true;
  if (++exporter.next == problem_->shape.experts_per_rank()) return false;
  const uint32_t expert = problem_->experts_of(domain_.begin + rank)[exporter.next];
  exporter.left = problem_->expert_tokens[expert];
  return exporter.left > 0;  // the rest have no tokens either
}

// The larger of the two rooms that together take `want` with the least to spare. The two largest
// do take it.
uint32_t Cover::TightestPair(uint64_t want) const {
  uint32_t high = rooms_size_ - 1, best = high;
  // Rooms too small even beside the largest are in no pair.
  const uint64_t least_other = want - Tokens(rooms_[high]);
  const uint64_t* const rooms = rooms_.data();
  auto low = uint32_t(std::lower_bound(rooms, rooms + high, Pack(least_other, 0)) - rooms);
  uint64_t least = UINT64_MAX;
  while (low < high) {
    const uint64_t sum = Tokens(rooms_[low]) + Tokens(rooms_[high]);
    if (sum < want) {
      ++low;
      continue;
    }
    if (sum < least) {
      least = sum;
      best = high;
    }
    --high;
  }
  return best;
}

Cover::Choice Cover::ChooseRoom(uint64_t want, bool closes, const CoverOptions& options) {
  const uint32_t last = rooms_size_ - 1;
  if (options.variant == kPublishedOrder) return {last, true};
  const uint64_t* const rooms = rooms_.data();
  const auto tightest =
      uint32_t(std::lower_bound(rooms, rooms + rooms_size_, Pack(want, 0)) - rooms);
  if (tightest < rooms_size_) return {tightest, false};
  if (closes && last > 0 && Tokens(rooms_[last]) + Tokens(rooms_[last - 1]) >= want)
    return {TightestPair(want), true};
  if (options.variant == 0) return {last, false};
  random_ = Scramble(random_ + exporters_size_);
  const uint32_t skip = random_ % 3;
  return {last > skip ? last - skip : 0, false};
}

// What is given instead of `tokens` when the receiver's last slot would waste too much of its room.
uint64_t Cover::Chain(uint64_t tokens, uint64_t room, uint64_t left, uint32_t tile) const {
  const uint64_t waste = room - tokens;
  // Twice an equal share: early exporters may waste more, later ones make up for it.
  if (waste * (exporters_size_ + 1) <= 2 * spare_) return tokens;
  if (left <= room) return left;
  return std::max(tokens, tile > 1 ? room / tile * tile : room);
}

// False when the load cannot spare so much room.
bool Cover::Waste(uint64_t tokens) {
  const bool affordable = tokens <= spare_;
  spare_ = affordable ? spare_ - tokens : 0;
  return affordable;
}

// One piece of the exporter.
Cover::Result Cover::Step(uint32_t exporter, const CoverOptions& options,
                          std::vector<Piece>* pieces) {
  Rank& from = ranks_[exporter];
  if (!NextExpert(exporter) || rooms_size_ == 0) return Result::kStuck;
  const uint32_t tile = std::max(options.tile_tokens, 1u);
  uint64_t want = std::min(from.need, from.left);
  const bool closes = want == from.need;
  if (tile > 1) want = std::min(RoundUp(want, tile), from.left);
  const Choice choice = ChooseRoom(want, closes, options);
  const uint64_t room = Tokens(rooms_[choice.room]);
  const uint32_t receiver = RankIn(rooms_[choice.room]);
  uint64_t tokens = std::min(want, room);
  if (tile > 1 && tokens < from.left) tokens = tokens / tile * tile;

  --rooms_size_;
  std::memmove(&rooms_[choice.room], &rooms_[choice.room + 1],
               (rooms_size_ - choice.room) * sizeof rooms_[0]);
  Rank& to = ranks_[receiver];
  if (to.slots == 1 && from.slots > 0) tokens = Chain(tokens, room, from.left, tile);
  if (tokens > 0) {
    const uint32_t expert = problem_->experts_of(domain_.begin + exporter)[from.next];
    pieces->push_back({expert, domain_.begin + receiver, tokens});
    --to.slots;
    const uint32_t received =
        std::min(options.slots, problem_->slots_of(domain_.begin + receiver)) - to.slots;
    transfer_ = std::max({transfer_, from.next + 1, received});
    from.left -= tokens;
  }
  bool affordable = true;
  // A room that is too small for the next tile would only be found again.
  if (tokens >= want && tokens < room && to.slots > 0)
    Insert(&rooms_, &rooms_size_, Pack(room - tokens, receiver));
  else
    affordable = Waste(room - tokens);

  if (tokens < from.need) {
    from.need -= tokens;
    if (choice.pair)
      current_ = exporter;
    else
      QueueExporter(exporter);
  } else if (tokens > from.need && from.slots > 0) {
    // It imports other ranks' experts only, so no rank ever gets a second copy.
    Insert(&rooms_, &rooms_size_, Pack(tokens - from.need, exporter));
  } else {
    affordable = Waste(tokens - from.need) && affordable;
  }
  return affordable ? Result::kDone : Result::kWasteful;
}

bool Cover::Run(const CoverOptions& options, CoverCost* beat, std::vector<Piece>* pieces) {
  if (!possible_) return false;
  pieces->clear();
  Start(options);
  while (exporters_size_ > 0 || current_ != kNone) {
    const uint32_t open = exporters_size_ + (current_ != kNone);  // each needs a piece at least
    if (CoverCost{transfer_, uint32_t(pieces->size()) + open} >= *beat) return false;
    work_->spent += 16;
    uint32_t exporter = current_;
    current_ = kNone;
    if (exporter == kNone) exporter = RankIn(exporters_[--exporters_size_]);
    if (Step(exporter, options, pieces) != Result::kDone) return false;
  }
  *beat = {transfer_, uint32_t(pieces->size())};
  return true;
}

void Cover::RunToTheEnd(const CoverOptions& options, std::vector<Piece>* pieces) {
  pieces->clear();
  Start(options);
  while (exporters_size_ > 0 || current_ != kNone) {
    work_->spent += 16;
    uint32_t exporter = current_;
    current_ = kNone;
    if (exporter == kNone) exporter = RankIn(exporters_[--exporters_size_]);
    Step(exporter, options, pieces);
  }
}

}  // namespace ultraep::planner
