"""Runs the blocks of pages: shells that live as long as their page, and programs that are compiled beforehand."""

import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import time

# Seconds for one block. Emulated guests beside other work are slow.
LIMIT = 150
# Seconds for compiling all of a language: the first time the toolchain compiles its library.
COMPILE_LIMIT = 600
# Packages that parts of Go programs use, by the name that they use.
GO_PACKAGES = {
    name.rsplit("/")[-1]: name
    for name in ("bufio", "context", "errors", "fmt", "io", "net/http", "os", "strings", "time")
} | {"wrenn": "github.com/wrennhq/wrenn/sdks/go"}
GO_PROGRAM = """package main

import (
%s)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
%s
	return nil
}
"""
TSC_OPTIONS = "--module nodenext --target es2022 --lib es2022,esnext.disposable,dom --strict --types node".split()


class Failure(Exception):
    """A block that did not do what its page says."""


class Shell:
    """A bash that takes one block after the other, so that what one sets the next one has."""

    def __init__(self, directory, environment):
        self.directory = directory
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=directory, env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.blocks = 0
        self._send("set -Eeuo pipefail\ntrap 'echo \"FAILED: $BASH_COMMAND\"' ERR\n")

    def _send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def run(self, text):
        """Runs a block and returns what it printed."""
        self.blocks += 1
        file = self.directory / f".block-{self.blocks}.sh"
        file.write_text(text)
        mark = f"--- end of block {self.blocks} ---"
        # A line of its own, also where the last line of the output has no end.
        self._send(f"source {file} </dev/null; printf '\\n%s\\n' '{mark}'\n")
        output = ""
        end = time.monotonic() + LIMIT
        while f"\n{mark}\n" not in output:
            rest = end - time.monotonic()
            if rest <= 0:
                raise Failure(f"takes longer than {LIMIT} seconds\n{output}")
            if not select.select([self.process.stdout], [], [], rest)[0]:
                continue
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                raise Failure(f"failed\n{output}")
            output += part.decode(errors="replace")
        return output.split(f"\n{mark}\n")[0]

    def end(self):
        """Ends the shell and what it has left in the background."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def run_program(command, directory, environment, limit=LIMIT):
    """Runs a program and returns what it printed."""
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, text=True, timeout=limit, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        raise Failure(f"takes longer than {limit} seconds\n{output.decode(errors='replace')}") from None
    if done.returncode != 0:
        raise Failure(f"exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def go_program(text):
    """A whole program of what a page shows: whole programs are, and parts stand in a function that returns an error."""
    if text.startswith("package "):
        return text
    used = {name for name in GO_PACKAGES if re.search(rf"(?<![\w.\"/]){name}\.", text)} | {"context", "fmt", "os"}
    imports = "".join(f'\t{name if name == "wrenn" else ""} "{GO_PACKAGES[name]}"\n' for name in sorted(used))
    return GO_PROGRAM % (imports, text)


class Programs:
    """Programs of all pages, compiled at once."""

    def __init__(self, root, work, python):
        self.root = root
        self.work = work
        self.python = python
        self.go = {}
        self.ts = {}

    def compile(self, blocks):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self._compile_go([block for block in blocks if block.language == "go"])
        self._compile_ts([block for block in blocks if block.language == "ts"])

    def _compile_go(self, blocks):
        if not blocks:
            return
        module = self.work / "go"
        for number, block in enumerate(blocks):
            name = f"{block.page.stem}-{block.line}"
            (module / name).mkdir(parents=True)
            (module / name / "main.go").write_text(go_program(block.text))
            self.go[block.place] = module / "bin" / name
        (module / "go.mod").write_text("module guide\n\ngo 1.24\n")
        # A workspace, not `go mod tidy`, which asks the network for modules of tests.
        run_program(["go", "work", "init", ".", str(self.root / "sdks/go")], module, os.environ)
        (module / "bin").mkdir()
        # Without what only debuggers read: linking takes half the time.
        build = ["go", "build", "-ldflags=-s -w", "-o", "bin/", "./..."]
        run_program(build, module, os.environ, COMPILE_LIMIT)

    def _compile_ts(self, blocks):
        if not blocks:
            return
        sdk = self.root / "sdks/typescript"
        package = self.work / "ts"
        (package / "node_modules/@wrenn").mkdir(parents=True)
        (package / "node_modules/@wrenn/sandbox").symlink_to(sdk)
        (package / "node_modules/@types").symlink_to(sdk / "node_modules/@types")
        sources = []
        for block in blocks:
            source = package / f"{block.page.stem}-{block.line}.mts"
            # A module of its own, also without an import.
            source.write_text(block.text + "export {};\n")
            sources.append(source.name)
            self.ts[block.place] = source.with_suffix(".mjs")
        tsc = sdk / "node_modules/typescript/bin/tsc"
        run_program(["node", str(tsc), *TSC_OPTIONS, *sources], package, os.environ, COMPILE_LIMIT)

    def command(self, block):
        if block.language == "go":
            return [str(self.go[block.place])]
        if block.language == "ts":
            return ["node", str(self.ts[block.place])]
        source = self.work / f"{block.page.stem}-{block.line}.py"
        pathlib.Path(source).write_text(block.text)
        return [str(self.python), str(source)]
