#include "daemon/log.h"

#include <unistd.h>

#include <atomic>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ultraep {
namespace {

std::atomic<int> least_level{int(LogLevel::kInfo)};

// Texts hold names and words of peers: none of them may end the line or speak to a terminal.
std::string OneLine(const std::string& text) {
  std::string line;
  for (const char c : text)
    if (c >= 0x20 && c < 0x7f)
      line += c;
    else
      line += absl::StrFormat("\\x%02x", static_cast<unsigned char>(c));
  return line;
}

}  // namespace

void SetLogLevel(LogLevel level) { least_level.store(int(level)); }

void LogLine(LogLevel level, const std::string& text) {
  if (int(level) < least_level.load(std::memory_order_relaxed)) return;
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  // Wall clock for people only; nothing in the protocol uses it.
  const std::string line =
      absl::StrFormat("%s ultraepd %s: %s\n",
                      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
                      kNames[int(level)], OneLine(text));
  // One write per line, so that lines of several threads do not mix.
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace ultraep
