"""Every figure of the report is drawn from the files of a run, and the report shows every one of them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from pacl.figures import charts, draw
from pacl.figures.scenes import palette
from pacl.report.chapters import chapters
from pacl.report.results import Results
from pacl.runtime.config import load_params

RUN = Path(__file__).parents[1] / "report/run"
SECTIONS = ("prepare", "model", "features", "train", "protocols", "patch_alignment", "segmentation", "ablations")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 12, 16, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 3, (8, 12, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The small run's folder and all its figures by file name."""
    report = tmp_path_factory.mktemp("run") / "small"
    shutil.copytree(RUN / "small", report)
    maps = {"truth/0": LABELS[0], "clip/0": LABELS[1], "pacl/0": LABELS[2]}
    maps |= {f"heat/{m}/{i}": RNG.random((12, 16)).astype(np.float16) for m in ("clip", "pacl") for i in (0, 1)}
    np.savez(report / "scenes/shown.npz", **maps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "save", lambda figure, path, dpi: figure.savefig(path, dpi=20))
        charts.use_style()
        plt.rcParams["figure.max_open_warning"] = 0
        (report / "figures").mkdir()
        yield report, all_figures(report)
    plt.close("all")


def all_figures(report) -> dict:
    benchmarks = {
        "voc20": SimpleNamespace(target=lambda mask: mask, names=("cat", "dog", "sea")),
        "coco_stuff": SimpleNamespace(target=lambda mask: 2 - mask, names=("cat", "dog", "sea")),
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
        | draw.ablations(report, label)
    )


def test_the_report_shows_every_figure_that_is_drawn_and_no_other(drawn):
    report, figures = drawn
    params = load_params("small", *SECTIONS, path=RUN / "params.yaml")
    content = chapters(Results("small", params, report))
    blocks = [block for section in content["sections"] for block in section["blocks"]]
    shown = [block["name"] for block in blocks if block["kind"] == "figure"]
    assert sorted(shown) == sorted(f"figures/{name}" for name in figures)
    assert not [block for block in blocks if block["kind"] == "text" and "`figures/" in block["text"]]
    for name in figures:
        with Image.open(report / "figures" / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20, f"{name} is blank"


def test_each_scene_stands_with_its_own_prompt_and_label_maps(drawn):
    _, figures = drawn
    rows = np.reshape(figures["heat_maps.png"].axes, (3, 2))
    assert [axis.get_title() for axis in rows[0]] == ["“cat”", "“dog”"]
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["image", "CLIP", "PACL"]
    assert np.array_equal(rows[0, 0].images[0].get_array(), IMAGES[1])
    grid = figures["segmentation_grid.png"].axes
    assert [axis.get_title() for axis in grid] == ["image", "truth", "CLIP", "PACL"]
    assert np.array_equal(grid[0].images[0].get_array(), IMAGES[::-1][2])
    axes = figures["scenes.png"].axes
    assert np.array_equal(axes[1].images[0].get_array(), IMAGES[1])
    assert np.allclose(axes[7].images[0].get_array(), palette(3)[2 - LABELS[1]]), "with coco_stuff's classes"
    assert [axis.texts[0].get_text() for axis in figures["pairs.png"].axes[:3]] == [f"caption {i}" for i in range(3)]


def test_titles_say_what_the_data_are(drawn):
    report, figures = drawn
    for name in ("ablation_pooling.png", "protocols.png", "mistakes.png", "worlds.png"):
        assert "mini world, not Pascal VOC" in figures[name].get_suptitle()
    title = figures["iou_by_class.png"].axes[0].get_title(loc="left")
    assert title == "IoU by class, voc20, native protocol (mini world, not Pascal VOC)"
    assert charts.label_of(report, "random") == "mini world, not Pascal VOC, random weights"


def test_without_ablations_there_is_nothing_to_draw(tmp_path):
    assert draw.ablations(tmp_path, "label") == {}
