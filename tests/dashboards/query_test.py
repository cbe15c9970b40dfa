"""Every query of every panel, variable and rule, asked of a real Prometheus that scrapes a real
daemon under load. A misspelt metric is an empty answer; none may be empty.

usage: query_test.py BIN_DIR
"""

import os
import re
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import lint  # noqa: E402
import metric_names  # noqa: E402
from lint_test import RULES, boards, rules  # noqa: E402
from processes import Daemon, Replay, wait_until  # noqa: E402
from prometheus_server import BadQuery, Prometheus  # noqa: E402

BIN = ""
PATIENCE = 90  # seconds until everything has to have data


def filled(text, every):
    """With every variable as Grafana puts it in, for scrapes a second apart; every: name -> what
    its All stands for."""
    for name, value in {"__rate_interval": "5s", "__range": "10s", "token_ns": "0",
                        **every}.items():
        text = text.replace(f"${name}", value)
    assert not re.search(r"\$[a-z_]", text), text
    return text


def without_thresholds(text):
    """An alert's expression whose comparisons give 0 or 1 instead of leaving out what is fine."""
    depth, out = 0, ""
    for at, letter in enumerate(text):
        depth += (letter in "({") - (letter in ")}")
        out += letter
        if depth == 0 and re.search(r" (>|==)$", out) and text[at + 1] == " ":
            out += " bool"
    return out


def values_of(variable):
    """The series and the label of label_values(SERIES, LABEL)."""
    return re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()


def all_of(board, prometheus):
    """name -> what All stands for: the variable's allValue, else its values, joined."""
    every = {}
    for variable in lint.variables(board).values():
        if variable["type"] == "query":
            series, label = values_of(variable)
            values = prometheus.get(f"label/{label}/values",
                                    **{"match[]": filled(series, every)})
            every[variable["name"]] = variable["allValue"] or "|".join(values)
    return every


def every_query(prometheus):
    """(where, PromQL). Without `or vector(0)`, which would answer for a misspelt metric."""
    for name, board in boards().items():
        every = all_of(board, prometheus)
        for where, target in lint.queries(board):
            yield f"{name}: {where}", filled(target["expr"], every).removesuffix(" or vector(0)")
        for variable in lint.variables(board).values():
            if variable["type"] == "query":
                series, label = values_of(variable)
                yield (f"{name}: variable {variable['name']}",
                       f"count by ({label}) ({filled(series, every)})")
    for rule in rules():
        name = rule.get("record") or rule["alert"]
        yield name, rule["expr"] if "record" in rule else without_thresholds(rule["expr"])


class QueryTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(
            BIN, "--metrics_detail_series", "100", "--cost_token_ns", "1000",
            "--memory_limit_mib", "1000")
        cls.addClassCleanup(cls.daemon.close)
        replay = Replay(cls.daemon, "--ranks", "4", "--experts", "16", "--tokens", "64", "--train",
                        "--forever")
        cls.addClassCleanup(replay.close)
        wait_until(lambda: cls.daemon.planned() > 0, 60, "steps are planned")
        port = cls.daemon.status()["daemon"]["metrics_port"]
        cls.prometheus = Prometheus(f"127.0.0.1:{port}", RULES)
        cls.addClassCleanup(cls.prometheus.close)
        wait_until(lambda: {labels["job"] for labels, number in cls.prometheus.samples("up")
                            if number == 1} == {"ultraep", "other"}, PATIENCE, "both are scraped")

    def test_every_query_has_an_answer(self):
        waiting = dict(every_query(self.prometheus))
        self.assertGreater(len(waiting), 150)
        deadline = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline:
            waiting = {where: query for where, query in waiting.items()
                       if not self.prometheus.samples(query)}
            time.sleep(0.5)
        self.assertEqual(waiting, {}, "no data")

    def test_the_daemon_is_scraped_and_rules_are_evaluated(self):
        def healthy():
            targets = self.prometheus.get("targets")["activeTargets"]
            groups = self.prometheus.get("rules")["groups"]
            return (all(t["health"] == "up" and not t["lastError"] for t in targets)
                    and all(r["health"] == "ok" for g in groups for r in g["rules"]))
        wait_until(healthy, PATIENCE, "the target is up and every rule is evaluated")

    def test_what_is_shown_holds_together(self):
        board = boards()["ultraep-overview.json"]

        def of(title, letter="A"):
            target = next(t for where, t in lint.queries(board) if where == f"{title} {letter}")
            samples = self.prometheus.samples(
                filled(target["expr"], all_of(board, self.prometheus)))
            return samples[0][1] if samples else None
        wait_until(lambda: of("Won / spent") is not None, PATIENCE, "there is something won")
        self.assertGreaterEqual(of("Imbalance after"), 1)
        self.assertGreater(of("Imbalance before"), of("Imbalance after"))
        self.assertGreater(of("Pays when a token costs more than", "A"), 0)
        self.assertGreater(of("Won / spent"), 0)
        self.assertEqual(of("Groups open"), 1)
        self.assertEqual(of("Daemons up"), 1)

    def test_all_jobs_are_those_with_a_daemon(self):
        """Every process has up and process_*; the panels see the daemon's only."""
        seen = set()
        for board in boards().values():
            every = all_of(board, self.prometheus)
            for where, target in lint.queries(board):
                for use in metric_names.uses(target["expr"]):
                    if not use.name.startswith("ultraep_"):
                        seen.add(use.name)
                        jobs = [labels["job"] for labels, _ in self.prometheus.samples(
                            use.name + filled(use.selector, every))]
                        self.assertEqual(jobs, ["ultraep"], where)
        self.assertGreater(len(seen), 3)
        for name in seen:
            self.assertEqual({labels["job"] for labels, _ in self.prometheus.samples(name)},
                             {"ultraep", "other"}, name)

    def test_a_misspelt_metric_and_a_broken_query_are_noticed(self):
        self.assertEqual(self.prometheus.samples("rate(ultraep_stpes_total[5s])"), [])
        with self.assertRaises(BadQuery):
            self.prometheus.samples("sum(rate(ultraep_steps_total[5s])")

    def test_thresholds_are_taken_out_of_alerts_only_where_they_leave_out(self):
        self.assertEqual(without_thresholds("a / (b > 0) > on (c) 1"),
                         "a / (b > 0) > bool on (c) 1")
        self.assertEqual(without_thresholds('a{b="c"} == 0 or d'), 'a{b="c"} == bool 0 or d')


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
