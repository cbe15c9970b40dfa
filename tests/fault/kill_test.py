"""Ranks and daemons killed and stopped under load: one verdict per step, no hang, no wrong result.

usage: kill_test.py BIN_DIR
"""

import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""
NIGHTLY = bool(os.environ.get("ULTRAEP_NIGHTLY"))
SMALL = ["--ranks", "4", "--experts", "16", "--tokens", "128", "--hidden", "16", "--ffn", "16"]


class KillTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)

    def start(self, *flags):
        replay = Replay(self.daemon, *SMALL, *flags)
        self.addCleanup(replay.close)
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")
        return replay

    def test_a_killed_rank_stops_the_others_at_once_and_is_named(self):
        for round_number in range(40 if NIGHTLY else 6):
            with self.subTest(round=round_number):
                replay = self.start("--forever")
                victim = round_number % 4
                time.sleep(0.013 * round_number)
                os.kill(replay.ranks()[victim], signal.SIGKILL)
                killed = time.monotonic()
                code, _, err = replay.finish(30)
                self.assertLess(time.monotonic() - killed, 10)
                self.assertEqual(code, 3, err)
                self.assertRegex(err, f"rank {victim}\\b")
                wait_until(lambda: not self.daemon.status()["groups"], 10, "the group is closed")

    def test_a_killed_daemon_leaves_every_step_with_one_verdict_and_a_right_result(self):
        for round_number in range(20 if NIGHTLY else 3):
            with self.subTest(round=round_number):
                replay = self.start("--steps", "400")
                time.sleep(0.017 * round_number)
                self.daemon.process.kill()
                self.daemon.process.wait()
                code, result, err = replay.finish(120)
                self.assertEqual(code, 0, err)
                self.assertEqual(result["mismatches"], 0)
                self.assertEqual(result["failed"], 0)
                self.assertGreater(result["planned"], 5)
                self.assertGreater(result["steps"], result["planned"])
                self.daemon.restart()

    def test_a_restarted_daemon_plans_on_without_a_client_restart(self):
        replay = self.start("--forever")
        ranks = replay.ranks()
        for _ in range(20 if NIGHTLY else 4):
            self.daemon.process.kill()
            self.daemon.process.wait()
            self.daemon.restart()
            wait_until(lambda: self.daemon.planned() > 5, 30, "steps are planned again")
        self.assertEqual(replay.ranks(), ranks)
        replay.process.terminate()
        code, result, err = replay.finish(60)
        self.assertEqual((code, result["mismatches"], result["failed"]), (0, 0, 0), err)

    def test_a_daemon_stopped_cleanly_does_the_same(self):
        replay = self.start("--steps", "400")
        self.daemon.process.terminate()
        self.assertEqual(self.daemon.process.wait(timeout=20), 0)
        self.assertFalse(os.path.exists(self.daemon.socket), "the socket is removed")
        code, result, err = replay.finish(120)
        self.assertEqual((code, result["mismatches"], result["failed"]), (0, 0, 0), err)
        self.assertGreater(result["steps"], result["planned"])

    def test_a_rank_stopped_past_the_step_timeout_ends_the_generation_and_nothing_else(self):
        replay = self.start("--steps", "20000", "--step_timeout_s", "1")
        victim = replay.ranks()[2]
        for _ in range(20):
            # Longer than the step timeout, shorter than the replay's own collectives wait (2 s):
            # a rank stopped inside one of those is missed by nobody's row.
            os.kill(victim, signal.SIGSTOP)
            time.sleep(1.3)
            os.kill(victim, signal.SIGCONT)
            time.sleep(0.2)
            if any(g["generations"] > 1 for g in self.daemon.status()["groups"]):
                break
            if replay.process.poll() is not None:
                break
        else:
            self.fail("the rank was never missed at a step")
        replay.process.terminate()  # ends cleanly, with the report
        code, result, err = replay.finish(120)
        self.assertIn(code, (0, 4), err)  # 4: it was stopped in the middle of a transfer
        self.assertEqual(result["mismatches"], 0)

    def test_a_stopped_daemon_costs_one_timeout_and_then_nothing(self):
        replay = self.start("--steps", "600", "--step_timeout_s", "1")
        os.kill(self.daemon.process.pid, signal.SIGSTOP)
        code, result, err = replay.finish(120)
        os.kill(self.daemon.process.pid, signal.SIGCONT)
        self.assertEqual((code, result["mismatches"], result["failed"]), (0, 0, 0), err)
        self.assertGreater(result["steps"], result["planned"])


class LeaseTest(unittest.TestCase):
    """Processes that stand still for longer than the lease."""

    def setUp(self):
        self.daemon = Daemon(BIN, "--lease_ms", "500")
        self.addCleanup(self.daemon.close)
        self.replay = Replay(self.daemon, *SMALL, "--forever", "--respawn")
        self.addCleanup(self.replay.close)
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")

    def finish(self):
        self.replay.process.terminate()
        code, result, err = self.replay.finish(60)
        self.assertEqual((code, result["mismatches"], result["respawned"]), (0, 0, 0), err)
        return result

    def planned_again(self):
        before = self.daemon.planned()
        wait_until(lambda: self.daemon.planned() > before + 5, 30, "steps are planned again")

    def test_a_stopped_rank_is_fenced_and_joins_again_when_it_wakes(self):
        for round_number in range(8 if NIGHTLY else 3):
            victim = self.replay.ranks()[round_number % 4]
            os.kill(victim, signal.SIGSTOP)
            wait_until(lambda: "fenced" in self.daemon.status()["groups"][0]["members"], 10,
                       "the rank is fenced")
            os.kill(victim, signal.SIGCONT)
            self.planned_again()
        self.finish()

    def test_a_stop_shorter_than_the_lease_costs_nothing(self):
        generation = self.daemon.status()["groups"][0]["generation"]
        for rank in self.replay.ranks():
            os.kill(rank, signal.SIGSTOP)
            time.sleep(0.15)
            os.kill(rank, signal.SIGCONT)
        self.planned_again()
        self.assertEqual(self.daemon.status()["groups"][0]["generation"], generation)
        self.assertEqual(self.finish()["lost"], 0)

    def test_a_stopped_daemon_is_left_alone_and_fences_nobody_for_the_time_it_missed(self):
        for _ in range(3):
            os.kill(self.daemon.process.pid, signal.SIGSTOP)
            time.sleep(1.2)  # its ranks end the generation and go on with main copies
            os.kill(self.daemon.process.pid, signal.SIGCONT)
            self.planned_again()
        with open(self.daemon.log.name) as log:
            self.assertNotIn("fenced", log.read())
        result = self.finish()
        self.assertGreater(result["declined"] + result["fallbacks"], 0)
        self.assertGreater(result["generations"], 3)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
