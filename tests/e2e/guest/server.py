"""A server for tests, to run in a sandbox: server.py ADDRESS PORT. Only what Python brings along."""

import asyncio
import base64
import hashlib
import json
import sys

PAGE = b"""<!doctype html><title>In the sandbox</title><link rel="stylesheet" href="style.css">
<h1>Served by a sandbox</h1><p id="out">waiting</p><script src="app.js"></script>"""
STYLE = b"h1 { color: rgb(0, 128, 0); font-family: sans-serif }"
SCRIPT = b"""let note = [];
try { document.cookie = 'a=b'; note.push('cookies'); } catch (e) { note.push('no cookies'); }
try { localStorage.a = 1; note.push('storage'); } catch (e) { note.push('no storage'); }
fetch('json').then(r => r.json()).then(j => {
  let url = new URL('ws', location.href); url.protocol = 'ws:';
  let ws = new WebSocket(url);
  ws.onopen = () => ws.send('echoed');
  ws.onmessage = m => { out.textContent = [j.path, m.data, ...note].join(', '); };
  ws.onerror = () => { out.textContent = 'no socket'; };
}).catch(e => { out.textContent = 'no fetch: ' + e; });"""


def answer(body, kind="text/plain", status="200 OK"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def read_body(reader, headers):
    total = 0
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
            total += size
        await reader.readline()
        return total
    left = int(headers.get("content-length", 0))
    while left:
        piece = await reader.read(min(left, 1 << 18))
        if not piece:
            break
        left -= len(piece)
        total += len(piece)
    return total


async def frame(reader):
    first, second = await reader.readexactly(2)
    size = second & 127
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    return first & 15, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


async def web_socket(reader, writer, headers):
    key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    while True:
        kind, data = await frame(reader)
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
        writer.write(bytes([128 | kind]) + size + data)
        await writer.drain()
        if kind == 8:
            return


async def big(writer, size):
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
    piece = bytes(1 << 18)
    for _ in range(size // len(piece)):
        writer.write(piece)
        await writer.drain()
    writer.write(piece[: size % len(piece)])


async def events(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    for number in range(3):
        writer.write(f"data: {number}\n\n".encode())
        await writer.drain()
        await asyncio.sleep(1)


async def one(reader, writer):
    line = (await reader.readline()).decode()
    if not line:
        return False
    method, path, _ = line.split()
    headers = {}
    while (line := (await reader.readline()).decode().strip()) != "":
        name, value = line.split(":", 1)
        headers[name.lower()] = value.strip()
    place = path.partition("?")[0]
    if headers.get("upgrade", "").lower() == "websocket":
        await web_socket(reader, writer, headers)
        return False
    size = await read_body(reader, headers)
    if place.startswith("/big/"):
        await big(writer, int(place[5:]))
    elif place == "/events":
        await events(writer)
        return False
    else:
        fixed = {"/": (PAGE, "text/html"), "/style.css": (STYLE, "text/css"), "/app.js": (SCRIPT, "text/javascript")}
        said = {"method": method, "path": path, "headers": headers, "size": size}
        body, kind = fixed.get(place, (json.dumps(said).encode(), "application/json"))
        writer.write(answer(body, kind))
    await writer.drain()
    return True


async def serve(reader, writer):
    try:
        while await one(reader, writer):
            pass
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]), limit=1 << 20, backlog=1024)
    async with server:
        await server.serve_forever()


asyncio.run(main())
