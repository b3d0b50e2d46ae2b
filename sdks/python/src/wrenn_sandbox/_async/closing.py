"""Base of objects that close themselves at the end of their `with` block."""

from __future__ import annotations

import abc
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncClosing(abc.ABC):
    """Closes itself at the end of its `with` block."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Ends it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.aclose()
