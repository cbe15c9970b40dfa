"""One EP group: its balance, replicas, verdicts and members."""

import functools

from panels import RED, dashboard, heatmap, lines, on_off, query, row

BY = "sum by (instance, group) "
PLANNED = f'({BY}(rate(ultraep_steps_total{{GROUP,verdict="plan"}}[RATE])) > 0)'
WHERE = "{{instance}} {{group}}"
third = functools.partial(lines, width=8)
DETAIL = "Empty unless the daemon runs with --metrics_detail_series."


def window_ratio(stage):
    return (f'{BY}(rate(ultraep_rank_tokens_max_total{{GROUP,stage="{stage}"}}[RATE]))'
            f" / ({BY}(rate(ultraep_rank_tokens_mean_total{{GROUP}}[RATE])) > 0)")


def padded(text, label):
    """Lines of a heat map stand in the order of their names: 007, 013."""
    for have in ("(.)", "(..)"):
        text = f'label_replace({text}, "{label}", "0$1", "{label}", "{have}")'
    return text


def balance():
    return row(
        "Balance",
        lines("Imbalance, mean of a window", "none",
              [query(window_ratio("before"), f"{WHERE} before"),
               query(window_ratio("after"), f"{WHERE} after")],
              """Tokens of the fullest rank / mean over the ranks, steps weighted by their tokens. 1
              is perfect. Good: after near 1. If after follows before upwards, the slots do not
              suffice: see Replicas per step and slots. Runbook: deploy/runbook.md,
              UltraepImbalanceHigh.""", decimals=3, least=None),
        lines("Imbalance of the last step", "none",
              [query("ultraep_imbalance_ratio{GROUP}", f"{WHERE} {{{{stage}}}}")],
              """The same of the last planned step at each scrape: noisy, shows single steps that
              the window hides. Good: after stays low also in its peaks.""",
              decimals=3, least=None),
        lines("Tokens per rank in the last step", "short",
              [query("ultraep_rank_tokens_max{GROUP}", f"{WHERE} fullest {{{{stage}}}}"),
               query("ultraep_rank_tokens_mean{GROUP}", f"{WHERE} mean")],
              """Tokens of the fullest rank before and after, and the mean over the ranks, of the
              last planned step. Few tokens (decode) leave little to win; then see in the overview
              whether it pays."""),
        lines("Optimality gap", "percentunit",
              [query("ultraep_optimality_gap_ratio{GROUP}", f"{WHERE} last plan"),
               query(f'{BY}(rate(ultraep_rank_tokens_max_total{{GROUP,stage="after"}}[RATE]))'
                     f" / ({BY}(rate(ultraep_rank_tokens_bound_total{{GROUP}}[RATE])) > 0) - 1",
                     f"{WHERE} mean of a window")],
              """How far the fullest rank is above what is proven possible. Good: below the daemon's
              --epsilon, 0.5 % by default. More: the slots are used up, or costs tell the planner to
              stop earlier.""", decimals=2))


def layers():
    ranks = "sum by (instance, group, rank) (rate(ultraep_layer_rank_tokens_total{GROUP}[RATE]))"
    share = f"{ranks} / on (instance, group) group_left () (avg by (instance, group) ({ranks}) > 0)"
    last = 'max by (layer) (ultraep_layer_imbalance_ratio{GROUP,stage="%s"})'
    return row(
        "Layers (detail series)",
        heatmap("Imbalance before, by layer", "none",
                [query(padded(last % "before", "layer"), "{{layer}}")],
                f"""Of each layer's last planned step, without replicas; the worst of the groups
                shown. Shows which layers are skewed and when; the darkest colour is 2 and above.
                {DETAIL}""", cells=(1, 2)),
        heatmap("Imbalance after, by layer", "none",
                [query(padded(last % "after", "layer"), "{{layer}}")],
                f"""The same under the plans. Good: one pale colour. A dark line is a layer that the
                slots do not suffice for. {DETAIL}""", cells=(1, 2)),
        heatmap("Tokens under the plans, by rank / mean", "none",
                [query(padded(f"max by (rank) ({share})", "rank"), "{{rank}}")],
                f"""Tokens that each rank received, all layers together, beside the mean rank; 1 is
                even. Good: one colour. A rank that is always darker is short of slots or of slower
                neighbours. {DETAIL}""", cells=(0, 2)),
        lines("Tokens by layer", "short",
              [query("sum by (layer) (rate(ultraep_layer_rank_tokens_total{GROUP}[RATE]))",
                     "{{layer}}")],
              f"""Tokens per second that the ranks of the groups shown received in each layer. Good:
              all layers alike. A layer that is missing does not plan. {DETAIL}"""))


