"""Images of Pillow that are saved by name are shown, too."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

TARGET = "PIL.Image"


class PatchingLoader(importlib.abc.Loader):
    """Loads a module by another loader, and patches it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        patch(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the one module as the other finders do, once."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = PatchingLoader(spec.loader)
        return spec


def install() -> None:
    loaded = sys.modules.get(TARGET)
    if loaded is not None:
        patch(loaded)
    else:
        sys.meta_path.insert(0, Finder())


def patch(module: Any) -> None:
    original = module.Image.save

    def save(self: Any, fp: Any, format: str | None = None, **params: Any) -> None:
        # matplotlib saves its figures by way of Pillow, into buffers: only names are shown.
        if isinstance(fp, str):
            from IPython.display import display

            display(self)
        original(self, fp, format, **params)

    module.Image.save = save
