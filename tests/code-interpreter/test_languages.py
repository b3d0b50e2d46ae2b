"""Cells in each language: values, output, errors, state."""

from __future__ import annotations

import shutil

import pytest
from conftest import Server

LANGUAGES = ["python", "javascript", "typescript", "bash"]
HAS_R = shutil.which("R") is not None


def test_python_value_is_main_result(server: Server) -> None:
    cell = server.run("x = 20\nprint('out')\nx + 22")
    assert (cell.stdout, cell.text, cell.error) == ("out\n", "42", None)
    assert server.run("x").text == "20"


def test_indented_cell_runs(server: Server) -> None:
    assert server.run("\n    y = 1\n    y + 1\n").text == "2"


def test_quotes_of_strings_are_removed(server: Server) -> None:
    assert server.run("'a' + \"'b\"").text == "a'b"
    assert server.run("['a']").text == "['a']"


def test_magic_and_shell_lines_work(server: Server) -> None:
    assert server.run("!echo from shell").stdout.strip() == "from shell"


def test_python_error_has_traceback(server: Server) -> None:
    error = server.run("def f():\n    return 1 / 0\nf()").error
    assert error is not None
    assert (error["name"], error["value"]) == ("ZeroDivisionError", "division by zero")
    assert "----> 2" in error["traceback"] and "\x1b" not in error["traceback"]


def test_input_is_refused(server: Server) -> None:
    error = server.run("input()").error
    assert error is not None and error["name"] == "StdinNotImplementedError"


def test_output_keeps_order_and_unicode(server: Server) -> None:
    cell = server.run("import sys\nfor i in range(3): print('ü€😀', i); print(i, file=sys.stderr)")
    assert cell.stdout == "ü€😀 0\nü€😀 1\nü€😀 2\n"
    assert cell.stderr == "0\n1\n2\n"


def test_stream_has_timestamps(server: Server) -> None:
    assert server.run("print(1)").of_type("stdout")[0]["timestamp"].startswith("20")


@pytest.mark.parametrize("language", ["js", "javascript"])
def test_javascript_keeps_state(server: Server, language: str) -> None:
    server.run("const kept = 1; let again = 1; function f() { return 7 }; class C {}", language=language)
    assert server.run("const kept = 2; let again = 3; kept + again + f()", language=language).text == "12"


def test_javascript_prints_and_has_value(server: Server) -> None:
    cell = server.run("console.log('Hello'); console.error('bad'); ({ a: [1, 'x'] })", language="js")
    assert (cell.stdout, cell.stderr) == ("Hello\n", "bad\n")
    assert (cell.text, cell.results[0]["json"]) == ("{ a: [ 1, 'x' ] }", {"a": [1, "x"]})
    assert server.run("console.log(1)", language="js").results == []


def test_javascript_awaits_and_imports(server: Server) -> None:
    assert server.run("await Promise.resolve('Hello World!')", language="js").text == "Hello World!"
    code = "import fs, { readFileSync as read } from 'fs'\nimport * as path from 'node:path'\ntypeof read"
    assert server.run(code, language="js").text == "function"
    assert server.run("typeof fs.existsSync + path.sep", language="js").text == "function/"
    assert server.run("(await import('os')).EOL.length", language="js").text == "1"
    assert server.run("require('path').basename('/a/b')", language="js").text == "b"


def test_javascript_imports_modules_of_cwd(server: Server) -> None:
    server.run("open('mod.mjs', 'w').write('export const seven = 7'); open('c.js', 'w').write('exports.eight = 8')")
    assert server.run("import { seven } from './mod.mjs'\nseven", language="js").text == "7"
    assert server.run("require('./c.js').eight", language="js").text == "8"


def test_javascript_errors_are_told(server: Server) -> None:
    error = server.run("function g() { throw new TypeError('no') }\ng()", language="js").error
    assert error is not None and (error["name"], error["value"]) == ("TypeError", "no")
    assert "at g" in error["traceback"] and "code_interpreter" not in error["traceback"]
    error = server.run("throw 7", language="js").error
    assert error is not None and error["value"] == "7"
    error = server.run("const = 1", language="js").error
    assert error is not None and error["name"] == "SyntaxError"
    assert server.run("await Promise.reject(new Error('later'))", language="js").error is not None


