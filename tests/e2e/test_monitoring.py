"""A real Prometheus with the alerts of the chart, beside real sidecars in every kind of trouble: each alert is seen firing, none
for the sidecar that is well, and every query of the dashboard has an answer.

Only the durations (`for`) are shorter here, and those thresholds that would take minutes of load. T2V_PROMETHEUS is the folder
of prometheus and promtool. deploy/monitoring/tests.yaml tests the same alerts at their own pace, and those on pods."""

import concurrent.futures
import contextlib
import functools
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from own_sidecar import BIN, MODEL, free_port
from sidecar import http_json

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/text2vec-sidecar/monitoring"
TOOLS = Path(os.environ["T2V_PROMETHEUS"]).resolve()
JOB = "text2vec-sidecar"
TOKEN = "correct-horse"
# Values of the chart could say the same: monitoring.prometheusRule.alerts.
LOWER = {"Text2vecQueueWait": "0.3", "Text2vecLatency": "0.3"}
SECONDS = 60
# What stands for Grafana's variables; and finer steps, as these servers are restarted within seconds.
CHOICES = {"$__rate_interval": "1m", "$__range": "5m", "$job": JOB, "$instance": ".+", ":15s]": ":1s]"}
_unverified = ssl._create_unverified_context()
_open = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_unverified)).open


