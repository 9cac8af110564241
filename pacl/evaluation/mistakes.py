"""Where a segmentation errs: which classes are taken for which, things against stuff, small against large, rare against
often named in captions.
"""

import re
from collections import Counter

import numpy as np
import pandas as pd
from torch import Tensor

from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.benchmark import background_listed, foreground, on_benchmark, target_of
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.segmentation import equal_sizes
from pacl.metrics import IGNORE_INDEX, bootstrap_interval, iou_per_class
from pacl.runtime.params import Protocol
from pacl.runtime.processes import in_parts
from pacl.segment import Method, segment


def confusions(confmat: Tensor, classes: list[str], count: int) -> pd.DataFrame:
    """The `count` most frequent mistakes: columns class, taken_for, share (of the class's pixels), pixels."""
    wrong = confmat.clone().fill_diagonal_(0)
    largest = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = [divmod(i, len(classes)) for i in largest]
    names = [name.split(",")[0] for name in classes]
    rows = [
        (names[a], names[b], (wrong[a, b] / confmat[a].sum()).item(), int(wrong[a, b])) for a, b in pairs if wrong[a, b]
    ]
    return pd.DataFrame(rows, columns=["class", "taken_for", "share", "pixels"])


def areas(
    clip: FrozenCLIP, methods: dict[str, Method], images: Images, masks: Masks, benchmark: dict, protocol: Protocol
) -> pd.DataFrame:
    """How much of a class in an image is found: columns method, class, area (share of the image), recall."""
    text, phrase_index = class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
    options = {"phrase_index": phrase_index, "background_listed": background_listed(benchmark, protocol)}
    protocol, names = on_benchmark(protocol, benchmark), [name.split(",")[0] for name in benchmark["classes"]]

    def found(part: range) -> list[tuple]:
        rows = []
        for picture, mask in equal_sizes(images.some(part), masks.some(part), 32):
            targets = np.stack([target_of(m, benchmark["table"]) for m in mask])
            for method, way in methods.items():
                preds = segment(clip, way, picture, text, protocol, **options).cpu().numpy()
                for target, pred in zip(targets, preds, strict=True):
                    for k in np.unique(target[target != IGNORE_INDEX]):
                        here = target == k
                        rows.append((method, names[k], here.mean(), (pred[here] == k).mean()))
        return rows

    rows = [row for part in in_parts(found, len(images), 32) for row in part]
    return pd.DataFrame(rows, columns=["method", "class", "area", "recall"])


def by_size(table: pd.DataFrame, things: set[str], bins: int = 3) -> pd.DataFrame:
    """Mean recall of areas of things, and of stuff, in `bins` equal groups each, smallest first: columns method, kind,
    size, recall, areas. Within a kind, for things are smaller than stuff and harder.
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


def kind_of(classes: pd.Series, things: set[str]) -> np.ndarray:
    return np.where(classes.isin(things), "things", "stuff")


def by_mention(confmats: dict[str, Tensor], classes: list[str], captions: list[list[str]]) -> pd.DataFrame:
    """IoU of each class beside the number of images whose captions name it: columns method, class, iou, images."""
    images = mentions(captions, classes)
    names = [name.split(",")[0] for name in classes]
    rows = [
        (method, name, iou, images[name])
        for method, confmat in confmats.items()
        for name, iou in zip(names, iou_per_class(confmat).tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "class", "iou", "images"]).dropna()


def mentions(captions: list[list[str]], classes: list[str]) -> Counter:
    """How many images have a caption with one of the class's phrases in it, as whole words, plural or not."""
    counts = Counter()
    for name in classes:
        forms = "|".join(re.escape(form) for phrase in name.split(",") for form in singular_and_plurals(phrase.strip()))
        pattern = re.compile(rf"\b(?:{forms})\b", re.IGNORECASE)
        counts[name.split(",")[0]] = sum(any(map(pattern.search, texts)) for texts in captions)
    return counts


def singular_and_plurals(phrase: str) -> list[str]:
    from textblob import Word  # slow to import

    known = Word(phrase).pluralize()
    return [phrase, f"{phrase}s", f"{phrase}es", known, *([f"{phrase[:-2]}i"] if phrase.endswith("us") else [])]


def things_and_stuff(by_class: pd.DataFrame, things: set[str]) -> pd.DataFrame:
    """Of things and of stuff: columns method, kind, classes (their number), iou (the mean), mention_rank (the rank
    correlation of IoU with the number of images that name the class; within a kind, for things are named more often and
    are harder) and mention_interval (95 % of it, resampling classes). None where all numbers are equal.
    """
    rows = []
    for key, of_kind in by_class.groupby(["method", kind_of(by_class["class"], things)], sort=False):
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
