"""Notebooks in a project where nothing has run yet: each says what it needs, how long it takes, and what is missing."""

import json
import re

import matplotlib
import pytest
from helpers.folders import link_sources
from helpers.imports import ROOT

CELLS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "notebooks").glob("*.ipynb")}
NO_SCENES = "data/prepared/mini has no test scenes: run `dvc repro`, or the notebook before this one."
NOT_TRAINED = "checkpoints/mini/best.json is missing: train first (`dvc repro train`), or name another checkpoint."
STOPS = {
    "00_pacl_explained": NOT_TRAINED,
    "02_features": "data/prepared/mini/train.json is missing: run `dvc repro`, or the notebook before this one.",
    "03_train": "data/features/mini/validation_patches.npy is missing: check the path, or run the stage that",
    "04_patch_alignment": NO_SCENES,
    "05_segmentation": NO_SCENES,
    "06_scenes": NO_SCENES,
    "07_classification": NOT_TRAINED,
    "08_ablations": "default.json is missing: run `dvc repro`, or the notebook before this one.",
    "09_consistency": "segmentation.json is missing: run `dvc repro`, or the notebook before this one.",
    "10_figures": "reports/mini/prepare/prepare.json is missing: run `dvc repro`, or the notebook before this one.",
    "11_report": "patch_alignment.json is missing: run the stage patch_alignment (`dvc repro patch_alignment`).",
    "segment_your_images": "photos does not exist: set images=... to the folder that holds your photos.",
}
FIRST = {"01_prepare", "pretrain_clip"}  # they need nothing
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # JupyterLab needn't ask


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project as cloned, without any result, as the working directory."""
    monkeypatch.chdir(link_sources(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", sorted(STOPS.keys() | FIRST | CELLS.keys()))
def test_a_notebook_says_what_it_needs_and_runs_without_jupyterlab(name):
    assert name in STOPS.keys() | FIRST, "what it says in a fresh project must be known here"
    assert CELLS[name]["metadata"] == {"kernelspec": KERNEL}
    first, *cells = CELLS[name]["cells"]
    assert re.search(r"\*\*Needs\*\* \w+.*\*\*Takes\*\* \w+", "".join(first["source"]), re.DOTALL)
    for cell in cells:  # a run without JupyterLab would sometimes wait for ever for a slider's answer
        slider = cell["cell_type"] == "code" and re.search(r"^interact\(", "".join(cell["source"]), re.MULTILINE)
        assert ("skip-execution" in cell["metadata"].get("tags", [])) == bool(slider)


@pytest.mark.parametrize("name", STOPS)
def test_a_notebook_stops_early_if_an_earlier_stage_has_not_run(name, project):
    matplotlib.use("Agg")
    names: dict = {}
    with pytest.raises(FileNotFoundError, match=re.escape(STOPS[name])):
        for cell in (cell for cell in CELLS[name]["cells"] if cell["cell_type"] == "code"):
            exec(compile("".join(cell["source"]), name, "exec"), names)
    written = [path for path in project.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written == [], "nothing half-written"
