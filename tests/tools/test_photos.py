"""Any folder of photos: every kind of file is read, masks have the photos' size and labels, mistakes are named."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.colour_photos import ColourCLIP, two_colours
from helpers.imports import ROOT
from matplotlib import pyplot as plt
from PIL import Image

from pacl.checkpoints import save_embedder
from pacl.model import VisionEmbedder
from pacl.segment import Method
from pacl.tools import overlay
from pacl.tools import photos as photos_module
from pacl.tools.photos import (
    caller_path,
    check_prompts,
    embedding,
    find_photos,
    output_beside,
    segment_photos,
    split_prompts,
)


def run(folder, prompts=("red", "green", "blue"), clip=None, output=None, photos=None, **settings):
    settings = {"templates": ["a {}"], "model": "a stand-in"} | settings
    photos, output = photos or find_photos(folder)[0], output or folder.parent / "out"
    return segment_photos(clip or ColourCLIP(), Method(lambda x: x, "clip"), photos, list(prompts), output, **settings)


def mask_of(folder, photo="a.png"):
    return np.asarray(Image.open(folder.parent / f"out/masks/{photo}.png"))


def read_areas(folder):
    return pd.read_csv(folder.parent / "out/areas.csv").set_index(["image", "prompt"])


def shares(mask, prompts):
    return {prompt: (mask == k).mean() for k, prompt in enumerate(prompts, 1)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my photos").mkdir()
    return tmp_path / "my photos"


@pytest.fixture
def one_photo(folder):
    """A folder with a photo that is red on the left and blue on the right."""
    two_colours().save(folder / "a.png")
    return folder


def test_masks_have_the_photos_size_and_the_prompts_numbers(one_photo, tmp_path):
    areas, skipped, small = run(one_photo)
    mask = Image.open(tmp_path / "out/masks/a.png.png")
    labels = np.asarray(mask)
    assert mask.mode == "P" and mask.size == (64, 32)
    assert (labels[:, :28] == 1).all() and (labels[:, 36:] == 3).all()  # but where patches are mixed in between
    palette = np.array(mask.getpalette()).reshape(-1, 3)
    assert (palette[:4] == overlay.colours_of(3)).all() and len({tuple(c) for c in palette[:4]}) == 4
    assert not skipped and list(small) == ["a.png"]
    table = read_areas(one_photo).loc["a.png"]
    assert table.share.to_dict() == pytest.approx(shares(labels, ["red", "green", "blue"]), abs=1e-6)
    assert set(table.model) == {"a stand-in"} and sum(row["share"] for row in areas) == pytest.approx(1)


def test_photos_of_any_kind_and_name_have_masks_of_their_own(folder, tmp_path):
    picture, other = two_colours(), two_colours("blue", "red")
    picture.save(folder / "plain.jpg", quality=95)
    other.save(folder / "plain.webp", lossless=True)  # a suffix tells it from plain.jpg
    picture.convert("RGBA").save(folder / "palette.PNG")
    other.save(folder / "größe 写真.JPG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # the tag that turns it upright
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=95)
    (folder / "notes.txt").write_text("no photo")
    (folder / "._plain.jpg").write_text("what macOS leaves")
    _, skipped, small = run(folder)
    assert not skipped and len(small) == 5
    for name in small:
        mask = mask_of(folder, name)
        left, right = (3, 1) if name in ("größe 写真.JPG", "plain.webp") else (1, 3)
        assert mask.shape == (32, 64) and (mask[:, :24] == left).all() and (mask[:, 40:] == right).all(), name
        assert (tmp_path / "out/overlays" / f"{name}.png").is_file()


def test_large_photos_are_shrunk_and_small_ones_are_not_enlarged(folder, tmp_path):
    two_colours(size=(456, 464)).save(folder / "a.png")
    clip = ColourCLIP()
    run(folder, clip=clip)
    assert min(clip.seen[0]) == 448  # if nothing else is said
    (folder / "a.png").unlink()
    two_colours(size=(1200, 800)).save(folder / "large.png")
    two_colours(size=(20, 12)).save(folder / "small.png")
    two_colours(size=(5, 3)).save(folder / "tiny.png")
    clip = ColourCLIP()
    run(folder, clip=clip, short_side=64, token_stride=4)
    assert clip.seen == ((64, 96), (12, 20), (8, 8))
    sizes = [Image.open(tmp_path / f"out/masks/{name}.png.png").size for name in ("large", "small", "tiny")]
    assert sizes == [(1200, 800), (20, 12), (5, 3)]


def test_a_network_of_timms_sees_whole_photos_and_takes_strides_by_shifted_passes(folder):
    class OfTimm(ColourCLIP):
        is_timm = True

    two_colours(size=(100, 40)).save(folder / "a.png")
    clip = OfTimm()
    run(folder, clip=clip)
    assert set(clip.seen) == {(40, 100)}
    protocol = photos_module.photo_protocol(clip, 4, None)
    assert (protocol.window, protocol.token_stride, protocol.passes) == (None, 4, "shifted")
    assert photos_module.photo_protocol(ColourCLIP(), 4, None).passes == "joint"


def test_corrupt_photos_are_skipped_and_named(folder, tmp_path):
    for name in ("good.png", "corrupt.png"):
        two_colours().save(folder / name)
    (folder / "corrupt.png").write_bytes((folder / "corrupt.png").read_bytes()[:50])
    _, skipped, small = run(folder)
    assert list(small) == ["good.png"] and list(skipped) == ["corrupt.png"]
    assert "corrupt.png can't be read as an image" in skipped["corrupt.png"]
    (folder / "good.png").unlink()
    with pytest.raises(ValueError, match=r"None of the 1 photos can be read: .*corrupt\.png can.t be read as an image"):
        run(folder, output=tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"my photos", "out"}


@pytest.mark.parametrize("background, covered", [(None, 0.0), (0.334, 0.5), (0.4, 0.5), (1, 0.5)])
def test_the_background_is_what_no_prompt_is_as_probable_as_asked_for(folder, background, covered):
    """Half the photo is as near to each of three prompts; of the other half, red has nearly all."""
    image = two_colours()
    image.paste((255, 255, 255), (32, 0, 64, 32))
    image.save(folder / "a.png")
    run(folder, background=background)
    mask = mask_of(folder)
    assert (mask == 0).mean() == pytest.approx(covered, abs=0.1) and (mask[:, :24] == 1).all()
    table = read_areas(folder).share["a.png"]
    assert table.get("background") == (background and pytest.approx((mask == 0).mean(), abs=1e-6))


def test_texts_are_of_the_templates_given(one_photo):
    clip, asked = ColourCLIP(), []
    features = clip.text_features
    clip.text_features = lambda prompts: asked.extend(prompts) or features(prompts)
    run(one_photo, ["red"], clip=clip, templates=["a {}", "my {}."])
    assert asked == ["a red", "my red."]


def test_how_probable_a_prompt_is_follows_from_the_clips_own_scale(one_photo):
    clip = ColourCLIP()
    clip.logit_scale = 1.0  # red has e / (e + 2) = 0.58 of a red patch
    for background, label in ((0.55, 1), (0.6, 0)):
        run(one_photo, clip=clip, background=background)
        assert (mask_of(one_photo)[:, :24] == label).all()


def test_an_empty_folder_or_an_earlier_output_is_replaced_and_nothing_else(one_photo, tmp_path):
    (tmp_path / "out").mkdir()
    run(one_photo)
    (one_photo / "a.png").rename(one_photo / "b.png")
    run(one_photo)
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["b.png.png"]
    (tmp_path / "out/diary.txt").write_text("keep me")
    for holds_other_files in (tmp_path / "out", one_photo):
        with pytest.raises(ValueError, match="holds other files: set output=... to a new or empty folder"):
            run(one_photo, output=holds_other_files)
    assert (tmp_path / "out/diary.txt").read_text() == "keep me" and (one_photo / "b.png").is_file()


def replaced(folder, make):
    shutil.rmtree(folder)
    make(folder)


LOOKALIKES = {
    "masks alone": lambda out: (out / "areas.csv").unlink(),
    "a mask of a photo never segmented": lambda out: (out / "masks/b.png.png").write_bytes(b"ground truth"),
    "a mask missing": lambda out: (out / "masks/a.png.png").unlink(),
    "an overlay renamed": lambda out: (out / "overlays/a.png.png").rename(out / "overlays/c.png"),
    "another table": lambda out: (out / "areas.csv").write_text("image,area\na.png,7\n"),
    "a table of one long word": lambda out: (out / "areas.csv").write_text("image\n" + 200_000 * "a"),
    "a table that is not text": lambda out: (out / "areas.csv").write_bytes(b"\xff\x00"),
    "a file for a folder": lambda out: replaced(out / "overlays", lambda folder: folder.write_text("a note")),
    "a link to nowhere": lambda out: replaced(out, lambda folder: folder.symlink_to("nowhere")),
}


@pytest.mark.parametrize("change", LOOKALIKES.values(), ids=LOOKALIKES)
def test_a_folder_that_only_looks_like_an_earlier_output_is_kept(change, one_photo, tmp_path):
    run(one_photo)
    change(tmp_path / "out")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match="out holds other files: set output=... to a new or empty folder"):
        run(one_photo)
    assert before == {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}


def test_a_disk_that_fails_is_not_taken_for_a_name_that_is_too_long(one_photo, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(photos_module, "os", SimpleNamespace(lstat=fail, path=os.path, getpid=os.getpid))
    with pytest.raises(OSError, match="Input/output error"):
        run(one_photo)


REFUSED = [
    *(({"short_side": side}, "short_side is .*: give a whole number of pixels, at least 1.$")
      for side in (0, -8, 4.5, "448", None, True)),
    *(({"background": x}, "background is .*: give a probability between 0 and 1, or None.$")
      for x in (-0.1, 1.5, "0.2", True, np.nan)),
    *(({"background": x}, f"background is {x}, but the best of 3 phrases .* use .* at least 0.334; or set it to None.$")
      for x in (0, 0.2, 0.333)),
    ({"background": 0.9, "prompts": ["red"]}, "background is 0.9, but a single text .* name other things, too"),
    *(({"background": 0.5, "prompts": ["red", word]}, "With background=..., pixels of no prompt are called background:")
      for word in ("background", "Background")),
    *(({"prompts": prompts}, "CLIP reads the same in the prompts '.*' and '.*', so the second gets no")
      for prompts in (["Red", "red"], ["blue", "red, RED, Blue"], [40 * "x" + "red", 40 * "x" + "blue"])),
    ({"token_stride": 3}, "stride 3"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_unsuitable_settings_are_refused_before_any_work(settings, sentence, one_photo, tmp_path, monkeypatch):
    monkeypatch.setattr(photos_module, "class_texts", None)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        run(one_photo, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["my photos"]


def test_a_name_that_cannot_be_written_or_a_dangling_link_is_skipped(one_photo, tmp_path):
    odd, long = os.fsdecode(b"caf\xe9.png"), "x" * 250 + ".png"
    for name in (odd, long):
        shutil.copy(one_photo / "a.png", one_photo / name)
    (one_photo / "link.png").symlink_to(one_photo / "gone.png")
    _, skipped, small = run(one_photo)
    assert list(small) == ["a.png"] and (tmp_path / "out/masks/a.png.png").is_file()
    assert sorted(skipped) == ["caf\\udce9.png", "link.png", long]
    assert skipped["caf\\udce9.png"] == "caf\\udce9.png has a name that is not UTF-8: rename it."
    assert "a name too long" in skipped[long] and "link.png is missing" in skipped["link.png"]
    assert set(read_areas(one_photo).index.get_level_values("image")) == {"a.png"}


def stop_at(monkeypatch, number, error):
    """Lets the labelling of that photo raise; returns the list of what has been labelled."""
    token_cosines, done = photos_module.token_cosines, []

    def cosines(*arguments):
        done.append(1)
        if len(done) == number:
            raise error
        return token_cosines(*arguments)

    monkeypatch.setattr(photos_module, "token_cosines", cosines)
    return done


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")], ids=["Ctrl-C", "out of memory"])
def test_an_interrupted_run_goes_on_where_it_was_and_ends_as_an_unbroken_one(one_photo, tmp_path, monkeypatch, error):
    for name in "bcd":
        two_colours("blue", "green").save(one_photo / f"{name}.png")
    run(one_photo, similarities=True, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 3, error)
        said = "out of memory" if error.args else "2 photos are done, in .*out.unfinished: run again"
        with pytest.raises(type(error), match=said):
            run(one_photo, similarities=True)
    assert {path.name for path in tmp_path.iterdir()} == {"my photos", "whole", "out.unfinished"}
    with (tmp_path / "out.unfinished/progress.jsonl").open("a") as file:
        file.write('["c.png", [[12')  # cut in the middle of a line
    done = stop_at(monkeypatch, 99, error)
    areas, _, small = run(one_photo, similarities=True)
    assert len(done) == 2 and list(small) == ["a.png", "b.png", "c.png", "d.png"] and len(areas) == 12
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"my photos", "whole", "out"}


def test_only_equal_settings_and_unchanged_photos_go_on(one_photo, tmp_path, monkeypatch):
    for name in "bc":
        two_colours().save(one_photo / f"{name}.png")
    with monkeypatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(one_photo)
    shutil.copytree(tmp_path / "out.unfinished", tmp_path / "kept")
    done = stop_at(monkeypatch, 99, None)
    run(one_photo, ["red", "blue"])
    assert len(done) == 3 and set(np.unique(mask_of(one_photo, "b.png"))) == {1, 2}
    (tmp_path / "kept").rename(tmp_path / "out.unfinished")
    two_colours("green", "green").save(one_photo / "b.png")
    (one_photo / "a.png").unlink()
    run(one_photo)
    assert len(done) == 5 and (mask_of(one_photo, "b.png") == 2).all()
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["b.png.png", "c.png.png"]
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished/diary.txt").write_text("keep me")
    with pytest.raises(ValueError, match="out.unfinished holds other files: remove it, or set output=..."):
        run(one_photo)


def test_a_failure_at_the_first_photo_leaves_nothing(one_photo, tmp_path, monkeypatch):
    stop_at(monkeypatch, 1, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError):
        run(one_photo)
    assert [path.name for path in tmp_path.iterdir()] == ["my photos"]


def test_overlays_may_be_left_out_and_similarities_written(one_photo, tmp_path):
    prompts = ["green", "magenta, red", "blue"]
    run(one_photo, prompts, overlays=False, similarities=True)
    files = {str(path) for path in content_of(tmp_path / "out")}
    assert files == {"areas.csv", "masks/a.png.png", "similarities/a.png.npy"}
    found = np.load(tmp_path / "out/similarities/a.png.npy")
    assert found.dtype == np.float16 and found.shape == (3, 32, 64)
    assert np.array_equal(found.argmax(0)[:, :24] + 1, mask_of(one_photo)[:, :24])
    np.testing.assert_allclose(found[:, 0, 0], [0, 1, 0], atol=1e-3)  # the better of two words
    np.testing.assert_allclose(found[:, 0, -1], [0, 1 / 3**0.5, 1], atol=1e-3)  # magenta is grey to it
    run(one_photo, prompts)  # an earlier output without overlays is one, too
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"areas.csv", "masks", "overlays"}


def test_photos_in_folders_below_keep_their_places(folder, tmp_path):
    for name in ("a.png", "2024/a.png", "2024/may/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        two_colours().save(folder / name)
    photos = find_photos(folder, recursive=True)[0]
    for _ in range(2):  # the second replaces the first, which is an earlier output
        areas, *_ = run(folder, photos=photos)
    assert {row["image"] for row in areas} == {"a.png", "2024/a.png", "2024/may/b.png"}
    assert (tmp_path / "out/masks/2024/may/b.png.png").is_file() and (tmp_path / "out/overlays/a.png.png").is_file()


@pytest.mark.parametrize("size, seen", [((400, 40), {(32, 32)}), ((160, 40), {(32, 128)}), ((10, 300), {(10, 10)})])
def test_very_long_photos_are_seen_in_windows(folder, size, seen):
    """Of more than four times their short side, which is shrunk to 32 pixels at most."""
    picture = two_colours(size=(max(size), min(size)))
    (picture if picture.size == size else picture.transpose(Image.Transpose.ROTATE_90)).save(folder / "a.png")
    clip = ColourCLIP()
    run(folder, clip=clip, short_side=32)
    mask = mask_of(folder)
    assert set(clip.seen) == seen and mask.shape == size[::-1]
    along = mask if picture.size == size else np.rot90(mask, -1)
    assert (along[:, : max(size) // 3] == 1).all() and (along[:, -(max(size) // 3) :] == 3).all()


def test_few_small_overlays_are_kept_in_memory(folder):
    for i in range(15):
        two_colours(size=(16, 8)).save(folder / f"{i:02d}.png")
    areas, _, small = run(folder)
    assert list(small) == [f"{i:02d}.png" for i in range(12)] and len({row["image"] for row in areas}) == 15


def test_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    for name in ("best.json", "best.safetensors", "shared/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert caller_path(2024, tmp_path) == tmp_path / "2024" and caller_path("/a/b", tmp_path) == Path("/a/b")
    for name in ("best", "best.safetensors", "shared"):
        assert caller_path(name, tmp_path, project=True) == tmp_path / name
    assert caller_path("data/miniclip", tmp_path, project=True) == Path("data/miniclip")
    assert caller_path("~/a", tmp_path) == Path.home() / "a"


def test_prompts_are_compared_as_clip_itself_reads_them(tiny_clip):
    """Some 80 words, which are more than its context holds; the last word makes no difference then."""
    long = 80 * "word "
    assert check_prompts(tiny_clip, ["cat", "a dog, puppy"], ["a photo of {}."]) == ""
    assert check_prompts(tiny_clip, ["cat", long], ["{}"]) == f"CLIP reads only the beginning of '{11 * 'word '}...'."
    for pair in ([f"{long} cat", f"{long} dog"], ["Cat", "cat"]):
        with pytest.raises(ValueError, match="CLIP reads the same in the prompts"):
            check_prompts(tiny_clip, pair, ["a photo of {}."])


def test_prompts():
    assert split_prompts("cat, sofa ,, a red wall,cat") == ["cat", "sofa", "a red wall"]
    assert split_prompts(["cat", 7]) == ["cat", "7"]
    assert split_prompts(("cat, dog", " sofa ")) == ["cat, dog", "sofa"]
    assert split_prompts(" [cat, sofa] ") == ["cat", "sofa"]  # as the command line gives a list
    assert split_prompts("[cat") == ["[cat"]
    assert split_prompts('["tree", "house, sky", "sea"]') == ["tree", "house, sky", "sea"]
    assert split_prompts("[yes, 7, null]") == ["yes", "7", "null"]  # texts, whatever YAML makes of them
    assert split_prompts("tree; house,sky ;; sea") == ["tree", "house, sky", "sea"]
    assert split_prompts("house, sky;") == ["house, sky"]  # one prompt of two words
    for nothing in (None, "", " , ", []):
        with pytest.raises(ValueError, match="There is no prompt"):
            split_prompts(nothing)
    assert len(split_prompts([f"p{i}" for i in range(255)])) == 255
    with pytest.raises(ValueError, match="256 prompts, but a mask can hold 255"):
        split_prompts([f"p{i}" for i in range(256)])


def test_prompts_in_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("tree\nhouse, sky\n\nsea\n", encoding="utf-8")
    assert split_prompts(str(tmp_path / "words.txt")) == ["tree", "house, sky", "sea"]
    with pytest.raises(FileNotFoundError, match="none.txt does not exist: let prompts=... name a text file"):
        split_prompts(str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("prompts", "left", "right"),
    [
        (split_prompts("green; magenta, red; blue"), 2, 3),  # a prompt of two phrases, and the one after it
        ([*(f"p{i}" for i in range(254)), "red"], 255, None),  # the last that fits
        (["red", "background", "blue"], 1, 3),  # without a rule it is a word like others
    ],
)
def test_each_of_few_or_many_prompts_gets_its_own_pixels(one_photo, prompts, left, right):
    run(one_photo, prompts)
    mask = mask_of(one_photo)
    assert mask[0, 0] == left and right in (None, mask[0, -1])
    assert list(read_areas(one_photo).loc["a.png"].index) == prompts


def test_folders(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_photos(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no photo"):
        find_photos(folder)
    two_colours().save(folder / "a.png")
    assert find_photos(folder / "a.png") == find_photos(folder) == ([folder / "a.png"], "")
    assert output_beside(folder).name == "my photos_segmented" and output_beside(folder / "a.png").name == "a_segmented"
    names = [f"{number:02d}.png" for number in range(30)]
    for name in reversed(names):
        (folder / name).touch()
    monkeypatch.chdir(folder)  # which may be the current one
    assert [path.name for path in find_photos(".")[0]] == [*names, "a.png"]
    assert output_beside(".") == folder.with_name("my photos_segmented")
    folder.with_name("summer 3.5").mkdir()
    assert output_beside("../summer 3.5").name == "summer 3.5_segmented"


def test_what_is_left_out_is_told_and_folders_below_are_taken_if_asked_for(folder):
    taken = [f"{i}{ending}" for i, ending in enumerate([".bmp", ".TIF", ".gif", ".jfif", ".webp", ".jp2"])]
    for name in (*taken, "more/deep/a.png", ".ipynb_checkpoints/b.png", "._c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        two_colours().save(folder / name, format="PNG")
    for name in ("a.heic", "b.HEIC", "notes", "clip.mpg", "more/d.txt", "out/masks/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    photos, left_out = find_photos(folder)
    assert [path.name for path in photos] == taken
    assert left_out == (
        f"Left out of {folder}: 2 x .heic, 1 x .mpg, 1 x without an ending, 2 x pictures in folders below."
    )
    photos, left_out = find_photos(folder, recursive=True, without=folder / "out")
    assert [str(path.relative_to(folder)) for path in photos] == [*taken, "more/deep/a.png"]
    assert left_out == f"Left out of {folder}: 2 x .heic, 1 x .mpg, 1 x .txt, 1 x without an ending."


@pytest.mark.parametrize("images", [None, ["a.png", "b.png"], 7, True])
def test_what_is_no_path_is_named(images):
    with pytest.raises(ValueError, match="^images is .*: give the path of one folder or one photo.$"):
        find_photos(images)


def test_which_model_is_said_plainly(tiny_clip, tmp_path):
    plain = Method(tiny_clip.project, "clip"), "CLIP's own projection, no PACL embedder; tiny, weights a/folder"
    assert embedding(tiny_clip, "tiny", "a/folder", None) == plain
    tiny_clip.random_weights = True
    assert "random weights" in embedding(tiny_clip, "tiny", "random", None)[1]
    head = VisionEmbedder(tiny_clip.width, tiny_clip.dim, text_embedder="linear")
    torch.nn.init.zeros_(head.text_embedder.weight)
    save_embedder(tmp_path / "head", head, {"clip": tiny_clip.identity})
    embed, sentence = embedding(tiny_clip, "tiny", "random", tmp_path / "head")
    assert embed.embed(torch.zeros(1, 2, tiny_clip.width)).shape == (1, 2, tiny_clip.dim)
    assert embed.embed_text(torch.ones(3, tiny_clip.dim)).abs().max() == 0
    assert sentence == f"PACL embedder {tmp_path}/head; tiny, random weights, nothing learned"
    save_embedder(tmp_path / "head", head, {"clip": tiny_clip.identity | {"tokens": "value"}})
    with pytest.raises(ValueError, match="head was trained on tokens value of tiny"):
        embedding(tiny_clip, "tiny", "random", tmp_path / "head")


def colours_in(picture) -> set:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


@pytest.mark.parametrize("random_weights", [False, True])
def test_an_overlay_has_its_legends_colours_and_a_red_warning(random_weights, one_photo, tmp_path):
    clip = ColourCLIP()
    clip.random_weights = random_weights
    run(one_photo, clip=clip)
    below = colours_in(np.asarray(Image.open(tmp_path / "out/overlays/a.png.png"))[32:])
    _, red, green, blue = map(tuple, overlay.colours_of(3).tolist())
    assert {red, blue} <= below and green not in below and (overlay.RED in below) == random_weights


def test_a_blended_photo_is_made_smaller_and_keeps_its_own_colours_in_the_background():
    own, mask = np.array([100, 150, 200]), np.zeros((4, 8), np.uint8)
    mask[:, 4:] = 6
    blended = np.asarray(overlay.blend(Image.new("RGB", (8, 4), tuple(own)), mask, 6, 4))
    assert blended.shape == (2, 4, 3) and (blended[:, :2] == own).all()
    assert (blended[:, 2:] == np.rint(0.45 * own + 0.55 * overlay.colours_of(6)[6])).all()


def test_a_legend_has_the_prompts_found_with_their_shares_the_largest_first(monkeypatch):
    legend, given = overlay.legend, []
    monkeypatch.setattr(overlay, "legend", lambda *all_of_it: given.append(all_of_it) or legend(*all_of_it))
    mask = np.repeat([1, 3, 4], [50, 120, 30]).astype(np.uint8).reshape(10, 20)
    prompts = ["größe", "sea", "写", 31 * "x"]
    drawn = overlay.overlay(Image.new("RGB", (20, 10)), mask, prompts, "写 trained", warn=False)
    ((entries, note, width, _, _),) = given
    assert [text for text, _ in entries] == ["prompt 3 60.0%", "größe 25.0%", 29 * "x" + "… 15.0%"]
    assert np.array_equal([colour for _, colour in entries], overlay.colours_of(4)[[3, 1, 4]])
    assert note == "model" and drawn.width == width > 20  # a small photo's legend is wider than the photo


@pytest.mark.parametrize("width, rows, lines", [(2000, 1, 1), (200, 3, 6)])
def test_a_legend_goes_on_in_further_rows_before_it_reaches_the_edge(width, rows, lines):
    """Of letters of 20 pixels: a row is 34, 12 are above and 10 below; 160 hold 13 letters of the note."""
    entries = [("sea 50.0%", (0, 0, 255))] * 3
    strip = overlay.legend(entries, 4 * "a trained model ", width, 20, overlay.GREY)
    assert strip.size == (width, 12 + 34 * (rows + lines) + 10)
    assert (np.asarray(strip)[:, -20:] == 255).all()


def test_a_grid_has_a_place_for_every_photo_and_takes_no_name_for_a_formula():
    names = ["$1 & $2", "写", 37 * "x", "b", "c"]
    photos = dict.fromkeys(names, Image.new("RGB", (6, 4)))
    figure = overlay.grid(photos, ["red", "$ a $"], "random weights", warn=True)
    titles = [axis.title for axis in figure.axes]
    assert [title.get_text() for title in titles] == ["$1 & $2", "photo 2", 35 * "x" + "…", "b", "c", "", "", ""]
    assert not any(title.get_parse_math() for title in titles[:5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["red", r"\$ a \$"]
    assert figure.get_suptitle() == "random weights"
    plt.close(figure)


def run_cells(**parameters):
    """The notebook's cells with other parameters, in this process."""
    cells = nbformat.read(ROOT / "notebooks/segment_your_images.ipynb", nbformat.NO_CONVERT).cells
    defaults, *others = [cell.source for cell in cells if cell.cell_type == "code"]
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    with plt.rc_context():
        exec("\n".join([defaults, given, *others]), {})


def test_the_notebook_writes_everything_next_to_the_photos(folder, tiny_folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)  # far from the project
    two_colours().save(folder / "red $1 & $2 写.png")
    (folder / "a.heic").touch()
    model = {"backbone": "tiny", "pretrained": str(tiny_folder), "token_stride": 4}
    run_cells(images="my photos", prompts="red;blue, thing", **model)
    out = folder.with_name("my photos_segmented")
    assert sorted(path.name for path in out.rglob("*.*")) == ["areas.csv", *["red $1 & $2 写.png.png"] * 2]
    said = capsys.readouterr().out
    assert "CLIP's own projection, no PACL embedder" in said and "1 x .heic" in said and "1 photos segmented" in said


def test_the_notebook_names_missing_weights_and_writes_nothing(one_photo, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        FileNotFoundError, match="^'no such weights' is neither a file, nor a folder, nor an open_clip tag"
    ):
        run_cells(images=str(one_photo), prompts="red", pretrained="no such weights")
    assert [path.name for path in tmp_path.iterdir()] == ["my photos"]
