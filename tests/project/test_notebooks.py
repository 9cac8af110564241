"""Notebooks in a project where nothing has run yet: each says what it needs, how long it takes, and what is missing."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

from pacl.notebook import NotebookError, run

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STOPS = {
    "00_pacl_explained": "checkpoints/mini/best.json is missing: train first",
    "02_features": "data/prepared/mini/train.json is missing: run `dvc repro`, or the notebook before this one.",
    "03_train": "data/features/mini/texts.json is missing: run `dvc repro`, or the notebook before this one.",
    "04_patch_alignment": "reports/mini/prepare.json is missing: run `dvc repro`, or the notebook before this one.",
    "05_segmentation": "reports/mini/prepare.json is missing: run `dvc repro`, or the notebook before this one.",
    "06_classification": "reports/mini/prepare.json is missing: run `dvc repro`, or the notebook before this one.",
    "07_ablations": "reports/mini/prepare.json is missing: run `dvc repro`, or the notebook before this one.",
    "08_report": "patch_alignment.json is missing: run the stage patch_alignment (`dvc repro patch_alignment`).",
    "segment_your_images": "There is no folder photos: give images=... the folder that holds your photos.",
}
FIRST = {"01_prepare", "pretrain_miniclip"}  # they need nothing


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project as cloned, without any result, as the working directory."""
    (tmp_path / "data").mkdir()
    (tmp_path / "params.yaml").symlink_to(ROOT / "params.yaml")
    for path in (ROOT / "data").iterdir():
        if path.name not in ("prepared", "features", "raw"):
            (tmp_path / "data" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_every_notebook_is_known_here():
    assert {path.stem for path in NOTEBOOKS} == set(STOPS) | FIRST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_needs_and_how_long_it_takes(path):
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    assert re.search(r"\*\*Needs\*\* \w+", first) and re.search(r"\*\*Takes\*\* \w+", first)


@pytest.mark.parametrize("name", STOPS)
def test_a_notebook_stops_early_where_an_earlier_stage_has_not_run(name, project):
    matplotlib.use("Agg")
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    with pytest.raises(FileNotFoundError, match=re.escape(STOPS[name])):
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            exec(compile("".join(cell["source"]), name, "exec"), names)
    written = [path for path in project.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written == [], "nothing half-written"


def test_a_kernel_shows_the_sentence(project):
    with pytest.raises(NotebookError, match=re.escape(STOPS["08_report"])):
        run(ROOT / "notebooks/08_report.ipynb", project / "executed.ipynb", {})
    assert not (project / "executed.ipynb").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyterlab_need_not_ask_for_a_kernel_nor_rename_it(path):
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"] == {"kernelspec": kernel}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_slider_is_left_out_of_runs_without_jupyterlab(path):
    """A run would wait now and then for ever for the widget's answer."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        slider = cell["cell_type"] == "code" and re.search(r"^interact\(", "".join(cell["source"]), re.MULTILINE)
        assert ("skip-execution" in cell["metadata"].get("tags", [])) == bool(slider)