def replicas():
    return row(
        "Replicas",
        third("Replicas per step and slots", "none",
              [query(f"{BY}(rate(ultraep_replicas_total{{GROUP}}[RATE])) / {PLANNED}",
                     f"{WHERE} replicas, mean of a window"),
               query("ultraep_replicas{GROUP}", f"{WHERE} replicas, last plan"),
               query("ultraep_slots{GROUP}", f"{WHERE} slots")],
              """Replicas are redundant slots in use. Good: well below the slots, with an imbalance
              after near 1. At the slots: more of them would balance better, and cost the memory of
              an expert each. Runbook: deploy/runbook.md, UltraepImbalanceHigh.""", decimals=1),
        third("Weights and gradients of experts", "ops",
              [query("sum by (instance, group, kind) (rate(ultraep_transfers_total{GROUP}[RATE]))",
                     f"{WHERE} {{{{kind}}}}")],
              """Experts' weights sent into slots, and replicas' gradients added to the main ones,
              per second. With training weights travel twice a step: forward, and restored for the
              backward. What they cost: the performance dashboard.""", decimals=1),
        third("Memory of the group", "bytes",
              [query("ultraep_group_memory_bytes{GROUP}", f"{WHERE} shared"),
               query("ultraep_group_gpu_memory_bytes{GROUP}", f"{WHERE} GPUs")],
              """Boards and slots of the present generation, slots on GPUs apart; while a group
              changes generations it holds two. Near the daemon's limit of shared memory new groups
              are refused. Runbook: deploy/runbook.md, UltraepMemoryNearLimit."""))


def verdicts():
    return row(
        "Verdicts",
        lines("Steps by verdict", "ops",
              [query("sum by (instance, group, verdict) (rate(ultraep_steps_total{GROUP}[RATE]))",
                     f"{WHERE} {{{{verdict}}}}")],
              """Steps that the daemon saw decided. Good: all plan. A fallback computes the step
              with main copies: right, but not balanced.""", stacked=True),
        lines("Fallbacks by reason", "ops",
              [query("sum by (instance, group, reason) "
                     '(rate(ultraep_steps_total{GROUP,verdict="fallback"}[RATE]))',
                     f"{WHERE} {{{{reason}}}}")],
              """Good: 0. deadline: the solve took longer than the ranks' solve_deadline; give the
              planner a CPU of its own. order_mismatch: ranks call steps in different orders.
              bad_row: a row contradicts its header. Which steps: `ultraepctl events`. Runbook:
              deploy/runbook.md, UltraepFallbacksHigh."""),
        lines("Steps of the ranks by verdict", "ops",
              [query("sum by (instance, group, verdict) "
                     "(rate(ultraep_rank_steps_total{GROUP}[RATE]))",
                     f"{WHERE} {{{{verdict}}}}")],
              """One per rank and step, as the ranks resolved them. declined: not submitted, since
              the daemon or a member was missing. failed: a rank could not follow its plan. Runbook:
              deploy/runbook.md, UltraepStepsFailed.""", stacked=True),
        lines("Last plan was", "s",
              [query("time() - (ultraep_last_plan_timestamp_seconds{GROUP} > 0)", WHERE)],
              """Time since the group's last planned step. Good: saw teeth of about a step's time. A
              ramp: the job pauses or nothing is planned. Runbook: deploy/runbook.md,
              UltraepStalled.""", decimals=1))


def members():
    return row(
        "Members",
        on_off("Open", [query("ultraep_group_open{GROUP}", WHERE)],
               """Open: steps are planned. Not open: a member is missing and the ranks use main
               copies. Good: open but for the seconds of a restart. Runbook: deploy/runbook.md,
               UltraepGroupNotOpen.""", on="open", off="main copies", width=8, height=8),
        third("Ranks by state", "none",
              [query("sum by (instance, group, state) (ultraep_ranks{GROUP})",
                     f"{WHERE} {{{{state}}}}")],
              """Good: all ready. absent: never came. joined: maps its memory. left, gone, fenced:
              was here; the job has to start it again. Which ranks: `ultraepctl status`. Runbook:
              deploy/runbook.md, UltraepGroupNotOpen.""", stacked=True),
        third("Oldest heartbeat and lease", "s",
              [query("ultraep_heartbeat_age_seconds{GROUP}", WHERE),
               query("max by (instance) (ultraep_lease_seconds{NODE})", "{{instance}} lease")],
              """Age of the oldest heartbeat of a member. Good: far below the lease. At the lease
              the rank is fenced and the generation ends: a stopped process, a debugger, or a
              machine that is out of CPU. Runbook: deploy/runbook.md, UltraepHeartbeatOld.""",
              decimals=2, overrides=[{"matcher": {"id": "byRegexp", "options": ".* lease"},
                                      "properties": [{"id": "color", "value": {
                                          "mode": "fixed", "fixedColor": RED}}]}]),
        lines("Members lost by reason", "none",
              [query("sum by (instance, group, reason) "
                     "(increase(ultraep_member_losses_total{GROUP}[RATE]))",
                     f"{WHERE} {{{{reason}}}}")],
              """left: said so, as at the end of a job. gone: its process or connection ended.
              fenced: its heartbeat was older than the lease. Good: left only, and none in a running
              job. Runbook: deploy/runbook.md, UltraepMembersLost.""", bars=True, decimals=0),
        lines("Generations begun", "none",
              [query("sum by (instance, group) "
                     "(increase(ultraep_generations_total{GROUP}[RATE]))", WHERE)],
              """Lives of the group's shared memory. Good: one at the start of a job. Each loss or
              restart of a member or of the daemon costs one; many in a row: a member comes and
              dies. Runbook: deploy/runbook.md, UltraepMembersLost.""", bars=True, decimals=0))


def make():
    return dashboard(
        "ultraep-group", "ultraep / Group",
        "An EP group closely; choose it with the variable Group. The first seven names have series "
        "of their own, the rest is `other`.",
        [balance(), replicas(), verdicts(), members(), layers()])
