"""A server on port 8888 with the part of Jupyter's protocol that code runners of the original use: one kernel, whose
cells are Python."""

import ast
import base64
import contextlib
import hashlib
import io
import json
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KERNELS: list = []
NAMES: dict = {}
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def run_cell(code):
    """Runs a cell, and yields the type and content of each message about it."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    failure = value = None
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "cell", "exec"), NAMES)
            if last:
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), NAMES)
    except Exception as error:
        failure = error
    if printed.getvalue():
        yield "stream", {"name": "stdout", "text": printed.getvalue()}
    if failure is not None:
        yield "error", {"ename": type(failure).__name__, "evalue": str(failure), "traceback": []}
    elif value is not None:
        yield "execute_result", {"data": {"text/plain": repr(value)}, "execution_count": 1}
    yield "status", {"execution_state": "idle"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.talk()
        else:
            self.answer(200, KERNELS)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        KERNELS.append({"id": "kernel-1", "name": asked["name"]})
        self.answer(201, KERNELS[-1])

    def talk(self):
        digest = hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + MAGIC).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            code, data = self.read_frame()
            if code == 8:
                return
            if code == 9:
                self.write_frame(10, data)
            elif code == 1:
                request = json.loads(data)
                for kind, content in run_cell(request["content"]["code"]):
                    message = {"parent_header": request["header"], "msg_type": kind, "content": content}
                    self.write_frame(1, json.dumps(message).encode())

    def read_frame(self):
        head = self.rfile.read(2)
        if len(head) < 2:
            return 8, b""
        length = head[1] & 127
        if length == 126:
            (length,) = struct.unpack(">H", self.rfile.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.rfile.read(8))
        mask = self.rfile.read(4)
        data = self.rfile.read(length)
        return head[0] & 15, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))

    def write_frame(self, code, data):
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
        self.wfile.write(bytes([0x80 | code]) + size + data)


ThreadingHTTPServer(("0.0.0.0", 8888), Handler).serve_forever()
