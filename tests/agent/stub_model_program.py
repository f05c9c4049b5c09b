"""Stands in for the embedded model's child process: the same pipe protocol, and answers that echo what it was asked.

Its behaviour is chosen by the model file's text: "refuse" ends it while loading; "crash N" ends it in call N; "sleep"
leaves a file beside the model's and never answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

settings = json.loads(sys.stdin.readline())
words = Path(settings["model"]).read_text().split()
if words[0] == "refuse":
    print("the model file makes no sense", file=sys.stderr, flush=True)
    sys.exit(1)
calls = 0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        global calls
        calls += 1
        if words == ["crash", str(calls)]:
            os._exit(3)
        if words == ["sleep"]:
            Path(f"{settings['model']}.asked").touch()
            time.sleep(600)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {settings['key']}":
            return self.answer(401, {"error": {"message": "Invalid API Key"}})
        if len(body["messages"][0]["content"]) > 1000:
            return self.answer(400, {"error": {"message": "request exceeds the available context size"}})
        said = json.dumps({"asked": body, "environment": dict(os.environ), "settings": settings})
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
        return self.answer(200, {"choices": [choice], "usage": usage})

    def answer(self, status: int, body: object) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *arguments: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}"}), flush=True)
server.serve_forever()
