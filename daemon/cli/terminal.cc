#include "daemon/cli/terminal.h"

#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_format.h"

namespace ultraep {
namespace {

// Three digits that mean something.
std::string Scaled(double value, const char* unit) {
  const int digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return absl::StrFormat("%.*f %s", digits, value, unit);
}

std::string TwoParts(uint64_t high, const char* high_unit, uint64_t low, const char* low_unit) {
  return absl::StrFormat("%d %s %d %s", high, high_unit, low, low_unit);
}

}  // namespace

bool ColorWanted() {
  const char* const no_color = std::getenv("NO_COLOR");
  const char* const term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) && !(no_color && *no_color) && term && std::strcmp(term, "dumb");
}

bool Utf8Wanted() {
  std::setlocale(LC_CTYPE, "");
  return !std::strcmp(nl_langinfo(CODESET), "UTF-8");
}

std::string Paint(const std::string& text, Color color, bool colored) {
  static constexpr const char* kCodes[] = {"", "32", "33", "31", "2", "1"};
  if (!colored || color == Color::kNone) return text;
  return absl::StrFormat("\033[%sm%s\033[0m", kCodes[int(color)], text);
}

std::string Printable(const std::string& text) {
  std::string out = text;
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  return out;
}

std::string ShortCount(double count) {
  static constexpr const char* kUnits[] = {"k", "M", "G", "T", "P"};
  if (count < 999.5) return absl::StrFormat("%.0f", count);
  size_t unit = 0;
  for (count /= 1e3; count >= 999.5 && unit < 4; ++unit) count /= 1e3;
  return Scaled(count, kUnits[unit]);
}

std::string ShortBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrFormat("%d B", bytes);
  double value = double(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1023.5 && unit < 4; ++unit) value /= 1024;
  return Scaled(value, kUnits[unit]);
}

std::string ShortUs(double us) {
  if (us < 0.05) return "0 us";
  if (us < 999.5) return absl::StrFormat("%.*f us", us < 9.95 ? 1 : 0, us);
  if (us < 999.5e3) return absl::StrFormat("%.*f ms", us < 9.95e3 ? 1 : 0, us / 1e3);
  return Scaled(us / 1e6, "s");
}

std::string ShortDuration(double seconds) {
  const auto s = uint64_t(seconds);
  if (s < 60) return absl::StrFormat("%d s", s);
  if (s < 3600) return TwoParts(s / 60, "min", s % 60, "s");
  if (s < 86400) return TwoParts(s / 3600, "h", s / 60 % 60, "min");
  return TwoParts(s / 86400, "d", s / 3600 % 24, "h");
}

}  // namespace ultraep
