"""Pictures and masks of cameras and strangers: any mode, upright, corrupt."""

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pacl.data.images import Images, Masks, as_rgb, open_image, pictures_in

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (5, 7), dtype=np.uint8)


def test_a_part_of_the_images_is_counted_from_its_own_start():
    rows = np.arange(10, dtype=np.uint8).reshape(10, 1, 1).repeat(3, axis=2)
    last = Masks(rows).take(range(4, 99))
    assert [mask[0, 0] for mask in (last[0], last[5])] == [4, 9] and len(last) == 6
    assert [last.take(range(2, 4))[i][0, 0] for i in range(2)] == [6, 7]
    pictures = Images(rows.reshape(10, 1, 1, 3)).take(range(4, 99))
    assert [pictures[i].getpixel((0, 0))[0] for i in (0, 5)] == [4, 9] and len(pictures) == 6


def test_pictures_behind_links_count_but_links_in_circles_end(tmp_path):
    for name in ("disk/c.png", "photos/a/1.png", "photos/a.png", "photos/.b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(tmp_path / name)
    for link, target in (("photos/b", "disk"), ("disk/up", "photos"), ("photos/a/here", "photos/a")):
        (tmp_path / link).symlink_to(tmp_path / target)
    found, left_out = pictures_in(tmp_path / "photos")
    assert [path.relative_to(tmp_path / "photos").as_posix() for path in found] == ["a/1.png", "a.png", "b/c.png"]
    assert found == sorted(found) and not left_out
    found, left_out = pictures_in(tmp_path / "photos", recursive=False)
    assert [path.name for path in found] == ["a.png"] and "2 x pictures in folders below" in left_out


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "the camera was turned: rotate 90 degrees clockwise to view"
    Image.fromarray(PICTURE).save(tmp_path / "turned.png", exif=exif)
    image = open_image(tmp_path / "turned.png")
    assert image.size == (5, 7) and np.array_equal(image, np.rot90(PICTURE, -1))


@pytest.mark.parametrize("mask", [False, True])
def test_a_photo_of_too_many_pixels_is_named_with_the_limit(tmp_path, monkeypatch, mask):
    """Pillow refuses more than twice its limit, 179 million pixels, as a bomb; here 60."""
    Image.fromarray(LABELS).resize((10, 6)).save(tmp_path / "60.png")
    Image.fromarray(LABELS).resize((61, 1)).save(tmp_path / "61.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.warns(Image.DecompressionBombWarning):
        open_image(tmp_path / "60.png", mask=mask)
    with pytest.raises(ValueError, match="61.png has more than 6e-05 million pixels, the most that are read: scale it"):
        open_image(tmp_path / "61.png", mask=mask)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_images_of_any_mode_are_rgb(mode, tmp_path):
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, 4:] = 255
    path = tmp_path / f"image.{'jpg' if mode in ('L', 'CMYK') else 'png'}"
    Image.fromarray(half).convert(mode).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    image = open_image(path)
    assert image.mode == "RGB" and np.abs(np.asarray(image, int) - half).max() <= 3


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_grey_of_16_bits_keeps_its_shades(ending, tmp_path):
    grey = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / f"deep.{ending}")
    image = open_image(tmp_path / f"deep.{ending}")
    expected = np.rint(grey / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert image.mode == "RGB" and np.array_equal(image, expected)
    assert np.array_equal(Images([Image.fromarray(grey)])[0], expected)
    assert np.array_equal(as_rgb(Image.frombytes("I;16B", (8, 8), grey.astype(">u2").tobytes())), expected)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pictures_in_numbers_without_a_range_are_named(kind, tmp_path):
    image = Image.fromarray(np.full((8, 8), 300, kind))
    image.save(tmp_path / "depth.tiff")
    sentence = rf"holds numbers of unknown range \(mode {image.mode}\): save it as 8- or 16-bit greyscale or as RGB.$"
    with pytest.raises(ValueError, match="depth.tiff " + sentence):
        open_image(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match="^Picture 0 " + sentence):
        Images([image])[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_in_colours_is_named(mode, tmp_path):
    Image.fromarray(PICTURE).convert(mode).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=rf"mask.png holds colours \({mode}\), not one label per pixel: save .*grey"):
        Masks([tmp_path / "mask.png"])[0]


def test_a_palette_mask_gives_its_indices(tmp_path):
    image = Image.fromarray(LABELS).convert("P")
    image.putdata(LABELS.ravel().tolist())
    image.putpalette([200, 10, 10, 0, 0, 0, 10, 200, 10, 7, 7, 7])
    image.save(tmp_path / "mask.png")
    assert np.array_equal(Masks([tmp_path / "mask.png"])[0], LABELS)
    assert np.asarray(open_image(tmp_path / "mask.png")).max() == 200  # as a picture it has the palette's colours


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_mask_of_few_bits_gives_its_values_and_not_shades(tmp_path, bits):
    """PNG's own bytes, since Pillow writes no grey of two or four bits."""
    top = 2**bits - 1
    row = [0, 1, top, 0, top, 1, 1, top]
    packed = int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(bits, "big")

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    header = (8).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" + packed)), chunk(b"IEND", b""))
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert Masks([tmp_path / "mask.png"])[0].tolist() == [row]
    assert np.asarray(open_image(tmp_path / "mask.png")).max() == 255  # as a picture it has shades


def test_missing_corrupt_and_foreign_files_are_named(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "whole.png")
    Image.fromarray(PICTURE).resize((200, 200)).save(tmp_path / "whole.jpg")
    contents = {f"corrupt.{kind}": (tmp_path / f"whole.{kind}").read_bytes()[:-100] for kind in ("png", "jpg")}
    for name, content in (contents | {"text.png": b"not an image", "empty.png": b""}).items():
        (tmp_path / name).write_bytes(content)
        for images in (Images([str(tmp_path / name)]), Masks([str(tmp_path / name)])):
            with pytest.raises(ValueError, match=rf"{name} can't be read as an image \(.*\): replace or remove it\.$"):
                images[0]
    with pytest.raises(FileNotFoundError, match="gone.png is missing: check the path, or run the stage that writes it"):
        Images([tmp_path / "gone.png"])[0]


def hidden_colours(mode):
    """A picture whose left half is grey and whose right half is transparent, over red."""
    image = Image.new("RGBA", (8, 4), (100, 100, 100, 255))
    image.paste((255, 0, 0, 0), (4, 0, 8, 4))
    if mode == "P":
        image = Image.new("P", (8, 4), 0)
        image.putpalette([100, 100, 100, 255, 0, 0])
        image.paste(1, (4, 0, 8, 4))
        image.info["transparency"] = 1
    return image if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_colours_that_nobody_sees_are_white(mode, tmp_path):
    image = hidden_colours(mode)
    image.save(tmp_path / "a.png")
    for found in (open_image(tmp_path / "a.png"), Images([image])[0], as_rgb(image)):
        pixels = np.asarray(found)
        assert found.mode == "RGB" and (pixels[:, :4] == 100).all() and (pixels[:, 4:] == 255).all()
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 51))  # a fifth of red on white
    assert as_rgb(half).getpixel((0, 0)) == (255, 204, 204)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_clips_preprocessing_composes_before_it_resizes(mode, tiny_clip):
    """Resized first, the hidden red would run into the grey pixels next to it."""
    image = hidden_colours(mode)
    assert torch.equal(tiny_clip.preprocess(image), tiny_clip.preprocess(as_rgb(image)))
