"""Figures: all of the report's are drawn from a run's files and show the values in them, each method in its colour."""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from pacl.figures import analyses, charts, draw
from pacl.figures.charts import COLOURS, NAMES
from pacl.figures.scenes import inmost, overlays, palette, segmentation_grid
from pacl.report.chapters import chapters
from pacl.report.results import Results
from pacl.runtime.config import load_params

RUN = Path(__file__).parents[1] / "report/run"
SECTIONS = ("prepare", "model", "features", "train", "protocols", "patch_alignment", "segmentation", "ablations")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 12, 16, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 3, (8, 12, 16), dtype=np.uint8)
CLASSES = ["cat", "dog", "sea"]
SAVE = charts.save


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The small run's folder and all its figures by file name."""
    report = tmp_path_factory.mktemp("run") / "small"
    shutil.copytree(RUN / "small", report)
    maps = {"truth/0": LABELS[0], "clip/0": LABELS[1], "pacl/0": LABELS[2]}
    maps |= {f"heat/{m}/{i}": RNG.random((12, 16)).astype(np.float16) for m in ("clip", "pacl") for i in (0, 1)}
    np.savez(report / "scenes/shown.npz", **maps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "save", lambda figure, path, dpi: Image.new("1", (8, 4)).save(path))
        charts.use_style()
        plt.rcParams["figure.max_open_warning"] = 0
        (report / "figures").mkdir()
        yield report, all_figures(report)
    plt.close("all")


def all_figures(report) -> dict:
    benchmarks = {
        "voc20": SimpleNamespace(target=lambda mask: mask, names=CLASSES),
        "coco_stuff": SimpleNamespace(target=lambda mask: 2 - mask, names=CLASSES),
    }
    sets = {"": SimpleNamespace(images=IMAGES, masks=LABELS, benchmarks=benchmarks)}
    label = charts.label_of(report, "openai")
    return (
        draw.pairs(report, IMAGES, [[f"caption {i}", "not shown"] for i in range(8)], count=3)
        | draw.scenes(report, sets)
        | draw.training(report)
        | draw.patches(report, label)
        | draw.segmentation(report, label)
        | draw.segmented_scenes(report, label, lambda benchmark: IMAGES if benchmark == "voc20" else IMAGES[::-1])
        | draw.classification(report, label)
        | draw.consistency(report)
        | draw.ablations(report, label)
    )


@pytest.fixture
def figures(drawn):
    return drawn[1]


def texts(artists):
    return [one.get_text() for one in artists]


def legend_names(axis):
    return texts(axis.get_legend().get_texts())


def test_the_report_shows_every_figure_that_is_drawn_and_no_other(drawn):
    report, figures = drawn
    params = load_params("small", *SECTIONS, path=RUN / "params.yaml")
    content = chapters(Results("small", params, report))
    blocks = [block for section in content["sections"] for block in section["blocks"]]
    shown = [block["name"] for block in blocks if block["kind"] == "figure"]
    assert sorted(shown) == sorted(f"figures/{name}" for name in figures)
    assert not [block for block in blocks if block["kind"] == "text" and "`figures/" in block["text"]]


def test_each_scene_stands_with_its_own_prompt_and_label_maps(figures):
    grid = figures["segmentation_grid.png"].axes
    assert [axis.get_title() for axis in grid] == ["image", "truth", "CLIP", "PACL"]
    assert np.array_equal(grid[0].images[0].get_array(), IMAGES[::-1][2])
    axes = figures["scenes.png"].axes
    assert np.array_equal(axes[1].images[0].get_array(), IMAGES[1])
    assert np.allclose(axes[7].images[0].get_array(), palette(3)[2 - LABELS[1]]), "with coco_stuff's classes"
    assert [axis.texts[0].get_text() for axis in figures["pairs.png"].axes[:3]] == [f"caption {i}" for i in range(3)]


