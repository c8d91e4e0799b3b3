"""Sidecars of a test's own, which it may stop, replace and give flags; Weaviate gets to them by a class's `inferenceUrl`."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request

from sidecar import http_json

BIN, MODEL = os.environ["T2V_BIN"], os.environ["T2V_TEST_MODEL"]
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_ready(port):
    with contextlib.suppress(OSError):
        with _open(f"http://127.0.0.1:{port}/.well-known/ready", timeout=2) as answer:
            return answer.status == 204
    return False


class Process:
    """A sidecar of our own."""

    def __init__(self, port, *flags, model=MODEL, environment={}):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        own = {key: os.environ[key] for key in ("PATH", "HOME")} | {"RUST_LOG": "warn"}
        self.child = subprocess.Popen(
            [BIN, *(["--model", model] if model else []), "--listen", f"127.0.0.1:{port}", "--cache-bytes", "0", *flags],
            env=own | environment,
        )
        deadline = time.monotonic() + 60
        while not is_ready(port):
            assert time.monotonic() < deadline and self.child.poll() is None, "the sidecar does not start"
            time.sleep(0.05)

    def end(self):
        """As an orchestrator does it; the exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(timeout=60)


def create(client, weaviate_url, name, url=None, **settings):
    """A class whose inferenceUrl is `url`, or that has whatever settings of the module are given."""
    if url is not None:
        settings["inferenceUrl"] = url
    client.collections.delete(name)
    module = "text2vec-transformers"
    definition = {
        "class": name,
        "vectorizer": module,
        "moduleConfig": {module: {"vectorizeClassName": False, **settings}},
        "properties": [{"name": "body", "dataType": ["text"]}],
    }
    status, answer = http_json("POST", f"{weaviate_url}/v1/schema", definition)
    assert status == 200, answer
    return client.collections.use(name)
