"""What the dashboards are made of: Grafana's Classic JSON, said shortly.

In expressions `{NODE}` and `{NODE,...}` select the daemons that are shown, `{GROUP}` the groups as
well, and `[RATE]` is the window that Grafana chooses, `[SHOWN]` all the time that is shown.
"""

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NODE = 'job=~"$job",instance=~"$instance"'
GROUP = NODE + ',group=~"$group"'
GREEN, YELLOW, RED = "green", "#EAB839", "red"


def expression(text):
    for mark, meaning in (("{NODE", "{" + NODE), ("{GROUP", "{" + GROUP),
                          ("[RATE]", "[$__rate_interval]"), ("[SHOWN]", "[$__range]")):
        text = text.replace(mark, meaning)
    return text


def query(text, legend="", **more):
    """legend: Grafana's format, with {{label}}."""
    return {"datasource": SOURCE, "editorMode": "code", "expr": expression(text),
            "legendFormat": legend or "__auto", "range": True, "instant": False, **more}


def now(text, legend="", **more):
    """One value as of the end of the time that is shown."""
    return query(text, legend, range=False, instant=True, **more)


def steps(*colours):
    """Thresholds: the colour from 0 on, then values and the colours from there on. Grafana gives
    the first step's colour also to what has no value, which must not look good, nor bad."""
    pairs = [(None, "text"), *zip((0, *colours[1::2]), colours[::2])]
    return {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in pairs]}


def override(name, **properties):
    """For the series of that name."""
    return {"matcher": {"id": "byName", "options": name},
            "properties": [{"id": key, "value": value} for key, value in properties.items()]}


def colour(name, fixed):
    return override(name, color={"mode": "fixed", "fixedColor": fixed})


class Panel:
    def __init__(self, kind, title, unit, queries, about, width, height, options, *, defaults=None,
                 custom=None, overrides=(), decimals=None, transformations=()):
        self.width, self.height = width, height
        self.json = {
            "type": kind, "title": title, "description": " ".join(about.split()),
            "datasource": SOURCE,
            "targets": [{"refId": chr(ord("A") + i), **q} for i, q in enumerate(queries)],
            "fieldConfig": {
                "defaults": {"unit": unit, "custom": custom or {}, **(defaults or {}),
                             **({} if decimals is None else {"decimals": decimals})},
                "overrides": list(overrides)},
            "options": options,
            **({"transformations": list(transformations)} if transformations else {})}


def stat(title, unit, queries, about, *, width=4, thresholds=None, empty="no data", graph=False,
         **more):
    """queries: now(), or with a graph what ends in `or vector(0)`; else the last value of a daemon
    stays when it is gone."""
    defaults = {"noValue": empty, "color": {"mode": "thresholds"},
                "thresholds": thresholds or steps("text")}
    options = {"reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
               "orientation": "auto", "textMode": "auto", "colorMode": "value",
               "graphMode": "area" if graph else "none", "justifyMode": "auto"}
    return Panel("stat", title, unit, queries, about, width, 4, options, defaults=defaults, **more)


