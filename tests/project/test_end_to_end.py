"""The whole pipeline on a few items: every stage of dvc.yaml in its order, the cells of its notebook or its command, on
a mini world and on real photos in their official layouts. Only the mechanics can be judged here.
"""

import base64
import io
import json
import re
import runpy
import shutil
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.folders import (
    box,
    once,
    thing,
    write_coco,
    write_flickr8k,
    write_instances,
    write_tiny_imagenet,
    write_voc,
)
from helpers.imports import ROOT
from matplotlib.figure import Figure
from PIL import Image

from pacl.data.benchmark import IGNORE
from pacl.data.prepared import all_scenes
from pacl.report.claims import load_ledger
from pacl.runtime.config import load_params
from pacl.tools.rehearse import lay_out, reduced, stages

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
SETS = ["clean", "noisy"]
VERDICTS = {"reproduced", "not reproduced", "not tested"}
MADE = ("reports", "checkpoints", "data/prepared", "data/features")


def few_items(profile: str, **prepare) -> dict:
    """A profile with four scenes, few methods, and two ablation points."""
    section = reduced(PARAMS[profile], 4)
    section["prepare"] |= {"train_pairs": 16, "validation_scenes": 2} | prepare
    methods = {"methods": ["clip", "pacl"]}
    section["segmentation"] |= methods | {"benchmarks": section["prepare"]["benchmarks"]}
    section["patch_alignment"] |= methods
    section["classification"]["sets"] = section["prepare"]["classification_sets"]
    points = {name: PARAMS["mini"]["ablations"]["points"][name] for name in ("default", "matched_only")}
    section["ablations"] |= {"seeds": [0], "points": points, "inference_scenes": 1}
    return section


def run_stage(command: list[str], monkeypatch) -> None:
    """A stage in this process, so that nothing is imported again."""
    _, _, module, *arguments = command
    if module != "pacl.notebook":
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        runpy.run_module(module, run_name="__main__")
        return
    names: dict = {}
    for cell in json.loads(Path(arguments[0]).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), arguments[0], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= dict(pair.split("=") for pair in arguments[2:])


def run_pipeline(place: Path, profile: str, section: dict, without: tuple = ()) -> Path:
    """Runs all stages but some in a new project with this profile; its figures are coarse."""
    table = PARAMS | {"profiles": [profile], profile: section}
    savefig, coarse = Figure.savefig, {"dpi": 20, "bbox_inches": None}
    lay_out(ROOT, place, table)
    plt.switch_backend("Agg")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        monkeypatch.setattr(Figure, "savefig", lambda figure, *to, **how: savefig(figure, *to, **how | coarse))
        for name, (command, _) in stages(ROOT, profile, table).items():
            if name not in without:
                run_stage(command, monkeypatch)
                plt.close("all")
    return place


@pytest.fixture(scope="module")
def mini(tmp_path_factory, before_forks, one_tokenizer):
    section = few_items("mini", benchmarks=["voc20", "voc21", "coco_stuff"], classification_sets=SETS)
    return once(tmp_path_factory, "first_mini", lambda place: run_pipeline(place, "mini", section))


@pytest.fixture(scope="module")
def photos(tmp_path_factory, real_data, one_tokenizer):
    """Flickr8k's and VOC's photos, with the mini world's CLIP, without figures."""
    for name in ("flickr8k", "VOCdevkit/VOC2012"):
        if not (real_data / name).is_dir():
            pytest.skip(f"{real_data / name} is not there")
    section = few_items("flickr8k", raw=str(real_data))
    for name, side in (("native", 64), ("sclip", 96), ("tcl", 128)):
        windows = {"window": 64, "window_stride": 32} if section["protocols"][name]["window"] else {}
        section["protocols"][name] |= {"short_side": side} | windows
    section["model"], section["ablations"]["strides"] = PARAMS["mini"]["model"], [8, 4]
    run = partial(run_pipeline, profile="flickr8k", section=section, without=("figures",))
    return once(tmp_path_factory, "first_photos", run)


