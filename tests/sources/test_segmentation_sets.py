"""Segmentation benchmarks on hand-made folders in their official layouts: files, label tables, what is refused."""

import numpy as np
import pytest
from helpers.folders import write_flickr8k, write_image, write_mask, write_own, write_voc
from PIL import Image
from torchvision.datasets import Cityscapes

from pacl.data.benchmark import IGNORE, target_of
from pacl.data.prepared import all_scenes
from pacl.evaluation.segmentation import segmentation_of_sets
from pacl.runtime.params import Prepare, Protocol
from pacl.segment import Method
from pacl.sources.layouts import check_present, class_list, files, lines_of, partial, parts_of
from pacl.sources.prepare import prepare, whole_benchmarks
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
    image_sets,
    own_set,
    scenes,
)

VOC_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]


def test_voc_in_the_lists_order_and_how_much_of_it_there_is(tmp_path):
    names = ["2007_000033", "2011_000003", "2008_000007"]
    write_voc(tmp_path, val=names)
    images, masks, note = scenes(tmp_path, VOC, "val")
    assert [path.stem for path in images] == [path.stem for path in masks] == names
    assert {path.parent.name for path in images} == {"JPEGImages"}
    assert note.startswith("PASCAL VOC 2012 val: 3 of 1,449 images,")
    (tmp_path / "SegmentationClass/2011_000003.png").unlink()
    images, masks, note = scenes(tmp_path, VOC, "val")
    assert [path.stem for path in images] == [path.stem for path in masks] == [names[0], names[2]]
    assert " 2 of 1,449 " in note
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("".join(f"{name}  1\n" for name in names))
    assert scenes(tmp_path, VOC, "val") == (images, masks, note)  # as lists with a second column are


def test_a_whole_split_needs_no_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(VOC, "sizes", {"train": 2})
    assert scenes(write_voc(tmp_path, train=["x", "y"]), VOC, "train")[2] == ""


def test_any_other_number_than_an_official_one_has_a_sentence():
    """Of Pascal Context two editions are official."""
    sentence = {found: partial(CONTEXT, found, "val") for found in (5103, 5104, 5105, 5106)}
    assert [found for found in sentence if not sentence[found]] == [5104, 5105]
    assert sentence[5106].startswith("Pascal Context val: 5,106 of 5,105 images, so no result on them is comparable")


def test_of_several_files_that_fit_the_first_by_name_is_read(tmp_path):
    dataset = {"name": "odd", "parts": {"list": ("list.txt", "*/list.txt")}, "get": "", "terms": ""}
    for name in "hgfedcba":
        write_image(tmp_path / name / "list.txt", format="png")
    assert parts_of(tmp_path, dataset) == {"list": tmp_path / "a/list.txt"}
    write_image(tmp_path / "list.txt", format="png")
    assert parts_of(tmp_path, dataset) == {"list": tmp_path / "list.txt"}


def test_files_are_found_by_suffix_and_ending_at_any_depth(tmp_path):
    for name in ("a_left.PNG", "bonn/bell_left.png", "bonn/b_right.png", "c_left.txt", "_left.png"):
        write_image(tmp_path / name, format="png")
    found = files(tmp_path, {".png"}, "_left")
    assert found == {"a": tmp_path / "a_left.PNG", "bell": tmp_path / "bonn/bell_left.png", "": tmp_path / "_left.png"}


def test_blank_lines_of_a_list_are_left_out(tmp_path):
    (tmp_path / "val.txt").write_text("\n 2007_000033 \n\n2007_000042\n\n")
    assert lines_of(tmp_path / "val.txt") == ["2007_000033", "2007_000042"]


