"""Real daemon and replay processes for tests. Only processes started here are ever signalled."""

import json
import os
import shutil
import subprocess
import tempfile
import time


class Daemon:
    """An ultraepd on a socket in a temporary directory of its own; with `user`, as that one."""

    def __init__(self, bin_dir, *flags, **popen):
        self.bin_dir = bin_dir
        self.directory = tempfile.mkdtemp(prefix="ultraep-test-")
        if "user" in popen:
            os.chown(self.directory, popen["user"], -1)
        self.socket = os.path.join(self.directory, "ultraepd.sock")
        self.log = open(os.path.join(self.directory, "ultraepd.log"), "w+")
        self.command = [os.path.join(bin_dir, "ultraepd"), "--socket", self.socket,
                        "--metrics_listen", "127.0.0.1:0", *flags]
        self.popen = popen
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    def restart(self):
        """Starts it, or after its end the same once more."""
        self.process = subprocess.Popen(self.command, stderr=self.log, **self.popen)
        wait_until(lambda: self.status() is not None, 20, "the daemon answers")

    def status(self):
        """The parsed `ultraepctl status --json`, or None while there is no answer."""
        done = subprocess.run(
            [os.path.join(self.bin_dir, "ultraepctl"), "status", "--json", "--socket", self.socket],
            capture_output=True, text=True, timeout=20)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def log_text(self):
        with open(self.log.name) as log:
            return log.read()

    def planned(self):
        status = self.status()
        return sum(g["steps_planned"] for g in status["groups"]) if status else 0

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=20)
        finally:
            self.log.close()
            shutil.rmtree(self.directory, ignore_errors=True)


class Replay:
    """An ultraep-replay with --json; `ranks` are the pids of its rank processes."""

    def __init__(self, daemon, *flags):
        self.process = subprocess.Popen(
            [os.path.join(daemon.bin_dir, "ultraep-replay"), "--socket", daemon.socket, "--json",
             *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ranks(self):
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with open(path) as children:
            return [int(pid) for pid in children.read().split()]

    def finish(self, timeout):
        """(exit code, the JSON result or None, stderr)."""
        out, err = self.process.communicate(timeout=timeout)
        lines = out.strip().splitlines()
        try:
            result = json.loads(lines[-1]) if lines else None
        except json.JSONDecodeError:
            result = None
        return self.process.returncode, result, err

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
