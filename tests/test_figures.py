"""Every registered figure is drawn from tables of known truth, shows their means and intervals, and can be read."""

from collections import Counter
from functools import cache
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.patches import Circle
from matplotlib.text import Text
from synthetic import HEADROOM, ROLES, TRUTH, ablations, every_table, forgotten, headroom, transfer

from know import figures
from know.analysis.starts import NAIVE, NAMES, label
from know.analysis.statistics import mean_interval
from know.analysis.units import difference, with_all_labels
from know.analysis.units import runs as of_runs
from know.data.images import ImageSet
from know.figures import style
from know.figures.registry import FIGURES
from know.figures.style import LEFT_OUT
from know.params import load
from know.report.results import Results

PARAMS = load()
SIZE = PARAMS.downsize.source_images
FAR = {("scratch", 0): -0.3, ("task_vector", 3): -0.4}  # beyond any axis that follows the others


@pytest.fixture(scope="module", autouse=True)
def _style():
    with mpl.rc_context({"figure.max_open_warning": 0}):
        figures.use_style()
        yield
    plt.close("all")


def tables():
    """Every table that a figure needs, with starts and sizes as in the default experiment."""
    sizes = {n * SIZE // 1000: gain for n, gain in HEADROOM.items()}
    subsets = [(s, f"D_{k}", c, SIZE // 2**k) for s in (0, 1) for k in range(5) for c in "ab"]
    found = every_table() | {
        "transfer": transfer(TRUTH | FAR | {("expo", 1): 0.0}, noise=0.01),
        "headroom": headroom(sizes, noise=0.01),
        "forgotten": forgotten(noise=0.01),
        "ablations": ablations(),
        "downsize": pd.DataFrame(subsets, columns=["source_seed", "subset", "class", "images"]),
    }
    points = found["landscape_points"]
    more = [("linear", s, 0.1, 0.2 * s, 1.0, 0.5) for s in (1, 2, 3)] + [("shrink", 1, 0.3, -0.1, 1.0, 0.97)]
    more += [("task_vector", 1, 9.0, 9.0, 1.0, 0.1), ("more_data", 1, 0.2, -0.2, 1.0, 0.99)]
    found["landscape_points"] = pd.concat([points, pd.DataFrame(more, columns=points.columns)])
    real = pd.DataFrame([(s, -1, "test", 1.0, 0.93) for s in range(5)], columns=found["forgetting"].columns)
    dropped = found["forgetting"].query("images == 'kept' and k > 0").assign(images="dropped")
    found["forgetting"] = pd.concat([found["forgetting"], dropped, real])
    naive = found["predictions"].query("method == 'naive'")
    found["predictions"] = pd.concat([found["predictions"], naive.assign(method="flipped", steps=1)])
    return found


def results(**changed):
    return Results(PARAMS, tables() | changed)


@cache
def drawn(name):
    """The figure of this name and every text that its drawing shows, with where it is in pixels."""
    figure, shown, draw = results().figure(name), [], Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda self, renderer: (shown.append(self), draw(self, renderer)))
        figure.canvas.draw()
    visible = [text for text in dict.fromkeys(shown) if text.get_visible() and text.get_text().strip()]
    return figure, [(text.get_text(), Text.get_window_extent(text)) for text in visible]


def texts(name):
    return [text for text, _ in drawn(name)[1]]


def legend(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for one in legends for text in one.get_texts()]


def marks(axes):
    """x, y, colour and shape of each marker that is drawn."""
    lines = [line for line in axes.lines if line.get_marker() not in ("", "None", None)]
    return [
        (x, y, to_hex(line.get_color()).upper(), line.get_marker(), to_hex(line.get_markerfacecolor()))
        for line in lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def spans(axes):
    """The ends along x of every error bar and line across, with its y."""
    two = [np.asarray(line.get_xydata(), float) for line in axes.lines if len(line.get_xdata()) == 2]
    return [(ends[:, 0].min(), ends[:, 0].max(), ends[0, 1]) for ends in two if ends[0, 1] == ends[1, 1]]


# --- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_read_at_its_width(name):
    figure, shown = drawn(name)
    assert len(shown) > 8
    for (one, a), (other, b) in combinations(shown, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 1.5, (one, other)  # pixels: a text's box is a little larger than its ink
    width, height = figure.get_size_inches()
    assert width in (style.COLUMN, style.PAGE) and height < 5
    for text, box in shown:
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < figure.bbox.x1 + 2 and box.y1 < figure.bbox.y1 + 2, text
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 7
    assert all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all() for axes in figure.axes)
    assert FIGURES[name].caption.endswith(".")


@pytest.mark.parametrize("name", [name for name, entry in FIGURES.items() if entry.needs])
def test_a_figure_without_a_table_that_it_needs_is_left_out(name):
    for lacking in FIGURES[name].needs:
        have = {table: rows for table, rows in tables().items() if table != lacking}
        assert Results(PARAMS, have).figure(name) is None
        assert Results(PARAMS, have | {lacking: tables()[lacking].iloc[:0]}).figure(name) is None


@pytest.mark.parametrize("name", ["gains", "headroom", "oracle", "forgetting", "predictions", "learning_curves"])
def test_a_figure_of_a_single_source_seed_has_no_intervals_and_does_not_fail(name):
    one = {table: rows[rows.source_seed == 0] if "source_seed" in rows else rows for table, rows in tables().items()}
    figure = Results(PARAMS, one).figure(name)
    figure.canvas.draw()
    assert all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all() for axes in figure.axes)


def test_a_saved_figure_has_the_same_bytes_every_time(tmp_path):
    for folder in ("one", "two"):
        for name in ("gains", "meta_validation", "steps"):
            figures.save(results().figure(name), tmp_path / folder, name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# --- looks and statistics ---------------------------------------------------------------------------------------


def test_looks_tell_starts_apart_in_grey_and_unknown_names_get_a_lasting_one():
    drawn_names = [name for name in NAMES if not name.endswith("_tuned")]  # tuned starts are in no figure of starts
    assert set(style.LOOKS) == set(drawn_names)
    shown = [style.LOOKS[name] for name in drawn_names if name not in LEFT_OUT]
    assert len({(look.line, look.marker) for look in shown}) == len(shown)
    assert len({(look.colour, look.line) for look in style.LOOKS.values()}) == len(drawn_names)
    assert style.look_of("my_own") == style.look_of("my_own") != style.look_of("another")


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.sampled_from([0.5, 0.9, 0.95]))
def test_an_error_bar_is_the_interval_of_the_mean(values, confidence):
    expected = mean_interval(np.array(values), confidence)
    low, high = style.interval(confidence)(pd.Series(values))
    assert (low + high) / 2 == pytest.approx(expected.mean) and (high - low) / 2 == pytest.approx(expected.half_width)


def test_gains_are_the_paired_differences_of_the_comparisons_whatever_the_order_of_the_rows():
    table = transfer(noise=0.02).sample(frac=1, random_state=0)
    full = with_all_labels(table)
    found = style.gains(full, full.method == "naive", ["method", "steps"]).set_index(["method", "steps"])
    wide = of_runs(table)
    for start in wide.index:
        own = found.loc[(start.name, start.step)].set_index("source_seed").gain
        assert own.to_numpy() == pytest.approx(100 * difference(wide, start, NAIVE).loc[own.index].to_numpy())


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4), st.floats(-100, 100))
def test_a_window_holds_its_core_and_is_not_set_by_what_is_far_off(values, other):
    rows = [("core", 1, value, seed) for seed, value in enumerate(values)] + [("other", 1, other, 0)]
    table = pd.DataFrame(rows, columns=["method", "steps", "value", "source_seed"])
    low, high = style.window(table, ["core"], 0.95, also=(3.0,))
    inner = [0.0, 3.0, np.mean(values)]
    if len(values) > 1:
        inner += style.interval(0.95)(values)
    assert low < min(inner) and high > max(inner)
    assert high - low <= 1.1 * 3 * (max(inner) - min(inner)) + 1e-9
    if min(inner) <= other <= max(inner):
        assert low < other < high


