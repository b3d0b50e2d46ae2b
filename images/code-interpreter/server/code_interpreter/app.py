"""HTTP: routes, bodies, the stream of lines.

Answers that refuse are text, as the SDKs show it. `/execute` answers at once and then streams: its cell may wait in the
queue of a context, and its client would otherwise take that for a server that does not answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import tornado.iostream
import tornado.web

from .contexts import Contexts
from .errors import RequestError, TooLarge
from .execution import Execution

# Largest body that is read, and largest code in it.
MAX_BODY_BYTES = 64 << 20
MAX_CODE_BYTES = 16 << 20
MAX_VARIABLES = 1024
# Longer than most timeouts that clients of before 2.10 set: for them each line begins their timeout anew.
KEEPALIVE_SEC = 30.0
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Handler(tornado.web.RequestHandler):
    contexts: Contexts

    def initialize(self, contexts: Contexts) -> None:
        self.contexts = contexts

    def set_default_headers(self) -> None:
        # For SDKs in browsers, as E2B's server has it; who may come here is the port proxy's matter.
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Methods", "*")
        self.set_header("Access-Control-Allow-Headers", "*")
        self.clear_header("Server")

    def options(self, *_: str) -> None:
        self.set_status(204)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        cause = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(cause, RequestError):
            self.set_status(cause.status)
            text = str(cause)
        else:
            text = self._reason
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text)

    def log_exception(self, *info: Any) -> None:
        if not isinstance(info[1], RequestError):
            super().log_exception(*info)

    def read_fields(self) -> dict[str, Any]:
        """Returns the object in the body; an empty body is an empty object."""
        if not self.request.body.strip():
            return {}
        try:
            fields = json.loads(self.request.body)
        except ValueError as failure:
            raise RequestError(f"the body is no JSON: {failure}") from None
        if not isinstance(fields, dict):
            raise RequestError("the body is no JSON object")
        return fields


class HealthHandler(Handler):
    is_ready = False

    def get(self) -> None:
        if not HealthHandler.is_ready:
            self.set_status(503)
            self.finish("the Python kernel is starting")
        else:
            self.finish("OK")


class ContextsHandler(Handler):
    def get(self) -> None:
        self.finish(json.dumps([describe(context) for context in self.contexts.list_all()]))

    async def post(self) -> None:
        fields = self.read_fields()
        created = await self.contexts.create(text_field(fields, "language"), text_field(fields, "cwd"))
        self.finish(describe(created))


class ContextHandler(Handler):
    async def delete(self, context_id: str) -> None:
        await self.contexts.remove(context_id)
        self.finish("null")


class RestartHandler(Handler):
    async def post(self, context_id: str) -> None:
        await self.contexts.get(context_id).restart()
        self.finish("null")


class ExecuteHandler(Handler):
    _running: asyncio.Future[None] | None = None

    async def post(self) -> None:
        fields = self.read_fields()
        code = text_field(fields, "code")
        if code is None:
            raise RequestError("the field `code` is missing")
        if len(code.encode("utf-8", "replace")) > MAX_CODE_BYTES:
            raise TooLarge(f"the code has more than {MAX_CODE_BYTES >> 20} MiB; upload a file and run that")
        variables = variables_field(fields)
        language = text_field(fields, "language")
        context_id = text_field(fields, "context_id")
        if language and context_id:
            raise RequestError("only one of `context_id` and `language` can be given")
        context = self.contexts.get(context_id) if context_id else self.contexts.get_default(language)
        token = self.request.headers.get("X-Access-Token")
        execution = Execution()
        context.reserve()
        self._running = asyncio.ensure_future(context.execute(code, variables, token or None, execution))
        self._running.add_done_callback(lambda _: context.release())
        try:
            self.set_header("Content-Type", "application/x-ndjson")
            await self.flush()
            async for chunk in execution.read_chunks(KEEPALIVE_SEC):
                self.write(chunk)
                await self.flush()
            self.finish()
        except tornado.iostream.StreamClosedError:
            pass
        finally:
            self._running.cancel()

    def on_connection_close(self) -> None:
        # The cell is interrupted. The task goes on until that is done, and holds the context meanwhile.
        if self._running is not None:
            self._running.cancel()


def describe(context: Any) -> dict[str, str]:
    return {"id": context.id, "language": context.language, "cwd": context.cwd}


def text_field(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"the field `{name}` is no string")
    return value


def variables_field(fields: dict[str, Any]) -> dict[str, str]:
    variables = fields.get("env_vars") or {}
    if not isinstance(variables, dict) or len(variables) > MAX_VARIABLES:
        raise RequestError(f"the field `env_vars` is no object of at most {MAX_VARIABLES} variables")
    for name, value in variables.items():
        if not VARIABLE.match(name):
            raise RequestError(f"'{name[:64]}' in `env_vars` is no name of a variable: letters, digits and _")
        if not isinstance(value, str) or "\0" in value:
            raise RequestError(f"the value of '{name}' in `env_vars` is no string without NUL characters")
    return variables


def make_app(contexts: Contexts) -> tornado.web.Application:
    shared = {"contexts": contexts}
    return tornado.web.Application(
        [
            (r"/health", HealthHandler, shared),
            (r"/execute", ExecuteHandler, shared),
            (r"/contexts", ContextsHandler, shared),
            (r"/contexts/([^/]+)", ContextHandler, shared),
            (r"/contexts/([^/]+)/restart", RestartHandler, shared),
        ],
        log_function=lambda handler: None,
    )
