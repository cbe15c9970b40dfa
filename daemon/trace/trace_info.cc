#include "daemon/trace/trace_info.h"

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "protocol/check_plan.h"
#include "protocol/npy.h"

namespace ultraep::trace {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "ultraep-trace";
constexpr uint64_t kVersion = 1;

// Fields of a file that anybody may have written: each one is there, a number, and in range.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}

  template <class T>
  void Number(const char* name, T* value, uint64_t limit) {
    const auto found = json_.find(name);
    if (!wrong_.empty()) return;
    if (found == json_.end() || !found->is_number_unsigned()) {
      wrong_ = absl::StrFormat("%s must be a whole number of 0..%d", name, limit);
      return;
    }
    const auto number = found->get<uint64_t>();
    if (number > limit)
      wrong_ = absl::StrFormat("%s is %d, must be 0..%d", name, number, limit);
    else
      *value = T(number);
  }
  void Text(const char* name, std::string* value) {
    const auto found = json_.find(name);
    if (found != json_.end() && found->is_string()) *value = found->get<std::string>();
  }
  const std::string& wrong() const { return wrong_; }

 private:
  const Json& json_;
  std::string wrong_;
};

}  // namespace

std::string TraceInfo::ToJson() const {
  const Json json = {{"format", kFormat},
                     {"version", kVersion},
                     {"group", group},
                     {"ranks", shape.ranks},
                     {"experts", shape.experts},
                     {"slots", shape.slots},
                     {"layers", layers},
                     {"domain_size", shape.domain_size},
                     {"slot_sets", slot_sets},
                     {"training", training},
                     {"expert_bytes", expert_bytes},
                     {"epsilon_ppm", options.epsilon_ppm},
                     {"variants", options.variants},
                     {"work_limit", options.work_limit},
                     {"tile_tokens", options.tile_tokens},
                     {"relay_hop", options.relay_hop},
                     {"cost_token_ps", options.cost.token},
                     {"cost_expert_ps", options.cost.expert},
                     {"cost_instance_ps", options.cost.instance},
                     {"steps", steps},
                     {"replicas", replicas},
                     {"dropped", dropped},
                     {"started", started},
                     {"seconds", seconds},
                     {"source", source},
                     {"step_columns", kStepColumns},
                     {"replica_columns", kReplicaColumns}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

std::string TraceInfo::FromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return "is not a JSON object";
  const auto format = json.find("format");
  if (format == json.end() || *format != kFormat)
    return absl::StrFormat("its format is not \"%s\"", kFormat);
  const auto version = json.find("version");
  if (version == json.end() || *version != kVersion)
    return absl::StrFormat("its version is %s, this program reads %d",
                           version == json.end() ? "missing" : npy::Printable(version->dump()),
                           kVersion);
  constexpr uint64_t kPs = uint64_t{1} << 40;  // CostModel
  Fields fields(json);
  fields.Number("ranks", &shape.ranks, kMaxRanks);
  fields.Number("experts", &shape.experts, kMaxExperts);
  fields.Number("slots", &shape.slots, kMaxSlotsPerRank);
  fields.Number("layers", &layers, UINT32_MAX);
  fields.Number("domain_size", &shape.domain_size, kMaxRanks);
  fields.Number("slot_sets", &slot_sets, kMaxSlotSets);
  fields.Number("expert_bytes", &expert_bytes, uint64_t{1} << 40);
  fields.Number("epsilon_ppm", &options.epsilon_ppm, 1'000'000);
  fields.Number("variants", &options.variants, 64);
  fields.Number("work_limit", &options.work_limit, UINT32_MAX);
  fields.Number("tile_tokens", &options.tile_tokens, UINT32_MAX);
  fields.Number("relay_hop", &options.relay_hop, kMaxRelayHop);
  fields.Number("cost_token_ps", &options.cost.token, kPs);
  fields.Number("cost_expert_ps", &options.cost.expert, kPs);
  fields.Number("cost_instance_ps", &options.cost.instance, kPs);
  fields.Number("steps", &steps, INT64_MAX);
  fields.Number("replicas", &replicas, INT64_MAX);
  fields.Number("dropped", &dropped, INT64_MAX);
  if (!fields.wrong().empty()) return fields.wrong();
  fields.Text("group", &group);
  fields.Text("started", &started);
  fields.Text("source", &source);
  const auto flag = json.find("training");
  training = flag != json.end() && flag->is_boolean() && flag->get<bool>();
  const auto time = json.find("seconds");
  seconds = time != json.end() && time->is_number() ? time->get<double>() : 0;
  return CheckShape(shape);
}

}  // namespace ultraep::trace
