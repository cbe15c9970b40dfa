"""Recordings of a real daemon under a real replay: opened in numpy, planned again, replayed.

usage: trace_test.py BIN_DIR
"""

import json
import os
import signal
import subprocess
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""
SMALL = ["--hidden", "16", "--ffn", "16", "--forever"]


class TraceTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)

    def path(self, name):
        return os.path.join(self.daemon.directory, name)

    def ctl(self, *arguments):
        done = subprocess.run([os.path.join(BIN, "ultraepctl"), *arguments, "--json"],
                              capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def recorder(self, name, *arguments):
        return subprocess.Popen(
            [os.path.join(BIN, "ultraepctl"), "trace", "record", "-o", self.path(name), "--json",
             "--socket", self.daemon.socket, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def record(self, name, steps):
        process = self.recorder(name, "--steps", str(steps), "--seconds", "300")
        out, error = process.communicate(timeout=400)
        self.assertEqual(process.returncode, 0, error)
        done = json.loads(out)
        self.assertEqual((done["steps"], done["dropped"], done["ended_by"]), (steps, 0, "step limit"))
        return Recording(self.path(name))

    def replay(self, *flags):
        replay = Replay(self.daemon, *flags, *SMALL)
        self.addCleanup(replay.close)
        before = self.daemon.planned()
        wait_until(lambda: self.daemon.planned() > before + 5, 120, "steps are planned")
        return replay

    def stop(self, replay):
        replay.process.terminate()
        self.assertEqual(replay.finish(120)[0], 0)

    def test_a_recording_is_planned_again_and_replayed_to_the_same_plans(self):
        replay = self.replay("--ranks", "4", "--experts", "16", "--tokens", "64", "--layers", "3")
        first = self.record("first", 302)
        self.stop(replay)
        first.check(self)
        verified = self.ctl("trace", "info", first.path, "--verify")["verified"]
        planned = int((first.column("verdict") == 1).sum())  # a busy machine may miss deadlines
        self.assertGreater(planned, 200)
        self.assertEqual(verified, {"plans": planned, "differ": 0})

        done = self.ctl("trace", "convert", first.path, "-o", self.path("loads.npy"))
        self.assertEqual(done["layers"], [0, 1, 2])
        self.assertGreaterEqual(done["rounds"], 99)
        loads = np.load(self.path("loads.npy"))
        again = self.replay("--trace", self.path("loads.npy"))
        second = self.record("second", 2 * done["steps"])
        self.stop(again)
        second.check(self)
        # From where each has the converted loads' first round, as far as these go.
        parts = []
        for recording in (first, second):
            begin = next(i for i in range(len(recording.loads)) if recording.column("layer")[i] == 0
                         and (recording.loads[i] == loads[0, 0]).all())
            parts.append(Recording(self.path(os.path.basename(recording.path) + "-part")))
            self.ctl("trace", "convert", recording.path, "-o", parts[-1].path, "--steps",
                     f"{begin}-{begin + done['steps'] - 1}")
        self.assertTrue(np.array_equal(parts[0].loads, parts[1].loads))
        both = np.flatnonzero((parts[0].column("verdict") == 1) & (parts[1].column("verdict") == 1))
        self.assertGreater(len(both), 200)
        one, two = (part.replicas[np.isin(part.replicas[:, 0], both)] for part in parts)
        self.assertTrue(np.array_equal(one, two))
        self.assertGreater(len(one), 0)

    def test_a_recording_without_its_layers_replays_as_it_is(self):
        replay = self.replay("--ranks", "2", "--experts", "8", "--tokens", "32")
        self.record("trace", 20)
        self.stop(replay)
        done = subprocess.run(
            [os.path.join(BIN, "ultraep-replay"), "--socket", self.daemon.socket, "--trace",
             self.path("trace"), "--json", *SMALL[:-1]], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout.splitlines()[-1])["steps"], 20)

    def test_a_recorder_that_sleeps_costs_steps_of_its_recording_and_nothing_else(self):
        self.replay("--ranks", "4", "--experts", "64", "--tokens", "64")
        process = self.recorder("trace", "--ring-mib", "1", "--seconds", "600")
        self.addCleanup(lambda: process.poll() is None and process.kill())
        wait_until(lambda: os.path.exists(self.path("trace/steps.npy")), 60, "it has begun")
        other = self.recorder("other")
        _, error = other.communicate(timeout=60)
        self.assertEqual(other.returncode, 1, "one recording per group")
        self.assertIn("record", error)
        process.send_signal(signal.SIGSTOP)
        before = self.daemon.planned()
        # A step has more than 96 + 4 * 64 * 4 bytes.
        wait_until(lambda: self.daemon.planned() > before + 2 * 2**20 // 1120, 240, "planning goes on")
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, error)
        done = json.loads(out)
        self.assertEqual(done["ended_by"], "signal")
        self.assertGreater(done["dropped"], 0)
        recording = Recording(self.path("trace"))
        recording.check(self)
        self.assertEqual(len(recording.loads), done["steps"])
        self.assertEqual(recording.info["dropped"], done["dropped"])

    def test_it_ends_with_the_daemon_and_with_a_kill_and_leaves_whole_steps(self):
        self.replay("--ranks", "2", "--experts", "8", "--tokens", "32")
        killed = self.recorder("killed")
        wait_until(lambda: np_rows(self.path("killed/steps.npy")) > 50, 60, "steps are on disk")
        killed.kill()
        killed.communicate(timeout=60)
        info = self.ctl("trace", "info", self.path("killed"), "--verify")
        self.assertGreater(info["steps"], 50)
        self.assertEqual(info["verified"]["differ"], 0)

        process = self.recorder("ended")
        wait_until(lambda: np_rows(self.path("ended/steps.npy")) > 50, 60, "steps are on disk")
        self.daemon.process.terminate()
        out, error = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, error)
        self.assertEqual(json.loads(out)["ended_by"], "the daemon closed the connection")
        Recording(self.path("ended")).check(self)


def np_rows(path):
    """Rows that the header of a growing file names, 0 while there is none."""
    try:
        return np.load(path, mmap_mode="r").shape[0]
    except (OSError, ValueError, EOFError):
        return 0


class Recording:
    def __init__(self, path):
        self.path = path

    @property
    def info(self):
        with open(os.path.join(self.path, "trace.json")) as file:
            return json.load(file)

    @property
    def loads(self):
        return np.load(os.path.join(self.path, "loads.npy"))

    @property
    def steps(self):
        return np.load(os.path.join(self.path, "steps.npy"))

    @property
    def replicas(self):
        return np.load(os.path.join(self.path, "replicas.npy"))

    def column(self, name):
        return self.steps[:, self.info["step_columns"].index(name)]

    def check(self, test):
        """Every step's certificate, worked out from its load and replicas alone."""
        info, loads, replicas = self.info, self.loads.astype(np.int64), self.replicas
        steps = {name: self.column(name) for name in info["step_columns"]}
        ranks, per_rank = info["ranks"], info["experts"] // info["ranks"]
        mains = loads.sum(axis=1).reshape(len(loads), ranks, per_rank).sum(axis=2)
        test.assertTrue((steps["tokens"] == loads.sum(axis=(1, 2))).all())
        test.assertTrue((steps["peak_before"] == mains.max(axis=1)).all())
        step, expert, rank, _, _, tokens = replicas.T
        np.subtract.at(mains, (step, expert // per_rank), tokens)
        np.add.at(mains, (step, rank), tokens)
        test.assertTrue((steps["peak"] == mains.max(axis=1)).all())
        test.assertTrue((steps["lower_bound"] <= steps["peak"]).all())
        test.assertTrue((np.bincount(step, minlength=len(loads)) == steps["replicas"]).all())
        test.assertTrue((np.diff(steps["time_ns"]) >= 0).all())
        test.assertTrue((steps["verdict"] == 1).any())


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
