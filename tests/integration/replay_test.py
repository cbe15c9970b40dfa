"""The main job end to end: daemon, ranks, plans, weights, routing, and the result bit for bit.

usage: replay_test.py BIN_DIR
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from processes import Daemon, Replay  # noqa: E402

BIN = ""
KEYS = ["steps", "planned", "fallbacks", "failed", "imbalance_before", "imbalance_after",
        "imbalance_after_max", "tokens_checked", "mismatches", "solve_us", "verdict_us",
        "stream_gb_per_s", "memcpy_gb_per_s"]


def plan_with_ctl(path, slots):
    done = subprocess.run([os.path.join(BIN, "ultraepctl"), "plan", path, "--slots", str(slots),
                           "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["plans"]


class ReplayTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)

    def replay(self, *flags, code=0):
        replay = Replay(self.daemon, *flags)
        self.addCleanup(replay.close)
        got, result, err = replay.finish(300)
        self.assertEqual(got, code, err)
        return result, err

    def trace(self, array):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = os.path.join(directory.name, "trace.npy")
        numpy.save(path, array)
        return path

    def test_the_default_job_is_balanced_and_right(self):
        result, _ = self.replay("--steps", "5")
        for key in KEYS:
            self.assertIn(key, result)
        self.assertEqual(result["mismatches"], 0)
        self.assertEqual(result["fallbacks"], 0)
        self.assertEqual(result["failed"], 0)
        self.assertEqual(result["planned"], result["steps"])
        self.assertEqual(result["tokens_checked"], result["steps"] * 8 * 1024)
        self.assertGreater(result["imbalance_before"], 1.05)
        self.assertLessEqual(result["imbalance_after"], 1.01)
        self.assertGreater(result["stream_gb_per_s"], 0)

    def test_a_backward_restores_the_slots_and_reduces_their_gradients(self):
        result, err = self.replay("--steps", "5", "--train")
        self.assertEqual((result["mismatches"], result["gradient_mismatches"]), (0, 0), err)
        self.assertEqual(result["planned"], result["steps"])
        self.assertGreater(result["replicas_reduced"], result["steps"])
        self.assertGreater(result["reduce_us"]["p50"], 0)
        served, _ = self.replay("--steps", "5")
        for key in ("imbalance_before", "imbalance_after", "tokens_checked"):
            self.assertEqual(result[key], served[key])
        self.assertEqual(served["replicas_reduced"], 0)

    def test_a_trace_gives_the_imbalance_that_numpy_and_the_offline_planner_give(self):
        random = numpy.random.default_rng(5)
        load = random.integers(0, 40, size=(3, 2, 4, 16)).astype(numpy.uint32)
        load[:, :, :, 3] += 200
        load[1, 1] = 0  # a step without tokens
        self.check_trace(self.trace(load), load)

    def test_a_recorded_trace_of_a_training_run(self):
        path = os.path.join(os.path.dirname(__file__), "..", "..", "plugin", "examples", "data", "train-moe-trace.npy")
        self.check_trace(path, numpy.load(path), "--hidden", "16", "--ffn", "16")

    def check_trace(self, path, load, *flags):
        steps, layers, group, experts = load.shape
        result, _ = self.replay("--trace", path, "--slots", "2", *flags)
        self.assertEqual(result["steps"], steps * layers)
        self.assertEqual(result["mismatches"], 0)
        self.assertEqual(result["tokens_checked"], int(load.sum()))
        flat = load.reshape(steps * layers, group, experts)
        ranks = flat.sum(axis=1).reshape(steps * layers, group, experts // group).sum(axis=2)
        before = [r.max() / r.mean() if r.sum() else 1.0 for r in ranks]
        self.assertAlmostEqual(result["imbalance_before"], numpy.mean(before), places=6)
        plans = plan_with_ctl(self.trace(flat), 2)
        after = [p["imbalance_after"] for p in plans]
        self.assertAlmostEqual(result["imbalance_after"], numpy.mean(after), places=6)
        self.assertAlmostEqual(result["imbalance_after_max"], max(after), places=6)

    def test_one_rank_and_no_slots_are_the_plain_placement(self):
        one, _ = self.replay("--ranks", "1", "--experts", "4", "--steps", "2", "--tokens", "64")
        self.assertEqual((one["mismatches"], one["imbalance_after"]), (0, 1.0))
        none, _ = self.replay("--ranks", "2", "--experts", "8", "--slots", "0", "--steps", "2",
                              "--tokens", "64")
        self.assertEqual(none["mismatches"], 0)
        self.assertEqual(none["imbalance_before"], none["imbalance_after"])

    def test_one_expert_that_takes_everything_is_spread(self):
        load = numpy.zeros((2, 1, 4, 8), dtype=numpy.int64)
        load[:, :, :, 5] = 500
        result, _ = self.replay("--trace", self.trace(load), "--slots", "1")
        self.assertEqual((result["mismatches"], result["imbalance_before"]), (0, 4.0))
        self.assertLessEqual(result["imbalance_after"], 1.01)

    def test_without_a_daemon_the_job_runs_on_main_copies(self):
        self.daemon.process.terminate()
        self.daemon.process.wait()
        result, err = self.replay("--steps", "2", "--tokens", "64", "--join_timeout_s", "1")
        self.assertEqual((result["planned"], result["mismatches"]), (0, 0))
        self.assertIn("declined", err.lower())

    def test_bad_input_is_refused_before_anything_starts(self):
        bad = self.trace(numpy.zeros((2, 1, 4, 6), dtype=numpy.int64))
        negative = self.trace(-numpy.ones((1, 1, 2, 4), dtype=numpy.int64))
        floats = self.trace(numpy.zeros((1, 1, 2, 4)))
        truncated = self.trace(numpy.zeros((1, 1, 2, 4), dtype=numpy.int64))
        with open(truncated, "r+b") as file:
            file.truncate(os.path.getsize(truncated) - 3)
        for flags in (["--trace", bad], ["--trace", negative], ["--trace", floats],
                      ["--trace", truncated], ["--trace", "/nowhere.npy"], ["--trace", "/tmp"],
                      ["--trace", "/dev/zero"], ["--experts", "7"],
                      ["--ranks", "0"], ["--slots", "33"], ["--nonsense", "1"],
                      ["--train", "--tokens", "1048576", "--hidden", "1", "--ffn", "1"]):
            replay = Replay(self.daemon, *flags)
            self.addCleanup(replay.close)
            code, _, err = replay.finish(60)
            self.assertIn(code, (1, 2), flags)
            self.assertTrue(err.strip(), flags)
            self.assertNotIn("mismatch", err)
        self.assertEqual(self.daemon.status()["groups"], [])


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
