"""deploy/py: Python's arguments and status, what is interrupted is made anew, what runs is kept.

usage: py_test.py SOURCE_DIR       builds and installs what is missing, PyTorch too
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = ""


def run_it(*arguments, **environment):
    return subprocess.run([os.path.join(ROOT, "deploy/py"), *arguments], capture_output=True,
                          env={**os.environ, **environment}, text=True, timeout=1800)


class PyTest(unittest.TestCase):
    def prefix(self):
        done = run_it("-c", "import sys; print(sys.prefix)")
        self.assertEqual(done.returncode, 0, done.stderr)
        return pathlib.Path(done.stdout.strip())

    def test_arguments_and_exit_status_are_pythons(self):
        done = run_it("-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "--help", "")
        self.assertEqual((done.stdout, done.returncode), ("['a b', '--help', '']\n", 7))

    def test_help_installs_nothing(self):
        for arguments in ((), ("--help",)):
            done = run_it(*arguments, ULTRAEP_CACHE="/dev/null")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("usage: deploy/py", done.stdout)

    def test_python_finds_the_package_and_the_programs_of_this_clone(self):
        self.prefix()  # says what it builds
        done = run_it("-c", "import shutil, torch, ultraep; print(shutil.which('ultraepd'))")
        self.assertEqual((done.stderr, done.returncode), ("", 0))
        self.assertEqual(done.stdout.strip(), os.path.join(ROOT, "build/bin/ultraepd"))

    def test_an_interrupted_environment_is_made_anew(self):
        prefix = self.prefix()
        (prefix / "complete").unlink()
        (prefix / "bin" / "python").unlink()
        self.assertEqual(self.prefix(), prefix)
        self.assertTrue((prefix / "complete").exists())

    def test_an_old_environment_goes_when_nothing_runs_in_it(self):
        prefix = self.prefix()
        idle, used = prefix.with_name("idle"), prefix.with_name("used")
        for old in (idle, used):
            old.mkdir(exist_ok=True)
        with subprocess.Popen(["flock", "-s", used, "cat"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as process:
            process.stdin.write(b"x")  # comes back when the lock is held
            process.stdin.flush()
            process.stdout.read(1)
            (prefix / "complete").unlink()
            self.prefix()
            self.assertEqual((idle.exists(), used.exists()), (False, True))
            process.communicate()
        (prefix / "complete").unlink()
        self.prefix()
        self.assertFalse(used.exists())

    def test_a_running_python_holds_its_environment(self):
        prefix = self.prefix()
        done = run_it("-c", "import subprocess, sys; sys.exit(subprocess.call("
                      "['flock', '-n', '-x', sys.prefix, 'true']))")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(subprocess.call(["flock", "-n", "-x", prefix, "true"]), 0)

    def test_a_failed_installation_says_what_to_do_and_does_not_count(self):
        with tempfile.TemporaryDirectory() as cache:
            done = run_it("-c", "", ULTRAEP_CACHE=cache, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
            self.assertEqual(done.returncode, 1)
            self.assertIn("run this again", done.stderr)
            self.assertIn("torch", done.stderr)
            self.assertEqual(list(pathlib.Path(cache).glob("*/complete")), [])


if __name__ == "__main__":
    ROOT = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
