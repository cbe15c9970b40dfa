"""The rules for dashboards: those of Grafana's linter that matter here, and ours. Each takes a
parsed dashboard and says what is wrong with it."""

import itertools
import re

import metric_names

PANELS = {"heatmap", "row", "stat", "state-timeline", "table", "timeseries"}
UNITS = {"Bps", "bytes", "none", "ops", "percentunit", "s", "short"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
BUILT_IN = {"__range", "__rate_interval"}
# What All of a variable stands for; None: all its values. Other jobs have `up` and process_* too.
EVERY = {"job": None, "instance": ".+", "group": ".+"}
COLUMNS = 24
LEAST_DESCRIPTION = 60


def panels(board):
    return [p for p in board["panels"] if p["type"] != "row"]


def queries(board):
    """(where, target) of every query."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target


def variables(board):
    return {v["name"]: v for v in board["templating"]["list"]}


def provisioned(board):
    """Can be provisioned from a file as it is, and keeps its address."""
    expected = {"id": None, "editable": False, "graphTooltip": 1, "refresh": "10s"}
    yield from (f"{key} must be {value}" for key, value in expected.items()
                if board.get(key, "absent") != value)
    yield from (f"{key} needs the import dialog" for key in ("__inputs", "__requires")
                if key in board)
    if not 39 <= board["schemaVersion"] <= 41:
        yield f"schemaVersion {board['schemaVersion']} is not 39..41"
    if not re.fullmatch("ultraep-[a-z]+", board["uid"]):
        yield f"uid {board['uid']} is not ultraep-..."
    if "ultraep" not in board["tags"] or not board["title"].startswith("ultraep / "):
        yield "must be tagged ultraep and titled ultraep / ..."
    if not any(link["type"] == "dashboards" and link["tags"] == ["ultraep"]
               for link in board["links"]):
        yield "must link to the others by their tag"


def known_variables(board):
    """The data source, job and instance can be chosen; no variable is unknown or in vain."""
    have = variables(board)
    source = have.get("datasource", {})
    if (source.get("type"), source.get("query"), source.get("label")) != (
            "datasource", "prometheus", "Data source"):
        yield "needs the variable datasource, Data source"
    for name in {"job", "instance"} | ({"group"} & set(have)):
        one = have.get(name, {})
        if not (one.get("type") == "query" and one["multi"] and one["includeAll"]
                and one["allValue"] == EVERY[name] and one["refresh"] == 2
                and one["datasource"] == SOURCE and one["label"] == name.capitalize()):
            yield f"variable {name} must be a query, multi with All, renewed with the time, " \
                  f"All being {EVERY[name]}"
    used = set()
    for where, text in itertools.chain(((w, t["expr"]) for w, t in queries(board)),
                                       ((n, str(v.get("query"))) for n, v in have.items())):
        for name in re.findall(r"\$\{?([a-z_]\w*)", text):
            used.add(name)
            if name not in have and name not in BUILT_IN:
                yield f"{where}: no variable {name}"
    yield from (f"variable {name} is never used" for name in set(have) - used - {"datasource"})


def placed(board):
    """Ids are unique and panels do not lie on each other."""
    ids = [p["id"] for p in board["panels"]]
    if len(ids) != len(set(ids)):
        yield "ids are not unique"
    taken = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        if at["x"] < 0 or at["w"] < 1 or at["h"] < 1 or at["x"] + at["w"] > COLUMNS:
            yield f"{panel['title']} is not within {COLUMNS} columns"
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]),
                                      range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, panel["id"]) != panel["id"]:
                yield f"{panel['title']} lies on panel {taken[cell]}"
                break


def explained(board):
    """Every panel has a title of its own, a description, a unit and a known type."""
    titles = [p["title"] for p in panels(board)]
    yield from (f"{title} is there twice" for title in set(titles) if titles.count(title) > 1)
    if len(board.get("description", "")) < LEAST_DESCRIPTION:
        yield "has no description"
    for panel in board["panels"]:
        title = panel["title"]
        if not title:
            yield f"panel {panel['id']} has no title"
        if panel["type"] not in PANELS:
            yield f"{title}: type {panel['type']} is none of {sorted(PANELS)}"
        elif panel["type"] != "row":
            if len(panel.get("description", "")) < LEAST_DESCRIPTION:
                yield f"{title} has no description"
            fields = panel["fieldConfig"]
            units = [fields["defaults"].get("unit")]
            units += [p["value"] for o in fields["overrides"] for p in o["properties"]
                      if p["id"] == "unit"]
            yield from (f"{title}: unit {unit} is none of {sorted(UNITS)}"
                        for unit in units if unit not in UNITS)
            steps = fields["defaults"].get("thresholds", {}).get("steps", [])
            if any(step["value"] == 80 for step in steps):
                yield f"{title} has Grafana's thresholds, not its own"


def sourced(board):
    """Panels ask the chosen data source, with at least one query, each with its own letter."""
    for panel in panels(board):
        targets = panel["targets"]
        if not targets:
            yield f"{panel['title']} asks nothing"
        if len({t["refId"] for t in targets}) != len(targets):
            yield f"{panel['title']}: queries share a refId"
        yield from (f"{panel['title']}: data source must be ${{datasource}}"
                    for one in [panel, *targets] if one.get("datasource") != SOURCE)
        if len(targets) > 1 and panel["type"] != "table":
            yield from (f"{panel['title']} {t['refId']} has no legend" for t in targets
                        if t["legendFormat"] == "__auto")
        for target in targets:
            if panel["type"] == "heatmap" and "_bucket" in target["expr"] and not (
                    target.get("format") == "heatmap" and "by (le)" in target["expr"]):
                yield f"{panel['title']}: buckets need the format heatmap and `by (le)`"


def windows(board):
    """Counters within rate or increase, over the window that Grafana chooses, or, for one value,
    over the time that is shown; gauges never."""
    for where, target in queries(board):
        for use in metric_names.uses(target["expr"]):
            counter = use.metric and use.metric.type != "Gauge"
            if counter and use.function not in ("rate", "increase"):
                yield f"{where}: the counter {use.name} is not within rate or increase"
            if use.metric and not counter and use.function in ("rate", "irate", "increase"):
                yield f"{where}: {use.function} of the gauge {use.name}"
            fine = ["$__rate_interval"] + (["$__range"] if target["instant"] else [])
            if use.window and use.window not in fine:
                yield f"{where}: the window [{use.window}] is not [{fine[0]}]"


def current(board):
    """Stats, which show the last value, do not show one of a daemon or job that is gone."""
    for panel in panels(board):
        yield from (f"{panel['title']} {t['refId']}: neither instant nor `or vector(0)`"
                    for t in panel["targets"] if panel["type"] == "stat"
                    and not t["instant"] and not t["expr"].endswith(" or vector(0)"))
        bare = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])[:1]
        if panel["type"] == "stat" and [step["color"] for step in bare] != ["text"]:
            yield f"{panel['title']}: what has no value gets a threshold's colour"


def selective(board):
    """Every selector obeys the variables job and instance."""
    for where, target in queries(board):
        for use in metric_names.uses(target["expr"]):
            for name in ("job", "instance"):
                if f'{name}=~"${name}"' not in use.selector:
                    yield f"{where}: {use.name} ignores the variable {name}"


def existing(board):
    """Metrics, labels and labels' values are the daemon's."""
    texts = [(w, t["expr"]) for w, t in queries(board)]
    texts += [(n, v["definition"]) for n, v in variables(board).items() if "definition" in v]
    for where, text in texts:
        yield from (f"{where}: {wrong}" for wrong in metric_names.unknown(text))


RULES = {rule.__name__: rule for rule in (
    provisioned, known_variables, placed, explained, sourced, windows, current, selective,
    existing)}
