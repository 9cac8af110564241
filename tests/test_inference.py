"""One model read in several ways: every row is what the evaluation says with that protocol."""

import numpy as np
import pytest
from test_evaluate import BENCHMARKS, METHODS, ColourCLIP, pictures

from pacl.data import Images, Masks
from pacl.evaluate import segmentation
from pacl.inference import TITLES, inference_table, settings_of
from pacl.metrics import mean_iou
from pacl.params import Protocol

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

    table = inference_table(ColourCLIP(), METHODS["pacl"], (*scenes, benchmarks), NATIVE, settings)
    first = [kind(scene.source[:3]) for kind, scene in zip((Images, Masks), scenes, strict=True)]
    for group, changes in settings_of(NATIVE, [4, 2], 4).items():
        name = "voc21" if group == "background" else "voc20"
        rows = table[table.group == group].set_index("setting")
        assert list(rows.index) == list(changes) and (rows.point == "default").sum() == 1
        for setting, protocol in changes.items():
            one = segmentation(ColourCLIP(), {"a": METHODS["pacl"]}, *first, {name: benchmarks[name]}, protocol)
            assert rows[name][setting] == pytest.approx(mean_iou(one[name]["a"]))
