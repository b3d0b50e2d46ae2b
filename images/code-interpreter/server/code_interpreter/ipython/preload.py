"""Imports ahead of cells."""

from __future__ import annotations

import importlib


def preload(modules: list[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
