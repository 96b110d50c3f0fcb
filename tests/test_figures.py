"""Figures are drawn from tidy tables such as the stages write, and what a reader must see is there."""

from functools import cache
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text

from know.analysis.statistics import mean_interval
from know.report import figures
from know.report.figures import drawing

RATE = 0.5
SINGLE = ("shrink_perturb", "trained_on", "more_data")  # starts of one step
PREDICTED = [m for m in figures.METHOD_STYLE if m not in figures.REFERENCES]
# True gains over naive in shares after one step, and how they grow by step; two are far off.
GAIN = {"scratch": -0.12, "more_data": 0.02, "known": 0.004, "shrunk": 0.006, "linear": -0.004, "task_vector": -0.03,
        "expo": -0.01, "tsv": -0.02, "flipped": -0.006, "wnn": -0.09}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _style():
    with mpl.rc_context({"figure.max_open_warning": 0}):
        figures.use_style()
        yield
    plt.close("all")


def starts(methods=PREDICTED, steps=3):
    keys = [("scratch", 0), ("naive", 0), ("more_data", 1)]
    return keys + [(m, s) for m in methods for s in range(1, 2 if m in SINGLE else steps + 1)]


def summary(methods=PREDICTED, labels=(20, 50), units=5, steps=3):
    """What ``report.summarise`` makes of transfer.csv; ``labels`` may hold "pooled"."""
    rng, rows = np.random.default_rng(0), []
    for i, count in enumerate(labels):
        for method, step in starts(methods, steps):
            gain = GAIN.get(method, 0.002) * max(step, 1) + rng.normal(0, 0.001) if method != "naive" else 0.0
            half = float("inf") if units < 2 else 0.0 if method == "naive" else 0.004 + 0.25 * abs(gain)
            wide = float("inf") if units < 2 else 0.024
            rows.append(
                (
                    method,
                    step,
                    (i + 1) / len(labels),
                    count,
                    0.75 + 0.05 * i + gain,
                    wide,
                    gain,
                    half,
                    0.5,
                    units,
                    3 * units,
                )
            )
    columns = [
        "method",
        "steps",
        "fraction",
        "labels",
        "mean",
        "half_width",
        "gain",
        "gain_half_width",
        "p",
        "units",
        "runs",
    ]
    return pd.DataFrame(rows, columns=columns)


def landscape_tables(methods=PREDICTED):
    rng = np.random.default_rng(1)
    side = np.linspace(-1.0, 1.0, 31)
    x, y = (a.ravel() for a in np.meshgrid(3 * side, 2 * side))
    loss = lambda x, y: 0.4 + 0.5 * (x - 1) ** 2 + 1.5 * (y - 0.3 * x) ** 2 + 0.02 * np.exp(2 * abs(y))  # noqa: E731
    k = np.arange(5)
    px, py = 1.2 - 2.6 * (1 - 0.5**k), 0.5 * np.sin(k / 1.5)
    rows = [("theta", int(i), a, b) for i, a, b in zip(k, px, py, strict=True)]
    rows.append(("more_data", 1, 1.75, -0.35))
    for method in methods:
        step = rng.normal(0, 0.16, 2) + np.array([0.12, -0.1])
        step *= 14 if method == "task_vector" else 1
        rows += [(method, s, px[0] + s * step[0], py[0] + s * step[1]) for s in range(1, 2 if method in SINGLE else 4)]
    points = pd.DataFrame(rows, columns=["method", "steps", "x", "y"])
    points["loss"] = loss(points.x, points.y)
    return (
        pd.DataFrame({"x": x, "y": y, "loss": loss(x, y)}),
        points,
        pd.DataFrame({"axis": ["x", "y"], "share": [0.81, 0.13]}),
    )


