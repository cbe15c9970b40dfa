// The popularity profile: read and fitted to another number of experts.
#include <cmath>
#include <fstream>
#include <sstream>

#include "plugin/examples/replay/loads.h"

namespace ultraep::replay {
namespace {

// One line of numbers, each above 0. Empty text when fine.
std::string ReadLine(const std::string& line, std::vector<double>* values) {
  std::istringstream words(line);
  std::string word;
  while (words >> word) {
    char* end = nullptr;
    const double value = std::strtod(word.c_str(), &end);
    if (*end != '\0' || !(value > 0) || !std::isfinite(value))
      return "\"" + word + "\" is not a number above 0";
    values->push_back(value);
  }
  return "";
}

void SetMeanToOne(double* row, uint32_t experts) {
  double sum = 0;
  for (uint32_t e = 0; e < experts; ++e) sum += row[e];
  for (uint32_t e = 0; e < experts; ++e) row[e] *= experts / sum;
}

}  // namespace

std::string ReadProfile(const std::string& path, Profile* profile) {
  std::ifstream file(path);
  if (!file) return path + ": cannot be opened; name another file with --profile";
  *profile = {};
  std::string line;
  while (std::getline(file, line)) {
    std::vector<double> row;
    const std::string where = path + ": line " + std::to_string(profile->layers + 1) + ": ";
    if (std::string wrong = ReadLine(line, &row); !wrong.empty()) return where + wrong;
    if (row.empty()) return where + "no numbers";
    if (profile->layers == 0) profile->experts = static_cast<uint32_t>(row.size());
    if (row.size() != profile->experts)
      return where + std::to_string(row.size()) + " numbers, the first line has " +
             std::to_string(profile->experts);
    profile->popularity.insert(profile->popularity.end(), row.begin(), row.end());
    ++profile->layers;
  }
  if (profile->layers == 0) return path + ": empty, must have one line per layer";
  return "";
}

Profile Resample(const Profile& profile, uint32_t experts) {
  Profile fitted;
  fitted.layers = profile.layers;
  fitted.experts = experts;
  for (uint32_t layer = 0; layer < profile.layers; ++layer) {
    for (uint32_t e = 0; e < experts; ++e) {
      const uint64_t column = experts <= profile.experts ? uint64_t{e} * profile.experts / experts
                                                         : e % profile.experts;
      fitted.popularity.push_back(profile.row(layer)[column]);
    }
    SetMeanToOne(&fitted.popularity[uint64_t{layer} * experts], experts);
  }
  return fitted;
}

}  // namespace ultraep::replay
