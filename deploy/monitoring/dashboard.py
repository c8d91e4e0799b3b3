#!/usr/bin/env python3
"""Writes the Grafana dashboard: `dashboard.py > ../helm/text2vec-sidecar/monitoring/dashboard.json`.

Every panel is a line here. `make deploy-check` holds the file against this program and against Grafana's own types, and
`make e2e` asks a real Prometheus every query of it. Works with Grafana 10 and newer."""

import json

CHOSEN = 'job=~"$job", instance=~"$instance"'
# Probes and scrapes are no work.
WORK = CHOSEN + ', surface!~"other|other_grpc"'
# Streams of the gRPC Vectorizer last as long as their import.
ANSWERS = CHOSEN + ', surface!~"other|other_grpc|vectorizer"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
FAILURES = "500|502|503|504|UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS"
GREEN, ORANGE, RED = "green", "orange", "red"
WIDTH = 24


def rate(metric, by="", chosen=CHOSEN, more=""):
    """The sum of a counter's rates, by some labels."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{chosen}{more}}}[$__rate_interval]))"


def total(metric, by="", more=""):
    """The sum of a gauge, by some labels."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} ({metric}{{{CHOSEN}{more}}})"


def quantile(share, histogram, by="", chosen=CHOSEN, more=""):
    """A quantile of a histogram, over all chosen instances."""
    return (
        f"histogram_quantile({share}, {rate(histogram + '_bucket', ', '.join(filter(None, [by, 'le'])), chosen, more)})"
    )


def quantiles(histogram, chosen=CHOSEN, more=""):
    """The queries of a panel that shows the usual quantiles."""
    return [
        (quantile(share, histogram, "", chosen, more), name)
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]


def steps(*limits):
    """Thresholds: green, then each (value, colour)."""
    return {
        "mode": "absolute",
        "steps": [{"color": GREEN, "value": None}, *({"color": c, "value": v} for v, c in limits)],
    }


def targets(queries, **more):
    letters = "ABCDEFGH"
    return [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expression,
            "legendFormat": legend,
            "range": True,
            "refId": letter,
            **more,
        }
        for letter, (expression, legend) in zip(letters, queries, strict=False)
    ]


def panel(kind, title, description, width, height, **parts):
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"h": height, "w": width, "x": 0, "y": 0},
        **parts,
    }


def stat(title, description, expression, unit="short", thresholds=None, width=3, decimals=None, mappings=()):
    defaults = {"unit": unit, "thresholds": thresholds or steps(), "mappings": list(mappings), "noValue": "–"}
    if decimals is not None:
        defaults["decimals"] = decimals
    return panel(
        "stat",
        title,
        description,
        width,
        4,
        fieldConfig={"defaults": defaults, "overrides": []},
        options={
            "colorMode": "value" if thresholds else "none",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "percentChangeColorMode": "standard",
            "showPercentChange": False,
            "textMode": "auto",
            "wideLayout": True,
        },
        targets=targets([(expression, "")]),
    )


