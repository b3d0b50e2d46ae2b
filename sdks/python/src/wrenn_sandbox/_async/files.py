"""Files of a sandbox: whole, as streams, as archives, and their changes."""

from __future__ import annotations

import base64
import builtins
import contextlib
import hashlib
import io as std_io
import os
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import IO, Any, Literal, cast, overload

from .. import _io_async as io
from .._models import FileInfo
from .._values import (
    CHUNK,
    SLOW_TIMEOUT,
    LineSplitter,
    Multipart,
    Patience,
    SearchMatch,
    SearchResult,
    WriteEntry,
    as_bytes,
    parse_json,
    without_none,
)
from ..errors import (
    AgentError,
    ConflictError,
    ConnectionBrokenError,
    HostUnavailableError,
    NotFoundError,
    OperationTimeoutError,
    ProtocolError,
    UnreachableError,
    WrennError,
)
from .connection import WITHOUT_LIMIT, AsyncByteStream, AsyncConnection
from .watch import AsyncWatch

PAGE = 1000
"""Entries of a page: the most that the API gives."""

Data = bytes | str | IO[bytes] | io.ByteSource
"""What can be written: bytes, text, a file that is open for reading, or parts as they come."""


class AsyncFiles:
    """The file system of a sandbox.

    A path is absolute, or starts at the home of `user`, who acts; without one it is the default
    user of the template.
    """

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._path = {"id": sandbox_id}

    @overload
    async def read(
        self, path: str, format: Literal["text"] = "text", *, user: str | None = None
    ) -> str: ...

    @overload
    async def read(
        self, path: str, format: Literal["bytes"], *, user: str | None = None
    ) -> bytes: ...

    @overload
    async def read(
        self, path: str, format: Literal["stream"], *, user: str | None = None
    ) -> AsyncByteStream: ...

    async def read(
        self,
        path: str,
        format: Literal["text", "bytes", "stream"] = "text",
        *,
        user: str | None = None,
    ) -> str | bytes | AsyncByteStream:
        """Reads a file.

        As text, bytes that are not UTF-8 are replaced. A stream is for files of any size: iterate
        over it, and close it, or use it as a block.
        """
        body = without_none({"path": path, "user": user})
        if format == "stream":
            return await self._connection.stream(
                "stream_read_file", path=self._path, json_body=body
            )
        answer = await self._connection.call(
            "stream_read_file", path=self._path, json_body=body, timeout=WITHOUT_LIMIT
        )
        return answer.content if format == "bytes" else answer.content.decode(errors="replace")

    async def write(
        self, path: str, data: Data, *, user: str | None = None, mode: str | None = None
    ) -> None:
        """Writes a file, and makes its directories. `mode` are permission bits in octal."""
        form = Multipart(without_none({"path": path, "user": user, "mode": mode}))
        is_stream = not isinstance(data, bytes | bytearray | memoryview | str)
        headers = {"content-type": form.content_type}
        if not is_stream:
            size = len(form.head) + len(as_bytes(data)) + len(form.end)  # type: ignore[arg-type]
            headers["content-length"] = str(size)

        async def parts() -> AsyncIterator[bytes]:
            yield form.head
            async for part in _parts(data):
                yield part
            yield form.end

        await self._connection.call(
            "stream_write_file",
            path=self._path,
            body=parts,
            headers=headers,
            timeout=WITHOUT_LIMIT,
            is_used_up=is_stream,
        )

    async def write_files(
        self, files: Iterable[WriteEntry | tuple[str, bytes | str]], *, user: str | None = None
    ) -> None:
        """Writes several files, one after the other."""
        for path, data in files:
            await self.write(path, data, user=user)

    async def list(
        self, path: str, depth: int = 1, *, user: str | None = None
    ) -> builtins.list[FileInfo]:
        """Lists what is below a directory, down to so many levels, by name."""
        return [entry async for entry in self.scan(path, depth, user=user)]

    async def scan(
        self, path: str, depth: int = 1, *, user: str | None = None
    ) -> AsyncIterator[FileInfo]:
        """Lists the same page by page: for directories of any size."""
        body = without_none({"path": path, "depth": depth, "user": user, "limit": PAGE})
        while True:
            answer = await self._connection.call("list_files", path=self._path, json_body=body)
            for entry in parse_json(answer.content):
                yield FileInfo.from_json(entry)
            body["cursor"] = answer.headers.get("x-next-cursor", "")
            if not body["cursor"]:
                return

    async def get_info(self, path: str, *, user: str | None = None) -> FileInfo:
        """Gets what is at a path."""
        return await self._info("stat_file", {"path": path, "user": user})

    async def exists(self, path: str, *, user: str | None = None) -> bool:
        """Returns true if something is at a path."""
        try:
            await self.get_info(path, user=user)
        except NotFoundError:
            # So that a sandbox that is gone is not taken for a file that is.
            await self._connection.call("get_sandbox", path=self._path)
            return False
        return True

    async def make_dir(self, path: str, *, user: str | None = None) -> bool:
        """Makes a directory and its parents; false if it is there."""
        with contextlib.suppress(NotFoundError):
            if (await self.get_info(path, user=user)).kind == "directory":
                return False
        body = without_none({"path": path, "user": user})
        await self._connection.call("make_directory", path=self._path, json_body=body)
        return True

    async def rename(
        self, old_path: str, new_path: str, *, overwrite: bool = True, user: str | None = None
    ) -> FileInfo:
        """Moves or renames, within one file system. The new path itself is what it gets."""
        body = {"source": old_path, "destination": new_path, "overwrite": overwrite, "user": user}
        return await self._info("move_file", body)

    async def remove(self, path: str, *, user: str | None = None) -> None:
        """Removes a file, or a directory with everything in it, if it is there."""
        body = without_none({"path": path, "user": user})
        await self._connection.call(
            "remove_file", path=self._path, json_body=body, timeout=SLOW_TIMEOUT
        )

    async def chmod(
        self, path: str, mode: str, *, recursive: bool = False, user: str | None = None
    ) -> FileInfo:
        """Changes permission bits, as chmod(1): octal digits, or as in `u+rwX,go-w`."""
        body = {"path": path, "mode": mode, "recursive": recursive, "user": user}
        return await self._info("change_mode", body)

    async def chown(
        self,
        path: str,
        owner: str | None = None,
        group: str | None = None,
        *,
        recursive: bool = False,
        user: str | None = None,
    ) -> FileInfo:
        """Changes owner and group. Only root may give files away: `user="root"`."""
        body = {
            "path": path,
            "owner": owner,
            "group": group,
            "recursive": recursive,
            "user": user,
        }
        return await self._info("change_owner", body)

    async def _info(self, name: str, body: dict[str, Any]) -> FileInfo:
        found = await self._connection.json(name, path=self._path, json_body=without_none(body))
        return FileInfo.from_json(found)

    async def search(
        self,
        path: str,
        *,
        name: str | None = None,
        content: str | None = None,
        literal: bool = False,
        ignore_case: bool = False,
        depth: int | None = None,
        limit: int | None = None,
        timeout: int | None = None,
        user: str | None = None,
    ) -> SearchResult:
        """Finds files by `name`, a glob, or lines by `content`, a regular expression.

        A search ends at its `limit` of matches (1000) and its `timeout` (30 s): `incomplete` of
        the result says so.
        """
        body = {
            "path": path,
            "name": name,
            "content": content,
            "literal": literal,
            "ignore_case": ignore_case,
            "depth": depth,
            "limit": limit,
            "timeout_sec": timeout,
            "user": user,
        }
        answer = await self._connection.call(
            "search_files",
            path=self._path,
            json_body=without_none(body),
            timeout=60.0 + (timeout or 0),
        )
        return _search_result(answer.content)

    async def watch_dir(
        self, path: str, *, recursive: bool = False, user: str | None = None
    ) -> AsyncWatch:
        """Reports changes of a directory from now on. An open watch is use of the sandbox."""
        query = without_none({"path": path, "recursive": recursive, "user": user})
        socket = await self._connection.web_socket("watch_files", path=self._path, query=query)
        watch = AsyncWatch(socket)
        try:
            await watch._start()
        except BaseException:
            await watch.aclose()
            raise
        return watch

    async def upload(
        self,
        local: str | os.PathLike[str] | bytes | IO[bytes],
        path: str,
        *,
        user: str | None = None,
        mode: str | None = None,
    ) -> None:
        """Uploads a file so that a broken connection loses nothing, with a checksum.

        `local` is a path on this side, bytes, or a file that can be read from any place. What is
        at `path` stays until everything has arrived. It goes on for up to a minute without
        progress, and for the `request_timeout` of the client in all, if it has one.
        """
        if isinstance(local, str | os.PathLike):
            with open(local, "rb") as file:
                await self._upload(file, path, user, mode)
        elif isinstance(local, bytes | bytearray | memoryview):
            await self._upload(std_io.BytesIO(local), path, user, mode)
        else:
            await self._upload(local, path, user, mode)

    async def _upload(self, file: IO[bytes], path: str, user: str | None, mode: str | None) -> None:
        deadline = io.monotonic() + (self._connection.request_timeout or WITHOUT_LIMIT)
        size, digest = await io.call_in_background(lambda: _measure(file))
        fields = without_none({"path": path, "user": user, "mode": mode, "sha256": digest})
        encoded = [f"{name} {_base64(value)}" for name, value in fields.items()]
        begun = await self._connection.call(
            "begin_upload",
            path=self._path,
            headers={
                **_TUS,
                "upload-length": str(size),
                "upload-metadata": ",".join(encoded),
            },
        )
        upload = begun.headers.get("location", "").rsplit("/", 1)[-1]
        if not upload:
            raise ProtocolError("an upload without a location")
        place = {**self._path, "upload": upload}
        try:
            await self._send_parts(file, size, place, deadline)
        except BaseException:
            await self._give_up(place)
            raise

    async def _give_up(self, place: dict[str, str]) -> None:
        try:
            await self._connection.call("delete_upload", path=place, headers=_TUS, timeout=5)
        except (*_UPLOAD_GOES_ON_AFTER, NotFoundError):
            # Where it cannot be reached it expires.
            pass

    async def _send_parts(
        self, file: IO[bytes], size: int, place: dict[str, str], deadline: float
    ) -> None:
        offset = 0
        patience = Patience(self._connection.patience)
        while True:
            try:
                await self._send_part(file, offset, size, place, deadline)
                return
            except _UPLOAD_GOES_ON_AFTER as error:
                failure: WrennError = error
            arrived = await self._offset_after(failure, place, patience, deadline)
            if arrived >= size:
                return
            if arrived > offset:
                patience.progressed()
            offset = arrived

    async def _offset_after(
        self, failure: WrennError, place: dict[str, str], patience: Patience, deadline: float
    ) -> int:
        """Returns the offset at which an upload goes on; asks until there is an answer."""
        while True:
            pause = patience.next_pause(failure, io.monotonic())
            if io.monotonic() + pause >= deadline:
                raise OperationTimeoutError("the upload takes longer than it may") from failure
            await io.sleep(pause)
            try:
                return await self._offset(place, deadline)
            except _UPLOAD_GOES_ON_AFTER as error:
                failure = error

    async def _send_part(
        self, file: IO[bytes], offset: int, size: int, place: dict[str, str], deadline: float
    ) -> None:
        file.seek(offset)

        async def rest() -> AsyncIterator[bytes]:
            left = size - offset
            while left > 0 and (part := await io.read_file(file)):
                yield part[:left]
                left -= len(part)

        headers = {
            **_TUS,
            "upload-offset": str(offset),
            "content-type": "application/offset+octet-stream",
            "content-length": str(size - offset),
        }
        await self._connection.call(
            "write_upload",
            path=place,
            body=rest,
            headers=headers,
            timeout=WITHOUT_LIMIT,
            deadline=deadline,
            is_repeatable=False,
            is_used_up=True,
        )

    async def _offset(self, place: dict[str, str], deadline: float) -> int:
        answer = await self._connection.call(
            "get_upload", path=place, headers=_TUS, deadline=deadline
        )
        return int(answer.headers["upload-offset"])

    async def download(
        self, path: str, local: str | os.PathLike[str] | IO[bytes], *, user: str | None = None
    ) -> None:
        """Downloads a file to a path on this side, or into an open file.

        A file of before stays until everything is here.
        """
        stream = await self.read(path, "stream", user=user)
        async with stream:
            if not isinstance(local, str | os.PathLike):
                await _copy(stream, local)
                return
            target = os.fspath(local)
            # A random name: in a shared directory, a link of a known one could be prepared.
            temporary = f"{target}.{secrets.token_hex(8)}.part"
            try:
                with open(temporary, "xb") as file:
                    await _copy(stream, file)
                os.replace(temporary, target)
            except BaseException:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                raise

    async def read_archive(
        self, path: str, *, user: str | None = None, single_file: bool | None = None
    ) -> AsyncByteStream:
        """Reads a directory as a tar archive, whose names are relative to it.

        With `single_file` the path is a file, which is the only entry, without its holes.
        """
        return await self._connection.stream(
            "read_archive",
            path=self._path,
            query=without_none({"path": path, "user": user, "single_file": single_file}),
        )

    async def write_archive(
        self,
        path: str,
        data: Data,
        *,
        user: str | None = None,
        single_file: bool | None = None,
    ) -> None:
        """Unpacks a tar archive below a directory, which is made where it is missing.

        With `single_file` the path is that of a file, the only entry of the archive.
        """
        await self._connection.call(
            "write_archive",
            path=self._path,
            query=without_none({"path": path, "user": user, "single_file": single_file}),
            body=lambda: _parts(data),
            headers={"content-type": "application/x-tar"},
            timeout=WITHOUT_LIMIT,
            is_used_up=not isinstance(data, bytes),
        )


