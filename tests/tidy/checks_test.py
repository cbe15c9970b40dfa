"""The checks of tidy_test find what they should: each is run on a small healthy tree, and on that
tree with one thing wrong."""

import pathlib
import tempfile
import types
import unittest

import cpp
from check_sizes import python_functions, ratchet, shell_functions
from checks import CHECKS
from tree import Tree

HEALTHY = {
    "README.md": "[d](daemon/README.md) [p](protocol/README.md) [t](tests/README.md) "
                 "[g](plugin/README.md) [e](deploy/README.md)\n"
                 "`deploy/start --fast` reads `ULTRAEP_MODE`.\n"
                 "\n| part | host | real GPU |\n| --- | --- | --- |\n"
                 "| sums | yes | `sums`, `memcheck sums` on one X9, 2026-01-02 |\n"
                 "| rest | yes | never: compiled only |\n| plans | yes | - |\n",
    "CMakeLists.txt": 'option(ULTRAEP_X "Whether to build x" ON)\n'
                      "add_library(protocol INTERFACE)\nadd_subdirectory(daemon) # comment\n"
                      "add_subdirectory(plugin)\nadd_subdirectory(tests)\n",
    "protocol/README.md": "words\n",
    "protocol/words.h": '#pragma once\n#include <atomic>\n'
                        '// 0 value 8\nstruct alignas(8) Word {\n  long value;\n};\n'
                        'static_assert(sizeof(Word) == 8 && alignof(Word) == 8, "");\n'
                        '// 0 a 8 b 16 c 24\nstruct Triple {\n  Word a, b;\n  long c = Sum(1, 2);\n'
                        '  bool operator==(const Triple&) const = default;\n'
                        '  int Get() { return 1; }\n};\n'
                        'static_assert(sizeof(Triple) == 24 && alignof(Triple) == 8, "");\n'
                        'static_assert(offsetof(Triple, b) == 8, "");\n'
                        'class Parser {\n  Triple* at_;\n};\n',
    "daemon/README.md": "| flag | default | what for |\n| --- | --- | --- |\n"
                        "| `--spin_us` | 5 | waiting |\n| `--name` | empty | a name |\n",
    "daemon/CMakeLists.txt": "set(FILES main.cc\n  log.cc)\nadd_library(log STATIC log.cc)\n"
                             "add_executable(ultraepd ${FILES})\n"
                             "target_link_libraries(ultraepd PRIVATE protocol log)\n",
    "daemon/log.h": "void Log();\n",
    "daemon/log.cc": '#include "daemon/log.h"\nvoid Log() {}\n',
    "daemon/main.cc": '#include "absl/flags/flag.h"\n#include "daemon/log.h"\n'
                      '#include "protocol/words.h"\n'
                      'ABSL_FLAG(int64_t, spin_us, 5, "microseconds to spin, "\n  "0..10");\n'
                      'ABSL_FLAG(std::string, name, "", "any name");\n'
                      'int main() {\n  getenv("ULTRAEP_MODE");\n  absl::GetFlag(FLAGS_name);\n'
                      '  for (auto& [n, f] : absl::GetAllFlags()) puts(f->Help());\n'
                      '  return absl::GetFlag(FLAGS_spin_us);\n}\n',
    "plugin/README.md": "`ultraepd --name x` [core](core/README.md), python/\n",
    "plugin/CMakeLists.txt": "add_library(plugin_core STATIC core/api.cc)\n"
                             "target_link_libraries(plugin_core PUBLIC protocol)\n",
    "plugin/core/README.md": "see `data.txt`\n",
    "plugin/core/data.txt": "1\n",
    "plugin/core/api.cc": '#include "protocol/words.h"\n#include "plugin/core/api.h"\n',
    "plugin/core/api.h": "\n",
    "plugin/python/train.py": "import argparse\nimport ultraep.torch\n"
                              "parser.add_argument('--steps', help='how many')\n",
    "plugin/python/ultraep/__init__.py": "import os.path\nfrom . import steps\n",
    "plugin/python/ultraep/py.typed": "",
    "plugin/python/ultraep/steps.py": "def submit():\n    from ultraep import verdict\n",
    "plugin/python/ultraep/verdict.py": "\n",
    "plugin/python/ultraep/torch/__init__.py": "import torch.nn\nfrom ultraep.steps import submit\n"
                                               "from .layer import Layer\n",
    "plugin/python/ultraep/torch/layer.py": "from .. import steps\nfrom ..steps import submit\n",
    "deploy/README.md": "`start --name x` passes it on\n`deploy/py -m x --any`, "
                        "`deploy/py plugin/python/train.py --steps 5`\n",
    "deploy/py": '#!/bin/sh\nexec "$environment/bin/python" "$@"\n',
    "deploy/start": '#!/bin/sh\n# deploy/start [--fast]\ncase "$1" in\n  --fast | -f) ;;\nesac\n'
                    'exec 3>&1\n"$bin/ultraepd" "$@"\ncmake --preset x\n'
                    'deploy/py tests/py/run_tests.py\n',
    "tests/README.md": "tests, py/, `gpu/ran.txt`\n",
    "tests/gpu/ran.txt": "# date | device | driver | what | result\n"
                         "2026-01-02 | X9 | 1.0 | sums | 5 passed, 0 failed\n"
                         "2026-01-02 | X9 | 1.0 | memcheck sums | done\n"
                         "2026-01-03 | X9 | 1.0 | rest | 4 passed, 1 failed\n",
    "tests/py/run_tests.py": "\n",
    "tests/py/a_test.py": "unittest.main()\n",
    "tests/CMakeLists.txt": "function(u_test name)\n  add_executable(${name} ${ARGN})\n"
                            "  add_test(NAME ${name} COMMAND ${name})\nendfunction()\n"
                            "u_test(x_test x_test.cc)\nfunction(py_test name)\n"
                            "  add_test(NAME ${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/${ARGN})\n"
                            "endfunction()\npy_test(y_test y_test.py)\n",
    "tests/x_test.cc": '#include "gtest/gtest.h"\nTEST(A, B) {}\n',
    "tests/y_test.py": "import helper\nhelper.refuse('--wrong')\nunittest.main()\n",
    "tests/helper.py": "def refuse(flag):\n    pass\n",
}

