"""The example, small: its own ranks and daemon, its result, its trace replayed."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy

from ranks import start_daemon

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "..", "..", "plugin", "examples",
                       "train_moe.py")
SMALL = ["--hidden", "32", "--ffn", "64", "--batch", "4", "--length", "32", "--layers", "2"]


def train(*arguments, code=0):
    done = subprocess.run([sys.executable, EXAMPLE, *SMALL, *arguments], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


class ExampleTest(unittest.TestCase):

    def test_all_modes(self):
        with tempfile.TemporaryDirectory() as directory:
            trace = os.path.join(directory, "trace.npy")
            done = train("--json", "--rounds", "6", "--round-steps", "3", "--trace", trace,
                         "--imbalance", "1.6")
            result = json.loads(done.stdout.splitlines()[-1])
            self.check_runs(result)
            loads = numpy.load(trace)
            self.assertEqual((loads.shape, loads.dtype), ((21, 2, 2, 16), numpy.uint32))
            self.assertTrue((loads.sum(axis=3) == 4 * 32 * 2).all())
            self.replay(trace, result)
        self.assertIn("balanced / ideal", result["ratios"])
        self.assertIn("balanced", done.stderr)  # the progress bar

    def check_runs(self, result):
        runs = {run["mode"]: run for run in result["runs"]}
        self.assertEqual(list(runs), ["none", "balanced", "ideal"])
        for run in runs.values():
            self.assertGreater(run["tokens_per_second"], 0)
            self.assertEqual(len(run["loss"]), 21)
            self.assertLess(run["loss"][-1], run["loss"][0])
        none, balanced, ideal = runs.values()
        self.assertAlmostEqual(none["imbalance_before"], 1.6, delta=0.15)
        self.assertEqual(none["imbalance_after"], none["imbalance_before"])
        self.assertAlmostEqual(balanced["imbalance_before"], none["imbalance_before"], delta=0.01)
        self.assertLess(balanced["imbalance_after"], 1.05)
        self.assertEqual(ideal["imbalance_before"], 1.0)
        self.assertEqual(balanced["verdicts"], {"plan": 42})
        for a, b in zip(none["loss"], balanced["loss"]):
            self.assertAlmostEqual(a, b, delta=1e-4 * a)

    def replay(self, trace, result):
        """The trace drives the replay to the same imbalances."""
        with_daemon = start_daemon()
        try:
            done = subprocess.run(
                ["ultraep-replay", "--socket", with_daemon.socket, "--trace", trace, "--slots", "4",
                 "--hidden", "16", "--ffn", "16", "--json"], capture_output=True, text=True,
                timeout=120)
        finally:
            with_daemon.close()
        self.assertEqual(done.returncode, 0, done.stderr)
        replayed = json.loads(done.stdout.splitlines()[-1])
        balanced = result["runs"][1]
        for name in ("imbalance_before", "imbalance_after"):
            self.assertAlmostEqual(replayed[name], balanced[name], places=3)

    def test_equal_seeds_give_equal_losses(self):
        losses = [json.loads(train("--mode", "balanced", "--rounds", "2", "--json")
                             .stdout.splitlines()[-1])["runs"][0]["loss"] for _ in range(2)]
        self.assertEqual(*losses)

    def test_wrong_options_say_what_is_right(self):
        for arguments, text in ((["--experts", "15"], "must be a multiple of --ranks (2)"),
                                (["--imbalance", "3"], "must be 1..2"),
                                (["--rounds", "0"], "--rounds is 0, must be at least 1"),
                                (["--text", "/nowhere"], "/nowhere")):
            self.assertIn(text, train(*arguments, code=2).stderr)
        self.assertIn("--mode", train("--help").stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
