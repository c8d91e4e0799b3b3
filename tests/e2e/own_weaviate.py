"""A Weaviate of a test's own, which asks for an API key."""

import contextlib
import os
import pathlib
import random
import socket
import subprocess
import tempfile
import time
import urllib.request

from own_sidecar import _open

KEY = "key-of-the-tests"


def nine_ports():
    """In a row, as run.sh takes them: on one host Weaviate takes a node's RPC port to be the one after its Raft port."""
    while True:
        ports = range(first := random.randrange(20000, 32000), first + 9)
        with contextlib.ExitStack() as held:
            try:
                for port in ports:
                    held.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
        return list(ports)


class Weaviate:
    """The server, until the block's end. `sidecar` is what makes its vectors where objects come without."""

    def __init__(self, sidecar):
        self.folder = tempfile.TemporaryDirectory(prefix="t2v-weaviate.")
        self.port, self.grpc_port, gossip, data, raft, raft_rpc, *_ = nine_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.grpc_url = f"http://127.0.0.1:{self.grpc_port}"
        settings = {
            "PERSISTENCE_DATA_PATH": self.folder.name,
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_ALLOWED_KEYS": KEY,
            "AUTHENTICATION_APIKEY_USERS": "tester",
            "AUTHORIZATION_ADMINLIST_ENABLED": "true",
            "AUTHORIZATION_ADMINLIST_USERS": "tester",
            "ENABLE_MODULES": "text2vec-transformers",
            "TRANSFORMERS_INFERENCE_API": sidecar,
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",
            "DISK_USE_READONLY_PERCENTAGE": "100",
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_IN_LOCALHOST": "true",
            "CLUSTER_BIND_ADDR": "127.0.0.1",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "CLUSTER_GOSSIP_BIND_PORT": str(gossip),
            "CLUSTER_DATA_BIND_PORT": str(data),
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(raft_rpc),
            "RAFT_BOOTSTRAP_EXPECT": "1",
            "RAFT_TIMEOUTS_MULTIPLIER": "1",
            "GRPC_PORT": str(self.grpc_port),
        }
        own = {key: os.environ[key] for key in ("PATH", "HOME")}
        self.log = pathlib.Path(self.folder.name, "log")
        with self.log.open("wb") as log:
            command = [os.environ["T2V_E2E_WEAVIATE_BIN"], "--scheme", "http", "--host", "127.0.0.1", "--port", str(self.port)]
            self.child = subprocess.Popen(command, env=own | settings, stdout=log, stderr=log)

    def __enter__(self):
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), _open(f"{self.url}/v1/.well-known/ready", timeout=2):
                return self
            assert self.child.poll() is None and time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.2)

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.folder.cleanup()

    def call(self, method, path, body=None):
        """The status, and the answer's bytes."""
        import json

        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with _open(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def client(self):
        """Weaviate's own Python client."""
        import weaviate
        from weaviate.classes.init import AdditionalConfig, Auth, Timeout

        return weaviate.connect_to_local(
            host="127.0.0.1",
            port=self.port,
            grpc_port=self.grpc_port,
            auth_credentials=Auth.api_key(KEY),
            additional_config=AdditionalConfig(timeout=Timeout(init=30, query=120, insert=120)),
            skip_init_checks=True,
        )
