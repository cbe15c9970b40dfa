"""The repository tests itself: include arrows, sizes, asserted structs, documented options.

usage: tidy_test.py SOURCE_DIR
"""

import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path()
CODE = {".h", ".cc", ".cu", ".cuh", ".c"}

# folder -> what its files may include, besides the system
MAY_INCLUDE = {
    "protocol": ["protocol/"],
    "kernels": ["protocol/", "kernels/"],
    "daemon/planner": ["protocol/", "daemon/planner/"],
    "daemon": ["protocol/", "daemon/"],
    "plugin": ["protocol/", "kernels/", "plugin/"],
    "tests/model": ["search.h", "command_line.h", "slot_board.h", "verdict_board.h"],
    "tests": ["protocol/", "kernels/", "daemon/", "plugin/", "tests/"],
}
THIRD_PARTY = {  # header prefix -> folders that may use it
    "absl/": ["daemon/", "plugin/examples/"],
    "nlohmann/": ["daemon/cli/", "plugin/examples/"],
    "gtest/": ["tests/"],
    "gmock/": ["tests/"],
}
# Files over the cap. May only shrink.
LONG = {}


def code_files():
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT)
        if path.suffix in CODE and name.parts[0] not in ("build", ".git"):
            yield path, name.as_posix()


class TidyTest(unittest.TestCase):
    def test_includes_follow_the_arrows(self):
        for path, name in code_files():
            allowed = next(MAY_INCLUDE[f] for f in sorted(MAY_INCLUDE, key=len, reverse=True)
                           if name.startswith(f + "/"))
            for include in re.findall(r'#include "([^"]+)"', path.read_text()):
                third = next((t for t in THIRD_PARTY if include.startswith(t)), None)
                folders = THIRD_PARTY[third] if third else None
                fine = (any(name.startswith(f) for f in folders) if third
                        else any(include.startswith(a) for a in allowed))
                self.assertTrue(fine, f"{name} may not include {include}")

    def test_the_public_header_includes_only_the_system(self):
        text = (ROOT / "plugin/api/ultraep.h").read_text()
        self.assertEqual(re.findall(r"#include (.*)", text), ["<stdint.h>"])

    def test_files_stay_below_their_cap(self):
        for path, name in code_files():
            cap = 600 if name.startswith("kernels/") else 400
            lines = path.read_text().count("\n")
            self.assertLessEqual(lines, LONG.get(name, cap), f"{name}: split it")

    def test_every_shared_struct_is_asserted(self):
        for name in ("boards", "group_config", "message", "plan", "plan_record", "segment",
                     "verdict_board", "words"):
            text = (ROOT / f"protocol/{name}.h").read_text()
            asserted = set(re.findall(r"sizeof\((\w+)\)", text))
            for struct in re.findall(r"^struct (?:alignas\(kLine\) )?(\w+) \{", text, re.M):
                if struct in NOT_SHARED:
                    continue
                self.assertIn(struct, asserted, f"protocol/{name}.h: {struct} has no size assert")

    def test_every_source_file_is_built(self):
        lists = "\n".join(p.read_text() for p in ROOT.rglob("CMakeLists.txt")
                          if "build" not in p.relative_to(ROOT).parts)
        for path, name in code_files():
            if path.suffix in (".cc", ".cu", ".c"):
                self.assertTrue(re.search(rf"\b{re.escape(path.name)}", lists), f"{name} is in no target")

    def test_every_flag_states_its_unit_or_range(self):
        text = (ROOT / "daemon/options.cc").read_text()
        for name, default in re.findall(r"ABSL_FLAG\([\w:]+, (\w+), ([^,]+),", text):
            self.assertEqual(text.count(f"FLAGS_{name})"), 1, f"--{name} is read once")
            self.assertTrue(default)

    def test_links_in_the_documentation_lead_somewhere(self):
        for path in ROOT.rglob("*.md"):
            if "build" in path.relative_to(ROOT).parts:
                continue
            for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
                self.assertTrue((path.parent / target).exists(), f"{path}: {target}")

    def test_folder_readmes_are_short(self):
        for path in ROOT.rglob("README.md"):
            if path.parent != ROOT and "build" not in path.relative_to(ROOT).parts:
                self.assertLessEqual(path.read_text().count("\n"), 100, path)


# Plain values inside one process, or views that own nothing.
NOT_SHARED = {"Boards", "Plan", "PhysicalIds", "PlanRecordLayout", "RecordedPlan",
              "RecordExpectation", "Gate", "VerdictWord", "Certificate"}

if __name__ == "__main__":
    ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
