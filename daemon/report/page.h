// The page: one file with everything in it.
#pragma once

#include <string>

#include "daemon/report/gather.h"

namespace ultraep::report {

// Where Debian's python3-plotly has the library that plots are drawn with.
inline constexpr const char* kPlotlyPath = "/usr/share/python3-plotly/plotly.js";

// Empty, or why the library cannot be read and what to do.
std::string ReadPlotly(const std::string& path, std::string* script);

// Replaces `path` when the page is whole. Empty when all went well.
std::string WritePage(const std::string& path, const std::string& plotly, const Json& data);

// `text` between <script> and </script>: nothing in it ends the element.
std::string ScriptSafe(const std::string& text);
std::string JsonSafe(const Json& json);

}  // namespace ultraep::report
