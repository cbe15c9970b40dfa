#include "daemon/report/details.h"

#include <algorithm>
#include <vector>

namespace ultraep::report {
namespace {

constexpr size_t kWorst = 25;      // before and after each
constexpr uint64_t kSample = 500;  // more is a haystack

Json StepJson(const PlanShape& shape, const trace::TraceStep& step) {
  const trace::StepRow& row = step.row;
  Json replicas = Json::array();  // flat: expert, rank, slot, parent, tokens
  for (const Replica& r : step.replicas)
    for (const int64_t value : {int64_t{r.expert}, int64_t{r.rank}, int64_t{r.slot},
                                int64_t{r.parent}, int64_t(r.tokens)})
      replicas.push_back(value);
  Json sources = Json::array();
  for (uint32_t r = 0; r < shape.ranks; ++r)
    sources.push_back(RowTokens(step.load(shape).row(r), shape.experts));
  return {{"sequence", row.sequence},
          {"layer", row.layer},
          {"microbatch", row.microbatch},
          {"generation", row.generation},
          {"verdict", row.verdict},
          {"reason", row.reason},
          {"tokens", row.tokens},
          {"peak_before", row.peak_before},
          {"peak", row.peak},
          {"bound", row.lower_bound},
          {"solve_ns", row.solve_ns},
          {"time_ns", row.time_ns},
          {"transfer", BusiestLink(shape, step.replicas)},
          {"sources", std::move(sources)},
          {"experts", step.expert_tokens},
          {"replicas", std::move(replicas)}};
}

class Details {
 public:
  Details(StepSource* source, uint64_t bytes) : source_(source), left_(bytes) {}

  // False with *wrong empty: the budget is used up.
  bool Add(uint64_t number, std::string* wrong) {
    const std::string key = std::to_string(number);
    if (steps_.contains(key)) return true;
    if (*wrong = source_->Read(number, &step_); !wrong->empty()) return false;
    Json json = StepJson(source_->shape(), step_);
    const uint64_t size = json.dump().size() + key.size() + 4;
    if (size > left_) return false;
    left_ -= size;
    used_ += size;
    steps_[key] = std::move(json);
    return true;
  }
  uint64_t count() const { return steps_.size(); }
  // How many more there is room for, by those so far.
  uint64_t room() const { return used_ ? left_ * steps_.size() / used_ : left_ / 1024; }
  Json Take() { return std::move(steps_); }

 private:
  StepSource* const source_;
  uint64_t left_, used_ = 0;
  Json steps_ = Json::object();
  trace::TraceStep step_;
};

}  // namespace

std::string AddDetails(StepSource* source, const Gather& gather, trace::StepRange wanted,
                       uint64_t bytes, Json* out) {
  Details details(source, bytes);
  std::string wrong;
  uint64_t number = wanted.begin;
  while (number < wanted.end && details.Add(number, &wrong)) ++number;
  (*out)["wanted"] = {wanted.begin, wanted.end, number};
  Json worst = {{"before", gather.Worst(false, kWorst)}, {"after", gather.Worst(true, kWorst)}};
  for (const auto& list : worst)
    for (const Json& step : list)
      if (!wrong.empty() || !details.Add(step.get<uint64_t>(), &wrong)) break;
  (*out)["worst"] = std::move(worst);
  const uint64_t sample = std::min({details.room(), kSample, source->steps()});
  for (uint64_t i = 0; i < sample && wrong.empty(); ++i)
    if (!details.Add(i * source->steps() / sample, &wrong)) break;
  (*out)["sample"] = sample;
  (*out)["count"] = details.count();
  (*out)["steps"] = details.Take();
  return wrong;
}

}  // namespace ultraep::report
