#include "daemon/report/page.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "daemon/trace/output_file.h"

namespace ultraep {

extern const char kReportPage[];  // report.html

namespace report {

std::string ReadPlotly(const std::string& path, std::string* script) {
  std::ifstream file(path, std::ios::binary);
  script->assign(std::istreambuf_iterator<char>(file), {});
  if (file && absl::StrContains(script->substr(0, 4096), "plotly.js v")) return "";
  return path +
         (file ? ": is not plotly.js" : std::string(": cannot be read: ") + std::strerror(errno)) +
         "; the plots are drawn with plotly.js: `apt-get install python3-plotly`, or give --plotly "
         "FILE, a plotly.js or plotly.min.js of version 2 (the Python package plotly has one in "
         "plotly/package_data)";
}

// In strings and regular expressions of JavaScript, the only places for them, both mean the same.
std::string ScriptSafe(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const absl::string_view rest = absl::string_view(text).substr(i);
    out += text[i];
    if (absl::StartsWithIgnoreCase(rest, "</script") || absl::StartsWith(rest, "<!--")) out += '\\';
  }
  return out;
}

std::string JsonSafe(const Json& json) {
  return absl::StrReplaceAll(json.dump(-1, ' ', false, Json::error_handler_t::replace),
                             {{"<", "\\u003c"}});
}

std::string WritePage(const std::string& path, const std::string& plotly, const Json& data) {
  trace::OutputFile file;
  std::string wrong = file.Open(path, /*force=*/true);
  std::string_view rest = kReportPage;
  const std::pair<std::string_view, std::string> parts[] = {{"{{plotly}}", ScriptSafe(plotly)},
                                                            {"{{data}}", JsonSafe(data)}};
  const auto write = [&](std::string_view text) {
    if (wrong.empty()) wrong = file.Write(text.data(), text.size());
  };
  for (const auto& [mark, text] : parts) {
    const size_t at = rest.find(mark);
    write(rest.substr(0, at));
    write(text);
    rest.remove_prefix(at + mark.size());
  }
  write(rest);
  return wrong.empty() ? file.Close() : wrong;
}

}  // namespace report
}  // namespace ultraep
