"""The client: creates the sandboxes of agents, and finds them again.

States of a session: *created* (the sandbox runs; its id is in the session's state), *shut down*
(deleted, or paused with `pause_on_exit`), *resumed* (the same sandbox, or a new one with the
snapshot of the workspace if it is no longer there). Nothing is kept on this side but the state
that the caller keeps. What a process that died has left carries the label `openai-agents-session`.
"""

from __future__ import annotations

import uuid
from typing import Literal

from agents.sandbox.manifest import Manifest
from agents.sandbox.session import SandboxSession, SandboxSessionState
from agents.sandbox.session.dependencies import Dependencies
from agents.sandbox.session.manager import Instrumentation
from agents.sandbox.session.sandbox_client import BaseSandboxClient, BaseSandboxClientOptions
from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec, resolve_snapshot
from wrenn_sandbox import AsyncClient, AsyncSandbox, NetworkRules
from wrenn_sandbox.errors import NotFoundError

from .session import WrennSandboxSession, WrennSandboxSessionState

LABEL = "openai-agents-session"
"""Label of the sandboxes of agents; its value is the id of the session."""


class WrennSandboxClientOptions(BaseSandboxClientOptions):
    """What a sandbox is made of; what is left out is up to the server."""

    type: Literal["wrenn"] = "wrenn"
    template: str | None = None
    """Image or snapshot that it is created from."""
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    envs: dict[str, str] | None = None
    """Environment variables; those of the manifest come before them."""
    labels: dict[str, str] | None = None
    allow_internet: bool | None = None
    """Whether it reaches the internet."""
    timeout: int | None = None
    """Seconds without use after which it is paused; it goes on at its next use."""
    exposed_ports: tuple[int, ...] = ()
    """Ports for which there is an address."""
    pause_on_exit: bool = False
    """Pauses the sandbox at the end of a session, with its memory, instead of deleting it."""


class WrennSandboxClient(BaseSandboxClient[WrennSandboxClientOptions]):
    """Creates, resumes and deletes sessions whose workspace is in a Wrenn sandbox."""

    backend_id = "wrenn"
    supports_default_options = True

    def __init__(
        self,
        client: AsyncClient | None = None,
        *,
        instrumentation: Instrumentation | None = None,
        dependencies: Dependencies | None = None,
    ) -> None:
        """Creates a client; without `client` server and key are found as the SDK finds them."""
        self._client = client
        self._instrumentation = instrumentation or Instrumentation()
        self._dependencies = dependencies

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: WrennSandboxClientOptions | None = None,
    ) -> SandboxSession:
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        options = options or WrennSandboxClientOptions()
        session_id = uuid.uuid4()
        sandbox = await self._create_sandbox(session_id, options.model_dump(exclude={"type"}))
        state = WrennSandboxSessionState(
            session_id=session_id,
            manifest=manifest,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            exposed_ports=options.exposed_ports,
            sandbox_id=sandbox.sandbox_id,
            options=options.model_dump(exclude={"type"}),
            pause_on_exit=options.pause_on_exit,
        )
        return self._wrap(state, sandbox, is_preserved=False)

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """Goes on with the sandbox of a session, or with a new one if it is no longer there."""
        if not isinstance(state, WrennSandboxSessionState):
            raise TypeError(f"a {type(state).__name__} is the state of another client's session")
        state.assert_path_grants_rebound()
        try:
            sandbox = await AsyncSandbox.connect(state.sandbox_id, client=self._client)
        except NotFoundError:
            sandbox = await self._create_sandbox(state.session_id, state.options)
            state.sandbox_id = sandbox.sandbox_id
            state.workspace_root_ready = False
            return self._wrap(state, sandbox, is_preserved=False)
        return self._wrap(state, sandbox, is_preserved=True)

    async def delete(self, session: SandboxSession) -> SandboxSession:
        """Deletes the sandbox of a session, unless it is to be paused at its end."""
        inner = session._inner
        if not isinstance(inner, WrennSandboxSession):
            raise TypeError(f"a {type(inner).__name__} is a session of another client")
        if not inner.state.pause_on_exit:
            await inner.sandbox.kill()
        return session

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        return self._deserialize_session_state_payload(payload, WrennSandboxSessionState)

    async def _create_sandbox(
        self, session_id: uuid.UUID, fields: dict[str, object]
    ) -> AsyncSandbox:
        options = WrennSandboxClientOptions.model_validate(fields)
        network = None
        if options.allow_internet is not None:
            network = NetworkRules(allow_internet=options.allow_internet)
        return await AsyncSandbox.create(
            options.template,
            vcpus=options.vcpus,
            memory_mb=options.memory_mb,
            disk_mb=options.disk_mb,
            envs=options.envs,
            labels={**(options.labels or {}), LABEL: str(session_id)},
            network=network,
            timeout=options.timeout,
            auto_resume=True,
            client=self._client,
        )

    def _wrap(
        self, state: WrennSandboxSessionState, sandbox: AsyncSandbox, *, is_preserved: bool
    ) -> SandboxSession:
        inner = WrennSandboxSession(state, sandbox)
        inner._set_start_state_preserved(is_preserved, system=is_preserved)
        return self._wrap_session(inner, instrumentation=self._instrumentation)
