"""Coarse logits that stay on the disk give what a pass gives, and each image is passed once."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from helpers.colour_world import BENCHMARKS, METHODS, ColourCLIP, CountingCLIP, image_set, pictures

from pacl.clip.texts import class_texts
from pacl.evaluation import dense
from pacl.evaluation.dense import Keep, Passes, Reading, find_kept, measure, served_by
from pacl.evaluation.mistakes import recall_by_area
from pacl.evaluation.segmentation import confusion_matrices, keeps_of
from pacl.evaluation.viewer import label_examples, prompt_maps
from pacl.runtime.params import OnBenchmark, Protocol
from pacl.segment import Method

VOC = {name: replace(BENCHMARKS["with_background"], name=name) for name in ("voc21", "other")}
NATIVE = Protocol(token_stride=2, background_rule="entropy", background_threshold=0.55, logit_scale=3.0)
COARSE = NATIVE.model_copy(update={"token_stride": None})


@pytest.fixture
def scenes():
    return image_set(*pictures([(14, 20)] * 3 + [(20, 14)] * 2), BENCHMARKS | VOC)


def test_an_image_is_passed_once_for_all_benchmarks_methods_and_protocols_of_one_geometry(scenes, one_process):
    clip, names = CountingCLIP(), list(scenes.benchmarks)
    own = {"other": OnBenchmark(short_side=12)}
    protocols = {
        "entropy": NATIVE,
        "probability": NATIVE.model_copy(update={"background_rule": "probability", "templates": "one"}),
        "coarse": COARSE.model_copy(update={"per_benchmark": own}),
    }
    together = confusion_matrices(clip, METHODS, {"": scenes}, names, protocols, batch_size=2)
    assert len(clip.seen) == 15 and set(clip.seen.values()) == {1}, "two strides, and one size of its own"
    for key, protocol in protocols.items():
        alone = confusion_matrices(ColourCLIP(), METHODS, {"": scenes}, names, {key: protocol}, batch_size=3)[key]
        for name in names:
            assert all(together[key][name][method].equal(alone[name][method]) for method in METHODS), (key, name)


def test_shifted_passes_have_the_tokens_of_wider_strides(tiny_clip, monkeypatch, one_process, tmp_path):
    """Exactly: what is measured with all strides together is what is measured with each alone, by fewer passes."""
    scenes = image_set(*pictures([(37, 50)] * 2 + [(70, 41)]), {"plain": BENCHMARKS["plain"]})
    native = Protocol(short_side=32, background_rule="entropy", background_threshold=1.3)
    kinds = {(8, "joint"): 1, (4, "shifted"): 4, (2, "shifted"): 16, (4, "joint"): 1}
    own = {kind: native.model_copy(update=dict(zip(("token_stride", "passes"), kind, strict=True))) for kind in kinds}
    readings = {kind: Reading(scenes.benchmarks["plain"], protocol) for kind, protocol in own.items()}
    passes, seen = Passes(tiny_clip, {"clip": Method(tiny_clip.project, "clip")}, scenes, 2), []
    tokens = tiny_clip._tokens
    monkeypatch.setattr(tiny_clip, "_tokens", lambda images, *how: seen.append(len(images)) or tokens(images, *how))
    together = measure(passes, readings)
    assert sum(seen) == 3 * (16 + 1)
    for kind, reading in readings.items():
        seen.clear()
        assert measure(passes, {"": reading})[""]["clip"].equal(together[kind]["clip"])
        assert sum(seen) == 3 * kinds[kind]
    for change in ({"window": 32, "window_stride": 16}, {"positions": "scaled"}):
        other = own[8, "joint"].model_copy(update=change)
        assert served_by(other, [*own.values(), other], 8) == other, "windows and other positions have their own"
    keep = Keep.all_of(tmp_path / "set", scenes.benchmarks, ["plain"], own[8, "joint"])
    assert Passes(tiny_clip, {}, scenes, 2, keep).serving(own[8, "joint"], own.values()) == own[8, "joint"]


@pytest.fixture
def kept(scenes, tmp_path, monkeypatch):
    """The folder that the stage segmentation leaves, of the first three scenes."""
    monkeypatch.setattr(dense, "KEPT_SCENES", 3)
    sets, names = {"": scenes}, list(scenes.benchmarks)
    keeps = keeps_of(tmp_path, sets, ["plain", "other"], NATIVE)
    confusion_matrices(ColourCLIP(), METHODS, sets, names, {"": NATIVE}, keeps=keeps, batch_size=2)
    return tmp_path


def test_what_is_read_from_the_disk_is_what_a_pass_gives(scenes, kept):
    passes = Passes(ColourCLIP(), METHODS, scenes.first(3), 1)
    for name in ("plain", "other", "voc21"):
        stored, reading = find_kept(kept, scenes, name, NATIVE), Reading(scenes.benchmarks[name], NATIVE)
        assert len(stored.scenes) == 3 and list(stored.methods) == list(METHODS)
        assert recall_by_area(stored, reading).equals(recall_by_area(passes, reading))
        ours, plain = (
            measure(some, {"": reading})[""] | prompt_maps(some, reading, 2)[1] | label_examples(some, reading, 2)[1]
            for some in (stored, passes)
        )
        assert ours.keys() == plain.keys()
        assert all(np.allclose(ours[key], plain[key], rtol=0, atol=1e-3) for key in plain)


def test_pacls_logits_are_kept_for_the_ablations_texts_too(scenes, kept, one_process):
    stored, passes = find_kept(kept, scenes, "voc21", NATIVE), Passes(ColourCLIP(), METHODS, scenes.first(3), 2)
    for templates, rule in product(dense.READ_TEMPLATES, ("none", "entropy")):
        protocol = NATIVE.model_copy(update={"templates": templates, "background_rule": rule})
        reading = Reading(scenes.benchmarks["voc21"], protocol, ("pacl",))
        ours, plain = (measure(some, {"": reading})[""]["pacl"] for some in (stored, passes))
        assert stored.has(reading) and ours.equal(plain)
    assert not stored.has(Reading(scenes.benchmarks["voc21"], COARSE))
    assert not stored.has(Reading(scenes.benchmarks["voc21"], NATIVE.model_copy(update={"templates": "tcl"})))


def test_logits_that_are_not_there_are_named_with_the_remedy(scenes, kept):
    with pytest.raises(FileNotFoundError, match="no coarse logits of plain: run `dvc repro segmentation`"):
        find_kept(kept, scenes, "plain", COARSE)
    assert find_kept(kept, scenes, "plain", COARSE, needed=False) is None
    stored = find_kept(kept, scenes, "plain", NATIVE)
    with pytest.raises(ValueError, match="no coarse logits of 'cat' in templates tcl: run `dvc repro segmentation`"):
        stored.read(0).of("pacl", [("tcl", "cat")])
    path = stored.folder / "00000.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=re.escape(f"{path} is corrupt")):
        stored.read(0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path} is missing: run `dvc repro segmentation`")):
        stored.read(0)


def test_kept_logits_are_those_of_the_protocol_they_were_made_for(scenes, tmp_path):
    (keep,) = Keep.all_of(tmp_path / "set", scenes.benchmarks, ["plain"], NATIVE)
    assert ("seven", "kitten") in keep.texts["clip"] and ("one", "kitten") not in keep.texts["pacl"]
    assert {("one", "cow"), ("plain", "background")} <= {*keep.texts["pacl"]} - {*keep.texts["clip"]}, "voc21's"
    own = NATIVE.model_copy(update={"per_benchmark": {"plain": OnBenchmark(short_side=12)}})
    plain, other = Keep.all_of(tmp_path / "set", scenes.benchmarks, ["plain", "other"], own)
    assert (plain.geometry[0], other.geometry[0]) == (12, None) and plain.folder != other.folder
    assert ("seven", "cow") not in plain.texts["clip"]


class Identified(CountingCLIP):
    dtype, identity = "float32", {"weights": "a checksum"}

    def __init__(self, folder):
        super().__init__()
        self.kept_texts = folder


def test_a_text_is_embedded_once_for_all_clips_of_one_checksum_and_alike_without_the_table(tmp_path):
    first, second, plain = Identified(tmp_path), Identified(tmp_path), ColourCLIP()
    for clip in (first, second):
        for names in (["cat, kitten", "dog"], ["dog", "cow"]):
            ours, expected = (class_texts(one, names, ["{}", "a {}"]) for one in (clip, plain))
            assert torch.equal(ours.features, expected.features)
            assert torch.equal(ours.phrase_index, expected.phrase_index)
    assert set(first.prompts.values()) == {1} and len(first.prompts) == 8 and not second.prompts
    other = Identified(tmp_path)
    other.identity = {"weights": "another"}
    class_texts(other, ["dog"], ["{}", "a {}"])
    class_texts(second, ["dog"], ["a {}"])
    assert set(other.prompts) == {"dog", "a dog"} and set(second.prompts) == {"a dog"}


def test_a_damaged_text_is_embedded_again(tmp_path):
    expected = class_texts(Identified(tmp_path), ["cat"], ["{}"]).features
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:64], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        clip = Identified(tmp_path)
        assert torch.equal(class_texts(clip, ["cat"], ["{}"]).features, expected)
        assert clip.prompts == {"cat": 1} and path.read_bytes() == whole
