"""Readers of captioned images on hand-made folders: what they find, what they refuse."""

import json

import pytest
from helpers.folders import write_flickr8k, write_image

from pacl.sources.caption_sets import COCO, FLICKR8K, FLICKR30K, OWN, captioned, json_rows


def test_kaggles_captions_keep_commas_and_quotes(tmp_path):
    images, captions, _ = captioned(write_flickr8k(tmp_path), FLICKR8K)
    assert images == [tmp_path / "Images" / f"{name}.jpg" for name in "abcd"]
    expected = ["One b , two , three .", 'A sign says "b" .', *(f"caption {i} of b ." for i in (3, 4, 5))]
    assert captions[1] == expected
    file = tmp_path / "captions.txt"
    file.write_text(file.read_text().replace("\n", " \n\n").replace("image,caption", "image, caption"))
    assert captioned(tmp_path, FLICKR8K) == (images, captions, ""), "blank lines and spaces at the ends don't count"
    file.write_text(file.read_text().replace("caption 3 of a .", "three , without quotes , all the same ."))
    assert captioned(tmp_path, FLICKR8K)[1][0][2] == "three , without quotes , all the same ."
    file.write_text(file.read_text().replace(".jpg,", ".png,"))
    with pytest.raises(FileNotFoundError, match="has no image that"):
        captioned(tmp_path, FLICKR8K)


def test_the_original_token_file(tmp_path):
    """In the folders of the original archives, one of them misspelt, with captions of an image that is missing."""
    for name in ("b.jpg", "a#4.jpg"):
        write_image(tmp_path / "Flicker8k_Dataset" / name)
    names = ("b.jpg", "a#4.jpg", "2258277193_586949ec62.jpg.1")
    lines = [f"{name}#{i}\tcaption #{i}\tof {name}" for name in names for i in range(5)]  # its marks may occur in both
    (tmp_path / "Flickr8k_text").mkdir()
    lines[0] += "\x85 a line\u2028that continues"  # where str.splitlines would split it
    (tmp_path / "Flickr8k_text/Flickr8k.token.txt").write_text("\r\n".join(lines), newline="")
    lemmas = [line.replace("caption", "capt") for line in lines]  # next to it in the archive, in the same form
    (tmp_path / "Flickr8k_text/Flickr8k.lemma.token.txt").write_text("\n".join(lemmas))
    images, captions, _ = captioned(tmp_path, FLICKR8K)
    assert [path.name for path in images] == ["b.jpg", "a#4.jpg"]
    assert captions[0][1:] == [f"caption #{i}\tof b.jpg" for i in range(1, 5)]
    assert captions[0][0] == "caption #0\tof b.jpg\x85 a line\u2028that continues"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image,caption\n", "", "must begin with the line image,caption"),
        ("d.jpg,caption 5 of d .\n", "", "lacks the five captions of d.jpg"),
        ("caption 5 of d .\n", " \n", "lacks the five captions of d.jpg"),
        ("d.jpg,caption 5 of d .\n", "d.jpg\n", "lacks the five captions of d.jpg"),
        ("caption 5 of d .\n", "caption 5 of d .\nd.jpg,one more\n", "lacks the five captions of d.jpg"),
        ("caption 3 of a", '"' + "a quote that never ends " * 10_000, "captions.txt is corrupt .*: download it again"),
    ],
    ids=["header", "a row", "a caption", "half a row", "a row too many", "quote"],
)
def test_a_corrupt_caption_file(tmp_path, old, new, message):
    file = write_flickr8k(tmp_path) / "captions.txt"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        captioned(tmp_path, FLICKR8K)


def test_flickr30k_in_its_three_forms(tmp_path):
    """Kaggle's columns image,caption or image_name,comment_number,comment; the original's tab."""
    write_flickr8k(tmp_path, "ab")
    (tmp_path / "Images").rename(tmp_path / "flickr30k_images")
    expected = captioned(tmp_path, FLICKR30K)
    assert [path.parent.name for path in expected[0]] == ["flickr30k_images"] * 2
    file = tmp_path / "captions.txt"
    numbered = ["image_name,comment_number,comment"]
    for image, captions in zip(*expected[:2], strict=True):
        quoted = (caption.replace('"', '""') for caption in captions)
        numbered += [f'{image.name},{i},"{caption}"' for i, caption in enumerate(quoted)]
    file.write_text("\n".join(numbered))
    assert captioned(tmp_path, FLICKR30K) == expected
    for begin, end in (("4", ","), (" 4", ", ,")):
        broken = f"{expected[0][0].name},{begin}   A dog runs across the grass .{end}"  # as one row of Kaggle's is
        file.write_text("\n".join([*numbered[:5], broken, *numbered[6:]]))
        moved = [*expected[1][0][:4], "A dog runs across the grass ."]
        assert captioned(tmp_path, FLICKR30K)[1] == [moved, expected[1][1]]
    file.unlink()
    rows = ((image.name, *row) for image, captions in zip(*expected[:2], strict=True) for row in enumerate(captions))
    lines = [f"{name}#{i}\t{caption}" for name, i, caption in rows]
    (tmp_path / "results_20130124.token").write_text("\n".join(lines))
    assert captioned(tmp_path, FLICKR30K) == expected


def write_coco(folder, captions):
    """captions: image id -> its captions."""
    rows = [(image, number, text) for image, texts in captions.items() for number, text in enumerate(texts)]
    content = {
        "images": [{"id": image, "file_name": f"{image:012d}.jpg"} for image in captions],
        "annotations": [{"image_id": i, "id": 100 - n, "caption": f"{t} \n"} for i, n, t in rows],
    }
    for image in captions:
        write_image(folder / f"train2017/{image:012d}.jpg")
    (folder / "annotations").mkdir()
    (folder / "annotations/captions_train2017.json").write_text(json.dumps(content))
    return folder


def test_all_captions_of_coco_five_or_more_in_the_order_of_their_ids(tmp_path):
    captions = {9: ["a dog\nruns  fast", *"bcde"], 4: [f"four {i}" for i in range(7)]}
    images, texts, _ = captioned(write_coco(tmp_path, captions), COCO)
    assert [path.name for path in images] == ["000000000004.jpg", "000000000009.jpg"]
    assert texts == [captions[4][::-1], [*"edcb", "a dog runs fast"]]  # later ones have lower ids; one line each
    with pytest.raises(ValueError, match="lacks the five captions of 000000000001.jpg"):
        captioned(write_coco(tmp_path / "few", {1: [*"abcd"]}), COCO)


@pytest.mark.parametrize(
    "content",
    ['{"images": [', [], {"images": []}, {"images": [{"id": 1}], "annotations": []}]
    + [
        {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"id": 1, "image_id": 1} | row]}
        for row in (
            *({}, {"caption": None}, {"caption": "a", "image_id": 2}, {"caption": "a", "image_id": None}),
            {"caption": "a \ud83d dog"},  # half a surrogate pair, which only JSON can hold
        )
    ],
)
def test_json_of_another_form_names_the_file(content, tmp_path):
    (tmp_path / "captions.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match="captions.json is not a complete JSON file of COCO captions: unpack it"):
        json_rows(tmp_path / "captions.json")


def test_a_table_of_ones_own_captions(tmp_path):
    """Any number of captions an image, images in folders, and those that are missing are told."""
    for name in ("a.jpg", "2024/b.png", "never named.jpg"):
        write_image(tmp_path / "images" / name)
    (tmp_path / "images/notes.txt").write_text("taken in May")
    rows = ["image,caption", 'a.jpg,"a dog, and a cat"', "2024/b.png,one", "a.jpg,two", "2024/b.png,", "gone.jpg,three"]
    (tmp_path / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    images, captions, note = captioned(tmp_path, OWN)
    assert images == [tmp_path / "images/a.jpg", tmp_path / "images/2024/b.png"]
    assert captions == [["a dog, and a cat", "two"], ["one"]]
    assert note == (
        f"1 of 3 images of {tmp_path}/captions.csv are missing or have no caption, the first gone.jpg. 1 images have "
        f"no line there. Left out of {tmp_path}/images: 1 x .txt."
    )
    (tmp_path / "captions.csv").write_text("image,caption\nimages/a.jpg,a dog\nnotes.txt,a note\n")
    there = r"the images are 3 \(2024/b.png, a.jpg, never named.jpg\), the names 2 \(images/a.jpg, notes.txt\): w"
    with pytest.raises(FileNotFoundError, match=there):
        captioned(tmp_path, OWN)
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,\n")
    with pytest.raises(ValueError, match="captions.csv has no caption of an image in .*images: write some"):
        captioned(tmp_path, OWN)
    (tmp_path / "captions.csv").write_text("a.jpg,a dog\n")
    with pytest.raises(ValueError, match="must begin with the line image,caption: correct it"):
        captioned(tmp_path, OWN)
