"""The report, chapter by chapter; every number in it comes from the files of a run (paper, section 4)."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from pacl.report.ablated import ablations, pooling
from pacl.report.claims import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, TERMS, judge, load_ledger, setting_of
from pacl.report.consistent import consistency
from pacl.report.costs import speed, trust
from pacl.report.measured import classification, patch_alignment, segmentation, viewer
from pacl.report.page import (
    MARKS,
    capital,
    code,
    figure,
    fold,
    joined,
    missing,
    percent,
    say,
    table,
    text,
    words,
    write_page,
)
from pacl.report.results import Results
from pacl.runtime.config import project_root

STAGES = ("prepare", "features", "train", "patch_alignment", "segmentation", "scenes", "classification", "ablations")
STAGES += ("consistency", "figures", "report")
WHEN_NULL = {"short_side": "as it is", "window": "whole image", "window_stride": "–", "token_stride": "patch size"}
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "scikit-learn", "pillow", "spacy")
PACKAGES += ("matplotlib", "seaborn")
DECIDING = ("pacl", "notebooks", "params.yaml", "data")  # what the numbers follow from


def write_report(results: Results) -> Path:
    """Writes report.md and report.html and returns the latter's path. Where a file isn't there, the report names the
    stage that writes it.
    """
    return write_page(chapters(results), results.folder)


def chapters(results: Results) -> dict:
    """The whole report as plain tables: title, label, notices, lead, claims, sections with their blocks."""
    ledger = load_ledger()
    judged = judge(ledger, results.metrics, setting_of(results))
    claims = [row | {"notebook": measured_in(row, entry)} for row, entry in zip(judged, ledger, strict=True)]
    of_source = words().get(f"notice_{results.params.prepare.source}")
    notices = [words()["notice_random"]] * results.random_weights + [of_source] * bool(of_source)
    notices += [results.prepared["note"]] if results.prepared.get("note") else []
    sections = [
        section("pooling", "Own attention for every pair", "ablations", pooling(results)),
        section("look", "See for yourself", "scenes", viewer(results)),
        section("world", "The data", "prepare", world(results)),
        section("training", "Training", "train", training(results)),
        section("patch-alignment", "Are patches aligned with text?", "patch_alignment", patch_alignment(results)),
        section("segmentation", "Segmentation by text", "segmentation", segmentation(results)),
        section("classification", "Zero-shot classification", "classification", classification(results)),
        section("ablations", "What matters?", "ablations", ablations(results)),
        section("consistency", "Do the paper's numbers fit each other?", "consistency", consistency(results)),
        section("speed", "Speed and memory", None, speed(results)),
        section("trust", "Can a long run be trusted?", None, trust(results)),
        section("protocols", "Evaluation protocols", None, protocols(results.params)),
        section("reproducibility", "Reproducibility", "report", reproducibility(results)),
    ]
    return {
        "title": words()["title"],
        "profile": results.profile,
        "label": capital(results.label + ", random weights" * results.random_weights),
        "source": results.label,
        "notices": notices,
        "lead": words()["lead"],
        "claims": claims,
        "claims_table": claims_table(claims),
        "tally": tally(claims),
        "terms": TERMS,
        "sections": [one for one in sections if one["blocks"]],
    }


def section(name: str, title: str, stage: str | None, content: list[dict]) -> dict:
    return {"id": name, "title": title, "notebook": stage and notebook(stage), "blocks": content}


def notebook(stage: str) -> str:
    """Where a stage's executed notebook is, from the report's folder."""
    name = f"{STAGES.index(stage) + 1:02}_{stage}.ipynb"
    return name if stage == "report" else f"{stage}/{name}"


def measured_in(claim: dict, entry: dict) -> str | None:
    """The notebook of the stage whose numbers decide a claim; None for a claim that nothing was measured for."""
    if claim["measured"] == "not measured" or claim["kind"] == "construction":
        return None
    condition = entry["rule"][0]
    return notebook(condition.get("over", condition["value"]).split(".")[0])


def claims_table(claims: list[dict]) -> dict:
    """The claims as a table of Markdown."""
    rows = []
    for claim in claims:
        measured = f"[{claim['measured']}]({claim['notebook']})" if claim["notebook"] else claim["measured"]
        verdict = f"{MARKS[claim['verdict']]} **{claim['verdict']}**"
        verdict += f": {claim['reason']}" if claim["reason"] else ""
        rows.append([claim["claim"], claim["paper"], measured, verdict, claim["rule"]])
    return table(["Claim", "Paper", "Measured here", "Verdict", "Rule"], rows)


def tally(claims: list[dict]) -> dict[str, int]:
    """How many claims have each verdict."""
    verdicts = [claim["verdict"] for claim in claims]
    return {verdict: verdicts.count(verdict) for verdict in (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)}


def world(results: Results) -> list[dict]:
    about, prepared = f"world_{results.params.prepare.source}", results.prepared
    counts = [[name, f"{value:,}"] for name, value in prepared.items() if isinstance(value, int)]
    counts += [[f"classes of {name}", f"{value:,}"] for name, value in prepared.get("benchmarks", {}).items()]
    counted = table(["What", "Number"], counts) if prepared else missing("prepare/prepare.json")
    pictures = shown(results) if "credits" in prepared else [figure(results, "pairs"), figure(results, "scenes")]
    return [*([say(about)] if about in words() else []), counted, *pictures]


def shown(results: Results) -> list[dict]:
    """The photos that the page may show, and where they are from."""
    credits = [f"- {one}" for one in results.prepared["credits"]]
    return [
        figure(results, "scenes", words()["captions"]["scenes_photos"]),
        say("shown", count=len(credits)),
        fold("Credits of the photos", [text("\n".join(credits))]),
    ]


def training(results: Results) -> list[dict]:
    history, settings = results.training, results.params.train
    if history is None:
        return [missing("train/training.csv"), figure(results, "training")]
    first, last, size = history.iloc[0], history.iloc[-1], settings.batch_size
    said = [say("training", embedder=settings.embedder, epochs=last.epoch, steps=first.step, batch_size=size)]
    if "validation_loss" in history:
        best = history.loc[history.validation_loss.idxmin()]
        losses = {"first": first.validation_loss, "last": last.validation_loss, "best": best.epoch}
        found = {"retrieval": percent(best.validation_retrieval), "chance": percent(1 / size), "batch_size": size}
        said.append(say("training_validation", **losses, **found))
        if settings.noun_share and last.loss > last.validation_loss:
            said.append(say("training_above"))
    kind = "training_scale" if settings.logit_scale == "learned" else "training_scale_fixed"
    said.append(say(kind, scale=last.logit_scale))
    return [joined(said), figure(results, "training")]


def protocols(params) -> list[dict]:
    """Which chapters use which protocol, and each protocol's settings, without those that none sets."""
    settings = {name: one.model_dump() | {"per_benchmark": changed(one)} for name, one in params.protocols}
    keys = next(iter(settings.values()))
    keys = [key for key in keys if key in WHEN_NULL or any(one[key] is not None for one in settings.values())]
    rows = []
    for key in keys:
        values = [WHEN_NULL.get(key, "–") if one[key] is None else one[key] for one in settings.values()]
        rows.append([key.replace("_", " "), *values])
    said = say("protocols", first=params.segmentation.protocols[0])
    return [said, say("protocol_settings"), table(["Setting", *settings], rows)]


