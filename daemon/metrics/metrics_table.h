// The metrics as a table for people: `ultraepd --metrics_table`, dashboards/metrics.md.
#pragma once

#include <string>

namespace ultraep::metrics {

std::string MetricsTable();  // Markdown

}  // namespace ultraep::metrics
