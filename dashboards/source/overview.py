"""Is it on, is it worth it, here, today?"""

from panels import (GREEN, RED, YELLOW, colour, dashboard, lines, now, override, query, row, stat,
                    steps, table, textbox)

# What a token costs, in seconds: the variable's value, else what the daemons were told.
COST = "(vector($token_ns) * 1e-9 > 0 or max(ultraep_token_cost_seconds{NODE}) > 0)"


def per_node(name, window):
    return f"sum by (job, instance) (rate({name}{{NODE}}[{window}]))"


def rank_seconds(names, window):
    """Seconds that a mean rank spent, per second. The sums are over all ranks of a node; every rank
    knows one verdict per step, so steps / verdicts is 1 / ranks."""
    total = " + ".join(per_node(f"ultraep_{name}_seconds_sum", window) for name in names)
    return (f"({total}) * {per_node('ultraep_steps_total', window)}"
            f" / ({per_node('ultraep_submit_to_verdict_seconds_count', window)} > 0)")


def all_spent(window):
    return f"sum({rank_seconds(('submit_to_verdict', 'route', 'stream', 'reduce'), window)})"


def own_spent(window):
    """Without the wait for late ranks, which dispatch would wait for as well."""
    return (f"sum({per_node('ultraep_plan_seconds_sum', window)}"
            f" + {rank_seconds(('route', 'stream', 'reduce'), window)})")


def avoided(window):
    return f"sum(rate(ultraep_tokens_avoided_total{{NODE}}[{window}]))"


def won(window):
    return f"({avoided(window)} * {COST})"


def node_steps(window):
    return f"(sum(rate(ultraep_steps_total{{NODE}}[{window}])) > 0)"


def imbalance(stage, window, by=""):
    return (f'sum{by} (rate(ultraep_rank_tokens_max_total{{GROUP,stage="{stage}"}}[{window}]))'
            f" / (sum{by} (rate(ultraep_rank_tokens_mean_total{{GROUP}}[{window}])) > 0)")


def planned_share(window, by=""):
    return (f'sum{by} (rate(ultraep_rank_steps_total{{GROUP,verdict="plan"}}[{window}]))'
            f" / (sum{by} (rate(ultraep_rank_steps_total{{GROUP}}[{window}])) > 0)")


def is_it_on():
    return row(
        "Is it on?",
        stat("Daemons up", "none", [now("sum(up{NODE}) or vector(0)", "up"),
                                    now("sum(up{NODE} == bool 0) or vector(0)", "down")],
             """Daemons that answered the last scrape, and those that did not. Good: none is down.
             Down: the jobs of that node run on with main copies. Jobs of which no daemon answered
             in the time shown are not counted. Runbook: deploy/runbook.md, UltraepDaemonDown.""",
             overrides=[override("down", thresholds=steps(GREEN, 1, RED))]),
        stat("Groups open", "none",
             [now("sum(ultraep_group_open{GROUP}) or vector(0)", "open"),
              now("sum(ultraep_group_open{GROUP} == bool 0) or vector(0)", "not open")],
             """EP groups whose steps are planned, and those that use main copies since a member is
             missing. Good: none is not open for longer than a restart takes. Runbook:
             deploy/runbook.md, UltraepGroupNotOpen.""",
             overrides=[override("not open", thresholds=steps(GREEN, 1, YELLOW))]),
        stat("Steps planned", "percentunit", [now(planned_share("SHOWN"))],
             """Of all steps of all ranks in the time shown: resolved with a plan. The rest fell
             back, was declined (daemon or member missing) or failed. Good: above 99 %. Less: see
             the panel Steps by verdict, then the group dashboard for the reason. Runbook:
             deploy/runbook.md, UltraepFallbacksHigh.""",
             decimals=2, empty="no steps", thresholds=steps(RED, 0.9, YELLOW, 0.99, GREEN)),
        stat("Steps", "ops",
             [query("sum(rate(ultraep_steps_total{GROUP}[RATE])) or vector(0)")],
             """Steps that the daemons saw decided per second, of all groups: (layer, microbatch)
             pairs. 0 while groups are open: the jobs pause, or a rank is stuck. Runbook:
             deploy/runbook.md, UltraepStalled.""", decimals=1, graph=True),
        stat("Last plan was", "s",
             [now("max(time() - (ultraep_last_plan_timestamp_seconds{GROUP} > 0))")],
             """Time since the last planned step, of the group that waited longest. Good: about the
             time of a step. Growing: the job pauses, or nothing is planned any more. Runbook:
             deploy/runbook.md, UltraepStalled.""",
             decimals=1, empty="no plan", thresholds=steps(GREEN, 60, YELLOW, 300, RED)),
        stat("Members lost", "none",
             [now("sum(increase("
                  'ultraep_member_losses_total{GROUP,reason=~"gone|fenced"}[SHOWN]))')],
             """Ranks that died or were fenced in the time shown. Good: none. Each ends its group's
             generation; steps are planned again once a replacement has joined. Runbook:
             deploy/runbook.md, UltraepMembersLost.""",
             decimals=0, thresholds=steps(GREEN, 0.5, YELLOW)))


