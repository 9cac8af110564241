"""The report says what the files say, all of it, and the same bytes each time."""

import copy
import csv
import itertools
import json
import math
import os
import re
import subprocess
from html import unescape

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pacl.evaluation.ablations.findings import STRAW_MAN
from pacl.report import ablated, chapters, costs, measured, provenance
from pacl.report.__main__ import claims_table, main, with_claims, write_report
from pacl.report.blocks import FILES, STAGE_OF, table
from pacl.report.claims import write_claims
from pacl.report.metrics import compare, headline, write_metrics
from pacl.report.page import cell
from pacl.runtime.config import load_params
from pacl.runtime.params import OnBenchmark

OLD = {"patch_alignment": {"pacl": {"accuracy": 0.85, "auc": 0.9}}, "classification": {"clean": {"clip": 0.84}}}
SECTIONS = ("prepare", "model", "features", "train", "protocols")
MEASURED = ("patch_alignment", "segmentation", "classification", "ablations")
ABLATIONS = """group,point,setting,seed,patch_accuracy,voc20
pooling,default,all pairs,0,0.80,0.40
pooling,default,all pairs,1,0.82,0.42
pooling,matched_only,matched only,0,0.60,0.30
pooling,matched_only,matched only,1,0.62,0.32
stride,stride_8,8 pixels,0,,0.41
"""
TRAINING = """epoch,step,loss,logit_scale,validation_loss,validation_retrieval
1,78,4.0,15.0,3.9,0.125
2,156,3.0,16.5,3.25,0.375
"""


GAINS = """set,method,accuracy,difference,low,high
clean,pacl,0.5552,-0.0999,-0.15,-0.05
mean,pacl,0.5552,-0.0999,-0.151,-0.052
"""
WORLDS = """seed,method,patch_accuracy,voc20
11,clip,0.2,0.1
11,pacl,0.5,0.4
23,clip,0.3,0.1
23,pacl,0.45,0.5
"""


@pytest.fixture(scope="module")
def params():
    return load_params("mini", *SECTIONS, *MEASURED)


@pytest.fixture
def folder(tmp_path):
    """A small run's reports folder; every number in it is its own."""
    patches = {
        "clip": {
            "accuracy": 0.4012,
            "accuracy_interval": [0.3901, 0.4107],
            "auc": 0.8671,
            "auc_interval": [0.86, 0.87],
        },
        "pacl": {"accuracy": 0.8523, "auc": 0.9512},
        "random": {"accuracy": 0.1023, "auc": 0.7012},
        "colours": {"auc": 0.8034, "auc_interval": [0.79, 0.82]},
    }
    methods = {"clip": {"miou": 0.1711, "pixel_accuracy": 0.3622}, "pacl": {"miou": 0.5133, "pixel_accuracy": 0.6644}}
    written = {
        "prepare": {"label": "mini world, not Pascal VOC", "source": "miniworld", "training pairs": 12345},
        "patch_alignment": patches,
        "segmentation": {"voc20": {"native": methods}},
        "classification": {"clean": {"clip": 0.6551, "pacl": 0.5552, "ensemble": 0.7553}},
        "features": {"dtype": "float32"},
        "findings": {"pooling": {"title": "Whose attention?", "finding": "all pairs: 5 < 6 & so on."}},
        "errors": {
            "kinds": [
                {"method": "PACL", "kind": "things", "classes": 20, "iou": 0.4321, "mention_rank": -0.25}
                | {"mention_interval": [-0.61, 0.13]}
            ],
            "scenes": 300,
        },
    }
    for name, content in written.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "training.csv").write_text(TRAINING)
    (tmp_path / "classification.csv").write_text(GAINS)
    (tmp_path / "worlds.csv").write_text(WORLDS)
    (tmp_path / "ablations.csv").write_text(ABLATIONS)
    (tmp_path / "logit_scales.csv").write_text(
        "protocol,method,logit_scale,voc21\nsclip,clip,4.0,0.411\nsclip,clip,20.0,0.158\n"
    )
    rows = [("cat", "CLIP", 0.1234), ("cat", "PACL", 0.2345), ("dog", "CLIP", ""), ("dog", "PACL", 0.3456)]
    with open(tmp_path / "iou_by_class.csv", "w", newline="") as file:
        csv.writer(file).writerows([("benchmark", "protocol", "method", "class", "iou")])
        csv.writer(file).writerows(("voc20", "native", method, name, iou) for name, method, iou in rows)
    (tmp_path / "patch_accuracy.csv").write_text("class,method,accuracy,patches\ncat,CLIP,0.5,77\ncat,PACL,0.9,77\n")
    own = ["ablation_pooling.png", "errors.png", "classification_differences.png", "worlds.png"]
    for name in [name for name in STAGE_OF if name.endswith(".png")] + own:
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def pages(folder, params):
    """The HTML and the Markdown made from it."""
    return written(folder, params)


def written(folder, params) -> tuple[str, str]:
    write_metrics(folder)
    write_claims(folder, params)
    page = write_report("mini", params, folder)
    return page.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


def test_the_page_says_what_it_was_computed_in(folder, params):
    assert params.model.dtype == "bfloat16"
    sentence = "CLIP computed in float32, as this hardware has no bfloat16."
    assert all(sentence in page for page in written(folder, params))
    (folder / "features.json").write_text('{"dtype": "bfloat16"}')
    assert all("CLIP computed in bfloat16." in page for page in written(folder, params))


def test_equal_metrics_are_within_any_tolerance():
    lines, within = compare(OLD, copy.deepcopy(OLD), 0.0)
    first = "Largest difference of 3 values: 0.000000, patch_alignment.pacl.accuracy (0.85 -> 0.85)."
    assert within and lines == [first]


def test_compare_counts_the_tolerance_itself_as_within():
    new = copy.deepcopy(OLD)
    new["patch_alignment"]["pacl"]["accuracy"] = 0.87
    assert compare(OLD, new, 0.02)[1]
    new["classification"]["clean"]["clip"] = 0.81
    lines, within = compare(OLD, new, 0.02)
    assert not within
    assert lines[0] == "classification.clean.clip: 0.84 -> 0.81, more than 0.02 apart."
    assert len(lines) == 2 and "0.030000" in lines[1]


