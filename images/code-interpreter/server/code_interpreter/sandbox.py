"""What the guest agent says of this sandbox."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

from .errors import BadToken

ENVS_URL = os.environ.get("CODE_INTERPRETER_ENVS_URL", "http://127.0.0.1:49983/envs")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Variables that belong to the user of the kernels, not to the sandbox.
OWN_VARIABLES = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "PWD"})


def read_identity() -> str:
    """Returns what is the same for a sandbox, through pauses too, and another in each copy of its memory."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def fetch_environment(token: str | None) -> dict[str, str] | None:
    """Asks the guest agent for the sandbox's environment. Blocks for 5 s at most.

    Returns None if there is no token and it wants one, or if no agent answers, as outside of a sandbox.

    Raises BadToken if it refuses the token.
    """
    request = urllib.request.Request(ENVS_URL, headers={"X-Access-Token": token} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            found = json.load(response)
    except urllib.error.HTTPError as failure:
        if failure.code == 401 and token:
            raise BadToken() from None
        return None
    except (OSError, ValueError):
        return None
    return {str(key): str(value) for key, value in found.items() if key not in OWN_VARIABLES}
