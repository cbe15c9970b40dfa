"""`ultraepctl plan` against its contract, judged by an independent reading of it.

usage: /usr/bin/python3 plan_command_test.py PATH_TO_ultraepctl
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

CTL = ""
MAX_CELL = 2**32 - 1


def run(*arguments):
    return subprocess.run([CTL, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def validate(load, slots, plan, with_split):
    """Raises AssertionError unless `plan` keeps every promise for this load."""
    ranks, experts = load.shape
    per_rank = experts // ranks
    tokens = [int(t) for t in load.astype(object).sum(axis=0)]
    home = [e // per_rank for e in range(experts)]
    assert (plan["ranks"], plan["experts"], plan["slots"]) == (ranks, experts, slots)

    rank_tokens = [0] * ranks
    for e in range(experts):
        rank_tokens[home[e]] += tokens[e]
    total, before = sum(tokens), max(rank_tokens)

    used, hosts, moved = set(), set(), [0] * experts
    for r in plan["replicas"]:
        e, rank, slot = r["expert"], r["rank"], r["slot"]
        assert 0 <= e < experts and 0 <= rank < ranks and 0 <= slot < slots, r
        assert rank != home[e], f"replica beside its main copy: {r}"
        assert (rank, slot) not in used, f"slot used twice: {r}"
        assert (rank, e) not in hosts, f"two copies on one rank: {r}"
        assert isinstance(r["tokens"], int) and r["tokens"] > 0, r
        used.add((rank, slot))
        hosts.add((rank, e))
        moved[e] += r["tokens"]
        rank_tokens[home[e]] -= r["tokens"]
        rank_tokens[rank] += r["tokens"]
    for e in range(experts):
        assert moved[e] <= tokens[e], f"expert {e}: replicas take more than its load"

    peak = max(rank_tokens)
    assert plan["peak"] == peak, (plan["peak"], peak)
    assert plan["lower_bound"] <= peak <= before
    assert plan["lower_bound"] * ranks >= total, "the bound is below the mean"
    for key, value in (("imbalance_before", before), ("imbalance_after", peak)):
        want = value * ranks / total if total else 1.0
        assert abs(plan[key] - want) <= 1e-9 * want, (key, plan[key], want)
    assert plan["solve_seconds"] >= 0

    assert len(plan["transfers"]) == len(plan["replicas"])
    targets = set()
    for i, t in enumerate(plan["transfers"]):
        targets.add((t["expert"], t["to_rank"], t["slot"]))
        assert -1 <= t["parent"] < i, t
        if t["parent"] < 0:
            assert t["from_rank"] == home[t["expert"]], t
        else:
            parent = plan["transfers"][t["parent"]]
            assert parent["expert"] == t["expert"] and parent["to_rank"] == t["from_rank"], t
    assert targets == {(r["expert"], r["rank"], r["slot"]) for r in plan["replicas"]}

    if not with_split:
        assert "split" not in plan
        return
    quota = {(r["expert"], r["rank"]): r["tokens"] for r in plan["replicas"]}
    for e in range(experts):
        quota[e, home[e]] = tokens[e] - moved[e]
    sent, taken, cells = {}, {}, set()
    for source, e, rank, count in plan["split"]:
        assert (source, e, rank) not in cells, "cell twice"
        cells.add((source, e, rank))
        assert count > 0 and (e, rank) in quota, (source, e, rank, count)
        sent[source, e] = sent.get((source, e), 0) + count
        taken[e, rank] = taken.get((e, rank), 0) + count
    for source in range(ranks):
        for e in range(experts):
            assert sent.get((source, e), 0) == int(load[source, e]), (source, e)
    for key, count in quota.items():
        assert taken.get(key, 0) == count, (key, count)


class PlanCommand(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.random = np.random.default_rng(7)

    def tearDown(self):
        self.folder.cleanup()

    def save(self, array, name="loads.npy"):
        path = os.path.join(self.folder.name, name)
        np.save(path, array)
        return path

    def write(self, data, name="loads.npy"):
        path = os.path.join(self.folder.name, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def plan(self, loads, slots, *flags, split=True):
        """Plans, validates every matrix, returns the plans."""
        path = self.save(loads)
        arguments = ["plan", path, "--slots", slots, "--json", *flags]
        if split:
            arguments.append("--split")
        first, second = run(*arguments), run(*arguments)
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertEqual(first.stderr, "")
        self.assertEqual(first.stdout.count("\n"), 1, "one line of JSON")
        plans, again = json.loads(first.stdout)["plans"], json.loads(second.stdout)["plans"]
        for a, b in zip(plans, again):
            self.assertEqual({**a, "solve_seconds": 0}, {**b, "solve_seconds": 0})
        matrices = loads if loads.ndim == 3 else loads[None]
        self.assertEqual(len(plans), len(matrices))
        for load, plan in zip(matrices, plans):
            validate(load, slots, plan, split)
        return plans

    def refuse(self, status, texts, *arguments):
        """Expects this exit status, these texts on stderr and nothing on stdout."""
        done = run(*arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        for text in texts:
            self.assertIn(text, done.stderr)

    def refuse_file(self, texts, path, slots=1):
        self.refuse(1, [path, *texts], "plan", path, "--slots", slots)

    # What is accepted --------------------------------------------------------------------------

    def test_random_matrices_of_many_shapes(self):
        for ranks, per_rank, slots in [(1, 4, 2), (2, 1, 1), (3, 5, 0), (4, 2, 1), (8, 8, 2),
                                       (8, 32, 2), (16, 4, 3), (12, 2, 32), (64, 4, 2)]:
            popularity = self.random.lognormal(0, 1.2, ranks * per_rank)
            rate = 2000 * popularity / popularity.mean()
            loads = self.random.poisson(rate, (2, ranks, ranks * per_rank)).astype(np.uint32)
            with self.subTest(ranks=ranks, per_rank=per_rank, slots=slots):
                self.plan(loads, slots)

    def test_small_batches_are_split_exactly(self):
        for tokens in (1, 2, 5):
            loads = self.random.integers(0, tokens + 1, (3, 8, 16)).astype(np.int64)
            self.plan(loads, 2)

    def test_realistic_load_is_balanced(self):
        popularity = self.random.lognormal(0, 0.7, 256)
        rate = 256 * popularity / popularity.mean()
        load = self.random.poisson(rate, (64, 256)).astype(np.int32)
        plan = self.plan(load, 2)[0]
        self.assertLessEqual(plan["imbalance_after"], 1.0051)

    def test_all_zero_load(self):
        plan = self.plan(np.zeros((4, 8), np.uint32), 1)[0]
        self.assertEqual((plan["replicas"], plan["split"], plan["imbalance_after"]), ([], [], 1.0))

    def test_one_expert_takes_everything(self):
        load = np.zeros((8, 16), np.uint32)
        load[:, 3] = 1000
        self.assertLessEqual(self.plan(load, 1)[0]["peak"], 1005)

    def test_one_source_holds_everything(self):
        load = np.zeros((8, 16), np.int64)
        load[5] = np.arange(16) * 1000
        self.plan(load, 2)

    def test_largest_cells(self):
        load = np.zeros((8, 8), np.int64)
        load[:, 0] = MAX_CELL
        self.plan(load, 1)

    def test_one_rank(self):
        self.assertEqual(self.plan(np.full((1, 4), 7, np.uint32), 3)[0]["replicas"], [])

    def test_without_slots_nothing_is_replicated(self):
        load = np.arange(32, dtype=np.uint32).reshape(4, 8)
        plan = self.plan(load, 0)[0]
        self.assertEqual(plan["replicas"], [])
        self.assertEqual(plan["imbalance_before"], plan["imbalance_after"])

    def test_epsilon_bounds_the_peak(self):
        load = self.random.integers(0, 2000, (8, 16)).astype(np.uint32)
        load[:, 0] *= 10
        loose, tight = (self.plan(load, 2, "--epsilon", e)[0] for e in (0.1, 0))
        self.assertLessEqual(loose["peak"], loose["lower_bound"] * 1.1 + 1)
        self.assertLessEqual(len(loose["replicas"]), len(tight["replicas"]))

    def test_the_certificate_says_how_far_the_peak_is_from_the_bound(self):
        plan = self.plan(self.random.poisson(500, (8, 32)).astype(np.uint32) * 3, 1)[0]
        self.assertAlmostEqual(plan["gap"], plan["peak"] / plan["lower_bound"] - 1)
        self.assertLessEqual(plan["imbalance_floor"], plan["imbalance_after"])

    def test_domains_keep_replicas_at_home_and_raise_the_floor(self):
        load = self.random.poisson(500, (8, 32)).astype(np.uint32)
        load[:, :4] *= 9
        for flag in ("--domain-size", "--domain_size"):
            plan = self.plan(load, 2, flag, 4)[0]
            self.assertEqual(plan["domain_size"], 4)
            for r in plan["replicas"]:
                self.assertEqual(r["expert"] // 4 // 4, r["rank"] // 4)
            self.assertGreater(plan["imbalance_floor"], 1.2)
            self.assertLessEqual(plan["gap"], 0.0051)

    def test_the_exact_mode_leaves_one_token_of_difference(self):
        load = self.random.poisson(500 * self.random.lognormal(0, 1, 16), (8, 16)).astype(np.uint32)
        plan = self.plan(load, 2, "--epsilon", 0)[0]
        self.assertEqual(plan["peak"], -(-int(load.sum()) // 8))

    def test_slow_ranks_and_ranks_without_slots(self):
        load = self.random.poisson(500 * self.random.lognormal(0, 1, 64), (8, 64)).astype(np.uint32)
        plan = self.plan(load, 4, "--without-slots", "2,5")[0]
        self.assertFalse([r for r in plan["replicas"] if r["rank"] in (2, 5)])
        done = run("plan", self.save(load), "--slots", 4, "--json", "--speeds", "1,1,1,.5,1,1,1,1")
        slow = json.loads(done.stdout)["plans"][0]
        tokens = load.sum(axis=0).reshape(8, 8).sum(axis=1).tolist()
        for r in slow["replicas"]:
            tokens[r["expert"] // 8] -= r["tokens"]
            tokens[r["rank"]] += r["tokens"]
        self.assertEqual(slow["peak"], max(t * (2 if i == 3 else 1) for i, t in enumerate(tokens)))
        self.assertLessEqual(slow["peak"], load.sum() / 7.5 * 1.0051)

    def test_costs_decide_whether_to_replicate(self):
        load = self.random.poisson(500 * self.random.lognormal(0, 1, 16), (8, 16)).astype(np.uint32)
        cheap = self.plan(load, 2, "--cost-token-ns", 100, "--cost-expert-us", 50)[0]
        dear = self.plan(load, 2, "--cost-token-ns", 1, "--cost-expert-us", 500000)[0]
        self.assertTrue(cheap["replicas"])
        self.assertEqual(dear["replicas"], [])

    def test_tiles(self):
        load = self.random.poisson(5000 * self.random.lognormal(0, 1, 16), (8, 16))
        for r in self.plan(load.astype(np.uint32), 2, "--tile-tokens", 64)[0]["replicas"]:
            whole = int(load[:, r["expert"]].sum())
            self.assertTrue(r["tokens"] % 64 == 0 or (whole - r["tokens"]) % 64 == 0, r)

    def test_split_only_on_request(self):
        self.plan(np.ones((2, 4), np.uint32), 1, split=False)

    def test_versions_2_and_3_of_the_format(self):
        for version in ((2, 0), (3, 0)):
            path = os.path.join(self.folder.name, "version.npy")
            with open(path, "wb") as file:
                np.lib.format.write_array(file, np.ones((2, 4), np.uint32), version=version)
            self.assertEqual(run("plan", path, "--slots", 1, "--json").returncode, 0)

    def test_table_for_people(self):
        load = np.array([[12, 4], [0, 0]], np.uint32)
        done = run("plan", self.save(load), "--slots", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        for text in ("2 ranks, 2 experts, 1 slots per rank", "before", "after", "replicas"):
            self.assertIn(text, done.stdout)

    # What is refused ---------------------------------------------------------------------------

    def test_bad_planner_flags(self):
        path = self.save(np.ones((4, 8), np.uint32))
        for flag, value, texts in [
                ("--domain-size", 3, ["domain_size is 3", "divisor of ranks (4)"]),
                ("--relay-hop", 65537, ["--relay_hop is 65537", "0..65536"]),
                ("--tile-tokens", 70000, ["--tile_tokens is 70000", "0..65536"]),
                ("--cost-token-ns", -1, ["--cost_token_ns is -1", "0..1e6"]),
                ("--cost-expert-us", "nan", ["--cost_expert_us is nan"]),
                ("--cost-instance-us", 2e6, ["--cost_instance_us is 2e+06"]),
                ("--speeds", "1,1", ["2 values", "4 ranks"]),
                ("--speeds", "1,1,0,1", ["'0'", "above 0"]),
                ("--speeds", "1,1,x,1", ["'x'", "1,1,0.5"]),
                ("--speeds", "1,1,1e-9,1", ["1e-09 is less than"]),
                ("--without-slots", "1,4", ["'4'", "0..3"])]:
            with self.subTest(flag=flag, value=value):
                self.refuse(1, texts, "plan", path, "--slots", 1, flag, value)

    def test_bad_cells(self):
        for dtype in (np.int32, np.int64):
            load = np.ones((3, 2, 4), dtype)
            load[2, 1, 3] = -5
            self.refuse_file(["[2, 1, 3]", "-5", "0..4294967295"], self.save(load))
        load = np.ones((2, 4), np.int64)
        load[1, 2] = MAX_CELL + 1
        self.refuse_file(["[1, 2]", "4294967296", "0..4294967295"], self.save(load))

    def test_row_over_the_limit(self):
        load = np.zeros((2, 2, 4), np.uint32)
        load[1, 0, :2] = 2**31
        self.refuse_file(["row [1, 0]", "4294967296", "4294967295", "split"], self.save(load))

    def test_bad_shapes(self):
        for shape, texts in [((4, 10), ["10 experts", "4 ranks"]), ((8,), ["1 dimensions", "(8)"]),
                             ((1, 1, 2, 2), ["4 dimensions"]), ((), ["0 dimensions"]),
                             ((0, 4), ["dimension 0", "empty"]), ((4, 0), ["dimension 1", "empty"]),
                             ((0, 2, 4), ["dimension 0", "empty"]),
                             ((4, 2), ["2 experts", "4 ranks"]),
                             ((513, 513), ["513 ranks", "512"]),
                             ((1, 4097), ["4097 experts", "4096"])]:
            with self.subTest(shape=shape):
                self.refuse_file(texts, self.save(np.zeros(shape, np.uint32)))

    def test_bad_types(self):
        for dtype in ("<f4", "<f8", ">u4", ">i8", "<u8", "<i2", "|u1", "|b1"):
            with self.subTest(dtype=dtype):
                path = self.save(np.zeros((2, 4), np.dtype(dtype)))
                self.refuse_file([f"'{dtype}'", "'<u4', '<i4' and '<i8'"], path)
        path = self.save(np.zeros((2, 4), np.dtype([("a", "<u4")])))
        self.refuse_file(["structured"], path)

    def test_fortran_order(self):
        path = self.save(np.asfortranarray(np.arange(8, dtype=np.uint32).reshape(2, 4)))
        self.refuse_file(["fortran_order", "ascontiguousarray"], path)

    def test_damaged_files(self):
        with open(self.save(np.ones((2, 4), np.uint32)), "rb") as file:
            good = file.read()
        for data, text in [(b"", "not an npy file"), (b"hello world", "not an npy file"),
                           (good[:-1], "truncated"), (good[:60], "truncated"),
                           (good[:7], "truncated"), (good + b"x", "1 bytes more"),
                           (good.replace(b"(2, 4)", b"(2; 4)"), "malformed"),
                           (good[:6] + b"\x09" + good[7:], "version is 9.0"),
                           (good.replace(b"shape", b"shapf"), "shapf")]:
            with self.subTest(text=text, size=len(data)):
                self.refuse_file([text], self.write(data))

    def test_files_that_are_no_npy_are_refused_at_their_first_bytes(self):
        self.refuse_file(["not an npy file"], "/dev/zero")  # endless

    def test_a_nul_byte_does_not_end_the_header(self):
        header = b"{'descr': '<u4', 'fortran_order': False, 'shape': (2, 4), }\0 garbage [(( \n"
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(32)
        self.refuse_file(["nothing after the dict"], self.write(data))

    def test_unreadable_files(self):
        self.refuse_file(["No such file"], os.path.join(self.folder.name, "missing.npy"))
        self.refuse_file(["directory"], self.folder.name)

    def test_bad_flag_values(self):
        path = self.save(np.ones((2, 4), np.uint32))
        self.refuse(1, ["--slots is missing", "0..32"], "plan", path)
        for slots in ("-1", "-2", "33", "99999999999", "two", ""):
            self.refuse(1, ["--slots"], "plan", path, f"--slots={slots}")
        for epsilon in ("-0.1", "1.5", "nan", "inf", "much", ""):
            self.refuse(1, ["--epsilon"], "plan", path, "--slots=1", f"--epsilon={epsilon}")

    def test_usage_errors(self):
        path = self.save(np.ones((2, 4), np.uint32))
        self.refuse(2, ["no command"])
        self.refuse(2, ["'plam'", "plan", "status"], "plam")
        self.refuse(2, ["'--slot'"], "plan", path, "--slot", 1)
        self.refuse(2, ["'--slots' needs a value"], "plan", path, "--slots")
        self.refuse(2, ["0 files"], "plan", "--slots", 1)
        self.refuse(2, ["2 files"], "plan", path, path, "--slots", 1)

    def test_help_and_version(self):
        for arguments in (["--help"], ["help"], ["--version"], ["plan", "--help"],
                          ["status", "--help"], ["help", "plan"], ["-h"]):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
            self.assertTrue(done.stdout, arguments)
        self.assertIn("plan", run("--help").stdout)
        self.assertIn("--slots", run("plan", "--help").stdout)


if __name__ == "__main__":
    CTL = sys.argv.pop(1)
    unittest.main()
