#include "daemon/metrics/text.h"

#include <cstdlib>

#include "absl/strings/str_format.h"
#include "prometheus/text_serializer.h"

namespace ultraep::metrics {

// The serializer writes doubles with 16 digits, 75 us as 7.499999999999999e-05. Six digits are
// enough for all our bounds (protocol/latency.h). Quotes in labels' values are escaped: what is
// looked for is always a bound.
std::string MetricsText(const std::vector<prometheus::MetricFamily>& families) {
  const std::string text = prometheus::TextSerializer().Serialize(families);
  static constexpr char kBound[] = "{le=\"";
  std::string better;
  better.reserve(text.size());
  size_t done = 0;
  for (size_t at; (at = text.find(kBound, done)) != text.npos;) {
    at += sizeof kBound - 1;
    const size_t end = text.find('"', at);
    better.append(text, done, at - done);
    const std::string bound = text.substr(at, end - at);
    better += bound == "+Inf" ? bound : absl::StrFormat("%g", std::strtod(bound.c_str(), nullptr));
    done = end;
  }
  return better.append(text, done);
}

}  // namespace ultraep::metrics
