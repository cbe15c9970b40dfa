"""What the system may refuse the daemon, or hand it: descriptors, and a socket made by systemd.

usage: limits_test.py BIN_DIR
"""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""
SMALL = ["--ranks", "2", "--experts", "8", "--tokens", "64", "--hidden", "16", "--ffn", "16"]


class LimitsTest(unittest.TestCase):
    def short_of_descriptors(self, limit):
        """A daemon whose limit sinks while it runs: what it found at its start it can live with."""
        daemon = Daemon(BIN)
        self.addCleanup(daemon.close)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        return daemon

    def test_limits_of_connections_fit_the_descriptors_that_there_are(self):
        limit = 48 + 8 * 4 + 6  # 4 connections, 3 of one user
        daemon = Daemon(BIN, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_NOFILE, (limit, limit)))
        self.addCleanup(daemon.close)
        self.assertIn("at most 4 connections, 3 of one user; raise LimitNOFILE", daemon.log_text())
        replay = Replay(daemon, *SMALL, "--steps", "20")
        self.addCleanup(replay.close)
        code, result, err = replay.finish(60)
        self.assertEqual((code, result["mismatches"], result["failed"]), (0, 0, 0), err)
        self.assertGreater(result["planned"], 0, err)

    def test_out_of_descriptors_callers_are_turned_away_and_members_are_served(self):
        limit = 40
        daemon = self.short_of_descriptors(limit)
        replay = Replay(daemon, *SMALL, "--forever")
        self.addCleanup(replay.close)
        wait_until(lambda: daemon.planned() > 5, 60, "steps are planned")
        crowd = []
        for _ in range(2 * limit):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(daemon.socket)
            crowd.append(s)
        wait_until(lambda: "out of file descriptors" in daemon.log_text(), 20, "it says so")
        for s in crowd:
            s.close()
        wait_until(lambda: daemon.status() is not None, 20, "it answers again")
        before = daemon.planned()
        wait_until(lambda: daemon.planned() > before + 20, 60, "the group is planned as before")
        replay.process.terminate()
        code, result, err = replay.finish(60)
        self.assertEqual((code, result["mismatches"], result["failed"]), (0, 0, 0), err)

    def test_a_group_that_finds_no_descriptors_left_is_refused_and_others_go_on(self):
        daemon = self.short_of_descriptors(40)
        big = Replay(daemon, "--ranks", "15", "--experts", "15", "--tokens", "16", "--hidden", "8",
                     "--ffn", "8", "--steps", "5", "--join_timeout_s", "2")
        self.addCleanup(big.close)
        code, result, err = big.finish(60)
        self.assertEqual((code, result["planned"]), (0, 0), err)
        small = Replay(daemon, *SMALL, "--steps", "20")
        self.addCleanup(small.close)
        code, result, err = small.finish(60)
        self.assertEqual(code, 0, err)
        self.assertGreater(result["planned"], 0, err)

    def test_a_listening_socket_of_systemd_is_served(self):
        with tempfile.TemporaryDirectory(prefix="ultraep-test-") as directory:
            path = os.path.join(directory, "ultraepd.sock")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(path)
                listener.listen(16)
                process = self.start_with(listener, path)
                try:
                    ctl = [os.path.join(BIN, "ultraepctl"), "status", "--socket", path]
                    # The socket was there before the daemon: the call waits, it is not refused.
                    done = subprocess.run(ctl, capture_output=True, text=True, timeout=20)
                    self.assertEqual(done.returncode, 0, done.stderr)
                finally:
                    process.terminate()
                    process.wait(timeout=20)
            self.assertTrue(os.path.exists(path), "not ours to remove")

    def test_another_kind_of_handed_socket_is_refused_with_the_fix(self):
        with tempfile.TemporaryDirectory(prefix="ultraep-test-") as directory:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.bind(os.path.join(directory, "s"))
                stream.listen(1)
                process = self.start_with(stream, os.path.join(directory, "t"),
                                          stderr=subprocess.PIPE, text=True)
                _, err = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 1)
                self.assertIn("ListenSequentialPacket=", err)

    def start_with(self, listener, path, **popen):
        """As systemd does: the socket is descriptor 3, the environment says so."""
        fd = listener.fileno()
        shell = f'exec 3<&{fd}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" --socket "$1" --metrics_listen off'
        return subprocess.Popen(["sh", "-c", shell, os.path.join(BIN, "ultraepd"), path],
                                pass_fds=[fd], **popen)


if __name__ == "__main__":
    BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