def is_it_worth_it():
    return row(
        "Is it worth it? (in the time shown)",
        stat("Imbalance before", "none", [now(imbalance("before", "SHOWN"))],
             """Tokens of the fullest rank / mean over the ranks, as routed: what the job would
             suffer without ultraep. Steps are weighted by their tokens. 1 is perfect; near 1 there
             is nothing to win. (vLLM and SGLang publish the reciprocal.)""", decimals=3),
        stat("Imbalance after", "none", [now(imbalance("after", "SHOWN"))],
             """The same under the plans. Good: below 1.02. Higher: more redundant slots per rank,
             or a daemon that is told costs (--cost_expert_us) and balances only as far as it pays.
             Runbook: deploy/runbook.md, UltraepImbalanceHigh.""",
             decimals=3, thresholds=steps(GREEN, 1.05, YELLOW, 1.2, RED)),
        stat("Work off the critical path", "percentunit",
             [now("sum(rate(ultraep_tokens_avoided_total{GROUP}[SHOWN]))"
                  " / (sum(rate("
                  'ultraep_rank_tokens_max_total{GROUP,stage="before"}[SHOWN])) > 0)')],
             """Tokens avoided / tokens of the fullest rank without replicas: by how much the
             experts' compute of a step got shorter. Needs no cost of a token. What it is worth
             depends on the experts' part of a step.""", decimals=1),
        stat("Pays when a token costs more than", "s",
             [now(f"{all_spent('SHOWN')} / ({avoided('SHOWN')} > 0)", "all waits counted"),
              now(f"{own_spent('SHOWN')} / ({avoided('SHOWN')} > 0)", "late ranks not counted")],
             """The break-even, without any input: seconds that a mean rank spends on verdict,
             routing, weights and gradients / tokens avoided. If a token's experts take longer than
             this on a rank, ultraep pays here and today. The first counts every wait, also that for
             ranks that come late, which the dispatch would have waited for anyway; the second
             counts the plan instead of the wait for the verdict. Both are too high by what overlaps
             with compute, and too low by how much longer the slowest rank waits than the mean one.
             Of all groups of the nodes shown.""", width=8, decimals=1, empty="nothing avoided"),
        stat("Won / spent", "none", [now(f"{won('SHOWN')} / {own_spent('SHOWN')}")],
             """Time won (tokens avoided x what a token costs) / time spent (late ranks not
             counted). Good: above 1, each second spent wins more than one. Below: turn ultraep off
             for this job or tell the daemon the costs. Give a cost in token_ns above, or to the
             daemon with --cost_token_ns. Runbook: deploy/runbook.md, UltraepNotWorthIt.""",
             decimals=2, empty="set token_ns", thresholds=steps(RED, 1, YELLOW, 1.2, GREEN)))


