"""The status page of a real ultraepd in headless Chromium, while groups come, run, fall back and go.

usage: page_test.py BIN_DIR [PICTURES_DIR]
With PICTURES_DIR it leaves a picture of each scene there, for a person to look at.
"""

import ctypes
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from browser import Browser  # noqa: E402
from processes import Daemon, Replay, wait_until  # noqa: E402

BIN = PICTURES = ""
SMALL = ["--ranks", "4", "--experts", "16", "--tokens", "128", "--hidden", "16", "--ffn", "16"]


NAME = "<img/src='x'onerror='hacked=1'>"


class Config(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("struct_size", "rank")] + [
        ("group_name", ctypes.c_char_p), ("nonce", ctypes.c_uint8 * 16)] + [
        (n, ctypes.c_uint32) for n in (
            "ranks", "experts", "slots", "layers", "window", "slot_sets", "domain_size",
            "training", "shard_count", "gradient_count")] + [
        (n, ctypes.c_uint64 * 8) for n in ("shard_bytes", "gradient_bytes")] + [
        (n, ctypes.c_uint64) for n in (
            "step_timeout_ns", "solve_deadline_ns", "next_sequence", "fallback_tokens")] + [
        (n, ctypes.c_uint32) for n in (
            "copy_threads", "memory", "device", "stream_blocks", "reduce_blocks", "unused")]


class TwoRanks:
    """A group of two ranks in this process, whose name is not nice."""

    def __init__(self, socket):
        os.environ["ULTRAEP_SOCKET"] = socket
        self.lib = ctypes.CDLL(os.path.join(BIN, "..", "lib", "libultraep.so"))
        self.lib.ultraep_last_error.restype = ctypes.c_char_p
        self.lib.ultraep_plan_free.argtypes = [ctypes.c_void_p]
        self.lib.ultraep_detach.argtypes = [ctypes.c_void_p]
        self.clients = []
        for rank in range(2):
            client = ctypes.c_void_p()
            self.call("attach", None, ctypes.byref(client))
            config = Config(struct_size=ctypes.sizeof(Config), rank=rank, ranks=2, experts=4,
                            group_name=NAME.encode(), slots=1, layers=3, window=4, slot_sets=1,
                            step_timeout_ns=60 * 10**9)
            self.clients.append(client)
            if rank:  # now it is complete; the first one's state follows
                self.call("join", client, ctypes.byref(config), ctypes.c_int64(60 * 10**9))
            else:
                self.call("join", client, ctypes.byref(config), ctypes.c_int64(0))

    def call(self, name, *arguments):
        status = getattr(self.lib, "ultraep_" + name)(*arguments)
        assert status == 0, (name, status, self.lib.ultraep_last_error())

    def step(self, sequence, layers):
        row = (ctypes.c_uint32 * 4)(9, 1, 1, 1)
        for client, layer in zip(self.clients, layers):
            self.call("submit_load", client, ctypes.c_uint64(sequence), layer, sequence, row, 4)
        for client in self.clients:
            plan = ctypes.c_void_p()
            self.call("await_verdict", client, ctypes.c_uint64(sequence),
                      ctypes.c_int64(60 * 10**9), ctypes.byref(plan))
            self.lib.ultraep_plan_free(plan)

    def close(self):
        for client in self.clients:
            self.lib.ultraep_detach(client)


class PageTest(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(BIN)
        self.addCleanup(self.daemon.close)
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        port = self.daemon.status()["daemon"]["metrics_port"]
        self.browser.open(f"http://127.0.0.1:{port}/")
        self.see("#state", "live")

    def replay(self, *flags):
        replay = Replay(self.daemon, *SMALL, *flags)
        self.addCleanup(replay.close)
        return replay

    def see(self, selector, pattern, seconds=60):
        """Waits until it says so."""
        wait_until(lambda: re.search(pattern, self.browser.text(selector) or ""), seconds,
                   f"{selector} says {pattern}, not {self.browser.text(selector)!r}")

    def field(self, name):
        return self.browser.text(f".group [data-field={name}]")

    def picture(self, name):
        if PICTURES:
            self.browser.screenshot(os.path.join(PICTURES, name + ".png"))

    def test_from_no_group_over_a_running_one_to_a_daemon_that_is_gone(self):
        self.assertIs(self.browser.value("document.querySelector('#none').hidden"), False)
        self.see("#about", f"pid {self.daemon.process.pid}, up ")
        self.see("[data-field=connections]", "of 2,048")
        self.picture("no_group")

        replay = self.replay("--forever")
        self.see(".group [data-field=gate]", "open")
        self.assertIs(self.browser.value("document.querySelector('#none').hidden"), True)
        self.see(".group [data-field=ranks]", "4 ready")
        self.see(".group [data-field=rate]", r"^[1-9]")
        self.see(".group [data-field=window]", "last [1-9]")
        self.see(".group [data-field=solve_p99]", "\u00b5s|ms")
        self.see(".group [data-field=avoided]", r"^[1-9]")
        before, after = float(self.field("before")), float(self.field("after"))
        self.assertGreater(before, after)
        self.assertGreaterEqual(after, 1)
        planned = int(self.field("planned").replace(",", ""))
        wait_until(lambda: int(self.field("planned").replace(",", "")) > planned, 60, "it goes on")
        lines = "[...document.querySelectorAll('.group path')].map(p => p.getAttribute('d').length)"
        wait_until(lambda: min(self.browser.value(lines)) > 20, 60, "both lines are drawn")
        self.assertEqual(self.field("fallback"), "0")
        steps = self.browser.value("document.querySelectorAll('[data-field=last] tr').length")
        self.assertEqual(steps, 16)
        self.picture("running")

        replay.close()
        wait_until(lambda: self.browser.value("document.querySelectorAll('.group').length") == 0,
                   60, "the group is gone")
        self.assertEqual(self.browser.complaints, [])
        self.daemon.process.terminate()
        self.daemon.process.wait(timeout=20)
        self.see("#banner", "No answer from ultraepd for")
        self.assertEqual(self.browser.text("#state"), "no answer")
        self.assertIs(self.browser.value("document.querySelector('#banner').hidden"), False)
        self.picture("daemon_gone")

    def test_a_fallback_is_told_with_its_reason_and_a_name_is_only_a_name(self):
        ranks = TwoRanks(self.daemon.socket)
        self.addCleanup(ranks.close)
        step = 0
        while self.daemon.planned() == 0:  # declined until both ranks are let in
            ranks.step(step, (0, 0))
            step += 1
        ranks.step(step, (1, 2))
        row = "#fallbacks tbody tr td"
        self.see(row + ":nth-child(6)", "^order_mismatch$")
        self.assertEqual(self.browser.text(row + ":nth-child(2)"), NAME)
        self.assertEqual(self.browser.text(row + ":nth-child(3)"), str(step))
        self.assertIn("different layers", self.browser.text(row + ":nth-child(7)"))
        self.see(".group [data-field=fallback]", "^1$")
        self.assertEqual(self.browser.text(".group [data-field=name]"), NAME)
        self.assertEqual(self.browser.value("document.querySelectorAll('img').length"), 0)
        self.assertEqual(self.browser.value("typeof hacked"), "undefined")
        self.assertEqual(self.browser.complaints, [])
        self.picture("fallback")


if __name__ == "__main__":
    BIN = os.path.abspath(sys.argv.pop(1))
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        PICTURES = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