def lines(title, description, queries, unit="short", thresholds=None, width=8, stacked=False, most=None):
    custom = {
        "drawStyle": "line",
        "fillOpacity": 20 if stacked else 5,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    defaults = {"unit": unit, "min": 0, "custom": custom, "thresholds": thresholds or steps()}
    if most is not None:
        defaults["max"] = most
    return panel(
        "timeseries",
        title,
        description,
        width,
        8,
        fieldConfig={"defaults": defaults, "overrides": []},
        options={
            "legend": {"calcs": ["mean", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        targets=targets(queries),
    )


def heatmap(title, description, expression, unit, width=8):
    return panel(
        "heatmap",
        title,
        description,
        width,
        8,
        fieldConfig={
            "defaults": {"custom": {"hideFrom": {"legend": False, "tooltip": False, "viz": False}}},
            "overrides": [],
        },
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {
                "exponent": 0.5,
                "fill": "dark-orange",
                "mode": "scheme",
                "reverse": False,
                "scheme": "Oranges",
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
        targets=targets([(expression, "{{le}}")], format="heatmap"),
    )


def table(title, description, expression, hidden, width=24, height=6):
    return panel(
        "table",
        title,
        description,
        width,
        height,
        fieldConfig={"defaults": {"custom": {"align": "left", "inspect": False}}, "overrides": []},
        options={
            "cellHeight": "sm",
            "footer": {"countRows": False, "reducer": ["sum"], "show": False},
            "frameIndex": 0,
            "showHeader": True,
        },
        targets=targets([(expression, "")], format="table", instant=True),
        transformations=[
            {
                "id": "organize",
                "options": {"excludeByName": dict.fromkeys(hidden, True), "indexByName": {}, "renameByName": {}},
            }
        ],
    )


REQUESTS, DURATION, STAGE = "t2v_requests_total", "t2v_request_duration_seconds", "t2v_stage_duration_seconds"
FAILED = f', code=~"{FAILURES}"'
ERROR_SHARE = f"{rate(REQUESTS, chosen=WORK, more=FAILED)} / {rate(REQUESTS, chosen=WORK)}"
HIT_SHARE = f"{rate('t2v_cache_hits_total')} / ({rate('t2v_cache_hits_total')} + {rate('t2v_cache_misses_total')})"

ROWS = {
    "Overview": [
        stat(
            "Ready",
            "Share of the chosen instances that serve.",
            f"avg(t2v_ready{{{CHOSEN}}})",
            "percentunit",
            {"mode": "absolute", "steps": [{"color": RED, "value": None}, {"color": GREEN, "value": 1}]},
        ),
        stat(
            "Alerts",
            "Alerts of rules.yaml that fire; 0 also where Prometheus has not loaded them.",
            'count(ALERTS{alertname=~"Text2vec.*", alertstate="firing"}) or vector(0)',
            "none",
            steps((1, RED)),
        ),
        stat("Requests a second", "All surfaces; without probes and scrapes.", rate(REQUESTS, chosen=WORK), "reqps"),
        stat(
            "Texts a second",
            "Texts that callers asked for, from the cache or computed.",
            rate("t2v_texts_total"),
            "cps",
        ),
        stat(
            "p99",
            "All but one in a hundred requests were answered within this time. Streams of the gRPC Vectorizer last as "
            "long as their import and are left out.",
            quantile(0.99, DURATION, chosen=ANSWERS),
            "s",
            steps((5, ORANGE), (20, RED)),
        ),
        stat(
            "Failed",
            "Share of requests for whose failure the server is to blame.",
            ERROR_SHARE,
            "percentunit",
            steps((0.005, ORANGE), (0.02, RED)),
            decimals=2,
        ),
        stat(
            "Refused a second",
            "Requests or texts over a limit, too many, late, or without a token.",
            rate("t2v_refused_requests_total"),
            "reqps",
            steps((0.05, ORANGE)),
        ),
        stat("From the cache", "Share of the texts that the cache had.", HIT_SHARE, "percentunit", decimals=1),
        table(
            "Models",
            "What each instance serves. Replicas behind one address must have the same profile, dimensions and dtype.",
            f"t2v_model_info{{{CHOSEN}}}",
            ["Time", "Value", "__name__"],
        ),
    ],
    "Traffic": [
        lines(
            "Requests by surface",
            "By which API they came: t2v is Weaviate's own contract over HTTP, module and vectorizer are gRPC.",
            [(rate(REQUESTS, "surface", WORK), "{{surface}}")],
            "reqps",
            stacked=True,
        ),
        lines(
            "Answers by code",
            "HTTP statuses and gRPC codes; 499 and CANCELLED are callers who left.",
            [(f"{rate(REQUESTS, 'code', WORK)} > 0", "{{code}}")],
            "reqps",
            stacked=True,
        ),
        lines(
            "Failed requests",
            "Share of requests for whose failure the server is to blame, by surface.",
            [(f"{rate(REQUESTS, 'surface', WORK, FAILED)} / {rate(REQUESTS, 'surface', WORK)}", "{{surface}}")],
            "percentunit",
            steps((0.02, RED)),
        ),
        lines(
            "Texts",
            "Texts that callers asked for.",
            [(rate("t2v_texts_total", "instance"), "{{instance}}")],
            "cps",
            stacked=True,
        ),
        lines(
            "Requests under way",
            "Being answered, by surface.",
            [(total("t2v_requests_in_flight", "surface"), "{{surface}}")],
            stacked=True,
        ),
        lines(
            "Connections",
            "Open connections; more than --max-connections are told to come back.",
            [(total("t2v_connections", "instance"), "{{instance}}")],
        ),
    ],
    "Latency": [
        lines(
            "Requests",
            "From a request's headers to the end of its answer; without streams of the gRPC Vectorizer.",
            quantiles(DURATION, ANSWERS),
            "s",
            steps((20, RED)),
        ),
        lines(
            "p99 by surface",
            "The slowest hundredth of each surface.",
            [(quantile(0.99, DURATION, "surface", WORK), "{{surface}}")],
            "s",
        ),
        heatmap("Requests by duration", "How many took how long.", rate(DURATION + "_bucket", "le", ANSWERS), "s"),
        lines(
            "Median by stage",
            "queue: until a call's first token is computed; tokenize: text to token ids; forward: one forward "
            "pass, of many callers' texts; remote: one attempt at an upstream.",
            [(quantile(0.5, STAGE, "stage"), "{{stage}}")],
            "s",
        ),
        lines(
            "p99 by stage",
            "Which stage makes slow requests slow.",
            [(quantile(0.99, STAGE, "stage"), "{{stage}}")],
            "s",
        ),
        lines(
            "Seconds by stage",
            "Seconds spent in a second: of forward, how many passes run at once on average; of queue, "
            "how many calls wait.",
            [(rate(STAGE + "_sum", "stage"), "{{stage}}")],
            "none",
        ),
    ],
    "Queue and limits": [
        lines(
            "Tokens waiting",
            "In the queue, by priority; at most --max-waiting-tokens for each instance.",
            [(total("t2v_queue_tokens", "priority"), "{{priority}}")],
            stacked=True,
        ),
        lines(
            "Sequences waiting",
            "Token sequences in the queue: sentences, or texts, by the profile.",
            [(total("t2v_queue_depth", "priority"), "{{priority}}")],
            stacked=True,
        ),
        lines(
            "Calls at the door",
            "Calls that wait for room in the queue: it holds as much as --max-waiting-tokens allows.",
            [(total("t2v_queue_at_the_door", "priority"), "{{priority}}")],
            stacked=True,
        ),
        lines(
            "Time in the queue",
            "Until a call's first token is computed; --max-wait ends it.",
            quantiles(STAGE, more=', stage="queue"'),
            "s",
            steps((10, RED)),
        ),
        lines(
            "Refusals by limit",
            "The reason is the limit's flag; deadline is the caller's own patience, credentials a missing "
            "or wrong token.",
            [(f"{rate('t2v_refused_requests_total', 'reason')} > 0", "{{reason}}")],
            "reqps",
            stacked=True,
        ),
        lines(
            "Tokens in a forward pass",
            "How well batches are filled.",
            [
                *quantiles("t2v_batch_tokens")[:2],
                (f"{rate('t2v_batch_tokens_sum')} / {rate('t2v_batch_tokens_count')}", "mean"),
            ],
        ),
    ],
    "Cache": [
        lines(
            "Texts",
            "coalesced joined an equal text that was being computed.",
            [(rate(f"t2v_cache_{kind}_total"), kind) for kind in ("hits", "misses", "coalesced")],
            "cps",
            stacked=True,
        ),
        lines("From the cache", "Share of the texts that the cache had.", [(HIT_SHARE, "hits")], "percentunit", most=1),
        lines(
            "Memory",
            "Against --cache-bytes.",
            [(total("t2v_cache_bytes"), "used"), (total("t2v_cache_max_bytes"), "allowed")],
            "bytes",
        ),
        lines(
            "Vectors", "Held at the moment.", [(total("t2v_cache_entries", "instance"), "{{instance}}")], stacked=True
        ),
        lines(
            "Forgotten",
            "Vectors that made room or whose time was over. Many, while memory is full and hits are few: "
            "a larger --cache-bytes may help.",
            [(rate("t2v_cache_evictions_total", "instance"), "{{instance}}")],
            "ops",
        ),
    ],
    "Models and tokens": [
        lines(
            "Tokens by model",
            "Computed here.",
            [(rate("t2v_model_tokens_total", "model"), "{{model}}")],
            "cps",
            stacked=True,
        ),
        lines(
            "Texts by model",
            "Computed here.",
            [(rate("t2v_model_texts_total", "model"), "{{model}}")],
            "cps",
            stacked=True,
        ),
        lines(
            "Tokens in a text",
            "On average. Time grows with it.",
            [(f"{rate('t2v_model_tokens_total', 'model')} / {rate('t2v_model_texts_total', 'model')}", "{{model}}")],
        ),
        lines(
            "Cut texts",
            "Share of texts longer than the token limit: what comes behind is in no vector.",
            [
                (
                    f"{rate('t2v_model_truncated_texts_total', 'model')} / {rate('t2v_model_texts_total', 'model')}",
                    "{{model}}",
                )
            ],
            "percentunit",
            steps((0.2, ORANGE)),
            most=1,
        ),
        lines(
            "Failed texts",
            "Texts of which no vector could be computed; the log has a line for each.",
            [(rate("t2v_model_failed_texts_total", "model"), "{{model}}")],
            "cps",
            steps((0.001, RED)),
        ),
        lines(
            "Texts in a forward pass",
            "Of all callers together.",
            [
                *quantiles("t2v_batch_texts")[:2],
                (f"{rate('t2v_batch_texts_sum')} / {rate('t2v_batch_texts_count')}", "mean"),
            ],
        ),
    ],
    "Upstreams": [
        lines(
            "Attempts",
            "Requests to other servers, and those among them that follow a failed one.",
            [
                (rate(STAGE + "_count", more=', stage="remote"'), "attempts"),
                (rate("t2v_upstream_retries_total"), "retries"),
            ],
            "reqps",
        ),
        lines(
            "Failed attempts",
            "unsent: no connection; broken: it ended early; busy: asked for patience; late: no answer in time; "
            "fault: an answer that cannot be used; refused: refused.",
            [(rate("t2v_upstream_errors_total", "kind"), "{{kind}}")],
            "reqps",
            stacked=True,
        ),
        lines("Time of an attempt", "At most --upstream-timeout.", quantiles(STAGE, more=', stage="remote"'), "s"),
    ],
    "Process": [
        lines("CPU", "Cores in use.", [(rate("process_cpu_seconds_total", "instance"), "{{instance}}")], "none"),
        lines(
            "Memory",
            'Resident memory. "Sizing" in deploy/README.md says what it may become.',
            [(total("process_resident_memory_bytes", "instance"), "{{instance}}")],
            "bytes",
        ),
        lines(
            "Time since the start",
            "Falls to nothing with every restart.",
            [(f"time() - max by (instance) (process_start_time_seconds{{{CHOSEN}}})", "{{instance}}")],
            "s",
        ),
        table(
            "Versions", "What runs.", f"t2v_build_info{{{CHOSEN}}}", ["Time", "Value", "__name__"], width=12, height=7
        ),
        stat(
            "Traces lost",
            "Batches of spans that the collector did not take, in the time shown.",
            f"sum(increase(t2v_trace_export_failures_total{{{CHOSEN}}}[$__range]))",
            "none",
            steps((1, ORANGE)),
            6,
            0,
        ),
        stat(
            "GPU asked for in vain",
            "Instances with ENABLE_CUDA whose build has no GPU support.",
            total("t2v_cuda_unavailable"),
            "none",
            steps((1, ORANGE)),
            6,
        ),
    ],
}


def laid_out():
    """Rows from left to right, each panel with its place and number."""
    panels, top = [], 0
    for title, row in ROWS.items():
        panels.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
                "panels": [],
            }
        )
        top, left, tallest = top + 1, 0, 0
        for each in row:
            place = each["gridPos"]
            if left + place["w"] > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            place["x"], place["y"] = left, top
            left, tallest = left + place["w"], max(tallest, place["h"])
            panels.append(each)
        top += tallest
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return panels


def variable(name, label, query):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "regex": "",
        "skipUrlSync": False,
    }


DASHBOARD = {
    "uid": "text2vec-sidecar",
    "title": "text2vec-sidecar",
    "description": "Text to vectors beside Weaviate: traffic, latency by stage, queue, limits, cache, models and upstreams.",
    "tags": ["text2vec-sidecar", "weaviate"],
    "schemaVersion": 38,
    "version": 1,
    "editable": True,
    "fiscalYearStartMonth": 0,
    "graphTooltip": 1,
    "liveNow": False,
    "refresh": "30s",
    "time": {"from": "now-1h", "to": "now"},
    "timepicker": {},
    "timezone": "",
    "weekStart": "",
    "annotations": {
        "list": [
            {
                "datasource": DATASOURCE,
                "enable": True,
                "expr": f"resets((time() - process_start_time_seconds{{{CHOSEN}}})[2m:15s]) > 0",
                "iconColor": ORANGE,
                "name": "Restarts",
                "titleFormat": "{{instance}} restarted",
            }
        ]
    },
    "links": [],
    "templating": {
        "list": [
            {
                "type": "datasource",
                "name": "datasource",
                "label": "Data source",
                "query": "prometheus",
                "refresh": 1,
                "current": {"selected": False, "text": "default", "value": "default"},
                "hide": 0,
                "includeAll": False,
                "multi": False,
                "options": [],
                "regex": "",
                "skipUrlSync": False,
            },
            variable("job", "Job", "label_values(t2v_build_info, job)"),
            variable("instance", "Instance", 'label_values(t2v_build_info{job=~"$job"}, instance)'),
        ]
    },
    "panels": laid_out(),
}

if __name__ == "__main__":
    print(json.dumps(DASHBOARD, indent=2, ensure_ascii=False))
