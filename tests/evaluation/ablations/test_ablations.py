"""Ablation points and other worlds from end to end in a world of a few scenes, and what is said of them."""

import contextlib
import json
import runpy
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pacl.clip import load_clip
from pacl.clip.features import Texts, patch_tokens, text_features, text_table
from pacl.data.prepared import all_scenes, read_pairs, write_pairs
from pacl.evaluation.ablations.findings import GROUPS, finding, point_table, world_table
from pacl.evaluation.ablations.inputs import write_inputs
from pacl.evaluation.ablations.points import other_tokens, run_point
from pacl.evaluation.ablations.quick import MEASURED, load_scenes, measure, scenes_file
from pacl.evaluation.ablations.targets import scenes_by_benchmark, write_targets
from pacl.evaluation.ablations.worlds import run_world
from pacl.runtime.config import ConfigError, load_params
from pacl.runtime.params import Prepare, Protocol, Train
from pacl.sources.prepare import prepare
from pacl.tools.rehearse import lay_out
from pacl.training.cached import CachedPairs
from pacl.training.train import train

ROOT = Path(__file__).parents[3]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
POINTS = {"default": {}, "value": {"tokens": "value"}, "templates_1": {"templates": "one"}, "many": {"pairs": 999}}
POINTS["pairs_64"] = {"pairs": 64, "batch_size": 32}
POINTS["text_linear"] = {"text_embedder": "linear", "learning_rate": 0.05}


