#include "daemon/cli/top/render.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include "absl/strings/str_format.h"
#include "daemon/cli/event_line.h"
#include "daemon/cli/terminal.h"
#include "daemon/event_json.h"

namespace ultraep {
namespace {

constexpr const char* kBlocks[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                   "\u2585", "\u2586", "\u2587", "\u2588"};
constexpr const char* kAsciiBlocks[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
constexpr size_t kSparkMin = 6, kSparkMax = 30, kEventsMin = 3, kEventsMax = 10;
constexpr size_t kNameMax = 16, kNameWide = 32, kWide = 140;
constexpr double kLeastTop = 1.2;
// Columns with a higher rank are dropped before the sparklines.
constexpr uint32_t kSparkRank = 8;

struct Cell {
  std::string text;
  Color color = Color::kNone;
};

struct Column {
  const char* title;
  uint32_t rank;  // those with the highest are dropped first when there is no room; 0: never
  Cell (*cell)(const TopGroup& group);
};

Cell Plain(double value, const char* format_as) {
  if (std::isnan(value)) return {"-"};
  if (*format_as == 'c') return {ShortCount(value)};
  if (*format_as == 'u') return {ShortUs(value)};
  return {absl::StrFormat("%.3f", value)};
}

Cell RanksCell(const TopGroup& g) {
  return {absl::StrFormat("%d/%d", g.ready, g.ranks),
          g.ready == g.ranks ? Color::kNone : Color::kBad};
}
Cell GateCell(const TopGroup& g) {
  return {g.gate, g.gate == "open" ? Color::kNone : Color::kWarn};
}
Cell ReplicasCell(const TopGroup& g) {
  if (std::isnan(g.replicas)) return {"-"};
  return {absl::StrFormat("%.1f/%d", g.replicas, g.slots)};
}
Cell FallbacksCell(const TopGroup& g) {
  return {ShortCount(double(g.fallbacks)), g.fallbacks ? Color::kWarn : Color::kNone};
}

// The group's name stands before these; each sparkline after its number.
const Column kColumns[] = {
    {"RANKS", 1, RanksCell},
    {"GATE", 2, GateCell},
    {"STEPS/s", 3, [](const TopGroup& g) { return Plain(g.steps_per_second, "c"); }},
    {"BEFORE", 0, [](const TopGroup& g) { return Plain(g.before, "f"); }},
    {"AFTER", 0, [](const TopGroup& g) { return Plain(g.after, "f"); }},
    {"REPLICAS", 8, ReplicasCell},
    {"PLAN", 5, [](const TopGroup& g) { return Plain(g.plan_p99_us, "u"); }},
    {"VERDICT", 6, [](const TopGroup& g) { return Plain(g.verdict_p99_us, "u"); }},
    {"STREAM", 7, [](const TopGroup& g) { return Plain(g.stream_p99_us, "u"); }},
    {"FALLBACKS", 4, FallbacksCell},
    {"IN ALL", 10, [](const TopGroup& g) { return Plain(double(g.fallbacks_total), "c"); }},
    {"AVOIDED/s", 9, [](const TopGroup& g) { return Plain(g.avoided_per_second, "c"); }},
};
constexpr size_t kBefore = 3, kAfter = 4;

std::string Clip(const std::string& text, size_t width) {
  return text.size() > width ? text.substr(0, width - 1) + "~" : text;
}
std::string Left(const std::string& text, size_t width) {
  const std::string clipped = Clip(text, width);
  return clipped + std::string(width - clipped.size(), ' ');
}
std::string Right(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

// Which columns there is room for, how wide.
struct Table {
  size_t name = 0;
  size_t spark = 0;  // 0: none
  std::vector<size_t> columns;
  size_t widths[std::size(kColumns)] = {};
  double top = kLeastTop;  // of the sparklines; their bottom is 1

  size_t width() const {
    size_t sum = name;
    for (const size_t c : columns) sum += 1 + widths[c];
    return sum;
  }
};

Table FitTable(const TopView& view, const TopStyle& style) {
  Table table;
  table.name = 5;
  for (size_t c = 0; c < std::size(kColumns); ++c) {
    table.columns.push_back(c);
    table.widths[c] = std::string_view(kColumns[c].title).size();
  }
  for (const TopGroup& g : view.groups) {
    table.name = std::max(table.name, g.name.size());
    for (size_t c = 0; c < std::size(kColumns); ++c)
      table.widths[c] = std::max(table.widths[c], kColumns[c].cell(g).text.size());
    for (const double past : g.past_before)
      if (past > table.top) table.top = past;
  }
  const size_t most = style.width < kWide ? kNameMax : kNameWide;
  const size_t imbalance = 2 + table.widths[kBefore] + table.widths[kAfter];
  table.name = std::min(
      table.name, std::min(most, style.width - std::min<size_t>(imbalance + 4, style.width) + 4));
  const auto rank_less = [](size_t a, size_t b) { return kColumns[a].rank < kColumns[b].rank; };
  for (;;) {
    const auto last = std::max_element(table.columns.begin(), table.columns.end(), rank_less);
    const uint32_t rank = kColumns[*last].rank;
    const size_t sparks = rank > kSparkRank ? 2 * (kSparkMin + 1) : 0;
    if (rank == 0 || table.width() + sparks <= style.width) break;
    table.columns.erase(last);
  }
  const size_t used = table.width();
  const size_t left = style.width > used ? (style.width - used) / 2 : 0;
  if (left > kSparkMin) table.spark = std::min(left - 1, kSparkMax);
  return table;
}

std::string TitleLine(const Table& table) {
  std::string line = Left("GROUP", table.name);
  for (const size_t c : table.columns) {
    line += " " + Right(kColumns[c].title, table.widths[c]);
    if (table.spark && (c == kBefore || c == kAfter))
      line += " " + Left(absl::StrFormat("1..%.1f", table.top), table.spark);
  }
  return line;
}

std::string GroupLine(const TopGroup& g, const Table& table, const TopStyle& style) {
  std::string line = Left(g.name, table.name);
  for (const size_t c : table.columns) {
    const Cell cell = kColumns[c].cell(g);
    line += " " + Paint(Right(cell.text, table.widths[c]), cell.color, style.colored);
    if (!table.spark || (c != kBefore && c != kAfter)) continue;
    const std::string spark = Sparkline(c == kBefore ? g.past_before : g.past_after, 1, table.top,
                                        uint32_t(table.spark), style.ascii);
    line += " " + Paint(spark, c == kBefore ? Color::kWarn : Color::kGood, style.colored);
  }
  return line;
}

std::vector<std::string> HeadLines(const TopScreen& screen, const TopStyle& style) {
  const StatusDaemon& d = screen.view.daemon;
  if (!screen.lost.empty())
    return {Paint(Clip("daemon gone, retrying: " + Printable(screen.lost), style.width),
                  Color::kBad, style.colored)};
  std::string first = absl::StrFormat("ultraepd %s  pid %d  up %s", Printable(GetText(d.build)),
                                      d.pid, ShortDuration(double(d.uptime_ns) / 1e9));
  if (!std::isnan(screen.view.cpu_share))
    first += absl::StrFormat("  CPU %.0f %%", 100 * screen.view.cpu_share);
  first += absl::StrFormat("  connections %d/%d  memory %s", d.connections, d.max_connections,
                           ShortBytes(d.memory_bytes));
  if (d.memory_limit_bytes) first += "/" + ShortBytes(d.memory_limit_bytes);
  if (const uint64_t refused = Refusals(d)) first += absl::StrFormat("  refused %d", refused);
  if (d.traces) first += absl::StrFormat("  recording %d", d.traces);
  uint64_t ready = 0, ranks = 0;
  double steps = 0, avoided = 0;
  for (const TopGroup& g : screen.view.groups) {
    ready += g.ready;
    ranks += g.ranks;
    steps += std::isnan(g.steps_per_second) ? 0 : g.steps_per_second;
    avoided += std::isnan(g.avoided_per_second) ? 0 : g.avoided_per_second;
  }
  std::string second = absl::StrFormat("%s  groups: %d, ranks ready: %d/%d",
                                       IsoTime(screen.view.unix_ns).substr(0, 19) + "Z",
                                       screen.view.groups.size(), ready, ranks);
  if (screen.view.seconds > 0)
    second += absl::StrFormat("; in %.1f s: %s steps/s, %s tokens/s taken off the fullest ranks",
                              screen.view.seconds, ShortCount(steps), ShortCount(avoided));
  return {Clip(first, style.width), Clip(second, style.width)};
}

std::vector<std::string> TableLines(const TopScreen& screen, const TopStyle& style, size_t room) {
  const std::vector<TopGroup>& groups = screen.view.groups;
  if (!screen.lost.empty()) return {};
  if (groups.empty()) return {Clip("no groups: no job of this user is connected", style.width)};
  const Table table = FitTable(screen.view, style);
  std::vector<std::string> lines = {
      Paint(Clip(TitleLine(table), style.width), Color::kBold, style.colored)};
  for (size_t i = 0; i < groups.size(); ++i) {
    const size_t needs = 1 + !groups[i].not_ready.empty();
    if (lines.size() + needs + (i + 1 < groups.size()) > room) {
      lines.push_back(Clip(absl::StrFormat("and %d more", groups.size() - i), style.width));
      break;
    }
    lines.push_back(GroupLine(groups[i], table, style));
    if (needs > 1)
      lines.push_back(
          Paint(Clip("  " + groups[i].not_ready, style.width), Color::kBad, style.colored));
  }
  return lines;
}

// The last ones that there is room for.
std::vector<std::string> EventLines(const TopScreen& screen, const TopStyle& style, size_t room) {
  if (room < 2 || screen.events.empty()) return {};
  const size_t count = std::min(screen.events.size(), room - 1);
  std::vector<std::string> lines = {
      Paint(Clip("LAST EVENTS", style.width), Color::kBold, style.colored)};
  for (size_t i = screen.events.size() - count; i < screen.events.size(); ++i) {
    const Event& e = screen.events[i].event;
    const std::string group = e.group[0] ? Printable(GetText(e.group)) : "-";
    const uint64_t times = screen.events[i].times;
    const std::string line = absl::StrFormat(
        "%s  %s  %s%s", IsoTime(e.time_ns).substr(11, 8), Left(group, kNameMax),
        times > 1 ? absl::StrFormat("%d in a row, the last: ", times) : "", EventText(e));
    lines.push_back(
        Paint(Clip(line, style.width), IsTrouble(e) ? Color::kWarn : Color::kNone, style.colored));
  }
  return lines;
}

}  // namespace

std::string Sparkline(const std::vector<double>& values, double low, double high, uint32_t width,
                      bool ascii) {
  std::string line;
  for (uint32_t cell = 0; cell < width; ++cell) {
    const size_t begin = cell * values.size() / width;
    const size_t end = std::max((cell + 1) * values.size() / width, begin + 1);
    double sum = 0;
    int count = 0;
    for (size_t i = begin; i < end && i < values.size(); ++i) {
      if (std::isnan(values[i])) continue;
      sum += values[i];
      ++count;
    }
    if (!count) {
      line += " ";
      continue;
    }
    const double part = (sum / count - low) / (high - low);
    const int level = std::clamp(int(std::lround(part * 7)), 0, 7);
    line += ascii ? kAsciiBlocks[level] : kBlocks[level];
  }
  return line;
}

std::vector<std::string> RenderTop(const TopScreen& screen, const TopStyle& style) {
  const size_t height = style.height ? style.height : SIZE_MAX / 2;
  std::vector<std::string> lines = HeadLines(screen, style);
  const size_t foot = screen.keys.empty() ? 0 : 1;
  const size_t events = std::min<size_t>(screen.events.size(), kEventsMin) + 2;
  // Groups first; events get what is left, but the last three always when they fit.
  const size_t used = lines.size() + 1 + foot;
  const size_t room = height > used ? height - used : 0;
  lines.push_back("");
  for (std::string& line : TableLines(screen, style, room > events + 3 ? room - events : room))
    lines.push_back(std::move(line));
  const size_t left = height > lines.size() + foot + 1 ? height - lines.size() - foot - 1 : 0;
  std::vector<std::string> last = EventLines(screen, style, std::min<size_t>(left, kEventsMax + 1));
  if (!last.empty()) lines.push_back("");
  for (std::string& line : last) lines.push_back(std::move(line));
  if (foot) {
    while (style.height && lines.size() + foot < height) lines.push_back("");
    lines.push_back(Paint(Clip(screen.keys, style.width), Color::kDim, style.colored));
  }
  if (lines.size() > height) lines.resize(height);
  return lines;
}

}  // namespace ultraep
