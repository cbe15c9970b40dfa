"""`ultraepctl report`: pages opened in headless Chromium, and what is refused.

usage: report_command_test.py BIN_DIR
"""

import html
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

import numpy as np

BIN = ""


def run(*arguments):
    return subprocess.run([os.path.join(BIN, "ultraepctl"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=60)


def open_page(path, fragment=""):
    """The page's document after its scripts have run, without them."""
    with tempfile.TemporaryDirectory(prefix="ultraep-chromium-") as profile:
        done = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,2000",
             f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom",
             f"file://{path}{fragment}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return re.sub(r"(?s)<script.*?</script>|<style.*?</style>", "", done.stdout)


def text_of(document, identifier):
    """The texts inside the element of that id, joined."""
    found = re.search(rf'(?s)<(\w+)[^>]*\bid="{identifier}"[^>]*>(.*?)</\1>', document)
    return html.unescape(re.sub(r"<[^>]*>", " ", found[2]))


def tiles(document):
    return {html.unescape(name): html.unescape(value) for name, value in re.findall(
        r'<div class="name">([^<]*)</div><div class="value">([^<]*)</div>', document)}


class ReportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ultraep-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def loads(self, name, shape, seed=1):
        rng = np.random.default_rng(seed)
        loads = rng.poisson(40 * rng.gamma(1, 1, shape[-1]), shape).astype(np.uint32)
        np.save(self.path(name), loads)
        return loads

    def report(self, *arguments):
        done = run("report", *arguments, "-o", self.path("r.html"), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def refused(self, wanted, *arguments, status=1):
        done = run("report", *arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertIn(wanted, done.stderr)

    def test_the_page_draws_everything_and_opens_the_step_it_is_asked_for(self):
        loads = self.loads("l.npy", (30, 3, 4, 16))
        done = self.report(self.path("l.npy"), "--slots", 2)
        self.assertEqual((done["steps"], done["steps_in_full"], done["steps_compared"]), (90, 90, 90))
        page = open_page(self.path("r.html"), "#step=64")
        self.assertIn('data-state="ready"', page, text_of(page, "errors"))
        self.assertEqual(text_of(page, "errors"), "")
        self.assertIn('data-plots="15"', page)
        self.assertIn('data-step="64"', page)

        mains = loads.reshape(90, 4, 4, 4).sum(axis=(1, 3)).astype(int)  # [step][home rank]
        before = mains.max(axis=1) * 4 / mains.sum(axis=1)
        values = tiles(page)
        self.assertRegex(values["imbalance, mean"], rf"^{before.mean():.3f} . 1\.\d\d\d$")
        self.assertRegex(values["imbalance, worst"], rf"^{before.max():.3f} ")
        # The single step, against ultraepctl plan on the same matrix.
        np.save(self.path("one.npy"), loads.reshape(90, 4, 16)[64])
        plan = json.loads(run("plan", self.path("one.npy"), "--slots", 2, "--json").stdout)["plans"][0]
        self.assertEqual(values["fullest rank"], f"{mains[64].max():,} \u2192 {plan['peak']:,}")
        self.assertEqual(values["replicas"], str(len(plan["replicas"])))
        table = text_of(page, "step-replicas").split()
        self.assertIn(str(plan["replicas"][0]["expert"]), table)
        for name in ("none", "ultraep", "eplb-global", "moonep-fill", "least-loaded-spill"):
            self.assertIn(name, text_of(page, "planners"))

    def test_a_hostile_name_stays_text_and_a_step_that_is_not_held_says_so(self):
        self.loads("l.npy", (3000, 4, 64))
        done = run("trace", "convert", self.path("l.npy"), "-o", self.path("t"))
        self.assertEqual(done.returncode, 0, done.stderr)
        name = "</script><img src=x onerror=\"fail('broken out')\"><!--<script>"
        with open(self.path("t/trace.json"), "r+") as file:
            info = json.load(file)
            file.seek(0)
            json.dump({**info, "group": name}, file)
            file.truncate()
        self.report(self.path("t"), "--slots", 1, "--baseline-steps", 0, "--max-mib", 1)
        page = open_page(self.path("r.html"), "#step=1001")
        self.assertIn('data-state="ready"', page, text_of(page, "errors"))
        self.assertEqual(text_of(page, "errors"), "")
        self.assertIn(name, text_of(page, "subtitle"))
        self.assertIn("Step 1001 is not held in full", text_of(page, "step-note"))
        self.assertIn('href="#step=1002"', page)
        self.assertRegex(page, r'id="layers-section"[^>]*hidden')

    def test_the_page_stays_bounded_and_holds_the_steps_asked_for(self):
        self.loads("l.npy", (400, 20, 8, 32))
        plotly = os.path.getsize("/usr/share/python3-plotly/plotly.js")
        sizes = []
        for mib in (1, 4):
            done = self.report(self.path("l.npy"), "--slots", 3, "--max-mib", mib, "--steps",
                               "7000-7100", "--baseline-steps", 20)
            self.assertEqual(done["steps"], 8000)
            self.assertLessEqual(done["data_bytes"], mib * 2**20 * 1.1)
            sizes.append(os.path.getsize(self.path("r.html")) - plotly)
            with open(self.path("r.html")) as file:
                data = re.search(r'(?s)id="data">(.*?)</script>', file.read())[1]
            held = json.loads(data)["details"]["steps"]
            self.assertTrue(all(str(n) in held for n in range(7000, 7101)))
            self.assertLess(len(held), 800)
        self.assertLess(sizes[0], 1.2 * 2**20)
        self.assertLess(sizes[1], 4.2 * 2**20)

    def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(self):
        self.loads("l.npy", (3, 2, 4))
        page = self.path("r.html")
        self.refused("--slots", self.path("l.npy"), "-o", page)
        with open(page, "w") as file:
            file.write("the last one")
        with open(self.path("other.js"), "w") as file:
            file.write("nothing")
        for plotly, wanted in ((self.path("none.js"), "cannot be read"),
                               (self.path("other.js"), "is not plotly.js")):
            self.refused(wanted, self.path("l.npy"), "--slots", 1, "-o", page, "--plotly", plotly)
            self.refused("apt-get install python3-plotly", self.path("l.npy"), "--slots", 1, "-o",
                         page, "--plotly", plotly)
        self.refused("cannot be written", self.path("l.npy"), "--slots", 1, "-o", "/nowhere/r.html")
        self.refused("-o is missing", self.path("l.npy"), status=2)
        self.refused("0 traces given", "-o", page, status=2)
        self.refused("--steps is '2-3'", self.path("l.npy"), "--slots", 1, "-o", page, "--steps", "2-3")
        np.save(self.path("empty.npy"), np.ones((0, 2, 4), np.uint32))
        self.refused("has no steps", self.path("empty.npy"), "--slots", 1, "-o", page)
        with open(page) as file:
            self.assertEqual(file.read(), "the last one")
        self.assertEqual(sorted(os.listdir(self.folder)), ["empty.npy", "l.npy", "other.js", "r.html"])


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
