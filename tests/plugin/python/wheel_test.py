"""The wheel as it is installed: one for every Python and torch, with all that the package needs."""

import ctypes
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import unittest

import ultraep

ROOT = pathlib.Path(__file__).resolve().parents[3]
PACKAGE = pathlib.Path(ultraep.__file__).parent
LIBRARY = PACKAGE / "lib" / "libultraep.so"
WHEEL = importlib.metadata.distribution("ultraep")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class WheelTest(unittest.TestCase):
    def test_the_package_is_the_installed_one(self):
        self.assertTrue(PACKAGE.is_relative_to(sys.prefix), PACKAGE)
        self.assertFalse(PACKAGE.is_relative_to(ROOT), PACKAGE)

    def test_its_files_are_the_sources(self):
        sources = ROOT / "plugin" / "python" / "ultraep"
        for path in sources.rglob("*.py"):
            installed = PACKAGE / path.relative_to(sources)
            self.assertEqual(installed.read_text(), path.read_text(), installed)
        self.assertTrue((PACKAGE / "py.typed").exists())

    def test_one_wheel_serves_every_python_on_this_platform(self):
        tags = re.findall(r"^Tag: (.*)$", WHEEL.read_text("WHEEL"), re.M)
        self.assertEqual(len(tags), 1)
        self.assertRegex(tags[0], r"^py3-none-(many)?linux_\w+$")

    def test_the_version_is_the_projects(self):
        cmake = (ROOT / "CMakeLists.txt").read_text()
        project = re.search(r"project\(ultraep VERSION (\S+)", cmake)
        self.assertEqual(WHEEL.version, project[1])

    def test_nothing_else_need_be_installed(self):
        for requirement in WHEEL.requires or []:
            self.assertIn("extra ==", requirement)
        # None: an import raises.
        output(sys.executable, "-c",
               "import sys; sys.modules.update(torch=None, numpy=None); import ultraep")

    def test_the_library_loads_and_needs_only_libc(self):
        ctypes.CDLL(LIBRARY)
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-dW", LIBRARY))
        self.assertIn("libc.so.6", needed)
        for name in needed:
            self.assertRegex(name, r"^(libc|libm|ld-linux-[\w-]+)\.so\.\d+$")

    def test_the_library_exports_the_c_abi_and_nothing_else(self):
        headers = "".join((ROOT / "plugin" / "api" / name).read_text()
                          for name in ("ultraep.h", "ultraep_cuda.h"))
        declared = set(re.findall(r"^ULTRAEP_API[^;(]*?\b(ultraep_\w+)\(", headers, re.M))
        symbols = [line.split()[:2] for line in output("nm", "-DP", LIBRARY).splitlines()]
        self.assertEqual({name for name, kind in symbols if kind not in "Uwv"}, declared)


if __name__ == "__main__":
    unittest.main(verbosity=2)