# --- one by one -------------------------------------------------------------------------------------------------


def test_gains_has_a_row_a_start_in_order_with_every_step_at_its_mean_and_interval():
    figure, _ = drawn("gains")
    (axes,) = figure.axes
    named = {name for pair in PARAMS.report.contrasts for name in pair}  # of the controls, those that a contrast names
    made = {m for m, _ in TRUTH if ROLES.get(m) != "control" or m in named} - {"naive"}
    names = [name for name in [*NAMES, "my_own"] if name in made]
    assert "shrink" not in names and "shrunk" in names
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [style.math(label(name)) for name in names]
    comparisons, found = results().comparisons, marks(axes)
    (inner,) = [p.get_x() for p in axes.patches if np.isclose(p.get_x() + p.get_width(), axes.get_xlim()[0])]
    beyond: set[tuple[str, int]] = set()
    for start in comparisons.starts:
        if start.name not in names:
            continue
        gain, look = comparisons.of(start, NAIVE).gain, style.look_of(start.name)
        own = [m for m in found if m[2:4] == (look.colour, look.marker) and np.isclose(m[0], 100 * gain.mean)]
        if 100 * gain.mean < inner:
            assert not own
            beyond.add((start.name, start.step))
            continue
        ((_, y, _, _, face),) = own
        assert round(y) == names.index(start.name)
        assert (face == "#ffffff") == (start != comparisons.chosen[start.name])  # filled: chosen
        ends = [(a, b) for a, b, at in spans(axes) if np.isclose(at, y)]
        half = 100 * gain.half_width
        assert any(np.allclose(pair, (100 * gain.mean - half, 100 * gain.mean + half)) for pair in ends)
    by_row = {
        name: [y for _, y, *_ in sorted(found, key=lambda m: m[1]) if round(y) == i] for i, name in enumerate(names)
    }
    shown = Counter(name for name, step in TRUTH if (name, step) not in beyond)
    assert {name: len(rows) for name, rows in by_row.items()} == {name: shown[name] for name in names} and set(
        FAR
    ) <= beyond


