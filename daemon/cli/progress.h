// A counter on a terminal's last line, for runs that take more than a second.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>

namespace ultraep {

class Progress {
 public:
  // As in "planned 3 of 7".
  Progress(const char* what, uint64_t total)
      : what_(what), total_(total), terminal_(isatty(STDERR_FILENO)) {}

  void Done(uint64_t count) {
    if (!terminal_ || Since(start_) < 1 || Since(shown_) < 0.2) return;
    shown_ = Clock::now();
    std::fprintf(stderr, "\r%s %llu of %llu", what_, static_cast<unsigned long long>(count),
                 static_cast<unsigned long long>(total_));
    any_ = true;
  }
  ~Progress() {
    if (any_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double Since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  const char* const what_;
  const uint64_t total_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point shown_;
  bool any_ = false;
};

}  // namespace ultraep
