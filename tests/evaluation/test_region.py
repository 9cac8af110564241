"""The region of accuracy and mean IoU against brute force over all confusion matrices of few pixels and random ones."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pacl.evaluation import region
from pacl.metrics import iou_per_class, pixel_accuracy

VOC = json.loads((Path(__file__).parents[2] / "data/voc2012_val.json").read_text())["benchmarks"]["voc20"]
SHARES = np.array(VOC["pixels"]) / sum(VOC["pixels"])


def margins(pixels, errors):
    """Every (missed, taken) of a confusion matrix with so many errors: of these margins a matrix with an empty diagonal
    exists where no class is asked for more than all errors.
    """
    for missed in itertools.product(*(range(n + 1) for n in pixels)):
        if sum(missed) == errors:
            for taken in itertools.product(range(errors + 1), repeat=len(pixels)):
                if sum(taken) == errors and all(e + f <= errors for e, f in zip(missed, taken, strict=True)):
                    yield np.array(missed), np.array(taken)


@pytest.mark.parametrize("pixels", [(4, 6, 8), (2, 7, 9), (6, 6, 6), (1, 3, 4, 6)], ids=str)
def test_no_matrix_of_few_pixels_leaves_the_region_and_some_reach_its_edges(pixels):
    n, total = np.array(pixels), sum(pixels)
    for errors in range(0, total, 3):
        mious = [((n - e) / (n + f)).mean() for e, f in margins(pixels, errors)]
        low, high = (
            region.lowest_miou(n / total, 1 - errors / total),
            region.highest_miou(n / total, 1 - errors / total),
        )
        assert low <= min(mious) + 1e-9 and max(mious) <= high + 1e-9
        assert min(mious) - low < 0.02 and high - max(mious) < 0.02  # between whole pixels lies a little more


def test_random_matrices_lie_in_the_region():
    rng = np.random.default_rng(0)
    for concentration in (0.05, 0.3, 1.0, 5.0):
        for _ in range(8):
            right = rng.dirichlet(np.full(20, concentration))
            confmat = np.stack([rng.dirichlet(np.full(20, concentration)) for _ in range(20)]) * SHARES[:, None]
            confmat = right[:, None] * confmat + np.diag((1 - right) * SHARES)
            confmat = torch.from_numpy(confmat)
            accuracy, miou = pixel_accuracy(confmat), iou_per_class(confmat).mean().item()
            assert region.lowest_miou(SHARES, accuracy) - 1e-9 <= miou <= region.highest_miou(SHARES, accuracy) + 1e-9


def test_two_classes_by_hand():
    """All errors of one class are the other's: with shares 1/4 and 3/4 and an error of 1/4 the small class is missed
    whole, (0 + 3/4) / 2, or takes as much, (1/2 + 2/3) / 2, or both take 1/8.
    """
    shares = np.array([0.25, 0.75])
    assert region.lowest_miou(shares, 0.75) == pytest.approx((0 + 0.75) / 2)
    assert region.highest_miou(shares, 0.75) == pytest.approx((0.25 / 0.5 + 0.5 / 0.75) / 2)
    assert region.lowest_miou(shares, 1.0) == region.highest_miou(shares, 1.0) == 1.0


def test_the_papers_numbers_cannot_describe_the_same_predictions():
    assert region.lowest_miou(SHARES, 0.9651) == pytest.approx(0.8404, abs=2e-4)
    assert region.highest_accuracy(SHARES, 0.723) == pytest.approx(0.926, abs=2e-4)
    assert region.lowest_miou(SHARES, region.highest_accuracy(SHARES, 0.723)) == pytest.approx(0.723, abs=1e-6)
    assert region.spread_miou(SHARES, 0.86) == pytest.approx(0.7207, abs=2e-4)


def test_errors_spread_evenly_are_those_of_their_matrix():
    confmat = np.full((20, 20), 0.2 / 19) * SHARES[:, None]
    np.fill_diagonal(confmat, 0.8 * SHARES)
    assert region.spread_miou(SHARES, 0.8) == pytest.approx(iou_per_class(torch.from_numpy(confmat)).mean().item())


def test_how_much_must_become_background():
    """Without other errors the IoU is one minus the share, and the smallest classes go first."""
    shares = np.array([0.1, 0.2, 0.7])
    assert region.as_background(shares, 1.0, 0.6)[1] == pytest.approx(0.4)
    assert region.as_background(shares, 1.0, 2 / 3)[0] == pytest.approx(0.1)
    assert region.as_background(shares, 0.9, 0.99) == (0.0, 0.0)


def test_how_much_of_the_background_must_be_a_class():
    """Half of all pixels are background; a fifth of them spread by size makes every IoU 1 / 1.2."""
    assert region.from_background(np.array([0.3, 0.7]), 0.5, 1.0, 1 / 1.2)[1] == pytest.approx(0.2)
    low, spread = region.from_background(np.array([0.3, 0.7]), 0.5, 1.0, 0.8)
    assert 0 < low < spread


@pytest.mark.parametrize("areas", [[[3], [2, 4]], [[1, 5], [2, 3, 3]], [[2], [4, 4]]], ids=str)
def test_no_predictions_of_few_pixels_have_a_lower_mean_over_images(areas):
    total = sum(map(sum, areas))
    losses = [[own_loss(sizes, errors) for errors in range(sum(sizes) + 1)] for sizes in areas]
    for errors in range(1, total, 2):
        splits = [(i, errors - i) for i in range(errors + 1) if i < len(losses[0]) and errors - i < len(losses[1])]
        least = 1 - max(losses[0][i] + losses[1][j] for i, j in splits) / 2
        accuracy = 1 - errors / total
        assert region.bound_of_mean_over_images(areas, accuracy) <= least + 1e-6
        assert region.low_mean_over_images(areas, accuracy) >= least - 1e-9
        assert region.bound_of_mean_over_images(areas, accuracy) > least - 0.25  # a bound that says something


def own_loss(sizes, errors):
    """The highest loss of the mean IoU over an image's own classes with so many wrong pixels, by brute force."""
    n, taken = np.array(sizes), itertools.product(range(errors + 1), repeat=len(sizes) if len(sizes) > 1 else 0)
    taken = [np.array(f, float) for f in taken if sum(f) <= errors] if len(sizes) > 1 else [np.zeros(1)]
    missed = [np.array(e) for e in itertools.product(*(range(k + 1) for k in sizes)) if sum(e) == errors]
    return max((1 - (n - e) / (n + f)).mean() for e in missed for f in taken)


def test_a_mean_over_images_falls_with_small_images():
    """Ten images of one class: one of 1 pixel among nine of 11 is lost whole with a hundredth of the pixels wrong."""
    areas = [[1], *[[11]] * 9]
    assert region.low_mean_over_images(areas, 0.99) == pytest.approx(0.9)
    assert region.low_mean_over_images([[2, 8]], 0.8) == pytest.approx(1 - (1 + 0.2) / 2)  # the other takes it: 8 of 10
    assert region.surely_right([[4], [3, 3]]) == pytest.approx(0.4)
    assert region.images_with_a_stray_class([[1], [1], [1], [2, 2]], 0.75) == 0.5  # two images fall to a half each
