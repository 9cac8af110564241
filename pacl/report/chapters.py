"""What the report says, chapter by chapter; every number in it is read from the files of a run (paper, section 4)."""

from pathlib import Path

import yaml

from pacl.report.ablated import ablations, pooling
from pacl.report.blocks import capital, code, figure, fold, load, missing, percent, table, text
from pacl.report.claims import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, TERMS, load_ledger
from pacl.report.costs import speed, trust
from pacl.report.measured import classification, patch_alignment, segmentation, viewer
from pacl.report.provenance import last_commit, versions
from pacl.runtime.files import read_json

LEAD = (
    "PACL (Mukhoti et al., CVPR 2023) trains one small vision embedder on top of a frozen CLIP, from images with "
    "captions alone, so that each patch of an image lands near the text that names it. This page holds what this "
    "replication measured, and the rules by which it judges."
)
MINI_WORLD = (
    "Mini world, not Pascal VOC. Every measured number on this page comes from procedurally drawn scenes and from a "
    "small CLIP that was pre-trained on such scenes. A benchmark's name says how classes are grouped and read, not "
    "which images were used."
)
RANDOM = "Random weights. No number on this page means anything; it shows that the pipeline runs from end to end."
WORLD = {
    "miniworld": "Scenes are drawn from a seed: things such as apples and balloons on stuff such as grass and brick "
    "walls. Captions name some of what is there, as captions on the web do. Masks are exact; the evaluation reads "
    "them, training never does.",
    "flickr8k": "Photographs with five captions each to train on, and Pascal VOC 2012 to measure with; training never "
    "sees a mask.",
}
MEASURED_IN = {
    "patch_alignment": "04_patch_alignment.ipynb",
    "segmentation": "05_segmentation.ipynb",
    "classification": "06_classification.ipynb",
}  # stage -> its executed notebook, beside the report
WHEN_NULL = {"short_side": "as it is", "window": "whole image", "window_stride": "–", "token_stride": "patch size"}


def chapters(profile: str, params, folder: Path) -> dict:
    """The whole report as plain tables: title, label, notices, lead, claims, sections with their blocks."""
    claims, prepared = linked(read_json(folder / "claims.json")), load(folder, "prepare.json") or {}
    random = params.model.pretrained == "random"
    notices = [RANDOM] * random + [MINI_WORLD] * (params.prepare.source == "miniworld")
    notices += [prepared["note"]] if prepared.get("note") else []
    label = ", ".join([prepared.get("label", params.prepare.source)] + ["random weights"] * random)
    sections = [
        section("pooling", "Every pair its own attention", "07_ablations", pooling(folder, params.ablations.base)),
        section("look", "See for yourself", "05_segmentation", viewer(folder)),
        section("world", "The data", "01_prepare", world(folder, params.prepare.source, prepared)),
        section("training", "Training", "03_train", training(folder, params.train)),
        section("patch-alignment", "Are patches aligned with text?", "04_patch_alignment", patch_alignment(folder)),
        section("segmentation", "Segmentation by text", "05_segmentation", segmentation(folder)),
        section("classification", "Zero-shot classification", "06_classification", classification(folder)),
        section("ablations", "What matters?", "07_ablations", ablations(folder, params.ablations.base)),
        section("speed", "Speed and memory", None, speed(folder)),
        section("trust", "Can a long run be trusted?", None, trust(folder)),
        section("protocols", "Evaluation protocols", None, protocols(params)),
        section("reproducibility", "Reproducibility", "08_report", reproducibility(profile, params, folder)),
    ]
    sections = [s for s in sections if s["blocks"]]
    return {
        "title": "PACL, replicated",
        "profile": profile,
        "label": capital(label),
        "source": prepared.get("label", ""),
        "notices": notices,
        "lead": LEAD,
        "claims": claims,
        "tally": tally(claims),
        "terms": TERMS,
        "sections": sections,
    }


def section(name: str, title: str, notebook: str | None, content: list[dict]) -> dict:
    return {"id": name, "title": title, "notebook": notebook and f"{notebook}.ipynb", "blocks": content}


def linked(claims: list[dict]) -> list[dict]:
    """The claims, each with the executed notebook that measured it, None for what no notebook measured."""
    first = {claim["id"]: (claim["rule"] or [{}])[0] for claim in load_ledger()}
    stages = {
        name: condition.get("over", condition.get("value", "")).split(".")[0] for name, condition in first.items()
    }
    return [
        claim | {"notebook": None if claim["measured"] == "not measured" else MEASURED_IN.get(stages.get(claim["id"]))}
        for claim in claims
    ]


