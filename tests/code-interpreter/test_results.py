"""Rich results of the Python kernel: formats, data, charts."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from conftest import Server

PLOT = "import matplotlib.pyplot as plt\nimport numpy as np\nimport datetime\n"


def chart(server: Server, code: str) -> dict[str, Any]:
    cell = server.run(f"{PLOT}{code}\nplt.show()")
    assert cell.error is None and len(cell.results) == 1, cell.lines
    assert base64.b64decode(cell.results[0]["png"]).startswith(b"\x89PNG")
    assert cell.results[0]["text"].startswith("<Figure") or cell.results[0]["text"].startswith("Figure")
    return dict(cell.results[0]["chart"])


@pytest.mark.parametrize("maker,data,field", [
    ("HTML", "<b>x</b>", "html"),
    ("Markdown", "# x", "markdown"),
    ("SVG", "<svg xmlns='http://www.w3.org/2000/svg'></svg>", "svg"),
    ("Latex", "$x$", "latex"),
    ("Javascript", "alert(1)", "javascript"),
])
def test_display_objects_have_field(server: Server, maker: str, data: str, field: str) -> None:
    results = server.run(f"from IPython.display import {maker}, display\ndisplay({maker}({data!r}))").results
    assert results[0][field] and not results[0]["is_main_result"]


def test_raw_bundles_have_their_formats(server: Server) -> None:
    bundle = "{'application/pdf': 'cGRm', 'image/jpeg': 'anBn', 'x/y': 1}"
    [result] = server.run(f"from IPython.display import display\ndisplay({bundle}, raw=True)").results
    assert result == {
        "type": "result", "is_main_result": False, "pdf": "cGRm", "jpeg": "anBn", "extra": {"x/y": 1},
    }


def test_plain_values_have_json(server: Server) -> None:
    assert server.run("{'a': [1, float('nan')], 2: None}").results[0]["json"] == {"a": [1, None], "2": None}
    assert "json" not in server.run("{'a': object()}").results[0]
    assert "json" not in server.run("1").results[0]


def test_custom_reprs_are_used(server: Server) -> None:
    code = "class C:\n    def _repr_html_(self): return '<i>c</i>'\n    def _repr_json_(self): return {'c': 1}\nC()"
    [result] = server.run(code).results
    assert (result["html"], result["json"]) == ("<i>c</i>", {"c": 1})


def test_frames_have_data(server: Server) -> None:
    code = """
    import pandas as pd
    pd.DataFrame({"a": [1, 2], "b": [None, 1.5], "t": pd.to_datetime(["2024-01-01", None]), "s": ["x", "y"]})
    """
    [result] = server.run(code).results
    assert result["data"] == {"a": [1, 2], "b": [None, 1.5], "t": ["2024-01-01T00:00:00", None], "s": ["x", "y"]}
    assert "<table" in result["html"]


def test_images_are_shown(server: Server) -> None:
    make = "from PIL import Image\nimage = Image.new('RGB', (4, 4))\n"
    for end in ("image", "image.save('saved.png')", "image.show()"):
        results = server.run(make + end).results
        assert results and results[0]["png"], end


def test_figure_at_end_of_cell_is_shown(server: Server) -> None:
    results = server.run(f"{PLOT}plt.plot([1, 2])\n1").results
    assert sorted(bool(result.get("png")) for result in results) == [False, True]


def test_line_chart_has_points_and_scales(server: Server) -> None:
    found = chart(server, """
