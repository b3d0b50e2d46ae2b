"""New random states for a kernel whose memory was copied: all copies would draw the same numbers."""

from __future__ import annotations

import os
import random
import sys


def reseed() -> None:
    """Seeds the generators of the modules that are loaded."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        # OpenSSL's generator is in memory, too.
        ssl.RAND_add(os.urandom(32), 32.0)