def test_what_is_missing_is_named_once(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_present([(tmp_path, VOC, "val"), (tmp_path, VOC, "train"), (tmp_path, VOC, "val")])
    assert str(error.value).count("PASCAL VOC 2012\n") == 2  # once a split


def test_voc_without_files_and_without_such_a_split(tmp_path):
    write_voc(tmp_path, val=["x"])
    (tmp_path / "JPEGImages/x.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no image with a mask"):
        scenes(tmp_path, VOC, "val")
    with pytest.raises(ValueError, match="'test' is no split of PASCAL VOC 2012 that has masks"):
        scenes(tmp_path, VOC, "test")
    with pytest.raises(FileNotFoundError, match="ImageSets/Segmentation/train.txt"):
        scenes(tmp_path, VOC, "train")


def test_voc_classes_and_tables():
    voc20, voc21 = benchmark("voc20", "", []), benchmark("voc21", "", [])
    assert [line.split(",")[0] for line in voc20["classes"]] == VOC_NAMES
    assert voc21["classes"] == ["background", *voc20["classes"]]
    mask = np.array([[0, 1, 15, 20, 255]], np.uint8)  # background, aeroplane, person, tvmonitor, void
    assert target_of(mask, voc20["table"]).tolist() == [[IGNORE, 0, 14, 19, IGNORE]]
    assert target_of(mask, voc21["table"]).tolist() == [[0, 1, 15, 20, IGNORE]]
    for one in (voc20, voc21):
        assert len(one["table"]) == 256
        assert [value for value, label in enumerate(one["table"]) if label < 0] == list(range(21, 255))


def test_a_mask_value_outside_the_classes_is_named():
    with pytest.raises(ValueError, match="value 21,"):
        target_of(np.array([[0, 21]], np.uint8), benchmark("voc20", "", [])["table"])


def names_at(one: dict, *values: int) -> list[str]:
    """What a benchmark calls the values of a mask; "" for ignored ones."""
    return ["" if one["table"][v] == IGNORE else one["classes"][one["table"][v]] for v in values]


def write_context(folder, mask, names=("2010_1", "2010_2")):
    (folder / "ImageSets/SegmentationContext").mkdir(parents=True)
    (folder / "ImageSets/SegmentationContext/val.txt").write_text("\n".join(names))
    for name in names:
        write_image(folder / "JPEGImages" / f"{name}.jpg")
        write_mask(folder / "SegmentationClassContext" / f"{name}.png", mask)
    return folder


def in_order(order, *names):
    """A mask row of those classes, in halves and quarters, in the values of an order."""
    return [[1 + order.index(name) for name in names]] * 4


def test_context_is_alphabetical(tmp_path):
    alphabetical = class_list("context59")
    write_context(tmp_path, in_order(alphabetical, "sky", "sky", "sky", "bag", "cat", "wood"))
    images, masks, note = scenes(tmp_path, CONTEXT, "val")
    assert len(images) == 2 and note.startswith("Pascal Context val: 2 of 5,105")
    c59, c60 = (benchmark(name, tmp_path, masks) for name in ("context59", "context60"))
    assert names_at(c59, 0, 1, 2, 59, 255) == ["", "aeroplane", "bag", "wood", ""]
    assert names_at(c60, 0, 1, 2, 59, 255) == ["background", "aeroplane", "bag", "wood", ""]
    assert c60["classes"] == ["background", *c59["classes"]] and c59["classes"] == sorted(c59["classes"])
    assert c59["table"][60] == c60["table"][60] == -1


def test_context_in_the_other_order_is_named_and_read_with_its_list(tmp_path):
    voc_first, seen = class_list("context59_voc_first"), ("sky", "sky", "grass", "person", "table", "bedclothes")
    write_context(tmp_path, in_order(voc_first, *seen))
    masks = scenes(tmp_path, CONTEXT, "val")[1]
    with pytest.raises(ValueError, match="order aeroplane, bicycle, bird .* expected: .* need 59_labels.txt"):
        benchmark("context59", tmp_path, masks)
    other = {"table": "diningtable", "cloth": "clothes", "bedclothes": "bedcloth"}  # the list's own spelling
    lines = [f"{value}: {other.get(name, name)}" for value, name in enumerate(["background", *voc_first])]
    (tmp_path / "59_labels.txt").write_text("\n".join(lines))
    one = benchmark("context59", tmp_path, masks)
    assert names_at(one, *in_order(voc_first, *seen)[0]) == list(seen)
    assert names_at(benchmark("context60", tmp_path, masks), 0, 2, 15) == ["background", "bicycle", "person"]
    (tmp_path / "list").mkdir()
    (tmp_path / "59_labels.txt").rename(tmp_path / "list/59_labels.txt")  # as it is unpacked in a folder of its own
    assert benchmark("context59", tmp_path, masks) == one
    (tmp_path / "list/59_labels.txt").rename(tmp_path / "59_labels.txt")
    for path in masks:
        write_mask(path, in_order(class_list("context59"), *seen))
    with pytest.raises(ValueError, match="order aeroplane, bag, bed .* must not have it"):
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
    for of_other, refused in ((13, False), (16, True)):
        row = np.array([own] * (24 - of_other) + [other] * of_other)
        write_mask(masks[1], row.reshape(4, 6))
        if refused:
            with pytest.raises(ValueError, match="order aeroplane, bicycle, bird"):
                benchmark("context59", tmp_path, masks)
        else:
            assert len(benchmark("context59", tmp_path, masks)["classes"]) == 59


def test_photos_of_every_common_kind_are_found(tmp_path):
    endings = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".JPG"]
    for i, ending in enumerate(endings):
        write_image(tmp_path / f"images/{i}{ending}")
        write_mask(tmp_path / f"masks/{i}.png", 0)
    (tmp_path / "classes.txt").write_text("sea\n")
    images, masks, note = scenes(tmp_path, own_set("beach"), "all")
    assert [path.suffix for path in images] == endings and len(masks) == len(endings) and note == ""


