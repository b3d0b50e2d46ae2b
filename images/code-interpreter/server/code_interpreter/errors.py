"""Failures that clients are told about."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is refused: the HTTP status and the text of its answer."""

    status = 400


class NotFound(RequestError):
    status = 404


class TooMany(RequestError):
    status = 429


class TooLarge(RequestError):
    status = 413


class KernelFailure(RequestError):
    """A kernel that does not start."""

    status = 500


class BadToken(RequestError):
    status = 401

    def __init__(self) -> None:
        super().__init__("the access token in X-Access-Token is not that of this sandbox")