@pytest.fixture(scope="module")
def project(tmp_path_factory, one_tokenizer, before_forks):
    """A project whose profile `mini` is a world of 64 pairs and 6 test scenes, seen by the real mini CLIP."""
    folder = tmp_path_factory.mktemp("project")
    params = json.loads(json.dumps(PARAMS))
    mini = params["mini"]
    mini["prepare"] |= {"train_pairs": 64, "validation_scenes": 2, "test_scenes": 6, "classification_images": 1}
    mini["train"] |= {"pairs": 64, "batch_size": 16, "warmup_steps": 1}
    mini["model"]["pretrained"] = str(ROOT / "data/miniclip")
    mini["ablations"] |= {"base": {"pairs": 32, "epochs": 1, "batch_size": 16, "warmup_steps": 1}, "points": POINTS}
    mini["ablations"]["seeds"] = [0, 1]
    params["photos"] = mini | {"prepare": mini["prepare"] | {"source": "flickr8k", "raw": "nowhere"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    prepared, features = folder / "data/prepared/mini", folder / "data/features/mini"
    prepare(prepared, Prepare.model_validate(mini["prepare"]))
    features.mkdir(parents=True)
    clip = load_clip("miniclip", ROOT / "data/miniclip")
    pairs, captions = read_pairs(prepared, "train")
    patch_tokens(clip, pairs, features / "train_patches.npy", batch_size=64)
    native = Protocol.model_validate(mini["protocols"]["native"])
    write_targets(features, scenes_by_benchmark(clip, all_scenes(prepared, "test"), native, batch_size=64))
    text_features(clip, text_table({"train": captions}), features, "seven")
    return folder


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def runs_of(path):
    return json.loads(path.read_text())["runs"]


def test_a_point_is_trained_and_measured_for_each_seed(inside):
    runs = runs_of(run_point("mini", "default"))
    assert [run["seed"] for run in runs] == [0, 1] and runs[0] != runs[1] | {"seed": 0}
    assert all(0 <= run[metric] <= 1 for run in runs for metric in ("patch_accuracy", "voc20", "context59"))
    assert runs_of(run_point("mini", "default")) == runs  # equal seeds, equal numbers


def test_a_point_with_a_text_embedder_is_measured_with_texts_as_it_maps_them(inside):
    (run, *_) = runs_of(run_point("mini", "text_linear"))
    sections = load_params("mini", "train", "ablations")
    changes = sections.ablations.base | POINTS["text_linear"]
    settings = Train.model_validate(sections.train.model_dump() | changes | {"seed": 0})
    features = inside / "data/features/mini"
    source = CachedPairs(np.load(features / "train_patches.npy"), Texts(features, "train"), settings)
    embedder, _ = train(source, settings)
    scenes = {name: load_scenes(scenes_file(features, name)) for name in MEASURED}
    expected = measure(scenes, embedder.cpu(), embedder.text_embedder)
    assert {name: run[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert expected != pytest.approx(measure(scenes, embedder), abs=1e-3)


@pytest.mark.parametrize("point", ["value", "templates_1"])
def test_other_tokens_and_templates_are_computed_anew_and_change_the_result(inside, point):
    default = runs_of(run_point("mini", "default"))
    assert runs_of(run_point("mini", point)) != default


@pytest.fixture
def untrained(monkeypatch):
    """Nothing is trained or measured: a point's runs say with what it would have been."""

    def train(source, settings):
        return SimpleNamespace(cpu=lambda: settings, text_embedder=None), []

    def measure(benchmarks, settings, embed_text):
        return {"on": list(benchmarks), "pairs": settings.pairs, "batch_size": settings.batch_size}

    monkeypatch.setattr("pacl.evaluation.ablations.points.train", train)
    monkeypatch.setattr("pacl.evaluation.ablations.points.measure", measure)


@pytest.mark.usefixtures("untrained")
def test_a_point_may_take_all_the_pairs_and_is_written_with_all_that_it_changes(inside):
    path = run_point("mini", "pairs_64")
    assert path == Path("reports/mini/ablations/pairs_64.json")
    assert json.loads(path.read_text()) == {
        "point": "pairs_64",
        "changes": {"pairs": 64, "epochs": 1, "batch_size": 32, "warmup_steps": 1},
        "runs": [{"seed": seed, "on": ["voc20", "context59"], "pairs": 64, "batch_size": 32} for seed in (0, 1)],
    }


@pytest.mark.usefixtures("untrained")
def test_a_point_is_measured_on_the_benchmarks_that_there_are(inside, monkeypatch):
    monkeypatch.setattr("pacl.evaluation.ablations.points.MEASURED", ("voc20", "of_another_source"))
    assert [run["on"] for run in runs_of(run_point("mini", "default"))] == [["voc20"], ["voc20"]]


def test_other_tokens_are_those_of_the_first_pairs_and_of_the_test_scenes(inside, monkeypatch, bfloat16_everywhere):
    params, prepared = load_params("mini", "model", "features", "protocols"), inside / "data/prepared/mini"
    asked = []
    monkeypatch.setattr(
        "pacl.evaluation.ablations.targets.scenes_by_benchmark", lambda *given, batch_size: asked.append(given)
    )
    tokens, _ = other_tokens(params, prepared, "value", 3)
    ((clip, image_sets, protocol),) = asked
    assert (clip.tokens, clip.dtype, protocol) == ("value", "bfloat16", params.protocols.native)
    assert [len(images) for images, *_ in image_sets.values()] == [6]
    images, _ = read_pairs(prepared, "train")
    expected = clip.patch_features(torch.stack([clip.preprocess(images[i]) for i in range(3)]))
    np.testing.assert_allclose(tokens, expected.numpy(), atol=0.02, rtol=0.02)


def test_more_pairs_than_there_are_is_said_and_not_an_error(inside):
    written = json.loads(run_point("mini", "many").read_text())
    assert written["runs"] == [] and written["skipped"] == "needs 999 pairs, mini has 64"
    changes = {"pairs": 999, "epochs": 1, "batch_size": 16, "warmup_steps": 1}
    assert (written["point"], written["changes"]) == ("many", changes)


def test_a_point_that_params_yaml_lacks_is_named(inside):
    with pytest.raises(ConfigError, match="'scale_2' is no point of mini.ablations; it has default"):
        run_point("mini", "scale_2")


def test_a_points_inputs_change_with_files_shared_settings_and_its_own_changes_only(tmp_path, monkeypatch):
    params = json.loads(json.dumps(PARAMS))
    lay_out(ROOT, tmp_path, params)
    monkeypatch.chdir(tmp_path)
    points = params["mini"]["ablations"]["points"]

    def write() -> dict[str, str]:
        Path("params.yaml").write_text(yaml.safe_dump(params))
        folder = write_inputs("mini")
        return {point: (folder / f"{point}.json").read_text() for point in points}

    first = write()
    assert first == write() and len(set(first.values())) == len(points)
    shared = json.loads(Path("reports/mini/ablation_inputs/shared.json").read_text())
    assert {"pacl/train.py", "pacl/loss.py", "data/templates.yaml"} < shared["files"].keys()
    points["scale_1"]["scale"] = 1.0000001  # less than write_json would keep
    second = write()
    assert [point for point in points if second[point] != first[point]] == ["scale_1"]
    params["mini"]["train"]["eps"] = 1.0000001e-6
    third = write()
    assert all(third[point] != second[point] for point in points)
    mini, before = params["mini"], third
    for section, key, value in (
        (mini["model"], "tokens", "value"),
        (mini["features"], "templates", "one"),
        (mini["protocols"]["native"], "templates", "one"),
        (mini["ablations"]["base"], "epochs", 7),
        (mini["ablations"], "seeds", [5]),
    ):
        section[key] = value
        after = write()
        assert all(after[point] != before[point] for point in points), key
        before = after
    third = before
    Path("data/templates.yaml").write_text(Path("data/templates.yaml").read_text().replace("a photo", "one photo"))
    assert all(text != third[point] for point, text in write().items())
    Path("data/templates.yaml").unlink()
    monkeypatch.setattr("sys.argv", ["pacl.evaluation.ablations.inputs", "mini"])
    with warnings.catch_warnings(), pytest.raises(SystemExit, match="data/templates.yaml"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of runpy, that it was imported already
        runpy.run_module("pacl.evaluation.ablations.inputs", run_name="__main__")


@pytest.fixture(scope="module")
def worlds(project):
    """What is written of the worlds of seeds 1 and 2; each takes seconds."""
    with contextlib.chdir(project):
        return {seed: json.loads(run_world("mini", seed).read_text()) for seed in (1, 2)}


@pytest.mark.usefixtures("worlds")
def test_worlds_differ_by_seed_and_photographs_have_none(inside):
    table = world_table(inside / "reports/mini/worlds")
    assert table[["seed", "method"]].values.tolist() == [[1, "clip"], [1, "pacl"], [2, "clip"], [2, "pacl"]]
    assert table.patch_accuracy.nunique() > 2
    assert "not drawn from a seed" in run_world("photos", 1).read_text()
    none = world_table(inside / "reports/photos/worlds")
    assert none.empty and list(none) == ["seed", "method"]


def test_a_world_has_clips_own_reading_of_its_scenes_beside_the_trained_one(inside, worlds, tmp_path):
    params = load_params("mini", "prepare", "protocols")
    few = {"seed": 1, "train_pairs": 1, "validation_scenes": 1, "classification_sets": []}
    prepare(tmp_path, params.prepare.model_copy(update=few))
    clip = load_clip("miniclip", ROOT / "data/miniclip")
    scenes = scenes_by_benchmark(clip, all_scenes(tmp_path, "test"), params.protocols.native, batch_size=64)
    expected = measure(scenes, clip.project)
    assert worlds[1]["clip"] == pytest.approx(expected, abs=1e-4)
    assert worlds[1]["pacl"] != pytest.approx(expected, abs=1e-3)


def test_a_world_is_drawn_read_and_trained_as_the_parameters_say(inside, monkeypatch, bfloat16_everywhere):
    params = load_params("mini", "prepare", "model", "features", "train", "protocols", "ablations")
    params.model = params.model.model_copy(update={"tokens": "value"})
    params.features = params.features.model_copy(update={"templates": "one", "nouns": "spacy"})
    images, captions = read_pairs(inside / "data/prepared/mini", "train")
    asked = {}

    def two_pairs(folder, section):
        asked["prepare"] = section
        shutil.copytree(inside / "data/prepared/mini", folder)
        write_pairs(folder, "train", np.stack([np.asarray(images[i]) for i in range(2)]), captions[:2])

    def table_of(captions, tagger):  # to find nouns takes seconds
        asked["texts"] = captions["train"], tagger
        return {"captions": ["a", "b"], "nouns": ["dog"], "train": {"captions": [[0], [1]], "nouns": [[0], []]}}

    def scenes(*given, batch_size):
        asked["scenes"] = given

    def trained(source, settings):
        asked["train"] = source, settings
        return SimpleNamespace(cpu=lambda: "images", text_embedder="texts"), []

    for name, stand_in in {
        "load_params": lambda *_: params,
        "prepare": two_pairs,
        "text_table": table_of,
        "CachedPairs": lambda *given: given,
        "train": trained,
        "scenes_by_benchmark": scenes,
        "measure": lambda _, *ways: {"ways": [way for way in ways if isinstance(way, str)]},
    }.items():
        monkeypatch.setattr(f"pacl.evaluation.ablations.worlds.{name}", stand_in)
    path = run_world("mini", 5)
    assert path == Path("reports/mini/worlds/5.json")
    assert json.loads(path.read_text()) == {"seed": 5, "clip": {"ways": []}, "pacl": {"ways": ["images", "texts"]}}
    path.unlink()
    few = {"seed": 5, "train_pairs": 32, "validation_scenes": 10, "classification_sets": []}
    assert asked["prepare"] == params.prepare.model_copy(update=few)
    clip, image_sets, protocol = asked["scenes"]
    assert (clip.tokens, clip.dtype, protocol) == ("value", "bfloat16", params.protocols.native)
    assert [len(images) for images, *_ in image_sets.values()] == [6]
    (tokens, texts, given), settings = asked["train"]
    assert given == settings == Train.model_validate(params.train.model_dump() | params.ablations.base)
    assert asked["texts"] == (captions[:2], "spacy") and len(tokens) == len(texts) == 2
    assert texts.noun_features.shape[1] == 1 and texts.clip_identity == clip.identity


def test_the_table_of_worlds_is_in_their_order_without_those_that_were_skipped(tmp_path):
    seeds = [5, 11, 9, 3, 7, 2, 8]
    for seed in seeds:
        content = {"seed": seed, "clip": {"voc20": seed / 100}, "pacl": {"voc20": seed / 10}}
        (tmp_path / f"{seed}.json").write_text(json.dumps(content))
    (tmp_path / "0.json").write_text(json.dumps({"seed": 0, "skipped": "flickr8k is not drawn from a seed"}))
    expected = [[seed, *row] for seed in sorted(seeds) for row in (["clip", seed / 100], ["pacl", seed / 10])]
    assert world_table(tmp_path).values.tolist() == expected


@pytest.mark.parametrize(("arguments", "written", "reason"), [
    (["ablations", "mini", "many"], "reports/mini/ablations/many.json", "needs 999 pairs, mini has 64"),
    (["worlds", "photos", "7"], "reports/photos/worlds/7.json", "flickr8k is not drawn from a seed"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_a_command_says_where_it_wrote(inside, monkeypatch, capsys, arguments, written, reason):
    module, *rest = arguments
    monkeypatch.setattr("sys.argv", [f"pacl.{module}", *rest])
    monkeypatch.setattr("gc.freeze", lambda: None)
    runpy.run_module(f"pacl.{module}", run_name="__main__")
    assert capsys.readouterr().out == f"{written}\n"
    assert json.loads(Path(written).read_text())["skipped"] == reason


@pytest.mark.parametrize("profile", [name for name in PARAMS if "ablations" in PARAMS[name]])
def test_every_point_has_a_place_in_the_figures(profile):
    drawn = {point for _, settings in GROUPS.values() for point in settings}
    assert drawn == set(PARAMS[profile]["ablations"]["points"])


def test_batches_say_how_many_pairs_are_seen_in_their_equal_steps():
    settings = PARAMS["mini"]["ablations"]
    factors = {"half": 0.5, "twice": 2}
    _, names = GROUPS["batch"]
    for point in set(names) - {"default"}:
        size, factor = names[point].split(" (")[0], factors[names[point].split("(")[1].split()[0]]
        changed = settings["base"] | settings["points"][point]
        assert changed["batch_size"] == int(size) and changed["epochs"] / settings["base"]["epochs"] == factor
        assert changed["batch_size"] / settings["base"]["batch_size"] == factor, "equal steps"


@pytest.mark.parametrize("profile", [name for name in PARAMS if "ablations" in PARAMS[name]])
def test_settings_are_called_by_what_their_points_train_with(profile):
    settings, features = PARAMS[profile]["ablations"], PARAMS[profile]["features"]
    base = PARAMS[profile]["train"] | PARAMS[profile]["model"] | features | settings["base"]
    of = {point: base | changes for point, changes in settings["points"].items()}
    said = {
        "pooling": lambda one: one["pooling"].replace("_", " "),
        "scale": lambda one: f"{one['scoring']} × {one['scale']:g}",
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


def test_default_stands_in_every_group_and_skipped_points_in_none(tmp_path):
    runs = {"default": [{"seed": 0, "voc20": 0.5}], "mlp": [{"seed": 0, "voc20": 0.4}], "linear": []}
    for point, found in runs.items():
        (tmp_path / f"{point}.json").write_text(json.dumps({"point": point, "runs": found}))
    table = point_table(tmp_path, runs)
    assert set(table[table.point == "default"].group) == set(GROUPS)
    assert table[table.group == "embedder"].point.tolist() == ["default", "mlp"]


def test_a_finding_weighs_each_measure_against_the_seeds():
    rows = pd.DataFrame({
        "setting": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "patch_accuracy": [0.80, 0.82, 0.60, 0.64],
    })  # fmt: skip
    assert finding(rows) == "Best: a. By patch accuracy: 81.0 % for a, 62.0 % for b."
    rows["voc20"] = [0.5, 0.6, 0.5, 0.52]
    assert finding(rows) == (
        "Best where the best are not level: a. By patch accuracy: 81.0 % for a, 62.0 % for b; "
        "by voc20 mIoU: 55.0 % for a and 51.0 % for b (level)."
    )
    rows["voc20"] = [0.1, 0.12, 0.2, 0.22]
    assert finding(rows).startswith("The measures disagree. ")
    assert finding(rows).endswith("by voc20 mIoU: 21.0 % for b, 11.0 % for a.")
    rows["voc20"] = [0.2, 0.22, 0.1, 0.12]
    assert finding(rows).startswith("Best: a. ")
    same = rows[["setting", "seed"]].assign(voc21=0.4)
    assert finding(same).startswith("The best are level") and "40.0 % for a and 40.0 % for b (level)" in finding(same)


def test_settings_are_ranked_by_their_means_and_level_up_to_the_distance_of_their_own_runs():
    rows = pd.DataFrame({"setting": ["a", "a", "b", "b"], "seed": [0, 1] * 2, "voc21": [0.125, 0.625, 0.5, 0.5]})
    assert finding(rows).endswith("By voc21 mIoU: 50.0 % for b and 37.5 % for a (level).")
    rows["voc21"] = [0.375, 0.375, 0.5, 0.75]  # means as far apart as the best one's runs
    assert finding(rows).endswith("By voc21 mIoU: 62.5 % for b and 37.5 % for a (level).")
    rows["voc21"] = [0.25, 0.25, 0.5, 0.75]
    assert finding(rows) == "Best: b. By voc21 mIoU: 62.5 % for b, 25.0 % for a."


def test_what_lies_below_a_setting_that_is_not_level_is_not_called_level():
    rows = pd.DataFrame({
        "setting": [name for name in "abc" for _ in range(2)], "seed": [0, 1] * 3,
        "voc20": [0.5, 0.5, 0.4, 0.4, 0.1, 0.5],
    })  # fmt: skip
    assert finding(rows) == "Best: a. By voc20 mIoU: best: 50.0 % for a, next: 40.0 % for b, worst: 30.0 % for c."


def test_a_finding_of_single_runs_names_the_best_the_next_and_the_last():
    rows = pd.DataFrame({"setting": ["a", "b", "c", "d"], "seed": 0, "voc21": [0.2, 0.3, 0.1, 0.25]})
    said = "best: 30.0 % for b, next: 25.0 % for d, worst: 10.0 % for c."
    assert finding(rows) == f"One run a setting. By voc21 mIoU: {said}"


def test_a_finding_says_all_settings_within_the_spread_of_seeds_as_level_and_the_last_where_it_is_not():
    rows = pd.DataFrame({
        "setting": [name for name in "abc" for _ in range(2)], "seed": [0, 1] * 3,
        "voc20": [0.64, 0.66, 0.64, 0.65, 0.63, 0.65],
    })  # fmt: skip
    assert finding(rows).endswith("By voc20 mIoU: 65.0 % for a, 64.5 % for b and 64.0 % for c (level).")
    rows["voc20"] = [0.64, 0.66, 0.64, 0.65, 0.59, 0.60]
    assert finding(rows).endswith("By voc20 mIoU: 65.0 % for a and 64.5 % for b (level), worst: 59.5 % for c.")
    more = pd.concat([rows, pd.DataFrame({"setting": "d", "seed": [0, 1], "voc20": [0.49, 0.50]})])
    assert finding(more).endswith("By voc20 mIoU: 65.0 % for a and 64.5 % for b (level), worst: 49.5 % for d.")
    rows["voc20"] = [0.70, 0.71, 0.64, 0.65, 0.59, 0.60]
    assert finding(rows) == "Best: a. By voc20 mIoU: best: 70.5 % for a, next: 64.5 % for b, worst: 59.5 % for c."


@pytest.mark.parametrize("module", ["ablations", "worlds"])
@pytest.mark.parametrize("error", [FloatingPointError("the loss is nan in step 3"), OSError(28, "No space left")])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_a_loss_that_is_no_number_and_a_full_disk_end_in_a_sentence(monkeypatch, module, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("pacl.runtime.config.load_params", fail)
    monkeypatch.setattr("sys.argv", [f"pacl.{module}", "mini", "1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"pacl.{module}", run_name="__main__")
    assert ended.value.code == str(error)  # Python prints it, and the status is 1


@pytest.mark.parametrize(("module", "wrong"), [
    ("ablations", ["mini"]), ("ablations", ["mini", "default", "value"]), ("worlds", ["mini"]),
    ("worlds", ["mini", "one"]), ("ablation_inputs", []), ("ablation_inputs", ["mini", "default"]),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_a_command_without_its_arguments_says_how_it_is_used(monkeypatch, module, wrong):
    monkeypatch.setattr("pacl.runtime.config.load_params", lambda *_: pytest.fail("it started"))
    monkeypatch.setattr("sys.argv", [f"pacl.{module}", *wrong])
    with pytest.raises(SystemExit, match=rf"^Usage: python -m pacl\.{module} PROFILE"):
        runpy.run_module(f"pacl.{module}", run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_inputs_of_a_folder_without_parameters_are_an_error_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pacl.evaluation.ablations.inputs", "mini"])
    with pytest.raises(SystemExit, match="params.yaml is neither in"):
        runpy.run_module("pacl.evaluation.ablations.inputs", run_name="__main__")
