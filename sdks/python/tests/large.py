"""Carries data both ways through streams and sockets, or also files: large.py MODE ID BYTES

Prints as JSON how much more memory that took than the process had before, in MiB, and what did not
come back as it was. A program of its own, so that nothing else is measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import socket
import sys
import threading
from collections.abc import Iterator

from wrenn_sandbox import AsyncSandbox, Sandbox

SIZE = int(sys.argv[3])
CHUNK = 65536
UNIT = bytes(range(251)) * 1000
ECHO = """
import socket
server = socket.create_server(("127.0.0.1", 8125))
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(1 << 20):
    connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
"""


def parts() -> Iterator[bytes]:
    """Data of which the byte at i is i mod 251, in parts."""
    sent = 0
    while sent < SIZE:
        begin = sent % 251
        part = UNIT[begin : begin + min(CHUNK, SIZE - sent)]
        yield part
        sent += len(part)


def expected() -> str:
    digest = hashlib.sha256()
    for part in parts():
        digest.update(part)
    return digest.hexdigest()


def blocking(sandbox_id: str) -> dict[str, str]:
    sandbox = Sandbox.get(sandbox_id)
    found = {}

    with sandbox.commands.stream(["cat"], stdin=True) as cat:

        def feed() -> None:
            for part in parts():
                cat.send_stdin(part)
            cat.close_stdin()

        feeder = threading.Thread(target=feed)
        feeder.start()
        digest = hashlib.sha256()
        for chunk in cat.chunks():
            digest.update(chunk.data)
        feeder.join()
        found["stream"] = digest.hexdigest()

    with sandbox.commands.stream(["python3", "-c", ECHO]) as echo:
        assert next(echo).stdout == "ready\n"
        with sandbox.connect_port(8125) as connection:

            def send() -> None:
                for part in parts():
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            digest = hashlib.sha256()
            while data := connection.recv(CHUNK):
                digest.update(data)
            sender.join()
            found["socket"] = digest.hexdigest()

    sandbox.files.write("/tmp/large", parts())
    digest = hashlib.sha256()
    with sandbox.files.read("/tmp/large", "stream") as stream:
        for data in stream:
            digest.update(data)
    sandbox.files.remove("/tmp/large")
    found["file"] = digest.hexdigest()
    return found


async def awaited(sandbox_id: str) -> dict[str, str]:
    sandbox = await AsyncSandbox.get(sandbox_id)
    found = {}

    async with await sandbox.commands.stream(["cat"], stdin=True) as cat:

        async def feed() -> None:
            for part in parts():
                await cat.send_stdin(part)
            await cat.close_stdin()

        feeder = asyncio.ensure_future(feed())
        digest = hashlib.sha256()
        async for chunk in cat.chunks():
            digest.update(chunk.data)
        await feeder
        found["stream"] = digest.hexdigest()

    async with await sandbox.commands.stream(["python3", "-c", ECHO]) as echo:
        assert (await echo.__anext__()).stdout == "ready\n"
        reader, writer = await sandbox.connect_port(8125)

        async def send() -> None:
            for part in parts():
                writer.write(part)
                await writer.drain()
            writer.write_eof()

        sender = asyncio.ensure_future(send())
        digest = hashlib.sha256()
        while data := await reader.read(CHUNK):
            digest.update(data)
        await sender
        writer.close()
        found["socket"] = digest.hexdigest()
    return found


def memory() -> int:
    """Most memory that the process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    mode, sandbox_id = sys.argv[1:3]
    wanted = expected()
    if mode == "blocking":
        # Connections, threads and modules that the first use of each brings.
        Sandbox.get(sandbox_id).commands.run("true")
        before = memory()
        found = blocking(sandbox_id)
    else:
        asyncio.run(first_use(sandbox_id))
        before = memory()
        found = asyncio.run(awaited(sandbox_id))
    wrong = [name for name, digest in found.items() if digest != wanted]
    print(json.dumps({"growth_mb": memory() - before, "done": sorted(found), "wrong": wrong}))


async def first_use(sandbox_id: str) -> None:
    sandbox = await AsyncSandbox.get(sandbox_id)
    await sandbox.commands.run("true")
    await sandbox._connection.aclose()


if __name__ == "__main__":
    main()