def wait_for(what, probe, seconds=SECONDS):
    """What `probe` answers as soon as that is anything."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)
    return found


class Servers:
    """Sidecars by a name each, which their targets have as a label."""

    def __init__(self, folder):
        self.folder, self.children, self.ports = folder, {}, {}

    def start(self, name, *flags, model=MODEL, environment={}, scheme="http"):
        port = self.ports.setdefault(name, free_port())
        own = {key: os.environ[key] for key in ("PATH", "HOME")} | {"RUST_LOG": "error"} | environment
        model = ["--model", str(model)] if model else []
        flags = [*model, "--listen", f"127.0.0.1:{port}", "--threads", "1", "--drain-delay", "0", *flags]
        self.children[name] = subprocess.Popen([BIN, *flags], env=own)
        # The port is there before the model is, and before an upstream is.
        wait_for(name, lambda: self.is_live(name, scheme))

    def is_live(self, name, scheme):
        assert self.children[name].poll() is None, f"{name} ended"
        with contextlib.suppress(OSError):
            return _open(f"{scheme}://127.0.0.1:{self.ports[name]}/.well-known/live", timeout=2).status == 204

    def stop(self, name):
        self.children[name].kill()
        self.children[name].wait()

    def ask(self, name, body, **headers):
        """The status of one request for vectors."""
        return http_json("POST", f"http://127.0.0.1:{self.ports[name]}/vectors", body, headers)[0]


class Prometheus:
    def __init__(self, folder, alerts):
        self.folder, self.targets = folder, folder / "targets.json"
        self.targets.write_text("[]")
        (folder / "rules.yaml").write_text(alerts)
        (folder / "token").write_text(TOKEN)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": JOB, "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]},
                {
                    "job_name": "guarded",
                    "scheme": "https",
                    "authorization": {"credentials_file": "token"},
                    "tls_config": {"ca_file": "tls.crt", "server_name": "localhost"},
                    "file_sd_configs": [{"files": ["guarded.json"], "refresh_interval": "1s"}],
                },
            ],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [TOOLS / "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]
        self.child = subprocess.Popen([*command, f"--web.listen-address={self.url[7:]}"], cwd=folder)
        wait_for("Prometheus", self.is_ready)

    def is_ready(self):
        assert self.child.poll() is None, "Prometheus ended"
        with contextlib.suppress(OSError):
            return _open(f"{self.url}/-/ready", timeout=2).status == 200

    def scrape(self, ports):
        """From now on these, by name."""
        groups = [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}} for name, port in ports.items()]
        part = self.targets.with_suffix(".part")
        part.write_text(json.dumps(groups))
        part.rename(self.targets)

    def get(self, path, **parameters):
        status, answer = http_json("GET", f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200 and answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def value(self, query):
        """The values of an instant query that are numbers."""
        return [entry["value"][1] for entry in self.get("query", query=query)["result"] if entry["value"][1] != "NaN"]

    def firing(self):
        return [alert for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]


def rewritten(text):
    """The same alerts, sooner."""
    parts = re.split(r"(?=^      - alert: )", text, flags=re.M)
    names = [part.split()[2] for part in parts[1:]]
    for place, name in enumerate(names, 1):
        part = re.sub(r"^        for: \w+$", "        for: 3s", parts[place], flags=re.M).replace(":30s]", ":1s]")
        if name in LOWER:
            part, count = re.subn(r"> [0-9.]+\n        for:", f"> {LOWER[name]}\n        for:", part)
            assert count == 1, name
        parts[place] = part
    return names, "".join(parts)


def overflowing(folder):
    """A small model with a word whose numbers are finite and so large that their sum is not; and that word."""
    shutil.copytree(ROOT / "tests/fixtures/families/bert", folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    word = max((word for word in vocabulary if word.isalpha()), key=len)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    [tensor] = [header[name] for name in header if name.endswith("word_embeddings.weight")]
    assert tensor["dtype"] == "F32"
    width, start = tensor["shape"][1], 8 + length + tensor["data_offsets"][0]
    row = start + vocabulary[word] * width * 4
    data[row : row + width * 4] = struct.pack("<f", 3e38) * width
    path.write_bytes(data)
    return folder, word


@pytest.fixture(scope="module")
def trouble(tmp_path_factory):
    """Prometheus, the sidecars, the names of all alerts and what fired before there was a target."""
    folder = tmp_path_factory.mktemp("monitoring")
    names, alerts = rewritten((CHART / "rules.yaml").read_text())
    servers = Servers(folder)
    prometheus = Prometheus(folder, alerts)
    try:
        wait_for("Text2vecAbsent", prometheus.firing)
        alone = {alert["labels"]["alertname"] for alert in prometheus.firing()}
        yield prometheus, servers, names, alone
    finally:
        for child in [prometheus.child, *servers.children.values()]:
            child.kill()
            child.wait()


def start_all(servers, folder):
    dead = f"http://127.0.0.1:{free_port()}"
    servers.start("well", environment={"T2V_CACHE_BYTES": "1000000"})
    # Room for one text, and little patience.
    servers.start("busy", "--max-waiting-tokens", "40", "--max-wait", "1", "--cache-bytes", "0")
    limits = ["--max-texts", "4", "--max-text-bytes", "4000", "--max-body-wait", "1", "--profile", "sentence-transformers"]
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": dead, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    asks = {"AUTHENTICATION_ALLOWED_TOKENS": TOKEN, "ENABLE_CUDA": "1", "T2V_CACHE_BYTES": "0"}
    servers.start("strict", *limits, environment=asks | collector)
    servers.start("behind", model=ROOT / "tests/fixtures/families/bert")
    servers.start("forwarding", "--upstream", f"http://127.0.0.1:{servers.ports['behind']}", model=None)
    servers.start("waiting", "--upstream", dead, model=None)
    model, servers.overflowing_word = overflowing(folder / "overflowing")
    servers.start("overflowing", model=model)
    restart(servers)


def restart(servers):
    if "restarting" in servers.children:
        servers.stop("restarting")
    servers.start("restarting", "--upstream", "http://127.0.0.1:1", "--upstream-wait", "false", model=None)


def flood(servers, seconds):
    """Forty callers at once, for some seconds."""
    text = "The quick brown fox jumps over the lazy dog " * 30
    end = time.monotonic() + seconds

    def call(_):
        while time.monotonic() < end:
            servers.ask("busy", {"text": text})

    with concurrent.futures.ThreadPoolExecutor(40) as callers:
        list(callers.map(call, range(40)))


def begin_bodies(port, count):
    """Requests that stop in the middle; closed when the server has given each up."""
    head = f"POST /vectors HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for each in sockets:
            each.sendall(head.encode() + b'{"text"')
        for each in sockets:
            each.settimeout(20)
            while each.recv(4096):
                pass


def misuse(servers):
    """What the limits and the tokens are for, and an upstream that dies."""
    assert servers.ask("forwarding", {"text": "while it lives"}) == 200
    servers.stop("behind")
    mine = {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(20):
        assert servers.ask("strict", {"texts": ["a"] * 5}, **mine) == 413
    for _ in range(60):
        assert servers.ask("strict", {"text": "a"}, Authorization="Bearer wrong") == 401
    for number in range(8):
        assert servers.ask("strict", {"text": f"{number} " + "word " * 700}, **mine) == 200
    for number in range(8):
        assert servers.ask("forwarding", {"text": f"text {number}"}) >= 500
        assert servers.ask("overflowing", {"text": f"{servers.overflowing_word} " * (number + 2)}) == 500
    begin_bodies(servers.ports["strict"], 60)


def live_well(servers):
    for number in range(60):
        assert servers.ask("well", {"text": f"The ship number {number % 20} sails at dawn."}) == 200


def test_every_alert_fires_and_none_for_a_sidecar_that_is_well(trouble, figure):
    prometheus, servers, names, alone = trouble
    assert alone == {"Text2vecAbsent"}
    began = time.monotonic()
    start_all(servers, prometheus.folder)
    prometheus.scrape({name: port for name, port in servers.ports.items() if name != "behind"})
    # Counters are read once before they grow: what was there at first is no increase.
    wait_for("the first scrapes", lambda: len(prometheus.value(f'up{{job="{JOB}"}} == 1')) == len(servers.ports) - 1)
    wait_for("the models", lambda: len(prometheus.value("t2v_ready == 1")) == len(servers.ports) - 2)
    time.sleep(1)
    with concurrent.futures.ThreadPoolExecutor(3) as work:
        parts = [work.submit(flood, servers, 8), work.submit(misuse, servers), work.submit(live_well, servers)]
        for _ in range(3):
            restarted = time.time()
            restart(servers)
            started = f'process_start_time_seconds{{instance="restarting"}} > {restarted - 0.1}'
            wait_for("a scrape", functools.partial(prometheus.value, started))
            time.sleep(1.2)
        servers.stop("restarting")
        for part in parts:
            part.result()
    expected = set(names) - alone
    seen = {}

    def all_fired():
        for alert in prometheus.firing():
            seen.setdefault(alert["labels"]["alertname"], set()).add(alert["labels"].get("instance"))
        return expected <= set(seen)

    with contextlib.suppress(AssertionError):
        wait_for("all alerts", all_fired, 30)
    assert expected - set(seen) == set(), f"these did not fire; those did: {sorted(seen)}"
    took = time.monotonic() - began
    for alert in prometheus.firing():
        # A machine that stands still for a moment passes the lowered thresholds too.
        name = alert["labels"]["alertname"]
        assert alert["labels"].get("instance") != "well" or name in LOWER, alert
        for text in alert["annotations"].values():
            assert "<error" not in text and "<no value>" not in text and "{{" not in text, text
    assert seen["Text2vecNotReady"] == {"waiting"} and seen["Text2vecUpstreamErrors"] == {"forwarding"}
    assert seen["Text2vecRestarts"] == {"restarting"} and "restarting" in seen["Text2vecDown"]
    figure(f"monitoring: {len(seen) + len(alone)} of {len(names)} alerts seen firing, {took:.0f} s after their sidecars' start")


def test_each_reason_of_a_refusal_is_watched(trouble):
    prometheus, _, _, _ = trouble
    reasons = set(prometheus.get("label/reason/values", **{"match[]": "t2v_refused_requests_total"}))
    alerts = re.findall(r'reason=~?"([a-z_|]+)"', (CHART / "rules.yaml").read_text())
    watched = [reason for alert in alerts for reason in alert.split("|")]
    # Text2vecNotReady is told by the server itself.
    assert sorted(watched) == sorted(reasons - {"not_ready"}) and len(reasons) >= 15


def queries(board):
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def test_every_query_of_the_dashboard_has_an_answer(trouble, figure):
    prometheus, _, _, _ = trouble
    board = json.loads((CHART / "dashboard.json").read_text())
    count, empty = 0, []
    for title, query in queries(board):
        for name, value in CHOICES.items():
            query = query.replace(name, value)
        count += 1
        if not prometheus.value(query):
            empty.append((title, query))
    assert not empty, empty
    for variable in board["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"].replace("$job", JOB)).groups()
        assert prometheus.get(f"label/{label}/values", **{"match[]": metric}), variable["name"]
    figure(f"monitoring: all {count} queries of the dashboard answered")


def test_metrics_behind_tls_and_a_token_are_scraped(trouble):
    prometheus, servers, _, _ = trouble
    folder = prometheus.folder
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    subprocess.run([*key, *subject, *files], check=True, capture_output=True)
    tls = ["--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"), "--auth-metrics", "true"]
    servers.start("guarded", *tls, environment={"AUTHENTICATION_ALLOWED_TOKENS": TOKEN}, scheme="https")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _open(f"https://127.0.0.1:{servers.ports['guarded']}/metrics")
    (folder / "guarded.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{servers.ports['guarded']}"]}]))
    wait_for("a scrape over TLS", lambda: prometheus.value('t2v_ready{job="guarded"} == 1'))


def test_the_example_configuration_is_one():
    config = ROOT / "deploy/monitoring/prometheus.yml"
    done = subprocess.run([TOOLS / "promtool", "check", "config", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
