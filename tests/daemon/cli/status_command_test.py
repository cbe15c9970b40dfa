"""`ultraepctl status` and the command lines of ultraepctl and ultraepd.

usage: status_command_test.py BIN_DIR
"""

import json
import os
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""


def run(program, *arguments, **environment):
    return subprocess.run([os.path.join(BIN, program), *arguments], capture_output=True, text=True,
                          timeout=60, env={**os.environ, **environment})


class StatusTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)

    def test_it_shows_the_group_its_members_and_what_balancing_gained(self):
        self.assertIn("no groups", run("ultraepctl", "status", "--socket", self.daemon.socket).stdout)
        replay = Replay(self.daemon, "--ranks", "2", "--experts", "8", "--tokens", "64", "--forever")
        self.addCleanup(replay.close)
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")
        group = self.daemon.status()["groups"][0]
        self.assertEqual((group["ranks"], group["experts"], group["gate"]), (2, 8, "open"))
        self.assertEqual(group["members"], ["ready", "ready"])
        self.assertLess(group["imbalance_after"], group["imbalance_before"])
        self.assertGreater(group["memory_bytes"], 0)
        weights = group["transfers"]["weights"]
        self.assertGreaterEqual(weights["transfers"], weights["sends"])
        self.assertGreater(weights["arrivals"], 0)
        self.assertGreater(weights["bytes"], 0)
        self.assertEqual(weights["bytes"] % weights["transfers"], 0, "whole experts")
        self.assertGreater(weights["mean_arrive_us"], 0)
        self.assertEqual(group["transfers"]["gradients"]["reductions"], 0)
        self.assertEqual((group["rank_steps"]["failed"], group["steps_fallback"]), (0, 0))
        self.assertGreater(group["tokens_avoided"], 0)
        self.assertLessEqual(group["last"]["peak"], group["last"]["peak_before"])
        for name in ("collect", "solve", "plan", "verdict", "route", "stream"):
            latency = group["latencies"][name]
            self.assertGreater(latency["count"], 0, name)
            self.assertLessEqual(latency["p50_us"], latency["p99_us"], name)
        table = run("ultraepctl", "status", ULTRAEP_SOCKET=self.daemon.socket)
        self.assertEqual(table.returncode, 0, table.stderr)
        self.assertIn("open", table.stdout)
        self.assertRegex(table.stdout, r"weights +\d")
        for line in ("gain ", "price ", "optimum ", "p50 / p99 ", " 2/2 "):
            self.assertIn(line, table.stdout)
        self.assertNotIn("\033", table.stdout)
        replay.process.terminate()
        self.assertEqual(replay.finish(60)[0], 0)

    def test_a_closed_output_is_an_error_and_not_a_message_to_the_daemon(self):
        ctl = [os.path.join(BIN, "ultraepctl"), "top", "--once", "--json", "--socket",
               self.daemon.socket]
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *ctl], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write to standard output", done.stderr)

    def test_quiet_tells_by_its_exit_whether_all_groups_are_planned(self):
        daemon = Daemon(BIN, "--lease_ms", "1000")
        self.addCleanup(daemon.close)

        def quiet():
            done = run("ultraepctl", "status", "--quiet", "--socket", daemon.socket)
            self.assertEqual((done.stdout, done.stderr), ("", ""))
            return done.returncode

        self.assertEqual(quiet(), 0)
        replay = Replay(daemon, "--ranks", "2", "--experts", "8", "--tokens", "64", "--forever",
                        "--respawn")
        self.addCleanup(replay.close)
        wait_until(lambda: daemon.planned() > 5, 60, "steps are planned")
        wait_until(lambda: quiet() == 0, 30, "all ranks are ready")
        victim = replay.ranks()[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            wait_until(lambda: quiet() == 4, 30, "a rank is fenced")
        finally:
            os.kill(victim, signal.SIGCONT)
        wait_until(lambda: quiet() == 0, 30, "it is back")
        daemon.process.terminate()
        daemon.process.wait(20)
        self.assertEqual(quiet(), 1)

    def test_flags_of_other_commands_are_refused(self):
        for arguments in (["status", "--slots", "3"], ["plan", "--socket", "/s"],
                          ["status", "--nojson", "--once"]):
            done = run("ultraepctl", *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn(f"{arguments[0]} does not take --", done.stderr)

    def test_without_a_daemon_it_says_where_it_looked_and_what_to_do(self):
        done = run("ultraepctl", "status", "--socket", "/nowhere/socket")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("/nowhere/socket", done.stderr)
        self.assertIn("ultraepd", done.stderr)

    def test_a_second_daemon_on_the_socket_exits_naming_the_first(self):
        done = run("ultraepd", "--socket", self.daemon.socket)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"pid {self.daemon.process.pid}", done.stderr)

    def test_the_daemons_options_are_validated_and_come_from_files_too(self):
        for wrong in (["--epsilon", "2"], ["--spin_us", "-5"], ["--socket_mode", "0100"],
                      ["--socket", "x" * 108], ["--max_connections", "0"], ["--nonsense", "1"],
                      ["--log_level", "loud"], ["argument"]):
            done = run("ultraepd", *wrong)
            self.assertEqual(done.returncode, 2, wrong)
            self.assertIn("Try: ultraepd --help", done.stderr)
        path = os.path.join(self.daemon.directory, "flags")
        with open(path, "w") as flags:
            flags.write("# a comment\n--epsilon=7\n")
        done = run("ultraepd", "--flagfile", path)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--epsilon is 7", done.stderr)

    def test_help_and_version_exit_with_0_and_tell_every_option(self):
        for program in ("ultraepd", "ultraepctl", "ultraep-replay"):
            done = run(program, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""), program)
            self.assertIn("usage", done.stdout.lower())
        for command in ("status", "top", "events", "doctor", "trace", "report", "plan"):
            self.assertRegex(run("ultraepctl", "--help").stdout, rf"(?m)^  {command} ")
            done = run("ultraepctl", command, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""), command)
            self.assertIn("Exit status: 0 ", done.stdout)
        self.assertIn("--memory_limit_mib", run("ultraepd", "--help").stdout)
        self.assertIn("layout version", run("ultraepd", "--version").stdout)

    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w") as full:
            for arguments in (["status", "--json"], ["status"]):
                done = subprocess.run(
                    [os.path.join(BIN, "ultraepctl"), *arguments, "--socket", self.daemon.socket],
                    stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
                self.assertEqual(done.returncode, 1)
                self.assertIn("cannot write to standard output", done.stderr)

    def test_json_is_one_object_on_one_line(self):
        done = run("ultraepctl", "status", "--json", "--socket", self.daemon.socket)
        self.assertEqual(len(done.stdout.splitlines()), 1)
        self.assertEqual(json.loads(done.stdout)["daemon"]["pid"], self.daemon.process.pid)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
