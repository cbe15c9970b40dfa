"""What the panels show equals what a hand computes, on the node of the rules' first unit test.

usage: numbers_test.py
"""

import re
import subprocess
import tempfile
import unittest

import yaml

import lint
from lint_test import RULE_TESTS, boards

# A minute of that node: 6,000 steps planned and 60 fallen back on 8 ranks; the fullest ranks have
# 181,200 tokens before and 121,200 after, bound 120,600, mean 120,000; plans take 0.6 s, and summed
# over the ranks verdicts 48 s, routing 1.6 s, weights 8 s, gradients 4.8 s. A token costs 100 us.
SPENT, SPENT_WITH_WAITS, WON = 0.6 + (1.6 + 8 + 4.8) / 8, (48 + 1.6 + 8 + 4.8) / 8, 60000 * 100e-6
WEIGHTS = '{kind="weights"}'
# (dashboard, panel, query, labels of the result, value)
EXPECTED = [
    ("overview", "Daemons up", "A", "{}", 2),
    ("overview", "Daemons up", "B", "{}", 0),
    ("overview", "Steps planned", "A", "{}", 48000 / 48480),
    ("overview", "Steps", "A", "{}", 101),
    ("overview", "Members lost", "A", "{}", 0),
    ("overview", "Imbalance before", "A", "{}", 1.51),
    ("overview", "Imbalance after", "A", "{}", 1.01),
    ("overview", "Work off the critical path", "A", "{}", 60000 / 181200),
    ("overview", "Pays when a token costs more than", "A", "{}", SPENT_WITH_WAITS / 60000),
    ("overview", "Pays when a token costs more than", "B", "{}", SPENT / 60000),
    ("overview", "Won / spent", "A", "{}", WON / SPENT),
    ("overview", "Time spent per step, of a mean rank", "A", "{}", 0.6 / 6060),
    ("overview", "Time spent per step, of a mean rank", "B", "{}", (48 / 8 - 0.6) / 6060),
    ("overview", "Time spent per step, of a mean rank", "C", "{}", 1.6 / 8 / 6060),
    ("overview", "Time spent per step, of a mean rank", "D", "{}", 8 / 8 / 6060),
    ("overview", "Time spent per step, of a mean rank", "E", "{}", 4.8 / 8 / 6060),
    ("overview", "Won and spent per step", "A", "{}", WON / 6060),
    ("overview", "Won and spent per step", "B", "{}", SPENT_WITH_WAITS / 6060),
    ("overview", "Won and spent per step", "C", "{}", SPENT / 6060),
    ("overview", "Tokens of the fullest rank, per planned step", "A", "{}", 181200 / 6000),
    ("overview", "Tokens of the fullest rank, per planned step", "B", "{}", 121200 / 6000),
    ("overview", "Tokens of the fullest rank, per planned step", "C", "{}", 120000 / 6000),
    ("overview", "Tokens of the fullest rank, per planned step", "D", "{}", 120600 / 6000),
    ("overview", "Break-even cost of a token", "C", "{}", 100e-6),
    ("performance", "Plan", "A", "{}", 0.99 * 6060 / 6000 * 1e-3),
    ("performance", "Speed of a copy thread", "A", WEIGHTS, 6e11 / 50),
    ("performance", "Threads' wait", "A", WEIGHTS, 30 / 80),
    ("performance", "Relayed", "A", "{}", 0.25),
    ("performance", "Size of a transfer", "A", WEIGHTS, 30e6),
    ("performance", "Above the proven bound", "A", "{}", 121200 / 120600 - 1),
    ("daemon", "Connections used", "A", "{}", 9 / 2048),
]
# Ten minutes after a daemon ended: what it said is over, and no stat may show it still.
GONE = {"interval": "1m", "input_series": [
    {"series": f'{name}{{job="ultraep",instance="n1"{labels}}}', "values": values}
    for name, labels, values in (
        ("up", "", "1x40 0x20"), ("process_start_time_seconds", "", "1000x40 stale"),
        ("ultraep_groups", "", "1x40 stale"), ("ultraep_gpu_available", "", "1x40 stale"),
        ("ultraep_connections", "", "9x40 stale"),
        ("ultraep_connections_limit", "", "2048x40 stale"),
        ("ultraep_group_open", ',group="g"', "1x40 stale"),
        ("ultraep_last_plan_timestamp_seconds", ',group="g"', "2400x40 stale"),
        ("ultraep_steps_total", ',group="g",verdict="plan",reason="none"', "0+60x40 stale"))]}
EXPECTED_GONE = [
    ("overview", "Daemons up", "A", "{}", 0),
    ("overview", "Daemons up", "B", "{}", 1),
    ("overview", "Groups open", "A", "{}", 0),
    ("overview", "Groups open", "B", "{}", 0),
    ("overview", "Steps", "A", "{}", 0),
    ("overview", "Last plan was", "A", "{}", None),
    ("daemon", "Youngest daemon", "A", "{}", None),
    ("daemon", "EP groups", "A", "{}", 0),
    ("daemon", "Connections used", "A", "{}", None),
    ("daemon", "GPU", "A", "{}", None),
    ("daemon", "GPU", "B", "{}", None),
]
DIGITS = 6  # of a value that are compared


def filled(text, token_ns):
    """The query with every variable as Grafana puts it in."""
    for name, value in (("__rate_interval", "5m"), ("__range", "30m"), ("token_ns", token_ns)):
        text = text.replace(f"${name}", value)
    return re.sub(r'"\$\w+"', '".+"', text)


def checks(expected, token_ns="0"):
    for board, title, letter, labels, value in expected:
        target = next(t for panel in lint.panels(boards()[f"ultraep-{board}.json"])
                      if panel["title"] == title for t in panel["targets"] if t["refId"] == letter)
        scale = 10 ** DIGITS / (abs(value or 0) or 1)
        yield {"expr": f"round(({filled(target['expr'], token_ns)}) * {scale!r})",
               "eval_time": "50m",
               "exp_samples": [] if value is None else [
                   {"labels": labels, "value": round(value * scale)}]}


def evaluate(expressions, node=None):
    node = node or yaml.safe_load(RULE_TESTS.read_text())["tests"][0]
    test = {"interval": node["interval"], "input_series": node["input_series"],
            "promql_expr_test": list(expressions)}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"rule_files": [], "tests": [test]}, file)
        file.flush()
        return subprocess.run(["promtool", "test", "rules", file.name], capture_output=True,
                              text=True, timeout=120)


class NumbersTest(unittest.TestCase):
    def test_panels_show_what_a_hand_computes(self):
        done = evaluate(checks(EXPECTED))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_stats_do_not_show_a_daemon_that_is_gone(self):
        done = evaluate(checks(EXPECTED_GONE), GONE)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_cost_of_a_token_may_be_typed(self):
        cheap = [("overview", "Won / spent", "A", "{}", 60000 * 20e-6 / SPENT),
                 ("overview", "Break-even cost of a token", "C", "{}", 20e-6)]
        done = evaluate(checks(cheap, token_ns="20000"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_another_value_is_noticed(self):
        wrong = [(*case[:4], case[4] * 1.0001 + 0.0001) for case in EXPECTED[:5]]
        self.assertIn("FAILED", evaluate(checks(wrong)).stderr)
        self.assertIn("FAILED", evaluate(checks([(*EXPECTED[3][:4], None)])).stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
