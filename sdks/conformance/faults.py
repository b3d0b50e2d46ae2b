"""A proxy that breaks connections on purpose: faults.py --to URL

Stands between an SDK and a real server. Prints its own URL on the first line, and ends with its standard input.
`PUT /faults` sets what goes wrong, `GET /faults` tells what was asked since: README.md has the format. One request a
connection, so that each fault meets exactly one request.
"""

import argparse
import json
import re
import select
import socket
import struct
import sys
import threading
import time
from urllib.parse import urlsplit

CHUNK = 64 * 1024
# Bytes of a request's head; real ones have less than 2 KiB.
MAX_HEAD = 64 * 1024


class Faults:
    """What is to go wrong, and the requests since it was set."""

    def __init__(self):
        self.lock = threading.Lock()
        self.faults = []
        self.requests = []

    def set(self, faults):
        with self.lock:
            self.faults = [dict({"times": 1, "skip": 0}, **fault) for fault in faults]
            self.requests = []

    def next_for(self, method, path):
        """Notes the request, and returns the fault that it meets, or None."""
        with self.lock:
            self.requests.append({"method": method, "path": path})
            for fault in self.faults:
                if fault.get("method", method) != method or not re.search(fault["path"], path):
                    continue
                if fault["skip"] > 0:
                    fault["skip"] -= 1
                elif fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
            return None


def reset(connection):
    """Closes with RST, as a machine that dies does."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    connection.close()


def read_head(connection):
    """Returns head and the first bytes of the body; None if the client hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(CHUNK)
        if not part or len(data) > MAX_HEAD:
            return None
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def header(head, name):
    """Value of a header field, or None."""
    found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*(.*?)[ \t]*\r?$", head)
    return found.group(1).decode() if found else None


def answer(connection, status, body, headers=None):
    """Sends a whole answer and closes."""
    payload = body if isinstance(body, str) else json.dumps(body)
    fields = {"content-type": "application/json", **(headers or {})}
    lines = [f"HTTP/1.1 {status} Fault", *(f"{name}: {value}" for name, value in fields.items())]
    lines += [f"content-length: {len(payload.encode())}", "connection: close", "", payload]
    connection.sendall("\r\n".join(lines).encode())
    connection.shutdown(socket.SHUT_WR)
    # What the client still sends is read, or the kernel would reset the answer away.
    connection.settimeout(5)
    try:
        while connection.recv(CHUNK):
            pass
    except OSError:
        pass
    connection.close()


class BodyEnd:
    """Tells when the body of a request is complete, for faults that come after it."""

    def __init__(self, head):
        length = header(head, "content-length")
        self.left = int(length) if length else 0
        self.chunked = (header(head, "transfer-encoding") or "").lower() == "chunked"
        self.tail = b""

    def feed(self, data):
        self.left -= len(data)
        self.tail = (self.tail + data)[-5:]

    def is_reached(self):
        return self.tail.endswith(b"0\r\n\r\n") if self.chunked else self.left <= 0


def serve(connection, upstream, faults):
    """Carries one request, with the fault that it meets."""
    request = read_head(connection)
    if request is None:
        connection.close()
        return
    head, rest = request
    method, path = head.split(b"\r\n", 1)[0].decode().split(" ")[:2]
    if path == "/faults":
        serve_control(connection, method, head, rest, faults)
        return
    fault = faults.next_for(method, path) or {}
    time.sleep(fault.get("delay_ms", 0) / 1000)
    if "answer" in fault:
        told = fault["answer"]
        answer(connection, told["status"], told.get("body", ""), told.get("headers"))
    elif fault.get("cut") == "before":
        reset(connection)
    else:
        carry(connection, upstream, head, rest, fault)


def serve_control(connection, method, head, rest, faults):
    if method == "PUT":
        while len(rest) < int(header(head, "content-length")):
            rest += connection.recv(CHUNK)
        faults.set(json.loads(rest)["faults"])
        answer(connection, 200, {})
    else:
        with faults.lock:
            seen = list(faults.requests)
        answer(connection, 200, {"requests": seen})


def carry(connection, upstream, head, rest, fault):
    server = socket.create_connection(upstream)
    body_end = BodyEnd(head)
    if header(head, "upgrade") is None:
        head = re.sub(rb"(?im)^connection:.*\r\n", b"", head + b"\r\n")[:-2] + b"\r\nconnection: close"
    server.sendall(head + b"\r\n\r\n")
    state = {"sent": 0, "answered": 0, "answer": b"", "in_body": False}
    pending = [rest] if rest else []
    sources = [connection, server]
    try:
        while True:
            for data in pending:
                if not pass_request(server, data, fault, state, body_end):
                    return
            pending = []
            if fault.get("cut") == "after" and body_end.is_reached():
                # The server has it all once it answers.
                server.recv(CHUNK)
                return
            ready, _, _ = select.select(sources, [], [], 300)
            if not ready:
                return
            if server in ready and not pass_answer(connection, server, fault, state):
                return
            if connection in ready:
                data = connection.recv(CHUNK)
                if data:
                    pending = [data]
                elif fault.get("cut") or fault.get("cut_request"):
                    return
                else:
                    sources.remove(connection)
                    server.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    finally:
        finish(connection, server, state)


def pass_request(server, data, fault, state, body_end):
    """Passes bytes of the request's body on; false if the fault ends it here."""
    limit = fault.get("cut_request")
    if limit is not None and state["sent"] + len(data) >= limit:
        server.sendall(data[: max(0, limit - state["sent"])])
        return False
    server.sendall(data)
    state["sent"] += len(data)
    body_end.feed(data)
    return True


def pass_answer(connection, server, fault, state):
    """Passes bytes of the answer on; false at its end, or if the fault ends it here."""
    data = server.recv(CHUNK)
    if not data:
        state["complete"] = True
        return False
    limit = fault.get("cut")
    if isinstance(limit, int):
        if not state["in_body"]:
            state["answer"] += data
            end = state["answer"].find(b"\r\n\r\n")
            if end < 0:
                return True
            data = state["answer"]
            state["in_body"] = True
            state["answered"] = -(end + 4)
        if state["answered"] + len(data) >= limit:
            connection.sendall(data[: limit - state["answered"]])
            # So that these bytes are not lost with the reset.
            time.sleep(0.1)
            return False
        state["answered"] += len(data)
    connection.sendall(data)
    return True


def finish(connection, server, state):
    if state.get("complete"):
        connection.close()
        server.close()
    else:
        reset(server)
        reset(connection)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", required=True, help="URL of the server")
    to = urlsplit(parser.parse_args().to)
    faults = Faults()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)

    def accept():
        while True:
            connection, _ = listener.accept()
            arguments = (connection, (to.hostname, to.port or 80), faults)
            threading.Thread(target=serve, args=arguments, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