@pytest.fixture(params=[("mini", "mini"), ("photos", "flickr8k")], ids=lambda pair: pair[0])
def project(request):
    """(folder of results, sets of test scenes, parameters) of either."""
    name, profile = request.param
    place = request.getfixturevalue(name)
    scenes = all_scenes(place / "data/prepared" / profile, "test")
    return place / "reports" / profile, scenes, load_params(profile, *PARAMS["mini"], path=place / "params.yaml")


def labelled_pixels(scenes, name: str) -> int:
    """The pixels that a benchmark has a class for, mask by mask."""
    found = [one for one in scenes.values() if name in one.benchmarks]
    return sum(int((one.benchmarks[name].target(mask) != IGNORE).sum()) for one in found for mask in one.masks)


def test_confusion_matrices_count_each_labelled_pixel_once(project):
    report, scenes, params = project
    with np.load(report / "segmentation/confusion_matrices.npz") as stored:
        matrices = dict(stored)
    settings = params.segmentation
    keys = [(b, p, m) for b in settings.benchmarks for p in settings.protocols for m in settings.methods]
    assert matrices.keys() == {"/".join(key) for key in keys}
    for name, matrix in matrices.items():
        assert matrix.sum() == labelled_pixels(scenes, name.split("/")[0]) > 0
    native, *others = (matrices[f"voc21/{name}/clip"] for name in settings.protocols)
    assert not any(np.array_equal(native, other) for other in others)