def curves(methods=("scratch", "naive", "more_data", "known", "shrunk"), sources=5, fractions=(0.4, 1.0)):
    rng, rows = np.random.default_rng(2), []
    for method in methods:
        for fraction in fractions:
            for source in range(sources):
                height, base = rng.normal(0.8, 0.01), 0.62 if method != "scratch" else 0.3
                for downstream in range(3):
                    for epoch in range(21):
                        accuracy = height - (height - base) * np.exp(-epoch / 6) + rng.normal(0, 0.004)
                        rows.append(
                            (method, int(method == "known"), fraction, 1000 * source + downstream, epoch, accuracy, 1.0)
                        )
    return pd.DataFrame(rows, columns=["method", "steps", "fraction", "seed", "epoch", "accuracy", "loss"])


def step_tables(methods=("known", "linear", "tsv"), count=3000):
    rng, frames, geometry = np.random.default_rng(3), [], []
    for kind, scale in (("conv", 0.02), ("fc", 0.006), ("bias", 0.01)):
        real = scale * rng.standard_t(3, count if kind != "bias" else 120)
        for method in methods:
            predicted = (0.15 if method == "known" else 0.4) * real + scale * rng.normal(
                0, 0.3 if method == "known" else 1, len(real)
            )
            frames.append(pd.DataFrame({"method": method, "kind": kind, "predicted": predicted, "real": real}))
            for seed in range(3):
                cosine = np.dot(predicted, real) / np.linalg.norm(predicted) / np.linalg.norm(real) + 0.01 * (seed - 1)
                geometry += [
                    (seed, method, kind, "all", len(real), cosine, 1.0),
                    (seed, method, kind, "0.weight", 9, 0.0, 1.0),
                ]
    columns = ["seed", "method", "kind", "layer", "weights", "cosine", "norm_ratio"]
    return pd.concat(frames), pd.DataFrame(geometry, columns=columns)


def ablation_table():
    rng, rows = np.random.default_rng(4), []
    values = {"history_length": (2, 3, 4, 5), "rate": (0.3, 0.5, 0.7), "source_images": (500, 1000, 2000, 4000, 8000)}
    for name, grid in values.items():
        for method in ("known", "linear"):
            rows += [(name, v, method, s, rng.normal(0.002 * s, 0.003), 0.005) for v in grid for s in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["ablation", "value", "method", "steps", "gain", "half_width"])


def response_table():
    frames = []
    for kind, size, slope in (("conv", 0.3, 0.05), ("fc", 0.15, 0.02), ("bias", 0.2, 0.03)):
        a, b = (x.ravel() for x in np.meshgrid(size * np.linspace(-1, 1, 41), slope * np.linspace(-1, 1, 41)))
        frames.append(
            pd.DataFrame({"kind": kind, "level": a, "slope": b, "residual": np.tanh(0.35 * b - 0.05 * a), "linear": b})
        )
    return pd.concat(frames)


def headroom_table(sources=5):
    rng, rows = np.random.default_rng(5), []
    for labels, top in ((20, 0.78), (50, 0.85)):
        for images in (0, 500, 1000, 2000, 4000, 8000):
            for source in range(sources):
                height = top - (0.1 if images == 0 else 0.07 * (500 / images) ** 0.7)
                rows += [
                    (images, labels / 50, 1000 * source + d, height + rng.normal(0, 0.008), labels) for d in range(3)
                ]
    return pd.DataFrame(rows, columns=["images", "fraction", "seed", "accuracy", "labels"])


def oracle_table():
    keep = [m for m, s in starts(steps=1) if m not in ("naive",)]
    return pd.DataFrame({"start": keep, "gain": [GAIN.get(m, 0.002) for m in keep], "half_width": 0.005})


