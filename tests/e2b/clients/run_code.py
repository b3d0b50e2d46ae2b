"""Cells through `e2b_code_interpreter`: each kind of result, contexts, languages, errors, timeouts, callbacks."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import threading
import time
from urllib.parse import urlsplit

import e2b
import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox
from e2b_code_interpreter.charts import BarChart, BoxAndWhiskerChart, LineChart, PieChart, ScatterChart, SuperChart

PLOT = "import matplotlib.pyplot as plt\n"
# The guest may be emulated.
SLOW = {"timeout": 240, "request_timeout": 240}
BASE = urlsplit(os.environ["E2B_SANDBOX_URL"])


def resolve_localhost() -> None:
    """Makes names below `localhost` resolve, as browsers do."""
    original = socket.getaddrinfo

    def lookup(host, *rest, **options):
        name = host.decode() if isinstance(host, bytes) else host
        return original("127.0.0.1" if str(name).endswith(".localhost") else host, *rest, **options)

    socket.getaddrinfo = lookup


def address_by_name(kind: type) -> None:
    """Before 2.10 the address is always that of E2B_DOMAIN, over TLS; here it is the same name over plain HTTP."""
    kind._jupyter_url = property(lambda self: f"http://49999-{self.sandbox_id}.localhost:{BASE.port}")


IS_OLD = "get_sandbox_url" not in Sandbox._jupyter_url.fget.__code__.co_names
if IS_OLD:
    resolve_localhost()
    for kind in (Sandbox, AsyncSandbox):
        address_by_name(kind)


@pytest.fixture(scope="module")
def sandbox():
    # Without a template: the SDK asks for `code-interpreter-v1`.
    created = Sandbox.create(timeout=900, envs={"FROM_SANDBOX": "of the sandbox"})
    try:
        yield created
    finally:
        assert created.kill()


def test_first_cell_has_result(sandbox: Sandbox) -> None:
    began = time.monotonic()
    execution = sandbox.run_code("x = 1; x", **SLOW)
    print(f"first cell: {time.monotonic() - began:.2f} s")
    assert (execution.text, execution.execution_count, execution.error) == ("1", 1, None)
    began = time.monotonic()
    assert sandbox.run_code("x += 1; x", **SLOW).text == "2"
    print(f"second cell: {time.monotonic() - began:.2f} s")


def test_callbacks_stream(sandbox: Sandbox) -> None:
    seen: dict[str, list] = {"out": [], "err": [], "results": [], "errors": []}
    code = "import sys, time\nprint('one', flush=True)\ntime.sleep(2)\nprint('two')\nprint('bad', file=sys.stderr)\n"
    times: list[float] = []

    def on_stdout(message) -> None:
        times.append(time.monotonic())
        assert message.timestamp
        seen["out"].append(message.line)

    options = {"on_stdout": on_stdout, "on_stderr": lambda it: seen["err"].append(it.line)}
    options |= {"on_result": seen["results"].append, "on_error": seen["errors"].append}
    execution = sandbox.run_code(code + "7\n", **options, **SLOW)
    assert "".join(seen["out"]) == "one\ntwo\n" and seen["err"] == ["bad\n"]
    assert times[-1] - times[0] > 1.5
    assert [result.text for result in seen["results"]] == ["7"] and not seen["errors"]
    assert "".join(execution.logs.stdout) == "one\ntwo\n"
    sandbox.run_code("xyz", on_error=seen["errors"].append, **SLOW)
    assert seen["errors"][0].name == "NameError"


def test_error_has_traceback(sandbox: Sandbox) -> None:
    error = sandbox.run_code("def f(): return 1 / 0\nf()", **SLOW).error
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "f()" in error.traceback


def test_each_format(sandbox: Sandbox) -> None:
    code = """
from IPython.display import display
bundle = {'text/plain': 'plain', 'text/html': '<b>', 'text/markdown': '#', 'image/svg+xml': '<svg/>',
          'image/png': 'cA==', 'image/jpeg': 'cA==', 'application/pdf': 'cA==', 'text/latex': '$x$',
          'application/json': {'a': [1]}, 'application/javascript': 'f()', 'x/own': 'own'}
