"""Segmentation benchmarks in hand-made folders of their official layouts: files, label tables, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.folders import write_image, write_mask, write_own, write_voc
from helpers.imports import ROOT
from PIL import Image
from torchvision.datasets import Cityscapes

from pacl.data.benchmark import IGNORE
from pacl.data.images import Images, Masks, pictures_in
from pacl.data.prepared import ImageSet
from pacl.sources.layouts import by_stem, check_present, class_list, partial, parts_of
from pacl.sources.prepare import whole_benchmarks
from pacl.sources.segmentation_sets import (
    ADE20K,
    CITYSCAPES,
    COCO_STUFF,
    CONTEXT,
    CONTEXT_COMMON,
    TABLES,
    VOC,
    benchmark,
    check_benchmarks,
    check_sizes,
    count_values,
    coverage,
    image_sets,
    own_set,
    scenes,
)

VOC_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]


def stems(paths):
    return [Path(path).stem for path in paths]


def names_at(one, *values: int) -> list[str]:
    """What a benchmark calls the values of a mask; "" for ignored ones."""
    return ["" if one.table[v] == IGNORE else one.classes[one.table[v]] for v in values]


def test_voc_in_the_lists_order_and_how_much_of_it_there_is(tmp_path, monkeypatch):
    names = ["2007_000033", "2011_000003", "2008_000007"]
    write_voc(tmp_path, val=names)
    images, masks, note = scenes(tmp_path, VOC, "val")
    assert stems(images) == stems(masks) == names and {path.parent.name for path in images} == {"JPEGImages"}
    assert note.startswith("PASCAL VOC 2012 val: 3 of 1,449 images,")
    (tmp_path / "SegmentationClass/2011_000003.png").unlink()
    images, masks, note = scenes(tmp_path, VOC, "val")
    assert stems(images) == stems(masks) == [names[0], names[2]] and " 2 of 1,449 " in note
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\n".join(f" {name}  1\n" for name in names))
    assert scenes(tmp_path, VOC, "val") == (images, masks, note)  # blank lines, and a second column
    monkeypatch.setitem(VOC, "sizes", {"val": 2})
    assert scenes(tmp_path, VOC, "val")[2] == ""


def test_any_other_number_than_an_official_one_has_a_sentence():
    """Pascal Context has two official editions."""
    sentence = {found: partial(CONTEXT, found, "val") for found in (5103, 5104, 5105, 5106)}
    assert [found for found in sentence if not sentence[found]] == [5104, 5105]
    assert sentence[5106].startswith("Pascal Context val: 5,106 of 5,105 images, so results on them aren't comparable")


def test_of_several_files_that_fit_the_first_by_name_is_read(tmp_path):
    dataset = {"name": "odd", "parts": {"list": ("list.txt", "*/list.txt")}, "get": "", "terms": ""}
    for name in "hgfedcba":
        write_image(tmp_path / name / "list.txt", format="png")
    assert parts_of(tmp_path, dataset) == {"list": tmp_path / "a/list.txt"}
    write_image(tmp_path / "list.txt", format="png")
    assert parts_of(tmp_path, dataset) == {"list": tmp_path / "list.txt"}


def test_files_are_found_by_suffix_and_ending_at_any_depth(tmp_path):
    names = ("a_left.PNG", "bonn/bell_left.png", "bonn/b_right.png", "c_left.txt", "_left.png")
    for name in (*names, ".ipynb_checkpoints/d_left.png", "bonn/._e_left.png"):
        write_image(tmp_path / name, format="png")
    pictures, left_out = pictures_in(tmp_path)
    assert left_out == f"Left out of {tmp_path}: 1 x .txt."
    found = by_stem(pictures, "_left")
    assert found == {"a": tmp_path / "a_left.PNG", "bell": tmp_path / "bonn/bell_left.png", "": tmp_path / "_left.png"}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_present([(tmp_path, VOC, "val"), (tmp_path, VOC, "train"), (tmp_path, VOC, "val")])
    assert str(error.value).count("PASCAL VOC 2012\n") == 2, "once for each split"
    write_voc(tmp_path, val=["x"])
    (tmp_path / "JPEGImages/x.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no image with a mask"):
        scenes(tmp_path, VOC, "val")
    with pytest.raises(ValueError, match="PASCAL VOC 2012 has no masks of a split 'test': use train, val, trainval"):
        scenes(tmp_path, VOC, "test")
    with pytest.raises(FileNotFoundError, match="ImageSets/Segmentation/train.txt"):
        scenes(tmp_path, VOC, "train")
    with pytest.raises(FileNotFoundError) as error:  # a misspelt benchmark is a folder that is missing
        check_present(check_benchmarks(tmp_path, ["voc2O", "cityscapes"]))
    lines = str(error.value).splitlines()[1:]
    assert lines[0] == "voc2O" and lines[1].endswith(f"{tmp_path}/voc2O: images, masks, classes.txt")
    assert "voc20, voc21" in lines[2]
    assert "leftImg8bit/val, gtFine/val" in lines[5] and "register at cityscapes-dataset.com" in lines[6]


def test_the_seen_classes_of_voc_are_those_that_tiny_imagenets_texts_name():
    """A name of a class in the table's comments, or a broader word; "dining table" is VOC's diningtable."""
    text = (ROOT / "data/tiny_imagenet_broader_words.yaml").read_text()
    table = yaml.safe_load(text)
    words = {word for words in table["kinds"].values() for word in words} | set(table["people"]["words"])
    words |= {line.partition("#")[2].strip() for line in text.splitlines() if line.startswith("  n")}
    seen = benchmark("voc_seen", "", [])
    known = {word.replace(" ", "") for word in words}
    assert [name.replace(" ", "") for name in seen.names] == [name for name in VOC_NAMES if name in known]
    mask = np.array([[0, 1, 3, 11, 20, IGNORE]])
    assert seen.target(mask).tolist() == [[IGNORE, IGNORE, 0, 8, IGNORE, IGNORE]]


def test_voc_classes_and_tables():
    voc20, voc21 = benchmark("voc20", "", []), benchmark("voc21", "", [])
    assert voc20.names == VOC_NAMES and voc21.classes == ("background", *voc20.classes)
    mask = np.array([[0, 1, 15, 20, 255]], np.uint8)  # background, aeroplane, person, tvmonitor, void
    assert voc20.target(mask).tolist() == [[IGNORE, 0, 14, 19, IGNORE]]
    assert voc21.target(mask).tolist() == [[0, 1, 15, 20, IGNORE]]
    for one in (voc20, voc21):
        assert len(one.table) == 256 and [v for v, label in enumerate(one.table) if label < 0] == list(range(21, 255))


def write_context(folder, mask, names=("2010_1", "2010_2")):
    (folder / "ImageSets/SegmentationContext").mkdir(parents=True)
    (folder / "ImageSets/SegmentationContext/val.txt").write_text("\n".join(names))
    for name in names:
        write_image(folder / "JPEGImages" / f"{name}.jpg")
        write_mask(folder / "SegmentationClassContext" / f"{name}.png", mask)
    return scenes(folder, CONTEXT, "val")


def in_order(order, *names):
    """A mask whose columns are those classes, in the values of an order."""
    return [[1 + order.index(name) for name in names]] * 4


ALPHABETICAL = in_order(class_list("context59"), "sky", "sky", "sky", "bag", "cat", "wood")


def all_benchmarks(folder):
    _, masks, _ = write_context(folder, ALPHABETICAL)
    return {name: benchmark(name, folder, masks) for name in TABLES}


def test_context_is_alphabetical(tmp_path):
    images, masks, note = write_context(tmp_path, ALPHABETICAL)
    assert len(images) == 2 and note.startswith("Pascal Context val: 2 of 5,105")
    c59, c60 = (benchmark(name, tmp_path, masks) for name in ("context59", "context60"))
    assert names_at(c59, 0, 1, 2, 59) == ["", "aeroplane", "bag", "wood"]
    assert names_at(c60, 0, 1, 2, 59) == ["background", "aeroplane", "bag", "wood"]
    assert c60.classes == ("background", *c59.classes) and list(c59.classes) == sorted(c59.classes)
    assert c59.table[60] == c60.table[60] == -1


def test_context_in_the_other_order_is_named_and_read_with_its_list(tmp_path):
    voc_first, seen = class_list("context59_voc_first"), ("sky", "sky", "grass", "person", "table", "bedclothes")
    _, masks, _ = write_context(tmp_path, in_order(voc_first, *seen))
    with pytest.raises(ValueError, match="order aeroplane, bicycle, bird .* expected: put 59_labels.txt next to"):
        benchmark("context59", tmp_path, masks)
    other = {"table": "diningtable", "cloth": "clothes", "bedclothes": "bedcloth"}  # the list's own spelling
    lines = [f"{value}: {other.get(name, name)}" for value, name in enumerate(["background", *voc_first])]
    (tmp_path / "59_labels.txt").write_text("\n".join(lines))
    one = benchmark("context59", tmp_path, masks)
    assert names_at(one, *in_order(voc_first, *seen)[0]) == list(seen)
    assert names_at(benchmark("context60", tmp_path, masks), 0, 2, 15) == ["background", "bicycle", "person"]
    for path in masks:
        write_mask(path, in_order(class_list("context59"), *seen))
    with pytest.raises(ValueError, match="order aeroplane, bag, bed .* remove it for masks in alphabetical order"):
        benchmark("context59", tmp_path, masks)
    for others in (["1: aeroplane", "2: bicycle"], [*lines[:-1], "59: unicorn"]):
        (tmp_path / "59_labels.txt").write_text("\n".join(others))
        with pytest.raises(ValueError, match="doesn't list Pascal Context's 59 classes"):
            benchmark("context59", tmp_path, masks)


def test_the_order_of_contexts_labels_is_judged_by_all_masks_and_by_far(tmp_path):
    """Pixels that are common classes in the expected order, and ones that would be in the other."""
    orders = class_list("context59"), class_list("context59_voc_first")
    common = [{v for v, name in enumerate(order, 1) if name in CONTEXT_COMMON} for order in orders]
    own, other = min(common[0] - common[1]), min(common[1] - common[0])
    masks = [tmp_path / f"{name}.png" for name in "ab"]
    write_mask(masks[0], 0)
    write_mask(masks[1], np.array([own] * 11 + [other] * 13).reshape(4, 6))
    assert len(benchmark("context59", tmp_path, masks).classes) == 59
    write_mask(masks[1], np.array([own] * 8 + [other] * 16).reshape(4, 6))
    with pytest.raises(ValueError, match="order aeroplane, bicycle, bird"):
        benchmark("context59", tmp_path, masks)


@pytest.mark.parametrize("ending", ["", "_labelTrainIds"])
def test_coco_by_raw_values_and_by_train_ids(tmp_path, ending):
    """Raw values are official ids - 1: 12 is stop sign (official 13), 91 banner, 181 wood."""
    values = {"": [0, 12, 89, 91, 181, 255], "_labelTrainIds": [0, 11, 79, 80, 170, 255]}[ending]
    place = tmp_path / "annotations/val2017"
    write_image(tmp_path / "images/val2017/000000000139.jpg")
    write_mask(place / f"000000000139{ending}.png", [values] * 4)
    images, masks, note = scenes(tmp_path, COCO_STUFF, "val2017")
    assert masks == [place / f"000000000139{ending}.png"] and "1 of 5,000" in note
    stuff, things = (benchmark(name, tmp_path, masks) for name in ("coco_stuff", "coco_object"))
    assert names_at(stuff, *values) == ["person", "stop sign", "toothbrush", "banner", "wood", ""]
    assert names_at(things, *values) == ["person", "stop sign", "toothbrush", "background", "background", "background"]
    assert things.classes == ("background", *stuff.classes[:80])
    assert sorted(set(stuff.table) - {-1, IGNORE}) == list(range(171))
    unused = [value for value in range(182) if stuff.table[value] < 0]
    assert ending or unused == [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    write_mask(place / "000000000139.png", 0)
    assert scenes(tmp_path, COCO_STUFF, "val2017")[1] == [place / "000000000139.png"], "raw values go first"


def test_ade20k_ignores_other(tmp_path):
    write_image(tmp_path / "images/validation/ADE_val_00000001.jpg")
    write_mask(tmp_path / "annotations/validation/ADE_val_00000001.png", 150)
    images, masks, note = scenes(tmp_path, ADE20K, "validation")
    one = benchmark("ade20k", tmp_path, masks)
    assert "1 of 2,000" in note and names_at(one, 0, 1, 8, 150) == ["", "wall", "bed", "flag"]
    assert one.table[151] == -1 and len(one.classes) == 150


@pytest.mark.parametrize("ending", ["labelIds", "labelTrainIds"])
def test_cityscapes_by_ids_and_by_train_ids(tmp_path, ending):
    name = "bonn_000000_000019"
    write_image(tmp_path / f"leftImg8bit/val/bonn/{name}_leftImg8bit.png")
    write_mask(tmp_path / f"gtFine/val/bonn/{name}_gtFine_{ending}.png", 7)
    write_mask(tmp_path / f"gtFine/val/bonn/{name}_gtFine_instanceIds.png", 7)
    images, masks, note = scenes(tmp_path, CITYSCAPES, "val")
    assert [path.name for path in masks] == [f"{name}_gtFine_{ending}.png"] and "1 of 500" in note
    one = benchmark("cityscapes", tmp_path, masks)
    for official in (c for c in Cityscapes.classes if c.id >= 0):
        value = official.id if ending == "labelIds" else official.train_id
        expected = "" if official.train_id in (255, -1) else official.name
        assert names_at(one, value) == [expected], official


def test_any_folder_of_images_and_masks_is_a_benchmark(tmp_path):
    folder = write_own(tmp_path / "beach")
    write_image(folder / "images/unlabelled.jpg")
    ((dataset, names),) = image_sets(["beach"])
    images, masks, note = scenes(tmp_path / dataset["folder"], dataset, "all")
    assert [path.name for path in images] == ["x.jpg", "y.jpg"] and [path.name for path in masks] == ["x.png", "y.png"]
    assert note == "beach: 1 images without a mask are omitted."
    one = benchmark("beach", folder, masks)
    assert names == ["beach"] and one.classes == ("sea, ocean", "sky", "sand")
    assert one.table[:4] == (0, 1, 2, -1) and one.table[255] == IGNORE
    assert own_set("my/beach/")["key"] == "my_beach"  # part of a file's name
    with pytest.raises(ValueError, match="benchmark voc has the same name as PASCAL VOC 2012: rename it"):
        image_sets(["voc20", "voc"])
    write_image(folder / "images/x.png")
    with pytest.raises(ValueError, match="x.jpg and .*x.png have the same name"):
        scenes(folder, own_set("beach"), "all")
    (folder / "classes.txt").write_text("sea, ocean\n \nsky\n")
    with pytest.raises(ValueError, match="classes.txt, line 2 is blank: write a name there"):
        benchmark("beach", folder, [])


def own(folder, text, *masks):
    """A folder with this classes.txt and masks of these values, and its benchmark."""
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text(text, encoding="utf-8")
    paths = [folder / f"masks/{number}.png" for number in range(len(masks))]
    for path, values in zip(paths, masks, strict=True):
        write_mask(path, [values] * 4)
    return benchmark("own", folder, paths), paths


def test_a_value_may_stand_for_nothing_and_void_for_any_value(tmp_path):
    one, masks = own(tmp_path, "-\nsea, lake\n-\nsky\nvoid: 7, 200\n", [0, 1, 2, 3, 7, 200], [255, 1, 1, 3, 3, 3])
    assert one.classes == ("sea, lake", "sky")
    assert [one.table[v] for v in (0, 1, 2, 3, 4, 7, 200, 255)] == [255, 0, 255, 1, -1, 255, 255, 255]
    pixels = count_values(masks, [one])
    assert {v: n for v, n in enumerate(pixels) if n} == {0: 4, 1: 12, 2: 4, 3: 16, 7: 4, 200: 4, 255: 4}
    rows = [(row["value"], row["class"], row["share"]) for row in one.shares(pixels)]
    assert rows == [("1", "sea", 12 / 48), ("3", "sky", 16 / 48), ("0, 2, 7 ...", "ignored", 20 / 48)]
    assert coverage(pixels, [one]) == ["own: 41.7% of the pixels are ignored."]


@pytest.mark.parametrize(
    "word", ["background", "Background", "background, other", "other, background", "_background_", "Back-ground"]
)
def test_a_background_is_known_by_its_word_wherever_it_stands(tmp_path, word):
    for text, values in ((f"{word}\nsea\nsky\n", (0, 1, 2)), (f"sea\nsky\n{word}\n", (1, 2, 0))):
        one, _ = own(tmp_path, text)
        assert one.has_background and one.classes == (word, "sea", "sky") and one.table[:3] == values
    assert not own(tmp_path, "sea\nbackground noise\n")[0].has_background


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0: sea\n1: sky\n", "line 1 is '0: sea': write the class's name alone, .* value .0., or - for a value"),
        ("0 sea\n1 sky\n", "line 1 is '0 sea': write"),
        ("1 sea\n-\n3 sky\n", "line 1 is '1 sea': write"),
        ("sea 0\nsky 1\n", "line 1 is 'sea 0': write"),
        ("sea,0\nsky,1\n", "line 1 is 'sea,0': write"),
        ("name,value\nsea,0\n", "line 2 is 'sea,0': write"),
        ("sea\nsky: 1\n", "line 2 is 'sky: 1': write"),
        ("- sea\n- sky\n", "line 1 is '- sea': write"),
        ("// a comment\nsea\n", "line 1 is '// a comment': write"),
        ("sea # deep\nsky\n", "line 1 is 'sea # deep': write"),
        ('"sea"\n"sky"\n', "line 1 is '\"sea\"': write"),
        ("[sea, sky]\n", r"line 1 is '\[sea, sky\]': write"),
        ("void:\nsea\n", "line 1 is 'void:': write"),
        ("sea\n_unlabeled_\n", "line 2 is '_unlabeled_': write"),
        ("sea\n,\n", "line 2 is ',': write"),
        ("# a comment\nsea\n", "line 1 is '# a comment': write"),
        ("sea\n17\n", "line 2 is '17': write"),
        ("sea\nsky\nSea\n", "has 'Sea' in lines 1 and 3: no pixel could get the second"),
        ("house, hut\nsky\nhut\n", "has 'hut' in lines 1 and 3"),
        ("-\n-\n", "must name 1 to 255 classes, of values up to 255; it names 0"),
        ("\n".join(f"c{i}" for i in range(256)), "must name 1 to 255 classes, of values up to 255; it names 256"),
        ("t  shirt\nT shirt\n", "has 'T shirt' in lines 1 and 2"),
        ("sea\nvoid: 7, 300\n", "names 300 void, but masks hold values up to 255"),
        ("sea\nsky\nvoid: 1\n", "names value 1 both sky and void: remove one of the two"),
    ],
)
def test_lines_that_are_not_names_are_refused(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=rf"classes.txt.* {sentence}"):
        own(tmp_path, text)


def test_masks_that_measure_nothing_are_refused_and_absent_classes_named(tmp_path):
    for text, values, sentence in (
        ("sea\nsky\n", [255] * 6, "own ignores every pixel of the masks in .*masks: check its classes"),
        ("background\nsea\n", [0] * 3 + [255] * 3, "hold only 0 and 255, .* value 1 for sea: save that class as 1"),
    ):
        one, masks = own(tmp_path, text, values)
        with pytest.raises(ValueError, match=sentence):
            count_values(masks, [one])
    names = "\n".join(f"c{i}" for i in range(14))
    one, masks = own(tmp_path, names, [1, 2, 2, 2, 2, 2])  # from 1, and the highest never occurs
    assert coverage(count_values(masks, [one]), [one]) == [
        "own: 12 of 14 classes never occur (c0, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 2 more)."
    ]


def test_names_may_hold_numbers_and_marks_within(tmp_path):
    text = "door/window\nt-shirt, tee (cotton)\n4 wheeler\nJack's boat\n3d printer\nmer & été\nsea 2\n"
    assert own(tmp_path, text)[0].classes == tuple(text.splitlines())


def test_masks_already_reduced_are_not_taken_for_official_ones(tmp_path):
    """All hold 255, which no official edition does: ADE20K and Context with 1 subtracted, Cityscapes' train ids."""
    name, mask = "bonn_0_0_gtFine_labelIds", [0, 1, 2, 10, 18, 255]
    for key in ("ade20k", "context59", "context60", "cityscapes"):
        write_mask(tmp_path / f"{name}.png", [mask] * 4)
        one = benchmark(key, tmp_path, [tmp_path / f"{name}.png"])
        with pytest.raises(ValueError, match=f"{name}.png, for {key}: a mask holds the value 255.* train ids do"):
            count_values([tmp_path / f"{name}.png"], [one])
        write_mask(tmp_path / f"{name}.png", [[0, 1, 2, 7, 10, 33]] * 4)
        assert count_values([tmp_path / f"{name}.png"], [one]).sum() == 24


