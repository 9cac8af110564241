"""One command for a profile: its pipeline without a change to a tracked file, and what it says of stages at the end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.folders import once
from helpers.imports import ROOT

from pacl.runtime.config import ConfigError
from pacl.tools import reproduce
from pacl.tools.reproduce import main, own_stages, pipeline, repro, told

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PIPELINE = """
stages:
  once:
    matrix: {profile: [other]}
    cmd: echo once > once
    outs: [once]
  first:
    matrix: {profile: "${profiles}"}
    cmd: mkdir -p reports/${item.profile} && head -c 3 text > reports/${item.profile}/first
    deps: [text, once]
    params: ["${item.profile}.prepare"]
    outs: ["reports/${item.profile}/first": {cache: false}]
  world:
    matrix: {profile: "${profiles}", seed: "${world_seeds}"}
    cmd: echo ${item.seed} > reports/${item.profile}/${item.seed}
    deps: ["reports/${item.profile}/first"]
    outs: ["reports/${item.profile}/${item.seed}": {cache: false}]
  report:
    matrix: {profile: "${profiles}"}
    cmd: cat reports/${item.profile}/first reports/${item.profile}/5 > reports/${item.profile}/report
    deps: ["reports/${item.profile}/first", "reports/${item.profile}/5"]
    outs: ["reports/${item.profile}/report": {cache: false}]
"""
PARAMS = """
profiles:
  - mini
world_seeds:
  - 5
mini:
  prepare: {n: 1}
big:
  prepare: {n: 2}
  model: {backbone: ViT-B-16, pretrained: openai, tokens: after_norm, dtype: float32}