def test_compare_lists_differences_by_size_whatever_their_direction():
    old = {"a": {"x": 0.5, "y": [0.1, 0.9]}, "b": 1.0, "c": 0.3}
    new = {"a": {"x": 0.7, "y": [0.1, 0.4]}, "b": 0.95, "c": 0.32}
    lines, within = compare(old, new, 0.02)
    assert not within and lines == [
        "a.y.1: 0.9 -> 0.4, more than 0.02 apart.",
        "a.x: 0.5 -> 0.7, more than 0.02 apart.",
        "b: 1.0 -> 0.95, more than 0.02 apart.",
        "Largest difference of 5 values: 0.500000, a.y.1 (0.9 -> 0.4).",
    ]
    assert not compare({"c": 0.3}, {"c": 0.32}, 0.0199)[1]


def test_compare_names_what_is_missing_on_either_side():
    new = {"patch_alignment": {"pacl": {"accuracy": 0.85}}, "classification": {"clean": {"clip": 0.84}, "small": 0.2}}
    lines, within = compare(OLD, new, 0.02)
    assert not within
    assert lines[0] == "patch_alignment.pacl.auc is only in the old file."
    assert lines[1] == "classification.small is only in the new file."


NO_NUMBERS = [
    (math.nan, math.nan, True),
    (math.nan, 0.5, False),
    ("a", "b", False),
    ("a", "a", True),
    (None, 0.0, False),
    (False, 0.5, False),
    (0.5, "b", False),
    (0.5, math.inf, False),
]


@pytest.mark.parametrize(("old", "new", "same"), NO_NUMBERS)
def test_compare_of_what_is_no_number(old, new, same):
    assert compare({"x": old}, {"x": new}, 1e9)[1] == same


def test_compare_sets_the_exit_status(tmp_path, capsys):
    (tmp_path / "old.json").write_text(json.dumps(OLD))
    (tmp_path / "new.json").write_text(json.dumps(OLD | {"classification": {"clean": {"clip": 0.8}}}))
    files = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    assert main(["compare", files[0], files[0]]) == 0
    assert main(["compare", *files]) == 1
    assert main(["compare", *files, "--tolerance", "0.05"]) == 0
    assert main(["compare", files[0], files[0], "--tolerance", "0"]) == 0
    assert "classification.clean.clip: 0.84 -> 0.8" in capsys.readouterr().out
    assert main(["compare", files[0], str(tmp_path / "nowhere.json")]) == 1
    assert "nowhere.json is missing" in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-0.01", "little", ""])
def test_a_tolerance_that_would_pass_or_refuse_anything_is_refused(tmp_path, capsys, tolerance):
    (tmp_path / "old.json").write_text(json.dumps(OLD))
    with pytest.raises(SystemExit) as ended:
        main(["compare", *[str(tmp_path / "old.json")] * 2, f"--tolerance={tolerance}"])
    assert ended.value.code != 0
    assert f"{tolerance!r} is no tolerance: write a finite number from 0 on." in capsys.readouterr().err


@pytest.mark.parametrize("nothing", ["{}", "[]", '{"clip": {}}'])
def test_two_files_without_values_do_not_pass(tmp_path, capsys, nothing):
    for name in ("old.json", "new.json"):
        (tmp_path / name).write_text(nothing)
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 1
    assert "new.json holds a value: name two metrics.json." in capsys.readouterr().out


def test_what_cannot_be_read_as_metrics_is_named(tmp_path, capsys):
    (tmp_path / "old.json").write_text(json.dumps(OLD))
    (tmp_path / "torn.json").write_text("{")
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path)]) == 1
    assert f"{tmp_path} can't be read (Is a directory): name a metrics.json." in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "torn.json"), str(tmp_path / "old.json")]) == 1
    assert "torn.json is no whole JSON file" in capsys.readouterr().err


def test_metrics_are_the_three_parts_and_a_missing_part_names_its_stage(tmp_path):
    for part in ("patch_alignment", "classification"):
        (tmp_path / f"{part}.json").write_text(json.dumps({"clip": {"accuracy": 0.5}}))
    with pytest.raises(FileNotFoundError, match="run the stage segmentation"):
        write_metrics(tmp_path)
    (tmp_path / "segmentation.json").write_text("{}")
    assert write_metrics(tmp_path) == json.loads((tmp_path / "metrics.json").read_text())
    assert list(write_metrics(tmp_path)) == ["patch_alignment", "segmentation", "classification"]


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


def test_the_headline_is_written_beside_the_metrics(folder):
    metrics = write_metrics(folder)
    found = json.loads((folder / "headline.json").read_text())
    assert found == headline(metrics) and found["patch accuracy"] == {"clip": 0.4012, "pacl": 0.8523}


def claim(measured: str, verdict: str = "reproduced") -> dict:
    return {"claim": "One | claim.", "paper": "50.1", "measured": measured, "verdict": verdict}


def test_the_readmes_table_says_once_what_all_measured_values_were_measured_on():
    head, _, first, second = claims_table([claim("1.0 % (a world)"), claim("not measured", "not tested")]).splitlines()
    assert head == "| Claim | Paper | Ours (a world) | Verdict |"
    assert first == "| One \\| claim. | 50.1 | 1.0 % | reproduced |"
    assert second == "| One \\| claim. | 50.1 | not measured | not tested |"
    head, _, *rows = claims_table([claim("1.0 % (a world)"), claim("2.0 % (another)")]).splitlines()
    assert head == "| Claim | Paper | Ours | Verdict |"
    assert "1.0 % (a world)" in rows[0] and "2.0 % (another)" in rows[1]


def test_a_readme_without_both_markers_is_left_alone():
    begin, end = "<!-- claims: python -m pacl.report readme -->", "<!-- end of claims -->"
    made = with_claims(f"top\n{begin}\nold\n{end}\nrest", [claim("1.0 %")])
    assert made.startswith(f"top\n{begin}\n\n| Claim |") and made.endswith(f"\n\n{end}\nrest") and "old" not in made
    for torn in (f"{begin}\nold", f"old\n{end}"):
        with pytest.raises(ValueError, match="README.md lacks the lines"):
            with_claims(torn, [claim("1.0 %")])


def test_page_needs_nothing_beside_itself(pages):
    html, _ = pages
    loaded = re.findall(r"""(?:src|srcset|poster|data)="([^"]*)"|url\(([^)]*)\)|@import\s+([^;]*)""", html)
    sources = [part for parts in loaded for part in parts if part]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert re.findall(r"<link[^>]*>", html) == ['<link rel="icon" href="data:,">']
    assert not re.search(r"\b(fetch|XMLHttpRequest|importScripts)\b|<iframe|<script[^>]+src", html)