def test_which_classes_are_things(tmp_path):
    """ADE20K's panoptic task has 100, Cityscapes eight classes with instances, and background is no thing."""
    found = all_benchmarks(tmp_path)
    counts = {"voc20": 20, "voc21": 20, "voc_seen": 13, "context59": 31, "context60": 31, "ade20k": 100}
    counts |= {"coco_stuff": 80, "coco_object": 80, "cityscapes": 8}
    assert {name: len(one.things) for name, one in found.items()} == counts
    assert found["cityscapes"].things[0] == "person" and set(found["voc20"].things) < {*found["voc20"].names, ""}
    listed = yaml.safe_load((Path(__file__).parents[2] / "data/classes/stuff.yaml").read_text())
    assert all(set(names) <= set(found[name].names) for name, names in listed.items())
    assert own(tmp_path / "own", "sea\nboat\n")[0].things is None
    assert own(tmp_path / "own", "sea, lake\nboat\ngull\nthings: boat, gull\n")[0].things == ("boat", "gull")
    with pytest.raises(ValueError, match="classes.txt counts dog among its things, which is not the name of a class"):
        own(tmp_path / "own", "sea\nboat\nthings: boat, dog\n")


LABELS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3


@pytest.mark.parametrize(
    ("ending", "kind"),
    [(ending, np.uint8) for ending in (".png", ".tif", ".npy", ".bmp", ".gif")]
    + [(".png", np.uint16), (".tif", np.uint16), (".png", bool), (".npy", bool), (".npy", np.int64)],
)
def test_label_maps_of_every_kind_that_keeps_values(tmp_path, ending, kind):
    labels = (LABELS % 2 if kind is bool else LABELS).astype(kind)
    write_image(tmp_path / "images/a.jpg")
    (tmp_path / "classes.txt").write_text("sea\nsky\nsand\n")
    path = tmp_path / f"masks/a{ending}"
    path.parent.mkdir()
    np.save(path, labels) if ending == ".npy" else Image.fromarray(labels).save(path)
    images, masks, _ = scenes(tmp_path, own_set("own"), "all")
    check_sizes(images, masks)
    one = benchmark("own", tmp_path, masks)
    assert np.array_equal(one.target(Masks(masks)[0]), labels) and masks == [path]
    assert count_values(masks, [one])[:3].tolist() == np.bincount(labels.ravel().astype(int), minlength=3).tolist()


