// The screen of `ultraepctl top` as lines of text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/cli/top/readings.h"
#include "protocol/operator_messages.h"

namespace ultraep {

struct TopStyle {
  uint32_t width = 120;
  uint32_t height = 0;  // 0: as many lines as there are
  bool colored = false;
  bool ascii = false;
};

struct TopScreen {
  TopView view;
  std::vector<TopEvent> events;  // the last ones, oldest first
  std::string lost;              // why there is no answer; empty: there is one
  std::string keys;              // the last line; empty: none
};

// Levels from `low` (lowest block) to `high` in `width` cells; NaN is a blank.
std::string Sparkline(const std::vector<double>& values, double low, double high, uint32_t width,
                      bool ascii);
// At most style.height lines of at most style.width characters.
std::vector<std::string> RenderTop(const TopScreen& screen, const TopStyle& style);

}  // namespace ultraep
