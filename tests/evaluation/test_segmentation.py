"""Whole splits against loops over single images, with a stand-in CLIP whose tokens are colours."""

import itertools
import json
import runpy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.colour_world import BENCHMARKS, METHODS, PACL, PROTOCOLS, ColourCLIP, image_set, pictures
from helpers.small_training import join_as, run_together
from PIL import Image

from pacl.clip.texts import class_texts
from pacl.data.benchmark import Benchmark
from pacl.data.prompts import templates
from pacl.evaluation import segmentation
from pacl.evaluation.dense import equal_sizes
from pacl.evaluation.mistakes import read_confusion_matrices
from pacl.evaluation.segmentation import confusion_matrices, idle_rules, write_segmentation
from pacl.runtime.files import rounded
from pacl.runtime.params import OnBenchmark, Protocol
from pacl.segment import dense_logits, segment


def measure(scenes, protocol, methods=PACL, **options):
    """confusion_matrices of all benchmarks of one image set."""
    names, options = list(scenes.benchmarks), {"batch_size": 32} | options
    return confusion_matrices(ColourCLIP(), methods, {"": scenes}, names, {"": protocol}, **options)[""]


@pytest.fixture
def split(tmp_path):
    """Seven images of two sizes, one after the other, as files."""
    images, masks = pictures([(14, 20)] * 3 + [(20, 14)] + [(14, 20)] + [(14, 20)] + [(20, 14)])
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
    paths = [[str(tmp_path / f"{i}{end}.png") for i in range(7)] for end in ("", "_mask")]
    return image_set(*paths), images, masks


def image_by_image(method, images, masks, benchmark, protocol):
    """One benchmark by itself, pixel by pixel."""
    classes = benchmark.classes
    ruled = classes[0] == "background" and protocol.background_rule != "none"
    if not ruled:
        protocol = protocol.model_copy(update={"background_rule": "none"})
    texts = class_texts(ColourCLIP(), classes[1:] if ruled else classes, templates(protocol.templates))
    confmat = np.zeros((len(classes), len(classes)), int)
    for image, mask in zip(images, masks, strict=True):
        labels = segment(ColourCLIP(), method, Image.fromarray(image), texts, protocol).numpy()
        for value, label in zip(mask.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if value != 255:
                confmat[benchmark.table[value], label] += 1
    return confmat


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_confusion_matrices_are_those_of_single_images(name, batch_size, split):
    scenes, pictures, labels = split
    found = measure(scenes, PROTOCOLS[name], METHODS, batch_size=batch_size)
    for (benchmark, described), method in itertools.product(BENCHMARKS.items(), METHODS):
        expected = image_by_image(METHODS[method], pictures, labels, described, PROTOCOLS[name])
        assert found[benchmark][method].dtype == torch.int64
        assert np.array_equal(found[benchmark][method], expected), (benchmark, method)
        assert expected.sum() == sum((mask != 255).sum() for mask in labels)
        assert (expected.sum(0) > 0).sum() > 1  # not all of one class
    if name != "listed":
        columns = found["with_background"]["clip"].sum(0)
        assert columns[0] > 0 and columns[1:].sum() > 0  # the rule makes some background, not all of it
    assert not torch.equal(found["plain"]["clip"], found["plain"]["pacl"])


def test_batches_hold_images_of_one_size_in_order(split):
    scenes, pictures_, labels = split
    batches = list(equal_sizes(scenes, 2))
    assert [tuple(batch.shape[::2]) for batch, _ in batches] == [(2, 14), (1, 14), (1, 20), (2, 14), (1, 20)]
    flat = [(image, mask) for batch, masks in batches for image, mask in zip(batch, masks, strict=True)]
    for (image, mask), picture, label in zip(flat, pictures_, labels, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), picture) and np.array_equal(mask, label)
    for other in ((18, 20), (14, 24)):  # alike on one side only
        assert len(list(equal_sizes(image_set(*pictures([(14, 20), other])), 2))) == 2


@pytest.mark.parametrize("masks, message", [
    (np.zeros((1, 8, 9), np.uint8), "a mask is 9 x 8 pixels, its image 10 x 8"),
    (np.full((1, 8, 10), 9, np.uint8), "holds the value 9"),
])  # fmt: skip
def test_masks_of_another_size_or_with_other_values_are_errors(masks, message):
    with pytest.raises(ValueError, match=message):
        measure(image_set(np.zeros((1, 8, 10, 3), np.uint8), masks), PROTOCOLS["whole"])


