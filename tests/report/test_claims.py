"""A claim's verdict follows from its rule and the numbers, and from nothing else."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.imports import ROOT, parse
from helpers.profiles import params_of
from helpers.small_training import params

from pacl.clip.features import Texts, patch_tokens, text_features, text_table
from pacl.data.benchmark import Benchmark
from pacl.data.prepared import read_pairs, read_scenes, write_pairs, write_scenes
from pacl.report.claims import as_text, judge, load_ledger, quantity, satisfied, write_claims
from pacl.report.results import Results
from pacl.runtime import processes
from pacl.runtime.files import read_json, write_json
from pacl.training.cached import CachedPairs
from pacl.training.train import train

SETTING = ("label", "source", "backbone", "pretrained", "all test scenes of", "patches of")
IN_MINI = ("mini world, not Pascal VOC", "miniworld", "miniclip", "data/miniclip", [], "coco_stuff")
IN_PAPER = ("Pascal VOC", "webdataset", "ViT-B-16", "openai", ["voc20", "voc21", "ade20k"], "voc20")
MINI, PAPER = (dict(zip(SETTING, values, strict=True)) for values in (IN_MINI, IN_PAPER))
MEASURES = ("miou", "miou_foreground", "pixel_accuracy")
BENCHMARKS = ("voc20", "voc21", "context59", "coco_stuff", "ade20k")
MIOUS = [  # of the paper: claim, benchmark, value
    ("miou-voc-number", "voc20", 0.723),
    ("miou-context59-number", "context59", 0.501),
    ("miou-coco-stuff-number", "coco_stuff", 0.388),
    ("miou-ade20k-number", "ade20k", 0.314),
]


def metrics_with(pacl=0.8, clip=0.4, auc=0.87, sets=12, gain=0.01) -> dict:
    """Equal values everywhere; each of `sets` classification sets gains `gain` over 0.5."""
    patches = {name: {"accuracy": value, "auc": auc} for name, value in (("clip", clip), ("pacl", pacl))}
    patches |= {"random": {"accuracy": 0.1, "auc": 0.5}, "colours": {"auc": 0.6}}
    methods = {name: dict.fromkeys(MEASURES, value) for name, value in (("clip", clip), ("pacl", pacl))}
    one_set = {"clip": 0.5, "pacl": 0.5 + gain, "ensemble": 0.5 + 2 * gain}
    return {
        "patch_alignment": patches,
        "segmentation": {benchmark: {"native": methods} for benchmark in BENCHMARKS},
        "classification": {f"set{i}": dict(one_set) for i in range(sets)},
    }


def rows_of(metrics: dict, setting: dict = MINI) -> dict[str, dict]:
    return {row["id"]: row for row in judge(load_ledger(), metrics, setting)}


def verdicts(metrics: dict, setting: dict = MINI) -> dict[str, str]:
    return {name: row["verdict"] for name, row in rows_of(metrics, setting).items()}


def kinds(kind: str) -> set[str]:
    return {claim["id"] for claim in load_ledger() if claim["kind"] == kind}


def test_ledger_has_every_claim_of_the_paper():
    numbers = {"patch-accuracy-vit-b-16": "52.49 → 96.51", "patch-accuracy-vit-l-14": "27.91 → 95.33"}
    numbers |= {claim: f"{100 * paper:.1f}" for claim, _, paper in MIOUS}
    directions = {"clip-coherence", "patch-accuracy", "classification", "classification-with-clip"}
    directions |= {f"miou-{name.replace('_', '-')}" for name in BENCHMARKS}
    values = {claim["id"]: claim["paper"] for claim in load_ledger()}
    assert len(values) == len(load_ledger()) and values.keys() == {*numbers, *directions, "no-annotation"}
    assert {name: values[name] for name in numbers} == numbers


def test_in_the_mini_world_directions_are_decided_and_numbers_are_not():
    rows = rows_of(metrics_with())
    for name, row in rows.items():
        expected = "not tested" if name in kinds("number") else "reproduced"
        assert row["verdict"] == expected, row
        assert ("mini world, not Pascal VOC" in row["measured"]) == (expected == "reproduced")
        assert bool(row["reason"]) == (expected == "not tested")
    assert rows["patch-accuracy"]["measured"] == "40.0% → 80.0% (mini world, not Pascal VOC)"


def test_a_worse_pacl_reproduces_no_direction():
    found = verdicts(metrics_with(pacl=0.3, auc=0.6, gain=-0.01))
    assert {found[name] for name in kinds("direction")} == {"not reproduced"}
    level = verdicts(metrics_with(pacl=0.4))
    compared = {"patch-accuracy", *(f"miou-{name.replace('_', '-')}" for name in BENCHMARKS)}
    assert {level[name] for name in compared} == {"not reproduced"}, "equal is not above"
    for control in ("random", "colours"):
        no_better = metrics_with(auc=0.9)
        no_better["patch_alignment"][control]["auc"] = 0.9
        assert verdicts(no_better)["clip-coherence"] == "not reproduced"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_benchmark_where_pacls_miou_is_no_better_fails_its_own_claim_only(benchmark):
    metrics = metrics_with()
    same = {"miou": 0.5, "miou_foreground": 0.5}
    level = {"clip": same | {"pixel_accuracy": 0.6}, "pacl": same | {"pixel_accuracy": 0.7}}
    metrics["segmentation"][benchmark] = {"native": level, "tcl": metrics["segmentation"][benchmark]["native"]}
    found = verdicts(metrics)
    failed = {name for name in kinds("direction") if found[name] != "reproduced"}
    assert failed == {f"miou-{benchmark.replace('_', '-')}"}


def test_with_a_background_the_mean_over_the_other_classes_decides():
    metrics = metrics_with()
    of_pacl = metrics["segmentation"]["voc21"]["native"]["pacl"] | {"miou": 0.0}
    metrics["segmentation"]["voc21"] = {"native": metrics["segmentation"]["voc21"]["native"] | {"pacl": of_pacl}}
    row = rows_of(metrics)["miou-voc21"]
    assert (row["verdict"], row["measured"]) == ("reproduced", "40.0% → 80.0% (mini world, not Pascal VOC)")


def test_tokens_are_coherent_from_an_auc_of_seven_tenths_on():
    found = [verdicts(metrics_with(auc=auc))["clip-coherence"] for auc in (0.7, 0.6999)]
    assert found == ["reproduced", "not reproduced"]


def test_random_weights_test_nothing():
    rows = rows_of(metrics_with(), PAPER | {"pretrained": "random"}).values()
    found = {(row["verdict"], row["measured"], row["reason"]) for row in rows}
    assert found == {("not tested", "not measured", "the weights are random")}


def test_numbers_are_decided_in_the_papers_setting_only():
    for changed in (
        {"all test scenes of": ["voc21", "ade20k"]},
        {"patches of": "coco_stuff"},
        {"backbone": "ViT-L-14"},
    ):
        found = verdicts(metrics_with(pacl=0.96, clip=0.525), PAPER | changed)
        assert found["patch-accuracy-vit-b-16"] == "not tested"
    voc = rows_of(metrics_with(pacl=0.5), PAPER | {"label": "Flickr8k", "source": "flickr8k"})["miou-voc-number"]
    assert voc["verdict"] == "not tested" and voc["measured"] == "50.0% (Flickr8k)"
    assert voc["reason"] == "needs the paper's setting (source webdataset)"
    stuff = rows_of(metrics_with(), PAPER)["miou-coco-stuff-number"]
    assert stuff["verdict"] == "not tested" and "(all test scenes of coco_stuff)" in stuff["reason"]


@pytest.mark.parametrize(("backbone", "clip", "pacl"), [("ViT-B-16", 0.5249, 0.9651), ("ViT-L-14", 0.2791, 0.9533)])
def test_the_papers_patch_accuracies_are_met_within_a_point(backbone, clip, pacl):
    def verdict(clip, pacl):
        found = verdicts(metrics_with(round(pacl, 4), round(clip, 4)), PAPER | {"backbone": backbone})
        return found[f"patch-accuracy-{backbone.lower()}"]

    met = [(clip - 0.01, pacl - 0.01), (clip + 0.01, 1.0)]
    missed = [(clip - 0.0101, pacl), (clip + 0.0101, pacl), (clip, pacl - 0.0101)]
    assert [verdict(*one) for one in met + missed] == ["reproduced"] * 2 + ["not reproduced"] * 3


@pytest.mark.parametrize(("claim", "benchmark", "paper"), MIOUS)
def test_a_miou_of_the_papers_is_met_within_a_point_by_pacl_on_all_of_that_benchmark(claim, benchmark, paper):
    for below, verdict in ((0.01, "reproduced"), (0.0101, "not reproduced")):
        miou = round(paper - below, 4)
        metrics = metrics_with(pacl=0.0 if verdict == "reproduced" else 1.0, clip=0.0)  # elsewhere
        metrics["segmentation"][benchmark]["native"] = {"clip": {"miou": 0.1}, "pacl": {"miou": miou}}
        row = rows_of(metrics, PAPER | {"all test scenes of": [benchmark]})[claim]
        assert (row["verdict"], row["measured"]) == (verdict, f"{miou:.1%} (Pascal VOC)")
    others = [name for name in BENCHMARKS if name != benchmark]
    assert verdicts(metrics, PAPER | {"all test scenes of": others})[claim] == "not tested"


@pytest.mark.parametrize(("claim", "score"), [("classification", "pacl"), ("classification-with-clip", "ensemble")])
@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.02] * 9 + [-0.01] * 3, "reproduced"),
        ([0.02] * 8 + [-0.01] * 4, "not reproduced"),
        ([0.0] * 5 + [0.05] * 7, "reproduced"),
        ([0.0] * 6 + [0.05] * 6, "not reproduced"),  # ties are no improvement
        ([0.01] * 11 + [-0.5], "not reproduced"),
        ([0.02] * 11, "not tested"),
    ],
)
def test_classification_needs_the_mean_seven_better_and_nine_not_worse_of_twelve(gains, verdict, claim, score):
    metrics = metrics_with()
    other = 0.4 if verdict == "reproduced" else 0.6  # the score that this claim isn't about
    metrics["classification"] = {
        f"set{i}": {"clip": 0.5, "pacl": other, "ensemble": other} | {score: round(0.5 + gain, 6)}
        for i, gain in enumerate(gains)
    }
    assert verdicts(metrics)[claim] == verdict


def test_each_direction_shows_its_own_numbers():
    metrics = metrics_with(sets=0)
    clip, pacl = {"accuracy": 0.41, "auc": 0.81}, {"accuracy": 0.72, "auc": 0.92}
    controls = {"random": {"accuracy": 0.13, "auc": 0.53}, "colours": {"auc": 0.64}}
    metrics["patch_alignment"] = {"clip": clip, "pacl": pacl} | controls
    for i, name in enumerate(BENCHMARKS):
        means = ({measure: value + i / 100 for measure in MEASURES} for value in (0.1, 0.3))
        native = dict(zip(("clip", "pacl"), means, strict=True))
        metrics["segmentation"][name] = {"native": native, "tcl": {"clip": {"miou": 0.9}, "pacl": {"miou": 0.9}}}
    gains = [0.04] * 8 + [0.0] * 2 + [-0.31] * 2
    metrics["classification"] = {
        f"set{i}": {"clip": 0.5, "pacl": 0.5 + gain, "ensemble": 0.5 + abs(gain)} for i, gain in enumerate(gains)
    }
    shown = {name: row["measured"] for name, row in rows_of(metrics).items()}
    expected = {
        "clip-coherence": "AUC 0.81; colours alone 0.64, an untrained encoder 0.53",
        "patch-accuracy": "41.0% → 72.0%",
        "classification": "−2.5 points on average, 8 of 12 sets better, 10 not worse",
        "classification-with-clip": "+7.8 points on average, 10 of 12 sets better, 12 not worse",
    }
    for i, name in enumerate(BENCHMARKS):
        expected[f"miou-{name.replace('_', '-')}"] = f"{10 + i}.0% → {30 + i}.0%"
    assert {name: shown[name].removesuffix(" (mini world, not Pascal VOC)") for name in kinds("direction")} == expected


def test_what_is_missing_is_not_tested_and_the_first_lacking_number_named():
    metrics = metrics_with()
    del metrics["segmentation"]["ade20k"], metrics["patch_alignment"]["colours"]
    metrics["patch_alignment"]["clip"]["accuracy"] = float("nan")
    rows = rows_of(metrics)
    for name, lacking in {
        "miou-ade20k": "segmentation.ade20k.native.pacl.miou",
        "clip-coherence": "patch_alignment.clip.auc and patch_alignment.colours.auc",
        "patch-accuracy": "patch_alignment.clip.accuracy",
    }.items():
        assert rows[name]["verdict"] == "not tested" and lacking in rows[name]["reason"]
    rows = rows_of({}, PAPER | {"label": "Flickr8k", "source": "flickr8k"})
    assert {(row["verdict"], row["measured"]) for row in rows.values()} == {("not tested", "not measured")}
    assert rows["miou-voc-number"]["reason"] == "needs the paper's setting (source webdataset)", "before the numbers"
    assert rows["classification"]["reason"] == "metrics.json lacks pacl and clip of 12 sets in classification"
    more = rows_of(metrics_with(sets=13))["classification"]["measured"]
    assert more.startswith("+1.0 points on average, 13 of 13 sets better, 13 not")


def test_conditions_by_hand():
    metrics = {"a": {"b": 0.3}, "c": 0.1, "t": {"x": {"p": 0.6, "q": 0.5}, "y": {"p": 0.2, "q": 0.5}}}
    assert quantity(metrics, {"value": "a.b"}) == 0.3
    assert quantity(metrics, {"value": "a.b", "minus": "c"}) == 0.2
    assert quantity(metrics, {"value": "a.z"}) is None
    over = {"over": "t", "sets": 2, "value": "p", "minus": "q"}
    assert quantity(metrics, over | {"take": "mean"}) == pytest.approx(-0.1)
    assert quantity(metrics, over | {"take": "mean", "sets": 1}) == pytest.approx(-0.1), "of all sets that are there"
    assert quantity(metrics, over | {"take": "not_worse"}) == 1
    assert [quantity(metrics, over | {"take": "count", "sets": least}) for least in (1, 2, 3)] == [2, 2, None]
    metrics["t"]["y"]["p"] = 0.5
    assert [quantity(metrics, over | {"take": take}) for take in ("not_worse", "better")] == [2, 1]
    metrics["t"]["y"]["p"] = 0.49999
    assert [quantity(metrics, over | {"take": take}) for take in ("not_worse", "better")] == [1, 1], "no tie"
    metrics["t"]["z"] = {"p": 0.7}
    assert quantity(metrics, over | {"take": "better"}) is None
    assert [satisfied(v, {"above": 0.5}) for v in (0.5, 0.51)] == [False, True]
    assert [satisfied(v, {"at_least": 0.5, "at_most": 0.6}) for v in (0.4, 0.5, 0.6, 0.7)] == [False, True, True, False]
    assert not satisfied(None, {"above": 0})


def test_every_rule_can_be_met_and_missed():
    """A rule that no numbers fail, or none pass, decides nothing."""
    bad = metrics_with(pacl=0.1, clip=0.9, auc=0.5, gain=-0.1)
    for claim in load_ledger():
        good = metrics_with(pacl=0.99, clip=0.2791 if "vit-l-14" in claim["id"] else 0.5249)
        setting = MINI | claim.get("setting", {})
        assert judge([claim], good, setting)[0]["verdict"] == "reproduced", claim["id"]
        if claim["kind"] != "construction":
            assert judge([claim], bad, setting)[0]["verdict"] == "not reproduced", claim["id"]


def test_a_claim_by_construction_names_a_test_that_exists():
    for claim in load_ledger():
        if claim["kind"] == "construction":
            path, name = claim["test"].split("::")
            assert name in {getattr(node, "name", "") for node in parse(ROOT / path).body}


def results_of(folder, profile: str, metrics: dict, prepared: dict, **changes) -> Results:
    """A run that measured `metrics`."""
    for stage, measured in metrics.items():
        write_json(folder / stage / f"{stage}.json", measured)
    write_json(folder / "prepare/prepare.json", prepared)
    return Results(profile, params_of(profile, **changes), folder)


def test_written_claims_have_the_agreed_keys(tmp_path):
    claims = write_claims(results_of(tmp_path, "mini", metrics_with(), {"label": "mini world, not Pascal VOC"}))
    assert claims == read_json(tmp_path / "claims.json")
    assert all({"id", "claim", "paper", "measured", "verdict"} <= set(row) for row in claims)
    head, rule, *lines = as_text(claims).splitlines()
    ends = [i + 2 for i in range(len(rule)) if rule[i : i + 2] == "  "]
    assert [head.index(title) for title in ("Claim", "Paper", "Measured here")] == ends
    assert sum(line.startswith("reproduced") for line in lines) == len(kinds("direction") | kinds("construction"))
    (row,) = (line for line in lines if line.startswith("reproduced") and "52.49" in line)
    assert row[ends[-1] :].startswith("40.0% → 80.0%")


@pytest.mark.parametrize(
    ("whole", "patches", "tested"),
    [
        (["voc20", "voc21"], "voc20", {"patch-accuracy-vit-b-16", "miou-voc-number"}),
        (["voc21", "ade20k"], "coco_stuff", {"miou-ade20k-number"}),
        ([], "voc20", set()),
    ],
)
def test_written_claims_are_judged_by_what_the_run_was_made_with(tmp_path, whole, patches, tested):
    """The source, CLIP and benchmark of the parameters; of prepare.json, which benchmarks are whole."""
    prepared = {"label": "Pascal VOC", "source": "another"} | ({"whole benchmarks": whole} if whole else {})
    on = {"patch_alignment": {"benchmark": patches}}
    results = results_of(tmp_path, "paper", metrics_with(pacl=0.96, clip=0.525), prepared, **on)
    found = {row["id"] for row in write_claims(results) if row["verdict"] == "reproduced"}
    assert kinds("number") & found == tested


def test_training_never_opens_a_mask(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr(processes, "processes", lambda: 1)  # what another process opens would not be seen here
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    described = {"voc20": Benchmark("voc20", ("cat",), (0,) * 256)}
    write_pairs(tmp_path, "train", images, [[f"a photo of cat {i}"] for i in range(4)])
    write_scenes(tmp_path, "train", images, np.zeros((4, 16, 16), np.uint8), described)
    opened, watching = [], True
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching and event == "open" else None)
    found, captions = read_pairs(tmp_path, "train")
    patch_tokens(tiny_clip, found, tmp_path / "features/train.npy", batch_size=2)
    text_features(tiny_clip, text_table({"train": captions}), tmp_path / "features", "seven")
    settings = params(pairs=4, batch_size=2, epochs=1, noun_share=0.5)
    patches = np.load(tmp_path / "features" / "train.npy", mmap_mode="r")
    source = CachedPairs(patches, Texts(tmp_path / "features", "train"), settings)
    train(source, settings, folder=tmp_path / "checkpoints")
    names = {Path(path).name for path in opened}
    assert {"train.json", "train_images.npy", "train.npy"} <= names, "the watch sees what is opened"
    assert not {"train_masks.npy", "train_scenes.json"} & names
    read_scenes(tmp_path, "train")
    assert "train_masks.npy" in {Path(path).name for path in opened}, "it would have seen a mask"
    watching = False
