"""A W&B server on 127.0.0.1, as far as a run needs one: it knows one key, and keeps what it was sent."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WandbServer:
    def __init__(self, key):
        self.key = key
        self.requests = []  # (path, body)

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"wandb": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.wandb.requests.append((self.path, body.decode()))
        if not self.path.startswith("/upload/"):
            right = base64.b64encode(f"api:{self.wandb.key}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {right}":
                return self.answer(401, {"error": "user is not logged in"})
        self.answer(200, self.graphql(**json.loads(body)) if self.path == "/graphql" else {})

    do_GET = do_PUT = do_CONNECT = do_POST

    def graphql(self, query, variables, **_):
        if "upsertBucket" in query:
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "learner"}}
            bucket = {"id": "b", "name": variables["name"], "displayName": variables["displayName"],
                      "config": "{}", "historyLineCount": 0, "project": project}  # fmt: skip
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "createRunFiles" in query:
            files = [{"name": it, "uploadUrl": f"{self.wandb.url}/upload/{it}"} for it in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