def test_an_unknown_benchmark_is_named_with_those_there_are(split):
    with pytest.raises(ValueError, match="no scenes of ade20k: prepare.benchmarks made plain, with_background"):
        confusion_matrices(ColourCLIP(), PACL, {"": split[0]}, ["plain", "ade20k"], {"": Protocol()})


def test_a_profile_measured_by_two_ranks_has_the_numbers_of_one_process(split, tmp_path, monkeypatch):
    settings = SimpleNamespace(benchmarks=list(BENCHMARKS), protocols=["whole"], methods=list(METHODS), batch_size=2)
    protocols = SimpleNamespace(named=lambda names: {name: PROTOCOLS[name] for name in names})
    params = SimpleNamespace(model=None, protocols=protocols, segmentation=settings)
    for name, stand_in in {
        "load_params": lambda *_: params,
        "load_clip_of": lambda _: ColourCLIP(),
        "load_embedder": lambda path, _: (path, {}),
        "methods_of": lambda clip, path, names: METHODS,
        "all_scenes": lambda folder, part: {"": split[0]},
    }.items():
        monkeypatch.setattr(segmentation, name, stand_in)

    def measure_rank(rank, world, port):
        join_as(rank, world, port)
        segmentation.measure_profile("mini", tmp_path / "found.json")

    assert run_together(2, measure_rank) == [0, 0]
    confmats = {"whole": measure(split[0], PROTOCOLS["whole"], METHODS, batch_size=2)}
    assert json.loads((tmp_path / "found.json").read_text()) == rounded(segmentation.scores(confmats, BENCHMARKS))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_measures_a_profile_into_a_file_that_can_be_written(tmp_path, monkeypatch):
    def refuse(profile, *sections):
        raise ValueError(f"{profile} has no {', '.join(sections)}.")

    (tmp_path / "file.txt").touch()
    monkeypatch.setattr("pacl.runtime.config.load_params", refuse)
    unwritable = "can't be written: let --output name a file in a folder"
    outputs = {".": unwritable, "file.txt/found.json": unwritable}
    outputs["found.json"] = "^paper has no model, protocols, segmentation.$"
    for output, message in outputs.items():
        monkeypatch.setattr("sys.argv", ["segmentation", "--profile", "paper", "--output", str(tmp_path / output)])
        with pytest.raises(SystemExit, match=message):
            runpy.run_module("pacl.evaluation.segmentation", run_name="__main__")


def test_only_a_benchmark_with_a_background_has_a_mean_over_the_foreground():
    confmat = torch.tensor([[2, 2, 0], [0, 4, 0], [1, 0, 1]])
    confmats = {"native": {name: {"pacl": confmat} for name in BENCHMARKS}}
    found = segmentation.scores(confmats, BENCHMARKS)
    assert "miou_foreground" not in found["plain"]["native"]["pacl"]
    foreground = found["with_background"]["native"]["pacl"]["miou_foreground"]
    assert foreground == pytest.approx((4 / 6 + 1 / 2) / 2)


def test_what_is_written_is_measured_by_hand_and_read_back(tmp_path):
    """A class without a pixel in truth or prediction counts nowhere, one that is only predicted as 0 in `miou`."""
    benchmark = Benchmark("plain", ("cat, kitten", "dog", "duck"), (0, 1, 2))
    half, whole = torch.tensor([[3, 0, 1], [2, 4, 0], [0, 0, 0]]), torch.tensor([[5, 0, 0], [0, 5, 0], [0, 0, 0]])
    confmats = {"native": {"plain": {"clip": half, "pacl": whole}}, "tcl": {"plain": {"clip": whole, "pacl": half}}}
    sets = {"": image_set([], [], {"plain": benchmark})}
    result = write_segmentation(tmp_path, confmats, sets)
    means = {"miou": pytest.approx((3 / 6 + 4 / 6) / 3), "miou_labelled": pytest.approx((3 / 6 + 4 / 6) / 2)}
    of_half = means | {"pixel_accuracy": pytest.approx(7 / 10)}
    of_whole = {"miou": 1.0, "miou_labelled": 1.0, "pixel_accuracy": 1.0}
    by_protocol = {"native": {"clip": of_half, "pacl": of_whole}, "tcl": {"clip": of_whole, "pacl": of_half}}
    assert result == {"plain": by_protocol}
    assert json.loads((tmp_path / "segmentation.json").read_text()) == rounded(result)
    table = pd.read_csv(tmp_path / "iou_by_class.csv")
    assert table.columns.tolist() == ["benchmark", "protocol", "method", "class", "iou"]
    assert table[:3].values.tolist() == [
        ["plain", "native", "clip", name, pytest.approx(iou, abs=1e-6)]
        for name, iou in (("cat", 3 / 6), ("dog", 4 / 6), ("duck", 0))
    ]
    first, path = (tmp_path / "confusion_matrices.npz").read_bytes(), tmp_path / "confusion_matrices.npz"
    write_segmentation(tmp_path, confmats, sets)
    assert path.read_bytes() == first
    found = read_confusion_matrices(tmp_path, "plain", "tcl")
    assert list(found) == ["clip", "pacl"] and torch.equal(found["clip"], whole) and torch.equal(found["pacl"], half)
    for content, error, message in (
        (first[:-40], ValueError, "is corrupt .*: remove it and run `dvc repro segmentation`"),
        (None, FileNotFoundError, "confusion_matrices.npz is missing: run `dvc repro"),
    ):
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(error, match=message):
            read_confusion_matrices(tmp_path, "plain", "tcl")