EXEMPTIONS = {"LONG_FILES": {}, "LONG_FUNCTIONS": {}, "NOT_SHARED": {"Parser": "computes"},
              "MISSING_ASSERTS": {}, "ANY_VALUE": {}, "UNDOCUMENTED": {}, "WRONG_FLAGS": {"wrong"}}

RUNS = "runs on GPUs are on record"
IMPORTS, STRUCTS = "imports follow the arrows", "shared structs are asserted"
OPTIONS, USES = "options explain themselves", "named options exist"
LONG_BODY = "  x();\n" * 68
# (check, {file: None to delete, (old, new) to replace, text to append}, {exemption: value}, what it
# says)
BROKEN = [
    ("includes follow the arrows", {"daemon/log.cc": '#include "plugin/core/api.h"\n'}, {},
     "daemon/log.cc may not include plugin/core/api.h"),
    ("includes follow the arrows", {"daemon/log.cc": '#include "../plugin/core/api.h"\n'}, {},
     "may not include ../plugin"),
    ("includes follow the arrows", {"daemon/log.cc": "#include <plugin/core/api.h>\n"}, {},
     "may not include plugin"),
    ("includes follow the arrows", {"protocol/words.h": '#include "absl/x.h"\n'}, {}, "absl/x.h"),
    ("includes follow the arrows", {"daemon/log.cc": "#include HEADER\n"}, {}, "a macro"),
    ("includes follow the arrows", {"new/a.h": "\n"}, {}, "no rule"),
    (IMPORTS, {"plugin/python/ultraep/steps.py": "import torch\n"}, {},
     "plugin/python/ultraep/steps.py may not import torch"),
    (IMPORTS, {"plugin/python/ultraep/steps.py": "from . import torch\n"}, {},
     "steps.py may not import ultraep.torch"),
    (IMPORTS, {"plugin/python/ultraep/steps.py": "from .torch.layer import Layer\n"}, {},
     "steps.py may not import ultraep.torch.layer"),
    (IMPORTS, {"plugin/python/ultraep/torch/layer.py": "def f():\n  import numpy\n"}, {},
     "layer.py may not import numpy"),
    (IMPORTS, {"plugin/python/ultraep/steps.py": "import helper\n"}, {}, "not import helper"),
    ("links follow the arrows",
     {"daemon/CMakeLists.txt": "target_link_libraries(log plugin_core)\n"}, {},
     "log (daemon/) may not link plugin_core"),
    ("links follow the arrows", {"plugin/CMakeLists.txt": "target_link_libraries(plugin_core log)"},
     {}, "plugin_core (plugin/) may not link log"),
    ("links follow the arrows",
     {"daemon/CMakeLists.txt": "target_sources(log PRIVATE ../plugin/core/api.cc)"}, {}, "compile"),
    ("files stay below their cap", {"tests/helper.py": "#\n" * 400}, {}, "402 lines, at most 400"),
    ("files stay below their cap", {"deploy/start": "#\n" * 400}, {}, "deploy/start has 409"),
    ("files stay below their cap", {"tests/helper.py": "#\n" * 400},
     {"LONG_FILES": {"tests/helper.py": 401}}, "split it"),
    ("files stay below their cap", {}, {"LONG_FILES": {"tests/helper.py": 401}}, "below its cap"),
    ("files stay below their cap", {}, {"LONG_FILES": {"gone": 401}}, "does not exist"),
    ("functions stay below 70 lines", {"daemon/log.cc": f"void F() {{\n{LONG_BODY}}}\n"}, {},
     "daemon/log.cc:F has 70 lines"),
    ("functions stay below 70 lines", {"tests/helper.py": "def f():\n" + "    x()\n" * 69}, {},
     "tests/helper.py:f has 70"),
    ("functions stay below 70 lines", {"deploy/start": f"f() {{\n{LONG_BODY}}}\n"}, {}, "start:f"),
    ("functions stay below 70 lines", {"daemon/log.cc": "void F() {\n"}, {}, "never closed"),
    ("folder readmes are short", {"tests/README.md": "\n" * 100}, {}, "more than 100"),
    ("all code is built and included", {"daemon/g.cc": "\n"}, {}, "daemon/g.cc is in no target"),
    ("all code is built and included", {"tests/log.cc": "\n"}, {}, "tests/log.cc is in no target"),
    ("all code is built and included", {"daemon/CMakeLists.txt": "# extra.cc\n",
                                        "daemon/extra.cc": "\n"}, {}, "in no target"),
    ("all code is built and included", {"daemon/a.h": '#include "daemon/b.h"\n',
                                        "daemon/b.h": '#include "daemon/a.h"\n'}, {}, "no source"),
    ("all code is built and included", {"daemon/a.h": "\n", "tests/x_test.cc":
                                        '#include "daemon/a.h"\n'}, {}, "tests only"),
    ("all code is built and included", {"CMakeLists.txt": ("add_subdirectory(plugin)", "")}, {},
     "plugin/CMakeLists.txt is not part"),
    ("all tests are run", {"tests/z_test.py": "\n"}, {}, "tests/z_test.py is a test"),
    ("all tests are run", {"tests/more.py": "unittest.main()\n"}, {}, "tests/more.py"),
    ("all tests are run", {"deploy/start": ("py/run_tests", "py/run")}, {}, "tests/py/a_test.py"),
    ("all tests are run", {"tests/CMakeLists.txt": ("u_test(x", "add_executable(x")}, {}, "x_test"),
    ("promises name their tests", {"plugin/README.md": "| a | test |\n| - | - |\n| kill | gone |"},
     {}, "'kill' names gone"),
    ("promises name their tests", {"plugin/README.md": "| a | test |\n| - | - |\n| kill | |"},
     {}, "'kill' names no test"),
    ("all scripts and data are used", {"plugin/core/more.txt": "\n"}, {}, "more.txt is named"),
    ("all scripts and data are used", {"deploy/stop": "#!/bin/sh\n"}, {}, "deploy/stop"),
    ("all scripts and data are used", {"tests/help.py": "\n"}, {}, "tests/help.py"),
    ("all scripts and data are used",
     {"plugin/python/ultraep/steps.py": ("import verdict", "import gone")}, {},
     "verdict.py is named"),
    ("all scripts and data are used", {"plugin/python/train.py": ("import ultraep.torch", "")}, {},
     "ultraep/torch/__init__.py is named"),
    ("all folders are described", {"tests/README.md": "[a](b.md)\n"}, {}, "b.md, which"),
    ("all folders are described", {"daemon/notes.md": "\n"}, {}, "daemon/notes.md is reached"),
    ("all folders are described", {"daemon/deep/a.h": "\n"}, {}, "does not mention deep/"),
    ("all folders are described", {"daemon/README.md": None}, {}, "daemon/ has no README.md"),
    (STRUCTS, {"protocol/words.h": "// 0 x 8\nstruct New {\n  long x;\n};\n"}, {},
     "New lacks sizeof, alignof"),
    (STRUCTS, {"protocol/words.h": ("&& alignof(Word) == 8", "")}, {}, "Word lacks alignof"),
    (STRUCTS, {"protocol/words.h": ("sizeof(Word) == 8", "sizeof(Word) >= 8")}, {}, "lacks sizeof"),
    (STRUCTS, {"protocol/words.h": ("offsetof(Triple, b) == 8", "true")}, {}, "lacks offsetof"),
    (STRUCTS, {"protocol/words.h": ("// 0 value 8\n", "")}, {}, "Word lacks picture"),
    (STRUCTS, {"protocol/words.h": ("static_assert(s", "// static_assert(s")}, {}, "lacks sizeof"),
    (STRUCTS, {"protocol/words.h": ("struct Triple {", "struct Triple {\n  Parser p;\n")}, {},
     "Parser is shared, as Triple::p"),
    (STRUCTS, {}, {"NOT_SHARED": {"Parser": "computes", "Gone": "x"}}, "Gone is gone"),
    (STRUCTS, {}, {"NOT_SHARED": {"Parser": ""}}, "Parser has no reason"),
    (STRUCTS, {}, {"NOT_SHARED": {"Parser": "x", "Word": "x"}}, "Word has asserts"),
    (STRUCTS, {}, {"MISSING_ASSERTS": {"Word": ["alignof"]}}, "Word does not lack alignof"),
    (OPTIONS, {"daemon/main.cc": ('"any name"', "kHelp")}, {}, "--name has no help text"),
    (OPTIONS, {"daemon/main.cc": ('microseconds to spin, "\n  "0..10', "how it spins")}, {},
     "neither unit nor range"),
    (OPTIONS, {"daemon/main.cc": ("absl::GetFlag(FLAGS_name);", "")}, {}, "--name is never read"),
    (OPTIONS, {"daemon/main.cc": ("->Help()", "")}, {}, "ultraepd --name is not in its help"),
    (OPTIONS, {"deploy/start": ("[--fast]", "")}, {}, "deploy/start --fast is not in its help"),
    (OPTIONS, {"plugin/python/train.py": (", help='how many'", "")}, {},
     "plugin/python/train.py --steps is not in its help"),
    (OPTIONS, {"CMakeLists.txt": ("Whether to build x", "")}, {}, "ULTRAEP_X has no help"),
    (OPTIONS, {}, {"ANY_VALUE": {"spin_us": "x"}}, "spin_us needs no exemption"),
    ("option tables are right", {"daemon/README.md": ("spin_us", "spin")}, {},
     "no row | `--spin_us`"),
    ("option tables are right", {"daemon/README.md": ("spin_us", "spin")}, {}, "no flag --spin"),
    ("option tables are right", {"daemon/README.md": ("| 5 |", "| 6 |")}, {}, "default 5, not 6"),
    (USES, {"README.md": "`ultraepd --fast`\n"}, {}, "README.md:9: ultraepd refuses --fast"),
    (USES, {"README.md": "try `--faster`\n"}, {}, "every program refuses --faster"),
    (USES, {"deploy/start": '"$bin/ultraepd" --old 3\n'}, {}, "ultraepd refuses --old"),
    (USES, {"deploy/README.md": "`deploy/py plugin/python/train.py --old`\n"}, {},
     "plugin/python/train.py refuses --old"),
    (USES, {"daemon/log.cc": 'puts("--old is wrong");\n'}, {}, "refuses --old"),
    (USES, {}, {"WRONG_FLAGS": {"wrong", "unused"}}, "--unused is used nowhere"),
    (RUNS, {"README.md": ("2026-01-02", "2026-01-03")}, {}, "'sums' claims a run"),
    (RUNS, {"README.md": ("one X9", "one X10")}, {}, "'sums' claims a run"),
    (RUNS, {"README.md": ("`memcheck sums`", "`memcheck sums` and `racecheck sums`")}, {},
     "'sums' claims a run"),
    (RUNS, {"README.md": ("| never: compiled only", "| `rest` on one X9, 2026-01-03")}, {},
     "'rest' claims a run"),
    (RUNS, {"README.md": ("never: compiled only", "never on two, on one 2026-01-02")}, {},
     "'rest' claims a run"),
    (RUNS, {"README.md": ("never: compiled only", "yes")}, {}, "'rest' claims a run"),
    (RUNS, {"README.md": ("| real GPU |", "| GPU |")}, {}, "no table with a last column"),
    (RUNS, {"tests/gpu/ran.txt": "yesterday | X9 | 1.0 | all | done\n"}, {}, "ran.txt:5 is not"),
    ("environment variables are documented", {"daemon/log.cc": 'std::getenv("ULTRAEP_Y");\n'}, {},
     "daemon/log.cc reads ULTRAEP_Y"),
    ("environment variables are documented", {"deploy/start": "x=${ULTRAEP_Y:-}\n"}, {},
     "deploy/start reads ULTRAEP_Y"),
] + [("nothing leaks", {"daemon/log.h": f"// {leak}\n"}, {}, "daemon/log.h:2 holds") for leak in (
    "/wo" "rk/x", "TO" "DO: x", "FIX" "ME", "X" "XX", "deb.debian" ".org", "pypi" ".org")]


