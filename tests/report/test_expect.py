"""Literature's ranges beside the numbers of hand-made runs on real photographs."""

import pandas as pd
import pytest
from helpers.imports import ROOT
from helpers.profiles import params_of

from pacl.report import __main__ as command
from pacl.report.expect import AGREES, LOOK, as_text, expectations
from pacl.report.page import from_data
from pacl.report.results import MEASURED, Results
from pacl.runtime.files import write_json


def made(
    folder, *, whole=("voc20", "voc21"), backbone="ViT-B-16", pretrained="openai", images=None, **chapters
) -> Results:
    """A run's files: chapters, each as its JSON file, in percent."""
    for chapter, content in (chapters | {"prepare": {"label": "photos", "whole benchmarks": list(whole)}}).items():
        write_json(folder / chapter / f"{chapter}.json", content)
    model, prepare = {"backbone": backbone, "pretrained": pretrained}, {"classification_images": images}
    return Results("flickr8k", params_of("flickr8k", model=model, prepare=prepare), folder)


def masks(**of_protocol) -> dict:
    """voc20's mIoU by protocol and method, from percent."""
    return {"voc20": {p: {m: {"miou": v / 100} for m, v in values.items()} for p, values in of_protocol.items()}}


def verdicts(rows) -> dict[str, str]:
    return {row["number"]: row["verdict"] for row in rows}


def test_numbers_within_the_literature_agree_and_others_are_pointed_out(tmp_path):
    results = made(
        tmp_path,
        patch_alignment={"clip": {"accuracy": 0.5249}, "pacl": {"accuracy": 0.9}, "random": {"accuracy": 0.1}},
        segmentation=masks(
            native={"clip": 10.0, "pacl": 70.0},
            sclip={"clip": 39.8, "maskclip": 60.0, "sclip": 82.5, "pacl": 70.0},
            tcl={"clip": 51.4},
        ),
    )
    rows = expectations(results, list(MEASURED))
    assert verdicts(rows) == {
        "patch accuracy, voc20, clip": AGREES,
        "mIoU, voc20, native, clip": "",  # nobody published it
        "mIoU, voc20, sclip, clip": AGREES,  # 41.8 to 49.4, 2 points beside it
        "mIoU, voc20, sclip, maskclip": LOOK,  # 74.9
        "mIoU, voc20, sclip, sclip": LOOK,  # 80.4 and 2.1 more
        "mIoU, voc20, tcl, clip": AGREES,
    }
    text = as_text(rows)
    assert "mIoU, voc20, sclip, clip      39.8  41.8–49.4 ± 2  harness agrees\n" in text
    assert "mIoU, voc20, native, clip     10.0  none known\n" in text
    assert "Look at mIoU, voc20, sclip, maskclip: what CLIP's own row says; then the values of the last block" in text
    assert text.endswith("3 of 5 numbers that others published are met.")


@pytest.mark.parametrize("accuracy, verdict", [(0.2791, AGREES), (0.2485, LOOK), (0.5249, LOOK)])
def test_each_backbone_has_its_own_numbers(tmp_path, accuracy, verdict):
    results = made(tmp_path, backbone="ViT-L-14", patch_alignment={"clip": {"accuracy": accuracy}})
    assert verdicts(expectations(results, ["patch_alignment"])) == {"patch accuracy, voc20, clip": verdict}


def test_classification_and_a_backbone_without_numbers(tmp_path):
    sets = {"imagenet": {"clip": 0.68, "pacl": 0.5}, "dtd": {"clip": 0.60}, "own": {"clip": 0.9}}
    rows = expectations(made(tmp_path, classification=sets), ["classification"])
    assert [row["verdict"] for row in rows] == [AGREES, LOOK, ""]
    rows = expectations(made(tmp_path, backbone="ViT-B-32"), ["classification"])
    assert {row["literature"] for row in rows} == {"none known"}


def test_a_part_of_a_test_split_is_not_compared(tmp_path):
    results = made(tmp_path, whole=("voc21",), segmentation=masks(sclip={"clip": 90.0}))
    (row,) = expectations(results, ["segmentation"])
    assert (row["literature"], row["verdict"]) == ("not the whole test split", "")
    results = made(tmp_path, images=100, classification={"dtd": {"clip": 0.1}})
    assert expectations(results, ["classification"])[0]["literature"] == "not the whole test split"


def test_runs_that_the_literature_says_nothing_about_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has photos, weights own: others' numbers are for real photographs"):
        expectations(made(tmp_path, pretrained="own"), list(MEASURED))
    with pytest.raises(ValueError, match="flickr8k has no numbers yet: run its stages segmentation"):
        expectations(made(tmp_path), ["segmentation"])


def test_the_command_says_it_and_its_status_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "load_params", lambda *_: None)
    monkeypatch.setattr(command, "Results", lambda profile, params: made(tmp_path))
    for clip, status, word in ((45.0, 0, AGREES), (5.0, 1, LOOK)):
        made(tmp_path, segmentation=masks(sclip={"clip": clip}))
        assert command.main(["expect", "flickr8k", "segmentation"]) == status
        assert word in capsys.readouterr().out
    assert command.main(["expect", "flickr8k", "masks"]) == 1
    assert "'masks' is not a chapter with numbers; these are patch_alignment," in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main(["expect", "mini"]) == 1
    assert "others' numbers are for real photographs" in capsys.readouterr().err


def test_the_rules_are_the_numbers_of_the_published_table():
    """Where data/published.csv has them, too; each number of a run falls under at most one rule."""
    table = pd.read_csv(ROOT / "data/published.csv", dtype=str)
    seen = set()
    for rule in from_data("expected.yaml"):
        assert rule["slack"] > 0 and rule["source"] and rule["look"]
        for of, value in rule["values"].items():
            low, high = value if isinstance(value, list) else (value, value)
            assert 0 < low <= high < 100
            for on in rule.get("under", [None]):
                key = (rule["chapter"], rule["method"], rule["backbone"], on, of)
                assert key not in seen
                seen.add(key)
            if "published" in rule:
                of_method = table[(table["method"] == rule["published"]) & (table["benchmark"] == of)]
                of_method = of_method[(of_method["metric"] == "mIoU") & (of_method["backbone"] == "ViT-B/16")]
                published = [[float(part) for part in value.split("–")] for value in of_method["value"]]
                assert [*dict.fromkeys((low, high))] in published, key
    accuracy = table[(table["method"] == "CLIP") & (table["metric"] == "patch accuracy")]
    assert sorted(map(float, accuracy["value"])) == [27.91, 52.49]
