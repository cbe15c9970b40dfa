"""Dashboards, rules and runbook agree with each other and with daemon/metrics/names.h.

usage: lint_test.py
"""

import copy
import importlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import yaml

import lint
import metric_names
from metric_names import ROOT

FOLDER = ROOT / "dashboards"
RULES = FOLDER / "rules" / "ultraep.rules.yml"
RULE_TESTS = FOLDER / "rules" / "ultraep.rules.test.yml"
RUNBOOK = ROOT / "deploy" / "runbook.md"
# Metrics that neither a panel nor a rule shows, and why.
UNPLOTTED = {}


def boards():
    """file name -> parsed dashboard."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"]
            for rule in group["rules"]]


def alerts():
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def panel(board, kind):
    return next(p for p in board["panels"] if p["type"] == kind)


def query_with(board, text):
    return next(t for _, t in lint.queries(board) if text in t["expr"])


def change(mapping, *path, to):
    for key in path[:-1]:
        mapping = mapping[key]
    mapping[path[-1]] = to


def replace(target, old, new):
    assert old in target["expr"]
    target["expr"] = target["expr"].replace(old, new)


# (rule, what the complaint says, what breaks the overview)
BROKEN = [
    ("provisioned", "id must be None", lambda b: change(b, "id", to=7)),
    ("provisioned", "editable must be", lambda b: change(b, "editable", to=True)),
    ("provisioned", "import dialog", lambda b: change(b, "__inputs", to=[])),
    ("provisioned", "schemaVersion", lambda b: change(b, "schemaVersion", to=22)),
    ("provisioned", "uid", lambda b: change(b, "uid", to="Ab3_x")),
    ("provisioned", "tagged", lambda b: change(b, "tags", to=[])),
    ("provisioned", "by their tag", lambda b: change(b, "links", to=[])),
    ("known_variables", "Data source", lambda b: b["templating"]["list"].pop(0)),
    ("known_variables", "multi with All",
     lambda b: change(lint.variables(b), "job", "includeAll", to=False)),
    ("known_variables", "multi with All",
     lambda b: change(lint.variables(b), "instance", "refresh", to=1)),
    ("known_variables", "All being None",
     lambda b: change(lint.variables(b), "job", "allValue", to=".+")),
    ("known_variables", "no variable gruop",
     lambda b: replace(query_with(b, "$group"), "$group", "$gruop")),
    ("known_variables", "never used", lambda b: b["templating"]["list"].append(
        {**lint.variables(b)["token_ns"], "name": "nobody"})),
    ("placed", "not unique", lambda b: change(b["panels"][3], "id", to=b["panels"][2]["id"])),
    ("placed", "lies on", lambda b: change(b["panels"][2]["gridPos"], "x", to=1)),
    ("placed", "24 columns", lambda b: change(b["panels"][2]["gridPos"], "w", to=25)),
    ("explained", "twice", lambda b: change(lint.panels(b)[0], "title", to="Groups")),
    ("explained", "no title", lambda b: change(lint.panels(b)[0], "title", to="")),
    ("explained", "no description", lambda b: change(b, "description", to="")),
    ("explained", "Daemons up has no description",
     lambda b: change(panel(b, "stat"), "description", to="Up.")),
    ("explained", "unit", lambda b: panel(b, "timeseries")["fieldConfig"]["defaults"].pop("unit")),
    ("explained", "unit seconds", lambda b: panel(b, "table")["fieldConfig"]["overrides"][0][
        "properties"].append({"id": "unit", "value": "seconds"})),
    ("explained", "type graph", lambda b: change(panel(b, "timeseries"), "type", to="graph")),
    ("explained", "Grafana's thresholds", lambda b: panel(b, "stat")["fieldConfig"]["defaults"][
        "thresholds"]["steps"].append({"value": 80, "color": "red"})),
    ("sourced", "asks nothing", lambda b: change(panel(b, "stat"), "targets", to=[])),
    ("sourced", "refId", lambda b: change(panel(b, "stat"), "targets", 1, "refId", to="A")),
    ("sourced", "data source", lambda b: panel(b, "stat").pop("datasource")),
    ("sourced", "data source", lambda b: change(
        panel(b, "stat"), "targets", 0, "datasource", to={"type": "prometheus", "uid": "P1"})),
    ("sourced", "no legend",
     lambda b: change(panel(b, "stat"), "targets", 0, "legendFormat", to="__auto")),
    ("sourced", "by (le)", lambda b: change(panel(b, "stat"), "type", to="heatmap")
     or replace(panel(b, "heatmap")["targets"][0], "up{", "ultraep_plan_seconds_bucket{")),
    ("windows", "not within rate", lambda b: replace(
        query_with(b, "sum(rate(ultraep_steps_total"), "rate(", "avg_over_time(")),
    ("windows", "rate of the gauge ultraep_ranks", lambda b: replace(
        query_with(b, "ultraep_steps_total"), "ultraep_steps_total", "ultraep_ranks")),
    ("windows", "[5m]", lambda b: replace(
        query_with(b, "[$__rate_interval]"), "[$__rate_interval]", "[5m]")),
    ("windows", "[$__range]", lambda b: replace(
        query_with(b, "[$__rate_interval]"), "[$__rate_interval]", "[$__range]")),
    ("current", "Last plan was A: neither instant", lambda b: change(
        query_with(b, "ultraep_last_plan_timestamp"), "instant", to=False)),
    ("current", "Steps A: neither instant", lambda b: replace(
        query_with(b, "ultraep_steps_total"), " or vector(0)", "")),
    ("current", "no value", lambda b: panel(b, "stat")["fieldConfig"]["defaults"]["thresholds"][
        "steps"][0].update(color="green")),
    ("selective", "ignores the variable job",
     lambda b: replace(query_with(b, "up{"), 'job=~"$job",', "")),
    ("selective", "ignores the variable instance", lambda b: replace(
        query_with(b, "ultraep_steps_total{"), 'instance=~"$instance",', "")),
    ("existing", "no metric ultraep_stpes_total", lambda b: replace(
        query_with(b, "ultraep_steps_total"), "ultraep_steps_total", "ultraep_stpes_total")),
    ("existing", "no metric ultraep_plan_seconds", lambda b: replace(
        query_with(b, "ultraep_plan_seconds_sum"), "ultraep_plan_seconds_sum",
        "ultraep_plan_seconds")),
    ("existing", "no label grp", lambda b: replace(query_with(b, "group=~"), "group=~", "grp=~")),
    ("existing", "verdict is never planned", lambda b: replace(
        query_with(b, 'verdict="plan"'), 'verdict="plan"', 'verdict="planned"')),
    ("existing", "nothing has the label verdcit", lambda b: replace(
        query_with(b, "by (verdict)"), "by (verdict)", "by (verdcit)")),
    ("existing", "no metric ultraep_gruop_open", lambda b: change(
        lint.variables(b), "group", "definition", to="label_values(ultraep_gruop_open, group)")),
]


def mutants(alert):
    """(what was done, the alert's expression with one number, condition or selection spoilt)."""
    expr = " ".join(alert["expr"].split())
    for found in re.finditer(r"(?<![\w.\[])\d+(?:\.\d+)?(?![\w.\]])", expr):
        number = float(found[0])
        near = (number * 0.95, number * 1.05) if "." in found[0] else (number - 1, number + 1)
        for other in near if number else ():
            yield (f"{number:g} is {other:g}",
                   f"{expr[:found.start()]}{other:g}{expr[found.end():]}")
    for found in re.finditer(r"\{[^}]*\}", expr):
        yield f"without {found[0]}", expr[:found.start()] + expr[found.end():]
    parts = re.split(r" ((?:and on \([^)]*\)|or)) ", expr)
    for at in range(0, len(parts) if len(parts) > 1 else 0, 2):
        yield f"without {parts[at]}", " ".join(parts[2:] if at == 0 else
                                               parts[:at - 1] + parts[at + 1:])


class LinterTest(unittest.TestCase):
    """The linter catches what it is there for."""

    def setUp(self):
        self.board = boards()["ultraep-overview.json"]

    def test_each_rule_has_a_case(self):
        self.assertEqual({rule for rule, *_ in BROKEN}, set(lint.RULES))

    def test_each_case_is_caught(self):
        for rule, says, spoil in BROKEN:
            board = copy.deepcopy(self.board)
            spoil(board)
            with self.subTest(rule, says=says):
                complaints = list(lint.RULES[rule](board))
                self.assertTrue(any(says in c for c in complaints), complaints)

    def test_all_metrics_of_the_header_are_read(self):
        declared = metric_names.HEADER.read_text().count("inline constexpr Metric k")
        self.assertEqual(len(metric_names.metrics()), declared)
        self.assertEqual(metric_names.metrics()["ultraep_steps_total"].labels["verdict"],
                         ["plan", "fallback"])


class DashboardTest(unittest.TestCase):
    def test_the_four_are_here_under_their_uid(self):
        self.assertEqual({name: f"{board['uid']}.json" for name, board in boards().items()},
                         {f"ultraep-{name}.json": f"ultraep-{name}.json"
                          for name in ("overview", "group", "performance", "daemon")})

    def test_they_are_what_their_source_says(self):
        sys.path.insert(0, str(FOLDER / "source"))
        self.addCleanup(sys.path.pop, 0)
        for name, text in importlib.import_module("write").texts().items():
            self.assertTrue((FOLDER / name).read_text() == text,
                            f"{name}: run dashboards/source/write.py")

    def test_they_keep_every_rule(self):
        for name, board in boards().items():
            for rule, complaints in lint.RULES.items():
                with self.subTest(name, rule=rule):
                    self.assertEqual(list(complaints(board)), [])

    def test_every_metric_is_shown_or_watched(self):
        texts = [t["expr"] for board in boards().values() for _, t in lint.queries(board)]
        texts += [rule["expr"] for rule in rules()]
        seen = {use.metric.name for text in texts for use in metric_names.uses(text) if use.metric}
        self.assertEqual(set(metric_names.metrics()) - seen, set(UNPLOTTED))

    def test_their_queries_are_promql(self):
        records = [{"record": "lint:query:ok", "labels": {"number": str(number)}, "expr": re.sub(
            r"\$(__rate_interval|__range)", "5m", t["expr"]).replace("$token_ns", "0")}
            for number, t in enumerate(t for b in boards().values() for _, t in lint.queries(b))]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}, file)
            file.flush()
            done = run("promtool", "check", "rules", file.name)
        self.assertEqual(done.returncode, 0, done.stderr)