def changed(protocol) -> str | None:
    """What a protocol changes on single benchmarks, in words; None for nothing."""
    changes = []
    for benchmark, one in protocol.per_benchmark.items():
        settings = [f"{key.replace('_', ' ')} {value}" for key, value in one.model_dump(exclude_none=True).items()]
        changes.append(f"{benchmark}: {', '.join(settings)}")
    return "; ".join(changes) or None


def reproducibility(results: Results) -> list[dict]:
    settings = {name: part.model_dump(mode="json") for name, part in vars(results.params).items()}
    look = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 110}
    return [
        say("reproducibility", profile=results.profile, commit=last_commit(), computed=computed_in(results)),
        table(["Package", "Version"], list(map(list, versions().items())), unsorted=("Version",)),
        fold("Parameters of this run", [code(yaml.safe_dump({results.profile: settings}, **look))]),
    ]


def computed_in(results: Results) -> str:
    if not results.features:
        return ""
    dtype, asked = results.features["dtype"], results.params.model.dtype
    return f"CLIP was computed in {dtype}" + ("." if dtype == asked else f" because this hardware has no {asked}.")


def versions() -> dict[str, str]:
    """Python's version and the packages', or "not installed"."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def last_commit() -> str:
    """The last commit that changed what the numbers follow from, and whether files differ from it; "unknown" outside a
    git repository.
    """
    try:
        commit = git("log", "-1", "--abbrev=10", "--format=%h", "--", *DECIDING)
        changes = commit and git("status", "--porcelain", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return (commit + ", with uncommitted changes" * bool(changes)) if commit else "unknown"


def git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True).stdout.strip()
