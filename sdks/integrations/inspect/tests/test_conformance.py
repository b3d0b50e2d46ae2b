"""The self check of Inspect for sandbox environments: nothing is expected to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from inspect_ai.util import SandboxEnvironment
from inspect_ai.util._sandbox.self_check import *  # noqa: F403
from wrenn_inspect import WrennSandboxEnvironment

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox_env() -> AsyncIterator[SandboxEnvironment]:
    environments = await WrennSandboxEnvironment.sample_init("self-check", None, {})
    yield environments["default"]
    await WrennSandboxEnvironment.sample_cleanup("self-check", None, environments, False)
