"""Ranks killed under `ultraep-replay --respawn`: the step they die in is lost, every other one is right.

usage: respawn_test.py BIN_DIR
"""

import os
import random
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""
KILLS = 200 if os.environ.get("ULTRAEP_NIGHTLY") else 20
RANKS, TOKENS = 4, 128
SMALL = ["--ranks", str(RANKS), "--experts", "16", "--tokens", str(TOKENS), "--hidden", "16",
         "--ffn", "16"]


class RespawnTest(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(self.id())
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)

    def start(self, *flags):
        replay = Replay(self.daemon, *SMALL, "--respawn", *flags)
        self.addCleanup(replay.close)
        return replay

    def running(self, *flags):
        """A replay without end whose steps are planned."""
        replay = self.start("--forever", *flags)
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")
        return replay

    def kill(self, replay, count=1):
        victims = self.random.sample(replay.ranks(), count)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return victims

    def gone(self, replay, victims):
        """Reaped, and others are there in their place."""
        def replaced():
            ranks = replay.ranks()
            return len(ranks) == RANKS and not set(victims) & set(ranks)
        wait_until(replaced, 20, "killed ranks are replaced")

    def planned_again(self):
        """On a new generation, without anybody's restart."""
        before = self.daemon.planned()
        wait_until(lambda: self.daemon.planned() > before + 3, 30, "steps are planned again")

    def finish(self, replay, kills):
        """Asks for the end and checks what every such run must keep."""
        time.sleep(0.5)
        replay.process.terminate()  # which a step carries to the ranks: so it went on
        code, result, err = replay.finish(60)
        self.assertEqual(code, 0, err)
        self.assertEqual(result["mismatches"], 0)
        self.assertEqual(result["respawned"], kills)
        self.assertLessEqual(result["lost"], kills + result["failed"])
        self.assertGreater(result["steps"], 5 + result["lost"])
        # Each step that is not lost was checked on every rank, no other one is counted.
        self.assertEqual(result["tokens_checked"], result["steps"] * RANKS * TOKENS)
        return result

    def test_ranks_killed_at_random_times_cost_a_step_each(self):
        replay = self.running()
        for _ in range(KILLS):
            self.gone(replay, self.kill(replay))
            self.planned_again()
            time.sleep(self.random.random() * 0.1)
        self.assertGreater(self.daemon.status()["groups"][0]["generations"], KILLS)
        result = self.finish(replay, KILLS)
        self.assertGreater(result["lost"], 0)
        self.assertGreater(result["generations"], 1)

    def test_ranks_killed_while_they_train(self):
        replay = self.running("--train")
        for _ in range(KILLS):
            self.gone(replay, self.kill(replay))
            self.planned_again()
            time.sleep(self.random.random() * 0.1)
        result = self.finish(replay, KILLS)
        self.assertEqual(result["gradient_mismatches"], 0)
        self.assertGreater(result["replicas_reduced"], 0)

    def test_ranks_killed_while_the_others_still_meet_are_replaced_too(self):
        replay = self.running()
        for _ in range(KILLS):
            self.gone(replay, self.kill(replay))  # the next kill follows at once
        self.finish(replay, KILLS)

    def test_several_ranks_and_all_ranks_at_once(self):
        replay = self.running()
        counts = [2, 3, RANKS] * (KILLS // 6)
        for count in counts:
            self.gone(replay, self.kill(replay, count))
            self.planned_again()
        self.finish(replay, sum(counts))

    def test_rank_0_which_records_the_steps(self):
        replay = self.running()
        rank_0 = replay.ranks()[0]  # forked first
        for _ in range(KILLS):
            others = set(replay.ranks()) - {rank_0}
            os.kill(rank_0, signal.SIGKILL)
            self.gone(replay, [rank_0])
            (rank_0,) = set(replay.ranks()) - others
            time.sleep(self.random.random() * 0.05)
        self.finish(replay, KILLS)

    def test_a_rank_killed_before_the_group_is_complete(self):
        for _ in range(3):
            replay = self.start("--forever")
            wait_until(lambda: len(replay.ranks()) == RANKS, 20, "the ranks are started")
            self.gone(replay, self.kill(replay))
            self.finish(replay, 1)

    def test_a_run_of_given_length_ends_there(self):
        replay = self.start("--steps", "300")
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")
        for _ in range(3):
            self.gone(replay, self.kill(replay))
            time.sleep(0.05)
        code, result, err = replay.finish(120)
        self.assertEqual((code, result["mismatches"], result["respawned"]), (0, 0, 3), err)
        self.assertEqual(result["steps"] + result["lost"], 300 * 2)

    def test_a_daemon_killed_and_started_again_loses_nothing_more(self):
        replay = self.running()
        for _ in range(3):
            self.daemon.process.kill()
            self.daemon.process.wait()
            self.gone(replay, self.kill(replay))  # without a daemon as well
            self.daemon.restart()
            self.planned_again()
        self.finish(replay, 3)

    def test_a_rank_that_does_not_come_back_is_named(self):
        replay = self.start("--forever", "--step_timeout_s", "1", "--join_timeout_s", "1")
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")
        ranks = replay.ranks()
        os.kill(ranks[2], signal.SIGSTOP)
        os.kill(ranks[1], signal.SIGKILL)
        code, _, err = replay.finish(60)
        self.assertEqual(code, 1, err)
        self.assertRegex(err, r"these ranks are missing: 2\b")


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