def test_gains_writes_what_is_beyond_the_axis_and_what_was_chosen():
    shown, comparisons = texts("gains"), results().comparisons
    assert any(text.strip().startswith("← −") for text in shown)
    for start in comparisons.chosen.values():
        if start.name not in {*LEFT_OUT, "shrink", "trained_on"}:
            gain = comparisons.of(start, NAIVE).gain
            number = style.signed(100 * gain.mean, 100 * gain.half_width)
            assert f"{start.data(PARAMS.rate)}:  {number}".removeprefix(":  ") in shown


def test_gains_shades_the_papers_effect_from_the_margin_to_twice_it():
    (axes,) = drawn("gains")[0].axes
    error = 100 * (1 - results().comparisons.accuracy(NAIVE).mean)
    (band,) = [patch for patch in axes.patches if patch.get_label().startswith("paper's effect")]
    ends = (band.get_x(), band.get_x() + band.get_width())
    assert ends == pytest.approx((PARAMS.report.margin * error, 2 * PARAMS.report.margin * error))


def test_gains_shows_a_start_of_ones_own_but_not_those_left_out():
    labels = [tick.get_text() for tick in drawn("gains")[0].axes[0].get_yticklabels()]
    assert "my own" in labels and "ExPO" not in labels and "ExPO" in {label(m) for m in tables()["transfer"].method}