display(bundle, raw=True)
"""
    [result] = sandbox.run_code(code, **SLOW).results
    formats = ["text", "html", "markdown", "svg", "png", "jpeg", "pdf", "latex", "json", "javascript"]
    assert list(result.formats()) == [*formats, "x/own"]
    assert (result.json, result.html, result.extra) == ({"a": [1]}, "<b>", {"x/own": "own"})
    assert not result.is_main_result


def test_frames_have_data(sandbox: Sandbox) -> None:
    result = sandbox.run_code('import pandas as pd\npd.DataFrame({"a": [1, 2, 3]})', **SLOW).results[0]
    assert result.data == {"a": [1, 2, 3]} and "<table" in result.html


def chart(sandbox: Sandbox, code: str):
    execution = sandbox.run_code(f"{PLOT}{code}\nplt.show()", **SLOW)
    assert execution.error is None, execution.error
    [result] = execution.results
    assert base64.b64decode(result.png).startswith(b"\x89PNG")
    assert json.loads(execution.to_json())["results"][0]["chart"]["type"] == result.chart.type.value
    return result.chart


def test_charts_have_data(sandbox: Sandbox) -> None:
    line = chart(sandbox, "plt.plot([1, 2], [3, 4], label='l'); plt.xlabel('t (s)'); plt.title('T')")
    assert isinstance(line, LineChart) and (line.title, line.x_unit, line.x_scale) == ("T", "s", "linear")
    assert line.elements[0].points == [(1.0, 3.0), (2.0, 4.0)]
    assert isinstance(chart(sandbox, "plt.scatter([1], [2])"), ScatterChart)
    bars = chart(sandbox, "plt.bar(['a', 'b'], [1, 2], label='g')")
    assert isinstance(bars, BarChart)
    assert [(bar.label, bar.value, bar.group) for bar in bars.elements] == [("a", 1, "g"), ("b", 2, "g")]
    pie = chart(sandbox, "plt.pie([90, 10], labels=['No', 'Yes'])")
    assert isinstance(pie, PieChart) and [it.angle for it in pie.elements] == [324, 36]
    boxes = chart(sandbox, "plt.boxplot([[1, 2, 3, 4, 5]], labels=['x'])")
    assert isinstance(boxes, BoxAndWhiskerChart) and boxes.elements[0].median == 3
    both = chart(sandbox, "_, a = plt.subplots(1, 2); a[0].plot([1]); a[1].scatter([1], [1])")
    assert isinstance(both, SuperChart) and len(both.elements) == 2


def test_images_are_results(sandbox: Sandbox) -> None:
    code = "from PIL import Image\nImage.new('RGB', (4, 4)).save('/tmp/image.png')"
    assert sandbox.run_code(code, **SLOW).results[0].png


@pytest.mark.parametrize(
    "language,code,expected",
    [
        ("python", "import os; print(os.environ['FROM_SANDBOX'], os.getcwd())", "of the sandbox /home/user\n"),
        ("bash", "echo $FROM_SANDBOX $PWD", "of the sandbox /home/user\n"),
        ("js", "console.log(process.env.FROM_SANDBOX, process.cwd())", "of the sandbox /home/user\n"),
        ("ts", "const n: number = 6; console.log(n * 7, process.cwd())", "42 /home/user\n"),
        ("r", "cat(Sys.getenv('FROM_SANDBOX'), getwd(), '\\n')", "of the sandbox /home/user \n"),
    ],
)
def test_languages_run(sandbox: Sandbox, language: str, code: str, expected: str) -> None:
    execution = sandbox.run_code(code, language=language, **SLOW)
    assert execution.error is None, execution.error
    assert "".join(execution.logs.stdout) == expected


def test_values_of_other_languages(sandbox: Sandbox) -> None:
    assert sandbox.run_code("await Promise.resolve('Hello')", language="javascript", **SLOW).text == "Hello"
    esm = "import { readFileSync } from 'fs'\nconsole.log(typeof readFileSync)"
    assert "".join(sandbox.run_code(esm, language="js", **SLOW).logs.stdout) == "function\n"
    assert sandbox.run_code("sum(1:4)", language="r", **SLOW).results[0].text.strip() == "[1] 10"
    assert sandbox.run_code("exit_code() { return 3; }; exit_code", language="bash", **SLOW).error.value == "3"


def test_unknown_language_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(e2b.SandboxException, match="no kernel for the language 'cobol'|400"):
        sandbox.run_code("1", language="cobol", **SLOW)


def test_envs_are_of_one_cell(sandbox: Sandbox) -> None:
    code = "import os; os.getenv('OWN', 'none')"
    assert sandbox.run_code(code, envs={"OWN": "it's"}, **SLOW).text == "it's"
    assert sandbox.run_code(code, **SLOW).text == "none"


def test_contexts_are_made_and_removed(sandbox: Sandbox) -> None:
    if not hasattr(sandbox, "list_code_contexts"):
        pytest.skip("the version lacks them")
    assert {"python", "javascript"} <= {context.language for context in sandbox.list_code_contexts()}
    context = sandbox.create_code_context(cwd="/tmp", language="python", request_timeout=240)
    assert sandbox.run_code("import os; os.getcwd()", context=context, **SLOW).text == "/tmp"
    assert sandbox.run_code("x", context=context, **SLOW).error.name == "NameError"
    sandbox.run_code("y = 1", context=context, **SLOW)
    sandbox.connection_config.request_timeout = 240
    sandbox.restart_code_context(context)
    assert sandbox.run_code("y", context=context, **SLOW).error.name == "NameError"
    sandbox.remove_code_context(context.id)
    assert context.id not in [it.id for it in sandbox.list_code_contexts()]
    with pytest.raises(e2b.NotFoundException):
        sandbox.run_code("1", context=context, **SLOW)


def test_timeout_interrupts(sandbox: Sandbox) -> None:
    sandbox.run_code("kept = 5", **SLOW)
    began = time.monotonic()
    with pytest.raises(e2b.TimeoutException):
        sandbox.run_code("import time; time.sleep(300)", timeout=4)
    assert time.monotonic() - began < 30
    # The same kernel goes on at once.
    assert sandbox.run_code("kept", **SLOW).text == "5"
    assert time.monotonic() - began < 90


def test_dead_kernel_is_told(sandbox: Sandbox) -> None:
    error = sandbox.run_code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", **SLOW).error
    assert error.name == "KernelDied"
    execution = sandbox.run_code("'kept' in globals()", **SLOW)
    assert execution.text == "False" and "new one" in "".join(execution.logs.stderr)


def test_files_are_shared(sandbox: Sandbox) -> None:
    sandbox.files.write("in.txt", "from the SDK")
    assert sandbox.run_code("open('in.txt').read()", **SLOW).text == "from the SDK"
    sandbox.run_code("open('out.txt', 'w').write('from a cell')", **SLOW)
    assert sandbox.files.read("out.txt") == "from a cell"
    sandbox.files.write("out.txt", "and over it")
    assert sandbox.run_code("open('out.txt').read()", **SLOW).text == "and over it"
    sandbox.files.remove("out.txt")


def test_server_that_dies_comes_back(sandbox: Sandbox) -> None:
    sandbox.commands.run("pkill -KILL -f 'code_interpreter [s]erve'", user="root")
    check = "code-interpreter wait --timeout 240"
    assert sandbox.commands.run(check, user="root", timeout=250).exit_code == 0
    assert sandbox.run_code("1 + 1", **SLOW).text == "2"


def test_sandboxes_draw_other_numbers() -> None:
    code = "import random; (random.random(), __import__('numpy').random.rand())"
    drawn = []
    for _ in range(2):
        with Sandbox.create(timeout=300) as fresh:
            drawn.append(fresh.run_code(code, **SLOW).text)
    assert drawn[0] != drawn[1]


def test_private_traffic_needs_its_token() -> None:
    if not hasattr(Sandbox, "traffic_access_token"):
        pytest.skip("the version lacks it")
    private = Sandbox.create(timeout=300, secure=True, network={"allow_public_traffic": False})
    try:
        assert private.run_code("x = 1; x", **SLOW).text == "1"
    finally:
        private.kill()


def test_kill_ends_cell() -> None:
    doomed = Sandbox.create(timeout=300)
    timer = threading.Timer(3, doomed.kill)
    timer.start()
    with pytest.raises(Exception) as raised:
        doomed.run_code("import time; time.sleep(200)", timeout=200)
    timer.join()
    print(f"killed while it ran: {raised.value!r}")


def test_async_cells() -> None:
    async def use() -> None:
        sandbox = await AsyncSandbox.create(timeout=600)
        try:
            lines: list[str] = []
            execution = await sandbox.run_code("print('a'); 1 + 1", on_stdout=lambda it: lines.append(it.line), **SLOW)
            assert (execution.text, lines) == ("2", ["a\n"])
            context = await sandbox.create_code_context(request_timeout=240)
            cells = [sandbox.run_code(f"{number} * 2", context=context, **SLOW) for number in range(5)]
            assert [done.text for done in await asyncio.gather(*cells)] == ["0", "2", "4", "6", "8"]
            with pytest.raises(e2b.TimeoutException):
                await sandbox.run_code("while True: pass", timeout=4)
            assert (await sandbox.run_code("3", **SLOW)).text == "3"
        finally:
            assert await sandbox.kill()

    asyncio.run(use())


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-q", "-x", "-s", "-p", "no:cacheprovider", __file__]))
