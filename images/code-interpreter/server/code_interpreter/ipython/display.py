"""IPython extension: results carry data of DataFrames, charts of figures and JSON of plain values beside their text."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from IPython.core.formatters import BaseFormatter, JSONFormatter
from traitlets import ObjectName, Unicode

# Most bytes of data and JSON beside a result; more of it would double what is sent and never be looked at.
MAX_JSON_BYTES = 4 << 20


class DataFormatter(BaseFormatter):  # type: ignore[misc]
    """Columns of a DataFrame, as lists."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict

    def __call__(self, obj: Any) -> Any:
        # A DataFrame exists only if pandas was imported; other results shall not pay for its import.
        pandas = sys.modules.get("pandas")
        if pandas is None or not isinstance(obj, getattr(pandas, "DataFrame", ())):
            return super().__call__(obj)
        try:
            return within_limit({str(name): to_json(values) for name, values in obj.to_dict(orient="list").items()})
        except Exception:  # A frame that has no such data is shown without it.
            return None


class ChartFormatter(BaseFormatter):  # type: ignore[misc]
    """What a figure of matplotlib shows."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, obj: Any) -> Any:
        figure = sys.modules.get("matplotlib.figure")
        if figure is None or not isinstance(obj, figure.Figure):
            return super().__call__(obj)
        from . import charts

        try:
            chart = charts.chart_from_figure(obj)
            return within_limit(to_json(chart)) if chart else None
        except Exception:  # A figure of a kind that is not foreseen is shown without its data.
            return None


class PlainFormatter(JSONFormatter):  # type: ignore[misc]
    """Lists and dictionaries, besides objects that have JSON of their own."""

    def __call__(self, obj: Any) -> Any:
        if type(obj) in (dict, list):
            try:
                return within_limit(to_json(obj))
            except (TypeError, ValueError, RecursionError):
                return None
        return super().__call__(obj)


def to_json(value: Any) -> Any:
    """Returns a value as JSON has it: no NaN, numbers of numpy as numbers, times in ISO format. Raises TypeError."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key_of(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return to_json_scalar(value)


def to_json_scalar(value: Any) -> Any:
    pandas = sys.modules.get("pandas")
    if pandas is not None and (value is pandas.NaT or value is pandas.NA):
        return None
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.datetime64):
        return str(value)
    for method in ("isoformat", "tolist"):
        convert = getattr(value, method, None)
        if convert is not None:
            return to_json(convert())
    if type(value).__name__ in ("Decimal", "Period", "Interval", "Timedelta"):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def key_of(key: Any) -> str:
    if isinstance(key, (str, int, float, bool)) or key is None:
        return str(key)
    raise TypeError(f"{type(key).__name__} is no key in JSON")


def within_limit(value: Any) -> Any:
    """Returns a value, or None if its JSON is too large."""
    return value if len(json.dumps(value)) <= MAX_JSON_BYTES else None


def show_saved_images() -> None:
    """Makes images that are saved by name appear as results, as with E2B. Costs nothing until Pillow is imported."""
    from . import images

    images.install()


def load_ipython_extension(shell: Any) -> None:
    formatters = shell.display_formatter.formatters
    for formatter in (DataFormatter, ChartFormatter, PlainFormatter):
        instance: Any = formatter(parent=shell.display_formatter)
        formatters[instance.format_type] = instance
    show_saved_images()
