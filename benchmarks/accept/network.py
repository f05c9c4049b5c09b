"""A model that cannot be reached, and one whose server dies in the middle of a search."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from toy_search import EPOCHS, Change, Point, decisions, evaluated_twice, run, script_of, search, unfinished

KEY = "sk-stub-0123456789"
DEAD = "http://127.0.0.1:9/v1"
IDEAS: tuple[tuple[Change, ...], ...] = (EPOCHS[0][:2], EPOCHS[1][:2])
DIES_AFTER = (2, 5)
"""Answers: within an episode, and at the second proposal. The client tries again for half a minute each time."""
N_IDEAS = sum(map(len, IDEAS))


class StubServer:
    """Speaks OpenAI's chat API and follows a script; after so many answers it cuts every connection."""

    def __init__(self, script: dict[str, Any], answers: int, port: int = 0) -> None:
        self.cases = [(re.compile(case["match"]), case["replies"]) for case in script["cases"]]
        self.left = answers
        self.requests = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stub.answer(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.requests += 1
        if self.left <= 0:
            handler.connection.close()
            return
        self.left -= 1
        said = "\n".join(str(message.get("content") or "") for message in body["messages"])
        replies: list[dict[str, Any]] = next((replies for match, replies in self.cases if match.search(said)), [])
        number = sum(message["role"] == "assistant" for message in body["messages"])
        reply = replies[number] if number < len(replies) else {"text": "The script is over."}
        content = json.dumps(completion(reply, number)).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def __enter__(self) -> StubServer:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()


def completion(reply: dict[str, Any], number: int) -> dict[str, Any]:
    """A reply of the script as the API has it."""
    calls = [
        {
            "id": f"call_{number}_{index}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for index, call in enumerate(reply.get("calls", []))
    ]
    message: dict[str, Any] = {"role": "assistant", "content": reply.get("text")}
    if calls:
        message["tool_calls"] = calls
    used = {"prompt_tokens": reply.get("input_tokens", 1), "completion_tokens": reply.get("output_tokens", 1)}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {**used, "total_tokens": sum(used.values())}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def command(folder: Path, name: str) -> list[str]:
    """A search of two epochs of two ideas by a model behind a server."""
    argv = search(Path("none"), folder, name, "--ideas", "2", "--epochs", "2")
    argv[argv.index("--model") + 1] = "openai/m"
    return argv


def told(code: int, err: str) -> str:
    """What is wrong with the end of a command whose model does not answer; "" when nothing is."""
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    right = code == 3 and len(errors) == 1 and "; " in errors[0] and "Traceback" not in err
    return "" if right else f"exit {code}, {err.strip()[-300:]!r}"


def dead_network(folder: Path) -> Point:
    """The point."""
    names = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": DEAD}
    ended = run(command(folder, "dead"), names)
    if problem := told(ended.returncode, ended.stderr):
        return False, f"nothing listens: {problem}"
    left = [path.name for path in folder.iterdir()]
    if left:
        return False, f"nothing listens: {left} is left"
    script, wrong = script_of(IDEAS), []
    answered, port = 0, 0
    for answers in DIES_AFTER:
        with StubServer(script, answers, port) as stub:
            port = stub.server.server_port
            ended = run(command(folder, "stub"), {**names, "OPENAI_BASE_URL": stub.url})
            answered += answers - stub.left
        if problem := told(ended.returncode, ended.stderr):
            wrong.append(f"after {answers} answers: {problem}")
    with StubServer(script, 1000, port) as stub:
        ended = run(command(folder, "stub"), {**names, "OPENAI_BASE_URL": stub.url})
        answered += stub.requests
    lacking = unfinished(folder / "stub", N_IDEAS)
    if ended.returncode != 0 or lacking or evaluated_twice(folder / "stub"):
        wrong.append(f"with a server again: exit {ended.returncode}, {lacking or ended.stderr.strip()[-300:]}")
    needed = len([line for line in decisions(folder / "stub", "proposal")]) + 3 * N_IDEAS
    if answered != needed:
        wrong.append(f"{answered} answers where {needed} were needed")
    deaths = f"a server that died {len(DIES_AFTER)} times: exit 3 each time, then all {N_IDEAS} ideas"
    figure = f"exit 3 and one line at {DEAD}; {deaths}"
    return not wrong, "; ".join(wrong) or f"{figure} with {answered} answers, as many as an undisturbed run needs"
