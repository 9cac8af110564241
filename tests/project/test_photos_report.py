"""reports/photos, which takes longer to make than a change may wait: whether it is whole, and older than the code.

DVC's locks tell: those of reports/photos say what its stages read, dvc.lock says what the code is now (that it does is
checked by `dvc repro --allow-missing --dry`).
"""

import hashlib
import json
from pathlib import Path

import pytest
from helpers.imports import ROOT

from pacl.runtime.config import read_yaml

REPORT = ROOT / "reports/photos"
AGAIN = "make reproduce PROFILE=photos"


def stages_of(lock) -> dict:
    return read_yaml(lock)["stages"]


def older_stages(locked: dict, now: dict, params: dict) -> dict[str, list[str]]:
    """stage -> what it read that has changed. locked, now: stages of two dvc.lock; params: those of the profile."""
    current = {one["path"]: one["md5"] for stage in now.values() for one in stage["deps"] + stage["outs"]}
    found = {}
    for name, stage in locked.items():
        changed = [one["path"] for one in stage["deps"] if current.get(one["path"], one["md5"]) != one["md5"]]
        read = stage.get("params", {}).get("params.yaml", {})
        changed += [key for key, value in read.items() if value_of(params, key) != value]
        found |= {name: changed} if changed else {}
    return found


def value_of(params: dict, key: str):
    """The value of "photos.protocols.native", None where there is none."""
    for name in key.split("."):
        params = (params or {}).get(name)
    return params


def test_a_changed_input_and_a_changed_parameter_make_a_stage_older():
    read = [{"path": "pacl/data", "md5": "1"}, {"path": "data/prepared/photos", "md5": "2"}]
    locked = {"train": {"deps": read, "outs": [], "params": {"params.yaml": {"photos.train": {"epochs": 8}}}}}
    now = {"train@mini": {"deps": read[:1], "outs": [{"path": "data/photoclip", "md5": "3"}]}}
    assert older_stages(locked, now, {"photos": {"train": {"epochs": 8}}}) == {}
    assert older_stages(locked, now, {"photos": {"train": {"epochs": 9}}}) == {"train": ["photos.train"]}
    assert older_stages(locked, now, {}) == {"train": ["photos.train"]}
    locked["train"] |= {"deps": [{"path": "data/photoclip", "md5": "4"}, {"path": "pacl/data", "md5": "0"}]}
    assert older_stages(locked, now, {"photos": {"train": {"epochs": 8}}}) == {"train": ["data/photoclip", "pacl/data"]}


def md5_of(path: Path) -> str:
    """A file's or a folder's checksum, as DVC's locks have it."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = {file.relative_to(path).as_posix(): md5_of(file) for file in path.rglob("*") if file.is_file()}
    listed = json.dumps([{"md5": files[name], "relpath": name} for name in sorted(files)])
    return hashlib.md5(listed.encode()).hexdigest() + ".dir"


def test_the_committed_files_are_those_that_the_stages_wrote():
    written = {one["path"]: one["md5"] for stage in stages_of(REPORT / "dvc.lock").values() for one in stage["outs"]}
    files = {path: md5 for path, md5 in written.items() if path.startswith("reports/")}
    assert {"reports/photos/report.html", "reports/photos/segmentation", "reports/photos/metrics.json"} <= files.keys()
    for path, md5 in files.items():
        assert md5_of(ROOT / path) == md5, f"{path}: run `{AGAIN}` and commit it"


def test_the_report_belongs_to_the_code():
    params = read_yaml(ROOT / "params.yaml")
    if older := older_stages(stages_of(REPORT / "dvc.lock"), stages_of(ROOT / "dvc.lock"), params):
        stages = "; ".join(f"{name} ({', '.join(changed)})" for name, changed in older.items())
        pytest.skip(f"reports/photos is older than what its stages read: {stages}. To renew it: {AGAIN}")
