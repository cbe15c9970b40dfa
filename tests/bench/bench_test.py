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


def run(*arguments, **environment):
    return subprocess.run([os.path.join(BIN, "ultraep-bench"), *arguments], capture_output=True,
                          text=True, timeout=120, env={**os.environ, **environment})


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
        for text in ("usage:", "plan", "route", "loads", "gpu", "--generator (default"):
            self.assertIn(text, done.stdout)

    def test_both_spellings_of_flags(self):
        self.assertEqual(self.rows("plan", *SMALL, "--top-k", "2")[0]["replicas"],
                         self.rows("plan", *SMALL, "--top_k", "2")[0]["replicas"])

    def test_wrong_usage_says_what_is_right(self):
        for arguments, texts in [
                ([], ["plan, route, stream, count, gpu or loads"]), (["plain"], ["'plain'"]),
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


class Gpu(unittest.TestCase):
    SMALL = ("gpu", "--tokens", "48", "--top_k", "2", "--experts", "32", "--expert_bytes", "70001",
             "--repeats", "2", "--blocks", "2")

    def setUp(self):
        tests = os.path.join(os.path.dirname(os.path.abspath(BIN)), "tests")
        self.driver = os.path.join(tests, "libfake_cuda.so")
        if not os.path.exists(self.driver):
            self.skipTest("built without the CUDA backend")

    def on_the_stand_in(self, *arguments, **environment):
        return run(*self.SMALL, *arguments, ULTRAEP_CUDA_DRIVER=self.driver, ULTRAEP_NVML="/none",
                   **environment)

    def test_without_a_device_it_says_why_and_succeeds(self):
        for environment, why in (({"ULTRAEP_CUDA_DRIVER": "/none"}, "no CUDA driver: /none"),
                                 ({"ULTRAEP_CUDA_BACKEND": "/none"}, "no CUDA backend: /none"),
                                 ({"ULTRAEP_CUDA_DRIVER": self.driver, "FAKE_CUDA_ARCH": "75"},
                                  "is sm_75, the backend is built for")):
            with self.subTest(why):
                done = run("gpu", **environment)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertTrue(done.stdout.startswith("no device: "), done.stdout)
                self.assertIn(why, done.stdout)
                out = json.loads(run("gpu", "--json", **environment).stdout)
                self.assertIsNone(out["device"])
                self.assertIn(why, out["why"])

    def test_every_part_is_measured_on_one_device_and_on_several(self):
        for devices, where, ranks in (("1", "device-local, no link", 2),
                                      ("4", "from device 0 to device 1", 4)):
            with self.subTest(where):
                done = self.on_the_stand_in("--json", FAKE_CUDA_DEVICES=devices)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                out = json.loads(done.stdout)
                self.assertTrue(out["device"]["stand_in"])
                self.assertEqual((out["where"], out["ranks"]), (where, ranks))
                self.assertEqual(any("share devices" in n for n in out["notes"]), devices == "1")
                self.assertEqual([row["form"] for row in out["kernels"]], ["ids", "dense map"])
                for row in out["kernels"]:
                    for kernel in ("count", "await", "route", "all"):
                        self.assertLessEqual(row[kernel]["p25_us"], row[kernel]["p75_us"])
                        self.assertGreater(row[kernel]["median_us"], 0)
                self.assertEqual([row["what"] for row in out["transfers"]["stream"]],
                                 ["bulk copies", "plain copies", "copy engine"])
                for row in out["transfers"]["stream"] + out["transfers"]["reduce"]:
                    self.assertAlmostEqual(row["of_copy"], row["gb_s"] / row["copy_gb_s"])
                self.assertEqual(out["transfers"]["stream"][0]["bytes"], 8 * 70001)
                step = out["step"]
                self.assertEqual(step["steps"], 20)
                self.assertGreater(step["replicas"], 0)
                self.assertLessEqual(step["verdict_p50_us"], step["verdict_p99_us"])
                self.assertLess(step["verdict_p50_us"], step["exposed_p50_us"])

    def test_figures_of_the_stand_in_are_never_taken_for_a_gpus(self):
        done = self.on_the_stand_in(FAKE_CUDA_DEVICES="2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("NO GPU: THIS IS THE TESTS' DRIVER", done.stdout)
        for text in ("bulk copies", "launch to verdict", "dense map"):
            self.assertIn(text, done.stdout)

    def test_what_cannot_be_measured_is_said(self):
        done = self.on_the_stand_in("--json", FAKE_CUDA_DEVICES="2", FAKE_CUDA_MEMORY_MIB="64")
        self.assertEqual(done.returncode, 1)
        self.assertIn("kernels not measured: ", done.stderr)
        self.assertIn("kernels", json.loads(done.stdout)["wrong"])

    def test_ranks_must_have_room_and_divide_the_experts(self):
        for ranks, devices in (("16", "1"), ("3", "4")):
            with self.subTest(ranks):
                done = self.on_the_stand_in("--gpu_ranks", ranks, FAKE_CUDA_DEVICES=devices)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(f"--gpu_ranks is {ranks}, must be at most 8 for each", done.stderr)
        for option, says in (("--blocks=513", "0..512"), ("--gpu_ranks=65", "0..64")):
            done = run("gpu", option)
            self.assertEqual(done.returncode, 2)
            self.assertIn(says, done.stderr)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main()
