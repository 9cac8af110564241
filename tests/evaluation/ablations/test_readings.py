"""One model read in several ways: every row is what the evaluation says with that protocol."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers.colour_world import BENCHMARKS, METHODS, ColourCLIP, CountingCLIP, image_set, pictures

from pacl.data.prompts import templates
from pacl.evaluation.ablations.findings import READINGS, STRAW_MAN
from pacl.evaluation.ablations.readings import (
    RULES,
    SCALES,
    TEMPLATES,
    background_rules,
    best_scales,
    readings_table,
    scale_table,
    settings_of,
)
from pacl.evaluation.dense import Passes
from pacl.evaluation.segmentation import confusion_matrices
from pacl.metrics import mean_iou
from pacl.runtime.params import OnBenchmark, Protocol

RULE = "probability below 0.5 (TCL's)"
NATIVE = Protocol(token_stride=2, background_rule="entropy", background_threshold=1.5, logit_scale=3.0)
VOC21 = {"voc21": replace(BENCHMARKS["with_background"], name="voc21")}


def miou(method, scenes, name, protocol):
    """The evaluation's own."""
    only, sets = {"": METHODS[method]}, {"": scenes}
    return mean_iou(confusion_matrices(ColourCLIP(), only, sets, [name], {"": protocol})[""][name][""])


@pytest.mark.parametrize("stride", [2, 4])
def test_each_group_holds_the_native_protocol_once(stride):
    native = NATIVE.model_copy(update={"token_stride": stride})
    groups = settings_of(native, [4, 2], 4)
    assert set(groups) == set(READINGS)
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


def test_rules_that_a_scale_is_searched_for_are_all_but_the_straw_man():
    rules = background_rules(NATIVE)
    assert list(rules) == [name for name in RULES if name != STRAW_MAN]
    assert (rules[RULE].background_rule, rules[RULE].background_threshold) == RULES[RULE]


def test_rows_are_the_evaluations_own_numbers(one_process):
    benchmarks = VOC21 | {name: replace(BENCHMARKS["plain"], name=name) for name in ("voc20", "context59")}
    benchmarks["context59"] = replace(benchmarks["context59"], classes=("bag", "bed", "bird", "boat"))
    scenes, scales = image_set(*pictures([(14, 20)] * 5), benchmarks), {RULE: 5.0}
    settings, clip = SimpleNamespace(strides=[4, 2]), CountingCLIP()
    passes = Passes(clip, {"pacl": METHODS["pacl"]}, scenes.first(3), 16)
    table = readings_table(passes, None, NATIVE, settings, scales)
    assert clip.passes == {(2, "joint"): 3, (2, "shifted"): 3}, "one a scene: shifted ones have the plain grid's tokens"
    assert settings_of(NATIVE, [], 4, scales)["background"][RULE].logit_scale == 5.0
    for group, changes in settings_of(NATIVE, [4, 2], 4, scales).items():
        rows = table[table.group == group].set_index("setting")
        assert list(rows.index) == list(changes) and (rows.point == "default").sum() == 1
        for setting, protocol in changes.items():
            for name in ("voc21",) if group == "background" else ("voc20", "context59"):
                assert rows[name][setting] == pytest.approx(miou("pacl", scenes.first(3), name, protocol))


def test_each_scale_is_what_the_evaluation_says_with_it(monkeypatch, one_process):
    monkeypatch.setattr("pacl.evaluation.ablations.readings.SCALES", SCALES[::4])
    scenes = image_set(*pictures([(14, 20)] * 5), VOC21)
    sets = {"": scenes, "other": replace(scenes, benchmarks={"ade20k": BENCHMARKS["plain"]})}
    rule = {"background_rule": "probability", "background_threshold": 0.5}
    windows = Protocol(short_side=16, window=8, window_stride=4, **rule)
    protocols = {"native": NATIVE, "windows": windows, "words": windows.model_copy(update={"phrases": "words"})}
    asked, clip = {name: (protocol, tuple(METHODS)) for name, protocol in protocols.items()}, CountingCLIP()
    table = scale_table(clip, METHODS, sets, asked, 3)
    assert sum(clip.passes.values()) == 3 + 3 * 15, "native's scenes, and the windows of those of both other protocols"
    assert list(table.protocol) == [name for name in protocols for _ in range(2 * 3)]
    assert list(table.method) == (["clip"] * 3 + ["pacl"] * 3) * 3
    for name, method, scale, value in table.itertuples(index=False):
        protocol = protocols[name].model_copy(update={"logit_scale": scale})
        assert value == pytest.approx(miou(method, scenes.first(3), "voc21", protocol))
    table = table[table.method == "pacl"]
    for name, scale in best_scales(table).items():
        own = table[table.protocol == name].set_index("logit_scale").voc21
        assert own[scale] == own.max()
    for none in ({}, {"other": sets["other"]}):  # no validation scenes, or none with voc21
        assert best_scales(scale_table(clip, METHODS, none, {"native": (NATIVE, ("pacl",))}, 3)) == {}


def test_a_scale_of_its_own_on_a_benchmark_does_not_hide_the_scales_that_are_tried(monkeypatch):
    monkeypatch.setattr("pacl.evaluation.ablations.readings.SCALES", (1.0, 30.0))
    scenes = image_set(*pictures([(14, 20)] * 2), VOC21)
    own = {"per_benchmark": {"voc21": OnBenchmark(logit_scale=2.0)}, "background_threshold": 0.55}
    own = NATIVE.model_copy(update=own)
    table = scale_table(ColourCLIP(), METHODS, {"": scenes}, {"native": (own, ("pacl",))}, 2)
    assert table.voc21.nunique() == 2
