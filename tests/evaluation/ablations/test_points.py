"""Ablation points and other worlds from end to end, in a world of a few scenes."""

import json
import runpy
import shutil
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from pacl.clip import load_clip
from pacl.clip.features import patch_tokens, text_features, text_table, tokens_of
from pacl.data.prepared import all_scenes, read_pairs
from pacl.evaluation.ablations import quick
from pacl.evaluation.ablations.points import code_files, run_points
from pacl.evaluation.ablations.quick import PointTrainer, measure, scenes_by_benchmark
from pacl.evaluation.ablations.worlds import run_world
from pacl.runtime.config import ConfigError, load_params
from pacl.runtime.params import Prepare, Train
from pacl.sources.prepare import prepare
from pacl.training.cached import CachedPairs
from pacl.training.train import train

ROOT = Path(__file__).parents[3]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
POINTS = {
    "default": {},
    "value": {"tokens": "value"},
    "templates_1": {"templates": "one"},
    "many": {"pairs": 999},
    "pairs_64": {"pairs": 64, "batch_size": 32},
    "text_linear": {"text_embedder": "linear", "learning_rate": 0.05},
}
BASE = {"pairs": 32, "epochs": 1, "batch_size": 16, "warmup_steps": 1}
STAGE = {"deps": ["pacl/loss.py", "pacl/clip", "data/templates.yaml", "data/features/${item.profile}"]}
SECTIONS = ("model", "features", "train", "protocols", "ablations")
FOLDER = Path("reports/mini/ablation_points")


