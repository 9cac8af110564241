"""README.md and the docs are true now: the claims table, links, the tree, and commands, each run by a named test."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from helpers.imports import ROOT
from PIL import Image

from pacl.notebook import literals, parse, read
from pacl.report.claims import readmes_claims, with_claims
from pacl.runtime.files import read_json

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "speed/README.md"]


def commands(page: str) -> set[str]:
    """The lines of a page's code blocks without a language, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    lines = {re.sub(r"\s+# .*", "", line).strip() for block in blocks for line in block.splitlines()}
    return lines - {""}


COMMANDS = commands("README.md") | commands("docs/running.md")
SEGMENT = "python -m pacl.notebook notebooks/segment_your_images.ipynb"
IN_REPOSITORY = 'prompts="tree,sea" backbone=miniclip pretrained=data/miniclip short_side=64 token_stride=4'
SWEEP = 'prompts="cat,sofa,wall" background=$background output=sweep/$background'
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")
# The test that runs a command, or .ci/run.
SHOWN_BY = {
    "make reproduce": CI,
    "make test": CI,
    f'{SEGMENT} out.ipynb images=photos prompts="cat,sofa,wall"': "the_notebook_writes_everything_next_to_the_photos",
    f"{SEGMENT} out.ipynb images=photos {IN_REPOSITORY}": "photos_are_segmented_with_what_is_in_the_repository",
    "make rehearse PROFILE=flickr8k DATA=data/raw": "make_rehearse_names_what_is_missing",
    "make data PROFILE=flickr8k": "make_data_and_make_reproduce_say_what_can_t_be_had",
    "make reproduce PROFILE=flickr8k": "make_data_and_make_reproduce_say_what_can_t_be_had",
    "python -m pacl.report expect flickr8k": "the_command_says_it_and_its_status_tells",
    "python -m pacl.report flickr8k": "command_line_shows_report_and_claims",
    "jupyter lab notebooks": "jupyterlab_runs_a_notebook_from_top_to_bottom",
    "python -m pacl.notebook strip notebooks/*.ipynb": "notebooks_are_as_strip_leaves_them",
    f"for background in 0.4 0.6 0.8; do {SEGMENT} sweep/$background.ipynb images=photos {SWEEP}; done": (
        "a_sweep_is_a_loop_of_notebook_runs"
    ),
    "python -m pacl.report compare OLD/metrics.json reports/mini/metrics.json --tolerance 0.02": (
        "compare_sets_the_exit_status"
    ),
    "dvc repro --allow-missing --dry": CI,
    "dvc metrics show": "the_committed_run_has_what_dvc_shows",
    "dvc plots show": "the_committed_run_has_what_dvc_shows",
}


def test_each_command_is_shown_to_work_somewhere():
    assert SHOWN_BY.keys() == COMMANDS, "name each command of README.md and docs/running.md, and no other"
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for command, test in SHOWN_BY.items():
        assert command.removeprefix("make ") in CI if test is CI else f"def test_{test}(" in tests, command


def test_the_claims_table_is_that_of_the_committed_run():
    current = with_claims(README, readmes_claims(ROOT / "reports"))
    assert current == README, "run: python -m pacl.report readme"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_tree_names_each_folder_and_root_file_of_the_library():
    tree = re.search(r"```text\n(.*?)```", README, re.S)[1]
    library = re.search(r"^pacl/.*?\n(.*?)^\w", tree, re.M | re.S)[1]
    named = " ".join(re.split(r"\s{4,}", line.strip())[0] for line in library.splitlines()).split()
    there = [f"{path.parent.name}/" for path in ROOT.glob("pacl/*/__init__.py")]
    there += [path.stem for path in ROOT.glob("pacl/[!_]*.py")]
    assert sorted(named) == sorted(there)


def test_the_committed_run_has_what_dvc_shows():
    """`dvc metrics show` and `dvc plots show` leave out a file or a column that isn't there, without a word."""
    assert read_json(ROOT / "reports/mini/headline.json")
    for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]:
        of_files = next(iter(plot.values()))["y"] if isinstance(plot, dict) else {plot: []}
        for name, columns in of_files.items():
            first = (ROOT / name).read_bytes().partition(b"\n")[0] if columns else b""
            assert (ROOT / name).is_file() and {*np.atleast_1d(columns)} <= {*first.decode().split(",")}, name


@pytest.mark.slow
def test_photos_are_segmented_with_what_is_in_the_repository(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f"photos/{name}.png")
    command = [sys.executable, *SEGMENT.split()[1:], str(tmp_path / "out.ipynb"), f"images={tmp_path / 'photos'}"]
    trained = "checkpoint=checkpoints/mini/best"  # what README.md says to add once the pipeline has run
    assert f"`{trained}`" in README
    there = (ROOT / "checkpoints/mini/best.safetensors").exists()
    command += shlex.split(IN_REPOSITORY) + [trained] * there
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "photos_segmented/masks/a.png.png") as mask:
        assert mask.mode == "P" and mask.size == (60, 40) and set(np.unique(np.asarray(mask))) <= {1, 2}
    areas = pd.read_csv(tmp_path / "photos_segmented/areas.csv").pivot(index="image", columns="prompt", values="share")
    assert sorted(areas) == ["sea", "tree"] and areas.sum(axis=1).to_list() == pytest.approx([1, 1], abs=1e-5)


def test_a_sweep_is_a_loop_of_notebook_runs(tmp_path):
    """The loop runs with a stand-in for Python that records what it is asked to do."""
    (loop,) = (line for line in COMMANDS if line.startswith("for "))
    python = '#!/bin/sh\nfor word in "$@"; do printf "%s\\t" "$word"; done >> calls; echo >> calls'
    (tmp_path / "python").write_text(python)
    (tmp_path / "python").chmod(0o755)
    subprocess.run(["bash", "-ec", loop], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    calls = [line.split("\t")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[:3] for call in calls] == [SEGMENT.split()[1:]] * 3
    defaults = literals(read(ROOT / "notebooks/segment_your_images.ipynb"))
    given = [dict(parse(pair, defaults) for pair in call[4:]) for call in calls]
    assert [parameters["background"] for parameters in given] == [0.4, 0.6, 0.8]
    assert len({call[3] for call in calls}) == len({parameters["output"] for parameters in given}) == 3
    known = papermill.inspect_notebook(str(ROOT / "notebooks/segment_your_images.ipynb"))
    assert all(set(parameters) <= set(known) for parameters in given)


def test_pre_commit_strips_sources_in_place_and_never_executed_copies():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (strip,) = (hook for hook in hooks if hook["id"] == "strip")
    assert re.search(strip["files"], "notebooks/01_prepare.ipynb")
    assert not re.search(strip["files"], "reports/mini/prepare/01_prepare.ipynb")
    assert all((ROOT / word).exists() for hook in hooks for word in hook["entry"].split() if word.endswith(".py"))
