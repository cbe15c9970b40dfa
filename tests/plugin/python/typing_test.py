"""The package's types, for its users and for itself."""

import os
import subprocess
import sys
import tempfile
import unittest

import ultraep

PACKAGE = os.path.dirname(ultraep.__file__)
USE = """
import torch
import ultraep
import ultraep.torch as ut
from torch import nn

balancer: ultraep.Balancer = ut.make_balancer([nn.Linear(2, 2)], slots=1)
layer = ut.BalancedMoE(lambda x: (x, x), [nn.Linear(2, 2)], balancer)
info: ultraep.PlanInfo | None = layer.last_plan
wrong: int = balancer.state().text
"""


def check_types(*arguments):
    with tempfile.TemporaryDirectory() as cache:
        command = f"python -m mypy --strict --cache-dir {cache}".split()[1:]
        return subprocess.run([sys.executable, *command, *arguments], capture_output=True,
                              text=True, timeout=500)


class TypingTest(unittest.TestCase):

    def test_the_package_is_strictly_typed(self):
        done = check_types(PACKAGE)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_users_see_the_types(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "use.py")
            with open(path, "w") as file:
                file.write(USE)
            done = check_types(path)
        self.assertEqual(done.stdout.count("error:"), 1, done.stdout)
        self.assertIn('expression has type "str", variable has type "int"', done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