"""


def write_project(folder: Path) -> None:
    """A small pipeline of the same form, whose profile mini is up to date."""
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "text").write_text("one text")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "once@other", "report@mini"], cwd=folder, check=True)


@pytest.fixture
def project(tmp_path_factory, tmp_path, monkeypatch) -> Path:
    shutil.copytree(once(tmp_path_factory, "small_pipeline", write_project), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_says_which_stages_ran_and_which_were_taken_from_the_lock(project, capfd):
    (project / "text").write_text("one other text")  # of which the first stage makes the same three letters
    status, ran = repro("report@mini", force=False)
    assert status == 0 and ran == {"once": False, "first": True, "world": False, "report": False}
    assert "Running stage 'first@mini'" in capfd.readouterr().out  # DVC's own words are shown, too
    words = told(ran, "mini")
    assert words.startswith("Ran now: first.\nNot run: once, world, report.\n")
    assert "byte-equal to those that dvc.lock records" in words and "make reproduce PROFILE=mini FORCE=1" in words
    assert repro("report@mini", force=True)[1] == {"once": True, "first": True, "world": True, "report": True}
    assert told({"first": True}, "mini") == "Ran now: first."


def test_a_profile_that_is_not_listed_gets_a_pipeline_of_its_own(project, capfd):
    before = {path: (project / path).read_bytes() for path in ("params.yaml", "dvc.yaml", "dvc.lock")}
    assert pipeline("mini") == "report@mini" and pipeline("big") == "reports/big/dvc.yaml"
    first = repro("reports/big/dvc.yaml", force=False)[1]
    assert first == {"once": False, "first": True, "world": True, "report": True}
    assert (project / "reports/big/report").read_text() == "one5\n"
    assert repro(pipeline("big"), force=False)[1] == {"once": False, "first": False, "world": False, "report": False}
    assert {path: (project / path).read_bytes() for path in before} == before
    (project / "params.yaml").write_text(PARAMS.replace("n: 2", "n: 3"))
    assert repro(pipeline("big"), force=False)[1]["first"] is True  # its own parameters count
    capfd.readouterr()
    fresh = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--allow-missing", "--dry"], cwd=project, capture_output=True, text=True
    )
    assert "up to date" in fresh.stdout  # plain repro still means the listed profiles, and they are


def test_a_failing_stage_ends_with_its_status(project, capfd):
    (project / "text").unlink()
    assert repro("report@mini", force=False)[0] != 0
    assert "text" in capfd.readouterr().err


def test_the_projects_own_stages_for_one_profile_are_dvc_s_own_expansion():
    """As DVC resolves the matrix of params.yaml, but for the working directory."""
    made = own_stages("flickr8k", [11, 23], "data/miniclip")["stages"]
    assert made.keys() == STAGES.keys() - {"pretrain"} and made["world"]["matrix"] == {"seed": [11, 23]}
    for name, stage in made.items():
        expected = yaml.safe_load(yaml.safe_dump(STAGES[name]).replace("${item.profile}", "flickr8k"))
        del expected["matrix"]
        stage.pop("matrix", None)
        assert stage.pop("wdir") == "../.." and sorted(stage.pop("deps")) == sorted(expected.pop("deps")), name
        assert stage == expected, name


@pytest.mark.parametrize(("pretrained", "weights"), [("data/classes", "data/classes"), ("openai", None)])
def test_stages_depend_on_the_weights_of_their_own_clip(pretrained, weights):
    made = own_stages("flickr8k", [11], pretrained)["stages"]
    for name, stage in made.items():
        mini = set(STAGES[name]["deps"])
        own = {one.replace("${item.profile}", "flickr8k") for one in mini - {"data/miniclip"}}
        assert set(stage["deps"]) == own | ({weights} - {None} if "data/miniclip" in mini else set()), name


def test_without_data_nothing_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(reproduce, "get_data", lambda arguments: 1)
    monkeypatch.setattr(reproduce, "pipeline", lambda profile: "none")
    monkeypatch.setattr(reproduce, "repro", lambda *_, **__: pytest.fail("the pipeline was run"))
    assert main(["flickr8k"]) == 1
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="'nope' is not a profile of params.yaml; it has mini, flickr8k"):
        pipeline("nope")
    assert main(["nope"]) == 1 and "is not a profile" in capsys.readouterr().err


def test_it_ends_with_the_claims_and_the_stages(monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "repro", lambda target, force: (0, {"train": not force, "report": True}))
    monkeypatch.setattr(reproduce, "show_report", lambda arguments: print("the claims") or 0)
    assert main([]) == 0
    assert capsys.readouterr().out == "the claims\n\nRan now: train, report.\n"
    assert main(["mini", "--force"]) == 0 and "Ran now: report.\nNot run: train.\n" in capsys.readouterr().out


def make(folder: Path, *words: str, **environment) -> subprocess.CompletedProcess:
    """make in a copy of what it needs before anything is installed; nothing answers at the mirror's address."""
    modules = [path.relative_to(ROOT) for room in ("runtime", "sources") for path in ROOT.glob(f"pacl/{room}/*.py")]
    for name in ("Makefile", "params.yaml", "data/data_sets.toml", "pacl/__init__.py", *modules):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    environment = inherited | {"PACL_MIRROR": "http://127.0.0.1:9", "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = ["make", *words, f"PYTHON={sys.executable} -I -S {folder / 'isolated.py'}"]
    (folder / "isolated.py").write_text(ISOLATED)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment)


ISOLATED = """
import runpy, sys
sys.path.insert(0, ".")
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "profile, sentence",
    [
        ("flickr8k", "Flickr8k, PASCAL VOC 2012 must be downloaded, and none of 127.0.0.1:9 answers"),
        ("paper", "Cityscapes must be got by hand: it is given to registered users only"),
        ("nope", "'nope' is not a profile of params.yaml; it has mini, flickr8k"),
    ],
)
def test_make_data_and_make_reproduce_say_what_can_t_be_had(tmp_path, profile, sentence, monkeypatch):
    """Before anything is installed or written, by a Python without any package."""
    monkeypatch.chdir(ROOT)
    done = make(tmp_path, "reproduce", f"PROFILE={profile}")
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {".git", "Makefile", "params.yaml", "data", "pacl", "isolated.py"}
    plan = make(tmp_path, "-n", "-o", ".venv/.installed", "data", f"PROFILE={profile}", "ONLY=voc coco", "DATA=here")
    assert plan.stdout.splitlines()[-1] == f"python -m pacl.sources.download {profile} --only voc coco --data here"


def test_make_reproduce_alone_is_mini_and_force_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = make(tmp_path, "-n", "-o", ".venv/.installed", "reproduce", "FORCE=1").stdout.splitlines()
    assert plan[-1] == "python -m pacl.tools.reproduce mini --force"
    assert "pacl.sources.addresses mini" in plan[-2]
