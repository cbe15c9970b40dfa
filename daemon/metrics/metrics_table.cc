#include "daemon/metrics/metrics_table.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "daemon/metrics/names.h"

namespace ultraep::metrics {

std::string MetricsTable() {
  std::string table =
      "| metric | type | labels | what it says |\n"
      "| --- | --- | --- | --- |\n";
  for (const Metric* metric : kAll) {
    const char* type = metric->type == Type::kCounter ? "counter"
                       : metric->type == Type::kGauge ? "gauge"
                                                      : "histogram";
    const std::string labels =
        absl::StrReplaceAll(metric->labels, {{"|", " \\| "}, {",", ", "}, {"=", ": "}});
    absl::StrAppendFormat(&table, "| `%s` | %s | %s | %s |\n", metric->name, type, labels,
                          absl::StrReplaceAll(metric->help, {{"|", "\\|"}}));
  }
  return table;
}

}  // namespace ultraep::metrics