def predictions_table(methods=PREDICTED, sources=5):
    rng, rows = np.random.default_rng(6), []
    for seed in range(sources):
        rows += [(seed, "naive", 0, 0.89, kind, 1.0, 0.0, np.nan) for kind in ("conv", "fc", "bias")]
        for method, step in starts(methods)[3:]:
            lost = {"known": 0.03, "linear": 0.05, "task_vector": 0.2}.get(method, 0.02) * step**1.3
            for kind, grow in (("conv", 0.01), ("fc", 0.003), ("bias", 0.05)):
                sign = 6 if method == "task_vector" else -1
                ratio = 1 + sign * grow * step * (1 + 0.1 * rng.normal()) * (1 + len(method) % 3) / 2
                rows.append((seed, method, step, max(0.89 - lost, 0.1) + rng.normal(0, 0.005), kind, ratio, 1.0, 0.1))
    columns = ["seed", "method", "step", "source_accuracy", "kind", "norm_ratio", "step_ratio", "step_cosine"]
    return pd.DataFrame(rows, columns=columns)


def forgetting_table(sources=5):
    rng, rows = np.random.default_rng(7), []
    for seed in range(sources):
        for k in range(5):
            for images, accuracy, loss in (
                ("kept", min(0.97 + 0.01 * k, 1), 0.1 / 3**k),
                ("dropped", 0.95 - 0.01 * k, 0.2 + 0.05 * k),
                ("test", 0.89 - 0.008 * k, 0.3 + 0.1 * k),
            ):
                if (images, k) != ("dropped", 0):
                    rows.append((seed, k, images, accuracy + rng.normal(0, 0.006), loss * np.exp(rng.normal(0, 0.2))))
    return pd.DataFrame(rows, columns=["seed", "k", "images", "accuracy", "loss"])


def meta_tables():
    rng, rows = np.random.default_rng(8), []
    for run in range(6):
        for kind in ("conv", "fc", "bias"):
            for name, ratio in (
                ("no change", 1),
                ("linear", 1.02),
                ("KNOWN", 0.9),
                ("scale-free KNOWN", 0.85),
                ("WNN", 0.95),
            ):
                rows.append((run, kind, name, 0.01 * ratio * (1 if ratio == 1 else np.exp(rng.normal(0, 0.12)))))
    step = np.arange(100, 3001, 100)
    learnt = [
        pd.DataFrame({"kind": kind, "step": step, "mae": 0.01 * (1 + 0.1 * np.exp(-step / 500))})
        for kind in ("conv", "fc", "bias")
    ]
    return pd.DataFrame(rows, columns=["run", "kind", "predictor", "mae"]), pd.concat(learnt)


DRAWINGS = {
    "schematic": lambda: figures.schematic(RATE, 5),
    "forgetting": lambda: figures.forgetting(forgetting_table(), RATE, 0.95),
    "meta_validation": lambda: figures.meta_validation(*meta_tables()),
    "predictions": lambda: figures.predictions(predictions_table(), RATE, 0.95),
    "landscape": lambda: figures.landscape(*landscape_tables()),
    "transfer": lambda: figures.transfer(summary(), RATE),
    "transfer_pooled": lambda: figures.transfer(summary(labels=(20, 50, "pooled")), RATE),
    "gains": lambda: figures.gains(summary(), RATE),
    "gains_pooled": lambda: figures.gains(summary(labels=(20, 50, "pooled")), RATE),
    "learning_curves": lambda: figures.learning_curves(curves(), 0.95),
    "steps": lambda: figures.steps(*step_tables()),
    "ablations": lambda: figures.ablations(ablation_table()),
    "response": lambda: figures.response(response_table()),
    "headroom": lambda: figures.headroom(headroom_table(), 2000, RATE, 0.95),
    "oracle": lambda: figures.oracle(oracle_table()),
}


@cache
def drawn(name):
    """The figure of this name and the texts that its drawing shows, with where they are."""
    figure, shown, draw = DRAWINGS[name](), [], Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda self, renderer: (shown.append(self), draw(self, renderer)))
        figure.canvas.draw()
    visible = [text for text in dict.fromkeys(shown) if text.get_visible() and text.get_text().strip()]
    return figure, [(text.get_text(), Text.get_window_extent(text)) for text in visible]