def test_headroom_is_the_paired_gain_and_marks_both_sizes():
    (axes,) = drawn("headroom")[0].axes
    table = tables()["headroom"]
    vertical = {x[0] for line in axes.lines if len(set(x := line.get_xdata())) == 1 and len(x) == 2}
    assert {SIZE, round(SIZE / PARAMS.rate)} <= vertical and {"$|D_0|$", "$|D_{-1}|$"} <= set(texts("headroom"))
    curves = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 4]
    for count in (20, 50):
        own = table[(table["labels"] == count) & (table.images > 0)].groupby("images").accuracy.mean()
        assert any(np.allclose(curve[:, 1], 100 * (own - own[SIZE])) for curve in curves)
    scratch = mean_interval(100 * difference(of_runs(table, ["images"]), 0, SIZE))
    assert f"from scratch: {style.signed(scratch.mean, scratch.half_width)}" in texts("headroom")


def test_schematic_areas_are_powers_of_r():
    discs = [patch for patch in drawn("schematic")[0].axes[0].patches if isinstance(patch, Circle)]
    areas = np.array([disc.radius**2 for disc in discs])
    assert areas / areas[0] == pytest.approx(PARAMS.rate ** np.arange(PARAMS.history_length))


def test_forgetting_shows_each_part_of_the_path_the_real_next_point_and_what_it_costs_downstream():
    left, right = drawn("forgetting")[0].axes
    table, cost = tables()["forgetting"], tables()["forgotten"].query("fraction == 1")
    for images in ("test", "kept", "dropped"):
        own = table[(table.images == images) & (table.k >= 0)].groupby("k").accuracy.mean()
        assert any(
            len(line.get_xdata()) == len(own) and np.allclose(line.get_ydata()[::-1], 100 * own) for line in left.lines
        )
    assert [m[:2] for m in marks(left) if m[3] == "*"] == [(1, pytest.approx(93))]
    means = cost.groupby("k").accuracy.mean()
    assert any(
        np.allclose(line.get_ydata()[::-1], 100 * (means - means[0]))
        for line in right.lines
        if len(line.get_xdata()) == 5
    )
    real = tables()["transfer"].query("fraction == 1").groupby("method").accuracy.mean()
    ((x, y, *_),) = [m for m in marks(right) if m[3] == "*"]
    assert (x, y) == (1, pytest.approx(100 * (real.more_data - real.naive)))
    assert "won back" not in right.get_title()


def test_forgetting_says_where_nothing_is_lost_and_does_without_the_second_panel():
    nothing = results(forgotten=forgotten(loss=0.0, noise=0.01)).figure("forgetting")
    assert "no clear loss" in nothing.axes[1].get_title()
    lone = Results(PARAMS, {"forgetting": tables()["forgetting"]}).figure("forgetting")
    assert len(lone.axes) == 1 and lone.get_figwidth() == style.COLUMN


def test_landscape_has_five_series_with_their_share_off_the_plane():
    figure, _ = drawn("landscape")
    found = dict(text.split("\n") for text in legend(figure))
    assert list(found.values()) == [f"{share} % off the plane" for share in (50, 99, 30, 50, 97)]
    assert list(found)[1:] == [style.math(label(name)) for name in ("more_data", "known", "linear", "shrink")]
    axes, points = figure.axes[0], tables()["landscape_points"]
    theta = points[points.method == "theta"].sort_values("steps", ascending=False)
    assert any(np.array_equal(line.get_xydata(), theta[["x", "y"]]) for line in axes.lines)
    assert (
        axes.get_xlim()[1] < 2 and texts("landscape").count(r"$\Theta_{0}$") == 1
    )  # the far one does not set the scale
    shrunk = points.replace({"method": {"shrink": "shrunk"}})
    assert style.math(label("shrunk")) in " ".join(legend(results(landscape_points=shrunk).figure("landscape")))


