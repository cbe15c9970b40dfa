"""The example, small: its own ranks and daemon, its result, its trace replayed."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest

import numpy
import torch
import torch.distributed as dist

from ranks import run_ranks, start_daemon

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "..", "..", "plugin", "examples",
                       "train_moe.py")
SMALL = ["--hidden", "32", "--ffn", "64", "--batch", "4", "--length", "32", "--layers", "2"]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as found:
        return [int(child) for child in found.read().split()]


def equal_everywhere(rank, ranks, directory):
    """After some steps shared parameters are equal on all ranks; experts' gradients are means."""
    sys.path.insert(0, os.path.dirname(EXAMPLE))
    import train_moe
    options = train_moe.parse([*SMALL, "--mode", "none"])
    trainer = train_moe.make_trainer("none", options, rank, train_moe.read_text(options.text))
    trainer.stretch(2, timed=True)
    own = torch.cat([p.detach().flatten() for p in trainer.model.shared_parameters()])
    everyone = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(everyone, own)
    before = [torch.full_like(p, 8.0) for p in trainer.model.parameters()]
    for p, g in zip(trainer.model.parameters(), before):
        p.grad = g
    trainer._average_gradients()
    return (all(torch.equal(everyone[0], e) for e in everyone),
            {p.grad.unique().item() for p in trainer.model.expert_parameters()})


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
        seconds = {run["mode"]: run["seconds"] for run in result["runs"]}
        for name in ("ideal", "none"):
            pairs = zip(seconds[name], seconds["balanced"])
            self.assertAlmostEqual(result["ratios"][f"balanced / {name}"]["median"],
                                   statistics.median(slow / fast for slow, fast in pairs))
        self.assertTrue(0 < result["expert_share"] < 1, result["expert_share"])
        self.assertIn("balanced", done.stderr)  # the progress bar

    def check_runs(self, result):
        runs = {run["mode"]: run for run in result["runs"]}
        self.assertEqual(list(runs), ["none", "balanced", "ideal"])
        for run in runs.values():
            self.assertEqual(len(run["seconds"]), 6)  # not those that warm up
            tokens = 2 * 4 * 32 / statistics.median(run["seconds"])
            self.assertAlmostEqual(run["tokens_per_second"] / tokens, 1)
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

    def test_ranks_share_what_they_should(self):
        for same, experts in run_ranks(equal_everywhere, None):
            self.assertTrue(same)
            self.assertEqual(experts, {4.0})

    def test_sigterm_ends_ranks_and_daemon(self):
        process = subprocess.Popen([sys.executable, EXAMPLE, *SMALL, "--mode", "balanced",
                                    "--rounds", "100000"], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while len(children(process.pid)) < 3 and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
        started = children(process.pid)
        self.assertEqual(len(started), 3)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 143)
        while any(os.path.exists(f"/proc/{pid}") for pid in started):
            self.assertLess(time.monotonic(), until + 30)
            time.sleep(0.1)

    def test_equal_seeds_give_equal_losses(self):
        losses = [json.loads(train("--mode", "balanced", "--rounds", "2", "--json")
                             .stdout.splitlines()[-1])["runs"][0]["loss"] for _ in range(2)]
        self.assertEqual(*losses)

    def test_wrong_options_say_what_is_right(self):
        for arguments, text in ((["--experts", "15"], "must be a multiple of --ranks (2)"),
                                (["--imbalance", "3"], "must be 1..2"),
                                (["--rounds", "0"], "--rounds is 0, must be at least 1"),
                                (["--slots", "40"], "--slots is 40, must be 0..32"),
                                (["--trace", "/nowhere/t.npy"], "cannot be written"),
                                (["--text", "/nowhere"], "/nowhere")):
            self.assertIn(text, train(*arguments, code=2).stderr)
        self.assertIn("--mode", train("--help").stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
