"""Random changes of images: what they keep, what they change, and nothing at all where the settings say so."""

import numpy as np
import pytest
import torch

from pacl.training.augment import augmented, cropped, mirrored, recoloured


def rng(seed=0):
    return np.random.default_rng(seed)


IMAGES = rng().integers(0, 256, (200, 12, 12, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255


def test_mirrored_images_are_mirrored_left_to_right():
    after = mirrored(rng(1), IMAGES)
    flipped = np.array([np.array_equal(a, np.fliplr(b)) for a, b in zip(after, IMAGES, strict=True)])
    assert 70 < flipped.sum() < 130
    assert np.array_equal(after[~flipped], IMAGES[~flipped])


def test_without_crop_and_colour_images_are_only_mirrored():
    after = augmented(rng(1), IMAGES, 12, crop=1.0, colour=0.0)
    assert torch.equal(after, torch.from_numpy(mirrored(rng(1), IMAGES).copy()).permute(0, 3, 1, 2) / 255)


def test_a_crop_is_a_box_of_the_image():
    """Each pixel of a ramp says where it comes from: straight lines inside the image, of the promised area."""
    ramp = torch.linspace(0, 1, 64)
    images = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)]).expand(
        300, 3, 64, 64
    )
    x, y, zero = cropped(rng(), images, 64, least=0.25).unbind(1)
    torch.testing.assert_close(x[:, 0], x[:, 40], atol=1e-4, rtol=0)
    torch.testing.assert_close(y[:, :, 0], y[:, :, 40], atol=1e-4, rtol=0)
    width, height = x[:, 0, -1] - x[:, 0, 0], y[:, -1, 0] - y[:, 0, 0]
    assert zero.abs().max() == 0 and x.min() >= 0 and x.max() <= 1
    assert (width * height).min() > 0.2 and (width * height).mean() == pytest.approx(0.6, abs=0.05)
    assert (width / height).max() < 1.45 and (width / height).min() > 0.69
    steps = x[:, 0, 1:] - x[:, 0, :-1]
    assert (steps.max(1).values - steps[:, 5:-5].min(1).values).max() < 2e-3, "evenly spaced"


def test_a_crop_of_everything_changes_nothing_but_the_aspect_of_the_largest_box():
    whole = cropped(rng(), torch.full((5, 3, 8, 8), 0.3), 12, least=0.5)
    torch.testing.assert_close(whole, torch.full((5, 3, 12, 12), 0.3))


def test_colours_change_by_at_most_the_given_share_and_some_images_become_grey():
    after = recoloured(rng(), PIXELS, 0.4)
    brightness = after.mean((1, 2, 3)) / PIXELS.mean((1, 2, 3))
    assert brightness.min() > 0.55 and brightness.max() < 1.45 and brightness.std() > 0.1
    grey = (after - after.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-5
    assert 5 < grey.sum() < 40
    flat = recoloured(rng(), torch.full((9, 3, 4, 4), 0.5), 0.4)
    torch.testing.assert_close(flat, flat[:, :1, :1, :1].expand_as(flat))  # no contrast and no colour to change


def test_equal_seeds_change_equally():
    first, again, other = (augmented(rng(seed), IMAGES, 12, 0.3, 0.4) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_larger_images_show_the_same():
    """Of four quarters, each of one brightness, the middles keep theirs, in a box of the image and without one."""
    quarters = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    images = np.repeat(quarters[None, :, :, None], 3, axis=3)
    for least in (1.0, 0.99):
        after = augmented(rng(1), images, 32, least, 0.0)
        middles = after[0, :, 8::16, 8::16] * 255
        assert after.shape == (1, 3, 32, 32)
        expected = torch.from_numpy(mirrored(rng(1), images).copy())[0, 4::8, 4::8].permute(2, 0, 1).float()
        torch.testing.assert_close(middles, expected, atol=1, rtol=0)
