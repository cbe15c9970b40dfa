"""The metrics that the daemon exports, as daemon/metrics/names.h says, and queries' use of them."""

import functools
import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = ROOT / "daemon" / "metrics" / "names.h"
SCRAPED = {"job", "instance"}  # labels that Prometheus adds


class Metric(NamedTuple):
    name: str
    type: str    # Counter, Gauge, Histogram
    labels: dict  # name -> its values, or empty where they are many


class Use(NamedTuple):
    name: str
    metric: Metric  # or None: not the daemon's
    function: str   # around it, as in rate(NAME), or empty
    selector: str   # {...} or empty
    window: str     # [...] without brackets, or empty


@functools.lru_cache
def metrics():
    """name -> Metric."""
    found = {}
    for name, kind, text in re.findall(
            r'Metric k\w+ = \{\s*"(\w+)",\s*Type::k(\w+),\s*("[^;]*?"|"")\s*,\s*"',
            HEADER.read_text()):
        labels = {}
        for label in filter(None, "".join(re.findall(r'"([^"]*)"', text)).split(",")):
            key, _, values = label.partition("=")
            labels[key] = values.split("|") if values else []
        found[name] = Metric(name, kind, labels)
    return found


def metric_of(name):
    """What the series of that name belong to, or None."""
    base = re.sub("_(bucket|sum|count)$", "", name)
    metric = metrics().get(base)
    if metric and metric.type == "Histogram":
        return metric if base != name else None
    return metrics().get(name)


def uses(text):
    for found in re.finditer(r"(?<![\w:\"])((?:ultraep_|process_)\w+|up(?=\{))(?![\w:(])"
                             r"\s*(\{[^}]*\})?\s*(?:\[([^\]]*)\])?", text):
        before = re.search(r"(\w+)\(\s*$", text[:found.start()])
        yield Use(found[1], metric_of(found[1]), before[1] if before else "", found[2] or "",
                  found[3] or "")


def unknown(text):
    """What a query or a rule names that the daemon does not have."""
    for use in uses(text):
        if use.name == "up":
            continue
        if not use.metric:
            yield f"there is no metric {use.name}"
            continue
        labels = {**use.metric.labels, **{name: [] for name in SCRAPED},
                  **({"le": []} if use.metric.type == "Histogram" else {})}
        for label, values in re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"', use.selector):
            if label not in labels:
                yield f"{use.name} has no label {label}"
            elif labels[label] and not values.startswith("$"):
                yield from (f"{use.name}: {label} is never {value}" for value in values.split("|")
                            if value not in labels[label])
    every = SCRAPED | {"le"}.union(*(m.labels for m in metrics().values()))
    for labels in re.findall(r"\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)", text):
        yield from (f"nothing has the label {label}" for label in re.findall(r"\w+", labels)
                    if label not in every)