@pytest.mark.parametrize("ending", ["", "_labelTrainIds"])
def test_coco_by_raw_values_and_by_train_ids(tmp_path, ending):
    """Raw values are official ids - 1: 12 is stop sign (official 13), 91 banner, 181 wood."""
    values = {"": [0, 12, 89, 91, 181, 255], "_labelTrainIds": [0, 11, 79, 80, 170, 255]}[ending]
    write_image(tmp_path / "images/val2017/000000000139.jpg")
    write_mask(tmp_path / f"annotations/val2017/000000000139{ending}.png", [values] * 4)
    images, masks, note = scenes(tmp_path, COCO_STUFF, "val2017")
    assert [path.name for path in masks] == [f"000000000139{ending}.png"] and "1 of 5,000" in note
    stuff, things = (benchmark(name, tmp_path, masks) for name in ("coco_stuff", "coco_object"))
    assert names_at(stuff, *values) == ["person", "stop sign", "toothbrush", "banner", "wood", ""]
    assert names_at(things, *values) == ["person", "stop sign", "toothbrush", "background", "background", "background"]
    assert things["classes"] == ["background", *stuff["classes"][:80]]


def test_raw_values_go_before_train_ids(tmp_path):
    write_image(tmp_path / "images/val2017/000000000139.jpg")
    for ending in ("", "_labelTrainIds"):
        write_mask(tmp_path / f"annotations/val2017/000000000139{ending}.png", 0)
    assert [path.name for path in scenes(tmp_path, COCO_STUFF, "val2017")[1]] == ["000000000139.png"]


