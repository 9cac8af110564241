"""The report, chapter by chapter; every number in it comes from the files of a run (paper, section 4)."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from pacl.report.ablated import ablations, pooling
from pacl.report.claims import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, TERMS, judge, load_ledger, setting_of
from pacl.report.costs import speed, trust
from pacl.report.measured import classification, patch_alignment, segmentation, viewer
from pacl.report.page import MARKS, capital, code, figure, fold, missing, percent, table, text, write_page
from pacl.report.results import Results
from pacl.runtime.config import project_root

LEAD = (
    "PACL (Mukhoti et al., CVPR 2023) trains one small vision embedder on top of a frozen CLIP. It learns from images "
    "with captions alone, so that each patch of an image lands near the text that names it. This page shows what this "
    "replication measured and the rules by which it judges the paper's claims."
)
MINI_WORLD = (
    "Mini world, not Pascal VOC. Every number measured on this page comes from procedurally drawn scenes and a small "
    "CLIP that was pre-trained on such scenes. A benchmark's name says how classes are grouped and read, not which "
    "images were used."
)
RANDOM = "Random weights. The numbers on this page mean nothing; they only show that the pipeline runs to its end."
WORLD = {
    "miniworld": "Scenes are drawn from a seed: things such as apples and balloons on stuff such as grass and brick "
    "walls. Captions name some of what a scene holds, as captions on the web do. Masks are exact; the evaluation reads "
    "them, training never does.",
    "flickr8k": "Training uses photographs with five captions each and never sees a mask; Pascal VOC 2012 is the test.",
}
STAGES = ("prepare", "features", "train", "patch_alignment", "segmentation", "scenes", "classification", "ablations")
STAGES += ("figures", "report")
WHEN_NULL = {"short_side": "as it is", "window": "whole image", "window_stride": "–", "token_stride": "patch size"}
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "scikit-learn", "pillow", "textblob")
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
    notices = [RANDOM] * results.random_weights + [MINI_WORLD] * (results.params.prepare.source == "miniworld")
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
        section("speed", "Speed and memory", None, speed(results)),
        section("trust", "Can a long run be trusted?", None, trust(results)),
        section("protocols", "Evaluation protocols", None, protocols(results.params)),
        section("reproducibility", "Reproducibility", "report", reproducibility(results)),
    ]
    return {
        "title": "PACL, replicated",
        "profile": results.profile,
        "label": capital(results.label + ", random weights" * results.random_weights),
        "source": results.label,
        "notices": notices,
        "lead": LEAD,
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
        verdict = f"{MARKS[claim['verdict']]} **{claim['verdict']}**" + (
            f": {claim['reason']}" if claim["reason"] else ""
        )
        rows.append([claim["claim"], claim["paper"], measured, verdict, claim["rule"]])
    return table(["Claim", "Paper", "Measured here", "Verdict", "Rule"], rows)


def tally(claims: list[dict]) -> dict[str, int]:
    """How many claims have each verdict."""
    verdicts = [claim["verdict"] for claim in claims]
    return {verdict: verdicts.count(verdict) for verdict in (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)}


def world(results: Results) -> list[dict]:
    source, prepared = results.params.prepare.source, results.prepared
    counts = [[name, f"{value:,}"] for name, value in prepared.items() if isinstance(value, int)]
    counts += [[f"classes of {name}", f"{value:,}"] for name, value in prepared.get("benchmarks", {}).items()]
    return [
        *([text(WORLD[source])] if source in WORLD else []),
        table(["What", "Number"], counts) if prepared else missing("prepare/prepare.json"),
        figure(results, "figures/pairs.png", "Training pairs: what the model learns from."),
        figure(results, "figures/scenes.png", "Test scenes and their true label maps: what the model is judged by."),
    ]


def training(results: Results) -> list[dict]:
    history, settings = results.training, results.params.train
    caption = "Loss and retrieval by epoch; the best epoch has the lowest validation loss."
    picture = figure(results, "figures/training.png", caption)
    if history is None:
        return [missing("train/training.csv"), picture]
    first, last = history.iloc[0], history.iloc[-1]
    sentences = [
        f"Both encoders stay frozen; only the {settings.embedder} embedder is trained, for {last.epoch:,.0f} epochs of "
        f"{first.step:,.0f} steps with {settings.batch_size:,} pairs each."
    ]
    if "validation_loss" in history:
        best = history.loc[history.validation_loss.idxmin()]
        sentences.append(
            f"The loss on held-out captions goes from {first.validation_loss:.2f} to {last.validation_loss:.2f} and is "
            f"lowest in epoch {best.epoch:.0f}, whose checkpoint is measured below. There an image finds its own "
            f"caption among {settings.batch_size:,} in {percent(best.validation_retrieval)} % of cases (chance: "
            f"{percent(1 / settings.batch_size)} %)."
        )
        if settings.noun_share and last.loss > last.validation_loss:
            sentences.append(
                "The training loss is higher than the loss on held-out captions because training also draws noun "
                "prompts, which say less than captions and are harder to tell apart in a batch."
            )
    sentences.append(f"The learned logit scale ends at {last.logit_scale:.1f}.")
    return [text(" ".join(sentences)), picture]


def protocols(params) -> list[dict]:
    """Which chapters use which protocol, and each protocol's settings, without those that none sets."""
    first = params.segmentation.protocols[0]
    settings = {
        name: protocol.model_dump() | {"per_benchmark": changed(protocol)} for name, protocol in params.protocols
    }
    keys = [
        key
        for key in next(iter(settings.values()))
        if key in WHEN_NULL or any(s[key] is not None for s in settings.values())
    ]
    rows = [
        [key.replace("_", " "), *(WHEN_NULL.get(key, "–") if s[key] is None else s[key] for s in settings.values())]
        for key in keys
    ]
    return [
        text(
            "A model's numbers differ between protocols. Under “Segmentation by text”, tables and bars name their "
            f"protocol; heat maps, whole scenes, mistakes, and the scenes to look at use the {first} one. Strides, "
            "templates of class names, and background rules under “What matters?” each change one setting of the "
            "native protocol. Patch accuracy, coherence, classification, and the ablations with their own training use "
            "no protocol: they are measured on CLIP's plain patch grid."
        ),
        text(
            "Sizes are in pixels of the resized image; the background rule applies to benchmarks with a background "
            "class. If the token stride is less than the patch size, **joint** passes all tokens of the denser grid "
            "through CLIP at once, each attending to all; **shifted** runs the plain patch grid several times, each "
            "time shifted by the stride."
        ),
        table(["Setting", *settings], rows),
    ]


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
        text(
            f"Made by the pipeline (`dvc repro`) with the profile `{results.profile}`. Last commit that changed code, "
            f"notebooks, parameters or data: **{last_commit()}**. {computed_in(results)}"
        ),
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
        changes = git("status", "--porcelain", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if not commit:
        return "unknown"
    return f"{commit}, with uncommitted changes" if changes else commit


def git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True).stdout.strip()
