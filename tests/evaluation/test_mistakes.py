"""Mistakes counted by hand."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.colour_world import BENCHMARKS, METHODS, PROTOCOLS, ColourCLIP, image_set, pictures

from pacl.data.benchmark import Benchmark
from pacl.evaluation.dense import Passes, Reading
from pacl.evaluation.mistakes import (
    by_mention,
    by_size,
    confusions,
    mentions,
    recall_by_area,
    things_and_stuff,
    write_mistakes,
)
from pacl.evaluation.segmentation import confusion_matrices

CONFMAT = torch.tensor([[6, 3, 1], [0, 5, 0], [8, 0, 2]])
CLASSES = ("cat, kitten", "dog", "sea")
BENCHMARK = Benchmark("three", CLASSES, (0, 1, 2))


def test_confusions_are_sorted_by_pixels_and_shares_are_of_the_true_class():
    table = confusions(CONFMAT, BENCHMARK.names, 9)
    assert table.values.tolist() == [
        ["sea", "cat", pytest.approx(0.8), 8],
        ["cat", "dog", pytest.approx(0.3), 3],
        ["cat", "sea", pytest.approx(0.1), 1],
    ]
    assert len(confusions(CONFMAT, BENCHMARK.names, 2)) == 2


@pytest.mark.parametrize(
    "name, changes", [("plain", {}), ("with_background", {}), ("with_background", {"phrases": "words"})]
)
def test_areas_add_up_to_the_confusion_matrix(name, changes):
    benchmark, protocol = BENCHMARKS[name], PROTOCOLS["whole"].model_copy(update=changes)
    scenes = image_set(*pictures([(14, 20)] * 3), {name: benchmark})
    table = recall_by_area(Passes(ColourCLIP(), METHODS, scenes, 2), Reading(benchmark, protocol))
    confmats = confusion_matrices(ColourCLIP(), METHODS, {"": scenes}, [name], {"": protocol})[""][name]
    for method, expected in confmats.items():
        rows = table[table.method == method]
        found = (rows.area * rows.recall).groupby(rows["class"]).sum() * 280
        assert found.round().astype(int).to_dict() == dict(
            zip(benchmark.names, expected.diagonal().tolist(), strict=True)
        )
        assert rows.area.sum() * 280 == pytest.approx(expected.sum().item())


@pytest.mark.parametrize("classes, area, recall, bins, expected", [
    (
        "cat", [0.1, 0.2, 0.3, 0.4], [0, 1, 0.5, 1], 2,
        [["10.0–25.0 %", 0.5, 2, "things"], ["25.0–40.0 %", 0.75, 2, "things"]],
    ),
    ("cat", [0.2, 1, 1, 1, 1], [0, 1, 0.5, 1, 0.5], 4, [["20.0–100.0 %", 0.6, 5, "things"]]),  # equal areas: one group
    ("cat", [0.2] * 4 + [0.9], [0, 1, 0.5, 1, 0.5], 4, [["20.0–90.0 %", 0.6, 5, "things"]]),
    ("sea", [0.5], [0.25], 3, [["50.0–50.0 %", 0.25, 1, "stuff"]]),
    (  # a rise is not the change from things to stuff
        ["cat", "dog", "sea", "sand"], [0.1, 0.2, 0.5, 0.9], [0.3, 0.3, 0.8, 0.8], 2,
        [["10.0–15.0 %", 0.3, 1, "things"], ["15.0–20.0 %", 0.3, 1, "things"],
         ["50.0–70.0 %", 0.8, 1, "stuff"], ["70.0–90.0 %", 0.8, 1, "stuff"]],
    ),
])  # fmt: skip
def test_areas_are_in_groups_of_equal_number_things_and_stuff_apart(classes, area, recall, bins, expected):
    table = pd.DataFrame({"class": classes, "method": "PACL", "area": area, "recall": recall})
    found = by_size(table, {"cat", "dog"}, bins=bins)
    assert found[["size", "recall", "areas", "kind"]].values.tolist() == expected
    if classes == "cat":  # smallest first, however the rows come
        assert by_size(table[::-1], {"cat", "dog"}, bins=bins).equals(found)
    both = by_size(pd.concat([table.assign(method="CLIP", recall=0.0), table]), {"cat", "dog"}, bins=bins)
    assert both[both.method == "PACL"].reset_index(drop=True).equals(found)
    assert (both[both.method == "CLIP"].recall == 0).all() and len(both) == 2 * len(found)


def test_mentions_are_whole_words_plural_or_not_and_count_an_image_once():
    captions = [["a Cat and cats", "a kitten"], ["a catalogue"], ["two DOGS by the sea"], ["hotdog stand"]]
    assert mentions(captions, CLASSES) == {"cat": 1, "dog": 1, "sea": 1}
    odd = [["three butterflies"], ["cacti"], ["two people"], ["a butterfly , a person"], ["buses"], ["a butter"]]
    odd.append(["octopuses"])
    names = ["butterfly", "cactus", "person", "bus", "octopus"]
    assert mentions(odd, names) == {"butterfly": 2, "cactus": 1, "person": 2, "bus": 1, "octopus": 1}
    others = [["kitten on a mat"], ["a cat"], ["a tv set", "a t.v. set"], ["tov. set"]]
    assert mentions(others, ["cat, kitten", "t.v. set"]) == {"cat": 2, "t.v. set": 1}
    benchmark = dataclasses.replace(BENCHMARK, classes=(*CLASSES[:2], "duck"), things=("cat",))
    table = by_mention({"pacl": CONFMAT}, benchmark, captions)
    assert table["class"].tolist() == ["cat", "dog", "duck"] and table["images"].tolist() == [1, 1, 0]
    assert table.iou.tolist() == pytest.approx([6 / 18, 5 / 8, 2 / 11])
    assert table.kind.tolist() == ["things", "stuff", "stuff"]
    unseen = torch.tensor([[6, 0, 4], [0, 0, 0], [0, 0, 2]])  # no dog, and nothing taken for one
    assert by_mention({"pacl": unseen}, BENCHMARK, captions)["class"].tolist() == ["cat", "sea"]


def test_things_and_stuff_are_means_over_classes():
    by_class = pd.DataFrame({
        "method": "PACL", "class": ["cat", "dog", "cow", "sea"], "iou": [0.2, 0.4, 0.9, 0.9], "images": [9, 7, 2, 1],
        "kind": ["things"] * 3 + ["stuff"],
    })  # fmt: skip
    table = things_and_stuff(by_class)
    assert table.set_index("kind").iou.to_dict() == pytest.approx({"things": 0.5, "stuff": 0.9})
    assert table.set_index("kind").mention_rank.to_dict() == {"things": pytest.approx(-1), "stuff": None}
    assert table.classes.tolist() == [3, 1] and table.mention_interval[1] is None
    for column in ("images", "iou"):  # no rank correlation with what is everywhere the same
        assert things_and_stuff(by_class.assign(**{column: 1})).mention_rank[0] is None


def test_a_rank_correlation_comes_with_an_interval_that_few_classes_leave_wide():
    rng = np.random.default_rng(1)
    images, noise = rng.permutation(60), rng.normal(size=60)
    rows = pd.DataFrame({"method": "PACL", "kind": "stuff", "images": images, "iou": images + 10 * noise})
    found = things_and_stuff(rows).iloc[0]
    assert found.mention_rank == pytest.approx(rows.images.corr(rows.iou, "spearman"))
    low, high = found.mention_interval
    assert 0.5 < low < found.mention_rank < high <= 1
    few = things_and_stuff(rows[:8].assign(iou=noise[:8])).iloc[0].mention_interval
    assert few[0] < 0 < few[1] and few[1] - few[0] > 3 * (high - low)


def test_files_hold_the_tables(tmp_path):
    areas = pd.DataFrame({"method": "pacl", "class": ["cat", "sea"], "area": [0.25, 0.5], "recall": [1 / 3, 1.0]})
    captions = [["a cat"], ["a dog"], ["a dog"]]
    confmats = {"clip": CONFMAT.T, "pacl": CONFMAT}
    benchmark = dataclasses.replace(BENCHMARK, things=("cat", "dog"))
    write_mistakes(tmp_path, confmats, areas, benchmark, captions, protocol="native", scenes=7)
    about = json.loads((tmp_path / "mistakes.json").read_text())
    assert [about[key] for key in ("benchmark", "protocol", "scenes")] == ["three", "native", 7]
    things = about["kinds"][2]
    assert (things["method"], things["kind"], things["mention_rank"]) == ("pacl", "things", 1.0)
    assert things["iou"] == pytest.approx((6 / 18 + 5 / 8) / 2, abs=1e-6)
    confused, sizes, named = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("confusions", "areas", "mentions"))
    assert confused.values[0].tolist() == ["sea", "cat", 0.8, 8]
    assert sizes[["kind", "recall", "areas"]].values.tolist() == [["things", 0.333333, 1], ["stuff", 1.0, 1]]
    assert named[["method", "class", "images", "kind"]].values[4].tolist() == ["pacl", "dog", 2, "things"]


def test_where_nobody_says_what_is_a_thing_all_are_classes():
    assert by_mention({"pacl": CONFMAT}, BENCHMARK, [["a cat"]]).kind.tolist() == ["classes"] * 3
    areas = pd.DataFrame({"method": "pacl", "class": ["cat", "sea"], "area": [0.25, 0.5], "recall": [1 / 3, 1.0]})
    assert set(by_size(areas, None).kind) == {"classes"}
