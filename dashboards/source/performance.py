"""Planner and transfers: how long everything takes."""

from panels import dashboard, heatmap, lines, query, row

FAN = (("p99", 0.99), ("p90", 0.9), ("p50", 0.5))


def latency(name, title, about):
    """Percentiles and mean, and beside them every bucket."""
    metric = f"ultraep_{name}_seconds"
    buckets = f"sum by (le) (rate({metric}_bucket{{NODE}}[RATE]))"
    fan = [query(f"histogram_quantile({q}, {buckets})", legend) for legend, q in FAN]
    fan.append(query(f"sum(rate({metric}_sum{{NODE}}[RATE]))"
                     f" / (sum(rate({metric}_count{{NODE}}[RATE])) > 0)", "mean"))
    return (lines(title, "s", fan, about + """ Percentiles are exact to a bucket. Gaps: it did not
                  happen.""", log=True, decimals=1),
            heatmap(f"{title}: all", "short",
                    [query(f"sum by (le) (increase({metric}_bucket{{NODE}}[RATE]))", "{{le}}",
                           format="heatmap")],
                    f"""How many took how long, from the same histogram ({metric}). Two bands are
                    two kinds of steps, such as prefill and decode. Good: one narrow band; bad: a
                    tail that reaches upwards."""))


def planner():
    return row(
        "Planner",
        *latency("collect", "Ranks apart",
                 """From the first row of a step to the last: how far the ranks are apart, not our
                 cost. Good: small beside a step. Large: stragglers before the gate; look at the
                 job."""),
        *latency("solve", "Solve",
                 """The planner's search alone. Good: tens of microseconds, p99 below 100. Growing
                 with p50 still: the planner loses its CPU. Runbook: deploy/runbook.md,
                 UltraepPlannerSlow."""),
        *latency("plan", "Plan",
                 """From the last row to the published verdict: copy, solve, check, record. Good:
                 p99 well below the ranks' solve_deadline (2 ms by default), since above it steps
                 fall back. Runbook: deploy/runbook.md, UltraepPlannerSlow."""))


def ranks():
    return row(
        "Ranks",
        *latency("submit_to_verdict", "Submit to verdict",
                 """From a rank's submit to its knowing the verdict; the wait for late ranks is in
                 it. Good: near Ranks apart + Plan. Much above: ranks wake up late, CPUs are
                 short."""),
        *latency("route", "Routing",
                 """Logical to physical ids of one step on a rank. Good: tens of microseconds. Grows
                 with tokens x top-k."""))


def transfers():
    seconds = "rate(ultraep_transfer_seconds_total{GROUP%s}[RATE])"
    copy, every = seconds % ',phase="copy"', seconds % ""
    return row(
        "Weights and gradients",
        *latency("stream", "Weights: until the slots are complete",
                 """From the issue of a stream or restore until the rank's slots are complete, per
                 rank with replicas. Good: shorter than what runs beside it (routing, dispatch, the
                 main experts), about bytes of the busiest rank / its bandwidth."""),
        *latency("reduce", "Gradients: until the main ones are complete",
                 """From the issue of a reduction until the rank's main gradients are complete, per
                 rank with replicated experts; waits for the replicas' ranks are in it. Good:
                 shorter than the backward that runs beside it. Empty when nobody trains."""),
        lines("Bytes", "Bps",
              [query("sum by (kind) (rate(ultraep_transfer_bytes_total{GROUP}[RATE]))",
                     "{{kind}}")],
              """Bytes per second by all local ranks. weights: stored into remote slots; gradients:
              of replicas, added. Good: far below what the links can do on average; what counts is
              the time, above."""),
        lines("Speed of a copy thread", "Bps",
              [query("sum by (kind) (rate(ultraep_transfer_bytes_total{GROUP}[RATE]))"
                     f" / (sum by (kind) ({copy}) > 0)", "{{kind}}")],
              """Bytes / seconds that threads spent copying or adding, waits left out. Good:
              memcpy's speed (`ultraep-bench stream`). Less: memory bandwidth is short, or the
              threads share CPUs.""",
              decimals=1),
        lines("Threads' wait", "percentunit",
              [query("sum by (kind) (" + seconds % ',phase="wait"' + ")"
                     f" / (sum by (kind) ({every}) > 0)", "{{kind}}")],
              """Of the copy threads' seconds: waiting for peers, that is for slots to be released,
              for chunks to relay, for gradients to be ready. Much of it is normal where ranks are
              apart; it matters when the latencies above grow with it.""", decimals=1),
        lines("Relayed", "percentunit",
              [query('sum(rate(ultraep_relayed_bytes_total{GROUP}[RATE]))'
                     ' / (sum(rate(ultraep_transfer_bytes_total{GROUP,kind="weights"}[RATE])) > 0)',
                     "of the weights' bytes")],
              """Part of the weights that a rank with a replica forwarded instead of the home. Grows
              with replicas per expert; 0 when no expert has two. Neither good nor bad: relays
              spread the load of a hot expert's home.""", decimals=1),
        lines("Size of a transfer", "bytes",
              [query("sum by (kind) (rate(ultraep_transfer_bytes_total{GROUP}[RATE]))"
                     " / (sum by (kind) (rate(ultraep_transfers_total{GROUP}[RATE])) > 0)",
                     "{{kind}}")],
              """Bytes of an expert's weights and of a replica's gradients. Constant for a job; a
              change is another job or model."""),
        lines("Above the proven bound", "percentunit",
              [query('sum(rate(ultraep_rank_tokens_max_total{GROUP,stage="after"}[RATE]))'
                     " / (sum(rate(ultraep_rank_tokens_bound_total{GROUP}[RATE])) > 0) - 1",
                     "optimality gap")],
              """Tokens of the fullest rank under the plans beside what no plan could beat. Good:
              below the daemon's --epsilon, 0.5 % by default.""", decimals=2))


def make():
    return dashboard(
        "ultraep-performance", "ultraep / Performance",
        "Latencies of planner, ranks and transfers. Latencies are of whole nodes, so the variable "
        "Group has no effect on them.",
        [planner(), ranks(), transfers()])