@pytest.mark.parametrize("labels", [np.zeros((4, 6)), np.zeros((4, 6, 1), int), np.zeros(4, "U3")])
def test_an_array_that_is_no_label_map_is_named(tmp_path, labels):
    np.save(tmp_path / "a.npy", labels)
    with pytest.raises(ValueError, match=r"a.npy holds .*: save one integer per pixel, \[H, W\]"):
        Masks([tmp_path / "a.npy"])[0]


def test_masks_that_fit_no_image_are_described(tmp_path):
    for i in range(5):
        write_image(tmp_path / f"images/{i}.jpg")
        write_mask(tmp_path / f"masks/{i}_mask.png", 0)
    (tmp_path / "masks/0.jpg").write_bytes(b"")
    (tmp_path / "classes.txt").write_text("sea\n")
    with pytest.raises(FileNotFoundError) as error:
        scenes(tmp_path, own_set("own"), "all")
    assert str(error.value) == (
        f"{tmp_path}/images has no image with a mask in {tmp_path}/masks; the images are 5 (0.jpg, 1.jpg, 2.jpg, ...), "
        "the masks 5 (0_mask.png, 1_mask.png, 2_mask.png, ...): give each mask its image's name, with .png, .tif or "
        f".npy, or unpack them again. Left out of {tmp_path}/masks: 1 x .jpg."
    )