def over_time():
    spent = {"wait for late ranks, wake-ups": ("submit_to_verdict",), "routing": ("route",),
             "weights": ("stream",), "gradients": ("reduce",)}
    per_step = node_steps("RATE")
    plan = f"sum({per_node('ultraep_plan_seconds_sum', 'RATE')})"
    parts = [query(f"{plan} / {per_step}", "plan")]
    for legend, names in spent.items():
        less = f" - {plan}" if "submit_to_verdict" in names else ""
        parts.append(query(f"(sum({rank_seconds(names, 'RATE')}){less}) / {per_step}", legend))
    return row(
        "Over time",
        lines("Imbalance", "none", [query(imbalance("before", "RATE"), "before"),
                                    query(imbalance("after", "RATE"), "after")],
              """Tokens of the fullest rank / mean over the ranks, before and after balancing, over
              all groups shown. Good: after stays near 1 whatever before does. After rises with
              before: too few slots, see the group dashboard. Gaps: no planned steps.""",
              decimals=3, least=None, overrides=[colour("before", RED), colour("after", GREEN)]),
        lines("Steps by verdict", "ops",
              [query("sum by (verdict) (rate(ultraep_rank_steps_total{GROUP}[RATE]))",
                     "{{verdict}}")],
              """Steps as the ranks resolved them, one per rank and step. Good: all plan. fallback:
              see the reasons in the group dashboard. declined: daemon or a member was missing;
              counted when the group is open again, often with a daemon's first scrape, which only
              Steps planned above can see. failed: a rank could not follow a plan, which
              its job sees as a failed collective. Runbook: deploy/runbook.md,
              UltraepStepsFailed.""", stacked=True,
              overrides=[colour("plan", GREEN), colour("fallback", YELLOW),
                         colour("declined", "blue"), colour("failed", RED)]),
        lines("Time spent per step, of a mean rank", "s", parts,
              """What a step costs a mean rank, if nothing overlaps with compute. plan: from the
              last row to the verdict. Wait: the rest of submit to verdict; dispatch would wait for
              late ranks as well. Good: below what is won, right. Large waits: the ranks are apart
              before the gate, or the planner has no CPU of its own. Runbook: deploy/runbook.md,
              UltraepPlannerSlow.""", stacked=True),
        lines("Won and spent per step", "s",
              [query(f"{won('RATE')} / {per_step}", "won"),
               query(f"{all_spent('RATE')} / {per_step}", "spent, all waits counted"),
               query(f"{own_spent('RATE')} / {per_step}", "spent, late ranks not counted")],
              """Won: tokens avoided x what a token costs. Spent: as in the panel to the left. Good:
              won is above both. won is empty until a cost is given: token_ns above, or the daemon's
              --cost_token_ns. Runbook: deploy/runbook.md, UltraepNotWorthIt.""",
              overrides=[colour("won", GREEN)]),
        lines("Tokens of the fullest rank, per planned step", "short",
              [query(f"sum(rate({name}{{GROUP{more}}}[RATE]))"
                     ' / (sum(rate(ultraep_steps_total{GROUP,verdict="plan"}[RATE])) > 0)', legend)
               for legend, name, more in (
                   ("before", "ultraep_rank_tokens_max_total", ',stage="before"'),
                   ("after", "ultraep_rank_tokens_max_total", ',stage="after"'),
                   ("mean over ranks", "ultraep_rank_tokens_mean_total", ""),
                   ("no plan could have less", "ultraep_rank_tokens_bound_total", ""))],
              """Tokens on the critical path of a mean planned step. before - after is avoided.
              Good: after lies on the bound. The bound is well above the mean: slots are too few, or
              experts too large to split better.""",
              overrides=[colour("before", RED), colour("after", GREEN)]),
        lines("Break-even cost of a token", "s",
              [query(f"{all_spent('RATE')} / ({avoided('RATE')} > 0)", "all waits counted"),
               query(f"{own_spent('RATE')} / ({avoided('RATE')} > 0)", "late ranks not counted"),
               query(COST, "what a token costs")],
              """ultraep pays when a token costs more than this. Good: the cost line is above the
              others. The line is missing until a cost is given: token_ns above, or the daemon's
              --cost_token_ns. Rises where little is to balance.""", log=True,
              overrides=[colour("what a token costs", GREEN)]))


def which_group():
    by = " by (instance, group)"
    return row("Which group?", table(
        "Groups",
        [("Open", "none", 0, "max by (instance, group) (ultraep_group_open{GROUP})"),
         ("Ranks ready", "none", 0,
          'sum by (instance, group) (ultraep_ranks{GROUP,state="ready"})'),
         ("Steps/s", "none", 1,
          "sum by (instance, group) (rate(ultraep_steps_total{GROUP}[RATE]))"),
         ("Planned", "percentunit", 1, planned_share("RATE", by)),
         ("Imbalance before", "none", 3, imbalance("before", "RATE", by)),
         ("Imbalance after", "none", 3, imbalance("after", "RATE", by)),
         ("Tokens avoided/s", "short", 1,
          "sum by (instance, group) (rate(ultraep_tokens_avoided_total{GROUP}[RATE]))")],
        """One line per EP group. Good: open 1, planned near 100 %, imbalance after near 1. The
        first seven names have lines of their own, the rest is `other`. Look closer with the group
        dashboard and `ultraepctl status`.""", by=("instance", "group")))


def make():
    return dashboard(
        "ultraep-overview", "ultraep / Overview",
        "Is balancing on, and is it worth it, here, today? How to read it: dashboards/README.md.",
        [is_it_on(), is_it_worth_it(), over_time(), which_group()],
        [textbox("token_ns", "Cost of a token on a rank, ns (0: the daemon's --cost_token_ns)",
                 "0")])
