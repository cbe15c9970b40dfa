"""What scrapes cost: a real ultraepd under a replay, scraped 50 times a second in every other interval.

usage: scrape_bench.py BIN_DIR [--seconds N] [--rounds N] [--rate N] [replay flags...]

Per interval it takes the p50 and p99 of the planner's solve and plan times (the differences of the
daemon's own histograms, so both kinds of intervals come from one run of the same processes), and in the
end the medians over the intervals of each kind. The order within a round alternates.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from processes import Daemon, Replay, wait_until  # noqa: E402

REPLAY = ["--ranks", "4", "--experts", "64", "--tokens", "256", "--hidden", "16", "--ffn", "16",
          "--layers", "4"]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read()


class Scraper(threading.Thread):
    """Scrapes `rate` times a second until it is told to stop."""

    def __init__(self, port, rate):
        super().__init__()
        self.port, self.rate, self.over, self.seconds = port, rate, threading.Event(), []

    def run(self):
        due = time.monotonic()
        while not self.over.is_set():
            begin = time.monotonic()
            get(self.port, "/metrics")
            self.seconds.append(time.monotonic() - begin)
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            self.over.wait(max(0, due - time.monotonic()))


def quantile(buckets, bounds, wanted):
    """As protocol/latency.h has it."""
    below, total = 0, sum(buckets)
    for i, bound in enumerate(bounds):
        low = bounds[i - 1] if i else 0
        if buckets[i] and below + buckets[i] >= wanted * total:
            return low + (bound - low) * (wanted * total - below) / buckets[i]
        below += buckets[i]
    return bounds[-1]


def interval(port, seconds, rate):
    """{'solve p50': us, ...} of the steps in it, and how long its scrapes took."""
    scraper = Scraper(port, rate) if rate else None
    before = json.loads(get(port, "/status.json"))
    if scraper:
        scraper.start()
    time.sleep(seconds)
    if scraper:
        scraper.over.set()
        scraper.join()
    after = json.loads(get(port, "/status.json"))
    result = {"steps": after["groups"][0]["steps_planned"] - before["groups"][0]["steps_planned"]}
    for stage in ("solve", "plan"):
        b, a = (s["groups"][0]["histograms"][stage]["buckets"] for s in (before, after))
        for name, wanted in (("p50", 0.5), ("p99", 0.99)):
            result[f"{stage} {name}"] = quantile([y - x for x, y in zip(b, a)],
                                                 after["latency_bounds_ns"], wanted) / 1e3
    return result, scraper.seconds if scraper else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bin_dir")
    parser.add_argument("--seconds", type=float, default=2, help="seconds of an interval")
    parser.add_argument("--rounds", type=int, default=15, help="at least 1; two intervals each")
    parser.add_argument("--rate", type=float, default=50, help="scrapes in seconds^-1, at least 1")
    options, replay_flags = parser.parse_known_args()
    daemon = Daemon(os.path.abspath(options.bin_dir))
    flags = [flag for flag in replay_flags if flag != "--"]
    replay = Replay(daemon, *(flags or REPLAY), "--forever")
    try:
        wait_until(lambda: daemon.planned() > 100, 120, "steps are planned")
        port = daemon.status()["daemon"]["metrics_port"]
        results, scrapes = {0: [], options.rate: []}, []
        for i in range(options.rounds):
            for rate in sorted(results, reverse=i % 2 == 1):
                result, seconds = interval(port, options.seconds, rate)
                results[rate].append(result)
                scrapes += seconds
        size = len(get(port, "/metrics"))
    finally:
        replay.close()
        daemon.close()
    print(f"{'':12} {'quiet':>10} {'scraped':>10} {'ratio':>8}   medians of {options.rounds} "
          f"intervals of {options.seconds:g} s; us")
    for name in results[0][0]:
        quiet, scraped = (statistics.median(r[name] for r in results[rate])
                          for rate in (0, options.rate))
        print(f"{name:12} {quiet:10.1f} {scraped:10.1f} {scraped / quiet:8.3f}")
    scrapes.sort()
    print(f"scrapes: {len(scrapes)} of {size} bytes, p50 {scrapes[len(scrapes) // 2] * 1e3:.2f} ms, "
          f"p99 {scrapes[len(scrapes) * 99 // 100] * 1e3:.2f} ms, with the client's part")


if __name__ == "__main__":
    main()
