"""`ultraepctl trace`: import, convert and info on files; numpy is the other reader and writer.

usage: trace_command_test.py BIN_DIR
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

BIN = ""


def run(*arguments, **options):
    return subprocess.run([os.path.join(BIN, "ultraepctl"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=60, **options)


class TraceCommandTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ultraep-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def json(self, *arguments):
        done = run("trace", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def refused(self, wanted, *arguments, status=1):
        done = run("trace", *arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertIn(wanted, done.stderr)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def test_sglang_counts_become_loads_of_even_sources(self):
        counts = np.random.default_rng(1).integers(0, 1000, (3, 4, 8), dtype=np.int32)
        counts[1] = 0       # a step of the recorder's buffer that nobody filled
        counts[:, 0] = 0    # a dense layer
        np.save(self.path("counts.npy"), counts)
        done = self.json("import", self.path("counts.npy"), "--ranks", 4, "-o", self.path("t"))
        self.assertEqual((done["steps"], done["empty_left_out"]), (6, 6))
        loads = np.load(self.path("t/loads.npy"))
        self.assertEqual((loads.dtype, loads.shape), (np.uint32, (6, 4, 8)))
        kept = counts.reshape(12, 8)[counts.reshape(12, 8).any(axis=1)]
        self.assertTrue((loads.sum(axis=1) == kept).all())
        self.assertLessEqual((loads.max(axis=1) - loads.min(axis=1)).max(), 1)
        self.assertTrue((np.diff(loads.astype(int), axis=1) <= 0).all(), "remainder to the first")
        steps = np.load(self.path("t/steps.npy"))
        with open(self.path("t/trace.json")) as file:
            columns = json.load(file)["step_columns"]
        self.assertEqual(list(steps[:, columns.index("layer")]), [1, 2, 3, 1, 2, 3])
        self.assertEqual(list(steps[:, columns.index("microbatch")]), [0, 0, 0, 2, 2, 2])
        mains = loads.sum(axis=1).reshape(6, 4, 2).sum(axis=2)
        self.assertTrue((steps[:, columns.index("peak_before")] == mains.max(axis=1)).all())

        done = self.json("convert", self.path("t"), "-o", self.path("loads.npy"))
        self.assertEqual((done["rounds"], done["layers"], done["steps_left_out"]), (2, [1, 2, 3], 0))
        self.assertTrue((np.load(self.path("loads.npy")) == loads.reshape(2, 3, 4, 8)).all())

    def test_csv_of_layer_expert_count_in_all_its_forms(self):
        for header in ("", "layer,expert,count\n", "layer_id,expert_id,count\n"):
            path = self.write("a.csv", header + "0,0,7\n0,5,4\n2,1,9\n")
            done = self.json("import", path, "--ranks", 2, "-o", self.path("t"), "--force")
            self.assertEqual((done["steps"], done["experts"], done["layers"]), (2, 6, 3))
            loads = np.load(self.path("t/loads.npy"))
            self.assertEqual(loads[0].tolist(), [[4, 0, 0, 0, 0, 2], [3, 0, 0, 0, 0, 2]])
        path = self.write("b.csv", "count,rank,step,expert,layer\n5,1,8,3,0\n6,0,9,0,0\n")
        self.json("import", path, "--ranks", 2, "--experts", 8, "-o", self.path("u"))
        loads = np.load(self.path("u/loads.npy"))
        self.assertEqual((loads.shape, loads[0, 1, 3], loads[1, 0, 0]), ((2, 2, 8), 5, 6))

    def test_csv_that_cannot_be_is_refused_with_its_line(self):
        for text, wanted in (("0,0,1\n0,0,2\n", "a.csv:2: expert 0"),
                             ("0,0,1\n1,0,1\n0,1,1\n", "a.csv:3: rows of step 0, layer 0"),
                             ("0,0,-1\n", "a.csv:1: count is '-1'"),
                             ("0,5000,1\n", "expert is '5000'"),
                             ("layer,expert,tokens\n", "column 'tokens'"),
                             ("0,1\n", "2 columns"), ("0,0,1\n0,0\n", "a.csv:2: 2 columns"),
                             ("", "no rows"), ("0,0,%d\n" % 2**40, "must be 0.."),
                             ("\0\xff,,,\n", "a.csv:1")):
            path = self.write("a.csv", text)
            self.refused(wanted, "import", path, "--ranks", 2, "-o", self.path("t"), "--force")
        path = self.write("a.csv", "0,0,1\n")
        self.refused("--ranks is missing", "import", path, "-o", self.path("t"))
        self.refused("cannot be read", "import", self.path("none.csv"), "--ranks", 2, "-o", "x")
        self.refused("the directory above", "import", path, "--ranks", 2, "-o", "/nowhere/at/all")

    def test_csv_there_and_back_gives_the_same_loads(self):
        loads = np.random.default_rng(2).integers(0, 50, (5, 2, 3, 6), dtype=np.uint32)
        np.save(self.path("loads.npy"), loads)
        self.json("convert", self.path("loads.npy"), "-o", self.path("a.csv"), "--by-rank")
        self.json("import", self.path("a.csv"), "--ranks", 3, "-o", self.path("t"))
        self.assertTrue((np.load(self.path("t/loads.npy")) == loads.reshape(10, 3, 6)).all())
        self.json("convert", self.path("loads.npy"), "-o", self.path("b.csv"), "--steps", "3")
        rows = np.loadtxt(self.path("b.csv"), delimiter=",", skiprows=1, dtype=int)
        sums = loads.reshape(10, 3, 6)[3].sum(axis=0)
        self.assertEqual(rows.tolist(), [[3, 1, e, sums[e]] for e in range(6) if sums[e]])

    def test_rounds_that_are_not_whole_are_left_out_and_counted(self):
        loads = np.arange(1, 1 + 9 * 2 * 4, dtype=np.uint32).reshape(9, 1, 2, 4)
        np.save(self.path("loads.npy"), loads.reshape(3, 3, 2, 4))
        done = self.json("convert", self.path("loads.npy"), "--steps", "1-7", "-o",
                         self.path("part"))
        self.assertEqual(done["steps"], 7)
        done = self.json("convert", self.path("part"), "-o", self.path("whole.npy"))
        self.assertEqual((done["rounds"], done["steps_left_out"]), (1, 4))
        self.assertTrue((np.load(self.path("whole.npy"))[0] == loads[3:6, 0]).all())
        self.refused("choose another directory, or give --force", "convert", self.path("part"),
                     "-o", self.path("whole.npy"))
        self.refused("is the trace that is read", "convert", self.path("part"), "-o",
                     self.path("part"), "--force")
        self.assertEqual(self.json("info", self.path("part"))["steps"], 7)

    def test_rounds_never_join_passes_between_which_steps_are_missing(self):
        loads = np.arange(1, 1 + 8 * 2 * 4, dtype=np.uint32).reshape(4, 2, 2, 4)
        np.save(self.path("loads.npy"), loads)
        self.json("convert", self.path("loads.npy"), "-o", self.path("t"))
        rows = np.load(self.path("t/steps.npy"))
        whole = np.load(self.path("t/loads.npy"))

        def rounds(kept, generations=None):
            steps = rows[kept].copy()
            steps[:, 2] = 0  # microbatch: a number that comes again
            if generations:
                steps[:, 13] = generations
            np.save(self.path("t/steps.npy"), steps)
            np.save(self.path("t/loads.npy"), whole[kept])
            done = self.json("convert", self.path("t"), "-o", self.path("o.npy"), "--force")
            return done["rounds"], done["steps_left_out"], np.load(self.path("o.npy"))

        count, left, out = rounds([0, 3, 4, 5])  # layer 1 of the first and 0 of the second pass
        self.assertEqual((count, left), (1, 2))
        self.assertTrue((out[0] == loads[2]).all())
        self.assertEqual(rounds([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])[:2], (2, 2))
        rows[:4, 1] = [0, 0, 1, 0]  # the first layer again: its round begins anew
        count, left, out = rounds([0, 1, 2, 3])
        self.assertEqual((count, left), (1, 2))
        self.assertTrue((out[0] == whole[1:3]).all())

    def planned(self, name):
        """A trace of one step with its plan, as a recorder would have written it."""
        np.save(self.path("one.npy"), [[[90, 5, 1, 2], [60, 3, 9, 4]]])
        self.json("convert", self.path("one.npy"), "-o", self.path(name))
        plan = json.loads(run("plan", self.path("one.npy"), "--slots", 1, "--json").stdout)["plans"][0]
        rows = [[0, r["expert"], r["rank"], r["slot"], t["parent"], r["tokens"]]
                for r, t in zip(plan["replicas"], plan["transfers"])]
        steps = np.load(self.path(name + "/steps.npy"))
        steps[0, [3, 7, 8, 9]] = [1, plan["peak"], plan["lower_bound"], len(rows)]
        np.save(self.path(name + "/steps.npy"), steps)
        np.save(self.path(name + "/replicas.npy"), np.array(rows, np.int64).reshape(-1, 6))
        self.patch_info(name, slots=1)
        return steps

    def patch_info(self, name, **fields):
        with open(self.path(name + "/trace.json")) as file:
            info = json.load(file)
        self.write(name + "/trace.json", json.dumps({**info, **fields}))

    def test_verify_compares_plans_and_certificates(self):
        steps = self.planned("t")
        self.assertGreater(steps[0, 9], 0)
        done = self.json("info", self.path("t"), "--verify")
        self.assertEqual(done["verified"], {"plans": 1, "differ": 0})
        steps[0, 8] -= 1  # the bound, which nothing but planning again knows
        np.save(self.path("t/steps.npy"), steps)
        done = run("trace", "info", self.path("t"), "--verify")
        self.assertEqual(done.returncode, 1)
        self.assertIn("the first at step 0: the certificate", done.stderr)
        steps[0, 7] += 1
        np.save(self.path("t/steps.npy"), steps)
        self.refused("step 0: its peak is", "info", self.path("t"))

    def test_what_is_missing_is_said_and_no_text_drives_the_terminal(self):
        self.planned("t")
        self.patch_info("t", steps=5, group="\033[2Jg", source="s\033]0;x\007", started="\x9b1m")
        self.assertEqual(self.json("info", self.path("t"))["steps_lost"], 4)
        table = run("trace", "info", self.path("t")).stdout
        self.assertIn("1 of 5 steps are whole", table)
        self.assertIn("group ?[2Jg", table)
        self.assertTrue(table.replace("\n", "").isprintable() and table.isascii(), table)
        self.patch_info("t", steps=1)
        self.assertNotIn("are whole", run("trace", "info", self.path("t")).stdout)

    def test_what_fails_leaves_nothing_behind(self):
        loads = np.ones((3, 2, 4), np.int64)
        loads[2] = -1
        np.save(self.path("l.npy"), loads)
        self.refused("has -1 tokens", "convert", self.path("l.npy"), "-o", self.path("t"))
        self.refused("has the count -1", "import", self.path("l.npy"), "--ranks", 2, "-o",
                     self.path("t"))
        path = self.write("a.csv", f"0,0,0,1,5\n1,0,0,0,{2**32 - 1}\n1,0,0,1,{2**32 - 1}\n")
        self.refused("rank 0 has", "import", path, "--ranks", 2, "-o", self.path("t"))
        self.assertEqual(sorted(os.listdir(self.folder)), ["a.csv", "l.npy"])

    def test_an_input_is_never_an_output(self):
        loads = np.arange(1, 1 + 5 * 2 * 4, dtype=np.uint32).reshape(5, 2, 4)
        np.save(self.path("loads.npy"), loads)
        self.json("convert", self.path("loads.npy"), "-o", self.path("t"))
        for name in ("loads.npy", "steps.npy"):
            self.refused("is a file that is read", "convert", self.path("t"), "-o",
                         self.path("t/" + name), "--force")
        os.mkdir(self.path("u"))
        np.save(self.path("u/loads.npy"), loads)
        self.refused("is a file that is read", "convert", self.path("u/loads.npy"), "-o",
                     self.path("u"), "--force")
        self.refused("is a file that is read", "import", self.path("u/loads.npy"), "--ranks", 2,
                     "-o", self.path("u"), "--force")
        os.symlink("u/loads.npy", self.path("a.csv"))
        self.refused("is a file that is read", "import", self.path("a.csv"), "--ranks", 2,
                     "-o", self.path("u"), "--force")
        self.assertEqual(os.listdir(self.path("u")), ["loads.npy"])
        self.assertTrue((np.load(self.path("u/loads.npy")) == loads).all())
        self.assertEqual(self.json("info", self.path("t"))["steps"], 5)

    def test_info_says_what_a_hand_worked_trace_comes_to(self):
        # Mains of ranks: [12, 4] = imbalance 1.5, then [8, 8] = 1.
        np.save(self.path("loads.npy"), [[[6, 2], [6, 2]], [[4, 4], [4, 4]]])
        info = self.json("info", self.path("loads.npy"))
        self.assertEqual((info["steps"], info["tokens"], info["not_planned"]), (2, 32, 2))
        before = info["imbalance_before"]
        self.assertEqual((before["mean"], before["worst"], before["worst_step"]), (1.25, 1.5, 0))
        table = run("trace", "info", self.path("loads.npy"))
        self.assertIn("before", table.stdout)
        self.assertRegex(table.stdout, r"before +1\.250 +1\.500 +1\.500 +1\.500 +0")

    def test_files_that_are_no_trace_are_refused(self):
        np.save(self.path("odd.npy"), np.ones((2, 3, 7), np.uint32))
        self.refused("multiple of ranks", "info", self.path("odd.npy"))
        np.save(self.path("float.npy"), np.ones((2, 2, 4)))
        self.refused("dtype", "info", self.path("float.npy"))
        np.save(self.path("below.npy"), np.full((2, 2, 4), -3))
        self.refused("step 0: rank 0, expert 0 has -3 tokens", "info", self.path("below.npy"))
        os.mkdir(self.path("empty"))
        self.refused("trace.json", "info", self.path("empty"))
        self.refused("cannot be read", "info", self.path("none"))
        np.save(self.path("good.npy"), np.ones((2, 2, 4), np.uint32))
        for steps in ("5-9", "1-0", "a", "-1", "1-2-3"):
            self.refused(f"--steps is '{steps}'", "convert", self.path("good.npy"), "-o",
                         self.path("x"), f"--steps={steps}")

    def test_the_command_line(self):
        self.assertEqual(run("trace", "--help").returncode, 0)
        self.refused("is not one of", "trace", status=2)
        self.refused("takes one path", "info", status=2)
        self.refused("needs -o", "convert", "x", status=2)
        self.refused("does not take", "info", "x", "--epsilon", "1", status=2)
        self.refused("trace info does not take --group", "info", "x", "--group", "g", status=2)
        self.refused("trace import does not take --steps", "import", "x", "--steps", "1", status=2)
        np.save(self.path("l.npy"), np.ones((2, 2, 4), np.uint32))
        for name in ("OUT.CSV", "OUT.Npy"):
            self.json("convert", self.path("l.npy"), "-o", self.path(name))
            self.assertTrue(os.path.isfile(self.path(name)))
        self.refused("is ultraepd running", "record", "-o", self.path("t"), "--socket", "/no/where")
        self.assertFalse(os.path.exists(self.path("t")), "nothing is written without a daemon")


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=2)
