#include "daemon/cli/top/render.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ultraep {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Characters that a terminal shows: no colours, and one for each code point.
size_t Width(const std::string& line) {
  size_t width = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\033') {
      while (line[i] != 'm') ++i;
      continue;
    }
    width += (static_cast<unsigned char>(line[i]) & 0xc0) != 0x80;
  }
  return width;
}

TopGroup Made(const std::string& name) {
  TopGroup g;
  g.name = name;
  g.gate = "open";
  g.ranks = g.ready = 8;
  g.steps_per_second = 310;
  g.before = 1.786;
  g.after = 1.005;
  g.replicas = 12.3;
  g.slots = 16;
  g.plan_p99_us = 38;
  g.verdict_p99_us = 1000;
  g.stream_p99_us = 1200;
  g.fallbacks = 3;
  g.fallbacks_total = 12;
  g.avoided_per_second = 1.2e6;
  g.past_before.assign(60, 1.8);
  g.past_after.assign(60, 1.0);
  return g;
}

TopScreen ScreenOf(const std::vector<TopGroup>& groups) {
  TopScreen screen;
  screen.view.seconds = 1;
  screen.view.cpu_share = 0.5;
  screen.view.daemon.pid = 42;
  screen.view.groups = groups;
  return screen;
}

std::string All(const TopScreen& screen, const TopStyle& style) {
  std::string all;
  for (const std::string& line : RenderTop(screen, style)) all += line + "\n";
  return all;
}

void ExpectHolds(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), text.npos) << "no '" << part << "' in\n" << text;
}

TEST(SparklineTest, LevelsFromLowToHigh) {
  EXPECT_EQ(Sparkline({1, 2}, 1, 2, 2, false), "\u2581\u2588");
  EXPECT_EQ(Sparkline({1, 2}, 1, 2, 2, true), "_#");
  EXPECT_EQ(Sparkline({0, 9}, 1, 2, 2, true), "_#") << "what is beyond the scale stays on it";
}

TEST(SparklineTest, CellsAreMeansAndTheUnknownIsBlank) {
  EXPECT_EQ(Sparkline({1, 2, kNone, kNone, 2, 2}, 1, 2, 3, true), "= #");
  EXPECT_EQ(Sparkline({1, kNone, 2, 2}, 1, 2, 2, true), "_#") << "of what is known";
  EXPECT_EQ(Sparkline({1, 2}, 1, 2, 4, true), "__##") << "more cells than values";
}

TEST(RenderTopTest, AGroupsRowAt120Columns) {
  const std::string text = All(ScreenOf({Made("train-moe")}), {120, 0, false, true});
  ExpectHolds(text, "GROUP     RANKS GATE STEPS/s BEFORE 1..1.8");
  ExpectHolds(text, "train-moe   8/8 open     310  1.786 ###");
  ExpectHolds(text, " 1.005 ___");
  ExpectHolds(text, " 12.3/16 38 us  1.0 ms 1.2 ms         3");
  ExpectHolds(text, "1.20 M");
  ExpectHolds(text, "in 1.0 s: 310 steps/s, 1.20 M tokens/s taken off");
  ExpectHolds(text, "CPU 50 %");
}

TEST(RenderTopTest, NoLineIsWiderThanTheTerminalNorAreThereMoreThanItHas) {
  TopGroup lacking = Made(std::string(63, 'n'));
  lacking.ready = 1;
  lacking.not_ready = std::string(200, 'r');
  TopScreen screen = ScreenOf(std::vector<TopGroup>(30, lacking));
  Event refused;
  refused.kind = uint16_t(EventKind::kRefused);
  SetText(refused.text, std::string(150, 't'));
  screen.events.assign(10, {refused, 2});
  screen.keys = std::string(300, 'k');
  for (const bool lost : {false, true}) {
    screen.lost = lost ? std::string(400, 'l') : "";
    for (const uint32_t width : {1u, 18u, 20u, 39u, 40u, 80u, 100u, 120u, 132u, 200u, 500u})
      for (const uint32_t height : {1u, 2u, 3u, 5u, 10u, 24u, 60u}) {
        const std::vector<std::string> lines = RenderTop(screen, {width, height, true, false});
        EXPECT_LE(lines.size(), height);
        for (const std::string& line : lines) {
          if (line.find("GROUP") != line.npos || line.find("nnn") != line.npos)
            EXPECT_LE(Width(line), std::max(width, 18u)) << width << ": " << line;
          else
            EXPECT_LE(Width(line), width) << line;
        }
      }
  }
}

TEST(RenderTopTest, NarrowTerminalsLoseColumnsButNotTheImbalance) {
  const std::string text = All(ScreenOf({Made("job")}), {40, 0, false, true});
  ExpectHolds(text, "BEFORE");
  ExpectHolds(text, "AFTER");
  EXPECT_EQ(text.find("REPLICAS"), text.npos);
  EXPECT_EQ(text.find("#"), text.npos) << "no sparkline";
}

TEST(RenderTopTest, MissingRanksAndFallbacksHaveColours) {
  TopGroup g = Made("job");
  g.ready = 7;
  g.not_ready = "rank 3 gone";
  const std::string text = All(ScreenOf({g}), {120, 0, true, true});
  ExpectHolds(text, "\033[31m  7/8\033[0m");
  ExpectHolds(text, "\033[31m  rank 3 gone\033[0m");
  ExpectHolds(text, "\033[33m        3\033[0m");
  EXPECT_EQ(All(ScreenOf({g}), {120, 0, false, true}).find('\033'), std::string::npos);
}

TEST(RenderTopTest, GroupsWithoutRoomAreCountedAndTheLastEventsKeepTheirPlace) {
  TopScreen screen = ScreenOf(std::vector<TopGroup>(30, Made("job")));
  Event joined;
  joined.kind = uint16_t(EventKind::kJoined);
  screen.events.assign(5, {joined, 1});
  const std::string text = All(screen, {120, 20, false, true});
  ExpectHolds(text, "and 20 more");
  ExpectHolds(text, "LAST EVENTS");
}

TEST(RenderTopTest, WhatIsUnknownIsADash) {
  TopGroup g = Made("idle");
  g.before = g.after = g.replicas = g.plan_p99_us = g.verdict_p99_us = g.stream_p99_us = kNone;
  g.past_before.assign(60, kNone);
  g.past_after.assign(60, kNone);
  const std::string text = All(ScreenOf({g}), {120, 0, false, true});
  ExpectHolds(text, "310      - ");
  EXPECT_EQ(text.find("nan"), text.npos) << text;
}

TEST(RenderTopTest, WithoutADaemonOnlyThatAndTheEventsAreShown) {
  TopScreen screen = ScreenOf({Made("job")});
  screen.lost = "the daemon closed the connection";
  const std::string text = All(screen, {120, 0, false, true});
  ExpectHolds(text, "daemon gone, retrying: the daemon closed the connection");
  EXPECT_EQ(text.find("1.786"), text.npos) << "old numbers are no numbers";
}

TEST(RenderTopTest, WithoutGroupsItSaysSo) {
  ExpectHolds(All(ScreenOf({}), {120, 0, false, true}), "no groups");
}

TEST(RenderTopTest, FallbacksInARowAreSaidOnce) {
  TopScreen screen = ScreenOf({Made("job")});
  Event fallback;
  fallback.kind = uint16_t(EventKind::kFallback);
  SetText(fallback.group, "job");
  screen.events = {{fallback, 12}};
  ExpectHolds(All(screen, {120, 0, false, true}), "12 in a row, the last: fallback");
}

}  // namespace
}  // namespace ultraep
