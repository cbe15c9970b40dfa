"""Runs the tests of the Python package, each file beside this one as a process of its own.

usage: deploy/py -B tests/plugin/python/run_tests.py [NAME_test.py...]     without names: all
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SECONDS = 7200 if os.environ.get("ULTRAEP_NIGHTLY") else 600  # of one file


def run(name):
    """Runs one file's tests; returns how many there were and what went wrong, if anything."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "unittest", "-v", name], cwd=HERE, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    late = threading.Event()

    def stop():  # the ranks and daemons of the test too
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(SECONDS, stop)
    timer.start()
    count = 0
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            ran = re.match(r"Ran (\d+) test", line)
            count = int(ran[1]) if ran else count
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if late.is_set():
        return count, f"took more than {SECONDS} s"
    if status:
        return count, f"exit status {status}"
    return count, None if count else "has no test"


def main():
    names = [pathlib.Path(name).name for name in sys.argv[1:]] or sorted(
        path.name for path in HERE.glob("*_test.py"))
    summary, failed = [], not names
    for name in names:
        begin = time.monotonic()
        count, wrong = run(name)
        failed |= wrong is not None
        summary.append(f"{name}: {count} tests, {time.monotonic() - begin:.1f} s, {wrong or 'ok'}")
    print("\n".join(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
