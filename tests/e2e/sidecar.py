"""The sidecar's HTTP API with nothing but the standard library: what Weaviate's answers are measured against."""

import json
import math
import urllib.error
import urllib.request

DIMENSIONS = 384
TIMEOUT_SECONDS = 120

# Loopback only: never through a proxy.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def http_json(method, url, body=None, headers={}):
    """Status and parsed JSON of one request; error statuses are answers too. An empty body parses as None."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with _open(request, timeout=TIMEOUT_SECONDS) as response:
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read()
    return status, json.loads(raw) if raw else None


class Sidecar:
    def __init__(self, address):
        self.address = address
        self.url = f"http://{address}"

    def meta(self):
        status, meta = http_json("GET", f"{self.url}/meta")
        assert status == 200, (status, meta)
        return meta

    def passages(self, texts):
        """The vectors of many texts, as of objects, each computed as if it came alone."""
        body = {"texts": list(texts), "config": {"pooling_strategy": "masked_mean", "task_type": "passage"}}
        status, answer = http_json("POST", f"{self.url}/vectors", body)
        assert status == 200, (status, answer)
        return answer["vectors"]

    def embed(self, text, task, pooling="masked_mean", **more):
        """One text, in the words Weaviate uses."""
        body = {"text": text, "config": {"pooling_strategy": pooling, "task_type": task, **more}}
        status, answer = http_json("POST", f"{self.url}/vectors", body)
        assert status == 200, (status, answer)
        assert answer["text"] == text
        return answer["vector"]

    def passage(self, text, pooling="masked_mean"):
        return self.embed(text, "passage", pooling)

    def query(self, text):
        return self.embed(text, "query")


def max_difference(a, b):
    """Largest absolute difference of two vectors of equal length."""
    assert len(a) == len(b), (len(a), len(b))
    return max(abs(x - y) for x, y in zip(a, b))


def unit(vector):
    """Of length 1, as the surfaces of other APIs answer; `/vectors` has them as the profile makes them."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector]