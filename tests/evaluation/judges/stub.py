"""A judge's endpoint on 127.0.0.1 that does what a test tells it, well or badly."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from riskalign.evaluation.judges import Client, JudgeSettings

_PART = re.compile(r"BEGIN (\w+) (answer(?: [AB])?)\n(.*?)\nEND \1 \2(?:\n|$)", re.DOTALL)


@dataclass
class Does:
    """What the endpoint does to one call."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    hang_up: bool = False
    drip: float = 0.0  # seconds between the body's bytes


Behaviour = Callable[[dict[str, Any], int], Does]  # of a call's body and its number from 0


@dataclass
class Stub:
    """The running endpoint: its address and every call that it had."""

    base_url: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def settings(self, **options: Any) -> JudgeSettings:
        """Settings that ask it, one call at a time so that calls have an order."""
        given: dict[str, Any] = {"base_url": self.base_url, "model": "m", "max_concurrency": 1}
        return JudgeSettings(**given | options)

    def client(self, waits: list[float] | None = None, **options: Any) -> Client:
        """A client that notes its waits instead of waiting."""
        noted: list[float] = [] if waits is None else waits
        return Client(self.settings(**options), sleep=noted.append)


@contextlib.contextmanager
def running(behaviour: Behaviour) -> Iterator[Stub]:
    """Serve until the block ends."""
    stub = Stub("")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(stub.calls)
                stub.calls.append(body)
                stub.headers.append(dict(self.headers))
                stub.paths.append(self.path)
            does = behaviour(body, number)
            if does.wait and closing.wait(does.wait):
                return
            if does.hang_up:
                self.connection.close()
                return
            with contextlib.suppress(OSError):  # the client may have gone
                self.send_response(does.status)
                for name, value in does.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(does.body)))
                self.end_headers()
                if not does.drip:
                    self.wfile.write(does.body)
                for byte in does.body if does.drip else b"":
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if closing.wait(does.drip):
                        return

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # joined at the end, so that no socket is left open

        def handle_error(self, *_: Any) -> None:
            pass

    closing = threading.Event()
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def says(text: Any, usage: Any = (100, 10), **message: Any) -> Does:
    """A chat completion with this text."""
    content: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text, **message}}]
    }
    if usage is not None:
        content["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Does(body=json.dumps(content).encode())


def verdict(value: str, usage: Any = (100, 10)) -> Does:
    """A well-formed pairwise verdict."""
    return says(json.dumps({"verdict": value, "reason": "Because."}), usage)


def answers_in(body: dict[str, Any]) -> dict[str, str]:
    """The answers between the marks of a question, by name."""
    return {name: text for _, name, text in _PART.findall(body["messages"][1]["content"])}


def prefers_longer(body: dict[str, Any], number: int = 0) -> Does:
    """The judge that always sees right: the longer answer is better."""
    shown = answers_in(body)
    a, b = len(shown["answer A"]), len(shown["answer B"])
    return verdict("tie" if a == b else "A" if a > b else "B")


def grades_by_length(body: dict[str, Any], number: int = 0) -> Does:
    """Grades an answer by its length, 10 at most."""
    score = min(10, len(answers_in(body)["answer"]))
    return says(json.dumps({"score": score, "reason": "Long."}))


def write_answers(path: Path, answers: dict[str, list[str]]) -> Path:
    """A file of answers by prompt."""
    rows = [{"prompt": p, "answer": a} for p, own in answers.items() for a in own]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