def test_predictions_are_changes_from_theta_0():
    figure, _ = drawn("predictions")
    panels = dict(zip(("conv", "fc", "bias", "accuracy"), figure.axes, strict=True))
    table = results().tables["predictions"]
    changed = table.assign(norm_ratio=1.1, source_accuracy=table.source_accuracy + 0.01 * table.steps)
    moved = results(predictions=changed).figure("predictions")
    for axes in moved.axes[:3]:
        assert all(x == pytest.approx(10) for x, *_ in marks(axes))
    assert {round(x, 6) for x, *_ in marks(moved.axes[3])} == {1, 2, 3}
    assert len({axes.get_xlim() for axes in panels.values()}) == 1
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "my own" in labels and label("flipped") not in labels and style.math(label("naive")) not in labels


def test_learning_curves_are_differences_to_naive_at_the_same_epoch():
    table = tables()["learning_curves"]
    higher = table.assign(accuracy=table.accuracy + 0.01 * (table.method == "known") * table.epoch)
    figure = results(learning_curves=higher).figure("learning_curves")
    assert [axes.get_title() for axes in figure.axes] == ["20 labels", "50 labels"] and legend(figure) == ["KNOWN"]
    for axes in figure.axes:
        (known,) = [line for line in axes.lines if len(line.get_xdata()) == 4]
        assert np.allclose(known.get_ydata(), [0, 1, 2, 3])


def test_oracle_draws_each_start_over_its_own_theta_0_beside_the_real_one():
    (axes,) = drawn("oracle")[0].axes
    gain = {start.name: results().oracle.of(start, NAIVE).gain for start in results().oracle.starts if start != NAIVE}
    names = [name for name in NAMES if name in gain]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [style.math(label(name)) for name in names]
    found = {style.look_of(name)[::2]: gain[name].mean for name in names}
    for x, _, colour, marker, _ in marks(axes):
        assert x == pytest.approx(100 * found[colour, marker])
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert np.allclose(dashed.get_xdata(), 100 * gain["more_data"].mean)


def test_ablations_are_points_with_the_sweeps_own_intervals_and_no_lines():
    figure, _ = drawn("ablations")
    panels = {axes.get_xlabel(): axes for axes in figure.axes}
    assert list(panels)[:3] == ["history length $S$", "sampling rate $r$", "source images $|D_0|$"]
    assert legend(figure) == ["1 step", "2 steps"]
    rate = panels["sampling rate $r$"]
    assert [tick.get_text() for tick in rate.get_xticklabels()] == ["0.33", "0.5", "0.7"]
    assert Counter(round(y, 6) for _, y, *_ in marks(rate)) == {1: 2, 2: 2, -1: 1, -2: 1}
    assert all(line.get_linestyle() == "None" for line in rate.lines if line.get_marker() != "None")
    bars = [segment for one in rate.collections for segment in one.get_segments()]
    assert {round(float(np.ptp(bar[:, 1])), 6) for bar in bars} == {0.4} and len(bars) == 6
    values = [tick.get_text() for tick in panels["source images $|D_0|$"].get_xticklabels()]
    assert values == ["1000", "2000"]  # numbers as numbers


def test_steps_share_a_robust_scale_by_kind_and_say_the_cosine():
    figure, _ = drawn("steps")
    sample, geometry = tables()["steps"], tables()["geometry"]
    panels = np.array(figure.axes).reshape(2, 3)
    for column, kind in zip(panels.T, ("conv", "fc", "bias"), strict=True):
        limit = sample.real[sample.kind == kind].abs().quantile(0.99)
        for axes, method in zip(column, ("known", "linear"), strict=True):
            assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-limit, limit))
            rows = geometry[(geometry.method == method) & (geometry.kind == kind) & (geometry.layer == "all")]
            cosine = f"cosine {rows.cosine.mean():.2f}" if len(rows) else ""
            assert axes.texts[0].get_text().startswith(cosine)
            inside = (sample[["real", "predicted"]].abs() <= limit).all(axis=1)
            own = sample[inside & (sample.kind == kind) & (sample.method == method)]
            assert np.nansum(axes.collections[0].get_array()) == len(own)


