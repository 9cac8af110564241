"""metrics.json, the comparison of two, and the command line."""

import json
import math

import pytest
from helpers.profiles import params_of

from pacl.report.__main__ import main
from pacl.report.claims import claims_table, readmes_claims, with_claims
from pacl.report.metrics import compare, headline, write_metrics
from pacl.report.results import Results
from pacl.runtime.files import write_json

OLD = {"patch_alignment": {"pacl": {"accuracy": 0.85, "auc": 0.9}}, "classification": {"clean": {"clip": 0.84}}}


def test_metrics_are_the_three_parts_and_a_missing_part_names_its_stage(tmp_path):
    params = params_of("mini")
    for stage in ("patch_alignment", "classification"):
        write_json(tmp_path / stage / f"{stage}.json", {"clip": {"accuracy": 0.5, "clip": 0.5}})
    with pytest.raises(FileNotFoundError, match="run the stage segmentation"):
        write_metrics(Results("mini", params, tmp_path))
    write_json(tmp_path / "segmentation/segmentation.json", {})
    metrics = write_metrics(Results("mini", params, tmp_path))
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics) == ["patch_alignment", "segmentation", "classification"]
    assert json.loads((tmp_path / "headline.json").read_text()) == headline(metrics)


def test_the_headline_has_the_first_protocol_and_the_mean_over_sets():
    def native(clip, pacl):
        return {"clip": {"miou": clip, "pixel_accuracy": 0.9}, "sclip": {"miou": 0.5}, "pacl": {"miou": pacl}}

    metrics = {
        "patch_alignment": {"clip": {"accuracy": 0.4, "auc": 0.9}, "pacl": {"accuracy": 0.8}, "colours": {"auc": 0.6}},
        "segmentation": {"voc20": {"native": native(0.1, 0.3), "tcl": native(0.2, 0.6)}},
        "classification": {
            "a": {"clip": 0.2, "pacl": 0.3, "ensemble": 0.6},
            "b": {"clip": 0.4, "pacl": 0.7, "ensemble": 0.8},
        },
    }
    measured = {"patch accuracy": {"clip": 0.4, "pacl": 0.8}, "voc20 mIoU": {"clip": 0.1, "pacl": 0.3}}
    found = headline(metrics)
    assert found["classification"] == pytest.approx({"clip": 0.3, "pacl": 0.5, "ensemble": 0.7})
    assert found == measured | {"classification": found["classification"]}
    assert headline(metrics | {"classification": {}}) == measured


def test_compare_lists_differences_by_size_and_passes_the_tolerance_itself():
    old = {"a": {"x": 0.5, "y": [0.1, 0.9]}, "b": 1.0, "c": 0.3}
    new = {"a": {"x": 0.7, "y": [0.1, 0.4]}, "b": 0.95, "c": 0.32}
    lines, within = compare(old, new, 0.02)
    assert not within and lines == [
        "a.y.1: 0.9 -> 0.4, more than 0.02 apart.",
        "a.x: 0.5 -> 0.7, more than 0.02 apart.",
        "b: 1.0 -> 0.95, more than 0.02 apart.",
        "Largest difference of 5 values: 0.500000, a.y.1 (0.9 -> 0.4).",
    ]
    assert compare({"c": 0.3}, {"c": 0.32}, 0.02)[1] and not compare({"c": 0.3}, {"c": 0.32}, 0.0199)[1]


def test_compare_names_what_is_missing_on_either_side():
    new = {"patch_alignment": {"pacl": {"accuracy": 0.85}}, "classification": {"clean": {"clip": 0.84}, "small": 0.2}}
    lines, within = compare(OLD, new, 0.02)
    missing = ["patch_alignment.pacl.auc is only in the old file.", "classification.small is only in the new file."]
    assert not within and lines[:2] == missing


@pytest.mark.parametrize("value", [math.nan, "a", None, False, math.inf])
def test_what_is_not_a_number_equals_itself_alone(value):
    assert compare({"x": value}, {"x": value}, 1e9)[1]
    assert not any(compare({"x": value}, {"x": other}, 1e9)[1] for other in (0.5, "b"))