def texts(name):
    return [text for text, _ in drawn(name)[1]]


def legend_texts(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def markers(axes, colour=None, shape=None):
    """Of all drawn markers, those of a colour and a shape: (x, y) of each."""
    found = []
    for line in axes.lines:
        if line.get_marker() in ("", "None", None) or (shape and line.get_marker() not in shape):
            continue
        if (
            colour is None
            or to_hex(line.get_color()) == colour.lower()
            or to_hex(line.get_markeredgecolor()) == colour.lower()
        ):
            found += list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    return found


def finite_limits(figure):
    return all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all() for axes in figure.axes)


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_text_overlaps_another_and_the_page_is_a_page(name):
    figure, shown = drawn(name)
    assert len(shown) > 8
    for (one, a), (other, b) in combinations(shown, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 1.5, (one, other)  # pixels: a text's box is a little larger than its ink
    width, height = figure.get_size_inches()
    assert width in (3.25, 6.8, 5.2, 4.2) and height < 8.5
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 5.5
    assert finite_limits(figure)


def test_styles_tell_all_starts_apart_in_grey_and_unknown_names_get_a_lasting_one():
    styles = figures.METHOD_STYLE
    assert len({(s.colour, s.line) for s in styles.values()}) == len(styles)
    assert len({(s.line, s.marker) for s in styles.values()}) == len(styles)
    for members in figures.families(styles).values():
        assert len({styles[name].marker for name in members}) == len(members)
    assert figures.style_of("my_own") == figures.style_of("my_own") != figures.style_of("another")
    assert figures.label("my_own") == "my own" and figures.style_of("KNOWN") == styles["known"]


def test_starts_are_ordered_as_the_styles_are_with_unknown_ones_last():
    assert figures.ordered(["zeta", "linear", "alpha", "known", "known"]) == ["known", "linear", "alpha", "zeta"]
    named = figures.families(["zeta", "naive", *PREDICTED])
    assert [m for members in named.values() for m in members] == [*PREDICTED, "zeta"] and named["others"] == ["zeta"]


@given(
    st.lists(st.floats(-1e3, 1e3) | st.just(np.nan) | st.just(np.inf), max_size=6),
    st.lists(st.floats(-1e6, 1e6) | st.just(np.nan), max_size=6),
    st.floats(0, 3),
)
def test_a_window_holds_its_core_and_is_not_set_by_outliers(core, others, reach):
    low, high = drawing.window(core, others, reach, least=1.0)
    inner = [value for value in core if np.isfinite(value)] or [0.0]
    assert low < high and all(low <= value <= high for value in inner)
    assert high - low <= 1.15 * (1 + 2 * reach) * max(max(inner) - min(inner), 1.0) + 0.11 * max(map(abs, inner))


def test_a_band_is_the_interval_of_the_mean_and_nothing_for_one_seed():
    _, axes = plt.subplots()
    sample = [0.1, 0.4, 0.3]
    drawing.band(axes, [0, 1], [sample, [0.5]], 0.9)
    corners = axes.collections[0].get_paths()[0].vertices
    expected = mean_interval(np.array(sample), 0.9)
    assert np.allclose(
        sorted(set(corners[corners[:, 0] == 0, 1].round(9))), expected.mean + expected.half_width * np.array([-1, 1])
    )
    assert np.allclose(corners[corners[:, 0] == 1, 1], 0.5)


@pytest.mark.parametrize("name", ["transfer", "transfer_pooled"])
def test_transfer_shows_every_start_in_its_family_and_cuts_what_is_far_off(name):
    figure, _ = drawn(name)
    table = summary(labels=(20, 50, "pooled")[: 3 if name == "transfer_pooled" else 2])
    groups = figures.families(PREDICTED)
    panels = np.array(figure.axes).reshape(-1, len(groups))
    for line, (_, rows) in zip(panels, drawing.by_labels(table), strict=True):
        shown, cut = 0, 0
        for axes, members in zip(line, groups.values(), strict=True):
            low, high = axes.get_ylim()
            border = min([p.get_y() + p.get_height() for p in axes.patches], default=low)
            for row in rows[rows.method.isin(members)].itertuples():
                style, value = figures.style_of(row.method), 100 * row.mean
                at = [
                    y
                    for x, y in markers(axes, style.colour, style.marker)
                    if round(x) == row.steps and np.isclose(y, value)
                ]
                assert at, row
                shown += border <= value <= high
                if value < border:
                    cut += 1
                    assert f"{value:.1f}" in [text.get_text() for text in axes.texts]
            triangles = [y for _, y in markers(axes, shape="v") if low < y < border]
            assert len(triangles) == len(axes.texts)
        assert shown > 35 and cut >= 5  # WNN and task vectors; so the scale is that of the others
        assert line[0].get_ylim()[1] - line[0].get_ylim()[0] < 12
        assert line[0].get_ylim() == line[-1].get_ylim()
    assert "beyond the axis: its value" in legend_texts(figure)


def test_transfer_without_outliers_cuts_nothing_and_takes_any_selection_of_starts():
    table = summary(["known", "my_own"], labels=(20,), units=1, steps=2)
    figure = figures.transfer(table[table.method.isin(["naive", "known", "my_own"])], RATE)
    assert finite_limits(figure) and len(figure.axes) == 2 and not any(axes.texts for axes in figure.axes)
    assert {"KNOWN", "my own"} <= set(legend_texts(figure)) and "beyond the axis: its value" not in legend_texts(figure)


def test_gains_has_a_row_a_start_and_an_arrow_with_its_value_for_each_outlier():
    figure, _ = drawn("gains")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [figures.math_label(m) for m in figures.METHOD_STYLE if m != "naive"]
    table = summary()
    for axes, (_, rows) in zip(figure.axes, drawing.by_labels(table[table.method != "naive"]), strict=True):
        edge = next(p.get_x() + p.get_width() for p in axes.patches)
        far = rows[100 * rows.gain < edge]
        arrows = [x for x, _ in markers(axes, shape="<") if x < edge]
        assert set(far.method) >= {"scratch", "wnn", "task_vector"} and len(arrows) == len(far)
        assert sorted(text.get_text() for text in axes.texts) == sorted(
            f"{100 * g:+.1f}".replace("-", "−") for g in far.gain
        )
        assert len([x for x, _ in markers(axes) if x > edge]) == len(rows) - len(far)
        positions = dict(zip(names, axes.get_yticks(), strict=True))
        for row in rows[rows.method == "known"].itertuples():  # in the row of its name, in points
            assert min(abs(x - 100 * row.gain) + abs(y - positions["KNOWN"]) for x, y in markers(axes, shape="o")) < 0.4


def test_gains_of_one_seed_and_unknown_starts():
    figure = figures.gains(summary(["known", "my_own"], labels=(20,), units=1), RATE)
    assert finite_limits(figure) and len(markers(figure.axes[0])) == 1 + 1 + 3 + 3


def test_landscape_shows_the_path_the_predictions_and_what_leaves_the_grid():
    figure, shown = drawn("landscape")
    grid, points, _ = landscape_tables()
    whole, near, _ = figure.axes
    theta = points[points.method == "theta"].sort_values("steps", ascending=False)
    assert any(np.array_equal(line.get_xydata(), theta[["x", "y"]]) for line in whole.lines)
    labels = [text for text, _ in shown]
    assert all(labels.count(rf"$\Theta_{{{k}}}$") >= 1 for k in range(5)) and labels.count(r"$\Theta_{0}$") == 2
    assert whole.get_xlim() == (grid.x.min(), grid.x.max()) and near.get_xlim()[0] > whole.get_xlim()[0]
    outside = points[(points.x > grid.x.max()) | (points.y.abs() > grid.y.max())]
    assert set(outside.method) == {"task_vector"} and f"task vector ({len(outside)} beyond)" in legend_texts(figure)
    (arrow,) = [text for text in whole.texts if isinstance(text, Annotation) and text.arrow_patch]
    assert arrow.xy[0] == pytest.approx(grid.x.max()) and to_hex(arrow.arrow_patch.get_edgecolor()) == "#56b4e9"
    inside = points[~points.index.isin(outside.index) & ~points.method.isin(["theta", "naive"])]
    drawn_at = {tuple(np.round(p, 9)) for p in markers(whole)}
    assert all((round(row.x, 9), round(row.y, 9)) in drawn_at for row in inside.itertuples())
    levels = whole.collections[0].levels
    assert len(levels) >= 10 and np.allclose(np.diff(np.log(levels)), np.diff(np.log(levels))[0])
    assert "81 %" in whole.get_xlabel() and "13 %" in whole.get_ylabel()


def test_landscape_of_a_path_alone_with_losses_that_are_not_numbers():
    grid, points, share = landscape_tables([])
    grid.loc[grid.x > 2.5, "loss"] = np.nan
    figure = figures.landscape(grid, points[points.method == "theta"], share)
    figure.canvas.draw()
    assert finite_limits(figure) and legend_texts(figure) == [r"path $\Theta_k$"]


def test_learning_curves_are_means_over_source_seeds_and_scratch_does_not_set_the_scale():
    figure, _ = drawn("learning_curves")
    table = curves()
    assert [axes.get_title() for axes in figure.axes] == ["40 % of the labels", "100 % of the labels"]
    for axes, fraction in zip(figure.axes, (0.4, 1.0), strict=True):
        assert len(axes.lines) == 5 and len(axes.collections) == 5
        known = next(line for line in axes.lines if line.get_label() == "KNOWN")
        own = table[(table.method == "known") & (table.fraction == fraction)]
        assert np.allclose(known.get_ydata(), 100 * own.groupby("epoch").accuracy.mean())
        assert 40 < axes.get_ylim()[0] < 62
    named = figures.learning_curves(curves(sources=1).assign(labels=lambda t: 50 * t.fraction), 0.95)
    assert [axes.get_title() for axes in named.axes] == ["20 labels", "50 labels"] and finite_limits(named)


def test_steps_share_a_robust_scale_by_kind_and_say_the_cosine():
    figure, _ = drawn("steps")
    sample, geometry = step_tables()
    panels = np.array(figure.axes).reshape(2, 3)
    for column, kind in zip(panels.T, ("conv", "fc", "bias"), strict=True):
        limit = sample.real[(sample.kind == kind) & (sample.method == "known")].abs().quantile(0.99)
        for axes, method in zip(column, ("known", "linear"), strict=True):
            assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-limit, limit), rel=0.05)
            rows = geometry[(geometry.method == method) & (geometry.kind == kind) & (geometry.layer == "all")]
            assert axes.texts[0].get_text().startswith(f"cosine {rows.cosine.mean():.2f}")
            assert any(np.array_equal(line.get_xdata(), line.get_ydata()) for line in axes.lines)
            assert len(axes.collections) == 1