def test_response_marks_where_known_adds_nothing_and_where_it_is_linear():
    axes = drawn("response")[0].axes[0]
    rows = tables()["response"].query("kind == 'conv'")  # adds -0.1 level + slope
    mesh, nothing = axes.collections[:2]
    assert sum(mesh.get_clim()) == 0 and np.allclose(np.sort(mesh.get_array().ravel()), np.sort(rows.residual))
    zero = nothing.get_paths()[0].vertices
    assert np.allclose(zero[:, 1], 0.1 * zero[:, 0])
    assert np.allclose(axes.collections[2].get_paths()[0].vertices[:, 0], 0)


def test_meta_validation_shows_every_predictor_at_its_median():
    figure, _ = drawn("meta_validation")
    assert legend(figure)[:3] == ["KNOWN", "scale-free KNOWN", "linear"]
    medians = [(y, marker) for _, y, _, marker, _ in marks(figure.axes[0]) if marker in "oD^"]
    for value, marker in ((0.8, "o"), (0.9, "D"), (1.1, "^")):
        assert [y for y, shape in medians if shape == marker][:3] == pytest.approx([value] * 3)


def test_learning_rings_the_kept_epoch_of_each_seed():
    (axes,) = drawn("learning")[0].axes
    (rings,) = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert np.allclose(rings.get_xdata(), 3) and np.allclose(rings.get_ydata(), 1 / 3) and len(rings.get_xdata()) == 5


def test_downsizing_writes_the_size_of_each_subset():
    totals = [2 * (SIZE // 2**k) for k in range(5)]
    assert [text.strip() for text in texts("downsizing") if text.startswith(" ")] == [str(total) for total in totals]


def test_samples_are_images_of_each_class():
    task = ImageSet(torch.zeros(12, 1, 8, 8, dtype=torch.uint8), torch.arange(12) % 3, ("a", "b", "c"))
    figure = figures.samples(task, task, count=2)
    assert figure.axes[0].images[0].get_array().shape == (24, 16)
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ["a", "b", "c"]


def test_a_task_of_many_classes_shows_the_first_and_no_legend():
    many = ImageSet(torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.arange(60) % 30, tuple(map(str, range(30))))
    assert figures.samples(many, many, count=2).axes[0].images[0].get_array().shape == (12 * 8, 16)
    rows = [(0, f"D_{k}", str(c), 64 >> k) for k in range(5) for c in range(30)]
    table = pd.DataFrame(rows, columns=["source_seed", "subset", "class", "images"])
    (axes,) = Results(load(), {"downsize": table}).figure("downsizing").axes
    assert axes.get_legend() is None and max(patch.get_width() for patch in axes.patches) == 30 * 64


@pytest.mark.parametrize("mode", ["sequential", "restart"])
def test_the_schematic_shows_the_way_of_forgetting(mode):
    params = load()
    forget = params.forget.model_copy(update={"mode": mode})
    (axes,) = Results(params.model_copy(update={"forget": forget}), {}).figure("schematic").axes
    said = " ".join(text.get_text() for text in axes.texts)
    assert ("from the initial weights" in said) == (mode == "restart")
    assert sum(text.get_text() == "$D_{0}$" for text in axes.texts) == (mode == "restart")  # Θ_0 has one of its own


def test_an_interval_that_the_limits_cut_has_an_arrow():
    figure, axes = plt.subplots()
    values = pd.DataFrame({"method": "linear", "steps": 1, "value": [-5.0, 0.0, 1.0], "chosen": True})
    style.forest(axes, values, 0.95, (-3.0, 20.0))
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "<"] == [-3.0]
    assert not [line for line in axes.lines if line.get_marker() == ">"]
    plt.close(figure)
