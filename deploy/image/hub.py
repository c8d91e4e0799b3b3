#!/usr/bin/env python3
"""A Hub with one model, for deploy/image/check.sh: `hub.py DIR ID TOKEN PORT_FILE`. Whoever lacks the token gets 401."""

import hashlib
import http.server
import json
import pathlib
import sys

directory, model, token, port_file = sys.argv[1:]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    str(path.relative_to(directory)): path
    for path in sorted(pathlib.Path(directory).rglob("*"))
    if path.is_file() and path.name != "text2vec-sidecar.json"
}


def entry(name, path):
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    known = {"rfilename": name, "size": len(content), "blobId": digest[:40]}
    if len(content) > 1 << 20:
        known["lfs"] = {"sha256": digest, "size": len(content)}
    return known


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        start = f"/{model}/resolve/{COMMIT}/"
        if self.headers.get("Authorization") != f"Bearer {token}":
            self.send_error(401)
        elif path == f"/api/models/{model}/revision/main":
            body = json.dumps({"id": model, "sha": COMMIT, "siblings": [entry(*file) for file in FILES.items()]}).encode()
            self.answer(body, {"Content-Type": "application/json"})
        elif path.startswith(start) and path[len(start):] in FILES:
            content = FILES[path[len(start):]].read_bytes()
            self.answer(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
        else:
            self.send_error(404)

    def answer(self, body, headers):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
pathlib.Path(port_file).write_text(str(server.server_address[1]), encoding="utf-8")
server.serve_forever()