def test_heat_maps_lie_over_their_image_under_their_prompt_in_the_row_of_their_method(drawn):
    report, figures = drawn
    maps, rows = np.load(report / "scenes/shown.npz"), np.reshape(figures["heat_maps.png"].axes, (3, 2))
    assert [axis.get_title() for axis in rows[0]] == ["“cat”", "“dog”"]
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["image", "CLIP", "PACL"]
    for column, picture in enumerate(IMAGES[[1, 0]]):
        assert np.array_equal(rows[0, column].images[0].get_array(), picture)
        for axis, method in zip(rows[1:, column], ("clip", "pacl"), strict=True):
            (grey, heat), values = axis.images, maps[f"heat/{method}/{column}"]
            assert np.array_equal(grey.get_array(), picture.mean(-1)) and np.array_equal(heat.get_array(), values)
            assert heat.get_clim() == (values.min(), values.max())
            assert heat.get_extent() == [-0.5, 15.5, 11.5, -0.5], "the whole of 12 x 16 pixels, the first row on top"


def test_titles_say_what_the_data_are(drawn):
    report, figures = drawn
    for name in ("ablation_pooling.png", "protocols.png", "mistakes.png", "worlds.png"):
        assert "mini world, not Pascal VOC" in figures[name].get_suptitle()
    title = figures["iou_by_class.png"].axes[0].get_title(loc="left")
    assert title == "IoU by class, voc20, native protocol (mini world, not Pascal VOC)"
    assert charts.label_of(report, "random") == "mini world, not Pascal VOC, random weights"


def test_without_ablations_there_is_nothing_to_draw(tmp_path):
    assert draw.ablations(tmp_path, "label") == {}


def test_equal_figures_are_equal_files(tmp_path, drawn):
    report, figures = drawn
    again = draw.training(report)["training.png"]
    for name, figure in (("new/one", figures["training.png"]), ("two", again), ("other", figures["worlds.png"])):
        SAVE(figure, tmp_path / f"{name}.png")
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("new/one", "two", "other"))
    assert first == again != other
    with Image.open(tmp_path / "two.png") as image:
        assert image.mode == "P" and not set(image.info) - {"dpi"}
        assert image.info["dpi"][0] == pytest.approx(200, abs=1)
        assert charts.size(tmp_path / "two.png") == pytest.approx((image.width / 2, image.height / 2), abs=0.6)


def test_a_notebook_shows_the_files_and_draws_no_figure_again(tmp_path, drawn, monkeypatch):
    shown, open_before = [], plt.get_fignums()
    monkeypatch.setattr(draw, "display", shown.append)
    draw.training(shutil.copytree(drawn[0], tmp_path / "run"))
    path = tmp_path / "run/figures/training.png"
    assert [(one.data, one.width) for one in shown] == [(path.read_bytes(), charts.size(path)[0])]
    assert plt.get_fignums() == open_before


def test_training_curves_show_the_history_and_the_best_epoch(figures):
    left, right = figures["training.png"].axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[4.5, 4.0, 3.8], [4.25, 3.5, 3.75], [3.5]]
    assert left.lines[2].get_xdata().tolist() == [2] and right.lines[0].get_ydata().tolist() == [10, 25, 50]


def test_protocols_have_one_scale(figures):
    one, other = figures["protocols.png"].axes
    assert one.get_ylim() == other.get_ylim() and one.get_ylim()[1] > 51
    assert [axis.get_title(loc="left") for axis in (one, other)] == ["native protocol", "tcl protocol"]
    heights = [[bar.get_height() for bars in axis.containers for bar in bars] for axis in (one, other)]
    assert heights == [pytest.approx([17.11, 23.44, 51.33]), pytest.approx([18.22, 24.55, 17.44])]


def test_an_ablation_shows_means_and_every_seed(figures):
    left, right, _ = figures["ablation_pooling.png"].axes
    assert [patch.get_width() for patch in left.patches] == pytest.approx([81, 61])
    assert [to_hex(patch.get_facecolor()) for patch in left.patches] == [COLOURS["PACL"], analyses.LIGHTER]
    dots = np.concatenate([dots.get_offsets() for dots in left.collections])
    assert sorted(dots[:, 0]) == pytest.approx([60, 62, 80, 82])
    assert (left.get_xlabel(), right.get_xlabel()) == ("patch accuracy, %", "voc20 mIoU, %")
    assert [texts(axis.texts) for axis in (left, right)] == [["81.0", "61.0"], ["41.0", "31.0"]]
    assert texts(left.get_yticklabels()) == ["all pairs", "matched only"]