def test_both_pages_have_every_claim_with_its_verdict(folder, params):
    html, text = written(folder, params)
    rows = re.findall(r'<tr id="claim-([^"]+)">(.*?)</tr>', html, re.S)
    claims = json.loads((folder / "claims.json").read_text())
    assert [name for name, _ in rows] == [claim["id"] for claim in claims]
    for (_, row), claim in zip(rows, claims, strict=True):
        row = unescape(row)
        assert claim["claim"] in row and claim["paper"] in row and claim["rule"] in row and claim["reason"] in row
        assert re.search(rf'class="chip {claim["verdict"].replace(" ", "-")}".*{claim["verdict"]}</span>', row)
        assert any(claim["claim"] in line and f"**{claim['verdict']}**" in line for line in text.splitlines())
    for sign, verdict in (("✓", "reproduced"), ("✗", "not reproduced"), ("–", "not tested")):
        assert re.search(rf"{sign} \*\*\d+ {verdict}\*\*", text)
        assert re.search(rf'<span aria-hidden="true">{sign}</span> \d+ {verdict}<', html)


def test_pages_have_the_numbers_of_the_files(pages):
    html, text = pages
    numbers = [
        "12,345",
        "40.1",
        "85.2",
        "0.867",
        "0.951",
        "17.1",
        "51.3",
        "+34.2",
        "36.2",
        "66.4",
        "65.5",
        "55.5",
        "75.5",
        "12.3",
        "23.4",
        "34.6",
        "77",
    ]
    for number in (*numbers, "81.0 ± 1.4", "61.0 ± 1.4"):
        assert f">{number}<" in html, number
        assert f"| {number} |" in text or f"**{number}**" in text, number
    for sentence in ("+20.0 points of patch accuracy, +10.0 points of voc20 mIoU", "from 3.90 to 3.25"):
        assert sentence in html and sentence in text
    lengths = re.findall(r'<span>all pairs</span><span class="track"><span style="width: ([\d.]+)%">', html)
    assert lengths == ["81.0", "41.0"], "a bar is as long as its share"
    assert re.search(r'<tr class="strong"><th[^>]*>mean of 1<', html) and "**mean of 1**" in text
    assert "37.5 %" in text and "37.5\N{NO-BREAK SPACE}%" in html and "37.5 %" not in html
    assert "All pairs: 5 &lt; 6 &amp; so on." in html and "All pairs: 5 < 6 & so on." in text


def test_a_world_that_isnt_the_papers_is_named_at_the_top(pages, folder, params):
    for page in pages:
        assert "Mini world, not Pascal VOC" in page[: page.index("What the paper claims")]
        assert "Random weights" not in page
    random = copy.copy(params)
    random.model = params.model.model_copy(update={"pretrained": "random"})
    for page in written(folder, random):
        assert "Random weights" in page[: page.index("What the paper claims")]
        assert "Mini world, not Pascal VOC, random weights" in page
        assert not re.search(r"\b[1-9]\d* (not )?reproduced", page) and "16 not tested" in page


def test_verdicts_are_counted_one_by_one():
    verdicts = ["reproduced"] * 3 + ["not reproduced"] * 2 + ["not tested"]
    counted = {"reproduced": 3, "not reproduced": 2, "not tested": 1}
    assert chapters.tally([claim("", verdict) for verdict in verdicts]) == counted


def test_a_cell_of_a_table_is_one_line_without_bars_of_its_own():
    assert cell("a |  b\nc") == "a \\| b c"


def test_numbers_of_the_literature_are_set_apart(pages):
    html, _ = pages
    outside = "".join(re.findall(r'<figure class="table outside[^"]*">.*?</figure>', html, re.S))
    assert html.count(">96.51<") == outside.count(">96.51<") == 1
    assert "72.3?" in outside and "from the literature" in outside and ">51.3<" not in outside


def test_equal_files_give_equal_bytes(folder, params):
    assert written(folder, params) == written(folder, params)


def test_what_isnt_there_is_named_with_its_stage(folder, params):
    """One file of each stage at a time."""
    written(folder, params)
    for names in itertools.zip_longest(*FILES.values()):
        missing = {name: stage for name, stage in zip(names, FILES, strict=True) if name}
        contents = {folder / name: (folder / name).read_bytes() for name in missing}
        for path in contents:
            path.unlink()
        write_report("mini", params, folder)
        html, text = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
        assert "Mini world, not Pascal VOC." in text, "whatever else is missing"
        for name, stage in missing.items():
            said = f"`{name}` isn't there: the stage **{stage}** writes it (`dvc repro {stage}`)"
            assert name == "findings.json" or (said in text and f"dvc repro {stage}" in html), name
        for path, content in contents.items():
            path.write_bytes(content)


def test_pictures_are_embedded_whole_and_linked_in_markdown(pages, folder):
    html, text = pages
    assert html.count('<img src="data:image/png;base64,') == text.count("![") == 15
    assert 'width="6" height="4"' in html, "drawn at twice the size they are shown at"
    assert "![Test scenes and their true label maps: what it is judged by.](scenes.png)" in text
    links = [link for link in re.findall(r'href="([^"#]+)"', html) if not link.startswith("data:")]
    assert {"01_prepare.ipynb", "03_train.ipynb", "08_report.ipynb", "metrics.json"} <= set(links)
    assert all("/" not in link for link in links)


def test_columns_of_numbers_are_told_from_columns_of_words():
    rows = [
        ["cat", "1,024", "−3.1", "83.4 ± 0.4", "41.8–49.4", "72.3?", "–"],
        ["dog 2", "7", "+0.2", "1.0", "2", "–", "–"],
    ]
    assert table(list("abcdefg"), rows)["numeric"] == [False] + [True] * 6
    assert table(["a"], [["0.2, missed"], ["≤ 3, missed"], ["–"]])["numeric"] == [True]
    assert table(["a"], [])["numeric"] == [False]


# --- tables and sentences of what was measured ---


