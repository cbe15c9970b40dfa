"""Plans are the same bits whatever compiler and optimisation built the planner.

usage: /usr/bin/python3 compilers_test.py SOURCE_FOLDER PATH_TO_plan_digest
"""

import glob
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = DIGEST = ""
BUILDS = [
    ["g++", "-O0"],
    ["g++", "-O3", "-march=native"],
    ["clang++", "-O2"],
    ["clang++", "-O3", "-march=native", "-ffast-math"],  # no floating point, no difference
]


class Compilers(unittest.TestCase):
    def digests(self, folder, command):
        sources = [os.path.join(ROOT, "tests/daemon/planner/plan_digest.cc"),
                   *sorted(glob.glob(os.path.join(ROOT, "daemon/planner/*.cc"))),
                   os.path.join(ROOT, "daemon/planner/baselines/ultraep_heuristic.cc")]
        binary = os.path.join(folder, "plan_digest")
        subprocess.run([*command, "-std=c++20", "-I", ROOT, *sources, "-o", binary], check=True)
        return self.run_digest(binary)

    def run_digest(self, binary):
        return subprocess.run([binary], capture_output=True, text=True, check=True,
                              timeout=300).stdout.splitlines()

    def test_all_builds_plan_alike(self):
        with tempfile.TemporaryDirectory() as folder:
            first = self.run_digest(DIGEST)  # as the product is built
            self.assertEqual(len(first), 400)
            self.assertGreater(len({line.split(": ")[1] for line in first}), 390)
            for command in BUILDS:
                with self.subTest(" ".join(command)):
                    self.assertEqual(self.digests(folder, command), first)


if __name__ == "__main__":
    ROOT, DIGEST = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main()
