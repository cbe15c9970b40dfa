#include "daemon/metrics/group_labels.h"

#include <algorithm>

namespace ultraep::metrics {
namespace {

bool Has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

void GroupLabels::Update(const std::vector<std::string>& living,
                         const std::vector<std::string>& closed) {
  ++updates_;
  std::erase_if(places_, [&](const Place& place) {
    return !Has(living, place.name) && !Has(closed, place.name);
  });
  std::erase_if(others_, [&](const std::string& name) { return !Has(living, name); });
  for (Place& place : places_) {
    place.living = Has(living, place.name);
    if (place.living) place.last_lived = updates_;
  }
  for (const std::string& name : living) {
    // A group may well be called so.
    if (name == kOther || Has(named(), name) || others_.count(name)) continue;
    if (MakePlace())
      places_.push_back({name, true, updates_});
    else
      others_.insert(name);
  }
  for (const std::string& name : closed) {
    if (name == kOther || Has(named(), name) || others_.count(name)) continue;
    if (places_.size() < kNamed) places_.push_back({name, false, 0});
  }
}

std::string GroupLabels::Of(const std::string& name) const {
  return Has(named(), name) ? name : kOther;
}

std::vector<std::string> GroupLabels::named() const {
  std::vector<std::string> names;
  for (const Place& place : places_) names.push_back(place.name);
  return names;
}

bool GroupLabels::MakePlace() {
  if (places_.size() < kNamed) return true;
  const auto oldest =
      std::min_element(places_.begin(), places_.end(), [](const Place& a, const Place& b) {
        return a.living != b.living ? !a.living : a.last_lived < b.last_lived;
      });
  if (oldest->living) return false;
  places_.erase(oldest);
  return true;
}

}  // namespace ultraep::metrics
