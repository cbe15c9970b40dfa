"""How many instructions a plan takes, so that a slower planner shows on a noisy machine too.

usage: /usr/bin/python3 instructions_test.py FOLDER_OF_THE_BINARIES

callgrind counts what SolvePlan executes, column sums and certificate included. A limit is a tenth
above what was counted when it was set (GCC 12, -O3, AVX2); lower it when the planner gets faster.
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

BIN = ""
SEEDS = 5
CALLGRIND = "valgrind --tool=callgrind --toggle-collect=ultraep::SolvePlan*".split()
LIMITS = [  # ranks, experts, slots, generator, imbalance, instructions of one plan
    (64, 256, 2, "A", 2, 217_000),
    (64, 256, 2, "C", 2, 223_000),
    (64, 256, 2, "A", 1, 36_000),
    (256, 256, 1, "A", 2, 1_130_000),
]


class Instructions(unittest.TestCase):
    def count(self, folder, ranks, experts, slots, generator, imbalance):
        loads = os.path.join(folder, "loads.npy")
        subprocess.run([os.path.join(BIN, "ultraep-bench"), "loads", loads, "--ranks", str(ranks),
                        "--experts", str(experts), "--generator", generator, "--imbalance",
                        str(imbalance), "--seeds", str(SEEDS)], check=True, timeout=120)
        done = subprocess.run(
            [*CALLGRIND, os.path.join(BIN, "ultraepctl"), "plan", loads, "--slots", str(slots)],
            cwd=folder, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(re.search(r"Collected : (\d+)", done.stderr)[1]) // SEEDS

    def test_a_plan_takes_no_more_instructions_than_it_did(self):
        with tempfile.TemporaryDirectory() as folder:
            for *workload, limit in LIMITS:
                counted = self.count(folder, *workload)
                print(*workload, "instructions", counted, "limit", limit, flush=True)
                with self.subTest(workload):
                    self.assertGreater(counted, 1000, "callgrind did not see SolvePlan")
                    self.assertLessEqual(counted, limit)


if __name__ == "__main__":
    BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