class RulesTest(unittest.TestCase):
    def test_promtool_finds_nothing_wrong(self):
        for command in (["promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES],
                        ["promtool", "check", "config", FOLDER / "prometheus.yml"],
                        ["promtool", "test", "rules", RULE_TESTS]):
            done = run(*command)
            self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}{done.stderr}")

    def test_they_name_only_what_there_is(self):
        records = {rule["record"] for rule in rules() if "record" in rule}
        for rule in rules():
            self.assertEqual(list(metric_names.unknown(rule["expr"])), [], rule)
            self.assertLessEqual(set(re.findall(r"\w+:\w+:\w+", rule["expr"])), records)

    def test_records_are_named_level_metric_operations(self):
        for rule in rules():
            if "record" in rule:
                level, metric, operations = rule["record"].split(":")
                self.assertRegex(operations, r"^(ratio_|mean_|p99_)?rate5m$")
                self.assertLessEqual(set(level.split("_")), {"group", "instance", "reason"})
                self.assertTrue(metric.startswith("ultraep_"), metric)

    def test_alerts_say_how_bad_what_and_where_to_read_on(self):
        for name, rule in alerts().items():
            self.assertRegex(name, "^Ultraep([A-Z][a-z]+)+$")
            self.assertIn(rule["labels"]["severity"], ("info", "warning", "critical"))
            self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook"}, name)
            self.assertEqual(rule["annotations"]["runbook"], f"deploy/runbook.md#{name.lower()}")

    def test_every_alert_fires_in_one_test_and_is_silent_in_another(self):
        fired, silent = set(), set()
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
            for check in test["alert_rule_test"]:
                (fired if check["exp_alerts"] else silent).add(check["alertname"])
        self.assertEqual(fired, set(alerts()))
        self.assertEqual(silent, set(alerts()))

    def test_unit_tests_notice_each_number_condition_and_selection_that_changes(self):
        all_rules, all_tests = rules(), yaml.safe_load(RULE_TESTS.read_text())["tests"]
        records = [rule for rule in all_rules if "record" in rule]
        files = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, alert in alerts().items():
                tests = [{**test, "alert_rule_test": [c for c in test["alert_rule_test"]
                                                      if c["alertname"] == name],
                          "promql_expr_test": []} for test in all_tests]
                tests = [test for test in tests if test["alert_rule_test"]]
                for what, expr in mutants(alert):
                    mine, file = f"rules{len(files)}.yml", f"{folder}/test{len(files)}.yml"
                    files[file] = f"{name}: {what}"
                    one = {"name": "one", "rules": [*records, {**alert, "expr": expr}]}
                    pathlib.Path(folder, mine).write_text(yaml.safe_dump({"groups": [one]}))
                    pathlib.Path(file).write_text(yaml.safe_dump({
                        "rule_files": [mine], "evaluation_interval": "1m", "tests": tests}))
            done = run("promtool", "test", "rules", *files)
        said = re.findall(r"^Unit Testing:\s+(\S+)\n(\s+SUCCESS)?", done.stdout, re.M)
        self.assertGreater(len(files), 30)
        self.assertEqual([file for file, _ in said], list(files), done.stderr)
        self.assertNotIn(folder, done.stderr, "a change is not even a rule")
        self.assertEqual([files[file] for file, survived in said if survived], [])


class RunbookTest(unittest.TestCase):
    def test_it_has_a_section_for_each_alert_and_no_other(self):
        self.assertEqual(re.findall(r"^## (.*)$", RUNBOOK.read_text(), re.M), list(alerts()))

    def test_panels_refer_to_its_sections(self):
        named = re.findall(r"runbook\.md, (\w+)", json.dumps(boards()))
        self.assertGreater(len(named), 20)
        self.assertLessEqual(set(named), set(alerts()))
        self.assertEqual(json.dumps(boards()).count("runbook.md"), len(named))

    def test_its_panels_exist(self):
        titles = {p["title"] for board in boards().values() for p in lint.panels(board)}
        text = " ".join(RUNBOOK.read_text().split())
        for listed in re.findall(r"[Pp]anels? ([A-Z][^.;]*)", text):
            for title in re.split(r", | and (?=[A-Z])", re.sub(r"\(.*", "", listed)):
                self.assertIn(title.strip(), titles)


if __name__ == "__main__":
    unittest.main(verbosity=2)