def test_mistakes_tell_things_from_stuff_and_no_two_labels_of_areas_touch(figures):
    figure = figures["mistakes.png"]
    figure.canvas.draw()
    shares, areas, named = figure.axes
    bars = zip(shares.get_yticklabels(), shares.patches, strict=True)
    expected = [("night sky → polka dots", 30), ("mud → hay", 10)]
    assert [(label.get_text(), bar.get_width()) for label, bar in bars] == expected
    assert shares.yaxis_inverted()
    assert [[bar.get_height() for bar in bars] for bars in areas.containers] == [[25] * 6, [50] * 6]
    places = [label.get_window_extent() for label in areas.get_xticklabels()]
    assert areas.get_xticklabels()[0].get_text() == "things\n17.8–18.3"
    assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(places))
    assert legend_names(named) == ["CLIP, things", "PACL, things", "CLIP, stuff", "PACL, stuff"]
    corners = [len(dots.get_paths()[0].vertices) for dots in named.collections]
    assert corners[0] == corners[1] < 6 < corners[2] == corners[3]
    places = [dots.get_offsets().tolist() for dots in named.collections]
    assert places == [[pytest.approx(place)] for place in ((9, 10), (9, 20), (12, 30), (12, 40))]


def test_differences_stand_in_the_row_of_their_set_with_their_own_interval(figures):
    axis = figures["classification_differences.png"].axes[0]
    names = texts(axis.get_yticklabels())
    assert names == ["clean", "low resolution", "mean"] and axis.yaxis_inverted()
    assert [label.get_fontweight() == "bold" for label in axis.get_yticklabels()] == [False, False, True]
    found = {}
    for name, (points, _, (bars,)) in zip(legend_names(axis), axis.containers, strict=True):
        for (x, y), ((low, _), (high, _)) in zip(points.get_xydata(), bars.get_segments(), strict=True):
            found[names[round(y)], name] = (x, low, high)
    assert found["clean", "PACL"] == pytest.approx((-9.99, -15, -5))
    assert found["low resolution", "PACL"] == pytest.approx((9.99, 0, 20))
    assert found["mean", "CLIP + PACL"] == pytest.approx((8, 4.1, 12.3)) and len(found) == 6


def test_each_world_has_a_line_from_clip_to_pacl_in_the_panel_of_each_measure(figures):
    axes = figures["worlds.png"].axes
    lines = [[pytest.approx(line.get_ydata()) for line in axis.lines] for axis in axes]
    assert lines == [[[20, 50], [30, 45]], [[10, 40], [10, 50]]]
    assert [axis.get_ylabel() for axis in axes] == ["patch accuracy, %", "voc20 mIoU, %"]
    dots = axes[1].collections[1]
    assert dots.get_offsets()[:, 1].tolist() == pytest.approx([10, 50])
    assert [to_hex(colour) for colour in dots.get_facecolors()] == [COLOURS["CLIP"], COLOURS["PACL"]]


@pytest.mark.parametrize(
    "options, limits", [({}, (-1, 3)), ({"limits": (0, 2)}, (0, 2)), ({"signed": True}, (-3, 3))], ids=str
)
def test_overlays_share_one_range(options, limits):
    maps = [np.array([[-1.0, 0.0]]), np.array([[2.0, 3.0]])]
    _, *panels, bar = overlays(IMAGES[0], maps, ["a", "b"], **options).axes
    assert [panel.images[1].get_clim() for panel in panels] == [limits, limits] and bar.get_ylim() == limits


