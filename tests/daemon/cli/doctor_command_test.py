"""`ultraepctl doctor` on this machine: with a daemon, with a stopped one, without; as another user.
Its single checks are tested on made machines in doctor/.

usage: doctor_command_test.py BIN_DIR
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""
NOBODY = 65534


def run(*arguments, **options):
    return subprocess.run([os.path.join(BIN, "ultraepctl"), "doctor", *arguments],
                          capture_output=True, text=True, timeout=60, **options)


class DoctorTest(unittest.TestCase):
    def findings(self, status, *arguments, **options):
        """check -> its findings, of --json, after a look at what holds for every answer."""
        done = run("--json", *arguments, **options)
        self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["healthy"], status == 0)
        found = {}
        for finding in answer["findings"]:
            self.assertIn(finding["level"], ("ok", "note", "warn", "fail"))
            self.assertTrue(finding["found"])
            if finding["level"] in ("warn", "fail"):
                self.assertTrue(finding["fix"], finding)
            found.setdefault(finding["check"], []).append(finding)
        for level, count in answer["counts"].items():
            self.assertEqual(count, sum(f["level"] == level for f in answer["findings"]))
        self.assertGreater(len(found), 15)
        return found

    def daemon(self, *flags):
        daemon = Daemon(BIN, *flags)
        self.addCleanup(daemon.close)
        return daemon

    def test_a_daemon_that_is_well(self):
        daemon = self.daemon()
        found = self.findings(0, "--socket", daemon.socket)
        for check in ("socket", "daemon", "metrics", "refusals", "groups", "kernel"):
            self.assertIn(found[check][0]["level"], ("ok", "note"), found[check])
        self.assertIn(f"pid {daemon.process.pid}", found["daemon"][0]["found"])
        self.assertIn("of the daemon", found["open files"][0]["found"])
        table = run("--socket", daemon.socket)
        self.assertEqual((table.returncode, table.stderr), (0, ""))
        self.assertIn("0 fail\n", table.stdout)
        self.assertNotIn("\033", table.stdout)
        quiet = run("--quiet", "--socket", daemon.socket)
        self.assertEqual((quiet.returncode, quiet.stdout, quiet.stderr), (0, "", ""))

    def test_without_a_daemon_it_says_so_and_looks_at_the_machine_all_the_same(self):
        found = self.findings(4, "--socket", "/nowhere/socket")
        self.assertEqual(found["socket"][0]["level"], "fail")
        self.assertEqual(found["daemon"][0]["level"], "fail")
        self.assertIn("--socket", found["socket"][0]["fix"])
        self.assertNotEqual(found["memory"][0]["level"], "fail")
        self.assertIn("this shell", found["open files"][0]["found"])
        quiet = run("--quiet", "--socket", "/nowhere/socket")
        self.assertEqual((quiet.returncode, quiet.stdout, quiet.stderr), (4, "", ""))

    def test_a_socket_that_a_killed_daemon_left(self):
        daemon = self.daemon()
        daemon.process.kill()
        daemon.process.wait()
        found = self.findings(4, "--socket", daemon.socket)
        self.assertEqual(found["socket"][0]["level"], "ok")
        self.assertIn("refused", found["daemon"][0]["found"])
        self.assertIn("start ultraepd", found["daemon"][0]["fix"])

    def test_a_daemon_that_hangs_does_not_hang_it(self):
        daemon = self.daemon()
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            found = self.findings(4, "--socket", daemon.socket, "--timeout", "0.2")
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        self.assertIn("has not answered for 200 ms", found["daemon"][0]["found"])

    @unittest.skipUnless(os.geteuid() == 0, "only root can be several users")
    def test_a_library_that_hangs_does_not_hang_it(self):
        with tempfile.TemporaryDirectory(prefix="ultraep-test-") as directory:
            source = os.path.join(directory, "hang.c")
            with open(source, "w") as file:
                file.write("#include <unistd.h>\n__attribute__((constructor)) "
                           "static void hang(void) { for (;;) pause(); }\n")
            library = os.path.join(directory, "libnccl.so.2")
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
            found = self.findings(0, "--socket", self.daemon().socket,
                                  env=dict(os.environ, LD_LIBRARY_PATH=directory))
        self.assertEqual([f["level"] for f in found["NCCL"]], ["warn"])
        self.assertIn("libnccl.so.2 has not come back", found["NCCL"][0]["found"])

    def test_a_user_who_may_not_connect_learns_why(self):
        daemon = self.daemon()
        os.chmod(daemon.directory, 0o755)
        found = self.findings(4, "--socket", daemon.socket, user=NOBODY, group=NOBODY,
                              extra_groups=[])
        self.assertIn("not for", found["socket"][0]["found"])
        self.assertIn("Permission denied", found["daemon"][0]["found"])

    def test_a_fenced_rank_is_a_warning(self):
        daemon = self.daemon("--lease_ms", "1000")
        replay = Replay(daemon, "--ranks", "2", "--experts", "8", "--tokens", "64", "--forever",
                        "--respawn")
        self.addCleanup(replay.close)
        wait_until(lambda: daemon.planned() > 5, 60, "steps are planned")

        def group():
            return self.findings(0, "--socket", daemon.socket)["groups"][0]

        wait_until(lambda: "2 ranks ready" in group()["found"], 30, "they are ready")
        victim = replay.ranks()[1]
        os.kill(victim, signal.SIGSTOP)
        try:
            wait_until(lambda: "rank 1 fenced" in group()["found"], 30, "it is fenced")
            self.assertEqual(group()["level"], "warn")
        finally:
            os.kill(victim, signal.SIGCONT)

    def test_what_is_not_understood_is_refused(self):
        for status, arguments, part in ((1, ["--timeout", "0"], "0.1..600"),
                                        (2, ["--group", "a"], "does not take --group"),
                                        (2, ["argument"], "argument")):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (status, ""), arguments)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
