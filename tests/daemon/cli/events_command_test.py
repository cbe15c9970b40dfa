"""`ultraepctl events` beside a real daemon and replay.

usage: events_command_test.py BIN_DIR
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def run(*arguments):
    return subprocess.run([os.path.join(BIN, "ultraepctl"), "events", *arguments],
                          capture_output=True, text=True, timeout=60)


class Follower:
    """A running `ultraepctl events`; what it has printed so far is in `out` and `err`."""

    def __init__(self, daemon, *flags):
        self.process = subprocess.Popen(
            [os.path.join(BIN, "ultraepctl"), "events", "--socket", daemon.socket, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.out, self.err = [], []
        self.threads = [
            threading.Thread(target=lines.extend, args=(stream,))
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for thread in self.threads:
            thread.start()

    def until(self, *parts):
        """Waits until some line holds each of the parts."""
        wait_until(lambda: all(any(p in line for line in self.out) for p in parts), 30, parts)

    def life(self, number):
        """Has the group been created so often, and has it opened since?"""
        made = [at for at, line in enumerate(self.out) if "created" in line]
        return len(made) >= number and any(
            "opened" in line for line in self.out[made[number - 1]:])

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


class EventsTest(unittest.TestCase):
    def start(self, *flags):
        self.daemon = Daemon(BIN, *flags)
        self.addCleanup(self.daemon.close)

    def replay(self, *flags):
        replay = Replay(self.daemon, "--ranks", "2", "--experts", "8", "--tokens", "64",
                        "--forever", *flags)
        self.addCleanup(replay.close)
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")
        return replay

    def follow(self, *flags):
        follower = Follower(self.daemon, *flags)
        self.addCleanup(follower.close)
        return follower

    def known(self, *flags):
        done = run("--no-follow", "--json", "--socket", self.daemon.socket, *flags)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_what_is_known_is_told_in_order(self):
        self.start()
        self.assertEqual(self.known(), [])
        replay = self.replay()
        events = self.known()
        self.assertEqual([e["event"] for e in events], ["created", "joined", "joined", "opened"])
        self.assertEqual({e["pid"] for e in events[1:3]}, set(replay.ranks()))
        self.assertGreater(events[0]["memory_bytes"], 0)
        self.assertEqual(events, sorted(events, key=lambda e: e["time"]))
        for event in events:
            self.assertRegex(event["time"], TIME)
        name = events[0]["group"]
        self.assertEqual(self.known("--group", name), events)
        self.assertEqual(self.known("--group", "another"), [])
        self.assertEqual([e["event"] for e in self.known("--history", "1")], ["opened"])
        table = run("--no-follow", "--socket", self.daemon.socket)
        self.assertEqual(len(table.stdout.splitlines()), 4)
        self.assertNotIn("\033", table.stdout)

    def test_it_follows_what_happens_also_over_a_restart(self):
        self.start("--lease_ms", "1000")
        follower = self.follow()
        replay = self.replay("--respawn")
        follower.until("created", "joined    rank 0", "joined    rank 1", "opened")
        victim = replay.ranks()[1]
        os.kill(victim, signal.SIGSTOP)
        try:
            follower.until("fenced    rank 1")
        finally:
            os.kill(victim, signal.SIGCONT)
        wait_until(lambda: sum("opened" in line for line in follower.out) > 1, 30, "it is back")
        self.assertTrue(any("main copies until" in line for line in follower.out))
        self.daemon.process.kill()
        self.daemon.process.wait()
        wait_until(lambda: any("trying again" in line for line in follower.err), 30, "it says so")
        self.daemon.restart()
        wait_until(lambda: any("connected again" in line for line in follower.err), 30, "and so")
        wait_until(lambda: follower.life(2), 30, "the group's next life")
        self.assertEqual(len(follower.out), len(set(follower.out)), "nothing is told twice")
        for line in follower.out:
            self.assertRegex(line, TIME)

    def test_verdicts_are_told_when_they_are_asked_for(self):
        self.start()
        self.replay()
        follower = self.follow("--verdicts", "--json", "--history", "0")
        wait_until(lambda: len(follower.out) > 50, 60, "plans come")
        plans = [json.loads(line) for line in follower.out[:50]]
        self.assertEqual({p["event"] for p in plans}, {"plan"})
        steps = [p["step"] for p in plans]
        self.assertEqual(steps, list(range(steps[0], steps[0] + 50)), "each one, in order")
        for p in plans:
            self.assertAlmostEqual(p["imbalance_before"], p["peak_before"] * 2 / p["tokens"])
            self.assertGreaterEqual(p["imbalance_before"], p["imbalance_after"])
            self.assertGreater(p["solve_us"], 0)

    def test_a_refusal_is_told_with_its_reason(self):
        self.start()
        follower = self.follow("--json")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(self.daemon.socket)
            stranger.send(b"GET / HTTP/1.1\r\n")
            follower.until('"refused"')
        event = json.loads(follower.out[0])
        self.assertEqual(event["pid"], os.getpid())
        self.assertIn("magic number", event["text"])
        self.assertNotIn("group", event)
        self.assertEqual(self.daemon.status()["daemon"]["refused_by_kind"]["message"], 1)

    def test_it_ends_when_nobody_reads_it(self):
        self.start()
        self.replay()
        process = subprocess.Popen(
            [os.path.join(BIN, "ultraepctl"), "events", "--verdicts", "--socket",
             self.daemon.socket], stdout=subprocess.PIPE, text=True)
        self.assertIn("plan", process.stdout.readline())
        process.stdout.close()
        self.assertEqual(process.wait(60), -signal.SIGPIPE)

    def test_what_is_not_understood_is_refused(self):
        for status, arguments, part in ((1, ["--history", "-2"], "must be -1 or more"),
                                        (1, ["--history", "all"], "--history"),
                                        (2, ["--interval", "1"], "does not take --interval"),
                                        (2, ["argument"], "argument"),
                                        (1, ["--socket", "/nowhere/socket"], "/nowhere/socket")):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (status, ""), arguments)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
