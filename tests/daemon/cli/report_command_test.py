"""`ultraepctl report`: pages opened in headless Chromium, and what is refused.

usage: report_command_test.py BIN_DIR
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
from browser import Browser  # noqa: E402
from processes import wait_until  # noqa: E402

BIN = ""


def run(*arguments):
    return subprocess.run([os.path.join(BIN, "ultraepctl"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=60)


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

    def open(self, fragment=""):
        browser = Browser()
        self.addCleanup(browser.close)
        browser.open(f"file://{self.path('r.html')}{fragment}")
        wait_until(lambda: browser.value("document.body.dataset.state") != "loading", 120, "plots")
        self.assertEqual(browser.text("#errors"), "")
        self.assertEqual(browser.value("document.body.dataset.state"), "ready")
        self.assertEqual(browser.complaints, [])
        return browser

    def tiles(self, browser, parent):
        return dict(browser.value(
            f"[...document.querySelectorAll('#{parent} .tile')].map(t => "
            "[t.querySelector('.name').textContent, t.querySelector('.value').textContent])"))

    def check_step(self, browser, number, loads):
        """The single step on the page, against `ultraepctl plan` on the same matrix."""
        wait_until(lambda: browser.value("document.body.dataset.step") == str(number), 60, "step")
        np.save(self.path("one.npy"), loads[number])
        plan = json.loads(run("plan", self.path("one.npy"), "--slots", 2, "--json").stdout)["plans"][0]
        values = self.tiles(browser, "step-tiles")
        before = loads[number].sum(axis=0).reshape(loads.shape[1], -1).sum(axis=1).max()
        self.assertEqual(values["fullest rank"], f"{before:,} \u2192 {plan['peak']:,}")
        self.assertEqual(values["replicas"], str(len(plan["replicas"])))
        shown = browser.value("[...document.querySelectorAll('#step-replicas tbody tr')].map(r => "
                              "[...r.cells].map(c => c.textContent))")
        wanted = [[str(i), str(t["expert"]), str(t["from_rank"]), str(t["to_rank"]), str(t["slot"]),
                   f"{r['tokens']:,}"]
                  for i, (t, r) in enumerate(zip(plan["transfers"], plan["replicas"]))]
        self.assertEqual([row[:2] + row[3:7] for row in shown], wanted)
        # What is drawn: the bars of a rank add up to its tokens.
        highest = browser.value(
            "Math.max(...document.getElementById('step-after').data.filter(t => t.type === 'bar' && "
            "t.y[0] !== null).map(t => t.y).reduce((a, b) => a.map((v, i) => v + b[i])))")
        self.assertEqual(highest, plan["peak"])

    def test_the_page_draws_everything_and_opens_single_steps(self):
        loads = self.loads("l.npy", (30, 3, 4, 16))
        done = self.report(self.path("l.npy"), "--slots", 2)
        self.assertEqual((done["steps"], done["steps_in_full"], done["steps_compared"]), (90, 90, 90))
        browser = self.open("#step=64")
        self.assertEqual(browser.value("document.body.dataset.plots"), "15")
        flat = loads.reshape(90, 4, 16)
        mains = flat.sum(axis=1).reshape(90, 4, 4).sum(axis=2).astype(int)  # [step][rank]
        before = mains.max(axis=1) * 4 / mains.sum(axis=1)
        mean = mains.max(axis=1).sum() * 4 / mains.sum()
        values = self.tiles(browser, "tiles")
        self.assertRegex(values["imbalance, mean"], rf"^{mean:.3f} . 1\.\d\d\d$")
        self.assertRegex(values["imbalance, worst"], rf"^{before.max():.3f} ")
        drawn = browser.value("document.getElementById('imbalance-time').data.find(t => t.name === "
                              "'before').y")
        self.assertTrue(np.allclose(drawn, before, atol=1e-4))
        heat = browser.value("document.getElementById('rank-before').data[0].z.map(r => [...r])")
        self.assertTrue(np.allclose(heat, self.relative(mains), atol=1e-3))
        names = browser.value("[...document.querySelectorAll('#planners tbody tr')].map(r => "
                              "r.cells[0].textContent)")
        self.assertEqual(names[:2], ["none", "ultraep"])
        self.assertIn("least-loaded-spill", names)
        self.check_step(browser, 64, flat)
        browser.value("document.getElementById('imbalance-time').emit('plotly_click', "
                      "{points: [{x: 17}]})")
        self.check_step(browser, 17, flat)
        browser.value("document.getElementById('step-next').click()")
        self.check_step(browser, 18, flat)
        browser.call("Emulation.setEmulatedMedia",
                     features=[{"name": "prefers-color-scheme", "value": "dark"}])
        wait_until(lambda: browser.value("document.getElementById('step-after').layout.font.color")
                   == "#e4e7eb", 60, "plots are drawn for a dark page")
        self.assertEqual(browser.complaints, [])

    @staticmethod
    def relative(mains):
        """[rank][round]: the mean over a round's three layers of a rank's share of the step."""
        share = mains / mains.mean(axis=1, keepdims=True)
        return share.reshape(30, 3, 4).mean(axis=1).T

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
        self.report(self.path("t"), "--slots", 3, "--baseline-steps", 0, "--max-mib", 1)
        browser = self.open("#step=1001")
        self.assertIn(name, browser.text("#subtitle"))
        self.assertIn("Step 1001 is not held in full", browser.text("#step-note"))
        browser.value("document.querySelector('#step-note a').click()")
        wait_until(lambda: browser.value("document.body.dataset.step") != "1001", 60, "another step")
        self.assertFalse(browser.value("document.getElementById('step-body').hidden"))
        self.assertTrue(browser.value("document.getElementById('layers-section').hidden"))

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

    def test_into_a_pipe_through_a_link_and_of_a_trace_that_is_not_whole(self):
        self.loads("l.npy", (3, 2, 4))
        run("trace", "convert", self.path("l.npy"), "-o", self.path("t"))
        with open(self.path("t/trace.json")) as file:
            info = json.load(file)
        with open(self.path("t/trace.json"), "w") as file:
            json.dump({**info, "steps": 5}, file)
        arguments = [self.path("t"), "--slots", 1, "--baseline-steps", 0, "-o"]
        done = run("report", *arguments, "/dev/stdout")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('"steps_lost":2', done.stdout)
        self.assertTrue(done.stdout.endswith("3 of 5 steps are whole\n"), done.stdout[-200:])
        os.symlink("r.html", self.path("link.html"))
        with open(self.path("r.html"), "w") as file:
            file.write("the last one")
        self.assertEqual(run("report", *arguments, self.path("link.html")).returncode, 0)
        self.assertTrue(os.path.islink(self.path("link.html")))
        self.assertGreater(os.path.getsize(self.path("r.html")), 100)

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
        os.mkdir(self.path("t"))
        os.link(self.path("l.npy"), self.path("t/l.html"))
        self.refused("is a file that is read", self.path("l.npy"), "--slots", 1, "-o",
                     self.path("t/l.html"))
        self.assertEqual(np.load(self.path("l.npy")).shape, (3, 2, 4))
        os.remove(self.path("t/l.html"))
        os.rmdir(self.path("t"))
        with open(page) as file:
            self.assertEqual(file.read(), "the last one")
        self.assertEqual(sorted(os.listdir(self.folder)), ["empty.npy", "l.npy", "other.js", "r.html"])


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
