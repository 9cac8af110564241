"""One model read in several ways: every row is what the evaluation says with that protocol."""

import numpy as np
import pytest
from test_evaluate import BENCHMARKS, METHODS, ColourCLIP, pictures

from pacl.data import Images, Masks
from pacl.evaluate import segmentation
from pacl.inference import SCALES, TITLES, best_scales, inference_table, scale_table, settings_of
from pacl.metrics import mean_iou
from pacl.params import Protocol

RULE = "probability below 0.5 (TCL's)"
NATIVE = Protocol(token_stride=2, background_rule="entropy", background_threshold=1.5, logit_scale=3.0)


def test_each_group_holds_the_native_protocol_once():
    groups = settings_of(NATIVE, [4, 2], 4)
    assert set(groups) == set(TITLES)
    for changes in groups.values():
        assert list(changes.values()).count(NATIVE) == 1
    assert list(groups["stride"]) == ["4 pixels", "2 pixels, joint", "2 pixels, shifted"]


def test_rows_are_the_evaluations_own_numbers():
    images, masks = pictures([(14, 20)] * 5)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    benchmarks = {"voc20": BENCHMARKS["plain"], "voc21": BENCHMARKS["with_background"]}

    class settings:
        strides, inference_scenes = [4, 2], 3

    table = inference_table(ColourCLIP(), METHODS["pacl"], (*scenes, benchmarks), NATIVE, settings, {RULE: 5.0})
    first = [kind(scene.source[:3]) for kind, scene in zip((Images, Masks), scenes, strict=True)]
    assert settings_of(NATIVE, [], 4, {RULE: 5.0})["background"][RULE].logit_scale == 5.0
    for group, changes in settings_of(NATIVE, [4, 2], 4, {RULE: 5.0}).items():
        name = "voc21" if group == "background" else "voc20"
        rows = table[table.group == group].set_index("setting")
        assert list(rows.index) == list(changes) and (rows.point == "default").sum() == 1
        for setting, protocol in changes.items():
            one = segmentation(ColourCLIP(), {"a": METHODS["pacl"]}, *first, {name: benchmarks[name]}, protocol)
            assert rows[name][setting] == pytest.approx(mean_iou(one[name]["a"]))


def test_each_scale_is_what_the_evaluation_says_with_it():
    images, masks = pictures([(14, 20)] * 5)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    sets = {
        "": (*scenes, {"voc21": BENCHMARKS["with_background"]}),
        "other": (*scenes, {"ade20k": BENCHMARKS["plain"]}),
    }
    windows = Protocol(
        short_side=16, window=8, window_stride=4, background_rule="probability", background_threshold=0.5
    )
    methods = {name: METHODS[name] for name in ("clip", "pacl")}
    table = scale_table(ColourCLIP(), methods, sets, {"native": NATIVE, "windows": windows}, 3)
    assert list(table.protocol) == ["native"] * 2 * len(SCALES) + ["windows"] * 2 * len(SCALES)
    assert list(table.method) == (["clip"] * len(SCALES) + ["pacl"] * len(SCALES)) * 2
    first = [kind(scene.source[:3]) for kind, scene in zip((Images, Masks), scenes, strict=True)]
    for name, method, scale, value in table.itertuples(index=False):
        protocol = {"native": NATIVE, "windows": windows}[name].model_copy(update={"logit_scale": scale})
        one = segmentation(ColourCLIP(), {"a": METHODS[method]}, *first, sets[""][2], protocol)
        assert value == pytest.approx(mean_iou(one["voc21"]["a"]))
    table = table[table.method == "pacl"]
    for name, scale in best_scales(table).items():
        own = table[table.protocol == name].set_index("logit_scale").voc21
        assert own[scale] == own.max()
    assert best_scales(scale_table(ColourCLIP(), methods, {}, {"native": NATIVE}, 3)) == {}  # no validation scenes
    assert best_scales(scale_table(ColourCLIP(), methods, {"other": sets["other"]}, {"native": NATIVE}, 3)) == {}