def test_the_training_chapter_tells_the_best_epoch_from_the_first_and_the_last(folder, params):
    """The lowest loss on held-out captions, not the highest share of captions found."""
    rows = [(1, 50, 4.5, 15.0, 4.25, 0.1), (2, 100, 4.0, 16.0, 3.5, 0.25), (3, 150, 3.0, 17.0, 3.75, 0.5)]
    columns = ["epoch", "step", "loss", "logit_scale", "validation_loss", "validation_retrieval"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "training.csv", index=False)
    settings = params.train.model_copy(update={"batch_size": 40, "pairs": 2000})
    said, _ = chapters.training(folder, settings)
    assert "for 3 epochs of 50 steps, 40 pairs each." in said["text"]
    assert "goes from 4.25 to 3.75, lowest in epoch 2" in said["text"]
    assert "its own caption among 40 in 25.0 % of cases (chance: 2.5 %)" in said["text"]
    assert said["text"].endswith("The learned logit scale ends at 17.0.")
    pd.DataFrame([row[:4] for row in rows], columns=columns[:4]).to_csv(folder / "training.csv", index=False)
    said, _ = chapters.training(folder, settings)
    assert "held-out" not in said["text"] and "for 3 epochs" in said["text"]


def test_losses_that_are_equal_need_no_reason():
    last = pd.Series({"loss": 3.5, "validation_loss": 3.5})
    assert chapters.above(last, 0.5) == [] and chapters.above(last - [0, 0.1], 0.5) != []
    assert chapters.above(last - [0, 0.1], 0.0) == []


def test_the_data_chapter_counts_what_was_prepared_and_the_classes_of_each_benchmark(folder):
    prepared = {"label": "a world", "training pairs": 12345, "benchmarks": {"voc20": 20, "ade20k": 150}}
    (found,) = of_kind(chapters.world(folder, "miniworld", prepared), "table")
    assert found["rows"] == [["training pairs", "12,345"], ["classes of voc20", "20"], ["classes of ade20k", "150"]]


def test_each_claim_leads_to_the_notebook_of_its_stage():
    measured = {"patch-accuracy": "04_patch_alignment", "miou-ade20k": "05_segmentation"}
    measured |= {"classification": "06_classification", "clip-coherence": "04_patch_alignment"}
    rows = [{"id": name, "measured": "1 %"} for name in measured] + [
        {"id": "classification", "measured": "not measured"}
    ]
    found = [row["notebook"] for row in chapters.linked(rows)]
    assert found == [f"{name}.ipynb" for name in measured.values()] + [None]


def test_a_protocols_settings_stand_in_its_column_with_what_it_changes_on_a_benchmark(params):
    other = copy.copy(params)
    change = {"short_side": 560, "logit_scale": 50.0}
    tcl = params.protocols.tcl.model_copy(update={"per_benchmark": {"city": OnBenchmark(**change)}, "short_side": None})
    other.protocols = params.protocols.model_copy(update={"tcl": tcl})
    (found,) = of_kind(chapters.protocols(other), "table")
    rows = {row[0]: dict(zip(found["columns"][1:], row[1:], strict=True)) for row in found["rows"]}
    assert rows["per benchmark"]["tcl"] == "city: short side 560, logit scale 50.0"
    assert rows["per benchmark"]["native"] == "–" and rows["short side"]["tcl"] == "as it is"
    assert rows["window"]["native"] == "whole image" and rows["logit scale"]["tcl"] == str(tcl.logit_scale)


def test_the_parameters_of_the_run_and_the_versions_are_listed(folder, params):
    content = chapters.reproducibility("mini", params, folder)
    (listed,) = of_kind(content, "code")
    settings = yaml.safe_load(listed["text"])["mini"]
    assert list(settings) == list(vars(params))
    assert all(settings[name] == getattr(params, name).model_dump(mode="json") for name in ("train", "protocols"))
    (packages,) = of_kind(content, "table")
    assert ["numpy", np.__version__] in packages["rows"] and ["pandas", pd.__version__] in packages["rows"]


def test_a_package_that_is_not_there_is_called_so(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    assert list(provenance.versions().values())[1:] == [np.__version__, "not installed"]


def test_the_commit_named_is_the_last_that_changed_what_numbers_follow_from(tmp_path, monkeypatch):
    def git(*arguments):
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def commit(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
        git("add", "."), git("commit", "-qm", name)
        return git("rev-parse", "HEAD")[:10]

    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook that runs the tests
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.last_commit() == "unknown", "no repository"
    git("init", "-q")
    commit("README.md")
    assert provenance.last_commit() == "unknown", "no such commit"
    deciding = commit("data/claims.yaml")
    commit("tests/test.py")
    (tmp_path / "README.md").write_text("two")
    assert provenance.last_commit() == deciding
    (tmp_path / "data/claims.yaml").write_text("two")
    assert provenance.last_commit() == f"{deciding}, with changes that aren't committed"


def of_kind(blocks: list[dict], kind: str) -> list[dict]:
    """The blocks of a kind, those in folds too."""
    inside = [block for fold in blocks if fold["kind"] == "fold" for block in of_kind(fold["blocks"], kind)]
    return [block for block in blocks if block["kind"] == kind] + inside


def test_each_method_has_its_own_column_and_pacl_stands_beside_clip_with_its_lead():
    rows = [("a", "CLIP", 0.1), ("a", "SCLIP", 0.2), ("a", "PACL", 0.5), ("b", "PACL", 0.4), ("b", "SCLIP", 0.3)]
    rows += [("c", "PACL", 0.1), ("c", "CLIP", 0.3), ("c", "SCLIP", 0.2)]
    made = measured.by_method(pd.DataFrame(rows, columns=["class", "method", "iou"]), ["class"], "iou")
    assert made["columns"] == ["Class", "CLIP, %", "PACL, %", "SCLIP, %", "PACL − CLIP"]
    assert made["rows"] == [
        ["a", "10.0", "50.0", "20.0", "+40.0"],
        ["b", "–", "40.0", "30.0", "–"],
        ["c", "30.0", "10.0", "20.0", "−20.0"],
    ]


def test_miou_and_pixel_accuracy_of_each_benchmark_and_protocol_stand_in_tables_of_their_own():
    def numbers(i):
        of_clip, of_pacl = ({"miou": (i + j) / 10, "pixel_accuracy": (i + j + 5) / 10} for j in (0, 2))
        return {"clip": of_clip, "pacl": of_pacl}

    measured = {"voc20": {"native": numbers(1), "tcl": numbers(2)}, "ade20k": {"native": numbers(3)}}
    miou, accuracy = of_kind(measured.measured_segmentation(measured), "table")
    assert miou["caption"] == "Measured here: mIoU in %" and "pixel accuracy" in accuracy["caption"]
    assert miou["rows"] == [
        ["voc20", "native", "10.0", "30.0", "+20.0"],
        ["voc20", "tcl", "20.0", "40.0", "+20.0"],
        ["ade20k", "native", "30.0", "50.0", "+20.0"],
    ]
    assert [row[2:4] for row in accuracy["rows"]] == [["60.0", "80.0"], ["70.0", "90.0"], ["80.0", "100.0"]]


def test_a_class_table_of_each_protocol_is_folded_and_only_the_first_is_printed():
    rows = [
        ("voc20", p, m, c, 0.5) for p in ("native", "sclip", "tcl") for m in ("clip", "pacl") for c in ("cat", "dog")
    ]
    frame = pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "class", "iou"])
    (fold,) = measured.class_tables(frame)
    assert fold["title"] == "voc20: IoU of 2 classes"
    assert [one["caption"] for one in fold["blocks"]] == [f"voc20, {p} protocol" for p in ("native", "sclip", "tcl")]
    assert [one["screen"] for one in fold["blocks"]] == [False, True, True]


