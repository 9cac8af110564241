"""The report says what the files say, all of it, and the same bytes each time."""

import copy
import json
import math

import pytest

from pacl.report import compare, main, write_metrics

OLD = {"patch_alignment": {"pacl": {"accuracy": 0.85, "auc": 0.9}}, "classification": {"clean": {"clip": 0.84}}}


def test_equal_metrics_are_within_any_tolerance():
    lines, within = compare(OLD, copy.deepcopy(OLD), 0.0)
    assert within and lines == [
        "Largest difference of 3 values: 0.000000, patch_alignment.pacl.accuracy (0.85 -> 0.85)."
    ]


def test_compare_counts_the_tolerance_itself_as_within():
    new = copy.deepcopy(OLD)
    new["patch_alignment"]["pacl"]["accuracy"] = 0.87
    assert compare(OLD, new, 0.02)[1]
    new["classification"]["clean"]["clip"] = 0.81
    lines, within = compare(OLD, new, 0.02)
    assert not within
    assert lines[0] == "classification.clean.clip: 0.84 -> 0.81, more than 0.02 apart."
    assert len(lines) == 2 and "0.030000" in lines[1]


def test_compare_names_what_is_missing_on_either_side():
    new = {
        "patch_alignment": {"pacl": {"accuracy": 0.85}},
        "classification": {"clean": {"clip": 0.84}, "small": {"clip": 0.2}},
    }
    lines, within = compare(OLD, new, 0.02)
    assert not within
    assert lines[:2] == [
        "patch_alignment.pacl.auc is only in the old file.",
        "classification.small.clip is only in the new file.",
    ]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [(math.nan, math.nan, True), (math.nan, 0.5, False), ("a", "b", False), (1, True, True), (None, 0.0, False)],
)
def test_compare_of_what_is_no_number(old, new, same):
    assert compare({"x": old}, {"x": new}, 1e9)[1] == same


def test_compare_sets_the_exit_status(tmp_path, capsys):
    (tmp_path / "old.json").write_text(json.dumps(OLD))
    (tmp_path / "new.json").write_text(json.dumps(OLD | {"classification": {"clean": {"clip": 0.8}}}))
    files = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    assert main(["compare", files[0], files[0]]) == 0
    assert main(["compare", *files]) == 1
    assert main(["compare", *files, "--tolerance", "0.05"]) == 0
    assert "classification.clean.clip" in capsys.readouterr().out
    assert main(["compare", files[0], str(tmp_path / "nowhere.json")]) == 1
    assert "nowhere.json is missing" in capsys.readouterr().err


def test_metrics_are_the_three_parts_and_a_missing_part_names_its_stage(tmp_path):
    for part in ("patch_alignment", "classification"):
        (tmp_path / f"{part}.json").write_text(json.dumps({"clip": part}))
    with pytest.raises(FileNotFoundError, match="run the stage segmentation"):
        write_metrics(tmp_path)
    (tmp_path / "segmentation.json").write_text("{}")
    assert write_metrics(tmp_path) == json.loads((tmp_path / "metrics.json").read_text())
    assert list(write_metrics(tmp_path)) == ["patch_alignment", "segmentation", "classification"]
