// A terminal taken over and given back: alternate screen, keys one by one, signals.
#pragma once

#include <termios.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ultraep {

class Screen {
 public:
  // Is standard output a terminal that one can move about on?
  static bool Possible();

  Screen();
  ~Screen();
  Screen(const Screen&) = delete;

  // As the terminal says now.
  uint32_t width() const { return width_; }
  uint32_t height() const { return height_; }
  // Over what was drawn before. Lines are not longer than the screen.
  void Draw(const std::vector<std::string>& lines);

  // A key, or one of these. Ctrl-Z stops the process as usual and gives kResized when it goes on.
  enum : int { kNothing = 0, kResized = -1, kEnd = -2 };
  // kEnd: a signal to end came, or the terminal is gone.
  int Wait(uint64_t until_ns);

 private:
  void Enter();
  void Leave();
  void Measure();

  termios before_{};
  bool keys_ = false;  // standard input is the terminal as well
  uint32_t width_ = 80, height_ = 24;
};

}  // namespace ultraep