def test_javascript_displays_rich_results(server: Server) -> None:
    own = "{ [Symbol.for('Jupyter.display')]: () => ({ 'text/latex': 'x' }) }"
    code = f"$$.html('<b>x</b>'); $$.png(Buffer.from('png')); display({own})"
    results = server.run(code, language="js").results
    assert [result.get("html") or result.get("png") or result.get("latex") for result in results] == [
        "<b>x</b>",
        "cG5n",
        "x",
    ]
    assert not any(result["is_main_result"] for result in results)


def test_typescript_types_are_removed(server: Server) -> None:
    code = "interface P { n: number }\nenum E { A = 3 }\nconst message: string = 'Hello'; console.log(message)"
    assert server.run(code, language="ts").stdout == "Hello\n"
    assert server.run("const p = { n: E.A } as P; p.n", language="typescript").text == "3"
    error = server.run("const x: = 1", language="ts").error
    assert error is not None and error["name"] == "SyntaxError"


def test_bash_keeps_state_and_streams_apart(server: Server) -> None:
    server.run("cd /; v='a  b'; f() { echo \"f $1\"; }", language="bash")
    cell = server.run("pwd; echo \"$v\"; f 'it'\"'\"'s'; echo bad >&2; echo 'hi!'", language="bash")
    assert (cell.stdout, cell.stderr) == ("/\na  b\nf it's\nhi!\n", "bad\n")
    assert cell.error is None


def test_bash_status_is_error(server: Server) -> None:
    error = server.run("echo before; ls /nowhere", language="bash").error
    assert error is not None and (error["name"], error["value"]) == ("ExitStatus", "2")
    cell = server.run("if then", language="bash")
    assert cell.error is not None and "syntax error" in cell.stderr


def test_bash_heredocs_pipes_and_background(server: Server) -> None:
    code = "cat <<END | tr a-z A-Z\nline\nEND\n(sleep 30 >/dev/null 2>&1 &)\ncat; echo done"
    cell = server.run(code, language="bash")
    assert (cell.stdout, cell.error) == ("LINE\ndone\n", None)


def test_bash_has_no_descriptor_of_server(server: Server) -> None:
    assert server.run("ls /proc/self/fd | wc -l", language="bash").stdout.strip() == "4"


def test_bash_exit_ends_shell_alone(server: Server) -> None:
    cell = server.run("export KEPT=1; exit 0", language="bash")
    assert cell.error is None and "has exited" in cell.stderr
    cell = server.run("echo ${KEPT:-gone}; exit 3", language="bash")
    assert "gone\n" in cell.stdout
    assert cell.error is not None and cell.error["value"] == "3"


def test_large_cells_run(server: Server) -> None:
    filler = "x" * 300_000
    assert server.run(f"len('{filler}')").text == "300000"
    assert server.run(f"v='{filler}'; echo ${{#v}}", language="bash").stdout == "300000\n"
    assert server.run(f"'{filler}'.length", language="js").text == "300000"


@pytest.mark.skipif(not HAS_R, reason="R is not installed")
def test_r_values_and_output(server: Server) -> None:
    assert server.run('print("Hello, World!")', language="r").stdout == '[1] "Hello, World!"\n'
    assert server.run("Sys.getenv('A')", language="r", env_vars={"A": 'b"\\'}).results[0]["text"].strip()


def test_counts_are_of_context(server: Server) -> None:
    context = server.create()
    assert [server.run("1", context_id=context).count for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("language", LANGUAGES)
def test_environment_is_of_sandbox_and_cell(server: Server, language: str) -> None:
    read = {
        "python": "import os; print(os.environ.get('{}', 'unset'))",
        "bash": "echo ${{{}-unset}}",
    }.get(language, "console.log(process.env.{} ?? 'unset')")
    value = "quote ' \" \\ $x\nü"
    assert server.run(read.format("FROM_SANDBOX"), language=language).stdout == "of the sandbox\n"
    ran = server.run(read.format("OWN"), language=language, env_vars={"OWN": value, "FROM_SANDBOX": "other"})
    assert ran.stdout.strip() in (value, value.replace("\n", " "))
    assert server.run(read.format("OWN"), language=language).stdout == "unset\n"
    assert server.run(read.format("FROM_SANDBOX"), language=language).stdout == "of the sandbox\n"
    assert server.run(read.format("HOME"), language=language).stdout != "/nowhere\n"


@pytest.mark.parametrize("language", LANGUAGES)
def test_wrong_token_is_told(server: Server, language: str) -> None:
    context = server.create(language=language)
    error = server.run("1", token="wrong", context_id=context).error
    assert error is not None and error["name"] == "BadToken"
    assert server.run("1", token=None, context_id=context).error is None or language == "bash"
