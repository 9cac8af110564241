"""The stuff textures: names, repeatability, and that a 16-pixel patch tells which texture it comes from."""

import numpy as np
import pytest
from PIL import Image

from pacl.sources.miniworld import brushes, textures


def _statistics(picture, patch=16):
    """Colour and edge statistics of every patch of a picture [H, W, 3]: [patches, statistics]."""
    picture = picture.astype(np.float32)
    grey = picture.mean(axis=2)
    down, across = np.gradient(grey)
    maps = np.dstack([picture, picture**2 / 256, np.abs(down), np.abs(across), np.hypot(down, across) > 20])
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    blocks = maps[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, -1)
    return blocks.mean(axis=(1, 3)).reshape(rows * columns, -1)


def _patches(seed, pictures):
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([_statistics(textures.texture(name, rng)) for _ in range(pictures)]) for name in textures.NAMES
    ]


def test_groups_cover_the_names_once_and_every_texture_has_a_side():
    assert len(textures.NAMES) == len(set(textures.NAMES)) == 24
    assert len(textures.GROUPS) == 8
    assert tuple(name for names in textures.GROUPS.values() for name in names) == textures.NAMES
    assert set(textures.SIDE) == set(textures.NAMES)
    assert [textures.SIDE[name] for name in ("sunset", "planks", "road", "ice", "carpet", "hay", "plaid", "lava")] == (
        ["top", "any", "bottom", "bottom", "bottom", "any", "any", "bottom"]
    )


@pytest.mark.parametrize("name", textures.NAMES)
def test_texture_has_the_size_asked_for_and_is_not_flat(name):
    for size in (64, 128):
        picture = textures.texture(name, np.random.default_rng(0), size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert picture.std(axis=(0, 1)).mean() > 3


@pytest.mark.parametrize("name", textures.NAMES)
def test_same_seed_same_texture_and_another_seed_another_texture(name):
    first, again, other = (textures.texture(name, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_paintings_do_not_depend_on_what_was_painted_before():
    before = textures.painting("sea", 3)
    textures.painting.cache_clear()
    textures.painting("grass", 0)
    assert before.tobytes() == textures.painting("sea", 3).tobytes()


def test_returned_texture_may_be_painted_over():
    picture = textures.texture("sand", np.random.default_rng(0))
    picture[:] = 0
    assert textures.texture("sand", np.random.default_rng(0)).any()


def test_skies_keep_their_top():
    night = [textures.texture("night sky", np.random.default_rng(seed)).mean(axis=(1, 2)) for seed in range(8)]
    assert all(rows[:32].mean() < rows[-32:].mean() for rows in night)


@pytest.mark.parametrize("name", textures.GROUPS["sky"])
def test_the_first_rows_of_a_sky_are_a_paintings_first(name):
    """Somewhere along a painting's top, or its mirror image's, and in another light: a factor a channel."""
    tops = [np.asarray(textures.painting(name, variant))[:8] for variant in range(textures.VARIANTS)]
    tops = [top.astype(float) for painted in tops for top in (painted, painted[:, ::-1])]
    places = [top[:, left : left + 160] for top in tops for left in range(top.shape[1] - 160 + 1)]
    for seed in range(4):
        rows = textures.texture(name, np.random.default_rng(seed), 160)[:8] + 0.5  # of whole numbers, cut off
        below = rows < 255  # white is where the light of a pixel ends
        light = [(rows * place * below).sum((0, 1)) / (place**2 * below).sum((0, 1)) for place in places]
        off = [np.abs(rows - one * place)[below].max() for one, place in zip(light, places, strict=True)]
        assert min(off) < 4, "grey levels; a place further down is off by tens"


def test_nearest_centroid_of_simple_statistics_names_the_texture_of_a_patch():
    train, test = _patches(seed=0, pictures=24), _patches(seed=1, pictures=8)
    # Distances in units of the spread within a texture, so that no statistic drowns the others.
    within = np.mean([np.cov(patches.T) for patches in train], axis=0)
    whiten = np.linalg.cholesky(np.linalg.inv(within + 1e-3 * np.eye(len(within))))
    centroids = np.stack([patches.mean(axis=0) for patches in train]) @ whiten
    correct = []
    for label, patches in enumerate(test):
        distances = np.linalg.norm((patches @ whiten)[:, None] - centroids, axis=2)
        correct.append((distances.argmin(axis=1) == label).mean())
    assert np.mean(correct) > 0.8, dict(zip(textures.NAMES, np.round(correct, 2), strict=True))


def test_a_texture_may_be_as_large_as_its_painting_and_light_has_an_end():
    whole = textures.texture("snow", np.random.default_rng(0), size=brushes.TILE)
    assert whole.shape == (brushes.TILE, brushes.TILE, 3)
    snow = np.stack([textures.texture("snow", np.random.default_rng(seed)) for seed in range(12)])
    assert snow.max() == 255 and snow.min() > 120, "too bright is white, not black"


def test_half_of_the_textures_are_mirrored(monkeypatch):
    """A painting that grows brighter to the right, on every place of it."""
    ramp = np.broadcast_to(np.linspace(40, 200, brushes.TILE)[None, :, None], (brushes.TILE, brushes.TILE, 3))
    monkeypatch.setattr(textures, "painting", lambda name, variant: Image.fromarray(ramp.astype(np.uint8)))
    made = [textures.texture("sea", np.random.default_rng(seed), 64).astype(int) for seed in range(60)]
    share = np.mean([picture[:, -1].mean() < picture[:, 0].mean() for picture in made])
    assert 0.3 < share < 0.7


def test_ramps_run_from_the_first_colour_to_the_last():
    made = brushes.ramp(["#000000", "#640000", "#ffffff"], np.array([[0.0, 0.25, 0.5, 1.0, 2.0]]))
    assert made[0, :, 0].tolist() == [0, 50, 100, 255, 255] and made[0, :, 1].tolist() == [0, 0, 0, 255, 255]


def test_noise_has_unit_variance_and_features_of_the_size_asked_for():
    made = np.stack([brushes.noise(np.random.default_rng(seed), 12) for seed in range(20)])
    assert made.std() == pytest.approx(1, abs=0.15) and abs(made.mean()) < 0.1
    fine = brushes.noise(np.random.default_rng(0), 60)
    assert np.abs(np.diff(fine)).mean() > 2 * np.abs(np.diff(made[0])).mean()


def test_cells_have_one_tone_each_and_their_border_is_where_two_meet():
    border, tone = brushes.cells(np.random.default_rng(0), 30, 30)
    assert border.min() >= 0 and tone.min() >= -1 and tone.max() <= 1
    meet = tone[:, 1:] != tone[:, :-1]
    assert 0.02 < meet.mean() < 0.2, "a tone is that of its whole cell"
    assert border[:, 1:][meet].max() < 0.1 < border[:, 1:][~meet].mean()


def test_a_white_sheet_dries_white_and_a_fine_one_is_halved():
    white = brushes.dry(np.full((brushes.TILE, brushes.TILE, 3), 254.0), np.random.default_rng(0))
    assert white.size == (brushes.TILE, brushes.TILE) and np.asarray(white).min() > 200
    sheet, pen = brushes.blank_sheet("#808080")
    assert sheet.size == (2 * brushes.TILE,) * 2
    assert brushes.dry(sheet, np.random.default_rng(0)).size == white.size


def test_unknown_names_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="unknown texture 'marble': choose one of blue sky"):
        textures.texture("marble", np.random.default_rng(0))
    with pytest.raises(ValueError, match="choose 1 to 192 pixels"):
        textures.texture("sea", np.random.default_rng(0), size=193)