class ChecksTest(unittest.TestCase):
    def run_check(self, name, changes, exempt):
        with tempfile.TemporaryDirectory() as folder:
            files = dict(HEALTHY)
            for file, change in changes.items():
                if isinstance(change, tuple):
                    self.assertIn(change[0], files[file])
                    files[file] = files[file].replace(*change)
                else:
                    files[file] = None if change is None else files.get(file, "") + change
            for file, text in files.items():
                if text is not None:
                    path = pathlib.Path(folder, file)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
            return CHECKS[name](Tree(folder), types.SimpleNamespace(**{**EXEMPTIONS, **exempt}))

    def test_nothing_is_wrong_with_the_healthy_tree(self):
        for name in CHECKS:
            with self.subTest(name):
                self.assertEqual(self.run_check(name, {}, {}), [])

    def test_each_violation_is_found(self):
        for name, changes, exempt, says in BROKEN:
            with self.subTest(name, says=says):
                self.assertIn(says, "\n".join(self.run_check(name, changes, exempt)))

    def test_every_check_is_tested(self):
        self.assertEqual({row[0] for row in BROKEN}, set(CHECKS))

    def test_an_exemption_holds_at_exactly_its_size(self):
        for size, wrong in ((79, "lower that"), (80, None), (81, "split it")):
            found = list(ratchet({"a": size}, lambda _: 69, {"a": 80}))
            self.assertEqual(len(found), 1 if wrong else 0)
            self.assertIn(wrong or "", "".join(found))

    def test_a_leak_is_no_part_of_a_longer_word(self):
        files = {"deploy/start": "mktemp a-X" "XXXXX\n"}
        self.assertEqual(self.run_check("nothing leaks", files, {}), [])

    def test_sources_may_be_named_in_loops(self):
        for items in ("a b", "IN ITEMS a b", "IN LISTS NAMES"):
            tree = {"daemon/a_x.cc": "\n", "daemon/b_x.cc": "\n", "daemon/b_y.cc": "\n",
                    "daemon/CMakeLists.txt": f"set(NAMES a b)\nforeach(n {items})\n"
                                             "  foreach(m x)\n    add_library(${n} ${n}_${m}.cc)\n"
                                             "  endforeach()\nendforeach()\n"}
            with self.subTest(items):
                self.assertEqual(self.run_check("all code is built and included", tree, {}),
                                 ["daemon/b_y.cc is in no target"])

    def test_a_source_may_be_named_from_its_own_folder(self):
        tree = {"daemon/CMakeLists.txt": "add_subdirectory(log)\n",
                "daemon/log/CMakeLists.txt": "add_library(l ${CMAKE_CURRENT_SOURCE_DIR}/a.cc)\n",
                "daemon/log/a.cc": "\n"}
        self.assertEqual(self.run_check("all code is built and included", tree, {}), [])


