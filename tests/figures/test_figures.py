"""Figures: each shows the values it is given, a method has one colour everywhere, equal data give equal bytes."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from pacl.figures import analyses, charts
from pacl.figures.charts import COLOURS, NAMES
from pacl.figures.scenes import heat_maps, inmost, overlays, palette, segmentation_grid, wrapped

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(3)]
LABELS = [RNG.integers(0, 3, (12, 16)) for _ in range(3)]
CLASSES = ["cat", "dog", "sea"]
METHODS = ["CLIP", "PACL"]


@pytest.fixture(autouse=True)
def style():
    charts.use_style()
    plt.rcParams["figure.dpi"] = 50  # quicker
    yield
    plt.close("all")


def table(names, column="class", value="iou", methods=METHODS):
    rows = itertools.product(names, methods)
    return pd.DataFrame(
        [(name, method, 0.1 * i) for i, (name, method) in enumerate(rows)], columns=[column, "method", value]
    )


def ablation_table():
    settings = {"default": "residual", "linear": "one layer"}
    rows = [(p, setting, seed, 0.5 + 0.1 * seed, 0.3) for p, setting in settings.items() for seed in (0, 1)]
    return pd.DataFrame(rows, columns=["point", "setting", "seed", "patch_accuracy", "voc20"])


HISTORY = pd.DataFrame({
    "epoch": [1, 2], "loss": [2.0, 1.0], "validation_loss": [2.1, 1.5], "validation_retrieval": [0.2, 0.4]
})  # fmt: skip
PROTOCOLS = pd.concat(
    [table(["voc20", "ade20k"], "benchmark", "value").assign(protocol=name) for name in ("native", "tcl")],
    ignore_index=True,
)
CURVE = {"false_positives": [0, 0.2, 1], "true_positives": [0, 0.8, 1], "auc": 0.8, "interval": (0.7, 0.9)}


def legend_names(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize(
    "options, limits", [({}, (-1, 3)), ({"limits": (0, 2)}, (0, 2)), ({"signed": True}, (-3, 3))], ids=str
)
def test_overlays_share_one_range(options, limits):
    maps = [np.array([[-1.0, 0.0]]), np.array([[2.0, 3.0]])]
    _, *panels, bar = overlays(PICTURES[0], maps, ["a", "b"], **options).axes
    assert [panel.images[1].get_clim() for panel in panels] == [limits, limits] and bar.get_ylim() == limits


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("new/one.png", "two.png"):
        charts.save(charts.training_curves(HISTORY), tmp_path / name)
    charts.save(charts.training_curves(HISTORY.assign(loss=[2.0, 1.2])), tmp_path / "other.png")
    first, again, other = ((tmp_path / name).read_bytes() for name in ("new/one.png", "two.png", "other.png"))
    assert first == again != other
    with Image.open(tmp_path / "two.png") as image:
        assert not set(image.info) - {"dpi"} and image.info["dpi"][0] == pytest.approx(200, abs=1)


def test_a_method_has_one_colour():
    assert set(NAMES.values()) == set(COLOURS) and len(set(COLOURS.values())) == len(COLOURS)
    drawn = [charts.class_bars(table(CLASSES), "title"), charts.protocol_bars(PROTOCOLS, "title")]
    drawn.append(charts.grouped_bars(table(CLASSES, "set", "value", list(COLOURS)), "set", "title", "%"))
    for figure in drawn:
        names = legend_names(next(axis for axis in figure.axes if axis.get_legend()))
        for axis in figure.axes:
            assert len(axis.containers) == len(names) >= 2
            for name, bars in zip(names, axis.containers, strict=True):
                assert {to_hex(bar.get_facecolor()) for bar in bars} == {COLOURS[name]}
    axis = charts.roc_curves(dict.fromkeys(METHODS, CURVE)).axes[0]
    for name, line in zip(METHODS, axis.lines, strict=False):
        assert to_hex(line.get_color()) == COLOURS[name] and line.get_label() == f"{name}: AUC 0.80 [0.70, 0.90]"
        assert line.get_xydata().tolist() == [[0, 0], [0.2, 0.8], [1, 1]]


# What a colour looks like to the commonest kinds of colour blindness, linear RGB (Machado et al. 2009, severity 1).
SEEN = {
    "everyone": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "grey print": [[0.2126, 0.7152, 0.0722]] * 3,
}


@pytest.mark.parametrize("eye", SEEN)
def test_methods_can_be_told_apart_by_every_reader(eye):
    colours = np.array([to_rgb(colour) for colour in COLOURS.values()])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(SEEN[eye]), 0, 1)
    shown = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    apart = np.abs(shown[:, None] - shown).max(-1)[~np.eye(len(COLOURS), dtype=bool)]
    assert apart.min() > (0.05 if eye == "grey print" else 0.15)


def test_methods_can_be_seen_on_white():
    colours = np.array([to_rgb(colour) for colour in COLOURS.values()])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    contrast = 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    assert contrast.min() > 1.7


def test_tables_side_by_side_have_one_range_of_colours_and_their_values_in_their_places():
    figure = charts.matrices({"one": [[0.1, 0.2], [0.3, 0.4]], "other": [[0.1, 0.5], [0.6, 0.9]]}, ["a", "b"])
    assert [axis.collections[0].get_clim() for axis in figure.axes] == [(0.1, 0.9)] * 2
    other = figure.axes[1]
    assert [text.get_text() for text in other.texts] == ["0.10", "0.50", "0.60", "0.90"]
    assert [label.get_text() for label in other.get_xticklabels()] == ["a", "b"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_protocols_have_one_scale():
    rows = PROTOCOLS.assign(value=PROTOCOLS.value.where(PROTOCOLS.protocol == "native", 0.1 * PROTOCOLS.value))
    one, other = charts.protocol_bars(rows, "protocols").axes
    assert one.get_ylim() == other.get_ylim() and one.get_ylim()[1] > 30
    assert [axis.get_title(loc="left") for axis in (one, other)] == ["native protocol", "tcl protocol"]
    heights = [[bar.get_height() for bars in axis.containers for bar in bars] for axis in (one, other)]
    assert heights[0] == pytest.approx([0, 20, 10, 30]) and heights[1] == pytest.approx([0, 2, 1, 3])


def test_bars_have_the_height_of_their_value_and_the_best_class_of_pacl_comes_first():
    data = table(CLASSES, value="accuracy").sample(frac=1, random_state=1)
    data.loc[data.method == "CLIP", "accuracy"] = [0.9, 0.1, 0.5]
    axis = charts.class_bars(data, "title", value="accuracy").axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["sea", "dog", "cat"]
    for name, bars in zip(legend_names(axis), axis.containers, strict=True):
        values = data[data.method == name].set_index("class")["accuracy"]
        expected = [100 * values[label] for label in ("sea", "dog", "cat")]
        assert [bar.get_height() for bar in bars] == pytest.approx(expected)


def test_ablation_shows_means_and_every_seed():
    left, right = analyses.ablation(ablation_table(), "title").axes
    assert [patch.get_width() for patch in left.patches] == pytest.approx([55, 55])
    assert [to_hex(patch.get_facecolor()) for patch in left.patches] == [COLOURS["PACL"], "#e7a6ae"]
    dots = np.concatenate([dots.get_offsets() for dots in left.collections])
    assert sorted(dots[:, 0]) == pytest.approx([50, 50, 60, 60])
    assert (left.get_xlabel(), right.get_xlabel()) == ("patch accuracy, %", "voc20 mIoU, %")
    assert [patch.get_width() for patch in right.patches] == pytest.approx([30, 30])
    written = [[text.get_text() for text in axis.texts] for axis in (left, right)]
    assert written == [["55.0", "55.0"], ["30.0", "30.0"]]
    assert [label.get_text() for label in left.get_yticklabels()] == ["residual", "one layer"]


def test_an_ablations_title_is_no_wider_than_its_figure():
    title = "Background rule, each at its best logit scale on one of the benchmarks\n(mini world, not Pascal VOC)"
    for runs in (ablation_table().drop(columns="patch_accuracy"), ablation_table()):
        figure = analyses.ablation(runs, title)
        figure.canvas.draw()
        place = figure._suptitle.get_window_extent()
        assert place.x1 <= figure.bbox.x1 and figure.get_suptitle().endswith("\n(mini world, not Pascal VOC)")
        assert place.y0 > max(axis.get_window_extent().y1 for axis in figure.axes)


def test_label_maps_are_coloured_by_class_named_and_white_where_ignored():
    labels = np.zeros((10, 10), int)
    labels[:, 4:] = 1
    labels[8:] = 255
    labels[9, 9] = 3  # the first number that is not a class
    labels[0, 0] = 2  # too small for a name
    axis = segmentation_grid([PICTURES[0]], {"truth": [labels]}, CLASSES).axes[1]
    shown = np.asarray(axis.images[0].get_array())
    colours = palette(3)
    assert np.allclose(shown[0, 9], colours[1]) and np.allclose(shown[7, 0], colours[0])
    assert np.allclose(shown[0, 0], colours[2]) and np.allclose(shown[9], 1.0)
    assert sorted(text.get_text() for text in axis.texts) == ["cat", "dog"] and axis.get_title() == "truth"


def test_heat_maps_lie_over_their_image_under_their_prompt_in_the_row_of_their_method():
    maps = {method: [RNG.random((3, 4)) for _ in PICTURES[:2]] for method in METHODS}
    figure = heat_maps(PICTURES[:2], CLASSES[:2], maps)
    figure.canvas.draw()
    rows = np.reshape(figure.axes, (3, 2))
    assert [axis.get_title() for axis in rows[0]] == ["“cat”", "“dog”"]
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["image", *METHODS]
    for column, picture in enumerate(PICTURES[:2]):
        assert np.array_equal(rows[0, column].images[0].get_array(), picture)
        for axis, method in zip(rows[1:, column], METHODS, strict=True):
            grey, heat = axis.images
            values = maps[method][column]
            assert np.array_equal(grey.get_array(), picture.mean(-1)) and np.array_equal(heat.get_array(), values)
            assert heat.get_clim() == (values.min(), values.max())
            assert heat.get_extent() == [-0.5, 15.5, 11.5, -0.5], "the whole of 12 x 16 pixels, the first row on top"


def test_an_area_is_named_where_it_is_wide_and_not_where_another_covers_its_middle():
    area = np.ones((20, 30), bool)
    area[5:15, 8:18] = False  # another thing, in the middle
    y, x = inmost(area)
    assert area[y, x] and 22 <= x <= 25
    assert inmost(np.eye(3, dtype=bool)) == (1, 1)


def test_names_in_label_maps_stand_inside_and_none_covers_another():
    labels = np.zeros((64, 64), int)
    labels[:, :10], labels[:, 10:16], labels[30:36, 30:40] = 1, 2, 3  # two narrow areas side by side, one in the middle
    names = ["widest", "narrow", "narrower", "middle"]
    axis = segmentation_grid([PICTURES[0]], {"truth": [labels]}, names).axes[1]
    axis.figure.canvas.draw()
    places = [text.get_bbox_patch().get_window_extent() for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == ["widest", "narrow"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(places, 2))
    frame = axis.get_window_extent()
    assert all(frame.x0 <= place.x0 and place.x1 <= frame.x1 for place in places)


def test_classes_have_different_colours_that_do_not_depend_on_what_else_is_drawn():
    for count in (21, 64):
        colours = palette(count)
        assert colours.shape == (count, 3) and colours.min() >= 0 and colours.max() <= 1
        distances = np.linalg.norm(colours[:, None] - colours, axis=-1)[~np.eye(count, dtype=bool)]
        assert distances.min() > 0.02
    assert np.allclose(palette(5), palette(20)[:5])
    assert np.linalg.norm(palette(64) - to_rgb("white"), axis=1).min() > 0.2  # white is for ignored pixels


def test_long_titles_are_wrapped_and_cut():
    assert wrapped("a cat") == "a cat"
    lines = wrapped("word " * 40).splitlines()
    assert len(lines) == 3 and lines[-1].endswith("…") and max(map(len, lines)) <= 30


def test_mistakes_tell_things_from_stuff_and_no_two_labels_of_areas_touch():
    rows = {"class": ["mud", "night sky"], "taken_for": ["hay", "polka dots"], "share": [0.1, 0.3]}
    confused = pd.DataFrame(rows)
    groups = [(kind, f"{n}7.8–{n}8.3 %") for kind in ("things", "stuff") for n in (1, 2, 3)]
    rows = [(method, *group, recall) for group in groups for method, recall in (("CLIP", 0.25), ("PACL", 0.5))]
    size = pd.DataFrame(rows, columns=["method", "kind", "size", "recall"])
    mention = pd.DataFrame(
        {"method": ["CLIP", "PACL"] * 2, "class": ["cat"] * 2 + ["sea"] * 2, "iou": [0.1, 0.2, 0.3, 0.4], "images": 9}
    ).assign(kind=["things"] * 2 + ["stuff"] * 2)
    figure = analyses.mistakes(confused, size, mention, "title")
    figure.canvas.draw()
    shares, areas, named = figure.axes
    bars = zip(shares.get_yticklabels(), shares.patches, strict=True)
    assert {label.get_text(): bar.get_width() for label, bar in bars} == {"night sky → polka dots": 30, "mud → hay": 10}
    assert shares.get_yticklabels()[0].get_text() == "night sky → polka dots" and shares.yaxis_inverted()
    assert [[bar.get_height() for bar in bars] for bars in areas.containers] == [[25] * 6, [50] * 6]
    places = [label.get_window_extent() for label in areas.get_xticklabels()]
    assert [label.get_text() for label in areas.get_xticklabels()][0] == "things\n17.8–18.3"
    assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(places))
    assert legend_names(named) == ["CLIP, things", "PACL, things", "CLIP, stuff", "PACL, stuff"]
    corners = [len(dots.get_paths()[0].vertices) for dots in named.collections]
    assert corners[0] == corners[1] < 6 < corners[2] == corners[3]
    places = [dots.get_offsets().tolist() for dots in named.collections]
    assert places == [[[9, pytest.approx(iou)]] for iou in (10, 20, 30, 40)]


def test_labels_of_texts_in_one_place_stand_above_each_other():
    table = pd.DataFrame(
        {"x": [0.0, 100.0, 50.0, 50.0, 51.0, 50.0, 90.0], "y": [0.0, 100.0, 10.0, 10.0, 14.0, 30.0, 10.0]}
    )
    texts = table.iloc[2:]  # the third lies where the second's label went, the last far to the right of all
    assert analyses.label_lifts(texts, table) == [0, 1, 2, 0, 0]
    assert analyses.label_lifts(texts.iloc[:1], table, avoid=texts.iloc[1:3]) == [2]


def test_a_class_is_named_in_the_middle_of_its_patches_and_its_star_leads_there():
    rows = [(0, 0, 0, False), (1, 0, 0, False), (8, 0, 0, False), (9, 9, 1, False)]
    rows += [(5, 5, 0, True), (5, 5, 1, True), (7, 1, 2, True)]
    table = pd.DataFrame(rows, columns=["x", "y", "label", "is_text"])  # two stars in one place, one without patches
    table["label"] = [CLASSES[k] for k in table.label]
    axis = analyses.patch_maps({"PACL": table}).axes[0]
    assert {text.get_text(): text.xy for text in axis.texts} == {"cat": (1, 0), "dog": (9, 9)}
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[5, 5], [1, 0]], [[5, 5], [9, 9]]]
    patches, stars = axis.collections
    assert patches.get_offsets().tolist() == [list(row[:2]) for row in rows[:4]] and axis.get_title() == "PACL"
    assert stars.get_offsets().tolist() == [[5, 5], [5, 5], [7, 1]]
    dots, tips = patches.get_facecolors()[:, :3], stars.get_facecolors()[:, :3]
    assert np.array_equal(tips[:2], dots[[0, 3]]) and not np.array_equal(tips[2], tips[0])


def test_differences_stand_in_the_row_of_their_set_with_their_own_interval():
    rows = [("a", "PACL", 0.1, 0.05, 0.2), ("b", "PACL", -0.1, -0.3, 0.0), ("mean", "PACL", 0.0, -0.1, 0.1)]
    rows += [
        ("mean", "CLIP + PACL", 0.2, 0.1, 0.25),
        ("a", "CLIP + PACL", 0.3, 0.2, 0.5),
        ("b", "CLIP + PACL", 0.4, 0.3, 0.6),
    ]
    table = pd.DataFrame(rows, columns=["set", "method", "difference", "low", "high"])
    axis = analyses.differences(table, "title").axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["a", "b", "mean"] and axis.yaxis_inverted()
    assert [label.get_fontweight() == "bold" for label in axis.get_yticklabels()] == [False, False, True]
    found = {}
    for name, drawn in zip(legend_names(axis), axis.containers, strict=True):
        points, _, (bars,) = drawn
        for (x, y), ((low, _), (high, _)) in zip(points.get_xydata(), bars.get_segments(), strict=True):
            found[names[round(y)], name] = pytest.approx((x / 100, low / 100, high / 100))
    assert {tuple(row[:2]): tuple(row[2:]) for row in rows} == found


def test_each_world_has_a_line_from_clip_to_pacl_in_the_panel_of_each_metric():
    rows = [(1, "CLIP", 0.1, 0.2), (1, "PACL", 0.5, 0.4), (2, "CLIP", 0.3, 0.1), (2, "PACL", 0.6, 0.7)]
    table = pd.DataFrame(rows, columns=["seed", "method", "voc20", "voc21"])
    figure = analyses.worlds(table, "title")
    lines = [[pytest.approx(line.get_ydata()) for line in axis.lines] for axis in figure.axes]
    assert lines == [[[10, 50], [30, 60]], [[20, 40], [10, 70]]]
    assert [axis.get_ylabel() for axis in figure.axes] == ["voc20 mIoU, %", "voc21 mIoU, %"]
    dots = figure.axes[1].collections[1]
    assert dots.get_offsets()[:, 1].tolist() == pytest.approx([10, 70])
    assert [to_hex(colour) for colour in dots.get_facecolors()] == [COLOURS[method] for method in METHODS]
