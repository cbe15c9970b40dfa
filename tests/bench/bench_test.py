"""ultraep-bench keeps its contract: rows, tables, help, refusals.

usage: /usr/bin/python3 bench_test.py FOLDER_OF_THE_BINARIES
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

BIN = ""
SMALL = ["--ranks", "8", "--experts", "32", "--seeds", "2", "--tokens", "256", "--repeats", "3"]
FIELDS = {"planner", "ranks", "experts", "slots", "imbalance_before", "imbalance_after", "replicas",
          "max_replicas_per_expert", "transfer_units", "solve_p50_us", "solve_p99_us", "gap"}


def run(*arguments):
    return subprocess.run([os.path.join(BIN, "ultraep-bench"), *arguments], capture_output=True,
                          text=True, timeout=120)


class Bench(unittest.TestCase):
    def rows(self, *arguments):
        done = run(*arguments, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stderr)
        self.assertEqual(done.stdout.count("\n"), 1)
        return json.loads(done.stdout)["rows"]

    def test_one_row_per_planner_for_every_generator(self):
        for generator in ("A", "B", "C", "dsv3"):
            with self.subTest(generator):
                rows = self.rows("plan", *SMALL, "--generator", generator)
                self.assertEqual([r["planner"] for r in rows], [
                    "ultraep", "ultraep-heuristic", "eplb-global", "eplb-fixed", "moonep-fill",
                    "least-loaded-spill"])
                for row in rows:
                    self.assertLessEqual(FIELDS, set(row))
                    self.assertEqual(row["imbalance_before"], rows[0]["imbalance_before"])
                    self.assertGreaterEqual(row["solve_p99_us"], row["solve_p50_us"])
                    self.assertGreaterEqual(row["gap"], 0)
                self.assertLessEqual(rows[0]["gap"], max(0.0051, rows[1]["gap"]))
                self.assertLess(rows[0]["imbalance_after"], rows[0]["imbalance_before"])

    def test_the_split_is_exact_and_more_even_than_the_published_interleave(self):
        ours, published, none = self.rows("route", "--seeds", "1", "--tokens", "4096")
        self.assertGreater(ours["windows"], 1000)
        self.assertEqual(ours["wrong_totals"], 0)
        self.assertLessEqual(ours["deviation_max"], 3)
        self.assertLess(ours["deviation_mean"], published["deviation_mean"] / 4)
        self.assertLess(published["deviation_mean"], none["deviation_mean"])

    def test_streams_are_measured_and_relays_simulated(self):
        done = run("stream", "--json", "--seeds", "2", "--repeats", "3", "--expert-bytes", "1000001")
        self.assertEqual(done.returncode, 0, done.stderr)
        out = json.loads(done.stdout)
        measured = out["measured"]
        for row in measured["weights"]:
            self.assertGreater(row["gb_s"], 0.01)
            self.assertGreater(row["of_best_copy"], 0.01)
        for row in measured["gradients"]:
            self.assertGreater(row["gb_s"], 0.01)
            self.assertGreater(row["of_copy"], 0.01)
        cpus = len(os.sched_getaffinity(0))
        alone = [row["pattern"] for row in measured["weights"] if row["threads"] == 1]
        self.assertEqual(alone, ["one to one", "fan-out of 3", "chain of 2", "chain of 3"][:cpus + 1])
        executors = {row["threads"] for row in measured["gradients"]}
        self.assertEqual(executors, {1, min(cpus, 4)})
        self.assertEqual([row["main_gradients"] for row in measured["gradients"]],
                         ["float32", "bfloat16"] * len(executors))
        rows = {row["schedule"]: row for row in out["simulated"]["rows"]}
        # Experts of four chunks: a hop is two thirds of an expert-time, and still worth it.
        self.assertLess(rows["ultraep"]["makespan_us"], rows["ultraep, all direct"]["makespan_us"])
        for row in rows.values():
            self.assertGreaterEqual(row["expert_times"], 0.999 * row["bound"])

    def test_counting_is_measured_in_every_form(self):
        rows = self.rows("count", "--ranks", "8", "--experts", "32", "--repeats", "3")
        self.assertEqual(len(rows), 7)
        for row in rows:
            self.assertGreater(row["ns"], 0)

    def test_the_plans_of_a_file_are_simulated(self):
        with tempfile.TemporaryDirectory() as folder:
            loads, plans = os.path.join(folder, "loads.npy"), os.path.join(folder, "plans.json")
            self.assertEqual(run("loads", loads, *SMALL).returncode, 0)
            quick = ("--repeats", "1", "--expert-bytes", "1000001", "--json")
            planned = subprocess.run([os.path.join(BIN, "ultraepctl"), "plan", loads, "--slots",
                                      "2", "--json", "--relay-hop", "1722"], capture_output=True,
                                     text=True, timeout=60)  # as deep as such experts bear
            with open(plans, "w", encoding="utf-8") as file:
                file.write(planned.stdout)
            done = run("stream", "--plan", plans, *quick)
            self.assertEqual(done.returncode, 0, done.stderr)
            rows = json.loads(done.stdout)["simulated"]["rows"]
            self.assertEqual([row["schedule"] for row in rows],
                             ["plans of the file", "plans of the file, all direct"])
            self.assertGreaterEqual(rows[0]["expert_times"], 0.999 * rows[0]["bound"])
            self.assertLessEqual(rows[0]["makespan_us"], rows[1]["makespan_us"])
            out = json.loads(planned.stdout)
            out["plans"][1]["transfers"][0]["parent"] = 0
            for text, says in ((json.dumps(out), "plan 1: replica 0: parent is not an earlier"),
                               ("{}", "ultraepctl plan --json"), ('{"plans": []}', "no plan")):
                with open(plans, "w", encoding="utf-8") as file:
                    file.write(text)
                done = run("stream", "--plan", plans, *quick)
                self.assertEqual(done.returncode, 1, text)
                self.assertIn(says, done.stderr)
            self.assertEqual(run("stream", "--plan", "/nowhere", *quick).returncode, 1)

    def test_loads_are_saved(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "loads.npy")
            self.assertEqual(run("loads", path, *SMALL).returncode, 0)
            loads = np.load(path)
            self.assertEqual((loads.shape, loads.dtype), ((2, 8, 32), np.uint32))
            self.assertTrue((loads.sum(axis=2) == 256 * 8).all(), "top 8 of every token")
            done = run("loads", os.path.join(folder, "no", "loads.npy"), *SMALL)
            self.assertEqual(done.returncode, 1)
            self.assertIn("No such file", done.stderr)

    def test_tables_and_help(self):
        self.assertIn("ultraep-heuristic", run("plan", *SMALL).stdout)
        self.assertIn("published-interleave", run("route", *SMALL).stdout)
        done = run("--help")
        self.assertEqual(done.returncode, 0)
        for text in ("usage:", "plan", "route", "loads", "--generator (default"):
            self.assertIn(text, done.stdout)

    def test_both_spellings_of_flags(self):
        self.assertEqual(self.rows("plan", *SMALL, "--top-k", "2")[0]["replicas"],
                         self.rows("plan", *SMALL, "--top_k", "2")[0]["replicas"])

    def test_wrong_usage_says_what_is_right(self):
        for arguments, texts in [
                ([], ["plan, route, stream or loads"]), (["plain"], ["'plain'"]),
                (["stream", "--link-gb-s", "0"], ["--link_gb_s", "0.001"]),
                (["plan", "--nonsense", "8"], ["unknown flag --nonsense"]),
                (["plan", "--ranks", "5"], ["experts is 256", "multiple of ranks (5)"]),
                (["plan", "--imbalance", "0.5"], ["--imbalance", "1.0"]),
                (["plan", "--generator", "D"], ["'D'", "A, B, C or dsv3"]),
                (["plan", "--generator", "dsv3", "--ranks", "3", "--experts", "3"], ["divide 256"]),
                (["loads"], ["OUT.npy"])]:
            with self.subTest(arguments):
                done = run(*arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                for text in [*texts, "--help"]:
                    self.assertIn(text, done.stderr)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main()
