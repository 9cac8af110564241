"""Where a segmentation errs: which classes it takes for which, things and stuff, small and large areas, classes that
captions name rarely and often.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pacl.data.benchmark import IGNORE, Benchmark, phrases_of
from pacl.evaluation.dense import Kept, Passes, Reading
from pacl.metrics import bootstrap_interval, iou_per_class
from pacl.runtime.files import read_json, write_json
from pacl.runtime.processes import in_parts


def read_confusion_matrices(folder: Path, benchmark: str, protocol: str) -> dict[str, Tensor]:
    """One benchmark's by one protocol, method -> int64 [K, K], as pacl.evaluation.segmentation wrote them. Raises
    FileNotFoundError, or ValueError for a corrupt file.
    """
    path, methods = folder / "confusion_matrices.npz", read_json(folder / "segmentation.json")[benchmark][protocol]
    try:
        with np.load(path) as stored:
            matrices = {key: torch.from_numpy(stored[key]) for key in stored}  # zipfile checks only what is read
        return {method: matrices[f"{benchmark}/{protocol}/{method}"] for method in methods}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except Exception as error:  # NumPy's reader raises nearly every kind for a damaged file
        raise ValueError(f"{path} is corrupt ({error}): remove it and run `dvc repro segmentation`.") from None


PLURALS = {"y": "ies", "f": "ves", "fe": "ves", "us": "i", "man": "men", "person": "people", "child": "children"}
PLURALS |= {"mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth"}  # ending -> the plural's, by `s` apart


def confusions(confmat: Tensor, names: list[str], count: int) -> pd.DataFrame:
    """The `count` most frequent mistakes: columns class, taken_for, share (of the class's pixels), pixels."""
    wrong = confmat.clone().fill_diagonal_(0)
    largest = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = [divmod(i, len(names)) for i in largest]
    rows = [
        (names[a], names[b], (wrong[a, b] / confmat[a].sum()).item(), int(wrong[a, b])) for a, b in pairs if wrong[a, b]
    ]
    return pd.DataFrame(rows, columns=["class", "taken_for", "share", "pixels"])


def recall_by_area(passes: Passes | Kept, reading: Reading) -> pd.DataFrame:
    """How much of each class in each image is found: columns method, class, area (share of the image), recall."""
    run, benchmark = passes(reading.texts, reading.settings), reading.benchmark

    def found(part: range) -> list[tuple]:
        rows = []
        for coarse, masks in run(part):
            for method in passes.methods:
                for mask, labels in zip(masks, reading.label_maps(coarse, method).cpu().numpy(), strict=True):
                    target = benchmark.target(mask)
                    for k in np.unique(target[target != IGNORE]):
                        here = target == k
                        rows.append((method, benchmark.names[k], here.mean(), (labels[here] == k).mean()))
        return rows

    rows = [row for part in in_parts(found, len(passes.scenes), passes.batch_size) for row in part]
    return pd.DataFrame(rows, columns=["method", "class", "area", "recall"])


def by_size(table: pd.DataFrame, things: Sequence[str] | None, bins: int = 3) -> pd.DataFrame:
    """Mean recall of areas of things and of stuff, each in `bins` equal groups, smallest first: columns method, size,
    recall, areas, kind. Things and stuff apart, because things are smaller and harder.
    """
    kinds = kind_of(table["class"], things)
    return pd.concat(
        [by_quantile(rows, bins).assign(kind=kind) for kind, rows in table.groupby(kinds, sort=False)],
        ignore_index=True,
    )


def by_quantile(table: pd.DataFrame, bins: int) -> pd.DataFrame:
    edges = np.unique(np.quantile(table.area, np.linspace(0, 1, bins + 1)))  # fewer groups where areas are equal
    group = np.searchsorted(edges[1:-1], table.area)
    labels = np.array([f"{100 * a:.1f}–{100 * b:.1f} %" for a, b in zip(edges, [*edges[1:], edges[-1]], strict=True)])
    sorted_rows = table.assign(group=group, size=labels[group]).sort_values("group", kind="stable")
    grouped = sorted_rows.groupby(["method", "group", "size"], sort=False).recall
    return grouped.agg(recall="mean", areas="size").reset_index().drop(columns="group")


def kind_of(classes: pd.Series, things: Sequence[str] | None) -> np.ndarray:
    """Whether each class is among the things or the stuff, or just "classes" where nobody says."""
    return np.full(len(classes), "classes") if things is None else np.where(classes.isin(things), "things", "stuff")


def by_mention(confmats: dict[str, Tensor], benchmark: Benchmark, captions: list[list[str]]) -> pd.DataFrame:
    """IoU of each class and the number of images whose captions name it: columns method, class, iou, images, kind."""
    images = mentions(captions, benchmark.classes)
    rows = [
        (method, name, iou, images[name])
        for method, confmat in confmats.items()
        for name, iou in zip(benchmark.names, iou_per_class(confmat).tolist(), strict=True)
    ]
    table = pd.DataFrame(rows, columns=["method", "class", "iou", "images"]).dropna()
    return table.assign(kind=kind_of(table["class"], benchmark.things))


def mentions(captions: list[list[str]], classes: tuple[str, ...]) -> Counter:
    """How many images have a caption with one of the class's phrases in it, as whole words, plural or not."""
    counts = Counter()
    for name in classes:
        forms = "|".join(re.escape(form) for phrase in phrases_of(name) for form in singular_and_plurals(phrase))
        pattern = re.compile(rf"\b(?:{forms})\b", re.IGNORECASE)
        counts[phrases_of(name)[0]] = sum(any(map(pattern.search, texts)) for texts in captions)
    return counts


def singular_and_plurals(phrase: str) -> list[str]:
    others = [phrase.removesuffix(end) + plural for end, plural in PLURALS.items() if phrase.endswith(end)]
    return [phrase, f"{phrase}s", f"{phrase}es", *others]


def things_and_stuff(mention: pd.DataFrame) -> pd.DataFrame:
    """A `by_mention` table summed up, by method and kind: columns method, kind, classes (their number), iou (the mean),
    mention_rank (rank correlation of IoU with the number of images that name the class; within a kind, because captions
    name things more often, and things are harder) and mention_interval (its 95 % interval, resampling classes). None
    where all numbers are equal.
    """
    rows = []
    for key, of_kind in mention.groupby(["method", "kind"], sort=False):
        values = of_kind[["images", "iou"]].to_numpy(float)
        rank, interval = rank_correlation(values), None
        if rank is not None:
            interval = bootstrap_interval(values, 0, resamples=500, statistic=lambda some: rank_correlation(some) or 0)
        rows.append((*key, len(of_kind), of_kind.iou.mean(), rank, interval))
    columns = ["method", "kind", "classes", "iou", "mention_rank", "mention_interval"]
    return pd.DataFrame(rows, columns=columns, dtype=object).astype({"classes": int, "iou": float})


def rank_correlation(values: np.ndarray) -> float | None:
    """Spearman's, of two columns; None where one of them is constant."""
    ranks = pd.DataFrame(values).rank().to_numpy()
    return None if (ranks == ranks[0]).all(axis=0).any() else float(np.corrcoef(ranks.T)[0, 1])


def write_mistakes(
    folder: Path,
    confmats: dict[str, Tensor],
    areas: pd.DataFrame,
    benchmark: Benchmark,
    captions: list[list[str]],
    *,
    protocol: str,
    scenes: int,
) -> pd.DataFrame:
    """Writes mistakes.json, confusions.csv (PACL's ten most frequent), areas.csv and mentions.csv; returns
    `things_and_stuff`.

    confmats: method -> int64 [K, K], by the protocol of that name. areas: as `recall_by_area` gives them, of so many
    scenes. captions: of the training images.
    """
    mention = by_mention(confmats, benchmark, captions)
    kinds = things_and_stuff(mention)
    about = {"benchmark": benchmark.name, "protocol": protocol, "scenes": scenes}
    write_json(folder / "mistakes.json", about | {"kinds": kinds.to_dict("records")})
    confused = confusions(confmats["pacl"], benchmark.names, 10)
    for name, table in {"confusions": confused, "areas": by_size(areas, benchmark.things), "mentions": mention}.items():
        table.round(6).to_csv(folder / f"{name}.csv", index=False)
    return kinds
