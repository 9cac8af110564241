"""The stuff textures: repeatable, and a 16-pixel patch tells which texture it comes from."""

import numpy as np
import pytest

from pacl.sources.miniworld import textures


def statistics(name, rng, patch=16):
    """Colour and edge statistics of every patch of a texture: [patches, statistics]."""
    picture = textures.texture(name, rng).astype(np.float32)
    down, across = np.gradient(picture.mean(axis=2))
    maps = np.dstack([picture, picture**2 / 256, np.abs(down), np.abs(across), np.hypot(down, across) > 20])
    blocks = maps.reshape(128 // patch, patch, 128 // patch, patch, -1)
    return blocks.mean(axis=(1, 3)).reshape((128 // patch) ** 2, -1)


def patches(seed, pictures):
    rng = np.random.default_rng(seed)
    return [np.concatenate([statistics(name, rng) for _ in range(pictures)]) for name in textures.NAMES]


def test_nearest_centroid_of_simple_statistics_names_the_texture_of_a_patch():
    train, test = patches(seed=0, pictures=12), patches(seed=1, pictures=4)
    # Distances in units of the spread within a texture, so that no statistic drowns the others.
    within = np.mean([np.cov(patch.T) for patch in train], axis=0)
    whiten = np.linalg.cholesky(np.linalg.inv(within + 1e-3 * np.eye(len(within))))
    centroids = np.stack([patch.mean(axis=0) for patch in train]) @ whiten
    correct = []
    for label, of_texture in enumerate(test):
        distances = np.linalg.norm((of_texture @ whiten)[:, None] - centroids, axis=2)
        correct.append((distances.argmin(axis=1) == label).mean())
    assert np.mean(correct) > 0.8, dict(zip(textures.NAMES, np.round(correct, 2), strict=True))


def test_paintings_are_repeatable_and_a_texture_is_a_copy():
    before, piece = textures.painting("sea", 3), textures.texture("sea", np.random.default_rng(0))
    expected = piece.copy()
    piece[:] = 0
    textures.painting.cache_clear()
    textures.painting("grass", 0)
    assert before.tobytes() == textures.painting("sea", 3).tobytes()
    assert np.array_equal(textures.texture("sea", np.random.default_rng(0)), expected)
    assert not np.array_equal(textures.texture("sea", np.random.default_rng(1)), expected)


def test_ramps_run_from_the_first_colour_to_the_last():
    made = textures.ramp(["#000000", "#640000", "#ffffff"], np.array([[0.0, 0.25, 0.5, 1.0, 2.0]]))
    assert made[0, :, 0].tolist() == [0, 50, 100, 255, 255] and made[0, :, 1].tolist() == [0, 0, 0, 255, 255]


def test_unknown_names_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="unknown texture 'marble': choose one of blue sky"):
        textures.texture("marble", np.random.default_rng(0))
    with pytest.raises(ValueError, match="choose 1 to 192 pixels"):
        textures.texture("sea", np.random.default_rng(0), size=193)
