"""A server of the code interpreter on this machine, with Debian's packages: scripts/test-code-interpreter.sh unit."""

from __future__ import annotations

import dataclasses
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER = ROOT / "images/code-interpreter/server"
TOKEN = "secret"
# Machines that run other tests are slow.
LIMIT_SEC = 60


@dataclasses.dataclass
class Cell:
    """What a cell sent."""

    lines: list[dict[str, Any]]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == kind]

    def text_of(self, stream: str) -> str:
        return "".join(line["text"] for line in self.of_type(stream))

    @property
    def stdout(self) -> str:
        return self.text_of("stdout")

    @property
    def stderr(self) -> str:
        return self.text_of("stderr")

    @property
    def results(self) -> list[dict[str, Any]]:
        return self.of_type("result")

    @property
    def text(self) -> str | None:
        return next((result.get("text") for result in self.results if result["is_main_result"]), None)

    @property
    def error(self) -> dict[str, Any] | None:
        return next(iter(self.of_type("error")), None)

    @property
    def count(self) -> int:
        return self.of_type("number_of_executions")[0]["execution_count"]


class Agent(http.server.BaseHTTPRequestHandler):
    """The guest agent's `/envs`."""

    variables: dict[str, str] = {"FROM_SANDBOX": "of the sandbox", "HOME": "/nowhere"}

    def do_GET(self) -> None:
        is_allowed = self.headers.get("X-Access-Token") == TOKEN
        body = json.dumps(self.variables if is_allowed else {}).encode()
        self.send_response(200 if is_allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server:
    def __init__(self, directory: pathlib.Path, agent: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = os.environ | {
            "PYTHONPATH": str(SERVER),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CODE_INTERPRETER_RUNTIME": str(directory / "run"),
            "CODE_INTERPRETER_CWD": str(directory),
            "CODE_INTERPRETER_ENVS_URL": f"http://127.0.0.1:{agent}/envs",
            "CODE_INTERPRETER_MAX_OUTPUT_MIB": "8",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
        command = [sys.executable, "-m", "code_interpreter"]
        listen = ["serve", "--listen", "127.0.0.1", "--port", str(self.port), "--preload", "decimal,no_such_module"]
        self.process = subprocess.Popen([*command, *listen], env=environment, start_new_session=True)
        wait = ["wait", "--port", str(self.port), "--timeout", str(LIMIT_SEC)]
        subprocess.run([*command, *wait], env=environment, check=True)

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SEC)
        headers = {"Content-Type": "application/json"} | ({"X-Access-Token": token} if token else {})
        content = body if isinstance(body, (str, bytes, type(None))) else json.dumps(body)
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        deadline = time.monotonic() + LIMIT_SEC
        received = b""
        # Keep-alives would keep an answer that never ends alive.
        while chunk := answer.read1(1 << 20):
            received += chunk
            assert time.monotonic() < deadline, f"no end of {received[-500:]!r}"
        connection.close()
        return answer.status, received.decode()

    def run(self, code: str, token: str | None = TOKEN, **fields: Any) -> Cell:
        """Runs a cell and checks the form of its stream."""
        status, text = self.request("POST", "/execute", {"code": code, **fields}, token)
        assert status == 200, text
        assert text.isascii() and text.endswith("\n")
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines[-1] == {"type": "end_of_execution"}
        return Cell(lines[:-1])

    def start(self, code: str, **fields: Any) -> socket.socket:
        """Begins a cell; closing the socket is hanging up."""
        body = json.dumps({"code": code, **fields}).encode()
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return client

    def create(self, **fields: Any) -> str:
        status, text = self.request("POST", "/contexts", fields)
        assert status == 200, text
        return str(json.loads(text)["id"])

    def contexts(self) -> list[dict[str, str]]:
        return json.loads(self.request("GET", "/contexts")[1])

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    agent = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=agent.serve_forever, daemon=True).start()
    # A short path: those of sockets have at most 107 bytes.
    running = Server(tmp_path_factory.mktemp("ci"), agent.server_port)
    try:
        yield running
        running.stop()
        left = subprocess.run(["pgrep", "-f", f"PPID={running.process.pid}"], capture_output=True).stdout
        assert not left
    finally:
        try:
            os.killpg(running.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        agent.shutdown()


def wait_until(condition: Any, seconds: float = LIMIT_SEC) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.1)