def tally(claims: list[dict]) -> dict[str, int]:
    """How many claims have each verdict."""
    return {
        verdict: sum(claim["verdict"] == verdict for claim in claims)
        for verdict in (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)
    }


def world(folder: Path, source: str, prepared: dict) -> list[dict]:
    content = [text(WORLD[source])] if source in WORLD else []
    if prepared:
        counts = [[name, f"{value:,}"] for name, value in prepared.items() if isinstance(value, int)]
        counts += [[f"classes of {name}", f"{value:,}"] for name, value in prepared.get("benchmarks", {}).items()]
        content.append(table(["What", "Number"], counts))
    else:
        content.append(missing("prepare.json"))
    return [
        *content,
        figure(folder, "pairs.png", "Training pairs: what the model learns from."),
        figure(folder, "scenes.png", "Test scenes and their true label maps: what it is judged by."),
    ]


def training(folder: Path, params) -> list[dict]:
    history = load(folder, "training.csv")
    picture = figure(
        folder, "training.png", "Loss and retrieval by epoch; the best epoch has the lowest validation loss."
    )
    if history is None:
        return [missing("training.csv"), picture]
    first, last = history.iloc[0], history.iloc[-1]
    sentences = [
        f"Both encoders stay frozen; the {params.embedder} embedder alone is trained, for {last.epoch:,.0f} epochs of "
        f"{first.step:,.0f} steps, {params.batch_size:,} pairs each."
    ]
    if "validation_loss" in history:
        best = history.loc[history.validation_loss.idxmin()]
        sentences.append(
            f"The loss on held-out captions goes from {first.validation_loss:.2f} to {last.validation_loss:.2f}, "
            f"lowest in epoch {best.epoch:.0f}, whose checkpoint is measured below; there an image finds its own "
            f"caption among {params.batch_size:,} in {percent(best.validation_retrieval)} % of cases (chance: "
            f"{percent(1 / params.batch_size)} %)."
        )
        sentences += above(last, params.noun_share)
    sentences.append(f"The learned logit scale ends at {last.logit_scale:.1f}.")
    return [text(" ".join(sentences)), picture]


def above(last, noun_share: float) -> list[str]:
    """Why the last epoch's training loss lies above that on held-out captions, where noun prompts are drawn."""
    if not noun_share or last.loss <= last.validation_loss:
        return []
    return [
        "The training loss lies above that of held-out captions, as training draws noun prompts too, which say less "
        "than captions and are harder to tell apart in a batch."
    ]


def protocols(params) -> list[dict]:
    """Which chapters use which, and the settings of each, but for those that none has."""
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
            "A model's numbers differ between protocols. Under “Segmentation by text”, tables and bars name theirs; "
            f"heat maps, whole scenes, where it errs, and the scenes to look at are read in the {first} one. Strides, "
            "templates of class names and background rules under “What matters?” each change one thing in the native "
            "one. Patch accuracy, coherence, classification and the ablations' own trainings have none: they are "
            "measured at CLIP's plain patch grid."
        ),
        text(
            "Sizes are in pixels of the resized image; the background rule applies where a benchmark has a background "
            "class. Where the token stride is less than the patch size, **joint** puts the tokens of the denser grid "
            "through CLIP at once, all attending to all; **shifted** is the plain patch grid several times, shifted by "
            "the stride."
        ),
        table(["Setting", *settings], rows),
    ]


def changed(protocol) -> str | None:
    """What a protocol changes on single benchmarks, in words; None for nothing."""
    changes = {
        benchmark: ", ".join(
            f"{key.replace('_', ' ')} {value}" for key, value in one.model_dump(exclude_none=True).items()
        )
        for benchmark, one in protocol.per_benchmark.items()
    }
    return "; ".join(f"{benchmark}: {words}" for benchmark, words in changes.items()) or None


def computed_in(dtype: str, asked: str) -> str:
    return f"CLIP computed in {dtype}" + ("." if dtype == asked else f", as this hardware has no {asked}.")


def reproducibility(profile: str, params, folder: Path) -> list[dict]:
    features = load(folder, "features.json")
    settings = {name: part.model_dump(mode="json") for name, part in vars(params).items()}
    listed = yaml.safe_dump(
        {profile: settings}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return [
        text(
            f"Made by the pipeline (`dvc repro`) with the profile `{profile}`. Last commit that changed code, "
            f"notebooks, parameters or data: **{last_commit()}**. "
            + (computed_in(features["dtype"], params.model.dtype) if features else "")
        ),
        table(["Package", "Version"], list(map(list, versions().items())), unsorted=("Version",)),
        fold("Parameters of this run", [code(listed)]),
    ]