def test_ablations_is_of_known_with_a_panel_a_parameter():
    figure, _ = drawn("ablations")
    table = ablation_table()
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "history length $S$",
        "sampling rate $r$",
        "source images $|D_0|$",
    ]
    assert legend_texts(figure) == ["1 step", "2 steps", "3 steps"]
    axes = figure.axes[1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.3", "0.5", "0.7"]
    own = table[(table.ablation == "rate") & (table.method == "known") & (table.steps == 2)].sort_values("value")
    assert any(np.allclose(line.get_ydata(), 100 * own.gain) for line in axes.lines if len(line.get_ydata()) == 3)
    assert any(list(line.get_ydata()) == [0, 0] for line in axes.lines)
    words = table[table.ablation == "rate"].assign(
        ablation="predict.batchnorm", value=lambda t: t.value.map({0.3: "copy", 0.5: "reset", 0.7: "predict"})
    )
    (panel,) = figures.ablations(words).axes
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["copy", "reset", "predict"]


def test_response_has_one_diverging_scale_a_kind_and_marks_where_nothing_changes():
    figure, _ = drawn("response")
    panels = np.array(figure.axes[:6]).reshape(2, 3)
    for column, (_, rows) in zip(panels.T, response_table().groupby("kind", sort=False), strict=True):
        limits = {axes.collections[0].get_clim() for axes in column}
        assert len(limits) == 1 and sum(limits.pop()) == 0
        known, linear = (axes.collections[0].get_array().ravel() for axes in column)
        assert np.allclose(np.sort(known), np.sort(rows.residual)) and np.allclose(np.sort(linear), np.sort(rows.slope))
        zero = column[0].collections[1].get_paths()[0].vertices
        assert np.allclose(0.35 * zero[:, 1], 0.05 * zero[:, 0], atol=1e-3)


def test_headroom_marks_both_sizes_and_scratch():
    figure, _ = drawn("headroom")
    (axes,) = figure.axes
    vertical = sorted(
        line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    )
    assert vertical == [2000, 4000] and {"$|D_0|$", "$|D_{-1}|$"} <= set(texts("headroom"))
    table = headroom_table()
    dotted = sorted(line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata()))
    assert np.allclose(dotted, sorted(100 * table[table.images == 0].groupby("labels").accuracy.mean()))
    curve = next(line for line in axes.lines if line.get_label() == "20 labels")
    own = table[(table["labels"] == 20) & (table.images > 0)]
    assert np.allclose(curve.get_ydata(), 100 * own.groupby("images").accuracy.mean())