@pytest.mark.parametrize(
    "line", ["{}.jpg", "/JPEGImages/{}.jpg SegmentationClass/{}.png", "JPEGImages\\{}.jpg,SegmentationClass\\{}.png"]
)
def test_a_list_may_have_folders_and_endings(tmp_path, line):
    write_voc(tmp_path, val=["2007_000033", "2011_000003"])
    text = "".join(line.replace("{}", name) + "\n" for name in ("2011_000003", "2007_000033"))
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text(text)
    assert stems(scenes(tmp_path, VOC, "val")[0]) == ["2011_000003", "2007_000033"]
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2008_000001\n")
    with pytest.raises(FileNotFoundError, match=r"val.txt names 1 \(2008_000001\); the images are 2 \(2007"):
        scenes(tmp_path, VOC, "val")


def test_benchmarks_of_the_same_photos_are_one_image_set():
    grouped = [(dataset["key"], names) for dataset, names in image_sets(["voc21", "ade20k", "beach", "voc20"])]
    assert grouped == [("voc", ["voc21", "voc20"]), ("ade20k", ["ade20k"]), ("beach", ["beach"])]


def test_a_benchmark_is_whole_with_all_its_official_test_scenes_and_the_mini_worlds_never():
    def image_set(count, *names):
        return ImageSet(Images(range(count)), Masks(range(count)), dict.fromkeys(names))

    voc = image_set(1449, "voc20", "voc21")
    sets = {"voc": voc, "ade20k": image_set(1999, "ade20k"), "beach": image_set(3, "beach")}
    assert whole_benchmarks(sets) == ["voc20", "voc21"] and whole_benchmarks({"": voc}) == []