class ScannerTest(unittest.TestCase):
    def functions(self, text):
        return list(cpp.functions(text))

    def test_functions_wherever_they_stand(self):
        for text, expected in (
                ("int F(int a) {\n return {a}; }", [("F", 2)]),
                ("namespace a::b {\nvoid F() {}\n}", [("F", 1)]),
                ("extern \"C\" {\nvoid F() {}\n}", [("F", 1)]),
                ("extern \"C\" void F() {}", [("F", 1)]),
                ("struct S final : B<int> {\n int x{3}, y = 4;\n void F() const {\n }\n};",
                 [("S::F", 2)]),
                ("struct alignas(8) S { ~S() {} bool operator==(S) { } private: S() {} };",
                 [("S::~S", 1), ("S::operator==", 1), ("S::S", 1)]),
                ("S::S(int a)\n : B<int>{a}, x_(a),\n y_{f([] { return 1; })} {\n}",
                 [("lambda", 1), ("S::S", 4)]),
                ("template <class T, int n = (1 > 2)>\nauto F(T t) -> std::vector<T> {\n}",
                 [("F", 3)]),
                ("[[nodiscard]] __attribute__((x)) int F() noexcept {}", [("F", 1)]),
                ("auto f = [](int a) -> int {\n return a;\n};", [("f", 3)]),
                ("const Table t[] = {{1, [] {\n}}, {2, {3}}};", [("lambda", 2)]),
                ("int x = Call(1, [&] {\n});", [("lambda", 2)]),
                ("enum class E { kA, kB };\nint array[2] = {1, 2};\nstd::string s{\"{\"};", []),
                ("TEST_F(Suite, Name) {\n}", [("TEST_F(Suite, Name)", 2)]),
                ("__global__ void K(int* p) {\n}", [("K", 2)]),
                ("#define M(x) \\\n  do { \\\n  } while (0)\n", [("M", 3)]),
                ("struct stat F(struct stat s) {\n}", [("F", 2)])):
            with self.subTest(text):
                found = [(n.replace("S::lambda", "lambda"), l) for n, l in self.functions(text)]
                self.assertEqual(sorted(found), sorted(expected))

    def test_braces_in_text_do_not_count(self):
        for noise in ("// {", "/* { */", '"{"', "'{'", 'R"x({ "( )x"', "1'000'000 + '}'",
                      "// \\\n{"):
            with self.subTest(noise):
                self.assertEqual(self.functions(f"void F() {{\n {noise}\n}}\nvoid G() {{}}"),
                                 [("F", 3 + noise.count("\n")), ("G", 1)])

    def test_members(self):
        text = ("struct S {\n static int no;\n using T = int;\n std::map<int, long> a;\n"
                " int b = F(1, 2), c[3] = {};\n const char* d{nullptr};\n std::atomic<long> e;\n"
                " S() : b(1) {}\n void F(int) const;\n bool operator<(S) const = default;\n"
                " enum E { kE };\n private:\n unsigned f : 3;\n};")
        block = next(cpp.blocks(text))
        self.assertEqual([name for _, name in cpp.members(text, block)], list("abcdef"))

    def test_python_functions(self):
        text = "class C:\n    @property\n    def f(self):\n        def g():\n            pass\n"
        self.assertEqual(list(python_functions(text)), [("C.f", 4), ("C.f.g", 2)])

    def test_shell_functions(self):
        text = ("one() { x; }\n"
                "function two {\n  cat <<EOF\n}\nEOF\n  [ ${a:-} ] && {\n    y\n  }\n}\n"
                "three() (\n  z\n)\n")
        self.assertEqual(list(shell_functions(text)), [("one", 1), ("two", 8), ("three", 3)])
        with self.assertRaises(ValueError):
            list(shell_functions("f() {\n  x\n"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