def lines(title, unit, queries, about, *, width=12, stacked=False, least=0, log=False, bars=False,
          **more):
    """least: where the axis begins, None: below the values."""
    custom = {"drawStyle": "bars" if bars else "line", "lineWidth": 1, "showPoints": "never",
              "fillOpacity": 60 if bars else 25 if stacked else 5, "spanNulls": False,
              "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
              "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"}}
    defaults = {"color": {"mode": "palette-classic"}}
    if least is not None and not log:
        defaults["min"] = least
    options = {"legend": {"displayMode": "table", "placement": "bottom", "showLegend": True,
                          "calcs": ["mean", "max", "lastNotNull"]},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    return Panel("timeseries", title, unit, queries, about, width, 8, options, defaults=defaults,
                 custom=custom, **more)


def heatmap(title, unit, queries, about, *, cells=None):
    """Of a histogram's buckets in seconds, or of one series per line with `cells`: the values of
    the palest and the darkest colour."""
    scale = {"scheme": "Oranges", "scale": "exponential", "exponent": 0.5}
    if cells:
        scale = {"scheme": "YlOrRd", "scale": "linear", "exponent": 0.5, "min": cells[0],
                 "max": cells[1]}
    options = {
        "calculate": False, "cellGap": 1, "showValue": "never", "filterValues": {"le": 1e-9},
        "color": {"mode": "scheme", "steps": 64, "fill": "dark-orange", "reverse": False, **scale},
        "rowsFrame": {"layout": "auto"}, "legend": {"show": True},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
        "yAxis": {"axisPlacement": "left", "reverse": False,
                  **({} if cells else {"unit": "s"})},
        "cellValues": {"unit": unit}}
    return Panel("heatmap", title, unit, queries, about, 12, 8, options)


def on_off(title, queries, about, *, on, off, width, height):
    values = {"1": {"text": on, "color": GREEN}, "0": {"text": off, "color": RED}}
    return Panel("state-timeline", title, "none", queries, about, width, height,
                 {"mergeValues": True, "showValue": "auto", "alignValue": "left", "rowHeight": 0.8,
                  "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
                  "tooltip": {"mode": "single", "sort": "none"}},
                 defaults={"color": {"mode": "thresholds"}, "thresholds": steps(RED, 1, GREEN),
                           "mappings": [{"type": "value", "options": values}]},
                 custom={"lineWidth": 0, "fillOpacity": 70})


def table(title, columns, about, *, by, height=7):
    """columns: (name, unit, decimals, expression); a line for each value of the labels `by`."""
    names = {f"Value #{chr(ord('A') + i)}": name for i, (name, *_) in enumerate(columns)}
    order = {name: i for i, name in enumerate([*by, *names])}
    return Panel("table", title, "none", [now(text, format="table") for *_, text in columns], about,
                 COLUMNS, height, {"showHeader": True, "cellHeight": "sm"},
                 custom={"align": "auto", "filterable": False},
                 overrides=[override(name, unit=unit, decimals=decimals)
                            for name, unit, decimals, _ in columns],
                 transformations=[
                     {"id": "merge", "options": {}},
                     {"id": "organize", "options": {
                         "excludeByName": {"Time": True}, "indexByName": order,
                         "renameByName": names}}])


def row(title, *panels):
    return title, panels


def _variable(name, label, values, every=".+"):
    """every: what All stands for; None: all values that there are."""
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE,
            "definition": values, "query": {"query": values, "refId": name},
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": every,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
            "hide": 0, "regex": "", "skipUrlSync": False}


def textbox(name, label, value):
    one = {"selected": True, "text": value, "value": value}
    return {"name": name, "label": label, "type": "textbox", "query": value, "current": one,
            "options": [one], "hide": 0, "skipUrlSync": False}


def _variables(rows):
    source = {"name": "datasource", "label": "Data source", "type": "datasource",
              "query": "prometheus", "current": {"selected": False, "text": "default",
                                                 "value": "default"},
              "options": [], "hide": 0, "includeAll": False, "multi": False, "refresh": 1,
              "regex": "", "skipUrlSync": False}
    of_nodes = [source,
                # Not .+ for All: a Prometheus has `up` and process_* of other jobs as well.
                _variable("job", "Job", "label_values(ultraep_build_info, job)", every=None),
                _variable("instance", "Instance",
                          'label_values(ultraep_build_info{job=~"$job"}, instance)')]
    groups = any("$group" in target["expr"] for _, panels in rows for panel in panels
                 for target in panel.json["targets"])
    return of_nodes + groups * [
        _variable("group", "Group", f"label_values(ultraep_group_open{{{NODE}}}, group)")]


def _placed(rows):
    """The panels from left to right, a row below the other."""
    top = 0
    for title, panels in rows:
        yield {"type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}}
        left, top, below = 0, top + 1, top + 1
        for panel in panels:
            if left + panel.width > COLUMNS:
                left, top = 0, below
            yield {**panel.json, "gridPos": {"x": left, "y": top, "w": panel.width,
                                             "h": panel.height}}
            left, below = left + panel.width, max(below, top + panel.height)
        top = below


def dashboard(uid, title, about, rows, variables=()):
    links = {"type": "dashboards", "title": "ultraep", "tags": ["ultraep"], "asDropdown": False,
             "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link",
             "tooltip": "", "url": ""}
    return {"id": None, "uid": uid, "title": title, "description": " ".join(about.split()),
            "tags": ["ultraep"], "schemaVersion": 39, "version": 1, "editable": False,
            "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser", "annotations": {"list": []}, "links": [links],
            "templating": {"list": [*_variables(rows), *variables]},
            "panels": [{"id": i + 1, **panel} for i, panel in enumerate(_placed(rows))]}
