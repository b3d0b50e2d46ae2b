"""`code-interpreter serve` and `code-interpreter wait`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

PORT = 49999
SERVER_OOM_SCORE = -500


def main() -> int:
    parser = argparse.ArgumentParser(prog="code-interpreter", description="Runs cells of code for E2B's SDKs.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve on port 49999 until SIGTERM")
    serve.add_argument("--listen", default="0.0.0.0", help="address (default: all of IPv4)")
    serve.add_argument("--port", type=int, default=PORT)
    serve.add_argument("--preload", default="", metavar="MODULE,…", help="modules that the first kernel imports")
    wait = commands.add_parser("wait", help="wait until it serves")
    wait.add_argument("--port", type=int, default=PORT)
    wait.add_argument("--timeout", type=float, default=120, metavar="SECONDS")
    options = parser.parse_args()
    if options.command == "wait":
        return wait_until_ready(options.port, options.timeout)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    share_home()
    asyncio.run(serve_until_signal(options.listen, options.port, [it for it in options.preload.split(",") if it]))
    return 0


def wait_until_ready(port: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer = "nothing answers"
    delay = 0.1
    while time.monotonic() < deadline:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return 0
        except urllib.error.HTTPError as failure:
            answer = failure.read().decode(errors="replace")
        except OSError as failure:
            answer = str(failure)
        # Ever more seldom: in a slow guest the questions would hold up the start.
        time.sleep(delay)
        delay = min(delay * 1.5, 2)
    print(f"code-interpreter: not ready after {timeout:g} s: {answer}", file=sys.stderr)
    return 1


def share_home() -> None:
    """Lets `user` write what kernels, which are root, make in its home: files of the SDK and of cells are one."""
    home = "/home/user"
    if os.getuid() == 0 and os.path.isdir(home):
        access = ["setfacl", "-d", "-m", "u:user:rwX", home]
        try:
            subprocess.run(access, check=False, stderr=subprocess.DEVNULL, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            pass


async def serve_until_signal(address: str, port: int, preload: list[str]) -> None:
    # Here, since `wait` has no need of them and imports take long.
    import tornado.httpserver

    from . import app
    from .contexts import Contexts

    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(SERVER_OOM_SCORE))
    except OSError:
        pass
    contexts = Contexts()
    server = tornado.httpserver.HTTPServer(app.make_app(contexts), max_buffer_size=app.MAX_BODY_BYTES)
    server.listen(port, address)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await prepare_defaults(contexts, preload)
    await ended.wait()
    server.stop()
    await contexts.remove_all()


async def prepare_defaults(contexts: object, preload: list[str]) -> None:
    """Starts the Python kernel. That of JavaScript starts with its first cell: its random states cannot be renewed, and
    would be the same in all sandboxes of a template."""
    from . import app
    from .contexts import Contexts

    assert isinstance(contexts, Contexts)
    python = contexts.get_default("python")
    contexts.get_default("javascript")
    await python.start()
    await python.preload(preload)
    app.HealthHandler.is_ready = True


if __name__ == "__main__":
    sys.exit(main())
