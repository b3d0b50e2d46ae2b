"""A small HTTP server whose answers a test writes down."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is answered, and how badly."""

    status: int = 200
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0
    """Seconds before it."""
    pause: float = 0
    """Seconds between head and body."""
    is_cut: bool = False
    """The connection is reset behind half of the body; of none, instead of an answer."""


def error(status: int, code: str, message: str = "told", **headers: str) -> Answer:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, {"error": {"code": code, "message": message}}, fields)


CUT = Answer(is_cut=True)


class FakeServer:
    """Answers requests with what `answers` has, in order; then with the last of them."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[Request], Answer]] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def handle_any(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                fields = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(size)
                if fields.get("transfer-encoding") == "chunked":
                    body = self.read_chunks()
                request = Request(self.command, self.path, fields, body)
                with fake.lock:
                    fake.requests.append(request)
                    answer = fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0]
                self.send(answer(request) if callable(answer) else answer)

            def read_chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def send(self, answer: Answer) -> None:
                time.sleep(answer.delay)
                payload = answer.body
                if not isinstance(payload, bytes):
                    payload = b"" if payload is None else json.dumps(payload).encode()
                if answer.is_cut and not payload:
                    self.reset()
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.flush()
                time.sleep(answer.pause)
                if answer.is_cut:
                    self.wfile.write(payload[: len(payload) // 2])
                    self.wfile.flush()
                    time.sleep(0.05)
                    self.reset()
                    return
                if self.command != "HEAD":
                    self.wfile.write(payload)

            def reset(self) -> None:
                option = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def shutdown_request(self, request: Any) -> None:
                # Without the polite shutdown, a reset is one.
                self.close_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


SANDBOX = {
    "id": "sb-00000000000000000001",
    "status": "running",
    "template": "minimal",
    "vcpus": 1,
    "memory_mb": 512,
    "timeout_sec": 300,
    "created_at": "2026-01-01T00:00:00Z",
    "last_updated": "2026-01-01T00:00:00Z",
}
