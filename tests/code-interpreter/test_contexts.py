"""Contexts, refusals, interrupts, deaths, limits."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from conftest import LIMIT_SEC, Cell, Server, wait_until

FOREVER = {
    "python": "while True: pass",
    "javascript": "while (true) {}",
    "bash": "while true; do sleep 1; done; echo after",
}
NUMBER = {"python": "print(7)", "javascript": "console.log(7)", "bash": "echo 7"}


def test_default_contexts_are_listed(server: Server) -> None:
    assert {"python", "javascript"} <= {context["language"] for context in server.contexts()}


def test_context_is_created_listed_and_removed(server: Server) -> None:
    status, text = server.request("POST", "/contexts", {"language": "python", "cwd": "/"})
    context = json.loads(text)
    assert status == 200 and (context["language"], context["cwd"]) == ("python", "/")
    assert server.contexts()[-1] == context
    assert server.run("import os; os.getcwd()", context_id=context["id"]).text == "/"
    assert server.request("DELETE", f"/contexts/{context['id']}")[0] == 200
    assert context not in server.contexts()
    assert server.request("POST", "/execute", {"code": "1", "context_id": context["id"]})[0] == 404


def test_contexts_are_independent(server: Server) -> None:
    server.run("only_here = 1")
    error = server.run("only_here", context_id=server.create()).error
    assert error is not None and error["value"] == "name 'only_here' is not defined"


def test_restart_forgets_variables(server: Server) -> None:
    for language, code in (("python", "x"), ("javascript", "x"), ("bash", "test -n \"$x\"")):
        context = server.create(language=language)
        server.run("x=1", context_id=context)
        assert server.run(code, context_id=context).error is None
        assert server.request("POST", f"/contexts/{context}/restart")[0] == 200
        cell = server.run(code, context_id=context)
        assert cell.error is not None and cell.stderr == ""


def test_refusals_name_what_is_wrong(server: Server) -> None:
    cases = [
        ("POST", "/execute", "{", 400, "no JSON"),
        ("POST", "/execute", {}, 400, "`code` is missing"),
        ("POST", "/execute", {"code": 1}, 400, "`code` is no string"),
        ("POST", "/execute", {"code": "1", "language": "python", "context_id": "x"}, 400, "only one of"),
        ("POST", "/execute", {"code": "1", "context_id": "x"}, 404, "Context x not found"),
        ("POST", "/execute", {"code": "1", "language": "cobol"}, 400, "no kernel for the language 'cobol'"),
        ("POST", "/execute", {"code": "1", "env_vars": {"a b": "1"}}, 400, "'a b'"),
        ("POST", "/execute", {"code": "1", "env_vars": {"A": 1}}, 400, "value of 'A'"),
        ("POST", "/execute", {"code": "x" * (17 << 20)}, 413, "16 MiB"),
        ("POST", "/contexts", {"cwd": "/nowhere"}, 400, "'/nowhere'"),
        ("POST", "/contexts", {"cwd": "tmp"}, 400, "no absolute path"),
        ("POST", "/contexts/x/restart", None, 404, "Context x not found"),
        ("DELETE", "/contexts/x", None, 404, "Context x not found"),
        ("GET", "/nothing", None, 404, "Not Found"),
    ]
    for method, path, body, status, words in cases:
        found, text = server.request(method, path, body)
        assert found == status and words in text, (method, path, found, text[:200])


def test_health_and_cors(server: Server) -> None:
    assert server.request("GET", "/health") == (200, "OK")
    assert server.request("OPTIONS", "/execute")[0] == 204


@pytest.mark.parametrize("language", list(FOREVER))
def test_hanging_up_interrupts(server: Server, language: str) -> None:
    context = server.create(language=language)
    server.run("kept=1", context_id=context)
    client = server.start(FOREVER[language], context_id=context)
    time.sleep(1)
    client.close()
    began = time.monotonic()
    cell = server.run(NUMBER[language], context_id=context)
    # The same kernel goes on.
    assert (cell.stdout, cell.stderr) == ("7\n", "") and time.monotonic() - began < 15
    assert cell.count == 3


def test_waiting_cell_leaves_queue(server: Server) -> None:
    context = server.create()
    first = server.start("import time; time.sleep(3)", context_id=context)
    server.start("leaked = 1", context_id=context).close()
    time.sleep(0.5)
    error = server.run("leaked", context_id=context).error
    assert error is not None and error["name"] == "NameError"
    first.close()


def test_interrupt_ends_waiting_javascript(server: Server) -> None:
    context = server.create(language="js")
    client = server.start("await new Promise(() => {})", context_id=context)
    time.sleep(1)
    client.close()
    assert server.run("1 + 1", context_id=context).text == "2"


def test_stubborn_kernel_is_replaced(server: Server) -> None:
    context = server.create()
    code = "import time\nwhile True:\n    try: time.sleep(100)\n    except KeyboardInterrupt: pass"
    client = server.start(code, context_id=context)
    time.sleep(1)
    client.close()
    cell = server.run("1 + 1", context_id=context)
    assert cell.text == "2" and "did not obey" in cell.stderr


def test_dead_kernel_is_told_and_replaced(server: Server) -> None:
    context = server.create()
    server.run("x = 1", context_id=context)
    error = server.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", context_id=context).error
    assert error is not None and error["name"] == "KernelDied" and "SIGKILL" in error["value"]
    cell = server.run("'x' in globals()", context_id=context)
    assert cell.text == "False" and "new one" in cell.stderr
    assert server.run("1", context_id=context).stderr == ""


def test_javascript_exit_is_told(server: Server) -> None:
    context = server.create(language="js")
    error = server.run("process.exit(4)", context_id=context).error
    assert error is not None and "code 4" in error["value"]
    assert server.run("1", context_id=context).text == "1"


def test_kernel_that_died_idle_is_replaced(server: Server) -> None:
    context = server.create()
    pid = int(server.run("import os; os.getpid()", context_id=context).text or 0)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    cell = server.run("1", context_id=context)
    assert cell.text == "1" and "SIGKILL" in cell.stderr


def test_cells_of_one_context_run_in_turn(server: Server) -> None:
    context = server.create()
    server.run("order = []", context_id=context)
    cells: list[Cell] = []

    def run(number: int) -> None:
        cells.append(server.run(f"order.append({number}); import time; time.sleep(0.2)", context_id=context))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SEC)
    assert sorted(json.loads(server.run("order", context_id=context).text or "")) == list(range(8))
    assert sorted(cell.count for cell in cells) == list(range(2, 10))


def test_removal_ends_cell_that_runs(server: Server) -> None:
    context = server.create()
    found: list[Cell] = []
    thread = threading.Thread(target=lambda: found.append(server.run("while True: pass", context_id=context)))
    thread.start()
    time.sleep(1)
    assert server.request("DELETE", f"/contexts/{context}")[0] == 200
    thread.join(30)
    assert found and found[0].error is not None and "removed" in found[0].error["value"]


@pytest.mark.parametrize("language,code", [
    ("python", "for _ in range(20): print('x' * (1 << 20))"),
    ("bash", "head -c 20000000 /dev/zero | tr '\\0' x"),
    ("javascript", "for (let i = 0; i < 20; i++) console.log('x'.repeat(1 << 20))"),
])
def test_output_is_bounded(server: Server, language: str, code: str) -> None:
    cell = server.run(code, language=language)
    assert 6 << 20 < len(cell.stdout) <= 8 << 20
    assert "beyond 8 MiB are left out" in cell.stderr and cell.error is None


def test_slow_reader_gets_everything(server: Server) -> None:
    client = server.start("for i in range(40000): print('line', i)")
    time.sleep(3)
    received = b""
    client.settimeout(LIMIT_SEC)
    while b"end_of_execution" not in received:
        received += client.recv(1 << 20)
    client.close()
    lines = [json.loads(line) for line in received.splitlines() if line.startswith(b'{"type"')]
    text = "".join(line["text"] for line in lines if line["type"] == "stdout")
    assert text == "".join(f"line {number}\n" for number in range(40000))
