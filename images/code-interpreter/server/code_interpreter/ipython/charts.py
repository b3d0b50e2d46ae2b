"""Extracts what a figure of matplotlib shows, in the shape that E2B's SDKs read.

A figure with one set of axes is a chart of a kind, one with several is a `superchart`. The kind is told by the artists:
lines, scattered points, wedges, boxes with whiskers, bars. Grid lines and texts say nothing about it.
"""

from __future__ import annotations

import re
from typing import Any

import matplotlib.dates
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle, Wedge
from matplotlib.text import Text

Chart = dict[str, Any]

# `Time (s)` and `Speed [m/s]`.
UNIT = re.compile(r"\s\((.*?)\)|\[(.*?)\]")
# Most points of a line or a scatter that are sent.
MAX_POINTS = 20_000


def chart_from_figure(figure: Figure) -> Chart | None:
    """Returns the chart of a figure, or None if nothing is drawn in it."""
    axes = figure.get_axes()
    if not any(ax.has_data() or ax.artists for ax in axes):
        return None
    if len(axes) == 1:
        return chart_from_axes(axes[0])
    title = figure._suptitle.get_text() if figure._suptitle is not None else None
    return {"type": "superchart", "title": title or None, "elements": [chart_from_axes(ax) for ax in axes]}


def chart_from_axes(ax: Axes) -> Chart:
    kind = detect_kind(ax)
    chart: Chart = {"type": kind, "title": ax.get_title() or None, "elements": []}
    extract = {
        "line": add_lines,
        "scatter": add_scatter,
        "pie": add_wedges,
        "bar": add_bars,
        "box_and_whisker": add_boxes,
    }.get(kind)
    if extract is not None:
        extract(chart, ax)
    return chart


def detect_kind(ax: Axes) -> str:
    # `_children` and not the lists by kind, which have no order and leave out what they do not know.
    artists = [artist for artist in ax._children if not isinstance(artist, Text) and not is_grid_line(artist)]
    lines = [artist for artist in ax._children if isinstance(artist, Line2D)]
    kinds = {type(artist) for artist in artists}
    if not artists:
        return "line" if lines else "unknown"
    if all(isinstance(artist, Line2D) for artist in artists):
        return "box_and_whisker" if find_line_boxes(ax) else "line"
    if PathPatch in kinds and all(isinstance(artist, (PathPatch, Line2D)) for artist in artists):
        return "box_and_whisker"
    if all(isinstance(artist, PathCollection) for artist in artists):
        return "scatter"
    if all(isinstance(artist, Wedge) for artist in artists):
        return "pie"
    if ax.containers and any(isinstance(it, BarContainer) for it in ax.containers):
        # Bars may have error bars, and a line through them.
        if any(isinstance(artist, Rectangle) for artist in artists):
            return "bar"
    return "unknown"


def is_grid_line(artist: Any) -> bool:
    """Returns true for a straight line of two points along an axis, as `axhline` draws it."""
    if not isinstance(artist, Line2D):
        return False
    x, y = list(artist.get_xdata()), list(artist.get_ydata())
    return len(x) == 2 and len(y) == 2 and bool(x[0] == x[1] or y[0] == y[1])


def add_labels(chart: Chart, ax: Axes, is_turned: bool = False) -> None:
    labels = [ax.get_xlabel() or None, ax.get_ylabel() or None]
    if is_turned:
        labels.reverse()
    for name, label in zip(("x", "y"), labels):
        found = UNIT.search(label) if label else None
        chart[f"{name}_label"] = label
        chart[f"{name}_unit"] = (found.group(1) or found.group(2)) if found else None


def add_scales(chart: Chart, ax: Axes) -> None:
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        ticks = [float(tick) for tick in axis.get_ticklocs()]
        labels = [label.get_text() for label in axis.get_ticklabels()]
        is_date = isinstance(axis.converter, matplotlib.dates._SwitchableDateConverter)
        chart[f"{name}_ticks"] = [matplotlib.dates.num2date(it).isoformat() for it in ticks] if is_date else ticks
        chart[f"{name}_tick_labels"] = labels
        chart[f"{name}_scale"] = "datetime" if is_date else detect_scale(axis.get_scale(), ticks, labels)


def detect_scale(scale: str, ticks: list[float], labels: list[str]) -> str:
    """Returns the name of a scale; a linear one is categorical if its ticks are 0, 1, … with other names."""
    if scale != "linear" or not ticks:
        return scale
    is_category = all(tick == place and label != str(place) for place, (tick, label) in enumerate(zip(ticks, labels)))
    return "categorical" if is_category else "linear"


def add_lines(chart: Chart, ax: Axes) -> None:
    add_labels(chart, ax)
    add_scales(chart, ax)
    for line in ax.get_lines():
        if is_grid_line(line):
            continue
        label = numbered(line.get_label(), "_child", "Line")
        points = list(zip(line.get_xdata(), line.get_ydata()))
        chart["elements"].append({"label": label, "points": to_points(points)})


def add_scatter(chart: Chart, ax: Axes) -> None:
    add_labels(chart, ax)
    add_scales(chart, ax)
    for collection in ax.collections:
        label = numbered(collection.get_label(), "_child", "Scatter")
        points = [(x, y) for x, y in collection.get_offsets()]
        chart["elements"].append({"label": label, "points": to_points(points)})