def test_a_method_has_one_colour(figures):
    assert set(NAMES.values()) == set(COLOURS) and len(set(COLOURS.values())) == len(COLOURS)
    for name in ("iou_by_class.png", "protocols.png", "classification.png"):
        figure = figures[name]
        names = legend_names(next(axis for axis in figure.axes if axis.get_legend()))
        for axis in figure.axes:
            assert len(axis.containers) == len(names) >= 2
            for name, bars in zip(names, axis.containers, strict=True):
                assert {to_hex(bar.get_facecolor()) for bar in bars} == {COLOURS[name]}
    lines = figures["patch_roc.png"].axes[0].lines
    assert lines[1].get_label() == "PACL: AUC 0.85 [0.84, 0.86]" and to_hex(lines[1].get_color()) == COLOURS["PACL"]
    assert lines[1].get_xydata().tolist() == [[0, 0], [0.2, 0.75], [1, 1]]


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
    assert min(1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)) > 1.7, "contrast with white paper"


def test_tables_side_by_side_have_one_range_of_colours_and_their_values_in_their_places():
    figure = charts.matrices({"one": [[0.1, 0.2], [0.3, 0.4]], "other": [[0.1, 0.5], [0.6, 0.9]]}, ["a", "b"])
    assert [axis.collections[0].get_clim() for axis in figure.axes] == [(0.1, 0.9)] * 2
    other = figure.axes[1]
    assert texts(other.texts) == ["0.10", "0.50", "0.60", "0.90"]
    assert texts(other.get_xticklabels()) == ["a", "b"]
    assert texts(figure.axes[0].get_yticklabels()) == ["a", "b"]


def test_bars_have_the_height_of_their_value_and_the_best_class_of_pacl_comes_first():
    rows = [("cat", 0.1), ("dog", 0.3), ("sea", 0.5)]
    data = pd.DataFrame([(*row, "PACL") for row in rows], columns=["class", "accuracy", "method"])
    data = pd.concat([data.assign(accuracy=[0.9, 0.1, 0.5], method="CLIP"), data]).sample(frac=1, random_state=1)
    axis = charts.class_bars(data, "title", value="accuracy").axes[0]
    assert texts(axis.get_xticklabels()) == ["sea", "dog", "cat"]
    for name, bars in zip(legend_names(axis), axis.containers, strict=True):
        values = data[data.method == name].set_index("class")["accuracy"]
        expected = [100 * values[label] for label in ("sea", "dog", "cat")]
        assert [bar.get_height() for bar in bars] == pytest.approx(expected)


def test_an_ablations_title_is_no_wider_than_its_figure():
    title = "Background rule, each at its best logit scale on one of the benchmarks\n(mini world, not Pascal VOC)"
    runs = pd.DataFrame({"point": ["default", "x"], "setting": ["a", "b"], "seed": 0, "voc20": 0.3, "voc21": 0.2})
    for figure in (analyses.ablation(runs, title), analyses.ablation(runs.drop(columns="voc21"), title)):
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
    axis = segmentation_grid([IMAGES[0]], {"truth": [labels]}, CLASSES).axes[1]
    shown = np.asarray(axis.images[0].get_array())
    colours = palette(3)
    assert np.allclose(shown[0, 9], colours[1]) and np.allclose(shown[7, 0], colours[0])
    assert np.allclose(shown[0, 0], colours[2]) and np.allclose(shown[9], 1.0)
    assert sorted(texts(axis.texts)) == ["cat", "dog"] and axis.get_title() == "truth"


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
    axis = segmentation_grid([IMAGES[0]], {"truth": [labels]}, names).axes[1]
    axis.figure.canvas.draw()
    places = [text.get_bbox_patch().get_window_extent() for text in axis.texts]
    assert texts(axis.texts) == ["widest", "narrow"]
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


def test_labels_of_texts_in_one_place_stand_above_each_other():
    x, y = [0.0, 100.0, 50.0, 50.0, 51.0, 50.0, 90.0], [0.0, 100.0, 10.0, 10.0, 14.0, 30.0, 10.0]
    table = pd.DataFrame({"x": x, "y": y})
    named = table.iloc[2:]  # the third lies where the second's label went, the last far to the right of all
    assert analyses.label_lifts(named, table) == [0, 1, 2, 0, 0]
    assert analyses.label_lifts(named.iloc[:1], table, avoid=named.iloc[1:3]) == [2]


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
