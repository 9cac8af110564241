"""Mistakes counted by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.colour_world import BENCHMARKS, METHODS, PROTOCOLS, ColourCLIP, pictures

from pacl.data.images import Images, Masks
from pacl.evaluation.mistakes import areas, by_mention, by_size, confusions, mentions, things_and_stuff
from pacl.evaluation.segmentation import segmentation

CONFMAT = torch.tensor([[6, 3, 1], [0, 5, 0], [8, 0, 2]])
CLASSES = ["cat, kitten", "dog", "sea"]


def test_confusions_are_sorted_by_pixels_and_shares_are_of_the_true_class():
    table = confusions(CONFMAT, CLASSES, 9)
    assert table.values.tolist() == [
        ["sea", "cat", pytest.approx(0.8), 8],
        ["cat", "dog", pytest.approx(0.3), 3],
        ["cat", "sea", pytest.approx(0.1), 1],
    ]
    assert len(confusions(CONFMAT, CLASSES, 2)) == 2


WORDS = {"phrases": {"words": ["sky, sea", "cow", "green hill, hill"]}}  # for the background, too


@pytest.mark.parametrize(
    ("benchmark", "protocol"),
    [
        (BENCHMARKS["plain"], PROTOCOLS["whole"]),
        (BENCHMARKS["with_background"], PROTOCOLS["whole"]),
        (BENCHMARKS["with_background"] | WORDS, PROTOCOLS["whole"].model_copy(update={"phrases": "words"})),
    ],
)
def test_areas_add_up_to_the_confusion_matrix(benchmark, protocol):
    images, masks = pictures([(14, 20)] * 3)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    table = areas(ColourCLIP(), METHODS, *scenes, benchmark, protocol)
    confmat = segmentation(ColourCLIP(), METHODS, *scenes, {"plain": benchmark}, protocol)["plain"]
    for method, expected in confmat.items():
        rows = table[table.method == method]
        found = (rows.area * rows.recall).groupby(rows["class"]).sum() * 280
        assert found.round().astype(int).to_dict() == dict(
            zip((name.split(",")[0] for name in benchmark["classes"]), expected.diagonal().tolist(), strict=True)
        )
        assert rows.area.sum() * 280 == pytest.approx(expected.sum().item())


def test_sizes_are_in_groups_of_equal_number():
    table = pd.DataFrame({"class": "cat", "method": "PACL", "area": [0.1, 0.2, 0.3, 0.4], "recall": [0, 1, 0.5, 1]})
    grouped = by_size(table, {"cat"}, bins=2)
    assert grouped.recall.tolist() == [0.5, 0.75] and grouped["areas"].tolist() == [2, 2]
    assert grouped["size"].tolist() == ["10.0–25.0 %", "25.0–40.0 %"]
    assert by_size(table[::-1], {"cat"}, bins=2).equals(grouped)  # smallest first, however the rows come


def test_sizes_are_of_things_and_of_stuff_so_that_a_rise_is_not_the_change_from_one_to_the_other():
    table = pd.DataFrame({
        "class": ["cat", "dog", "sea", "sand"], "method": "PACL", "area": [0.1, 0.2, 0.5, 0.9],
        "recall": [0.3, 0.3, 0.8, 0.8],
    })  # fmt: skip
    grouped = by_size(table, {"cat", "dog"}, bins=2)
    assert grouped[["kind", "recall"]].values.tolist() == [["things", 0.3]] * 2 + [["stuff", 0.8]] * 2


def test_equal_areas_are_in_one_group():
    rows = {"class": "cat", "method": "PACL", "area": [0.2, 1, 1, 1, 1], "recall": [0, 1, 0.5, 1, 0.5]}
    assert by_size(pd.DataFrame(rows), {"cat"}, bins=4)[["recall", "areas"]].values.tolist() == [[0.6, 5]]
    rows = {"class": "cat", "method": "PACL", "area": [0.2] * 4 + [0.9], "recall": [0, 1, 0.5, 1, 0.5]}
    assert by_size(pd.DataFrame(rows), {"cat"}, bins=4)[["size", "areas"]].values.tolist() == [["20.0–90.0 %", 5]]
    rows = {"class": "sea", "method": ["CLIP", "PACL"], "area": 0.5, "recall": [0.25, 0.75]}
    found = by_size(pd.DataFrame(rows), {"cat"})[["method", "kind", "size", "recall", "areas"]]
    assert found.values.tolist() == [[m, "stuff", "50.0–50.0 %", r, 1] for m, r in (("CLIP", 0.25), ("PACL", 0.75))]


def test_mentions_are_whole_words_plural_or_not_and_count_an_image_once():
    captions = [["a Cat and cats", "a kitten"], ["a catalogue"], ["two DOGS by the sea"], ["hotdog stand"]]
    assert mentions(captions, CLASSES) == {"cat": 1, "dog": 1, "sea": 1}
    odd = [["three butterflies"], ["cacti"], ["two people"], ["a butterfly , a person"], ["buses"], ["a butter"]]
    odd.append(["octopuses"])
    names = ["butterfly", "cactus", "person", "bus", "octopus"]
    assert mentions(odd, names) == {"butterfly": 2, "cactus": 1, "person": 2, "bus": 1, "octopus": 1}
    others = [["kitten on a mat"], ["a cat"], ["a tv set", "a t.v. set"], ["tov. set"]]
    assert mentions(others, ["cat, kitten", "t.v. set"]) == {"cat": 2, "t.v. set": 1}
    table = by_mention({"PACL": CONFMAT}, [*CLASSES[:2], "duck"], captions)
    assert table["class"].tolist() == ["cat", "dog", "duck"] and table["images"].tolist() == [1, 1, 0]
    assert table.iou.tolist() == pytest.approx([6 / 18, 5 / 8, 2 / 11])
    unseen = torch.tensor([[6, 0, 4], [0, 0, 0], [0, 0, 2]])  # no dog, and nothing taken for one
    assert by_mention({"PACL": unseen}, CLASSES, captions)["class"].tolist() == ["cat", "sea"]


def test_things_and_stuff_are_means_over_classes():
    by_class = pd.DataFrame({
        "method": "PACL", "class": ["cat", "dog", "cow", "sea"], "iou": [0.2, 0.4, 0.9, 0.9], "images": [9, 7, 2, 1],
    })  # fmt: skip
    table = things_and_stuff(by_class, {"cat", "dog", "cow"})
    assert table.set_index("kind").iou.to_dict() == pytest.approx({"things": 0.5, "stuff": 0.9})
    assert table.set_index("kind").mention_rank.to_dict() == {"things": pytest.approx(-1), "stuff": None}
    assert table.classes.tolist() == [3, 1] and table.mention_interval[1] is None
    for column in ("images", "iou"):  # no rank correlation with what is everywhere the same
        assert things_and_stuff(by_class.assign(**{column: 1}), set(by_class["class"])).mention_rank[0] is None


def test_a_rank_correlation_comes_with_an_interval_that_few_classes_leave_wide():
    rng = np.random.default_rng(1)
    images, noise = rng.permutation(60), rng.normal(size=60)
    rows = pd.DataFrame({"method": "PACL", "class": map(str, range(60)), "images": images, "iou": images + 10 * noise})
    found = things_and_stuff(rows, set(rows["class"])).iloc[0]
    assert found.mention_rank == pytest.approx(rows.images.corr(rows.iou, "spearman"))
    low, high = found.mention_interval
    assert 0.5 < low < found.mention_rank < high <= 1
    few = things_and_stuff(rows[:8].assign(iou=noise[:8]), set(rows["class"])).iloc[0].mention_interval
    assert few[0] < 0 < few[1] and few[1] - few[0] > 3 * (high - low)
