"""One model read in several ways: every row is what the evaluation says with that protocol."""

import re

import numpy as np
import pytest
from helpers.colour_world import BENCHMARKS, METHODS, ColourCLIP, pictures

from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.ablations.readings import (
    RULES,
    SCALES,
    TEMPLATES,
    TITLES,
    best_scales,
    confmats_of_scales,
    inference_table,
    scale_table,
    settings_of,
)
from pacl.evaluation.segmentation import segmentation
from pacl.metrics import mean_iou
from pacl.runtime.params import Protocol

WORDS = {"phrases": {"words": ["sky, sea", "cow", "green hill, hill"]}}  # for the background, too
RULE = "probability below 0.5 (TCL's)"
NATIVE = Protocol(token_stride=2, background_rule="entropy", background_threshold=1.5, logit_scale=3.0)


@pytest.mark.parametrize("stride", [2, 4])
def test_each_group_holds_the_native_protocol_once(stride):
    native = NATIVE.model_copy(update={"token_stride": stride})
    groups = settings_of(native, [4, 2], 4)
    assert set(groups) == set(TITLES)
    for changes in groups.values():
        assert list(changes.values()).count(native) == 1
    assert list(groups["stride"]) == ["4 pixels", "2 pixels, joint", "2 pixels, shifted"]


def test_templates_and_background_rules_are_called_what_they_are():
    assert {label.split()[0]: len(templates(name)) for name, label in TEMPLATES.items()} == (
        {"the": 1, "one": 1, "seven": 7, "80": 80}
    )
    assert templates("plain") == ["{}"] and TEMPLATES["plain"] == "the name alone"
    for setting, (rule, threshold) in RULES.items():
        assert rule == "none" or re.match(f"{rule} (above|below) {threshold}( nats)?( |$)", setting), setting


def test_rows_are_the_evaluations_own_numbers():
    images, masks = pictures([(14, 20)] * 5)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    benchmarks = {"voc20": BENCHMARKS["plain"], "voc21": BENCHMARKS["with_background"]}
    benchmarks["context59"] = BENCHMARKS["plain"] | {"classes": ["bag", "bed", "bird", "boat"]}

    class settings:
        strides, inference_scenes = [4, 2], 3

    table = inference_table(ColourCLIP(), METHODS["pacl"], (*scenes, benchmarks), NATIVE, settings, {RULE: 5.0})
    first = [kind(scene.source[:3]) for kind, scene in zip((Images, Masks), scenes, strict=True)]
    assert settings_of(NATIVE, [], 4, {RULE: 5.0})["background"][RULE].logit_scale == 5.0
    for group, changes in settings_of(NATIVE, [4, 2], 4, {RULE: 5.0}).items():
        names = ("voc21",) if group == "background" else ("voc20", "context59")
        rows = table[table.group == group].set_index("setting")
        assert list(rows.index) == list(changes) and (rows.point == "default").sum() == 1
        for setting, protocol in changes.items():
            measured = {name: benchmarks[name] for name in names}
            one = segmentation(ColourCLIP(), {"a": METHODS["pacl"]}, *first, measured, protocol)
            for name in names:
                assert rows[name][setting] == pytest.approx(mean_iou(one[name]["a"]))


def test_each_scale_is_what_the_evaluation_says_with_it():
    images, masks = pictures([(14, 20)] * 5)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    sets = {
        "": (*scenes, {"voc21": BENCHMARKS["with_background"] | WORDS}),
        "other": (*scenes, {"ade20k": BENCHMARKS["plain"]}),
    }
    windows = Protocol(
        short_side=16, window=8, window_stride=4, background_rule="probability", background_threshold=0.5
    )
    methods = {name: METHODS[name] for name in ("clip", "pacl")}
    protocols = {"native": NATIVE, "windows": windows, "words": windows.model_copy(update={"phrases": "words"})}
    table = scale_table(ColourCLIP(), methods, sets, protocols, 3)
    assert list(table.protocol) == [name for name in protocols for _ in range(2 * len(SCALES))]
    assert list(table.method) == (["clip"] * len(SCALES) + ["pacl"] * len(SCALES)) * 3
    first = [kind(scene.source[:3]) for kind, scene in zip((Images, Masks), scenes, strict=True)]
    for name, method, scale, value in table.itertuples(index=False):
        protocol = protocols[name].model_copy(update={"logit_scale": scale})
        one = segmentation(ColourCLIP(), {"a": METHODS[method]}, *first, sets[""][2], protocol)
        assert value == pytest.approx(mean_iou(one["voc21"]["a"]))
    table = table[table.method == "pacl"]
    for name, scale in best_scales(table).items():
        own = table[table.protocol == name].set_index("logit_scale").voc21
        assert own[scale] == own.max()
    assert best_scales(scale_table(ColourCLIP(), methods, {}, {"native": NATIVE}, 3)) == {}  # no validation scenes
    assert best_scales(scale_table(ColourCLIP(), methods, {"other": sets["other"]}, {"native": NATIVE}, 3)) == {}


def test_scales_are_tried_on_all_images_however_many_batches_they_are(monkeypatch):
    monkeypatch.setattr("pacl.evaluation.ablations.readings.SCALES", (3.0,))
    images, masks = pictures([(8, 12)] * 18 + [(12, 8)] * 2)
    scenes, benchmark = (Images(images), Masks(masks)), BENCHMARKS["with_background"]
    found = confmats_of_scales(ColourCLIP(), METHODS, *scenes, benchmark, NATIVE)
    expected = segmentation(ColourCLIP(), METHODS, *scenes, {"": benchmark}, NATIVE)[""]
    assert found.keys() == {("clip", 3.0), ("pacl", 3.0)}
    assert all(found[method, 3.0].equal(confmat) for method, confmat in expected.items())
