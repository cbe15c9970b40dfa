"""ultraepd and the CUDA driver: found, missing, broken, never answering, or not wanted.

usage: cuda_options_test.py BUILD_DIR
"""

import os
import signal
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, wait_until  # noqa: E402

BUILD = ""


class CudaOptionsTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="ultraep-test-")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def bin(self):
        return os.path.join(BUILD, "bin")

    def start(self, *flags):
        daemon = Daemon(self.bin(), *flags)
        self.addCleanup(daemon.close)
        return daemon

    def found(self, daemon):
        """What the daemon says once the driver has answered, or cannot be had."""
        wait_until(lambda: daemon.status()["daemon"]["cuda"]["state"] != "opening", 20, "it knows")
        return daemon.status()["daemon"]["cuda"]

    def file(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_a_driver_is_found_with_its_devices(self):
        """The backend lies in ../lib of the program: no path is needed."""
        daemon = self.start("--cuda_backend", "auto", "--cuda_driver", os.path.join(BUILD, "tests", "libfake_cuda.so"))
        found = self.found(daemon)
        self.assertEqual((found["state"], found["devices"], found["driver"]), ("open", 8, "13.0"))
        wait_until(lambda: "slots in host memory and on GPUs: 8 CUDA devices, driver 13.0"
                   in daemon.log_text(), 20, "it says so")

    def test_without_a_driver_it_serves_host_memory_and_says_why(self):
        daemon = self.start("--cuda_backend", "auto",
                            "--cuda_driver", self.file("libcuda.so.1", "not a library"))
        found = self.found(daemon)
        self.assertEqual((found["state"], found["devices"], found["driver"]), ("missing", 0, "none"))
        self.assertIn("libcuda.so.1", found["found"])
        wait_until(lambda: "none of the daemon's: " + found["found"][:40] in daemon.log_text(), 20,
                   "it says so")

    def test_a_backend_that_is_none(self):
        found = self.found(self.start("--cuda_backend", self.file("backend.so", "no ELF")))
        self.assertEqual(found["state"], "missing")
        self.assertIn("no CUDA backend", found["found"])

    def test_nothing_is_loaded_unless_asked_for_whatever_the_environment_says(self):
        for flags in ((), ("--cuda_backend", "off")):
            with mock.patch.dict(os.environ, {
                    "ULTRAEP_CUDA_BACKEND": os.path.join(BUILD, "lib", "libultraep_cuda.so"),
                    "ULTRAEP_CUDA_DRIVER": os.path.join(BUILD, "tests", "libfake_cuda.so")}):
                daemon = self.start(*flags)
            self.assertEqual(daemon.status()["daemon"]["cuda"]["state"], "off")
            with open(f"/proc/{daemon.process.pid}/maps") as maps:
                self.assertNotIn("cuda", maps.read())
            self.assertNotIn("GPU", daemon.log_text())

    def test_the_environment_names_no_driver_for_the_daemon(self):
        with mock.patch.dict(os.environ, {"ULTRAEP_CUDA_DRIVER": "/somebody/elses.so"}):
            daemon = self.start("--cuda_backend", "auto")
        self.assertNotIn("/somebody/elses.so", self.found(daemon)["found"])

    def test_a_driver_that_never_answers_holds_up_neither_service_nor_end(self):
        source = self.file("hang.c", "#include <unistd.h>\n__attribute__((constructor)) "
                                     "static void hang(void) { for (;;) pause(); }\n")
        library = os.path.join(self.directory, "libcuda.so.1")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        daemon = self.start("--cuda_backend", "auto", "--cuda_driver", library)
        self.assertEqual(daemon.status()["daemon"]["cuda"]["state"], "opening")
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(timeout=20), 0)

    def test_a_path_that_is_not_there_is_wrong_usage(self):
        for flag in ("--cuda_backend", "--cuda_driver", "--nvml"):
            done = subprocess.run([os.path.join(self.bin(), "ultraepd"), flag, "/no/library.so"],
                                  capture_output=True, text=True, timeout=20)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"{flag} is '/no/library.so': No such file", done.stderr)

    def test_an_empty_backend_is_wrong_usage(self):
        done = subprocess.run([os.path.join(self.bin(), "ultraepd"), "--cuda_backend="],
                              capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 2)
        self.assertIn("must be off, auto or a path", done.stderr)

    def test_help_says_what_they_are(self):
        done = subprocess.run([os.path.join(self.bin(), "ultraepd"), "--help"],
                              capture_output=True, text=True, timeout=20)
        for text in ("--cuda_backend (default off)", "no CUDA driver is loaded",
                     "--uid_gpu_memory_mib (default 0)", "--cuda_driver (default )",
                     "path of libcuda.so.1", "--nvml (default )", "path of libnvidia-ml.so.1"):
            self.assertIn(text, done.stdout)


if __name__ == "__main__":
    BUILD = sys.argv.pop(1)
    unittest.main()
