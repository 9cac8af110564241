"""The pieces a report is made of, as plain tables that pacl.report.page renders: text, tables, figures, bars, folds, code."""

import re
from pathlib import Path

import pandas as pd

from pacl.runtime.files import read_json

FILES = {
    "prepare": ("prepare.json", "pairs.png", "scenes.png"),
    "train": ("training.csv", "training.png"),
    "patch_alignment": (
        "patch_alignment.json",
        "patch_accuracy.csv",
        "patch_roc.png",
        "patch_accuracy.png",
        "patch_map.png",
    ),
    "segmentation": (
        "segmentation.json",
        "iou_by_class.csv",
        "heat_maps.png",
        "segmentation_grid.png",
        "iou_by_class.png",
        "protocols.png",
    ),
    "classification": ("classification.json", "classification.png"),
    "ablations": ("ablations.csv", "findings.json", "logit_scales.csv"),
}  # stage -> what it writes for the report; ablations also writes a figure a group
STAGE_OF = {name: stage for stage, names in FILES.items() for name in names}
# 1,024  −3.1  83.4 ± 0.4  41.8–49.4  72.3?  ≤ 3  0.2, missed  –
NUMBER = re.compile(r"(≤ )?[+−]?[\d,]*\.?\d+( ?[±–] ?[\d.]+)?(\?|, missed)?$|–$")


def missing(name: str) -> dict:
    """The sentence that stands where a file isn't there."""
    stage = STAGE_OF.get(name, "ablations")
    return text(f"*`{name}` isn't there: the stage **{stage}** writes it (`dvc repro {stage}`).*")


def load(folder: Path, name: str):
    """A stage's JSON, or CSV as a data frame; None where it isn't there."""
    path = folder / name
    if not path.is_file():
        return None
    return read_json(path) if path.suffix == ".json" else pd.read_csv(path)


def text(markdown: str) -> dict:
    return {"kind": "text", "text": markdown}


def heading(title: str) -> dict:
    return {"kind": "heading", "title": title}


def figure(folder: Path, name: str, caption: str) -> dict:
    """A picture, by its path: HTML embeds it, Markdown links it."""
    path = folder / name
    return {"kind": "figure", "name": name, "path": path, "caption": caption} if path.is_file() else missing(name)


def table(
    columns: list[str],
    rows: list[list],
    *,
    caption: str = "",
    strong: tuple = (),
    outside: bool = False,
    screen: bool = False,
    unsorted: tuple = (),
    tight: bool = False,
) -> dict:
    """Rows of texts. strong: numbers of the rows to stress; outside: whether the numbers come from other work; screen:
    whether paper is spared the table; unsorted: columns that have no order; tight: whether there are many narrow ones.
    """
    rows = [[str(cell) for cell in row] for row in rows]
    numeric = [all(NUMBER.match(cell) for cell in column) for column in zip(*rows, strict=True)]
    about = {"caption": caption, "strong": strong, "outside": outside, "screen": screen}
    about |= {"unsorted": unsorted, "tight": tight}
    return {"kind": "table", "columns": columns, "rows": rows, "numeric": numeric or [False] * len(columns), **about}


def bars(title: str, rows: list[tuple[str, float, str]], *, wide: bool = False, stressed: bool = True) -> dict:
    """Bars from 0 to 1: (label, value, what is written beside it). wide: labels are long; stressed: the first bar."""
    return {"kind": "bars", "title": title, "rows": rows, "wide": wide, "stressed": stressed}


def fold(title: str, content: list[dict]) -> dict:
    return {"kind": "fold", "title": title, "blocks": content}


def code(content: str) -> dict:
    return {"kind": "code", "text": content.rstrip("\n")}


def percent(fraction, sign: str = "") -> str:
    """A fraction in percent with one decimal, "–" for none; sign "+" for a difference, with a true minus."""
    if fraction is None or fraction != fraction:
        return "–"
    return f"{100 * fraction:{sign}.1f}".replace("-", "−")


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]