dates = [datetime.date(2023, 9, 1) + datetime.timedelta(days=i) for i in range(3)]
plt.plot(dates, [1, 2, 3], label='up'); plt.plot(dates, [3, 2, 1])
plt.xlabel('Time (s)'); plt.ylabel('Speed [m/s]'); plt.title('T'); plt.grid(True)""")
    assert (found["type"], found["title"], found["x_unit"], found["y_unit"]) == ("line", "T", "s", "m/s")
    assert (found["x_scale"], found["y_scale"]) == ("datetime", "linear")
    assert [element["label"] for element in found["elements"]] == ["up", "Line 1"]
    assert found["elements"][0]["points"][1] == ["2023-09-02", 2.0]
    assert all(isinstance(tick, str) for tick in found["x_ticks"])
    assert all(isinstance(tick, float) for tick in found["y_ticks"])


def test_scales_are_told(server: Server) -> None:
    found = chart(server, "plt.plot([1, 2, 3], ['A', 'B', 'C'])")
    assert (found["x_scale"], found["y_scale"]) == ("linear", "categorical")
    assert chart(server, "plt.plot([1, 10], [1, 100]); plt.yscale('log')")["y_scale"] == "log"


def test_scatter_has_groups(server: Server) -> None:
    found = chart(server, "plt.scatter([1, 2], [3, 4], label='one'); plt.scatter([5], [6], label='two')")
    assert found["type"] == "scatter"
    assert found["elements"][0] == {"label": "one", "points": [[1.0, 3.0], [2.0, 4.0]]}


def test_bars_have_names_and_values(server: Server) -> None:
    found = chart(server, "plt.bar(['a', 'b', 'c'], [5, 5, 5], label='n'); plt.xlabel('X')")
    assert found["type"] == "bar" and found["x_label"] == "X"
    assert found["elements"][2] == {"label": "c", "group": "n", "value": 5.0}
    found = chart(server, "plt.barh(['a', 'b'], [1, 2]); plt.ylabel('names')")
    assert [(it["label"], it["value"]) for it in found["elements"]] == [("a", 1.0), ("b", 2.0)]
    assert found["x_label"] == "names"


def test_pie_has_angles(server: Server) -> None:
    found = chart(server, "plt.pie([90, 10], labels=['No', 'Yes'], autopct='%1.1f%%')")
    assert [(it["label"], it["angle"], it["radius"]) for it in found["elements"]] == [("No", 324, 1), ("Yes", 36, 1)]


BOXES = "{'A': [85, 90, 78, 92, 88], 'B': [95, 89, 76, 91, 84, 87], 'C': [75, 82, 88, 79, 86]}"


@pytest.mark.parametrize("options", ["patch_artist=True", "patch_artist=False", "patch_artist=True, vert=False"])
def test_boxes_have_quartiles(server: Server, options: str) -> None:
    found = chart(server, f"d = {BOXES}\nplt.boxplot(d.values(), labels=d.keys(), {options})")
    assert found["type"] == "box_and_whisker"
    assert [it["label"] for it in found["elements"]] == ["A", "B", "C"]
    assert [it["min"] for it in found["elements"]] == [78, 84, 75]
    assert [it["first_quartile"] for it in found["elements"]] == [85, 84.75, 79]
    assert [it["median"] for it in found["elements"]] == [88, 88, 82]
    assert [it["third_quartile"] for it in found["elements"]] == [90, 90.5, 86]
    assert [it["max"] for it in found["elements"]] == [92, 95, 88]
    assert [it["outliers"] for it in found["elements"]] == [[], [76], []]


def test_several_axes_are_superchart(server: Server) -> None:
    found = chart(server, """
fig, axs = plt.subplots(1, 2); fig.suptitle('Both')
axs[0].plot([1, 2]); axs[0].set_title('L'); axs[1].scatter([1], [2])""")
    assert (found["type"], found["title"]) == ("superchart", "Both")
    assert [it["type"] for it in found["elements"]] == ["line", "scatter"]


def test_other_artists_are_unknown(server: Server) -> None:
    found = chart(server, "fig, ax = plt.subplots(); ax.add_artist(plt.Circle((0, 0), 1)); plt.title('C')")
    assert (found["type"], found["title"], found["elements"]) == ("unknown", "C", [])


def test_empty_figure_has_no_chart(server: Server) -> None:
    [result] = server.run(f"{PLOT}plt.subplots(); plt.show()").results
    assert "chart" not in result and result["png"]