def test_kinds_of_classes_without_a_rank_have_none(folder):
    kinds = [
        {"method": "CLIP", "kind": "things", "classes": 20, "iou": 0.2, "mention_rank": None, "mention_interval": None},
        {
            "method": "PACL",
            "kind": "stuff",
            "classes": 8,
            "iou": 0.4,
            "mention_rank": 0.5,
            "mention_interval": [-0.1, 0.9],
        },
    ]
    (folder / "errors.json").write_text(json.dumps({"kinds": kinds, "scenes": 60}))
    _, said, picture = measured.errors(folder)
    assert "CLIP 20.0 % on things, PACL 40.0 % on stuff." in said["text"]
    assert said["text"].endswith("neither): PACL +0.50 (−0.10 to +0.90) on the 8 stuff.")
    assert "in the first 60 test scenes" in picture["caption"]


def test_the_mean_over_sets_is_the_last_row_and_stressed(folder):
    measured = {f"set_{i}": {"clip": clip, "pacl": 0.3 * i} for i, clip in enumerate((0.1, 0.2, 0.6))}
    (folder / "classification.json").write_text(json.dumps(measured))
    (found,) = of_kind(measured.classification(folder), "table")
    assert found["rows"][1:] == [["set 1", "20.0", "30.0"], ["set 2", "60.0", "60.0"], ["mean of 3", "30.0", "30.0"]]
    assert found["strong"] == (3,)


def test_a_source_without_classification_sets_is_called_so(folder):
    (folder / "classification.json").write_text("{}")
    assert measured.classification(folder)[-1]["text"] == "This source has no classification sets."


def test_only_intervals_wholly_on_one_side_of_zero_are_counted(folder):
    """Of six sets one touches zero and one holds it; the mean is no set."""
    rows = [("a", 0.05, 0.01, 0.09), ("b", 0.06, 0.02, 0.1), ("c", 0.07, 0.03, 0.11), ("d", 0.02, 0.0, 0.04)]
    rows += [("e", 0.01, -0.01, 0.03), ("f", -0.03, -0.05, -0.01), ("mean", 0.03, 0.02, 0.04)]
    table = pd.DataFrame(rows, columns=["set", "difference", "low", "high"]).assign(method="pacl")
    table.to_csv(folder / "classification.csv")
    _, said, _ = measured.gains(folder)
    assert "**PACL**: +3.0 points on average [+2.0, +4.0]" in said["text"]
    assert "of 6 sets, the interval lies above zero on 3 and below on 1." in said["text"]


def test_what_is_not_measured_of_patches_has_a_dash_and_equal_coherence_is_not_less(folder):
    (found, _) = of_kind(measured.patch_alignment(folder), "table")[:2]
    assert found["rows"][-1] == ["colours alone", "–", "–", "0.803", "0.790 – 0.820"]
    for pacl, said in ((0.8, 0), (0.7999, 1), (math.nan, 0)):
        assert len(measured.less_coherent({"clip": {"auc": 0.8}, "pacl": {"auc": pacl}})) == said
    assert not measured.less_coherent({"clip": {"auc": 0.8}, "pacl": {}})


def ablation_runs(folder, rows: list[tuple]) -> pd.DataFrame:
    """Writes ablations.csv: group, point, setting, seed, patch_accuracy, voc20, context59."""
    columns = ["group", "point", "setting", "seed", "patch_accuracy", "voc20", "context59"]
    runs = pd.DataFrame(rows, columns=columns)
    runs.to_csv(folder / "ablations.csv", index=False)
    return runs


def test_the_pooling_chapter_compares_its_own_group_by_what_both_points_measured(folder):
    rows = [("pooling", "default", "all", seed, 0.8, 0.3 + seed / 10, 0.5) for seed in (0, 1)]
    rows += [("pooling", "matched_only", "one", seed, 0.9, 0.2, None) for seed in (0, 1)]
    rows += [("scale", "default", "all", 0, 0.0, 0.0, 0.0), ("scale", "scale_1", "1", 0, 0.1, 0.1, 0.1)]
    ablation_runs(folder, rows)
    said, *drawn = ablated.pooling(folder, {"pairs": 4000, "epochs": 2, "batch_size": 64})
    assert "**−10.0 points of patch accuracy, +15.0 points of voc20 mIoU** (means over 2 seeds)" in said["text"]
    assert "(4,000 pairs, 2 epochs)" in said["text"] and "over the classes of voc20:" in said["text"]
    assert [(one["title"], one["rows"]) for one in drawn] == [
        ("Patch accuracy", [("all pairs", 0.8, "80.0 ± 0.0 %"), ("matched only", 0.9, "90.0 ± 0.0 %")]),
        ("voc20 mIoU", [("all pairs", pytest.approx(0.35), "35.0 ± 7.1 %"), ("matched only", 0.2, "20.0 ± 0.0 %")]),
    ]
    ablation_runs(folder, rows[:2] + rows[4:])
    assert ablated.pooling(folder, {}) == [], "one of the two points was not run"


def test_a_group_has_a_row_a_setting_with_its_own_measures_and_number_of_seeds(folder):
    rows = [("scale", "default", "10", seed, 0.5 + seed / 10, 0.2, None) for seed in (0, 1)]
    rows += [("scale", "scale_1", "1", 0, 0.4, 0.1, None), ("stride", "default", "4", 0, None, 0.3, 0.6)]
    ablation_runs(folder, rows)
    scale, stride = of_kind(ablated.ablations(folder, {}), "table")[:2]
    assert scale["columns"] == ["Setting", "Patch accuracy, %", "voc20 mIoU, %", "Seeds"]
    assert scale["rows"] == [["10", "55.0 ± 7.1", "20.0 ± 0.0", "2"], ["1", "40.0", "10.0", "1"]]
    assert stride["columns"] == ["Setting", "voc20 mIoU, %", "context59 mIoU, %", "Seeds"]
    assert stride["rows"] == [["4", "30.0", "60.0", "1"]]