def test_oracle_draws_each_start_beside_the_real_one():
    figure, _ = drawn("oracle")
    (axes,) = figure.axes
    table = oracle_table().set_index("start")
    for method in ("known", "shrunk", "more_data"):
        style = figures.style_of(method)
        assert any(np.isclose(x, 100 * table.gain[method]) for x, _ in markers(axes, style.colour, style.marker))
    assert any(
        np.allclose(line.get_xdata(), 100 * table.gain["more_data"]) and line.get_linestyle() == "--"
        for line in axes.lines
    )
    single = figures.oracle(oracle_table().assign(half_width=np.inf, start=lambda t: t.start.map(figures.label)))
    assert finite_limits(single)


def test_meta_validation_shows_every_predictor_that_was_measured():
    figure, _ = drawn("meta_validation")
    assert {"KNOWN", "scale-free KNOWN", "WNN", "linear"} <= set(legend_texts(figure))
    errors, learnt = meta_tables()
    without = figures.meta_validation(errors[~errors.predictor.isin(["WNN", "scale-free KNOWN"])], learnt)
    assert {"WNN", "scale-free KNOWN"}.isdisjoint(legend_texts(without)) and finite_limits(without)


def test_predictions_norms_start_at_one_and_far_ones_are_cut():
    figure, _ = drawn("predictions")
    conv = figure.axes[0]
    assert all(line.get_ydata()[0] == 1 for line in conv.lines if len(line.get_ydata()) == 4)
    assert (
        len(conv.texts)
        == len(markers(conv, shape="^"))
        - sum(len(line.get_ydata()) for line in conv.lines if line.get_marker() == "^" and len(line.get_ydata()) > 1)
        > 0
    )


def test_accuracy_while_forgetting_does_not_exceed_a_hundred_percent():
    figure, _ = drawn("forgetting")
    assert figure.axes[0].get_ylim()[1] <= 100.5


def test_without_a_plane_the_landscape_says_so():
    nothing = [
        pd.DataFrame(columns=names) for names in (("x", "y", "loss"), ("method", "steps", "x", "y"), ("axis", "share"))
    ]
    (text,) = figures.landscape(*nothing).texts
    assert "spans no plane" in text.get_text()
