"""The repository tests itself: arrows, sizes, dead files, asserted structs, documented options.

usage: tidy_test.py SOURCE_DIR
"""

import sys
import unittest

import exemptions
from checks import CHECKS
from tree import Tree


class TidyTest(unittest.TestCase):
    tree = None

    def test_the_tree_is_here(self):
        for folder in ("protocol", "kernels", "daemon", "plugin", "deploy", "tests"):
            self.assertIn(f"{folder}/README.md", self.tree.names)
        self.assertGreater(len(self.tree.of_kind("header", "source")), 50)


def _test_of(check):
    def test(self):
        wrong = check(self.tree, exemptions)
        self.assertFalse(wrong, "\n  " + "\n  ".join(wrong))
    return test


for name, function in CHECKS.items():
    setattr(TidyTest, "test_" + name.replace(" ", "_"), _test_of(function))

if __name__ == "__main__":
    TidyTest.tree = Tree(sys.argv.pop(1))
    unittest.main(verbosity=2)
