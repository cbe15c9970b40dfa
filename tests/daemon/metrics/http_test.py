"""A real ultraepd over HTTP: paths, methods, slow clients, taken ports, bad flags; what promtool says of
the metrics; the table of metrics.

usage: http_test.py BIN_DIR SOURCE_DIR
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = SOURCE = ""
SMALL = ["--ranks", "2", "--experts", "8", "--tokens", "64", "--hidden", "16", "--ffn", "16"]


def series_of(text):
    """'name{labels}' -> value."""
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in text.splitlines() if line and not line.startswith("#")}


class HttpTest(unittest.TestCase):
    def daemon(self, *flags):
        daemon = Daemon(BIN, *flags)
        self.addCleanup(daemon.close)
        # It answers status before it has a port for metrics.
        wait_until(lambda: " serves " in daemon.log_text(), 60, "the daemon has started")
        return daemon

    def start(self, *flags):
        daemon = self.daemon(*flags)
        self.port = daemon.status()["daemon"]["metrics_port"]
        return daemon

    def ask(self, path, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()

    def file(self, name):
        with open(os.path.join(SOURCE, name)) as file:
            return file.read()

    def metrics(self):
        return self.ask("/metrics")[2]

    def test_each_path_answers_in_its_way_and_others_are_404(self):
        daemon = self.start()
        for path, kind in (("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
                           ("/", "text/html; charset=utf-8"), ("/status.json", "application/json"),
                           ("/healthz", "text/plain; charset=utf-8"),
                           ("/readyz", "text/plain; charset=utf-8")):
            status, headers, body = self.ask(path)
            self.assertEqual((status, headers["Content-Type"]), (200, kind), path)
            self.assertEqual(int(headers["Content-Length"]), len(body.encode()), path)
            self.assertEqual(headers["Connection"], "close", path)
            status, headers, empty = self.ask(path, "HEAD")
            self.assertEqual((status, empty), (200, ""), path)
            self.assertGreater(int(headers["Content-Length"]), 0, path)
        self.assertEqual(self.ask("/healthz")[2], "ok\n")
        self.assertEqual(json.loads(self.ask("/status.json")[2])["daemon"]["pid"],
                         daemon.process.pid)
        self.assertEqual(self.ask("/metrics?name[]=x")[0], 200)
        for path in ("/nothing", "/metrics/", "/metrics2", "/../etc/passwd",
                     "/%2e%2e/etc/passwd", "/status"):
            status, _, body = self.ask(path)
            self.assertEqual(status, 404, path)
            self.assertIn("/metrics", body)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            status, headers, _ = self.ask("/metrics", method)
            self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"), method)

    def test_promtool_has_nothing_to_say_and_names_are_those_of_the_table(self):
        daemon = self.start("--metrics_detail_series", "100")
        replay = Replay(daemon, *SMALL, "--layers", "3", "--train", "--forever")
        self.addCleanup(replay.close)
        wait_until(lambda: daemon.planned() > 20, 60, "steps are planned")
        text = self.metrics()
        checked = subprocess.run(["promtool", "check", "metrics", "--extended"], input=text,
                                 capture_output=True, text=True, timeout=60)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""), checked.stdout)
        total = int(re.search(r"^Total +(\d+)", checked.stdout, re.M)[1])
        self.assertEqual(total, len(series_of(text)))
        table = subprocess.run([os.path.join(BIN, "ultraepd"), "--metrics_table"],
                               capture_output=True, text=True, timeout=60, check=True).stdout
        rows = {name: kind for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.M)}
        there = dict(re.findall(r"^# TYPE (\w+) (\w+)", text, re.M))
        self.assertEqual(there, rows)
        names = self.file("daemon/metrics/names.h")
        self.assertEqual(set(re.findall(r'"((?:ultraep|process)_\w+)",', names)), set(rows))
        self.assertTrue(self.file("dashboards/metrics.md").endswith("\n\n" + table),
                        "dashboards/metrics.md ends with what ultraepd --metrics_table prints")

    def test_a_scrape_says_what_status_says(self):
        daemon = self.start()
        replay = Replay(daemon, *SMALL, "--steps", "40")
        self.addCleanup(replay.close)
        code, _, err = replay.finish(60)
        self.assertEqual(code, 0, err)
        wait_until(lambda: not daemon.status()["groups"], 20, "the group is closed")
        first = series_of(self.metrics())
        steps = [key for key in first if key.startswith("ultraep_steps_total") and "plan" in key]
        self.assertEqual(len(steps), 1, "closed groups are still counted")
        self.assertGreater(first[steps[0]], 0)
        self.assertEqual(first["ultraep_solve_seconds_count"], first[steps[0]])
        self.assertEqual(first['ultraep_solve_seconds_bucket{le="+Inf"}'], first[steps[0]])
        self.assertIn('ultraep_solve_seconds_bucket{le="7.5e-05"}', first)
        self.assertIn('ultraep_solve_seconds_bucket{le="0.0001"}', first)
        self.assertEqual(first["ultraep_groups"], 0)
        again = series_of(self.metrics())
        self.assertEqual(again["ultraep_scrapes_total"], first["ultraep_scrapes_total"] + 1)

    def test_clients_that_say_nothing_hold_up_a_scrape_for_the_timeout_at_most(self):
        self.start()
        idle = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(10)]
        idle[0].sendall(b"GET /metr")
        status, _, body = self.ask("/metrics")  # fails after 60 s; civetweb's own limit is 30 s
        self.assertEqual(status, 200)
        self.assertIn("ultraep_groups 0", body)
        for s in idle:
            s.settimeout(60)
            self.assertIn(s.recv(1 << 16)[:5], (b"", b"HTTP/"))
            s.close()

    def test_the_daemon_ends_at_once_also_with_clients_that_say_nothing(self):
        daemon = self.start()
        idle = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(3)]
        self.assertEqual(self.ask("/healthz")[0], 200)
        daemon.process.terminate()
        self.assertEqual(daemon.process.wait(timeout=20), 0)
        for s in idle:
            s.close()

    def test_a_taken_port_leaves_a_daemon_without_metrics_that_says_what_to_do(self):
        self.start()
        second = self.daemon("--metrics_listen", f"127.0.0.1:{self.port}")
        self.assertEqual(second.status()["daemon"]["metrics_port"], 0)
        self.assertRegex(second.log_text(), r"error: no metrics: .*in use.*--metrics_listen")
        replay = Replay(second, *SMALL, "--steps", "5")
        self.addCleanup(replay.close)
        code, result, err = replay.finish(60)
        self.assertEqual(code, 0, err)
        self.assertGreater(result["planned"], 0)

    def test_off_listens_nowhere_and_other_interfaces_get_a_warning(self):
        daemon = self.start("--metrics_listen", "off")
        self.assertEqual(self.port, 0)
        with open(f"/proc/{daemon.process.pid}/net/tcp") as sockets:
            inodes = {line.split()[9] for line in sockets.readlines()[1:]}
        folder = f"/proc/{daemon.process.pid}/fd"
        mine = {os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder)}
        self.assertFalse({f"socket:[{inode}]" for inode in inodes} & mine)
        self.assertNotIn("warning", daemon.log_text())
        self.assertIn("reverse proxy", self.start("--metrics_listen", "0.0.0.0:0").log_text())

    def test_bad_flags_are_refused_with_the_fix(self):
        for value, fix in (("9478", "127.0.0.1:9478"), ("localhost", "HOST:PORT"),
                           ("[::1]:80", "IPv4"), ("127.0.0.1:80s", "0..65535")):
            done = subprocess.run([os.path.join(BIN, "ultraepd"), "--metrics_listen", value],
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2, value)
            self.assertIn(f"--metrics_listen is '{value}'", done.stderr)
            self.assertIn(fix, done.stderr)
        done = subprocess.run([os.path.join(BIN, "ultraepd"), "--metrics_detail_series", "20001"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("0..20000", done.stderr)


if __name__ == "__main__":
    BIN, SOURCE = (os.path.abspath(sys.argv.pop(1)) for _ in range(2))
    unittest.main(verbosity=2)