def test_a_protocol_changes_only_what_it_says_on_one_benchmark():
    benchmark = BENCHMARKS["with_background"]
    scenes = image_set(*pictures([(14, 20)] * 2))
    plain = {"logit_scale": 40.0, "background_rule": "probability", "background_threshold": 0.4}
    own = {"small": {"short_side": 28, "logit_scale": 2.0}, "other": {"background_threshold": 0.9}, "third": {}}
    protocol = Protocol(**plain, per_benchmark=own)
    benchmarks = {name: replace(benchmark, name=name) for name in own}
    together = measure(replace(scenes, benchmarks=benchmarks), protocol, batch_size=1)
    for name, changes in own.items():
        expected = measure(replace(scenes, benchmarks={name: benchmarks[name]}), Protocol(**(plain | changes)))
        assert torch.equal(together[name]["pacl"], expected[name]["pacl"]), name


def test_a_protocols_own_phrases_name_the_background_too():
    """SCLIP's evaluation: stuff words for the background, another logit scale there, and the rule as well."""
    benchmark = BENCHMARKS["with_background"]
    rule = {"background_rule": "probability", "background_threshold": 0.4}
    own = {"with_background": {"logit_scale": 2.0}}
    protocol = Protocol(phrases="words", logit_scale=40.0, per_benchmark=own, **rule)
    images, masks = pictures([(14, 20)] * 2)
    scenes = image_set(images, masks, {"with_background": benchmark})
    found = measure(scenes, protocol)["with_background"]["pacl"]
    texts = class_texts(ColourCLIP(), benchmark.phrases["words"], templates("seven"))
    expected = np.zeros((3, 3), int)
    for image, mask in zip(images, masks, strict=True):
        cosines = dense_logits(ColourCLIP(), METHODS["pacl"], Image.fromarray(image), texts.features, protocol)
        best, phrase = (2.0 * cosines).softmax(0).max(0)
        labels = texts.phrase_index[phrase].masked_fill(best < 0.4, 0).numpy()
        target = benchmark.target(mask)
        np.add.at(expected, (target[target != 255], labels[target != 255]), 1)
    assert np.array_equal(found, expected) and (expected.sum(0) > 0).sum() > 1
    plain = measure(replace(scenes, benchmarks={"": replace(benchmark, phrases={})}), protocol)[""]["pacl"]
    assert not torch.equal(plain, found)  # without such a list the classes' names are used


def test_a_background_that_no_pixel_can_get_is_named_with_its_protocol():
    """Two classes next to a background: at most ln 2 = 0.693 nats; three phrases: at least a probability of 1/3."""
    probability = Protocol(background_rule="probability", background_threshold=0.1)
    protocols = {"native": Protocol(background_rule="entropy", background_threshold=1.5), "sclip": probability}
    scenes = {"": image_set(*pictures([(14, 20)]))}
    native, sclip = idle_rules(scenes, list(BENCHMARKS), protocols)
    assert "with_background" in native and "protocol native" in native and "at most 0.693" in native
    assert "protocol sclip" in sclip and "at least 0.334" in sclip
    works = {"native": {"background_threshold": 0.693}, "sclip": {"background_threshold": 0.334}}
    mended = {
        key: one.model_copy(update={"per_benchmark": {"with_background": OnBenchmark(**works[key])}})
        for key, one in protocols.items()
    }
    assert idle_rules(scenes, list(BENCHMARKS), mended) == []
    assert idle_rules(scenes, ["plain"], protocols) == []  # it has no background
    listed = {"sclip": probability.model_copy(update={"phrases": "words"})}
    assert idle_rules(scenes, ["with_background"], listed) == []  # words of its own
