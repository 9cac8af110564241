"""What is said of the ablations' runs, and that it is said of what params.yaml trains."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pacl.evaluation.ablations.findings import GROUPS, STRAW_MAN, finding, point_table, world_table, write_findings

PARAMS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
PROFILES = [name for name in PARAMS if "ablations" in PARAMS[name]]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_point_has_a_place_in_the_figures(profile):
    drawn = {point for _, settings in GROUPS.values() for point in settings}
    assert drawn - {"main_run"} == PARAMS[profile]["ablations"]["points"].keys() - {"main_run"}


@pytest.mark.parametrize("profile", PROFILES)
def test_settings_are_called_by_what_their_points_train_with(profile):
    settings, features = PARAMS[profile]["ablations"], PARAMS[profile]["features"]
    base = PARAMS[profile]["train"] | PARAMS[profile]["model"] | features | settings["base"]
    of = {point: base | changes for point, changes in settings["points"].items()}
    said = {
        "pooling": lambda one: one["pooling"].replace("_", " "),
        "scale": lambda one: f"{one['scoring']} × {one['scale']:g}",
        "temperature": lambda one: "learned" if one["logit_scale"] == "learned" else f"fixed, × {one['logit_scale']:g}",
        "activation": lambda one: one["activation"],
        "embedder": lambda one: {"residual": "residual", "mlp": "MLP", "linear": "one linear layer"}[one["embedder"]],
        "text_embedder": lambda one: {"frozen": "CLIP's, frozen", "linear": "a linear layer"}[one["text_embedder"]],
        "pairs": lambda one: f"{one['pairs']:,}",
        "nouns": lambda one: {0.5: "half noun prompts", 0.0: "captions only"}[one["noun_share"]],
        "templates": lambda one: {"imagenet80": "80"}.get(one["templates"], one["templates"]),
        "batch": lambda one: f"{one['batch_size']}",
        "same_text": lambda one: "no, masked" if one["mask_same_text"] else "yes",
    }
    for group, name in said.items():
        for point, setting in GROUPS[group][1].items():
            assert setting.startswith(name(of[point])), setting
    tokens = {"after_norm": "after LayerNorm", "before_norm": "before LayerNorm", "value": "MaskCLIP's values"}
    assert all(setting.endswith(tokens[of[point]["tokens"]]) for point, setting in GROUPS["tokens"][1].items())
    steps = {point: one["epochs"] * (one["pairs"] // one["batch_size"]) for point, one in of.items()}
    assert f"({steps['pairs_20000'] / steps['default']:.1f} × the steps)" in GROUPS["pairs"][1]["pairs_20000"]
    assert steps["pairs_1000"] == pytest.approx(steps["default"], rel=0.05)


def test_the_main_runs_own_setting_is_that_of_its_training():
    settings, trained = PARAMS["photos"]["ablations"], PARAMS["photos"]["train"]
    assert trained | settings["base"] | settings["points"]["main_run"] == trained


def test_default_stands_in_every_group_that_has_another_point_and_skipped_points_in_none(tmp_path):
    runs = {"default": [{"seed": 0, "voc20": 0.5}], "mlp": [{"seed": 0, "voc20": 0.4}], "linear": []}
    for point, found in runs.items():
        (tmp_path / f"{point}.json").write_text(json.dumps({"point": point, "runs": found}))
    table = point_table(tmp_path, runs)
    assert table.group.unique().tolist() == ["embedder"] and table.point.tolist() == ["default", "mlp"]


def test_the_table_of_worlds_is_in_their_order_without_those_that_were_skipped(tmp_path):
    seeds = [5, 11, 9]
    for seed in seeds:
        content = {"seed": seed, "clip": {"voc20": seed / 100}, "pacl": {"voc20": seed / 10}}
        (tmp_path / f"{seed}.json").write_text(json.dumps(content))
    (tmp_path / "0.json").write_text(json.dumps({"seed": 0, "skipped": "flickr8k is not drawn from a seed"}))
    expected = [[seed, *row] for seed in sorted(seeds) for row in (["clip", seed / 100], ["pacl", seed / 10])]
    assert world_table(tmp_path).values.tolist() == expected
    none = world_table(tmp_path / "none")
    assert none.empty and list(none) == ["seed", "method"]


def runs_of(**measures):
    """Settings a, b, ... of two seeds each."""
    count = len(next(iter(measures.values()))) // 2
    return pd.DataFrame(
        {"setting": [name for name in "abcd"[:count] for _ in (0, 1)], "seed": [0, 1] * count, **measures}
    )


BEST_A = [0.80, 0.82, 0.60, 0.64]


@pytest.mark.parametrize("measures, said", [
    ({}, "Best: a. By patch accuracy: 81.0 % for a, 62.0 % for b."),
    (
        {"voc20": [0.5, 0.6, 0.5, 0.52]},
        "Best: a (tied on 1 of 2 measures). By patch accuracy: 81.0 % for a, 62.0 % for b; "
        "by voc20 mIoU: 55.0 % for a and 51.0 % for b (tied).",
    ),
    (
        {"voc20": [0.1, 0.12, 0.2, 0.22]},
        "The measures disagree. By patch accuracy: 81.0 % for a, 62.0 % for b; "
        "by voc20 mIoU: 21.0 % for b, 11.0 % for a.",
    ),
    (
        {"voc20": [0.2, 0.22, 0.1, 0.12]},
        "Best: a. By patch accuracy: 81.0 % for a, 62.0 % for b; by voc20 mIoU: 21.0 % for a, 11.0 % for b.",
    ),
])  # fmt: skip
def test_a_finding_weighs_each_measure_against_the_seeds(measures, said):
    assert finding(runs_of(patch_accuracy=BEST_A, **measures)) == said


@pytest.mark.parametrize("values, said", [
    ([0.4] * 4, "40.0 % for a and 40.0 % for b (tied)."),
    # ranked by means, and tied up to the distance of their own runs
    ([0.125, 0.625, 0.5, 0.5], "50.0 % for b and 37.5 % for a (tied)."),
    ([0.375, 0.375, 0.5, 0.75], "62.5 % for b and 37.5 % for a (tied)."),
    ([0.25, 0.25, 0.5, 0.75], "62.5 % for b, 25.0 % for a."),
    # what lies below a setting that is not tied is not called tied
    ([0.5, 0.5, 0.4, 0.4, 0.1, 0.5], "best: 50.0 % for a, next: 40.0 % for b, worst: 30.0 % for c."),
    ([0.64, 0.66, 0.64, 0.65, 0.63, 0.65], "65.0 % for a, 64.5 % for b and 64.0 % for c (tied)."),
    ([0.64, 0.66, 0.64, 0.65, 0.59, 0.60], "65.0 % for a and 64.5 % for b (tied), worst: 59.5 % for c."),
    ([0.64, 0.66, 0.64, 0.65, 0.59, 0.6, 0.49, 0.5], "65.0 % for a and 64.5 % for b (tied), worst: 49.5 % for d."),
])  # fmt: skip
def test_settings_within_the_spread_of_seeds_are_tied(values, said):
    best = said.removeprefix("best: ").split(" for ")[1][0]
    verdict = "No clear winner: differences are within seed noise." if "tied" in said else f"Best: {best}."
    assert finding(runs_of(voc21=values)) == f"{verdict} By voc21 mIoU: {said}"


def test_findings_carry_all_that_the_report_says_of_a_group(tmp_path):
    trained = {"group": "embedder", "point": ["default", "mlp"], "setting": ["residual", "MLP"], "seed": 0}
    read = {"group": "background", "point": "background_1", "setting": ["entropy", STRAW_MAN], "seed": 0}
    runs = pd.concat([pd.DataFrame(trained | {"voc20": [0.5, 1 / 3]}), pd.DataFrame(read | {"voc21": [0.4, 0.1]})])
    scales, worlds = pd.DataFrame({"protocol": ["tcl"]}), pd.DataFrame({"seed": [1]})
    found = write_findings(tmp_path, runs, scales, worlds)
    assert json.loads((tmp_path / "findings.json").read_text()) == found
    assert found["embedder"] == {
        "title": "Embedder",
        "trained": True,
        "finding": "One run a setting. By voc20 mIoU: 50.0 % for residual, 33.3 % for MLP.",
        "settings": ["residual", "MLP"],
        "default": "residual",
        "left_out": [],
    }
    background = found["background"]
    assert background["left_out"] == [STRAW_MAN] and background["default"] is None and not background["trained"]
    assert background["title"].startswith("Background rule, each at its best")
    written = pd.read_csv(tmp_path / "ablations.csv")
    assert written.voc20.tolist()[:2] == [0.5, 0.333333] and written.setting.tolist()[3] == STRAW_MAN
    assert [pd.read_csv(tmp_path / f"{name}.csv").size for name in ("logit_scales", "worlds")] == [1, 1]
