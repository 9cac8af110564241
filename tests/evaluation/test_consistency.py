"""What consistency.json says follows from the class frequencies and the published numbers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.folders import once

from pacl.data.images import Masks
from pacl.evaluation.consistency import own_points, published_points, write_consistency
from pacl.evaluation.region import highest_accuracy, lowest_miou
from pacl.metrics import iou_per_class, pixel_accuracy
from pacl.sources.mask_statistics import statistics
from pacl.sources.segmentation_sets import benchmark

ROOT = Path(__file__).parents[2]
VOC = json.loads((ROOT / "data/voc2012_val.json").read_text())
COLUMNS = ["method", "benchmark", "protocol", "backbone", "metric", "value"]
OWN = {"benchmark": "voc20", "protocol": "native", "pixels": [3, 0, 1], "points": {}}


def published(accuracy="96.51", miou="72.3"):
    rows = [
        ("CLIP", "voc", "native", "ViT-B/16", "patch accuracy", "52.49"),
        ("CLIP", "voc20", "", "ViT-B/16", "mIoU", "41.8–49.4"),
        ("SCLIP", "voc20", "", "ViT-B/16", "mIoU", "80.4"),
        ("PACL", "voc", "native", "ViT-B/16", "patch accuracy", accuracy),
        ("PACL, as claimed", "voc20", "native", "ViT-B/16", "mIoU", miou),
        ("PACL, as claimed", "context59", "native", "ViT-B/16", "mIoU", "50.1"),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_published_points_are_an_accuracy_with_the_ends_of_a_range():
    assert published_points(published()) == [
        {"name": "CLIP, ViT-B/16", "accuracy": 0.5249, "miou": [0.418, 0.494]},
        {"name": "PACL, ViT-B/16", "accuracy": 0.9651, "miou": [0.723]},
    ]


def test_the_projects_own_table_has_the_papers_points():
    table = pd.read_csv(ROOT / "data/published.csv", dtype=str, keep_default_na=False)
    points = {point["name"]: point for point in published_points(table)}
    assert points["PACL, ViT-B/16"] == {"name": "PACL, ViT-B/16", "accuracy": 0.9651, "miou": [0.723]}
    assert points["PACL, ViT-L/14"]["accuracy"] == 0.9533 and points["MaskCLIP, ViT-B/16"]["miou"] == [0.749]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = once(tmp_path_factory, "consistency.json", lambda path: write_consistency(path, OWN, published()))
    return json.loads(path.read_text())


def test_the_edges_are_named_by_the_published_numbers(found):
    shares = np.array(VOC["benchmarks"]["voc20"]["pixels"]) / sum(VOC["benchmarks"]["voc20"]["pixels"])
    assert found["voc20"]["lowest_miou"]["0.9651"] == pytest.approx(lowest_miou(shares, 0.9651), abs=1e-6)
    assert found["voc20"]["highest_accuracy"]["0.723"] == pytest.approx(highest_accuracy(shares, 0.723), abs=1e-6)
    assert list(found["voc20"]["lowest_miou"]) == ["0.5249", "0.9651"]
    assert len(found["own"]["region"]["lowest"]) == len(found["own"]["region"]["accuracy"])
    assert "cannot describe the same predictions" in found["conclusion"] and "at least 84.0 %" in found["conclusion"]


def test_the_conclusion_follows_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("pacl.evaluation.consistency.region", lambda shares: {})  # takes seconds
    found = write_consistency(tmp_path / "consistency.json", OWN, published(accuracy="86"))
    assert found["conclusion"] == "86.00 % of patches right and a mean IoU of 72.3 % can describe the same predictions."
    assert found["readings"][0] == {"id": "same", "can": True, "lowest": pytest.approx(0.5704, abs=1e-4)}


def test_between_what_is_reached_and_what_is_excluded_a_reading_is_open(found):
    (over_images,) = (one for one in found["readings"] if one["id"] == "over_images")
    assert over_images["bound"] < 0.723 < over_images["reached"] and over_images["can"] is None
    assert found["conclusion"].endswith("Of 5 other readings 4 can hold both.")


def test_a_runs_points_come_from_its_confusion_matrices(tmp_path):
    confmat = torch.tensor([[4, 1], [2, 3]])
    (tmp_path / "segmentation").mkdir()
    np.savez(tmp_path / "segmentation/confusion_matrices.npz", **{"voc20/native/pacl": confmat.numpy()})
    measured = {"pixel_accuracy": pixel_accuracy(confmat), "miou": iou_per_class(confmat).mean().item()}
    (tmp_path / "segmentation/segmentation.json").write_text(json.dumps({"voc20": {"native": {"pacl": measured}}}))
    own = own_points(tmp_path, "voc20", "native")
    assert own["pixels"] == [5, 5]
    assert own["points"]["pacl"] == {"accuracy": pytest.approx(0.7), "miou": pytest.approx((4 / 7 + 3 / 6) / 2)}


def test_statistics_of_masks_by_hand(tmp_path):
    """A 32 x 16 mask: one patch of class 1 with a row of the background, one of the background with void."""
    mask = np.zeros((32, 16), np.uint8)
    mask[:15], mask[16:20] = 3, 255
    np.save(tmp_path / "a.npy", mask)
    paths = [tmp_path / "a.npy"]
    found = statistics(Masks(paths), {name: benchmark(name, tmp_path, paths) for name in ("voc20", "voc21")})
    assert found["areas"] == [[15 * 16]]
    voc20, voc21 = found["benchmarks"]["voc20"], found["benchmarks"]["voc21"]
    assert voc20["pixels"][2] == sum(voc20["pixels"]) == 240 and voc20["patches"][2] == sum(voc20["patches"]) == 1
    assert (voc21["pixels"][0], voc21["pixels"][3]) == (13 * 16, 240) and voc21["patches"][:4] == [1, 0, 0, 1]
    assert voc20["perfect patches"] == {"16": 1.0, "4": 1.0}
    assert voc21["perfect patches"]["16"] == pytest.approx((240 / 256 + 192 / 208) / 2), "the background's row is lost"


def test_the_data_file_is_what_a_part_of_the_official_masks_gives(real_data):
    folder = real_data / "voc2012_val_masks"
    paths = sorted(folder.rglob("*.png"))
    assert len(paths) == len(VOC["areas"]) == 1449
    some = slice(0, 1449, 29)
    found = statistics(Masks(paths[some]), {name: benchmark(name, folder, paths) for name in ("voc20", "voc21")})
    assert found["areas"] == VOC["areas"][some]
    assert sum(map(sum, VOC["areas"])) == sum(VOC["benchmarks"]["voc20"]["pixels"])