def to_points(points: list[tuple[Any, Any]]) -> list[list[Any]]:
    return [[to_coordinate(x), to_coordinate(y)] for x, y in points[:MAX_POINTS]]


def to_coordinate(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value).__name__ == "datetime64":
        return str(value.astype("datetime64[s]"))
    if isinstance(value, str):
        return value
    return float(value)


def numbered(label: Any, prefix: str, name: str) -> str:
    """Returns a label, or a name with a number for one that matplotlib made up."""
    text = str(label)
    return f"{name} {text[len(prefix):]}" if text.startswith(prefix) else text


def add_wedges(chart: Chart, ax: Axes) -> None:
    for wedge in ax.patches:
        # Angles of matplotlib are of single precision.
        angle = round(abs(float(wedge.theta2 - wedge.theta1)), 3)
        chart["elements"].append({"label": wedge.get_label(), "angle": angle, "radius": float(wedge.r)})


def add_bars(chart: Chart, ax: Axes) -> None:
    containers = [it for it in ax.containers if isinstance(it, BarContainer)]
    is_turned = any(getattr(it, "orientation", None) == "horizontal" for it in containers)
    add_labels(chart, ax, is_turned)
    names = bar_names(ax, is_turned)
    for container in containers:
        group = numbered(container.get_label(), "_container", "Group")
        for place, bar in enumerate(container):
            value = bar.get_width() if is_turned else bar.get_height()
            label = names[place] if place < len(names) else str(place)
            chart["elements"].append({"label": label, "group": group, "value": float(value)})


def bar_names(ax: Axes, is_turned: bool) -> list[str]:
    """Returns the names of bars: the labels of the ticks below them."""
    axis = ax.yaxis if is_turned else ax.xaxis
    return [label.get_text() for label in axis.get_ticklabels()]


def to_rounded(number: Any) -> float:
    """Removes what floating point added: 8 digits after those before the point."""
    return round(float(number), 8)


def find_line_boxes(ax: Axes) -> list[Line2D]:
    """Returns the boxes of a box plot that are drawn as lines: closed rectangles of five points."""
    return [line for line in ax.get_lines() if is_box(line)]


def is_box(line: Line2D) -> bool:
    x, y = list(line.get_xdata()), list(line.get_ydata())
    if len(x) != 5 or x[0] != x[-1] or y[0] != y[-1]:
        return False
    return len(set(x)) == 2 and len(set(y)) == 2


def add_boxes(chart: Chart, ax: Axes) -> None:
    boxes = [outline(it.get_path().vertices) for it in ax.patches if isinstance(it, PathPatch)]
    if not boxes:
        boxes = [outline(list(zip(it.get_xdata(), it.get_ydata()))) for it in find_line_boxes(ax)]
    # Boxes stand upright unless they are of one height: their widths are then the data.
    is_turned = len(boxes) > 0 and not has_one_width(boxes)
    add_labels(chart, ax, is_turned)
    axis = ax.yaxis if is_turned else ax.xaxis
    names = [label.get_text() for label in axis.get_ticklabels()]
    if is_turned:
        boxes = [(y, x) for x, y in boxes]
    lines = [line_data(line, is_turned) for line in ax.get_lines() if not is_box(line)]
    for place, (span, body) in enumerate(boxes):
        label = names[place] if place < len(names) else str(place)
        chart["elements"].append(box_data(label, span, body, lines))


Span = tuple[float, float]


def outline(vertices: Any) -> tuple[Span, Span]:
    """Returns the horizontal and the vertical extent of a box."""
    x = [to_rounded(point[0]) for point in vertices]
    y = [to_rounded(point[1]) for point in vertices]
    return (min(x), max(x)), (min(y), max(y))


def has_one_width(boxes: list[tuple[Span, Span]]) -> bool:
    widths = {to_rounded(x[1] - x[0]) for x, _ in boxes}
    heights = {to_rounded(y[1] - y[0]) for _, y in boxes}
    return len(widths) == 1 or len(heights) > 1


def line_data(line: Line2D, is_turned: bool) -> tuple[list[float], list[float]]:
    x = [to_rounded(it) for it in line.get_xdata()]
    y = [to_rounded(it) for it in line.get_ydata()]
    return (y, x) if is_turned else (x, y)


def box_data(label: str, span: Span, body: Span, lines: list[tuple[list[float], list[float]]]) -> dict[str, Any]:
    """Finds the median, the whiskers and the outliers of a box among the lines above and below it."""
    low, high = body
    found: dict[str, Any] = {"label": label, "min": low, "first_quartile": low, "median": (low + high) / 2}
    found |= {"third_quartile": high, "max": high, "outliers": []}
    for x, y in lines:
        if not x or not all(span[0] <= it <= span[1] for it in x):
            continue
        is_level = len(y) == 2 and y[0] == y[1]
        if is_level and x[0] != x[1] and low <= y[0] <= high and (x[0], x[1]) in (span, span[::-1]):
            found["median"] = y[0]
        elif len(y) == 2 and x[0] == x[1]:
            if max(y) == low:
                found["min"] = min(y)
            elif min(y) == high:
                found["max"] = max(y)
        elif len(y) != 2 or x[0] == x[1]:
            found["outliers"] += y
    return found