@pytest.fixture(scope="module")
def made(tmp_path_factory, one_tokenizer, before_forks):
    """A project whose profile `mini` is a world of 64 pairs and 6 test scenes, seen by the real mini CLIP."""
    folder = tmp_path_factory.mktemp("project")
    params = json.loads(json.dumps(PARAMS))
    mini = params["mini"]
    mini["prepare"] |= {"train_pairs": 64, "validation_scenes": 2, "test_scenes": 6, "classification_images": 1}
    mini["train"] |= {"pairs": 64, "batch_size": 16, "warmup_steps": 1}
    mini["model"]["pretrained"] = str(ROOT / "data/miniclip")
    mini["ablations"] |= {"base": BASE, "points": POINTS, "seeds": [0, 1]}
    params["photos"] = mini | {"prepare": mini["prepare"] | {"source": "flickr8k", "raw": "nowhere"}}
    for name in ("pacl/loss.py", "pacl/clip/frozen.py", "data/templates.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "data/miniworld").symlink_to(ROOT / "data/miniworld")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"ablation_points": STAGE}}))
    prepared, features = folder / "data/prepared/mini", folder / "data/features/mini"
    prepare(prepared, Prepare.model_validate(mini["prepare"] | {"classification_sets": []}))
    features.mkdir(parents=True)
    clip = load_clip("miniclip", ROOT / "data/miniclip")
    pairs, captions = read_pairs(prepared, "train")
    patch_tokens(clip, pairs, features / "train_patches.npy", batch_size=64)
    text_features(clip, text_table({"train": captions}), features, "seven")
    return folder


@pytest.fixture(scope="module")
def points(made):
    """What is written of every point."""
    with chdir(made):
        return {path.stem: json.loads(path.read_text()) for path in run_points("mini")}


@pytest.fixture
def inside(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """A project of one's own, where points are trained to nothing; returns their names in the order of training."""
    project, trained = tmp_path / "project", []
    shutil.copytree(made, project, ignore=shutil.ignore_patterns("reports"))
    monkeypatch.chdir(project)
    trainer = SimpleNamespace(results=lambda changes, settings: trained.append(changes) or {"runs": []})
    monkeypatch.setattr(quick, "PointTrainer", lambda profile, params: trainer)
    return trained


def test_every_point_is_trained_and_measured_for_each_seed(points):
    assert list(points) == list(POINTS)
    for point in POINTS.keys() - {"many"}:
        runs = points[point]["runs"]
        assert [run["seed"] for run in runs] == [0, 1] and runs[0] != runs[1] | {"seed": 0}
        assert all(0 <= run[metric] <= 1 for run in runs for metric in ("patch_accuracy", "voc20", "context59"))
    for point in ("value", "templates_1", "text_linear"):
        assert points[point]["runs"] != points["default"]["runs"]
    assert points["pairs_64"]["changes"] == BASE | POINTS["pairs_64"]


def test_more_pairs_than_there_are_is_said_and_not_an_error(points):
    many = points["many"]
    assert many["runs"] == [] and many["skipped"] == "needs 999 pairs, mini has 64"
    assert (many["point"], many["changes"]) == ("many", BASE | {"pairs": 999})


def test_a_point_with_a_text_embedder_is_measured_with_texts_as_it_maps_them(inside, points):
    params = load_params("mini", *SECTIONS)
    settings = Train.model_validate(params.train.model_dump() | BASE | POINTS["text_linear"] | {"seed": 0})
    trainer = PointTrainer("mini", params)
    embedder, _ = train(CachedPairs(trainer.tokens, trainer.texts, settings), settings)
    expected = measure(trainer.scenes, embedder.cpu(), embedder.text_embedder)
    assert points["text_linear"]["runs"][0] == pytest.approx({"seed": 0} | expected, abs=1e-4)
    assert expected != pytest.approx(measure(trainer.scenes, embedder), abs=1e-3)


def test_other_tokens_and_templates_are_those_a_point_asks_for(inside, monkeypatch, bfloat16_everywhere):
    params = load_params("mini", *SECTIONS)
    monkeypatch.setattr(quick, "train_and_measure", lambda *given: {"given": given})
    monkeypatch.setattr(quick, "in_parts", lambda runs, count, parts: [runs(range(count))])
    trainer, settings = PointTrainer("mini", params), Train.model_validate(params.train.model_dump() | BASE)
    (default,), (value,), (one,) = (
        trainer.results(POINTS[point], [settings])["runs"] for point in ("default", "value", "templates_1")
    )
    for run in (default, one):
        assert run["given"][0] is trainer.tokens and run["given"][2:] == (trainer.scenes, settings)
    assert default["given"][1] is value["given"][1] is trainer.texts
    assert (trainer.texts.noun_features.shape[1], one["given"][1].noun_features.shape[1]) == (7, 1)
    own = {noun for nouns in trainer.texts.nouns[: settings.pairs] for noun in nouns}
    count = len(one["given"][1].noun_features)
    assert own == set(range(count)) and count < len(trainer.nouns), "no text that no image of the point has"
    clip, images = (
        load_clip("miniclip", ROOT / "data/miniclip", tokens="value"),
        read_pairs(trainer.prepared, "train")[0],
    )
    expected = clip.patch_features(torch.stack([clip.preprocess(images[i]) for i in range(32)]))
    np.testing.assert_allclose(value["given"][0], expected.numpy(), atol=0.05, rtol=0.05)
    scenes = value["given"][2]["voc20"]
    assert scenes.tokens.shape == (6, 64, clip.width) and not scenes.tokens.equal(trainer.scenes["voc20"].tokens)


def changed_points(trained):
    trained.clear()
    return [path.stem for path in run_points("mini")]


def test_points_are_trained_again_when_code_data_or_settings_change(copied):
    assert changed_points(copied) == list(POINTS) and copied == [BASE | own for own in POINTS.values()]
    assert changed_points(copied) == [] and copied == []
    params = yaml.safe_load(Path("params.yaml").read_text())
    mini = params["mini"]
    mini["ablations"]["points"]["text_linear"]["learning_rate"] = 0.0500001  # less than write_json would keep
    del mini["ablations"]["points"]["many"]
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert changed_points(copied) == ["text_linear"] and not (FOLDER / "many.json").exists()
    every = [point for point in POINTS if point != "many"]
    for section, key, value in (
        (mini["train"], "eps", 1.0000001e-6),
        (mini["model"], "tokens", "before_norm"),
        (mini["features"], "templates", "imagenet80"),
        (mini["protocols"]["native"], "templates", "one"),
        (mini["ablations"]["base"], "epochs", 7),
        (mini["ablations"], "seeds", [5]),
    ):
        section[key] = value
        Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        assert changed_points(copied) == every, key
    read = [f"data/prepared/mini/{name}" for name in ("train_images.npy", "test_masks.npy", "test_scenes.json")]
    for name in ("data/templates.yaml", "pacl/clip/frozen.py", "data/features/mini/noun_features.npy", *read):
        with open(name, "ab") as file:
            file.write(b"#")
        assert changed_points(copied) == every, name
    for name in ("data/prepared/mini/validation_images.npy", "pacl/clip/__pycache__/frozen.pyc", "pacl/other.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"no point reads it")
    assert changed_points(copied) == []
    Path("pacl/loss.py").unlink()
    with pytest.raises(FileNotFoundError, match="pacl/loss.py"):
        run_points("mini")


def test_an_interrupted_run_resumes_with_the_missing_points(copied, monkeypatch):
    def results(changes, settings):
        if len(copied) == 2:
            raise OSError(28, "No space left")
        copied.append(changes)
        return {"runs": []}

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(quick, "PointTrainer", lambda *_: SimpleNamespace(results=results))
        run_points("mini")
    assert sorted(path.stem for path in FOLDER.iterdir()) == ["default", "value"]
    (FOLDER / "value.json").write_text("{")  # a corrupt file counts as missing
    assert changed_points(copied) == ["value", *list(POINTS)[2:]]


def test_named_points_alone_are_trained_and_an_unknown_one_is_named(copied):
    assert [path.stem for path in run_points("mini", ["many", "default"])] == ["many", "default"]
    with pytest.raises(ConfigError, match="'scale_2' is not a point of mini.ablations, which has default"):
        run_points("mini", ["scale_2"])


def test_the_stage_names_the_code_that_trains_and_measures(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {path.relative_to(ROOT).as_posix() for path in code_files()}
    code = ("training/train.py", "evaluation/ablations/quick.py", "phi.py", "label_maps.py", "clip/frozen.py")
    assert {f"pacl/{name}" for name in code} | {"data/templates.yaml", "data/miniclip/bpe.txt.gz"} <= found


def test_photographs_have_no_other_world(inside):
    written = json.loads(run_world("photos", 1).read_text())
    assert written == {"seed": 1, "skipped": "flickr8k is not drawn from a seed"}


def test_a_world_is_drawn_read_and_trained_as_the_parameters_say(inside, monkeypatch, tmp_path):
    params, asked = load_params("mini", "prepare", *SECTIONS), {}
    params.model = params.model.model_copy(update={"tokens": "value"})
    params.features = params.features.model_copy(update={"templates": "one", "nouns": "en_core_web_md"})
    stand_ins = {
        "load_params": lambda *_: params,
        "text_table": lambda captions, tagger: asked.update(tagger=tagger) or text_table(captions),
        "train_and_measure": lambda *given: asked.update(trained=given) or {"voc20": 0.5},
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(f"pacl.evaluation.ablations.worlds.{name}", stand_in)
    path = run_world("mini", 5)
    tokens, texts, _, settings = asked["trained"]
    assert settings == Train.model_validate(params.train.model_dump() | BASE)
    assert asked["tagger"] == "en_core_web_md" and texts.noun_features.shape[1] == 1
    clip = load_clip("miniclip", ROOT / "data/miniclip", tokens="value")
    assert texts.clip_identity["tokens"] == "value" and len(texts) == 32
    few = {"seed": 5, "train_pairs": 32, "validation_scenes": 1, "classification_sets": []}
    prepare(tmp_path, params.prepare.model_copy(update=few))
    expected = tokens_of(clip, read_pairs(tmp_path, "train")[0], 64)
    np.testing.assert_allclose(tokens, expected, atol=0.05, rtol=0.05)
    scenes = scenes_by_benchmark(clip, all_scenes(tmp_path, "test"), params.protocols.native, batch_size=64)
    of_clip = pytest.approx(measure(scenes, clip.project), abs=1e-4)
    assert path == Path("reports/mini/worlds/5.json")
    assert json.loads(path.read_text()) == {"seed": 5, "clip": of_clip, "pacl": {"voc20": 0.5}}


@pytest.mark.parametrize("module, arguments, said", [
    ("points", ["mini", "many"], "reports/mini/ablation_points/many.json\n"),
    ("worlds", ["photos", "7"], "reports/photos/worlds/7.json\n"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_a_command_says_what_it_wrote(inside, monkeypatch, capsys, module, arguments, said):
    monkeypatch.setattr("sys.argv", [module, *arguments])
    (FOLDER / "many.json").unlink(missing_ok=True)
    runpy.run_module(f"pacl.evaluation.ablations.{module}", run_name="__main__")
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("module, arguments, error, said", [
    ("points", ["mini"], FloatingPointError("the loss is nan in step 3"), "the loss is nan in step 3"),
    ("worlds", ["mini", "1"], ValueError("mini has no train."), "mini has no train."),
    ("points", [], AssertionError, "Usage: python -m pacl.evaluation.ablations.points PROFILE"),
    ("worlds", ["mini"], AssertionError, "Usage: python -m pacl.evaluation.ablations.worlds PROFILE SEED"),
    ("worlds", ["mini", "one"], AssertionError, "Usage: python -m pacl.evaluation.ablations.worlds PROFILE SEED"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_errors_end_in_a_sentence_and_missing_arguments_in_the_usage(monkeypatch, module, arguments, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr("pacl.runtime.config.load_params", fail)
    monkeypatch.setattr("sys.argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"pacl.evaluation.ablations.{module}", run_name="__main__")
    assert ended.value.code.startswith(said)  # Python prints it, and the status is 1
