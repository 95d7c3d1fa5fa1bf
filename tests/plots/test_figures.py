"""Every kind of figure shows what it was given, and is written as it should be."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronsteer import plots
from neuronsteer.errors import MissingExtraError, ParameterError
from neuronsteer.plots.frontiers import unbeaten
from neuronsteer.plots.style import SEQUENTIAL, series

mpl = pytest.importorskip("matplotlib")

LAYERS = 32
LABELS = ("en", "de", "fr", "es", "zh", "ja", "ru", "ar")


def texts(figure):
    """Return every visible text of a figure, after drawing it."""
    from matplotlib.text import Text

    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def profiles(labels=LABELS, layers=LAYERS):
    rng = np.random.default_rng(0)
    return {label: rng.integers(0, 400, layers).tolist() for label in labels}


def examples():
    table = np.arange(64).reshape(8, 8) / 64
    yield "heatmap", plots.heatmap(table, LABELS, LABELS, title="T", value_name="V")
    yield "overlap", plots.overlap(table, LABELS, title="T", value_name="V")
    for kind in ("lines", "panels", "stack", "heatmap"):
        yield kind, plots.layer_profile(profiles(), kind=kind, title="T", value_name="V")
    shares = {label: profiles(LABELS) for label in LABELS}
    yield "shares", plots.shares(shares, title="T", value_name="V")
    bars = {a: dict.fromkeys(LABELS, 2.0) for a in ("one", "two")}
    yield "bars", plots.bars(bars, title="T", value_name="V")
    points = [{"method": label, "success": i, "fluency": -i} for i, label in enumerate(LABELS)]
    yield "frontier", plots.frontier(points, title="T", y_name="V")


@pytest.mark.parametrize(("name", "figure"), examples(), ids=lambda each: str(each)[:12])
def test_names_title_and_values_are_there_and_both_files_are_written(name, figure, tmp_path):
    said = texts(figure)
    for label in LABELS:
        assert any(label == text.split(" ·")[0] for text in said), (name, label, said)
    assert "T" in said
    assert any(text == "V" or text.startswith("V (") for text in said)
    png, svg = plots.save(figure, tmp_path / "deep" / "plot.v1")
    assert png.name == "plot.v1.png" and png.read_bytes().startswith(b"\x89PNG")
    assert svg.name == "plot.v1.svg" and "</svg>" in svg.read_text()
    assert sorted(p.name for p in png.parent.iterdir()) == ["plot.v1.png", "plot.v1.svg"]


def test_the_same_numbers_give_the_same_bytes():
    first, second = (plots.layer_profile(profiles(LABELS[:4]), title="T") for _ in range(2))
    assert plots.png(first) == plots.png(second)
    assert plots.svg(first) == plots.svg(second)
    assert plots.svg(first).startswith("<svg")


def test_one_ending_is_one_file_and_others_are_refused(tmp_path):
    figure = plots.bars({"a": 1})
    assert plots.save(figure, tmp_path / "x.SVG") == [tmp_path / "x.SVG"]
    assert plots.save(figure, tmp_path / "y", formats=("pdf",)) == [tmp_path / "y.pdf"]
    with pytest.raises(ParameterError, match="'gif'"):
        plots.save(figure, tmp_path / "z", formats=("gif",))


def test_heatmap_writes_numbers_and_crosses_out_what_is_none():
    figure = plots.heatmap([[0.5, None], [-2.25, 0.0]], ["r1", "r2"], ["c1", "c2"], center=0)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == ["0.50", "\u22122.25", "0.00"]
    hatched = {
        (round(p.get_x() + 0.5), round(p.get_y() + 0.5)): p.get_hatch() for p in axes.patches
    }
    assert hatched == {(1, 0): "xx", (0, 1): "///"}
    # The middle of the colours is the middle of the values.
    assert axes.images[0].norm.vmin == -2.25 and axes.images[0].norm.vmax == 2.25


def test_a_big_heatmap_leaves_out_numbers_and_a_flat_one_still_draws():
    big = plots.heatmap(np.ones((20, 200)), range(20), range(200))
    assert not big.axes[0].texts and len(big.axes[0].get_xticklabels()) <= 40
    assert plots.png(plots.heatmap([[None]], ["a"], ["b"]))
    assert plots.png(plots.heatmap([[-1.0]], ["a"], ["b"]))


def test_overlap_puts_groups_together_and_leaves_the_diagonal_out():
    table = [[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]]
    figure = plots.overlap(table, ["fr", "ja", "es"], groups={"fr": "rom", "es": "rom"})
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["fr · rom", "es · rom", "ja"]
    shown = axes.images[0].get_array()
    assert shown.mask.diagonal().all() and shown.max() == 0.3
    assert shown[0, 1] == 0.2 and shown[0, 2] == 0.1


def test_bars_have_the_heights_gaps_and_whiskers_that_were_given():
    figure = plots.bars(
        {"s": {"a": 3.0, "b": None}, "t": {"a": 1.0}},
        intervals={"s": {"a": (2.0, 5.0)}},
        baseline=0.5,
        baseline_name="floor",
    )
    axes = figure.axes[0]
    assert [p.get_height() for p in axes.patches] == [3.0, 0.0, 1.0, 0.0]
    (whisker,) = [s for c in axes.containers if hasattr(c, "lines") for s in c.lines[2]]
    assert whisker.get_segments()[0][:, 1].tolist() == [2.0, 5.0]
    said = texts(figure)
    assert "–" in said and "floor" in said
    with pytest.raises(ParameterError, match="empty"):
        plots.bars({})


def test_sharing_fills_gaps_and_turns_logarithmic_when_it_must():
    figure = plots.sharing({1: 2396, 4: 5})
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3", "4"]
    assert [p.get_height() for p in axes.patches] == [2396, 0, 0, 5]
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 5
    assert plots.sharing({1: 20, 2: 5}).axes[0].get_yscale() == "linear"
    two = plots.sharing({"before": {1: 3}, "after": {2: 4}})
    assert {"before", "after"} <= set(texts(two))


def test_layer_profile_chooses_what_stays_readable():
    lines = plots.layer_profile(profiles(LABELS[:3]))
    assert len(lines.axes[0].lines) == 3
    panels = plots.layer_profile(profiles())
    assert len(panels.axes) == 8
    heat = plots.layer_profile(profiles([f"l{i}" for i in range(30)]))
    assert heat.axes[0].images[0].get_array().shape == (30, LAYERS)
    stack = plots.layer_profile({"a": [1, 2], "b": [3, None]}, kind="stack")
    heights = [patch.get_data() for patch in stack.axes[0].patches]
    assert [(each.baseline.tolist(), each.values.tolist()) for each in heights] == [
        ([0, 0], [1, 2]),
        ([1, 2], [4, 2]),
    ]
    marked = plots.layer_profile(
        {"a": [1, 2, 3]}, kind="lines", spans=[(0, 1, "in"), (2, 2, "out")]
    )
    assert {"in", "out"} <= set(texts(marked))
    with pytest.raises(ParameterError, match="a: 1, b: 2"):
        plots.layer_profile({"a": [1], "b": [1, 2]})
    with pytest.raises(ParameterError, match="pie"):
        plots.layer_profile({"a": [1]}, kind="pie")


def test_shares_want_the_same_parts_everywhere():
    with pytest.raises(ParameterError, match="same parts"):
        plots.shares({"a": {"x": [1]}, "b": {"y": [1]}})
    gray = plots.shares({"a": {"x": [0.25], "rest": [0.75]}}, pale="rest")
    x, rest = gray.axes[0].patches
    assert x.get_data().values == [0.25] and rest.get_data().baseline == [0.25]
    assert len(set(rest.get_facecolor()[:3])) == 1  # gray


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_frontier_is_what_nothing_beats(points):
    found = set(unbeaten(points, ("higher", "lower")))
    for i, (x, y) in enumerate(points):
        beaten = any(
            a >= x and b <= y and (a > x or b < y) for j, (a, b) in enumerate(points) if j != i
        )
        assert (i in found) == (not beaten)


def test_frontier_fills_the_unbeaten_and_says_what_is_wrong():
    points = [
        {"method": "a", "success": 1.0, "fluency": 0.0, "rate": "low"},
        {"method": "a", "success": 0.5, "fluency": None, "rate": "none"},
        {"method": "b", "success": 0.4, "fluency": -1.0, "rate": "high"},
    ]
    figure = plots.frontier(points, name="rate")
    filled = [c.get_facecolors()[:, :3].tolist() for c in figure.axes[0].collections]
    assert filled[0] != [[1, 1, 1]] and filled[1] == [[1, 1, 1]]
    assert {"low", "high"} <= set(texts(figure)) and "none" not in texts(figure)
    with pytest.raises(ParameterError, match="'sucess'.*Did you mean 'success'"):
        plots.frontier(points, x="sucess")
    with pytest.raises(ParameterError, match="no point"):
        plots.frontier([])
    with pytest.raises(ParameterError, match="higher"):
        plots.frontier(points, better=("more", "less"))


def test_names_must_fit_the_table():
    with pytest.raises(ParameterError, match=r"\(1, 2\).*3 rows and 2 columns"):
        plots.heatmap([[1, 2]], ["a", "b", "c"], ["x", "y"])
    with pytest.raises(ParameterError, match="not a table"):
        plots.heatmap([["a"]], ["x"], ["y"])


def gray(colour):
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_grayscale_print_can_be_read():
    looks = [series(i) for i in range(24)]
    first = looks[:8]
    for part in ("colour", "marker", "hatch"):
        assert len({getattr(look, part) for look in first}) == 8
    assert len({str(look.dash) for look in first}) == 8
    assert len({(look.colour, look.hatch) for look in looks}) == 24
    # Neighbours in a legend differ in lightness as well.
    assert all(abs(gray(a.colour) - gray(b.colour)) > 0.04 for a, b in pairwise(first))
    steps = [gray(mpl.colormaps[SEQUENTIAL](x)) for x in np.linspace(0, 1, 64)]
    assert all(a > b for a, b in pairwise(steps))


def test_drawing_leaves_no_trace_in_the_process():
    code = """if True:
        import sys, neuronsteer.plots as p
        assert 'matplotlib' not in sys.modules
        import matplotlib
        # Asking for the backend would choose one, and import pyplot.
        now = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}
        before = now()
        p.png(p.bars({'a': 1}, title='x'))
        assert 'matplotlib.pyplot' not in sys.modules
        assert now() == before
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"neuronsteer\[plots\]"):
        plots.bars({"a": 1})
