// Which name of a group becomes a label: the first seven, everybody else is "other". So the number
// of series has a bound whatever jobs come and go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace ultraep::metrics {

inline constexpr char kOther[] = "other";

// A name keeps its label as long as a group of that name lives; afterwards until a new one needs
// the place. A name that came when all places were taken is "other" for its life.
class GroupLabels {
 public:
  static constexpr size_t kNamed = 7;

  // Names of living groups, and of closed ones that are still known; both may be in it twice.
  void Update(const std::vector<std::string>& living, const std::vector<std::string>& closed);

  // Of a name of the last Update: itself or "other".
  std::string Of(const std::string& name) const;
  // The names that are labels, the oldest first.
  std::vector<std::string> named() const;

 private:
  struct Place {
    std::string name;
    bool living = false;
    uint64_t last_lived = 0;  // update
  };
  // If need be that of the name that has been closed for longest. False: all live.
  bool MakePlace();

  std::vector<Place> places_;     // in the order in which they were taken
  std::set<std::string> others_;  // living names that have found no place
  uint64_t updates_ = 0;
};

}  // namespace ultraep::metrics
