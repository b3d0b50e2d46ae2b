"""Server and key: from arguments, else environment, else `$WRENN_DIR/credentials`.

The same rules as the command `wrenn` has. The file is written by `wrenn up`, and only read here.
"""

from __future__ import annotations

import ipaddress
import os
import pathlib
from typing import NamedTuple
from urllib.parse import urlsplit

from .errors import CredentialsError

DEFAULT_URL = "http://127.0.0.1:8000"
"""URL at which `wrenn up` serves by default."""

_SYSTEM_DIR = "/var/lib/wrenn"


class Settings(NamedTuple):
    """Server and key in force."""

    url: str
    key: str


class Credentials(NamedTuple):
    """Content of a credentials file."""

    url: str | None
    key: str | None


def wrenn_dir() -> pathlib.Path:
    """Returns the directory of the installation for this user."""
    named = os.environ.get("WRENN_DIR")
    if named:
        return pathlib.Path(named)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    try:
        own = pathlib.Path.home() / ".wrenn"
    except RuntimeError:
        return pathlib.Path(_SYSTEM_DIR)
    return own if not is_root and own.is_dir() else pathlib.Path(_SYSTEM_DIR)


def load(url: str | None, key: str | None) -> Settings:
    """Returns server and key; the file is opened only where one of them is missing."""
    path = wrenn_dir() / "credentials"
    url = url or os.environ.get("WRENN_API_URL") or None
    key = key or os.environ.get("WRENN_API_KEY") or None
    if url and key:
        return Settings(_checked(url), key.strip())
    if key:
        # With a key of its own, a file that cannot be read is no reason to fail.
        try:
            found = read_credentials(path).url
        except CredentialsError:
            found = None
        return Settings(_checked(found or DEFAULT_URL), key.strip())
    credentials = read_credentials(path)
    if not credentials.key:
        raise CredentialsError(
            f"no API key: start a server here with `wrenn up`, which writes one to {path}; "
            "or pass api_key, or set WRENN_API_KEY"
        )
    home = credentials.url or DEFAULT_URL
    if url and url.rstrip("/") != home.rstrip("/") and not is_loopback(url):
        raise CredentialsError(
            f"no API key for {url}: the one in {path} is for this machine only and is not sent "
            "elsewhere; pass api_key, or set WRENN_API_KEY"
        )
    return Settings(_checked(url or home), credentials.key)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc:
        # Not shown: errors are logged.
        raise CredentialsError(
            "the address of the server has a user or a password in it; the API key is the way to "
            "sign in, with api_key or WRENN_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CredentialsError(
            f"{url!r} is not the address of a server; it looks like {DEFAULT_URL}"
        )
    return url.rstrip("/")


def origin(url: str) -> str:
    """Returns scheme, host and port: what errors show of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(url: str) -> bool:
    """Returns true if an address can only mean this machine."""
    parts = urlsplit(url)
    if "@" in parts.netloc or not parts.hostname:
        return False
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return False


def read_credentials(path: pathlib.Path) -> Credentials:
    """Reads a credentials file; one that is not there is empty."""
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return Credentials(None, None)
    except OSError as error:
        raise CredentialsError(
            f"{path} cannot be read ({error.strerror}); run this as the user who runs `wrenn up`, "
            "or set WRENN_API_KEY"
        ) from error
    return parse_credentials(text, str(path))


def parse_credentials(text: str, path: str) -> Credentials:
    """Parses `NAME=VALUE` lines as a shell reads them: comments, `export`, one pair of quotes."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        if not equals:
            raise CredentialsError(
                f"{path}, line {number}: not of the form NAME=VALUE; correct it, or remove the "
                "file and start `wrenn up` again"
            )
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name.strip()] = value
    return Credentials(found.get("WRENN_API_URL") or None, found.get("WRENN_API_KEY") or None)