def test_metrics_and_claims_have_their_form(project):
    report, _, params = project
    metrics = json.loads((report / "metrics.json").read_text())
    assert list(metrics) == ["patch_alignment", "segmentation", "classification"]
    assert set(metrics["patch_alignment"]) == {*params.patch_alignment.methods, "random", "colours"}
    assert set(metrics["segmentation"]) == set(params.segmentation.benchmarks)
    for of_protocol in metrics["segmentation"].values():
        assert set(of_protocol) == set(params.segmentation.protocols)
        assert all(0 <= value["miou"] <= 1 for methods in of_protocol.values() for value in methods.values())
    assert set(metrics["classification"]) >= set(params.classification.sets)
    claims = json.loads((report / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == [claim["id"] for claim in load_ledger()]
    assert {claim["verdict"] for claim in claims} <= VERDICTS
    assert (report / "report.html").stat().st_size > 10_000


def test_training_lowers_the_loss(project):
    report, _, params = project
    losses = pd.read_csv(report / "train/training.csv")["loss"]
    assert len(losses) == params.train.epochs and losses.iloc[-1] < losses.iloc[0]


def test_the_mini_world_leaves_every_output_of_the_pipeline(mini):
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values():
        for out in stage["outs"] if not stage.get("frozen") else []:
            name = next(iter(out)) if isinstance(out, dict) else out
            path = mini / name.replace("${item.profile}", "mini").replace("${item.seed}", "0")
            assert path.exists() or path.suffix == ".ipynb", f"{path}: only a run by pacl.notebook leaves a copy"


def test_the_same_run_again_gives_the_same_bytes(mini, tmp_path):
    """Of what is drawn, trained and measured; figures and ablations have tests of their own."""
    section = yaml.safe_load((mini / "params.yaml").read_text())["mini"]
    without = ("scenes", "world", "ablation_points", "ablations", "figures", "report")
    again = run_pipeline(tmp_path / "again", "mini", section, without)
    made = [path.relative_to(again) for top in MADE for path in (again / top).rglob("*") if path.is_file()]
    assert {"segmentation.json", "patch_alignment.json", "classification.json"} <= {path.name for path in made}
    assert [path for path in made if (again / path).read_bytes() != (mini / path).read_bytes()] == []


LIME, MAGENTA = (0, 255, 0), (255, 0, 255)  # the left half of each photo that may be shown, and of each other


def write_coloured_photos(raw: Path) -> None:
    """All that the profile `photos` reads, hand-made; each of VOC's masks has one class, and no other has it, too."""
    write_tiny_imagenet(raw / "tiny-imagenet-200", photos=5)
    write_flickr8k(raw / "flickr8k")
    write_coco(raw / "coco", {"1.jpg": [f"a dog and a person {i}" for i in range(5)]})
    things = [thing(i, category, [box(0, 0, 30, 60)], 1800) for i, category in ((7, 1), (8, 18))]
    write_instances(raw, [*things, thing(7, 18, [box(40, 0, 60, 60)], 1200)], {7: 4, 8: 4}, size=(96, 64))
    write_voc(raw / "VOCdevkit/VOC2012", val=list("abcdefgh"))
    for value, path in enumerate(sorted((raw / "VOCdevkit").rglob("*.png")), 1):
        Image.fromarray(np.full((64, 96), value, np.uint8)).save(path)
    noise = np.random.default_rng(0)
    for path in [*raw.rglob("*.jpg"), *raw.rglob("*.JPEG")]:
        pixels = noise.integers(0, 256, (64, 64 if path.suffix == ".JPEG" else 96, 1), np.uint8).repeat(3, 2)
        pixels[:, : pixels.shape[1] // 2] = LIME if path.parent.name == "val2017" else MAGENTA
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory, one_tokenizer):
    """A run on such photos, with the mini world's CLIP; `displayed` has the pictures that its notebooks display."""

    def run(place: Path) -> Path:
        write_coloured_photos(place / "raw")
        section = few_items("photos", raw=str(place / "raw"))
        section["model"], displayed = PARAMS["mini"]["model"], []
        for folder in ("displayed", "reports/photos"):
            (place / folder).mkdir(parents=True)
        shutil.copy(ROOT / "reports/mini/consistency.json", place / "reports/photos")
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("IPython.display.display", displayed.append)
            run_pipeline(place, "photos", section, ("world", "ablation_points", "ablations", "consistency"))
        for number, picture in enumerate(one for one in displayed if isinstance(one, Image.Image)):
            picture.save(place / f"displayed/{number}.png")
        return place

    return once(tmp_path_factory, "coloured_photos", run)


def pictures_in(path: Path):
    """The pictures of a file: itself, or those that a text holds in base64."""
    if path.suffix == ".png":
        yield Image.open(path)
    for content in re.findall(rb"[\w+/]{100,}=*", path.read_bytes()) if path.suffix in (".json", ".html") else ():
        try:
            yield Image.open(io.BytesIO(base64.b64decode(content)))
        except (ValueError, OSError):
            continue  # text that is no picture


def count(picture: Image.Image, colour: tuple) -> int:
    return int((np.abs(np.asarray(picture.convert("RGB")).astype(int) - colour).max(-1) < 50).sum())


def test_nobody_sees_photos_that_may_not_be_shown(coloured):
    """Looks at every picture that a notebook displays or a stage writes for the colour of the forbidden photos."""
    report = coloured / "reports/photos"
    files = [path for folder in (report, coloured / "displayed") for path in folder.rglob("*") if path.is_file()]
    found = {path: list(pictures_in(path)) for path in files}
    forbidden = [path for path, pictures in found.items() if any(count(one, MAGENTA) for one in pictures)]
    assert forbidden == []
    names = ("figures/scenes.png", "figures/heat_maps.png", "figures/segmentation_grid.png", "teaser.png")
    for path in (
        coloured / "displayed/0.png",
        *(report / name for name in (*names, "scenes/viewer.json", "report.html")),
    ):
        assert any(count(one, LIME) for one in found[path]), f"{path} shows no photo at all, or the search fails"
    assert not (report / "figures/pairs.png").exists()
    page = (report / "report.html").read_text()
    assert page.count("COCO val2017 7, CC BY 2.0, http://farm1.staticflickr.com/7.jpg") == 2, "in the viewer and below"


def test_scenes_without_a_class_in_common_have_no_coherence_and_a_report(coloured):
    report = coloured / "reports/photos"
    measured = json.loads((report / "patch_alignment/patch_alignment.json").read_text())
    assert 0 <= measured["pacl"]["accuracy"] <= 1 and "auc" not in measured["pacl"]
    assert "patch_roc" not in (report / "report.md").read_text(), "neither shown nor called missing"
