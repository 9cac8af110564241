"""The README says what is true now: its claims table, its links, its commands, each run here or by a named test."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import papermill
import pytest
import yaml
from PIL import Image

from pacl.notebook import literals, parse, read
from pacl.report.__main__ import with_claims
from pacl.runtime.files import read_json

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def commands(text: str) -> list[str]:
    """The lines of code blocks without a language, comments cut."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = [re.sub(r"\s+# .*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


# Who runs a command: a test in this file, or one elsewhere, or a check of the repository.
SHOWN_BY = {
    "make reproduce": ".ci/run",
    "make test": ".ci/run",
    "jupyter lab notebooks": "tests/test_browser.py::test_jupyterlab_runs_a_notebook_from_top_to_bottom",
    'python -m pacl.notebook notebooks/segment_your_images.ipynb out.ipynb images=photos prompts="cat,sofa,wall"': (
        "tests/test_photos.py::test_the_notebook_writes_everything_beside_the_photos"
    ),
    "python -m pacl.notebook notebooks/segment_your_images.ipynb out.ipynb images=photos prompts=\"tree,sea\" "
    "backbone=miniclip pretrained=data/miniclip short_side=64 token_stride=4": (
        "tests/test_readme.py::test_photos_can_be_segmented_with_what_is_in_the_repository"
    ),
    "for background in 0.2 0.3 0.4; do python -m pacl.notebook notebooks/segment_your_images.ipynb "
    'sweep/$background.ipynb images=photos prompts="cat,sofa,wall" background=$background output=sweep/$background; '
    "done": "tests/test_readme.py::test_a_sweep_is_a_loop_of_notebook_runs",
    "make rehearse PROFILE=flickr8k DATA=data/raw": "tests/test_rehearse.py::test_make_rehearse_names_what_is_missing",
    "dvc exp run -S 'profiles=[mini,flickr8k]'": "tests/test_readme.py::test_named_profiles_are_there",
    "python -m pacl.report flickr8k": "tests/test_report.py::test_command_line_shows_report_and_claims",
    "python -m pacl.report compare OLD/metrics.json reports/mini/metrics.json --tolerance 0.02": (
        "tests/test_report.py::test_compare_sets_the_exit_status"
    ),
    "dvc repro --allow-missing --dry": ".ci/run",
    "dvc metrics show": "tests/test_readme.py::test_dvc_shows_metrics_and_plots",
    "dvc plots show": "tests/test_readme.py::test_dvc_shows_metrics_and_plots",
}  # fmt: skip


@pytest.mark.parametrize("command", commands(README))
def test_each_command_is_shown_to_work_somewhere(command):
    assert command in SHOWN_BY, "say in SHOWN_BY which test runs this command of README.md"
    path, _, test = SHOWN_BY[command].partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    assert f"def {test}(" in text if test else any(word in text for word in (command, command.removeprefix("make ")))


def test_no_command_is_listed_that_the_readme_has_no_more():
    assert set(SHOWN_BY) == set(commands(README))


def test_the_claims_table_is_that_of_the_committed_run():
    current = with_claims(README, read_json(ROOT / "reports/mini/claims.json"))
    assert current == README, "run: python -m pacl.report readme"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_tree_names_every_module_and_no_other():
    tree = re.search(r"```text\n(.*?)```", README, re.S)[1]
    library = re.search(r"^pacl/.*?\n(.*?)^data/", tree, re.M | re.S)[1]
    named = set(re.findall(r"\w+", " ".join(re.split(r"\s{4,}", line.strip())[0] for line in library.splitlines())))
    assert named == {path.stem for path in (ROOT / "pacl").glob("*.py")} - {"__init__"}


def test_named_profiles_are_there():
    profiles = re.search(r"profiles=\[([^]]*)\]", README)[1].split(",")
    assert set(profiles) <= set(yaml.safe_load((ROOT / "params.yaml").read_text()))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def run(command: list[str], **settings) -> subprocess.CompletedProcess:
    command = [sys.executable if word == "python" else word for word in command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **settings)


@pytest.mark.slow
def test_photos_can_be_segmented_with_what_is_in_the_repository(photos, tmp_path):
    (command,) = (shlex.split(line) for line in SHOWN_BY if "pretrained=data/miniclip" in line)
    changed = {"out.ipynb": str(tmp_path / "out.ipynb"), "images=photos": f"images={photos}"}
    trained = ["checkpoint=checkpoints/mini/best"]  # what README.md says to add once the pipeline has run
    assert f"`{trained[0]}`" in README
    there = (ROOT / "checkpoints/mini/best.safetensors").exists()
    done = run([changed.get(word, word) for word in command] + trained * there)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "photos_segmented/masks/a.png.png") as mask:
        assert mask.mode == "P" and mask.size == (60, 40) and set(np.unique(np.asarray(mask))) <= {1, 2}
    with (tmp_path / "photos_segmented/areas.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["prompt"]) for row in rows] == [(f"{n}.png", p) for n in "ab" for p in ("tree", "sea")]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(2, abs=1e-5)


def test_a_sweep_is_a_loop_of_notebook_runs(tmp_path):
    """The loop is run with a stand-in that writes down what it is asked to do; single runs are tested above."""
    (loop,) = (line for line in SHOWN_BY if line.startswith("for "))
    (tmp_path / "python").write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s\\t" "$word"; done >> calls; echo >> calls'
    )
    (tmp_path / "python").chmod(0o755)
    subprocess.run(["bash", "-ec", loop], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    calls = [line.split("\t")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[:3] for call in calls] == [["-m", "pacl.notebook", "notebooks/segment_your_images.ipynb"]] * 3
    defaults = literals(read(ROOT / "notebooks/segment_your_images.ipynb"))
    given = [dict(parse(pair, defaults) for pair in call[4:]) for call in calls]
    assert [parameters["background"] for parameters in given] == [0.2, 0.3, 0.4]
    assert len({call[3] for call in calls}) == len({parameters["output"] for parameters in given}) == 3
    known = papermill.inspect_notebook(str(ROOT / "notebooks/segment_your_images.ipynb"))
    assert all(set(parameters) <= set(known) for parameters in given)


def test_dvc_shows_metrics_and_plots(tmp_path):
    dvc = Path(sys.executable).with_name("dvc")
    if not dvc.exists():
        pytest.skip("dvc isn't beside this Python")
    shown = run([str(dvc), "metrics", "show", "--md"])
    assert shown.returncode == 0 and "reports/mini/" in shown.stdout, shown.stderr
    plots = run([str(dvc), "plots", "show", "--out", str(tmp_path / "plots")])
    assert plots.returncode == 0 and (tmp_path / "plots/index.html").is_file(), plots.stderr


def test_the_citation_is_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(citation)
    assert [author["family-names"] for author in citation["preferred-citation"]["authors"]][:2] == ["Mukhoti", "Lin"]


def test_pre_commit_strips_sources_in_place_and_never_executed_copies():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (strip,) = (hook for hook in hooks if hook["id"] == "nbstripout")
    assert re.search(strip["files"], "notebooks/01_prepare.ipynb")
    assert not re.search(strip["files"], "reports/mini/01_prepare.ipynb")
    checked = run([sys.executable, "-m", "pre_commit", "validate-config"])
    assert checked.returncode == 0, checked.stdout + checked.stderr