# --- the command line ---


@pytest.fixture
def files(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(OLD))
    (tmp_path / "new.json").write_text(json.dumps(OLD | {"classification": {"clean": {"clip": 0.8}}}))
    (tmp_path / "corrupt.json").write_text("{")
    for name in ("one", "other"):
        (tmp_path / f"{name}.json").write_text('{"clip": {}}')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (
            "old.json old.json --tolerance 0",
            0,
            "Largest difference of 3 values: 0.000000, patch_alignment.pacl.accuracy",
        ),
        ("old.json new.json", 1, "classification.clean.clip: 0.84 -> 0.8"),
        ("old.json new.json --tolerance 0.05", 0, ""),
        ("old.json nowhere.json", 1, "nowhere.json is missing"),
        ("old.json .", 1, "can't be read (Is a directory): name a metrics.json."),
        ("corrupt.json old.json", 1, "corrupt.json is corrupt"),
        ("one.json other.json", 1, "other.json holds a value: name two metrics.json."),
    ],
)
def test_compare_sets_the_exit_status(files, monkeypatch, capsys, arguments, status, said):
    monkeypatch.chdir(files)
    assert main(["compare", *arguments.split()]) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-0.01", "little", ""])
def test_a_tolerance_that_would_pass_or_refuse_anything_is_refused(files, capsys, tolerance):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *[str(files / "old.json")] * 2, f"--tolerance={tolerance}"])
    assert ended.value.code != 0
    assert f"{tolerance!r} is not a tolerance: give a finite number of at least 0." in capsys.readouterr().err


def test_command_line_shows_report_and_claims(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pacl.report.__main__.report_folder", lambda profile: tmp_path / profile)
    assert main(["mini"]) == 1 and "make reproduce" in capsys.readouterr().err
    write_json(tmp_path / "mini/claims.json", [claim("1.0 %"), claim("not measured", "not tested")])
    (tmp_path / "mini/report.html").touch()
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "mini/report.html") in shown and "not tested" in shown and "1.0 %" in shown


def claim(measured: str, verdict: str = "reproduced") -> dict:
    return {"claim": "One | claim.", "paper": "50.1", "measured": measured, "verdict": verdict}


def test_the_readmes_table_has_two_columns_a_run():
    drawings = [claim("1.0 % (a world)"), claim("not measured", "not tested")]
    photographs = [claim("2.0 % (photos)", "not reproduced"), claim("3.0 % (photos)")]
    head, _, first, second = claims_table({"Drawings": drawings, "Photographs": photographs}).splitlines()
    assert head == "| Claim | Paper | Drawings | Verdict | Photographs | Verdict |"
    assert first == "| One \\| claim. | 50.1 | 1.0 % | reproduced | 2.0 % | not reproduced |"
    assert second == "| One \\| claim. | 50.1 | not measured | not tested | 3.0 % | reproduced |"


def test_the_readme_shows_the_runs_that_there_are(tmp_path):
    write_json(tmp_path / "mini/claims.json", [claim("1.0 %")])
    assert list(readmes_claims(tmp_path)) == ["Drawings, small CLIP"]
    write_json(tmp_path / "photos/claims.json", [claim("2.0 %")])
    assert [claims[0]["measured"] for claims in readmes_claims(tmp_path).values()] == ["1.0 %", "2.0 %"]


def test_a_readme_without_both_markers_is_left_alone():
    begin, end = "<!-- claims: python -m pacl.report readme -->", "<!-- end of claims -->"
    made = with_claims(f"top\n{begin}\nold\n{end}\nrest", {"Ours": [claim("1.0 %")]})
    assert made.startswith(f"top\n{begin}\n\n| Claim |") and made.endswith(f"\n\n{end}\nrest") and "old" not in made
    for incomplete in (f"{begin}\nold", f"old\n{end}"):
        with pytest.raises(ValueError, match="README.md lacks the lines"):
            with_claims(incomplete, {"Ours": [claim("1.0 %")]})
