"""dvc.yaml says what its stages really import and read; a stage that hides one is skipped when it should run."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers.imports import MODULES, ROOT, imports, parse

from pacl.notebook import strip

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PROFILES = [name for name, value in PARAMS.items() if isinstance(value, dict) and "pretrain" not in value]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(stage: dict) -> set[Path]:
    """The stage's notebook or module and all pacl modules below it; pacl.notebook, which only runs it, is left out."""
    _, _, module, *arguments = shlex.split(stage["cmd"])
    todo = [ROOT / arguments[0] if module == "pacl.notebook" else MODULES[module]]
    found = set()
    while todo:
        found.add(path := todo.pop())
        todo += {MODULES[other] for other, _ in imports(path)} - found
    return found


def sections_of(paths: set[Path]) -> set[str]:
    """What load_params(profile, "train") calls read: PROFILE.train, where dvc.yaml writes ${item.profile}.train."""
    found = set()
    for node in (node for path in paths for node in ast.walk(parse(path))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "load_params":
            profile, *sections = node.args
            assert all(isinstance(name, ast.Constant) for name in sections), f"{ast.unparse(node)}: name the sections"
            prefix = profile.value if isinstance(profile, ast.Constant) else "PROFILE"
            found |= {f"{prefix}.{name.value}" for name in sections}
    return found


def covers(name: str, path: Path) -> bool:
    return path == ROOT / name or ROOT / name in path.parents


@pytest.mark.parametrize("name", STAGES)
def test_stage_names_the_code_it_imports_and_no_other(name):
    code = {path for path in code_of(STAGES[name]) if path.name != "__init__.py"}
    named = [dep for dep in STAGES[name]["deps"] if dep.startswith(("pacl", "notebooks"))]
    hidden = sorted(str(path.relative_to(ROOT)) for path in code if not any(covers(dep, path) for dep in named))
    idle = [dep for dep in named if not any(covers(dep, path) for path in code)]
    assert not hidden and not idle, f"in dvc.yaml, stage {name} should name {hidden} and not {idle}"


@pytest.mark.parametrize("name", STAGES)
def test_stage_names_the_parameters_it_loads(name):
    named = {one.replace("${item.profile}", "PROFILE") for one in STAGES[name]["params"]}
    sections = {".".join(one.split(".")[:2]) for one in named}  # a stage may name a part of a section
    assert sections == sections_of(code_of(STAGES[name]))


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("figures", "report")])
def test_drawing_is_no_input_of_measuring(name):
    assert not [dep for dep in STAGES[name]["deps"] if dep.startswith(("pacl/figures", "pacl/report"))]


def path_of(out: str | dict) -> str:
    return out if isinstance(out, str) else next(iter(out))


def test_a_stage_writes_one_folder_of_reports_and_reads_other_stages_folders():
    outs = {name: [path_of(out) for out in stage["outs"]] for name, stage in STAGES.items()}
    for name in set(STAGES) - {"report"}:
        assert len([out for out in outs[name] if out.startswith("reports/") and not out.endswith(".json")]) <= 1, name
    written = {out for paths in outs.values() for out in paths} | {"reports/${item.profile}/worlds"}
    for stage in STAGES.values():
        reads = {dep for dep in stage["deps"] if dep.startswith("reports/${item.profile}")}
        assert reads <= written, reads - written


def test_each_committed_file_of_a_report_is_written_by_a_stage_or_read_by_the_report():
    """One that no stage writes any more would stay with its old numbers."""
    patterns = ["reports/[^/]+/dvc.(yaml|lock)"]
    for stage in STAGES.values():
        own = stage["matrix"]["profile"]
        values = {"profile": "[^/]+" if isinstance(own, str) else "|".join(own), "seed": r"\d+"}
        outs = [path_of(out) for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        for name in outs + (stage["deps"] if stage is STAGES["report"] else []):
            patterns.append(re.sub(r"\$\{item\.(\w+)\}", lambda found, of=values: f"({of[found[1]]})", name))
    files = subprocess.run(["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    left = [name for name in files.splitlines() if not any(re.match(f"{one}(/|$)", name) for one in patterns)]
    assert left == []


def test_notebooks_are_as_strip_leaves_them(tmp_path):
    """Else a notebook that was opened, saved and stripped would count as changed, and its stage would run again."""
    strip([Path(shutil.copy(path, tmp_path)) for path in NOTEBOOKS])
    changed = [path.name for path in NOTEBOOKS if path.read_bytes() != (tmp_path / path.name).read_bytes()]
    assert not changed, f"run python -m pacl.notebook strip notebooks/*.ipynb: {changed}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_has_one_parameters_cell(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{path.name} has {len(tagged)} cells tagged `parameters`, but must have one"


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
        odd = [name for name in odd if "main_run" not in name]  # whose three seeds would take mini minutes
        assert not odd, f"params.yaml: only one of {first} and {other} has {', '.join(odd)}"


def test_conda_environment_installs_the_project_with_the_pinned_versions():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = (name for name in conda if name.startswith("python="))
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]} and (ROOT / "constraints.txt").is_file()
