"""An exact planner for small problems, for tests and for people with time: integer programs solved
by HiGHS through scipy.

usage: /usr/bin/python3 oracle.py LOADS.npy [SECONDS] --slots S [--epsilon X] [--json]

For every load matrix: the smallest peak (expert by expert, up to 8 ranks or so) and the fewest
replicas that keep the peak within (1 + epsilon) x mean (between ranks, up to 64 ranks or so), each
with the bound that is proven when the time is over.
"""

import argparse
import json
import math
import sys

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix


class Program:
    """min c x, rows low <= A x <= high, 0 <= x <= upper, some x integer."""

    def __init__(self):
        self.cost, self.upper, self.integer = [], [], []
        self.at, self.low, self.high = ([], [], []), [], []

    def variable(self, cost, upper, integer=False):
        self.cost.append(cost)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, terms, low=-np.inf, high=np.inf):
        for variable, factor in terms:
            self.at[0].append(factor)
            self.at[1].append(len(self.low))
            self.at[2].append(variable)
        self.low.append(low)
        self.high.append(high)

    def solve(self, seconds):
        """(value of the best solution or None, proven lower bound)"""
        matrix = coo_matrix((self.at[0], (self.at[1], self.at[2])),
                            shape=(len(self.low), len(self.cost)))
        result = milp(self.cost, integrality=np.array(self.integer, int),
                      bounds=Bounds(0, self.upper),
                      constraints=LinearConstraint(matrix.tocsr(), self.low, self.high),
                      options={"time_limit": seconds, "mip_rel_gap": 0})
        bound = result.mip_dual_bound
        return result.fun, 0 if bound is None or not math.isfinite(bound) else bound


def min_peak(tokens, ranks, slots, seconds=30):
    """Smallest peak any plan reaches: (best found, proven bound), in tokens.

    tokens: [experts]. Chaining is allowed: what a rank exports and imports is not restricted.
    """
    per_rank = len(tokens) // ranks
    program = Program()
    peak = program.variable(1, float(sum(tokens)))
    own = [sum(tokens[r * per_rank:(r + 1) * per_rank]) for r in range(ranks)]
    load = [[(peak, -1)] for _ in range(ranks)]
    in_slots = [[] for _ in range(ranks)]
    for expert, count in enumerate(tokens):
        home, given = expert // per_rank, []
        if count == 0:
            continue
        for rank in range(ranks):
            if rank == home:
                continue
            moved = program.variable(0, count)
            there = program.variable(0, 1, integer=True)
            program.row([(moved, 1), (there, -count)], high=0)
            given.append((moved, 1))
            load[rank].append((moved, 1))
            load[home].append((moved, -1))
            in_slots[rank].append((there, 1))
        program.row(given, high=count)
    for rank in range(ranks):
        program.row(load[rank], high=-own[rank])
        program.row(in_slots[rank], high=slots)
    best, bound = program.solve(seconds)
    best = None if best is None else math.ceil(best - 1e-6)
    return best, math.ceil(bound - 1e-4)


def min_replicas(tokens, ranks, peak, seconds=30):
    """Fewest replicas with which no rank is above `peak`: (found, proven bound).

    Between ranks only, without experts and slots, so that it is a lower bound for every plan: a plan
    uses a pair of ranks for each replica at most, and since pairs = ranks involved - independent
    groups, letting an exporter import saves none.
    """
    rank_tokens = np.asarray(tokens).reshape(ranks, -1).sum(axis=1)
    needs = sorted((int(t) - peak for t in rank_tokens if t > peak), reverse=True)
    rooms = sorted((peak - int(t) for t in rank_tokens if t < peak), reverse=True)
    if sum(needs) > sum(rooms):
        return None, math.inf
    program = Program()
    pairs = []
    into = [[] for _ in rooms]
    for need in needs:
        given, cover, count = [], [], []
        for j, room in enumerate(rooms):
            most = min(need, room)
            moved = program.variable(0, most)
            used = program.variable(1, 1, integer=True)
            program.row([(moved, 1), (used, -most)], high=0)
            given.append((moved, 1))
            cover.append((used, most))
            count.append((used, 1))
            into[j].append((moved, 1))
        program.row(given, low=need)
        # What follows is implied, and helps the solver.
        program.row(cover, low=need)
        program.row(count, low=fewest(rooms, need))
        pairs += count
    for j, room in enumerate(rooms):
        program.row(into[j], high=room)
    program.row(pairs, low=fewest(rooms, sum(needs)))
    best, bound = program.solve(seconds)
    return None if best is None else round(best), math.ceil(bound - 1e-4)


def fewest(rooms, tokens):
    """How many of the largest rooms hold `tokens`."""
    count = 0
    while tokens > 0:
        tokens -= rooms[count]
        count += 1
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("loads", help="npy array [ranks, experts] or [matrices, ranks, experts]")
    parser.add_argument("seconds", type=float, nargs="?", default=60, help="for each program")
    parser.add_argument("--slots", type=int, required=True, help="redundant slots per rank")
    parser.add_argument("--epsilon", type=float, default=0.005, help="peak above the mean, a part")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    flags = parser.parse_args()
    loads = np.load(flags.loads)
    results = []
    for number, load in enumerate(loads if loads.ndim == 3 else loads[None]):
        if sys.stderr.isatty():
            print(f"\rmatrix {number}", end="", file=sys.stderr)
        ranks, tokens = len(load), [int(t) for t in load.sum(axis=0, dtype=np.int64)]
        mean = -(-sum(tokens) // ranks)
        peak = mean + int(mean * flags.epsilon)
        found, bound = min_replicas(tokens, ranks, peak, flags.seconds)
        result = {"mean": mean, "peak": peak, "replicas": found, "replicas_bound": bound}
        if ranks <= 8:
            best, proven = min_peak(tokens, ranks, flags.slots, flags.seconds)
            result.update(min_peak=best, min_peak_bound=proven)
        results.append(result)
        if not flags.json:
            print("  ".join(f"{k} {v}" for k, v in result.items()))
    if flags.json:
        print(json.dumps({"matrices": results}))


if __name__ == "__main__":
    main()