def test_a_mask_of_another_size_than_its_image_is_named_before_anything_runs(tmp_path):
    write_own(tmp_path)
    images, masks, _ = scenes(tmp_path, own_set("own"), "all")
    check_sizes(images, masks)
    write_image(images[1], size=(4, 6))
    with pytest.raises(ValueError, match="y.png has 6 x 4 pixels, its image .*y.jpg 4 x 6: make them equal in size"):
        check_sizes(images, masks)
    exif = Image.Exif()
    exif[0x0112] = 6  # the same photo, stored lying on its side
    write_image(images[1], size=(4, 6), exif=exif)
    check_sizes(images, masks)
    write_image(masks[1], size=(4, 6))  # a mask of the photo as it is stored
    turned = "y.png has 4 x 6 pixels, its image .*y.jpg 6 x 4 after its EXIF tag turns it: turn the mask, too, or rem"
    with pytest.raises(ValueError, match=turned):
        check_sizes(images, masks)
    images[0].write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"x.jpg can't be read .*: replace or remove it.$"):
        check_sizes(images, masks)


def test_the_evaluators_phrases_are_one_line_a_class(tmp_path):
    with_phrases = {"voc20", "voc21", "context60", "coco_stuff", "coco_object", "ade20k", "cityscapes"}
    found = all_benchmarks(tmp_path)
    assert {name for name, one in found.items() if one.phrases} == with_phrases, "context59 has the classes' names"
    assert all(len(found[name].phrases["sclip"]) == len(found[name].classes) for name in with_phrases)
    assert found["context60"].phrases["sclip"] == found["context60"].classes  # "background" is a text, too
    voc = found["voc21"]
    assert voc.classes[0] == "background" and len(voc.phrases["sclip"][0].split(", ")) == 26
    assert voc.phrases["sclip"][4] == "ship" and voc.classes[4] == "boat"
