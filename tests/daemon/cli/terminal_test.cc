#include "daemon/cli/terminal.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

TEST(TerminalTest, NumbersKeepThreeDigits) {
  EXPECT_EQ(ShortCount(0), "0");
  EXPECT_EQ(ShortCount(999), "999");
  EXPECT_EQ(ShortCount(1000), "1.00 k");
  EXPECT_EQ(ShortCount(99949), "99.9 k");
  EXPECT_EQ(ShortCount(999499), "999 k");
  EXPECT_EQ(ShortCount(999500), "1.00 M");
  EXPECT_EQ(ShortCount(1.844e19), "18440 P");
}

TEST(TerminalTest, BytesTimesAndDurations) {
  EXPECT_EQ(ShortBytes(1023), "1023 B");
  EXPECT_EQ(ShortBytes(1536), "1.50 KiB");
  EXPECT_EQ(ShortBytes(uint64_t{80} << 20), "80.0 MiB");
  EXPECT_EQ(ShortUs(0), "0 us");
  EXPECT_EQ(ShortUs(3.46), "3.5 us");
  EXPECT_EQ(ShortUs(15), "15 us");
  EXPECT_EQ(ShortUs(999.4), "999 us");
  EXPECT_EQ(ShortUs(1234), "1.2 ms");
  EXPECT_EQ(ShortUs(2.5e6), "2.50 s");
  EXPECT_EQ(ShortDuration(59.9), "59 s");
  EXPECT_EQ(ShortDuration(192), "3 min 12 s");
  EXPECT_EQ(ShortDuration(3 * 86400 + 7200), "3 d 2 h");
}

TEST(TerminalTest, ColoursOnlyWhenTheyAreWanted) {
  EXPECT_EQ(Paint("x", Color::kBad, false), "x");
  EXPECT_EQ(Paint("x", Color::kNone, true), "x");
  EXPECT_EQ(Paint("x", Color::kBad, true), "\033[31mx\033[0m");
}

TEST(TerminalTest, ControlCharactersAreNotPrinted) {
  EXPECT_EQ(Printable("a\tb\033[0m\x7f\xc3\xa9"), "a?b?[0m???");
}

}  // namespace
}  // namespace ultraep
