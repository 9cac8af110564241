"""Metrics against scikit-learn and against numbers counted by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import jaccard_score, roc_auc_score

from pacl.metrics import (
    NoSuchPairs,
    bootstrap_interval,
    coherence_interval,
    coherence_roc,
    confusion_matrix,
    iou_per_class,
    mean_iou,
    mean_iou_foreground,
    mean_iou_labelled,
    patch_accuracy,
    patch_labels,
    pixel_accuracy,
)


def random_maps(num_classes=7, absent=3, predicted_only=5):
    rng = np.random.default_rng(0)
    target, preds = rng.integers(num_classes, size=(2, 3, 11, 13))
    target[np.isin(target, (absent, predicted_only))] = 0
    preds[preds == absent] = 1
    target[rng.random(target.shape) < 0.2] = 255
    return torch.from_numpy(preds), torch.from_numpy(target)


def test_confusion_matrix_matches_scikit_learn_with_absent_classes_and_ignore():
    preds, target = random_maps()
    kept = target != 255
    confmat = confusion_matrix(preds, target, 7)
    assert confmat.dtype == torch.int64
    np.testing.assert_array_equal(confmat, sklearn_confusion_matrix(target[kept], preds[kept], labels=range(7)))
    assert pixel_accuracy(confmat) == pytest.approx((preds == target)[kept].double().mean().item())
    parts = [confusion_matrix(preds[i].to(torch.int32), target[i].to(torch.uint8), 7) for i in range(3)]
    assert torch.equal(sum(parts), confmat)


def test_iou_and_its_two_means_match_scikit_learn():
    preds, target = random_maps()
    kept = target != 255
    confmat = confusion_matrix(preds, target, 7)
    iou = iou_per_class(confmat)
    expected = jaccard_score(target[kept], preds[kept], labels=range(7), average=None, zero_division=0)
    assert math.isnan(iou[3]) and iou[5] == 0  # in neither map; in the predictions alone
    np.testing.assert_allclose(iou.nan_to_num(), expected)
    macro = jaccard_score(target[kept], preds[kept], average="macro")  # over the labels of either map
    assert mean_iou(confmat) == pytest.approx(macro) == pytest.approx(expected.sum() / 6)
    labelled = jaccard_score(target[kept], preds[kept], labels=[0, 1, 2, 4, 6], average="macro")
    assert mean_iou_labelled(confmat) == pytest.approx(labelled)


@pytest.mark.parametrize("preds, target, iou, means", [
    ([0, 0, 1, 1], [0, 1, 1, 255], [0.5, 0.5], (0.5, 0.5, 0.5, 2 / 3)),
    ([0, 0, 1, 2], [0, 0, 1, 1], [1, 0.5, 0, math.nan], (0.5, 0.75, 0.25, 0.75)),  # 2 is only predicted, 3 nowhere
    ([0, 0, 1, 2], [0, 2, 1, 1], [0.5, 0.5, 0], (1 / 3, 1 / 3, 0.25, 0.5)),
    ([0, 0, 1, 2], [0, 1, 1, 2], [0.5, 0.5, 1], (2 / 3, 2 / 3, 0.75, 0.75)),  # what is taken for background counts
])  # fmt: skip
def test_iou_and_its_means_by_hand(preds, target, iou, means):
    confmat = confusion_matrix(torch.tensor(preds), torch.tensor(target), len(iou))
    assert iou_per_class(confmat).tolist() == pytest.approx(iou, nan_ok=True)
    metrics = (mean_iou, mean_iou_labelled, mean_iou_foreground, pixel_accuracy)
    assert [metric(confmat) for metric in metrics] == pytest.approx(means)


def test_a_wrong_pixel_among_many_millions_counts():
    confmat = torch.tensor([[2**26, 1], [0, 0]])
    assert iou_per_class(confmat).dtype == torch.float64
    assert iou_per_class(confmat)[0] < 1 and mean_iou(confmat) < 1 and pixel_accuracy(confmat) < 1


@pytest.mark.parametrize("shape", [(2, 3), (4,), (1, 2, 2)])
def test_a_matrix_that_is_not_square_is_named(shape):
    for metric in (iou_per_class, mean_iou, mean_iou_foreground, mean_iou_labelled, pixel_accuracy):
        with pytest.raises(ValueError, match=r"a confusion matrix must be \[K, K\], not \["):
            metric(torch.ones(shape))


def test_nothing_but_ignored_pixels_gives_nan():
    confmat = confusion_matrix(torch.zeros(3), torch.full((3,), 255), 4)
    assert confmat.sum() == 0 and math.isnan(mean_iou(confmat)) and math.isnan(pixel_accuracy(confmat))


@pytest.mark.parametrize("preds, target, message", [
    ([0, 1], [0, 7], "target holds the label 7, outside the 3 classes"),
    ([0, 1], [0, -1], "target holds the label -1"),
    ([0, 3], [0, 1], "preds holds the label 3"),
    ([0, -1], [0, 1], "preds holds the label -1"),
    ([0, 1], [0], "same shape"),
    ([[0], [1]], [0, 1], "same shape"),
])  # fmt: skip
def test_labels_outside_the_classes_are_named(preds, target, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(preds), torch.tensor(target), 3)


def test_predictions_under_ignored_pixels_may_be_anything():
    preds, target = torch.tensor([9, 1, -1, 0]), torch.tensor([255, 1, 255, 0])
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert confusion_matrix(preds, target, 3).tolist() == expected
    assert confusion_matrix(preds, target.to(torch.uint8), 3).tolist() == expected
    assert confusion_matrix(preds, target.where(target != 255, -7), 3, ignore_index=-7).tolist() == expected
    assert preds.tolist() == [9, 1, -1, 0] and target.tolist() == [255, 1, 255, 0]  # neither is written to


@pytest.mark.parametrize("ignore_index", [0, 2, 10**12])
def test_any_label_may_be_the_ignored_one(ignore_index):
    preds, target = torch.tensor([0, 1, 2, 1]), torch.tensor([1, ignore_index, 1, ignore_index])
    assert confusion_matrix(preds, target, 3, ignore_index=ignore_index).tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="target holds the label 3"):
        confusion_matrix(preds, target.where(target != 1, 3), 3, ignore_index=ignore_index)


def test_patch_labels_by_hand():
    mask = torch.tensor(
        [
            [1, 1, 2, 255, 2, 255, 9],
            [1, 2, 255, 255, 255, 2, 9],
            [255, 255, 3, 4, 255, 5, 9],
            [255, 255, 4, 3, 6, 255, 9],
            [9, 9, 9, 9, 9, 9, 9],
        ],
        dtype=torch.uint8,
    )
    # A majority; one vote against three ignored pixels; a class tied with the ignored; only ignored pixels; a tie that
    # the lower label wins; more ignored pixels than of either class; the last row and column are dropped.
    assert patch_labels(mask[None], 2).tolist() == [[1, 255, 2, 255, 3, 255]]
    assert patch_labels(torch.full((1, 4, 4), 255, dtype=torch.uint8), 2).tolist() == [[255] * 4]


def test_patch_labels_follow_the_order_of_patches_and_images():
    labels = torch.arange(12).reshape(2, 2, 3)
    mask = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(patch_labels(mask, 4), labels.reshape(2, 6))


def test_patch_accuracy_leaves_ignored_patches_out():
    labels = torch.tensor([[0, 1, 255], [2, 255, 1]])
    assert patch_accuracy(torch.tensor([[0, 2, 255], [2, 1, 1]]), labels) == 0.75
    assert math.isnan(patch_accuracy(labels, torch.full_like(labels, 255)))


@pytest.mark.parametrize("shape", [(8, 8), (1, 4, 8), (1, 8, 4)])
def test_a_mask_that_has_no_patch_labels_is_named(shape):
    with pytest.raises(ValueError, match="mask must be .* at least a patch of 8, not"):
        patch_labels(torch.zeros(shape, dtype=torch.uint8), 8)
    assert patch_labels(torch.ones(1, 8, 8, dtype=torch.uint8), 8).tolist() == [[1]]  # just a patch


@pytest.mark.parametrize("label", [-1, 256])
def test_a_label_that_no_mask_can_hold_is_named(label):
    with pytest.raises(ValueError, match=f"mask holds the label {label}, outside the 256 classes 0 to 255"):
        patch_labels(torch.full((1, 8, 8), label), 8)


def test_coherence_is_one_for_separated_classes_and_a_half_for_noise():
    rng = torch.Generator().manual_seed(0)
    labels, images = torch.arange(400) % 4, torch.arange(400) // 20
    noise = torch.randn(400, 64, generator=rng)
    scores, same, _, auc = coherence_roc(torch.eye(4)[labels] + 0.001 * noise[:, :4], labels, images, pairs=2000)
    assert len(scores) == len(same) == 2000 and auc == 1
    assert (scores[same] > 0.99).all()
    assert coherence_roc(noise, labels, images, pairs=5000)[3] == pytest.approx(0.5, abs=0.03)


def test_coherence_compares_different_images_only_and_leaves_ignored_patches_out():
    """Within an image all patches are equal; across images nothing is: pairs of one image would score 1."""
    images = torch.arange(60) // 10
    features, labels = torch.eye(6)[images], torch.arange(60) % 3
    scores, same, of_images, auc = coherence_roc(features, labels, images, pairs=500, seed=3)
    assert (scores == 0).all() and auc == 0.5
    assert of_images.shape == (2, 500) and (of_images[0] != of_images[1]).all()
    labels[images < 4] = 255
    scores, _, of_images, _ = coherence_roc(features, labels, images, pairs=50)
    assert len(scores) == 50 and set(of_images.ravel()) == {4, 5}
    assert (coherence_roc(features, labels, images, pairs=50)[2] == of_images).all()


def test_interval_of_the_coherence_weighs_pairs_by_how_often_their_images_are_drawn():
    rng = np.random.default_rng(0)
    of_images = rng.integers(0, 12, (2, 800))
    same = rng.random(800) < 0.4
    scores = (same + rng.normal(size=800)).round(1)  # with ties
    drawn = np.random.default_rng(5)
    areas = []
    for _ in range(10):
        counts = np.bincount(drawn.integers(12, size=12), minlength=12)
        areas.append(roc_auc_score(same, scores, sample_weight=counts[of_images[0]] * counts[of_images[1]]))
    assert coherence_interval(scores, same, of_images, 5, resamples=10) == pytest.approx(
        np.quantile(areas, [0.025, 0.975])
    )


def test_coherence_names_what_is_wrong():
    with pytest.raises(NoSuchPairs, match="at least two"):
        coherence_roc(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]), torch.zeros(4))
    for labels in (torch.zeros(4), torch.arange(4)):
        with pytest.raises(NoSuchPairs, match="same-class and different-class pairs"):
            coherence_roc(torch.rand(4, 2), labels, torch.arange(4))
    for labels, images in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match=f"as many labels and image ids, not {labels} and {images}"):
            coherence_roc(torch.rand(4, 2), torch.zeros(labels), torch.arange(images))


def test_bootstrap_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(10, 2, size=400)
    low, high = bootstrap_interval(values, seed=0)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_interval(values, seed=0) == (low, high)
    assert bootstrap_interval([3.0], seed=0) == (3, 3)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([], seed=0)