def test_the_eleven_values_that_coco_never_uses_are_no_labels(tmp_path):
    one = benchmark("coco_stuff", tmp_path, [tmp_path / "1.png"])
    unused = [value for value in range(182) if one["table"][value] < 0]
    assert unused == [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    assert sorted(set(one["table"]) - {-1, IGNORE}) == list(range(171))


def test_ade20k_ignores_other(tmp_path):
    write_image(tmp_path / "images/validation/ADE_val_00000001.jpg")
    write_mask(tmp_path / "annotations/validation/ADE_val_00000001.png", 150)
    images, masks, note = scenes(tmp_path, ADE20K, "validation")
    assert "1 of 2,000" in note
    one = benchmark("ade20k", tmp_path, masks)
    assert names_at(one, 0, 1, 8, 150) == ["", "wall", "bed", "flag"]
    assert one["table"][151] == -1 and len(one["classes"]) == 150


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


def test_a_folder_of_ones_own_needs_no_code(tmp_path):
    write_own(tmp_path / "beach")
    write_image(tmp_path / "beach/images/unlabelled.jpg")
    with pytest.raises(ValueError, match="benchmark voc: PASCAL VOC 2012 is called so, too"):
        image_sets(["voc20", "voc"])
    assert own_set("my/beach/")["key"] == "my_beach"  # part of a file's name
    ((dataset, names),) = image_sets(["beach"])
    images, masks, note = scenes(tmp_path / dataset["folder"], dataset, "all")
    assert [path.name for path in images] == ["x.jpg", "y.jpg"] and [path.name for path in masks] == ["x.png", "y.png"]
    assert note == "beach: 1 images have no mask and are left out."
    one = benchmark("beach", tmp_path / "beach", masks)
    assert names == ["beach"] and one["classes"] == ["sea, ocean", "sky", "sand"]
    assert one["table"][:4] == [0, 1, 2, -1] and one["table"][255] == IGNORE


def test_a_benchmark_is_whole_with_all_its_official_test_scenes_and_the_mini_worlds_never():
    described = {VOC["key"]: ("voc20", "voc21"), ADE20K["key"]: ("ade20k",), "beach": ("beach",)}
    counts = {VOC["key"]: 1449, ADE20K["key"]: 1999, "beach": 3}
    sets = {key: (range(counts[key]), None, dict.fromkeys(names)) for key, names in described.items()}
    assert whole_benchmarks(sets) == ["voc20", "voc21"]
    assert whole_benchmarks({"": sets[VOC["key"]]}) == []


def test_two_photos_of_one_name_are_refused_since_one_mask_cannot_fit_both(tmp_path):
    folder = write_own(tmp_path / "beach")
    write_image(folder / "images/x.png")
    with pytest.raises(ValueError, match="x.jpg and .*x.png have one name"):
        scenes(folder, own_set("beach"), "all")


def test_a_blank_line_among_ones_own_classes_is_refused_since_it_would_move_the_others(tmp_path):
    folder = write_own(tmp_path / "beach")
    (folder / "classes.txt").write_text("sea, ocean\n \nsky\n")
    with pytest.raises(ValueError, match="classes.txt, line 2 is blank: write a name, as each line names one value"):
        benchmark("beach", folder, [])


def odd_photos(folder):
    """Three photos of 40 x 24 pixels, grey, CMYK, and stored lying on its side, with masks; the paths of the masks."""
    (folder / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    picture.convert("L").save(folder / "images/grey.jpg")
    picture.convert("CMYK").save(folder / "images/print.jpg")
    picture.rotate(90, expand=True).save(folder / "images/phone.jpg", exif=exif)
    (folder / "images/notes.txt").write_text("taken in May")
    (folder / "classes.txt").write_text("background\nred, scarlet\nblue\nnever seen\n")
    (folder / "masks").mkdir()
    for k, name in enumerate(("grey", "phone", "print")):
        mask = np.full((24, 40), k, np.uint8)
        mask[:, 30:], mask[20:] = 2, 255
        Image.fromarray(mask).save(folder / f"masks/{name}.png")
    return sorted((folder / "masks").iterdir())


def test_a_benchmark_made_from_scratch_is_prepared_and_measured(tmp_path, tiny_clip):
    masks = odd_photos(tmp_path / "raw/walls")
    write_flickr8k(tmp_path / "raw/flickr8k", "abc")
    values = {"source": "flickr8k", "raw": str(tmp_path / "raw"), "seed": 0, "train_pairs": 2, "validation_scenes": 1}
    values |= {"test_scenes": None, "benchmarks": ["walls"], "classification_sets": [], "classification_images": None}
    prepare(tmp_path / "out", Prepare.model_validate(values | {"max_bad_share": 0.1}))
    image_sets = all_scenes(tmp_path / "out", "test")
    assert [image.size for image in image_sets["walls"][0]] == [(40, 24)] * 3
    protocol = Protocol(background_rule="entropy", background_threshold=1.5)
    methods = {"clip": Method(tiny_clip.project, "clip")}
    found = segmentation_of_sets(tiny_clip, methods, image_sets, ["walls"], protocol)["walls"]["clip"]
    counted = sum(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)[:4] for path in masks)
    assert found.sum(dim=1).tolist() == counted.tolist() and counted.tolist()[3] == 0


def test_a_photo_that_is_no_image_is_named_before_anything_runs(tmp_path):
    odd_photos(tmp_path)
    (tmp_path / "images/print.jpg").write_text("<html>404</html>")
    images, masks, _ = scenes(tmp_path, own_set("walls"), "all")
    with pytest.raises(ValueError, match=r"print.jpg or .*print.png can't be read .*: replace or remove both.$"):
        check_sizes(images, masks)


def test_benchmarks_of_the_same_photos_are_one_image_set():
    grouped = [(dataset["key"], names) for dataset, names in image_sets(["voc21", "ade20k", "beach", "voc20"])]
    assert grouped == [("voc", ["voc21", "voc20"]), ("ade20k", ["ade20k"]), ("beach", ["beach"])]


def test_a_misspelt_benchmark_is_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_present(check_benchmarks(tmp_path, ["voc2O", "cityscapes"]))
    lines = str(error.value).splitlines()[1:]
    assert lines[0] == "voc2O" and lines[1].endswith(f"{tmp_path}/voc2O: images, masks, classes.txt")
    assert "voc20, voc21" in lines[2]
    assert "leftImg8bit/val, gtFine/val" in lines[5] and "register at cityscapes-dataset.com" in lines[6]


def test_a_mask_of_another_size_than_its_image_is_named_before_anything_runs(tmp_path):
    write_own(tmp_path)
    images, masks, _ = scenes(tmp_path, own_set("own"), "all")
    check_sizes(images, masks)
    write_image(images[1], size=(4, 6))
    with pytest.raises(ValueError, match="y.png is 6 x 4 pixels, its image .*y.jpg 4 x 6"):
        check_sizes(images, masks)
    exif = Image.Exif()
    exif[0x0112] = 6  # the same photo, stored lying on its side
    write_image(images[1], size=(4, 6), exif=exif)
    check_sizes(images, masks)
    images[0].write_text("no image")
    with pytest.raises(ValueError, match="x.jpg or .*x.png can't be read"):
        check_sizes(images, masks)


def test_the_evaluators_phrases_are_one_line_a_class(tmp_path):
    with_phrases = {"voc20", "voc21", "context60", "coco_stuff", "coco_object", "ade20k", "cityscapes"}
    write_context(tmp_path, in_order(class_list("context59"), "sky", "sky", "sky", "bag", "cat", "wood"))
    masks = scenes(tmp_path, CONTEXT, "val")[1]
    for name in with_phrases:
        one = benchmark(name, tmp_path, masks)
        assert len(one["phrases"]["sclip"]) == len(one["classes"]), name
    context = benchmark("context60", tmp_path, masks)
    assert context["phrases"]["sclip"] == context["classes"]  # "background" is a text there, beside the rule
    voc = benchmark("voc21", tmp_path, [])
    assert voc["classes"][0] == "background" and len(voc["phrases"]["sclip"][0].split(", ")) == 26
    assert voc["phrases"]["sclip"][4] == "ship" and voc["classes"][4] == "boat"
    assert TABLES.keys() - with_phrases == {"context59"}  # there, the classes' own names
