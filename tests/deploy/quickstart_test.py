"""deploy/quickstart as a newcomer runs it: the job, its arguments, --keep, and nothing left behind.

usage: quickstart_test.py SOURCE_DIR       builds SOURCE_DIR/build if need be
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = ""
SMALL = ["--ranks", "4", "--experts", "16", "--tokens", "64", "--hidden", "16", "--ffn", "16"]


class QuickstartTest(unittest.TestCase):
    def setUp(self):
        # A directory with a space, so that quoting is tested, and all our own to look for leftovers.
        parent = tempfile.TemporaryDirectory()
        self.addCleanup(parent.cleanup)
        self.tmp = os.path.join(parent.name, "with space")
        os.mkdir(self.tmp)

    def run_it(self, *arguments):
        return subprocess.run([os.path.join(ROOT, "deploy/quickstart"), *arguments],
                              env={**os.environ, "TMPDIR": self.tmp}, capture_output=True,
                              text=True, timeout=900)

    def test_the_job_passes_its_arguments_on_and_leaves_nothing(self):
        done = self.run_it("--json", "--steps", "3", *SMALL)
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual((result["mismatches"], result["fallbacks"]), (0, 0))
        self.assertEqual(result["steps"], 6)
        self.assertEqual(os.listdir(self.tmp), [])

    def test_a_wrong_argument_is_the_replays_error_and_leaves_nothing(self):
        done = self.run_it("--experts", "7")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("experts", done.stderr)
        self.assertEqual(os.listdir(self.tmp), [])

    def test_help_neither_builds_nor_runs(self):
        done = self.run_it("--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("--keep", done.stdout)

    def test_keep_prints_how_to_reach_and_stop_it_and_stopping_cleans_up(self):
        done = self.run_it("--keep", *SMALL)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
        self.assertRegex(said["stop"], r"^kill \d+$")
        pid = int(said["stop"].split()[1])
        try:
            status = subprocess.run(
                [os.path.join(ROOT, "build/bin/ultraepctl"), "status", "--json", "--socket",
                 said["socket"]], capture_output=True, text=True, timeout=20)
            self.assertEqual(json.loads(status.stdout)["groups"][0]["gate"], "open")
            with urllib.request.urlopen(said["metrics"], timeout=20) as answer:
                self.assertIn("ultraep_group_open{", answer.read().decode())
        finally:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while os.listdir(self.tmp) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(os.listdir(self.tmp), [])


if __name__ == "__main__":
    ROOT = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