_TUS = {"tus-resumable": "1.0.0"}

_UPLOAD_GOES_ON_AFTER = (
    AgentError,
    ConflictError,
    ConnectionBrokenError,
    HostUnavailableError,
    OperationTimeoutError,
    UnreachableError,
)


async def _parts(data: Data) -> AsyncIterator[bytes]:
    """Parts of what is to be written."""
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        whole = memoryview(data)
        for begin in range(0, len(whole), CHUNK):
            yield bytes(whole[begin : begin + CHUNK])
    elif hasattr(data, "read"):
        while part := await io.read_file(cast("IO[bytes]", data)):
            yield part
    else:
        async for part in io.iterate(data):
            yield part


async def _copy(stream: AsyncByteStream, file: IO[bytes]) -> None:
    async for part in stream:
        await io.write_file(file, part)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _measure(file: IO[bytes]) -> tuple[int, str]:
    """Size and SHA-256 of a file, from its begin."""
    file.seek(0)
    digest = hashlib.sha256()
    size = 0
    while part := file.read(CHUNK):
        digest.update(part)
        size += len(part)
    return size, digest.hexdigest()


def _search_result(body: bytes) -> SearchResult:
    lines = LineSplitter()
    matches: list[SearchMatch] = []
    for line in [*lines.feed(body), lines.rest()]:
        if not line.strip():
            continue
        message = parse_json(line)
        if message.pop("type") == "end":
            return SearchResult(
                matches=matches,
                searched=message["searched"],
                binary=message["binary"],
                unreadable=message["unreadable"],
                incomplete=message.get("incomplete"),
            )
        match = SearchMatch(
            path=message["path"],
            kind=message["kind"],
            line=message.get("line"),
            text=message.get("text"),
            is_cut=message.get("is_cut", False),
        )
        matches.append(match)
    raise ConnectionBrokenError("the answer of the search broke off")