def test_a_choice_matters_by_the_means_of_its_settings_on_the_benchmark_where_they_lie_further_apart():
    columns = ["group", "point", "setting", "seed", "patch_accuracy", "voc20", "context59"]
    rows = [("a", "x", "one", 0, 0.9, 0.1, 0.2), ("a", "x", "one", 1, 0.0, 0.5, 0.4)]
    rows += [("a", "y", "other", 0, 0.1, 0.2, 0.45), ("a", "y", "other", 1, 0.1, 0.3, 0.55)]
    rows += [("b", "x", "one", 0, 0.9, 0.4, None), ("b", "y", "other", 0, 0.1, 0.0, None)]
    rows += [("c", "x", "one", 0, 0.9, None, None), ("c", "y", "other", 0, 0.1, None, None)]
    drawn, _ = ablated.what_matters(pd.DataFrame(rows, columns=columns), {"a": {"title": "A?"}})
    largest, less = drawn["rows"]  # the third was measured on no benchmark
    assert largest == ("b", 1.0, "40.0 points (voc20)") and not drawn["stressed"]
    assert less == ("A?", pytest.approx(0.5), "20.0 points (context59)")


def test_bars_are_called_means_where_a_setting_has_several_seeds():
    runs = pd.DataFrame({"point": ["x", "y"], "seed": [0, 0]})
    assert ablated.drawn("stride", runs) == "One run a setting."
    means = "Bars are means over seeds, dots single seeds."
    assert ablated.drawn("stride", runs.assign(seed=[0, 1])) == means
    default = runs.assign(point="default")
    assert ablated.drawn("scale", default).endswith("The dark bar is the setting that all other points keep.")
    assert ablated.drawn("stride", default).endswith("The dark bar is the main run's setting.")


def test_the_least_lead_of_all_worlds_is_said_of_the_first_measure(folder):
    rows = [(11, "clip", 0.2, 0.3), (11, "pacl", 0.6, 0.7), (23, "clip", 0.5, 0.1), (23, "pacl", 0.7, 0.8)]
    worlds = pd.DataFrame(rows, columns=["seed", "method", "patch_accuracy", "voc20"])
    worlds.to_csv(folder / "worlds.csv", index=False)
    _, said, _, found = ablated.worlds(folder)
    assert "In 2 worlds" in said["text"] and "PACL's patch accuracy is at least 20.0 points above" in said["text"]
    assert found["columns"] == ["World's seed", "Method", "Patch accuracy, %", "voc20 mIoU, %"]
    assert found["rows"][1:3] == [["11", "PACL", "60.0", "70.0"], ["23", "CLIP", "50.0", "10.0"]]


def test_a_spread_over_seeds_is_that_of_a_sample():
    assert ablated.spread(pd.Series([0.1, 0.2])) == "15.0 ± 7.1"
    assert ablated.spread(pd.Series([0.1, None])) == "10.0"


def test_the_search_for_logit_scales_has_a_column_a_scale_and_the_order_of_its_file(folder):
    rows = [
        ("tcl", "pacl", 4.0, 0.1),
        ("tcl", "pacl", 20.0, 0.2),
        ("native", "pacl", 20.0, 0.5),
        ("native", "pacl", 4.0, 0.4),
    ]
    frame = pd.DataFrame(rows, columns=["protocol", "method", "logit_scale", "voc21"])
    frame.to_csv(folder / "logit_scales.csv", index=False)
    (found,) = of_kind(ablated.logit_scales(folder), "table")
    assert found["columns"] == ["Rule or protocol", "Method", "× 4", "× 20"]
    assert found["rows"] == [["tcl", "PACL", "10.0", "20.0"], ["native", "PACL", "40.0", "50.0"]], "in the file's order"


def test_the_literatures_numbers_stand_under_their_benchmark_and_metric():
    found = measured.literature_patches()
    values = [("CLIP", "52.49"), ("CLIP", "27.91"), ("PACL", "96.51"), ("PACL", "95.33")]
    assert [(row[0], row[2]) for row in found["rows"]] == values
    assert all(row[3].startswith("Mukhoti et al., CVPR 2023") for row in found["rows"])
    found = measured.literature_segmentation()
    assert found["columns"][2:-1] == ["VOC21", "C60", "VOC20", "C59", "Stuff171", "City", "ADE150"]
    (stressed,) = found["strong"]
    pacl = ["PACL, as claimed", "ViT-B/16", "72.3?", "–", "–", "50.1", "38.8", "–", "31.4"]
    assert found["rows"][stressed][:-1] == pacl
    small = [row[:5] for row in found["rows"] if row[0] in ("CLIP", "PACL") and row[1] == "ViT-B/16"]
    assert small == [["CLIP", "ViT-B/16", "16.2–18.8", "7.7–9.9", "41.8–49.4"]]


def test_command_line_shows_report_and_claims(folder, params, monkeypatch, capsys):
    written(folder, params)
    monkeypatch.setattr("pacl.report.report_folder", lambda profile: folder / profile)
    assert main(["mini"]) == 1 and "make reproduce" in capsys.readouterr().err
    monkeypatch.setattr("pacl.report.report_folder", lambda profile: folder)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert str(folder / "report.html") in shown and shown.count("not tested") >= 6


def test_a_note_on_the_data_stands_at_the_top_of_both_pages(folder, params):
    prepared = json.loads((folder / "prepare.json").read_text())
    (folder / "prepare.json").write_text(json.dumps(prepared | {"note": "4 of 8 shards. <the rest> is missing."}))
    html, text = written(folder, params)
    assert '<p class="notice"><strong>4 of 8 shards.</strong> &lt;the rest&gt; is missing.</p>' in html
    assert "> **4 of 8 shards.** <the rest> is missing." in text


