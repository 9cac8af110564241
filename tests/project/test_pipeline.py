"""dvc.yaml says what its stages really import and read; a stage that hides one is skipped when it should run."""

import ast
import functools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pacl.tools.rehearse import pipeline

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PROFILES = [name for name, value in PARAMS.items() if isinstance(value, dict) and name != "miniclip"]
STAGES = pipeline(ROOT)
SHARED = STAGES["ablation_inputs"]  # names, for all ablation points, what they share
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@functools.cache
def parse(path: str) -> ast.Module:
    """A module, or a notebook's code cells without IPython's % and ! lines."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    return ast.parse(text, path)


def imported(tree: ast.Module) -> set[str]:
    """The pacl modules that are imported anywhere in the code, functions included, as paths."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or "" if node.level == 0 else f"pacl.{node.module or ''}".rstrip(".")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    paths = {f"{name.replace('.', '/')}.py" for name in names if name.startswith("pacl.")}
    return {path for path in paths if (ROOT / path).is_file()}


def code_of(stage: dict) -> set[str]:
    """The stage's notebook or module and all pacl modules below it; pacl.notebook, which only runs it, is left out."""
    _, _, module, *arguments = shlex.split(stage["cmd"])
    todo = [arguments[0] if module == "pacl.notebook" else f"{module.replace('.', '/')}.py"]
    found = set()
    while todo:
        found.add(path := todo.pop())
        todo += imported(parse(path)) - found
    return found


def sections_of(paths: set[str]) -> set[str]:
    """What load_params(profile, "train") calls read: PROFILE.train, where dvc.yaml writes ${item.profile}.train."""
    found = set()
    for node in (node for path in paths for node in ast.walk(parse(path))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "load_params":
            profile, *sections = node.args
            assert all(isinstance(name, ast.Constant) for name in sections), f"{ast.unparse(node)}: name the sections"
            prefix = profile.value if isinstance(profile, ast.Constant) else "PROFILE"
            found |= {f"{prefix}.{name.value}" for name in sections}
    return found


def params_of(params: list[str]) -> list[str]:
    """Parameter names with the matrix's own dots out of the way."""
    return [name.replace("${item.profile}", "PROFILE").replace("${item.point}", "POINT") for name in params]


def test_the_pipeline_is_there():
    assert {"prepare", "train", "ablation_point", "report"} <= STAGES.keys()
    assert NOTEBOOKS, "notebooks/*.ipynb are missing"


@pytest.mark.parametrize("name", [name for name in STAGES if name != "ablation_inputs"])
def test_stage_names_its_code_and_its_parameters(name):
    stages = [STAGES[name], *([SHARED] if name == "ablation_point" else [])]
    deps, params = ([one for stage in stages for one in stage.get(key, [])] for key in ("deps", "params"))
    code = set().union(*map(code_of, stages))
    data = [path for path in deps if not path.startswith("pacl/") and not path.endswith(".ipynb")]
    right = {"deps": [*sorted(code), *data], "params": sorted(sections_of(code))}
    sections = {".".join(name.split(".")[:2]) for name in params_of(params)}  # a stage may name a part of a section
    same = set(right["deps"]) == set(deps) and set(right["params"]) == sections
    assert same, f"in dvc.yaml, stage {name} should say:\n{yaml.safe_dump(right, sort_keys=False)}"


def test_an_ablation_point_reads_what_names_its_part_of_the_shared_inputs():
    (folder,) = (name for out in SHARED["outs"] for name in out)
    assert f"{folder}/${{item.point}}.json" in STAGES["ablation_point"]["deps"]


def test_notebooks_are_as_nbstripout_leaves_them():
    """Else a notebook that was opened, saved and stripped would count as changed, and its stage would run again."""
    strip = [sys.executable, "-m", "nbstripout", "--extra-keys", "metadata.language_info"]
    found = subprocess.run([*strip, "--verify", *NOTEBOOKS], capture_output=True, text=True)
    assert found.returncode == 0, f"run {' '.join(strip[2:])} notebooks/*.ipynb:\n{found.stdout}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_has_one_parameters_cell(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{path.name} has {len(tagged)} cells tagged `parameters`, but must have one"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_ablation_point_runs(profile):
    points = PARAMS[profile]["ablations"]["points"]
    assert PARAMS["ablation_points"] == list(points), "params.yaml: ablation_points must list every profile's points"


def keys(section: dict, prefix: str = "") -> set[str]:
    """Dotted; those of per_benchmark are benchmarks' names, of which each profile has its own."""
    deeper = {key: value for key, value in section.items() if isinstance(value, dict) and key != "per_benchmark"}
    return {f"{prefix}{key}" for key in section}.union(
        *(keys(value, f"{prefix}{key}.") for key, value in deeper.items())
    )


def test_profiles_have_equal_keys():
    first, *others = PROFILES
    for other in others:
        odd = sorted(keys(PARAMS[first]) ^ keys(PARAMS[other]))
        assert not odd, f"params.yaml: only one of {first} and {other} has {', '.join(odd)}"


def test_conda_environment_installs_the_project():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = (name for name in conda if name.startswith("python="))
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)
    assert pip == {"pip": ["-e .[dev]"]}
