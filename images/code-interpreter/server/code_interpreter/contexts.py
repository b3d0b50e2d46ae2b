"""Contexts by id, and the default one of each language."""

from __future__ import annotations

import os

from . import context as context_module
from .context import Context
from .errors import NotFound, RequestError, TooMany
from .kernels.jupyter import find_spec

DEFAULT_CWD = os.environ.get("CODE_INTERPRETER_CWD", "/home/user")
# Most contexts at a time: each is a process of some ten megabytes.
MAX_CONTEXTS = 64
ALIASES = {"js": "javascript", "ts": "typescript", "python3": "python", "py": "python", "sh": "bash", "shell": "bash"}
OWN_LANGUAGES = ("bash", "javascript", "typescript")


def normalize_language(language: str | None) -> str:
    """Returns the name of a language as contexts have it. Raises RequestError if no kernel knows it."""
    name = (language or "python").strip().lower()
    name = ALIASES.get(name, name)
    if name not in OWN_LANGUAGES and find_spec(name) is None:
        known = ", ".join(languages())
        raise RequestError(f"there is no kernel for the language '{name[:64]}' here; there are: {known}")
    return name


def languages() -> list[str]:
    """Returns the languages that there are kernels for."""
    return sorted([*OWN_LANGUAGES, *(name for name in ("python", "r", "java", "deno") if find_spec(name))])


class Contexts:
    def __init__(self) -> None:
        self._by_id: dict[str, Context] = {}
        # Ids of default contexts.
        self._defaults: dict[str, str] = {}

    def list_all(self) -> list[Context]:
        return list(self._by_id.values())

    def get(self, context_id: str) -> Context:
        """Raises NotFound."""
        found = self._by_id.get(context_id)
        if found is None:
            raise NotFound(f"Context {context_id[:64]} not found")
        return found

    def get_default(self, language: str | None) -> Context:
        """Returns the default context of a language, which starts with its first cell."""
        name = normalize_language(language)
        found = self._by_id.get(self._defaults.get(name, ""))
        if found is None:
            found = self._add(name, DEFAULT_CWD)
            self._defaults[name] = found.id
        return found

    async def create(self, language: str | None, cwd: str | None) -> Context:
        """Creates a context whose kernel runs. Raises RequestError."""
        name = normalize_language(language)
        path = cwd or DEFAULT_CWD
        if not os.path.isabs(path) or not os.path.isdir(path):
            raise RequestError(f"the working directory '{path[:256]}' is no absolute path of a directory")
        created = self._add(name, path)
        try:
            await created.start()
        except BaseException:
            await self.remove(created.id)
            raise
        return created

    async def remove(self, context_id: str) -> None:
        found = self.get(context_id)
        del self._by_id[context_id]
        await found.remove()

    async def remove_all(self) -> None:
        for context_id in list(self._by_id):
            await self.remove(context_id)

    def _add(self, language: str, cwd: str) -> Context:
        if len(self._by_id) >= MAX_CONTEXTS:
            raise TooMany(f"there are {MAX_CONTEXTS} contexts, and no more can be; remove some")
        added = context_module.Context(language, cwd)
        self._by_id[added.id] = added
        return added
