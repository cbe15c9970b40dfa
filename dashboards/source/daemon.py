"""The daemons' own health."""

import functools

from panels import (GREEN, RED, YELLOW, dashboard, lines, now, on_off, query, row, stat, steps,
                    table)

WHERE = "{{instance}}"
third = functools.partial(lines, width=8)


def state():
    used = "max(ultraep_connections{NODE} / ultraep_connections_limit{NODE})"
    return row(
        "State",
        on_off("Up", [query("up{NODE}", WHERE)],
               """Did the daemon answer the scrape? Good: up. While down, jobs run on with main
               copies and are planned again by the next daemon. Runbook: deploy/runbook.md,
               UltraepDaemonDown.""",
               on="up", off="down", width=8, height=4),
        stat("Youngest daemon", "s", [now("min(time() - process_start_time_seconds{NODE})")],
             """Time since the last start of a daemon. Short though nobody restarted it: it crashed,
             or the watchdog ended it. Runbook: deploy/runbook.md, UltraepRestarts.""", decimals=0),
        stat("EP groups", "none", [query("sum(ultraep_groups{NODE}) or vector(0)")],
             """Groups that are served now, open or not. 0: no job has attached.""", graph=True),
        stat("Connections used", "percentunit", [now(used)],
             """Of the daemon with the least left. Good: below 80 %. At 100 % ranks are refused.
             Runbook: deploy/runbook.md, UltraepConnectionsNearLimit.""", decimals=1,
             thresholds=steps(GREEN, 0.8, YELLOW, 0.9, RED)),
        stat("GPU", "none", [now("sum(ultraep_gpu_available{NODE})", "with"),
                             now("sum(1 - ultraep_gpu_available{NODE})", "without")],
             """Daemons whose CUDA backend can use a GPU, and those without. Ranks that own their
             slots need none in the daemon; else `ultraepctl doctor` says what a GPU node lacks."""),
        table("What runs",
              [("Runs", "none", 0, "max by (instance, version, layout, cuda) (ultraep_build_info{NODE})"),
               ("Token cost", "s", 1, "max by (instance) (ultraep_token_cost_seconds{NODE})"),
               ("Lease", "s", 1, "max by (instance) (ultraep_lease_seconds{NODE})")],
              """Version, shared-memory layout and CUDA driver of each daemon, and what it was told. Good: one
              version everywhere; ranks of another layout are refused. A token cost of 0 is not
              known.""",
              by=("instance", "version", "layout", "cuda"), height=5))


def process():
    return row(
        "Process",
        lines("CPUs used", "none", [query("rate(process_cpu_seconds_total{NODE}[RATE])", WHERE)],
              """CPUs that the daemon keeps busy. Up to 1 while it plans, since the planner spins
              between steps when it has a CPU of its own; near 0 when idle. More than 1 for long:
              many joins, or a very busy waker.""", decimals=2),
        lines("Memory", "bytes",
              [query("process_resident_memory_bytes{NODE}", f"{WHERE} resident"),
               query("process_virtual_memory_bytes{NODE}", f"{WHERE} virtual"),
               query("ultraep_memory_bytes{NODE}", f"{WHERE} groups")],
              """Resident memory holds the groups' shared memory. Good: resident follows groups.
              Growing apart from it: a leak, report it."""),
        lines("File descriptors", "percentunit",
              [query("process_open_fds{NODE} / process_max_fds{NODE}", WHERE)],
              """Open descriptors / most. A rank costs up to seven. Good: below 80 %. At 100 % callers
              are turned away as refusals of kind system; raise LimitNOFILE. Runbook:
              deploy/runbook.md, UltraepRefusals.""", decimals=1),
        lines("Time since the start", "s",
              [query("time() - process_start_time_seconds{NODE}", WHERE)],
              """How long the daemon runs. Good: rises all the time. A fall is a start: yours, or
              after a crash, or by the watchdog, which ends a daemon that makes no progress.
              Runbook: deploy/runbook.md, UltraepRestarts.""", decimals=0))


def limits():
    limit = "(ultraep_memory_limit_bytes{NODE} > 0)"
    return row(
        "Limits",
        third("Connections", "none",
              [query("ultraep_connections{NODE}", f"{WHERE} open"),
               query("ultraep_connections_limit{NODE}", f"{WHERE} limit")],
              """Ranks and operators, one connection each. Good: below the limit
              (--max_connections). Runbook: deploy/runbook.md, UltraepConnectionsNearLimit."""),
        third("Shared memory of all groups", "bytes",
              [query("ultraep_memory_bytes{NODE}", f"{WHERE} used"),
               query(limit, f"{WHERE} limit")],
              """Good: below the limit. There is a line for it only when --memory_limit_mib is set;
              else the daemon takes at most 80 % of what the machine has left. Runbook:
              deploy/runbook.md, UltraepMemoryNearLimit."""),
        third("Refusals by kind", "none",
              [query("sum by (instance, kind) (increase(ultraep_refusals_total{NODE}[RATE]))",
                     f"{WHERE} {{{{kind}}}}")],
              """Connections and joins that were refused. Good: none. limit: connections, groups or
              memory. config: a value that no group may have. disagree: members differ. state: a
              place that is taken. message: another version, or not ours. system: no memory or
              descriptors. operator: a request of ultraepctl's that cannot be met; no alert. Each
              with its text: `ultraepctl events`. Runbook: deploy/runbook.md, UltraepRefusals.""",
              bars=True, decimals=0))


def watching():
    return row(
        "Being watched",
        third("Dropped", "none",
              [query("sum by (instance, queue) (increase(ultraep_dropped_total{NODE}[RATE]))",
                     f"{WHERE} {{{{queue}}}}")],
              """trace: steps that a recording missed. events: what a reader missed. Both only for
              the one who watches; the planner never waits. Good: none. Runbook: deploy/runbook.md,
              UltraepDrops.""", bars=True, decimals=0),
        third("Recordings", "none", [query("ultraep_traces{NODE}", WHERE)],
              """Recordings under way (`ultraepctl trace record`). Good: 0 unless somebody records
              now; a forgotten one fills a disk.""", decimals=0),
        third("Scrapes", "ops", [query("rate(ultraep_scrapes_total{NODE}[RATE])", WHERE)],
              """Scrapes answered per second by everybody. Good: 1 / scrape_interval for each
              Prometheus. Much more: somebody else scrapes."""))


def make():
    return dashboard(
        "ultraep-daemon", "ultraep / Daemon",
        "Health of the daemons themselves: processes, limits, refusals, and who watches them.",
        [state(), process(), limits(), watching()])
