"""The report says what the files say, all of it, and the same bytes each time.

tests/report/run holds a small run that was written by hand, every number its own, and the report.md that follows.
"""

import copy
import itertools
import json
import math
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pacl.report import ablated, chapters, costs, measured
from pacl.report.chapters import last_commit, versions, write_report
from pacl.report.page import markdown_table, script_data, table
from pacl.report.results import Results
from pacl.runtime.config import load_params

RUN = Path(__file__).parent / "run"
SECTIONS = ("prepare", "model", "features", "train", "protocols")
MEASURED = ("patch_alignment", "segmentation", "classification", "ablations")
FIGURES = re.findall(r"\(figures/(\w+)\.png\)", (RUN / "report.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def params():
    return load_params("small", *SECTIONS, *MEASURED, path=RUN / "params.yaml")


@pytest.fixture(scope="module", autouse=True)
def made_with():
    """The same commit and versions on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapters, "versions", lambda: {"Python": "3.11", "torch": "not installed"})
        patch.setattr(chapters, "last_commit", lambda: "0123456789")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The small run in a folder of its own, with blank pictures."""
    reports = tmp_path_factory.mktemp("run") / "reports"
    shutil.copytree(RUN, reports)
    (reports / "small/figures").mkdir()
    for path in [reports / f"small/figures/{name}.png" for name in FIGURES] + [reports / "speed.png"]:
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)
    return reports / "small"


@pytest.fixture
def results(folder, params) -> Results:
    return Results("small", params, folder)


@pytest.fixture(scope="module")
def pages(folder, params):
    return written(Results("small", params, folder))


def written(results) -> tuple[str, str]:
    """The HTML and the Markdown made from a run."""
    page = write_report(results)
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


def of_kind(blocks: list[dict], kind: str) -> list[dict]:
    """The blocks of a kind, those in folds too."""
    inside = [block for fold in blocks if fold["kind"] == "fold" for block in of_kind(fold["blocks"], kind)]
    return [block for block in blocks if block["kind"] == kind] + inside


# --- the whole page ---


def test_the_small_runs_report_is_the_one_kept_here(results):
    page = results.folder / "report.md"
    expected = (RUN / "report.md").read_text(encoding="utf-8")
    assert written(results)[1] == expected, f"if the new report is right: cp {page} {RUN / 'report.md'}"


def test_both_pages_have_the_same_tables_and_claims(results, pages):
    html, text = pages
    content = chapters.chapters(results)
    shown = " ".join(unescape(re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", html, flags=re.S)).split())
    for block in [block for section in content["sections"] for block in of_kind(section["blocks"], "table")]:
        for row in block["rows"]:
            assert " ".join(row) in shown and row[0].replace("|", "\\|") in text
    rows = re.findall(r'<tr id="claim-([^"]+)">(.*?)</tr>', html, re.S)
    assert [name for name, _ in rows] == [claim["id"] for claim in content["claims"]]
    for (_, row), claim in zip(rows, content["claims"], strict=True):
        row = unescape(row)
        assert claim["claim"] in row and claim["paper"] in row and claim["rule"] in row and claim["reason"] in row
        assert re.search(rf'class="chip {claim["verdict"].replace(" ", "-")}".*{claim["verdict"]}</span>', row)
        assert (f'<a href="{claim["notebook"]}"' in row) == bool(claim["notebook"])
    bars = re.findall(r'<span>all pairs</span><span class="track"><span style="width: ([\d.]+)%">', html)
    assert bars == ["81.0", "41.0", "51.0"], "a bar is as long as its share"
    assert "in 25.0\N{NO-BREAK SPACE}% of cases" in html and "in 25.0 % of cases" in text


def test_page_needs_no_other_file(pages):
    html, text = pages
    loaded = re.findall(r"""(?:src|srcset|poster|data)="([^"]*)"|url\(([^)]*)\)|@import\s+([^;]*)""", html)
    sources = [part for parts in loaded for part in parts if part]
    assert len(sources) == text.count("![") == len(FIGURES) + 1
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert re.findall(r"<link[^>]*>", html) == ['<link rel="icon" href="data:,">']
    assert not re.search(r"\b(fetch|XMLHttpRequest|importScripts)\b|<iframe|<script[^>]+src", html)
    assert 'width="6" height="4"' in html, "drawn at twice the size they are shown at"


def test_texts_of_the_run_cannot_become_html_or_end_the_script(pages):
    html, text = pages
    assert "<strong>4 of 8 shards.</strong> &lt;The rest&gt; is missing.</p>" in html
    assert "All pairs: 5 &lt; 6 &amp; so on." in html and "All pairs: 5 < 6 & so on." in text
    (data,) = re.findall(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.S)
    assert json.loads(data)["scenes"][0]["prompts"][0]["name"] == "</script><b>" and "<" not in data
    assert json.loads(script_data({"a": "</SCRIPT> & <!--"})) == {"a": "</SCRIPT> & <!--"}


def test_equal_files_give_equal_bytes(results, pages):
    assert written(results) == pages


def test_numbers_of_the_literature_are_set_apart(pages):
    html, _ = pages
    outside = "".join(re.findall(r'<figure class="table outside[^"]*">.*?</figure>', html, re.S))
    assert html.count(">96.51<") == outside.count(">96.51<") == 2
    assert ">72.3<" in outside and "1.23?" in outside and "from the literature" in outside and ">51.3<" not in outside
    assert set(re.findall(r"<th[^>]* data-unsorted>([^<]*)", html)) == {"Target", "Version"}


def test_random_weights_are_named_at_the_top_and_decide_nothing(results, params):
    results.params = copy.copy(params)
    results.params.model = params.model.model_copy(update={"pretrained": "random"})
    for page in written(results):
        assert "Random weights" in page[: page.index("What the paper claims")]
        assert "Mini world, not Pascal VOC, random weights" in page
        assert not re.search(r"\b[1-9]\d* (not )?reproduced", page) and "16 not tested" in page


def test_a_file_that_isnt_there_is_named_with_the_stage_to_run(results, params):
    """All pictures, then one file of each stage at a time; few are left out without a word, and some are only drawn."""
    silent = {"features.json", "findings.json", "worlds.csv", "viewer.json", "classification.csv", "shown.json"}
    silent |= {"blocks.json", "patch_roc.json", "patch_map.csv", "confusions.csv", "areas.csv", "mentions.csv"}
    stages = [sorted(one.iterdir()) for one in results.folder.iterdir() if one.is_dir() and one.name != "figures"]
    for paths in [list((results.folder / "figures").iterdir()), *itertools.zip_longest(*stages)]:
        paths = [path for path in paths if path]
        for path in paths:
            path.rename(path.with_suffix(".hidden"))
        content = chapters.chapters(Results("small", params, results.folder))
        texts = [block["text"] for section in content["sections"] for block in of_kind(section["blocks"], "text")]
        for path in paths:
            path.with_suffix(".hidden").rename(path)
            stage, name = path.parent.name, f"{path.parent.name}/{path.name}"
            said = f"*`{name}` isn't there: run the stage **{stage}**, which writes it (`dvc repro {stage}`).*"
            assert (said in texts) != (path.name in silent), name
    empty = Results("small", params, results.folder / "empty")
    assert "isn't there" in write_report(empty).read_text(encoding="utf-8")


# --- tables and sentences ---


def test_columns_of_numbers_are_told_from_columns_of_words():
    rows = [
        ["cat", "1,024", "−3.1", "83.4 ± 0.4", "41.8–49.4", "72.3?", "–"],
        ["dog 2", "7", "+0.2", "1.0", "2", "–", "–"],
    ]
    assert table(list("abcdefg"), rows)["numeric"] == [False] + [True] * 6
    assert table(["a"], [["0.2, missed"], ["≤ 3, missed"], ["–"]])["numeric"] == [True]
    assert table(["a"], [])["numeric"] == [False]


def test_a_cell_of_a_markdown_table_is_one_line_without_bars_of_its_own():
    made = markdown_table([["a |  b\nc", "1"], ["d", "2"]], ["x", "y|z"], [False, True], (1,))
    assert made.splitlines() == ["| x | y\\|z |", "| --- | ---: |", "| a \\| b c | 1 |", "| **d** | **2** |"]


@pytest.mark.parametrize(("loss", "noun_share", "said"), [(3.75, 0.5, False), (3.8, 0.5, True), (3.8, 0.0, False)])
def test_a_training_loss_above_that_of_held_out_captions_is_explained(results, params, loss, noun_share, said):
    results.params = copy.copy(params)
    results.params.train = params.train.model_copy(update={"noun_share": noun_share})
    results.training.loc[2, "loss"] = loss
    assert ("because training also draws noun prompts" in chapters.training(results)[0]["text"]) == said
    results.training = results.training[["epoch", "step", "loss", "logit_scale"]]
    assert "held-out" not in chapters.training(results)[0]["text"]


@pytest.mark.parametrize(("pacl", "said"), [(0.8, 0), (0.7999, 1), (math.nan, 0), (None, 0)])
def test_coherence_below_clips_is_said(pacl, said):
    of = {"auc": pacl} if pacl is not None else {}
    assert len(of_kind(measured.patch_table({"clip": {"auc": 0.8}, "pacl": of}), "text")) == said


def test_each_method_has_its_own_column_and_pacl_follows_clip_with_its_lead():
    rows = [("a", "clip", 0.1), ("a", "sclip", 0.2), ("a", "pacl", 0.5), ("b", "pacl", 0.4), ("b", "sclip", 0.3)]
    rows += [("c", "pacl", 0.1), ("c", "clip", 0.3), ("c", "sclip", 0.2)]
    made = measured.by_method(pd.DataFrame(rows, columns=["class", "method", "iou"]), ["class"], "iou")
    assert made["columns"] == ["Class", "CLIP, %", "PACL, %", "SCLIP, %", "PACL − CLIP"]
    found = [" ".join(row) for row in made["rows"]]
    assert found == ["a 10.0 50.0 20.0 +40.0", "b – 40.0 30.0 –", "c 30.0 10.0 20.0 −20.0"]


def test_a_source_without_classification_sets_is_called_so(results):
    results.metrics["classification"] = {}
    assert measured.classification(results)[-1]["text"] == "This source has no classification sets."


def test_only_intervals_wholly_on_one_side_of_zero_are_counted(results):
    """Of six sets one touches zero and one contains it; the mean is not a set."""
    rows = [("a", 0.05, 0.01, 0.09), ("b", 0.06, 0.02, 0.1), ("c", 0.07, 0.03, 0.11), ("d", 0.02, 0.0, 0.04)]
    rows += [("e", 0.01, -0.01, 0.03), ("f", -0.03, -0.05, -0.01), ("mean", 0.03, 0.02, 0.04)]
    results.gains = pd.DataFrame(rows, columns=["set", "difference", "low", "high"]).assign(method="pacl")
    _, said, _ = measured.gains(results)
    assert "**PACL**: +3.0 points on average [+2.0, +4.0]" in said["text"]
    assert "of 6 sets, the interval is above zero on 3 and below on 1." in said["text"]


def test_the_pooling_chapter_compares_its_own_group_by_what_both_points_measured(results):
    runs = results.ablations
    runs.loc[runs.point == "matched_only", "context59"] = math.nan
    runs.loc[runs.group == "scale", "patch_accuracy"] = 0.0
    said, *drawn = ablated.pooling(results)
    assert "**+20.0 points of patch accuracy, +10.0 points of voc20 mIoU** (means over 2 seeds)" in said["text"]
    assert [one["title"] for one in drawn] == ["Patch accuracy", "voc20 mIoU"]
    results.ablations = runs[runs.point != "matched_only"]
    assert ablated.pooling(results) == [], "one of the two points was not run"


def test_a_choice_matters_by_the_means_of_its_settings_on_the_benchmark_where_they_lie_further_apart():
    columns = ["group", "point", "setting", "seed", "patch_accuracy", "voc20", "context59"]
    rows = [("a", "x", "one", 0, 0.9, 0.1, 0.2), ("a", "x", "one", 1, 0.0, 0.5, 0.4)]
    rows += [("a", "y", "other", 0, 0.1, 0.2, 0.45), ("a", "y", "other", 1, 0.1, 0.3, 0.55)]
    rows += [("b", "x", "one", 0, 0.9, 0.4, None), ("b", "y", "other", 0, 0.1, 0.0, None)]
    rows += [("b", "z", "nobody's", 0, 0.9, 0.9, None)]
    rows += [("c", "x", "one", 0, 0.9, None, None), ("c", "y", "other", 0, 0.1, None, None)]
    findings = {"a": {"title": "A?"}, "b": {"title": "B?", "left_out": ["nobody's"]}}
    drawn, said = ablated.what_matters(pd.DataFrame(rows, columns=columns), findings)
    largest, less = drawn["rows"]  # the third was measured on no benchmark
    assert largest == ("B?", 1.0, "40.0 points (voc20)") and not drawn["stressed"]
    assert less == ("A?", pytest.approx(0.5), "20.0 points (context59)")
    assert said["text"].endswith("Settings that nobody uses are left out: nobody's.")


def test_a_spread_over_seeds_is_that_of_a_sample():
    assert ablated.spread(pd.Series([0.1, 0.2])) == "15.0 ± 7.1"
    assert ablated.spread(pd.Series([0.1, None])) == "10.0"


def test_photographs_have_no_other_worlds_and_perhaps_no_search_for_scales(results):
    results.worlds = pd.DataFrame(columns=["seed", "method"])
    results.logit_scales = pd.DataFrame(columns=["protocol", "method", "logit_scale", "voc21"])
    assert ablated.worlds(results) == ablated.logit_scales(results) == []


def test_protocols_leave_out_what_none_sets(params):
    settings = copy.copy(params)
    rows = [row[0] for row in of_kind(chapters.protocols(settings), "table")[0]["rows"]]
    assert "token stride" in rows and "per benchmark" in rows and "phrases" not in rows
    sclip = params.protocols.sclip.model_copy(update={"phrases": "sclip"})
    settings.protocols = params.protocols.model_copy(update={"sclip": sclip})
    rows = of_kind(chapters.protocols(settings), "table")[0]["rows"]
    assert ["phrases", "–", "sclip", "–"] in rows


# --- what a report was made with ---


def test_the_page_says_what_clip_was_computed_in(results):
    assert chapters.computed_in(results) == "CLIP was computed in float32 because this hardware has no bfloat16."
    results.features = {"dtype": "bfloat16"}
    assert chapters.computed_in(results) == "CLIP was computed in bfloat16."


def test_a_package_that_is_not_there_is_called_so(monkeypatch):
    monkeypatch.setattr(chapters, "PACKAGES", ("numpy", "no-such-package"))
    assert [*versions().values()][1:] == [np.__version__, "not installed"]


def test_the_commit_named_is_the_last_that_changed_what_numbers_follow_from(tmp_path, monkeypatch):
    def git(*arguments):
        own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run([*own, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    def commit(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
        git("add", "."), git("commit", "-qm", name)
        return git("rev-parse", "HEAD")[:10]

    monkeypatch.setattr(chapters, "project_root", lambda: tmp_path)
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook that runs the tests
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert last_commit() == "unknown", "no repository"
    git("init", "-q")
    commit("README.md")
    assert last_commit() == "unknown", "no such commit"
    deciding = commit("data/claims.yaml")
    commit("tests/test.py")
    (tmp_path / "README.md").write_text("two")
    assert last_commit() == deciding
    (tmp_path / "data/claims.yaml").write_text("two")
    assert last_commit() == f"{deciding}, with uncommitted changes"


# --- speed and memory ---


def test_without_measurements_of_speed_a_sentence_says_how_to_measure(results):
    results.speed = results.ranks = results.memory = results.damaged = None
    (said,) = costs.speed(results)
    assert "run `python -m speed`" in said["text"] and costs.trust(results) == []


def test_measurements_of_two_machines_have_a_letter_each(results):
    results.speed["items"]["epoch"]["machine"] = {"processor": "Sextant", "cores": 2}
    said = costs.speed(results)
    assert "on one machine: A on 3 cores of Abacus, B on 2 cores of Sextant; on a GPU" in said[0]["text"]
    names = ["phi, large (against two loops) [A]", "phi, small [A]", "an epoch [B]"]
    assert [row[0] for row in of_kind(said, "table")[0]["rows"]] == names


def test_numbers_have_three_digits_and_the_same_is_what_stood_before():
    found = [costs.number(value) for value in (0.08357, 99.94, 999.6, -1234.5, -0.0421, None)]
    assert found == ["0.0836", "99.9", "1,000", "−1,234", "−0.0421", "–"]
    rows = [{"name": name} for name in ("phi, large", "the same, small", "maps, 20 classes", "the same, 64 classes")]
    assert costs.whole_names(rows) == ["phi, large", "phi, small", "maps, 20 classes", "maps, 64 classes"]
