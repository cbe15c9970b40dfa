#include "plugin/examples/replay/report.h"

#include <string.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

namespace ultraep::replay {
namespace {

__attribute__((format(printf, 2, 3))) void Append(std::string* text, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  *text += line;
}

using Unsigned = unsigned long long;  // what %llu takes

std::unique_ptr<Histogram> Sum(SharedState* shared, Histogram RankRecord::*member) {
  auto sum = std::make_unique<Histogram>();
  for (uint32_t r = 0; r < shared->sizes().shape.ranks; ++r) {
    if ((shared->rank(r)->*member).count) sum->Add(shared->rank(r)->*member);
  }
  return sum;
}

// JSON numbers with the digits that mean something.
double Rounded(double value) { return std::round(value * 1e9) / 1e9; }

}  // namespace

Report MakeReport(SharedState* shared) {
  Report report = {};
  const RunRecord* run = shared->run();
  const Totals& totals = run->totals();
  report.steps = totals.steps;
  report.planned = totals.planned;
  report.fallbacks = totals.fallbacks;
  report.declined = totals.declined;
  report.tokens_checked = totals.tokens_checked;
  report.lost = run->lost.get();
  report.failed = run->failed.get();
  report.respawned = run->respawned.get();
  report.mismatches = run->disagreements.get();
  for (uint32_t r = 0; r < shared->sizes().shape.ranks; ++r) {
    const RankRecord* rank = shared->rank(r);
    report.generations = std::max(report.generations, rank->generations.get());
    report.mismatches += rank->mismatches.get() + rank->quota_misses.get();
    report.gradient_mismatches += rank->gradient_mismatches.get();
    report.replicas_reduced += rank->replicas_reduced.get();
    report.bytes_streamed += rank->bytes_streamed.get();
    report.joined |= rank->joined.get() != 0;
  }
  report.mismatches += report.gradient_mismatches;
  const auto imbalance = [](const Histogram& excess, auto* to) {
    to->mean = 1 + excess.mean() * kExcessUnit;
    to->p99 = 1 + excess.Percentile(0.99) * kExcessUnit;
    to->max = 1 + static_cast<double>(excess.max) * kExcessUnit;
  };
  imbalance(run->excess_before, &report.before);
  imbalance(run->excess_after, &report.after);
  report.solve_us = {run->solve_ns.Percentile(0.5) / 1e3, run->solve_ns.Percentile(0.99) / 1e3};
  const auto verdict = Sum(shared, &RankRecord::verdict_ns);
  report.verdict_us = {verdict->Percentile(0.5) / 1e3, verdict->Percentile(0.99) / 1e3};
  const auto reduce = Sum(shared, &RankRecord::reduce_ns);
  report.reduce_us = {reduce->Percentile(0.5) / 1e3, reduce->Percentile(0.99) / 1e3};
  report.stream_gb_per_s = Sum(shared, &RankRecord::stream_kb_per_s)->Percentile(0.5) / 1e6;
  report.memcpy_gb_per_s = Sum(shared, &RankRecord::memcpy_kb_per_s)->Percentile(0.5) / 1e6;
  return report;
}

std::string TableOf(const Report& r, const Options& o) {
  std::string text;
  Append(&text, "%u ranks, %u experts, %u slots per rank, %u layers, hidden %u, ffn %u, %s\n",
         o.shape.ranks, o.shape.experts, o.shape.slots, o.layers, o.expert.hidden, o.expert.ffn,
         o.trace.empty() ? "profile" : "trace");
  if (!r.joined) text += "no daemon: every step was declined, tokens went to the main copies\n";
  Append(&text, "\n%-28s%12s%12s%12s\n", "", "mean", "p99", "max");
  Append(&text, "%-28s%12.4f%12.4f%12.4f\n", "imbalance before", r.before.mean, r.before.p99,
         r.before.max);
  Append(&text, "%-28s%12.4f%12.4f%12.4f\n", "imbalance after", r.after.mean, r.after.p99,
         r.after.max);
  Append(&text, "\n%-28s%12s%12s%12s%12s%12s\n", "", "planned", "fallback", "declined", "lost",
         "failed");
  Append(&text, "%-28s%12llu%12llu%12llu%12llu%12llu\n", "steps x layers", Unsigned(r.planned),
         Unsigned(r.fallbacks), Unsigned(r.declined), Unsigned(r.lost), Unsigned(r.failed));
  Append(&text, "%-28s%12llu\n%-28s%12llu\n", "ranks respawned", Unsigned(r.respawned),
         "generations", Unsigned(r.generations));
  Append(&text, "\n%-28s%12s%12s\n", "microseconds", "p50", "p99");
  Append(&text, "%-28s%12.1f%12.1f\n", "solve", r.solve_us.p50, r.solve_us.p99);
  Append(&text, "%-28s%12.1f%12.1f  (a rank's verdict - the last rank's submit)\n",
         "submit to verdict", r.verdict_us.p50, r.verdict_us.p99);
  if (o.train)
    Append(&text, "%-28s%12.1f%12.1f  (of a home's replicas, from issue on)\n", "reduction",
           r.reduce_us.p50, r.reduce_us.p99);
  Append(&text, "\n%-28s%12llu\n", "bytes streamed", Unsigned(r.bytes_streamed));
  Append(&text, "%-28s%12.2f  (median of a rank's operations)\n", "stream GB/s", r.stream_gb_per_s);
  Append(&text, "%-28s%12.2f  (median, the same experts)\n", "memcpy GB/s", r.memcpy_gb_per_s);
  Append(&text, "\n%-28s%12llu\n", "tokens checked bit for bit", Unsigned(r.tokens_checked));
  if (o.train)
    Append(&text, "%-28s%12llu\n", "replica gradients reduced", Unsigned(r.replicas_reduced));
  Append(&text, "%-28s%12llu\n", "mismatches", Unsigned(r.mismatches));
  return text;
}

std::string JsonOf(const Report& r) {
  nlohmann::ordered_json json;
  json["steps"] = r.steps;
  json["planned"] = r.planned;
  json["fallbacks"] = r.fallbacks;
  json["failed"] = r.failed;
  json["declined"] = r.declined;
  json["lost"] = r.lost;
  json["respawned"] = r.respawned;
  json["generations"] = r.generations;
  json["imbalance_before"] = Rounded(r.before.mean);
  json["imbalance_after"] = Rounded(r.after.mean);
  json["imbalance_after_max"] = Rounded(r.after.max);
  json["tokens_checked"] = r.tokens_checked;
  json["replicas_reduced"] = r.replicas_reduced;
  json["gradient_mismatches"] = r.gradient_mismatches;
  json["mismatches"] = r.mismatches;
  json["solve_us"] = {{"p50", Rounded(r.solve_us.p50)}, {"p99", Rounded(r.solve_us.p99)}};
  json["verdict_us"] = {{"p50", Rounded(r.verdict_us.p50)}, {"p99", Rounded(r.verdict_us.p99)}};
  json["reduce_us"] = {{"p50", Rounded(r.reduce_us.p50)}, {"p99", Rounded(r.reduce_us.p99)}};
  json["stream_gb_per_s"] = Rounded(r.stream_gb_per_s);
  json["memcpy_gb_per_s"] = Rounded(r.memcpy_gb_per_s);
  return json.dump();
}

std::string TroubleOf(SharedState* shared, const RunOutcome& outcome, const Options& options) {
  std::string text;
  if (!outcome.error.empty()) text = outcome.error + "\n";
  if (outcome.dead_rank >= 0) {
    const int status = outcome.dead_wait_status;
    const bool signaled = WIFSIGNALED(status);
    Append(
        &text,
        "rank %d died of %s %d%s%s%s at step %llu, layer %llu; the others stopped %.1f ms later\n",
        outcome.dead_rank, signaled ? "signal" : "exit status",
        signaled ? WTERMSIG(status) : WEXITSTATUS(status), signaled ? " (" : "",
        signaled ? strsignal(WTERMSIG(status)) : "", signaled ? ")" : "",
        Unsigned(outcome.dead_sequence / options.layers),
        Unsigned(outcome.dead_sequence % options.layers),
        static_cast<double>(outcome.last_stop_ns - outcome.dead_ns) / 1e6);
  }
  const bool early = !text.empty() || outcome.broken || outcome.failed;
  for (uint32_t r = 0; early && r < options.shape.ranks; ++r) {
    const RankRecord* rank = shared->rank(r);
    Append(&text, "rank %u: planned %llu, fallback %llu, declined %llu", r,
           Unsigned(rank->planned.get()), Unsigned(rank->fallbacks.get()),
           Unsigned(rank->declined.get()));
    if (rank->text[0]) text += std::string(": ") + rank->text;
    text += "\n";
  }
  if (shared->run()->disagreements.get())
    Append(&text, "%llu steps had a plan on some ranks only\n",
           Unsigned(shared->run()->disagreements.get()));
  for (uint32_t r = 0; r < options.shape.ranks; ++r) {
    const RankRecord* rank = shared->rank(r);
    if (rank->mismatches.get() || rank->quota_misses.get())
      Append(&text, "rank %u: %llu tokens differ, %llu steps missed a quota\n", r,
             Unsigned(rank->mismatches.get()), Unsigned(rank->quota_misses.get()));
    if (rank->gradient_mismatches.get())
      Append(&text, "rank %u: %llu restored slots or main gradients are wrong\n", r,
             Unsigned(rank->gradient_mismatches.get()));
  }
  return text;
}

}  // namespace ultraep::replay
