"""`ultraepctl top` on a real terminal (tmux) and without one, beside a real daemon and replay.

usage: top_command_test.py BIN_DIR
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = ""


def run(*arguments, **environment):
    return subprocess.run([os.path.join(BIN, "ultraepctl"), "top", *arguments], capture_output=True,
                          text=True, timeout=60, env={**os.environ, **environment})


class Terminal:
    """A tmux server of its own with one window, in which a shell runs `ultraepctl top`."""

    def __init__(self, folder, *arguments, columns=120, lines=30, **environment):
        self.socket = os.path.join(tempfile.mkdtemp(dir=folder), "tmux")
        command = shlex.join([os.path.join(BIN, "ultraepctl"), "top", *arguments])
        settings = {"LC_ALL": "C.UTF-8", **environment}
        settings = " ".join(f"{name}={value}" for name, value in settings.items())
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines),
                  f"echo as it was; {settings} {command}; echo ended $?; cat")

    def tmux(self, *arguments):
        done = subprocess.run(["tmux", "-u", "-S", self.socket, *arguments], capture_output=True,
                              encoding="utf-8", timeout=20)
        return done.stdout

    def text(self, *flags):
        return self.tmux("capture-pane", "-p", *flags)

    def is_set(self, name):
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip() == "1"

    def keys(self, *keys):
        self.tmux("send-keys", *keys)

    def resize(self, columns, lines):
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def pid(self):
        shell = self.tmux("display-message", "-p", "#{pane_pid}").strip()
        with open(f"/proc/{shell}/task/{shell}/children") as children:
            return int(children.read().split()[0])

    def close(self):
        self.tmux("kill-server")


class TopTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)

    def replay(self):
        replay = Replay(self.daemon, "--ranks", "2", "--experts", "8", "--tokens", "64",
                        "--forever")
        self.addCleanup(replay.close)
        wait_until(lambda: self.daemon.planned() > 5, 60, "steps are planned")

    def terminal(self, *arguments, **options):
        terminal = Terminal(self.daemon.directory, "--socket", self.daemon.socket, *arguments,
                            **options)
        self.addCleanup(terminal.close)
        return terminal

    def until(self, terminal, *parts):
        """Waits until the screen holds all of the parts; returns it."""
        text = ""

        def holds():
            nonlocal text
            text = terminal.text()
            return all(part in text for part in parts)

        try:
            wait_until(holds, 30, parts)
        except AssertionError:
            raise AssertionError(f"{parts} not in\n{text}") from None
        return text

    def imbalance(self, terminal):
        """Before and after, of the first interval in which steps were planned."""
        found = []

        def planned():
            rows = [line for line in terminal.text().splitlines() if " open " in line]
            found[:] = re.findall(r" (\d\.\d{3}) ", rows[0]) if rows else []
            return len(found) == 2

        wait_until(planned, 30, "the group's row")
        return map(float, found)

    def gave_back(self, terminal):
        text = self.until(terminal, "as it was", "ended 0")
        self.assertNotIn("STEPS/s", text)
        self.assertFalse(terminal.is_set("alternate_on"))
        self.assertTrue(terminal.is_set("cursor_flag"))
        terminal.keys("-l", "typed")
        self.until(terminal, "typed")  # echo is on again

    def test_it_shows_the_group_and_obeys_its_keys(self):
        self.replay()
        terminal = self.terminal("--interval", "0.2")
        text = self.until(terminal, "2/2", "open", "\u2588", "\u2581", "LAST EVENTS", "opened")
        self.assertIn(f"pid {self.daemon.process.pid}", text)
        self.assertTrue(terminal.is_set("alternate_on"))
        self.assertFalse(terminal.is_set("cursor_flag"))
        before, after = self.imbalance(terminal)
        self.assertGreater(before, after)
        self.assertGreaterEqual(after, 1)
        terminal.keys("s")
        self.until(terminal, "sort: steps")
        terminal.keys("+")
        self.until(terminal, "interval: 0.5 s")
        terminal.keys("-")
        self.until(terminal, "interval: 0.2 s")
        terminal.keys("p")
        self.until(terminal, "PAUSED")
        terminal.keys("p")
        wait_until(lambda: "PAUSED" not in terminal.text(), 20, "it goes on")
        terminal.keys("q")
        self.gave_back(terminal)

    def test_it_fits_into_whatever_the_terminal_is(self):
        self.replay()
        terminal = self.terminal("--interval", "0.2")
        self.until(terminal, "2/2", "STREAM", "AVOIDED/s")
        terminal.resize(60, 12)
        wait_until(lambda: "AVOIDED/s" not in terminal.text(), 20, "columns are dropped")
        text = self.until(terminal, "BEFORE", "AFTER", "q quit")
        self.assertLessEqual(max(map(len, text.splitlines())), 60)
        terminal.resize(160, 40)
        self.until(terminal, "AVOIDED/s", "IN ALL")
        for columns, lines in ((20, 3), (1, 1), (120, 30)):
            terminal.resize(columns, lines)
        self.until(terminal, "AVOIDED/s", "q quit")

    def test_it_goes_on_with_the_next_daemon(self):
        self.replay()
        terminal = self.terminal("--interval", "0.2")
        self.until(terminal, "2/2")
        self.daemon.process.kill()
        self.daemon.process.wait()
        text = self.until(terminal, "daemon gone, retrying")
        self.assertNotIn("STEPS/s", text)
        self.daemon.restart()
        self.until(terminal, f"pid {self.daemon.process.pid}", "2/2", "open")

    def test_signals_give_the_terminal_back(self):
        for how in ("SIGINT", "SIGTERM", "SIGHUP"):
            with self.subTest(how):
                terminal = self.terminal()
                self.until(terminal, "no groups")
                if how == "SIGINT":
                    terminal.keys("C-c")
                else:
                    os.kill(terminal.pid(), signal.Signals[how])
                self.gave_back(terminal)
                terminal.close()

    def test_stopped_it_gives_the_terminal_back_and_takes_it_again(self):
        terminal = self.terminal()
        self.until(terminal, "no groups")
        pid = terminal.pid()
        terminal.keys("C-z")
        wait_until(lambda: not terminal.is_set("alternate_on"), 20, "the screen is given back")
        os.kill(pid, signal.SIGCONT)
        self.until(terminal, "no groups")
        self.assertTrue(terminal.is_set("alternate_on"))
        terminal.keys("q")
        self.until(terminal, "as it was")

    def test_colours_and_blocks_can_be_done_without(self):
        self.replay()
        terminal = self.terminal("--interval", "0.2", LC_ALL="C", NO_COLOR="1")
        self.until(terminal, "2/2", "#", "_")
        self.assertNotIn("\033", terminal.text("-e"))
        self.assertTrue(terminal.text().isascii())
        terminal.close()
        terminal = self.terminal("--interval", "0.2", "--ascii")
        self.until(terminal, "2/2", "#", "_")
        self.assertTrue(terminal.text().isascii())
        self.assertIn("\033", terminal.text("-e"))

    def test_without_a_terminal_it_prints_plain_blocks(self):
        self.replay()
        done = run("--socket", self.daemon.socket, "--interval", "0.3", "--iterations", "2")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertNotIn("\033", done.stdout)
        self.assertEqual(done.stdout.count("STEPS/s"), 2)
        self.assertEqual(done.stdout.count("LAST EVENTS"), 1, "each event is said once")
        self.assertTrue(all(line == line.rstrip() or " 2/2 " in line or "STEPS/s" in line
                            for line in done.stdout.splitlines()))
        narrow = run("--socket", self.daemon.socket, "--interval", "0.1", "--once", COLUMNS="50")
        self.assertLessEqual(max(map(len, narrow.stdout.splitlines())), 50)

    def test_json_is_one_line_per_interval(self):
        self.replay()
        done = run("--socket", self.daemon.socket, "--interval", "0.2", "--iterations", "10",
                   "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(len(lines), 10)
        groups = [line["groups"][0] for line in lines]
        for line, group in zip(lines, groups):
            self.assertEqual(line["daemon"]["pid"], self.daemon.process.pid)
            self.assertGreaterEqual(line["interval_seconds"], 0.2)
            self.assertGreaterEqual(line["cpu_share"], 0)
            self.assertEqual((group["ranks"], group["ranks_ready"], group["gate"]), (2, 2, "open"))
        planned = [group for group in groups if group["steps_per_second"] > 0]
        self.assertTrue(planned)
        for group in planned:
            self.assertGreaterEqual(group["imbalance_before"], group["imbalance_after"])
            self.assertGreater(group["plan_p99_us"], 0)

    def test_what_is_not_understood_is_refused(self):
        for status, arguments, part in ((1, ["--interval", "0"], "0.1..3600"),
                                        (1, ["--interval", "nan"], "0.1..3600"),
                                        (1, ["--sort", "size"], "imbalance"),
                                        (2, ["--slots", "2"], "does not take --slots"),
                                        (2, ["argument"], "argument"),
                                        (1, ["--socket", "/nowhere/socket"], "/nowhere/socket")):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (status, ""), arguments)
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
