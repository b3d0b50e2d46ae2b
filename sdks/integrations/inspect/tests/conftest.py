"""Logs of evaluations go to a directory of the test, and tokens are counted without a download."""

from __future__ import annotations

import pathlib

import pytest


@pytest.fixture(autouse=True)
def log_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_text_tokens(text: str) -> int:
        return len(text) // 4 + 1

    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path))
    monkeypatch.setattr("inspect_ai.model._model.count_text_tokens", count_text_tokens)
