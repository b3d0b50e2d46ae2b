"""Requests and answers of the API, with its names. Times are RFC 3339."""

from ._models import *  # noqa: F403
from ._models import __all__ as __all__