def test_what_a_claim_measured_links_the_notebook_that_measured_it(pages):
    html, text = pages
    linked = dict(re.findall(r'<tr id="claim-([^"]+)">.*?<td data-name="Measured here"><a href="([^"]+)"', html, re.S))
    assert linked["patch-accuracy"] == "04_patch_alignment.ipynb" and linked["miou-voc20"] == "05_segmentation.ipynb"
    assert not {"no-annotation", "miou-voc-number"} & set(linked), "no notebook measured these"
    assert "[40.1% → 85.2% (mini world, not Pascal VOC)](04_patch_alignment.ipynb)" in text


def test_the_viewer_is_left_out_where_its_data_are_not_there(folder, params):
    html, text = written(folder, params)
    assert 'id="explorer"' not in html and "See for yourself" not in text
    prompt = {"name": "</script><b>", "present": True, "truth": "", "methods": {"clip": {}, "pacl": {}}}
    (folder / "viewer.json").write_text(json.dumps({"scenes": [{"image": "", "prompts": [prompt]}]}))
    html, text = written(folder, params)
    (data,) = re.findall(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.S)
    assert json.loads(data)["methods"] == {"clip": "CLIP", "pacl": "PACL"} and "<b>" not in data
    assert "[report.html](report.html) shows 1 scenes" in text


def test_intervals_mistakes_and_other_worlds_are_said_in_numbers(pages):
    _, text = pages
    assert "| 40.1 | 39.0 – 41.1 | 0.867 | 0.860 – 0.870 |" in text and "| 85.2 | – | 0.951 | – |" in text
    assert "**PACL**: −10.0 points on average [−15.1, −5.2]" in text
    assert "of 1 sets, the interval lies above zero on 0 and below on 1" in text
    assert "PACL 43.2 % on things" in text and "PACL −0.25 (−0.61 to +0.13) on the 20 things" in text
    assert "In 2 worlds drawn from other seeds" in text and "at least 15.0 points above" in text
    assert "Whose attention?" in text and "**Finding.** All pairs: 5 < 6 & so on." in text


def test_a_straw_man_makes_no_gap_and_the_largest_gap_is_not_stressed(folder, params):
    rows = ["probability below 0.1,0,,,0.50", "entropy above 1.0,0,,,0.45", f"{STRAW_MAN},0,,,0.10"]
    lines = [line + "," for line in ABLATIONS.splitlines()[1:]] + [f"background,x,{row}" for row in rows]
    (folder / "ablations.csv").write_text("\n".join([ABLATIONS.splitlines()[0] + ",voc21", *lines]) + "\n")
    html, text = written(folder, params)
    assert "| background | 5.0 points (voc21) |" in text and "40.0 points" not in text
    assert "background rules are readings of the main run's model" in text
    (gaps,) = re.findall(r'<figure class="bars wide">.*?</figure>', html, re.S)
    assert 'class="bar first"' not in gaps and 'class="bar first"' in html


def test_captions_say_what_the_dark_bar_is(folder, params):
    (folder / "ablations.csv").write_text(ABLATIONS + "stride,default,4 pixels,0,,0.45\nprompts,prompts_1,one,0,,0.4\n")
    for group in ("stride", "prompts"):
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / f"ablation_{group}.png")
    for page in written(folder, params):
        assert "dots single seeds. The dark bar is the setting that all other points keep." in page
        assert "One run a setting. The dark bar is the main run&#39;s setting." in page.replace("'", "&#39;")
        assert re.search(r"One run a setting\.(</figcaption>|]\(ablation_prompts)", page), "no bar is dark there"


def test_protocols_say_who_uses_which_and_leave_out_what_none_sets(folder, params):
    _, text = written(folder, params)
    chapter = text[text.index("## Evaluation protocols") :]
    assert "| token stride |" in chapter and "| phrases |" not in chapter and "| per benchmark |" not in chapter
    assert "are read in the native one" in chapter and "**joint** puts" in chapter
    other = copy.copy(params)
    sclip = params.protocols.sclip.model_copy(update={"phrases": "sclip"})
    other.protocols = params.protocols.model_copy(update={"sclip": sclip})
    other.segmentation = params.segmentation.model_copy(update={"protocols": ["tcl", "native"]})
    _, text = written(folder, other)
    assert "| phrases | – | sclip | – |" in text and "are read in the tcl one" in text


def test_abbreviations_are_said_under_the_claims(pages):
    for page in pages:
        table = page.index("What the paper claims")
        assert table < page.index("mIoU: intersection over union") < page.index("paper's compatibility pools")


def test_coherence_and_losses_in_an_unexpected_order_are_said(folder, params):
    _, text = written(folder, params)
    assert "less coherent" not in text and "The training loss lies above that" not in text
    (folder / "training.csv").write_text(TRAINING.replace("156,3.0", "156,3.5"))
    measured = json.loads((folder / "patch_alignment.json").read_text())
    measured["pacl"]["auc"] = 0.8
    (folder / "patch_alignment.json").write_text(json.dumps(measured))
    _, text = written(folder, params)
    assert "less coherent by this measure than CLIP's own tokens (0.800 against 0.867)" in text
    assert "The training loss lies above that of held-out captions, as training draws noun prompts too" in text
    without = copy.copy(params)
    without.train = params.train.model_copy(update={"noun_share": 0.0})
    assert "The training loss lies above that" not in written(folder, without)[1]


# --- speed and memory ---

BENCHMARKS = {
    "items": {
        "compatibility": {
            "machine": {"processor": "Abacus", "cores": 3},
            "rows": [
                {
                    "name": "phi, large",
                    "against": "two loops",
                    "seconds": {"ours": 0.8357, "plain": 2.5},
                    "gigabytes": {"ours": 0.125, "plain": 1.25},
                    "ratio": {"seconds": 0.33428, "gigabytes": 0.1},
                    "targets": {"seconds": 0.45},
                    "to_floor": 1.5209,
                },
                {
                    "name": "the same, small",
                    "against": "",
                    "seconds": {},
                    "gigabytes": {"ours": 0.0287},
                    "ratio": {},
                    "targets": {"gigabytes_limit": 3.0},
                },
            ],
        },
        "epoch": {
            "machine": {"processor": "Abacus", "cores": 3},
            "rows": [
                {
                    "name": "an epoch",
                    "against": "",
                    "seconds": {"ours": 8.0},
                    "gigabytes": {},
                    "ratio": {},
                    "targets": {},
                    "to_floor": 2.0,
                    "parts": {"reading": 2.0, "gradients": 6.0},
                }
            ],
        },
    },
    "cost": {
        "rows": [
            {
                "pairs": 30_000_000,
                "features": "once",
                "seconds": 7_200_000,
                "disk_gigabytes": 9062.4,
                "memory_gigabytes": 31.3,
            }
        ],
        "notes": ["One rule.", "One limit."],
    },
}


