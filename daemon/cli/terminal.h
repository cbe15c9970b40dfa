// What the output can show: a terminal or not, colours, which characters; and numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace ultraep {

// Colours, where the user has not said NO_COLOR and standard output is a terminal that knows them.
bool ColorWanted();
// Does the locale's encoding have block characters? Takes the locale from the environment.
bool Utf8Wanted();

enum class Color { kNone, kGood, kWarn, kBad, kDim, kBold };
// The text, in the colour when `colored`.
std::string Paint(const std::string& text, Color color, bool colored);

// Text of a peer for a terminal: one line, no control characters.
std::string Printable(const std::string& text);

std::string ShortCount(double count);       // 950, 12.3 k, 4.56 M
std::string ShortBytes(uint64_t bytes);     // 950 B, 12.3 KiB, 4.6 GiB
std::string ShortUs(double us);             // 0.4 us, 16 us, 1.2 ms, 3.4 s
std::string ShortDuration(double seconds);  // 42 s, 3 min 12 s, 5 h 3 min, 12 d 5 h

}  // namespace ultraep