def chapter(folder, params, title):
    """A chapter of report.md."""
    return written(folder, params)[1].split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def nested(folder, tmp_path_factory):
    """The small run's folder, below another one as in reports/."""
    inner = tmp_path_factory.mktemp("reports") / "mini"
    folder.rename(inner)
    return inner


def test_benchmarks_are_shown_as_measured(nested, params):
    (nested.parent / "benchmarks.json").write_text(json.dumps(BENCHMARKS))
    Image.new("RGB", (4, 4)).save(nested.parent / "benchmarks.png")
    found = chapter(nested, params, "Speed and memory")
    assert "All on 3 cores of Abacus, without a GPU" in found
    assert "](../benchmarks.png)" in found
    assert "| phi, large (beside two loops) | 0.836 | 0.334 | 0.45 | 0.125 | 0.1 | – | 1.52 |" in found
    assert "| phi, small | – | – | – | 0.0287 | – | ≤ 3 | – |" in found
    assert "Of 2 targets, 0 were missed" in found and ", missed |" not in found and "Start-up" not in found
    assert found.index("| gradients | 75.0 % |") < found.index("| reading | 25.0 % |")
    assert "| 30,000,000 | once | 2,000 | 9,062 | 31.3 |" in found
    assert "One rule. One limit." in found


def test_targets_and_versions_which_have_no_order_of_numbers_are_not_sorted(nested, params):
    (nested.parent / "benchmarks.json").write_text(json.dumps(BENCHMARKS))
    html, _ = written(nested, params)
    assert set(re.findall(r"<th[^>]* data-unsorted>([^<]*)", html)) == {"Target", "Version"}


def test_missed_targets_are_called_so_and_what_has_no_floor_has_a_dash(nested, params):
    missed = json.loads(json.dumps(BENCHMARKS))
    large, small = missed["items"]["compatibility"]["rows"]
    large["targets"]["seconds"], small["targets"]["gigabytes_limit"] = 0.3, 0.02
    started = {"name": "import", "against": "", "seconds": {"ours": 0.9}, "gigabytes": {}, "ratio": {}}
    started |= {"targets": {"seconds_limit": 0.9}}
    missed["items"]["startup"] = missed["items"]["epoch"] | {"rows": [started]}
    (nested.parent / "benchmarks.json").write_text(json.dumps(missed))
    found = chapter(nested, params, "Speed and memory")
    assert "| 0.334 | 0.3, missed | 0.125 | 0.1 | – | 1.52 |" in found
    assert "| phi, small | – | – | – | 0.0287 | – | ≤ 0.02, missed | – |" in found
    assert "| import | 0.9 | – | ≤ 0.9 | – | – | – | – |" in found
    assert "Of 3 targets, 2 were missed" in found


def test_benchmarks_of_two_machines_have_a_letter_each(nested, params):
    both = json.loads(json.dumps(BENCHMARKS))
    both["items"]["epoch"]["machine"] = {"processor": "Sextant", "cores": 2}
    (nested.parent / "benchmarks.json").write_text(json.dumps(both))
    Image.new("RGB", (4, 4)).save(nested.parent / "benchmarks.png")
    found = chapter(nested, params, "Speed and memory")
    assert "on one machine: A on 3 cores of Abacus, B on 2 cores of Sextant, without a GPU" in found
    assert "| phi, small [A] |" in found and "| an epoch [B] |" in found


def test_numbers_have_three_digits_and_the_same_is_what_stood_before():
    found = [costs.number(value) for value in (0.08357, 99.94, 999.6, -1234.5, -0.0421, None)]
    assert found == ["0.0836", "99.9", "1,000", "−1,234", "−0.0421", "–"]
    rows = [{"name": name} for name in ("phi, large", "the same, small", "maps, 20 classes", "the same, 64 classes")]
    assert costs.whole_names(rows) == ["phi, large", "phi, small", "maps, 20 classes", "maps, 64 classes"]


def test_without_benchmarks_a_sentence_says_how_to_measure(nested, params):
    found = chapter(nested, params, "Speed and memory")
    assert "`python -m benchmarks`" in found
    assert "|" not in found


def test_choices_are_ordered_by_what_they_change(nested, params):
    found = chapter(nested, params, "What matters?")
    first, second = (
        found.index("| Whose attention? | 10.0 points (voc20) |"),
        found.index("| stride | 0.0 points (voc20) |"),
    )
    assert first < second  # 0.41 and 0.31 on average; one setting alone changes nothing


def test_long_runs_are_shown_where_they_were_measured(nested, params):
    assert "Can a long run be trusted?" not in written(nested, params)[1]
    ranks = {"batch_size": 128, "steps": 200, "losses": {"1": [], "2": [], "3": []}}
    ranks["largest_difference"] = {"2": "9.5e-08", "3": "2.1e-07"}
    memory = {
        "unit": "MB",
        "steps": 9900,
        "from_step": 2000,
        "growth_per_1000_steps": {"reader": -0.04, "trainer": 2.5},
    }
    for name, content in (("ranks", ranks), ("streaming_memory", memory)):
        (nested.parent / f"{name}.json").write_text(json.dumps(content))
        Image.new("RGB", (4, 4)).save(nested.parent / f"{name}.png")
    found = chapter(nested, params, "Can a long run be trusted?")
    assert "200 steps on batches of 128 pairs, run by 1, 2 and 3 processes" in found
    assert "at most 2.1e-07 nats apart" in found
    assert "9,900 steps: from step 2,000 on, memory grows by −0.04 MB in the reader and 2.5 MB in the trainer" in found
    assert "](../ranks.png)" in found and "](../streaming_memory.png)" in found
    damaged = {"mask": {"tried": 2000, "refused": 1839}, "shard": {"tried": 2500, "refused": 0}}
    (nested.parent / "damaged_files.json").write_text(json.dumps(damaged))
    found = chapter(nested, params, "Can a long run be trusted?")
    assert "2 readers were given 4,500 damaged files" in found and "| mask | 2,000 | 1,839 |" in found


def test_ablations_say_why_their_numbers_are_not_the_main_run_s(nested, params):
    found = chapter(nested, params, "What matters?")
    assert "less than the main run (4,000 pairs, 2 epochs)" in found and "over the classes of voc20" in found
