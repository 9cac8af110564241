"""What a rehearsal changes in a profile, what it leaves out, and its estimates against hand-made numbers."""

import json
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.folders import write_flickr8k, write_image, write_voc
from PIL import Image

from pacl.data.prepared import write_pairs
from pacl.runtime.config import load_params, read_section
from pacl.runtime.params import Profile, Protocol
from pacl.tools import estimate
from pacl.tools.counts import counted, images_of, prompts_of, scene_counts
from pacl.tools.rehearse import lay_out, processor_seconds, reduced, rehearse, run_stage, small, stages

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture
def random_params():
    """What a rehearsal reads of flickr8k and paper, with weights that need no download."""

    def of(profile):
        params = load_params(profile, "prepare", "model")
        return SimpleNamespace(prepare=params.prepare, model=params.model.model_copy(update={"pretrained": "random"}))

    return of


@pytest.fixture
def raw(tmp_path):
    write_flickr8k(tmp_path / "raw/flickr8k", "abcdefgh")
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["v1", "v2", "v3"])
    return tmp_path / "raw"


def test_a_reduced_profile_is_valid_and_small(raw, random_params, monkeypatch):
    monkeypatch.setattr("pacl.tools.rehearse.load_clip", lambda *_: None)
    few, notes = reduced(PARAMS["flickr8k"], random_params("flickr8k"), raw)
    sections = {name: read_section("flickr8k", name, few) for name in Profile.model_fields}
    assert not notes and few["prepare"]["raw"] == str(raw)
    assert sections["train"].pairs <= sections["prepare"].train_pairs < 20
    assert list(sections["ablations"].points) == ["default", "matched_only"]
    assert few["protocols"]["native"]["token_stride"] == PARAMS["flickr8k"]["protocols"]["native"]["token_stride"]
    assert PARAMS["flickr8k"]["train"]["pairs"] > 1000  # the original is as it was
    compiled = PARAMS["flickr8k"] | {"train": PARAMS["flickr8k"]["train"] | {"compile": True}}
    for gpu in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert reduced(compiled, random_params("flickr8k"), raw)[0]["train"]["compile"] == gpu


def test_the_mini_world_needs_no_downloaded_data(tmp_path, monkeypatch):
    monkeypatch.setattr("pacl.tools.rehearse.load_clip", lambda *_: None)
    few, notes = reduced(PARAMS["mini"], load_params("mini", "prepare", "model"), tmp_path)
    assert not notes and few["prepare"]["benchmarks"] == PARAMS["mini"]["prepare"]["benchmarks"]
    assert few["prepare"]["raw"] == PARAMS["mini"]["prepare"]["raw"]


def test_what_is_not_there_is_left_out_and_listed(raw, random_params, monkeypatch):
    monkeypatch.setattr("pacl.tools.rehearse.load_clip", lambda *_: None)
    section = PARAMS["flickr8k"] | {"prepare": PARAMS["flickr8k"]["prepare"] | {"benchmarks": ["ade20k", "voc20"]}}
    few, notes = reduced(section, random_params("flickr8k"), raw)
    assert few["prepare"]["benchmarks"] == ["voc20"] and len(notes) == 1
    assert "the whole run would stop here" in notes[0] and "ADE20K" in notes[0]
    prepared = section["prepare"] | {"classification_sets": ["own", "eurosat"]}
    write_image(raw / "own/test/cat/1.png")
    write_image(raw / "own/validation/cat/1.png")
    own = {"prepare": prepared, "classification": section["classification"] | {"sets": ["own", "eurosat"]}}
    own["segmentation"] = section["segmentation"] | {"benchmarks": ["ade20k", "voc20"]}
    few, _ = reduced(section | own, random_params("flickr8k"), raw)
    assert few["prepare"]["classification_sets"] == few["classification"]["sets"] == ["own"]
    assert few["segmentation"]["benchmarks"] == ["voc20"]
    nothing = {"prepare": section["prepare"] | {"benchmarks": ["ade20k"]}}
    with pytest.raises(FileNotFoundError, match="ADE20K"):
        reduced(section | nothing, random_params("flickr8k"), raw)
    with pytest.raises(FileNotFoundError, match="image-caption shards"):
        reduced(PARAMS["paper"], random_params("paper"), raw)


def test_a_protocol_of_ones_own_may_leave_all_but_one_value_to_the_defaults():
    assert small("mine", {"logit_scale": 20.0}) == {"logit_scale": 20.0, "short_side": 224}
    windows = {"short_side": 448, "window": 448, "window_stride": 224}
    assert small("mine", windows) == {"short_side": 224, "window": 224, "window_stride": 112}
    less = {"short_side": 100, "per_benchmark": {"voc21": {"short_side": 560, "logit_scale": 50.0}}}
    assert small("mine", less) == {"short_side": 100, "per_benchmark": {"voc21": {"logit_scale": 50.0}}}
    assert small("native", {"window": 64, "window_stride": 32})["window_stride"] == 32


def test_missing_weights_are_replaced_by_random_ones_and_said(raw, random_params, monkeypatch):
    def missing(*_):
        raise FileNotFoundError("the weights are nowhere.")

    monkeypatch.setattr("pacl.tools.rehearse.load_clip", missing)
    few, notes = reduced(PARAMS["flickr8k"], random_params("flickr8k"), raw)
    assert few["model"]["pretrained"] == "random"
    assert notes == ["Rehearsed with random weights: the weights are nowhere."]


def test_the_stages_are_those_of_the_pipeline():
    few = {"ablations": {"points": {"default": {}, "matched_only": {}}}}
    found = stages(ROOT, "flickr8k", few)
    files = [yaml.safe_load((ROOT / name).read_text())["stages"] for name in ("dvc.yaml", "ablations/dvc.yaml")]
    names = list(dict.fromkeys(name for name, _ in found))
    assert sorted(names) == sorted({*files[0], *files[1]} - {"pretrain_miniclip"})
    assert names.index("features") < names.index("ablation_point") < names.index("ablations")
    assert [command[-1] for name, command in found if name == "ablation_point"] == ["default", "matched_only"]
    assert not any("$" in part for _, command in found for part in command)


def test_a_stage_that_fails_is_named_with_what_it_said(tmp_path):
    lay_out(ROOT, tmp_path, PARAMS)
    assert (tmp_path / "notebooks/01_prepare.ipynb").is_file() and not (tmp_path / "data/prepared").exists()
    assert all(len(forms) == 1 for forms in yaml.safe_load((tmp_path / "data/templates.yaml").read_text()).values())
    command = ["python3", "-c", "import sys; sys.exit('the disk is full.')"]
    with pytest.raises(RuntimeError, match="stage features failed:\nthe disk is full."):
        run_stage("features", command, tmp_path, ROOT)


def test_passes_are_those_of_the_protocols(tiny_clip):
    """Patches of 8 pixels: 32 x 48 pixels are 4 x 6 tokens, at stride 4 7 x 11, in 16 shifted passes of 2 pixels."""
    assert estimate.passes(tiny_clip, Protocol(), 32, 48) == [24]
    assert estimate.passes(tiny_clip, Protocol(token_stride=4), 32, 48) == [77]
    assert estimate.passes(tiny_clip, Protocol(token_stride=2, passes="shifted"), 32, 48) == [24] * 16
    windows = Protocol(short_side=16, window=16, window_stride=8)  # resized to 16 x 24: two windows
    assert estimate.passes(tiny_clip, windows, 32, 48) == [4, 4]


def test_operations_are_those_of_a_block(tiny_clip):
    """Four D x D maps of attention, two of D x 4D, and twice N x N x D: two operations a product."""
    N, D = 10, tiny_clip.width
    assert estimate.operations(tiny_clip, N) == 2 * (4 * N * D * D + 2 * N * D * 4 * D + 2 * N * N * D)


def test_training_time_adds_the_encoders_where_pairs_are_streamed():
    rates = {"linear": 0.01, "square": 0.001, "image": 0.1, "text": 0.02}
    train = SimpleNamespace(epochs=2, pairs=35, batch_size=10)
    cached, streamed = (
        estimate.training_seconds(SimpleNamespace(train=train, prepare=SimpleNamespace(source=source)), rates)
        for source in ("flickr8k", "webdataset")
    )
    assert cached == pytest.approx(6 * (0.1 + 0.1))
    assert streamed == pytest.approx(cached + 6 * 10 * 0.12)


def test_a_scene_takes_its_blocks_and_its_label_map(tiny_clip):
    """32 x 32 pixels are 16 tokens, CLIP's own number: one image's time, and half as much again for each further
    method, as this CLIP has two blocks; and 1,024 pixels of 3 phrases for each of two methods."""
    rates = {"image": 8.0, "label": 0.001}
    taken = estimate.scene_seconds(tiny_clip, rates, Protocol(), [(32, 32)], ["clip", "pacl"], 3)
    assert taken == pytest.approx(8.0 * 1.5 + 0.001 * 1024 * 3 * 2)
    both = [estimate.operations(tiny_clip, n) for n in (16, 77)]  # a mean over sizes
    taken = estimate.scene_seconds(tiny_clip, rates | {"label": 0}, Protocol(token_stride=4), [(16, 16)], ["pacl"], 3)
    assert taken == pytest.approx(8.0 * estimate.operations(tiny_clip, 9) / both[0])
    taken = estimate.scene_seconds(tiny_clip, rates | {"label": 0}, Protocol(), [(32, 32), (56, 88)], ["pacl"], 3)
    assert taken == pytest.approx(8.0 * sum(both) / 2 / both[0])


def test_images_that_were_unpacked_in_the_rehearsed_project_are_found_from_anywhere(tmp_path):
    write_image(tmp_path / "project/data/prepared/paper/train_images/000000.png", value=7)
    write_image(tmp_path / "elsewhere.png", value=9)
    paths = ["data/prepared/paper/train_images/000000.png", tmp_path / "elsewhere.png"]
    write_pairs(tmp_path / "project/data/prepared/paper", "train", paths, [["seven"], ["nine"]])
    images = estimate.training_images(tmp_path / "project", "paper")
    assert [images[i].getpixel((0, 0))[0] for i in range(2)] == [7, 9]


class OnePhoto:
    size = (48, 32)  # width, height, as Pillow gives them


@pytest.fixture
def on_voc(monkeypatch):
    """(the profile flickr8k on a plain grid with two methods and one stride, VOC with photos of one size), in two
    processes.
    """
    monkeypatch.setattr(estimate, "processes", lambda: 2)
    params = load_params("flickr8k", *estimate.SECTIONS, "ablations")
    plain = {"sclip": Protocol(templates="one"), "tcl": Protocol(templates="one")}
    plain["native"] = params.protocols.native.model_copy(update={"token_stride": 8})
    params.protocols = params.protocols.model_copy(update=plain)
    params.segmentation = params.segmentation.model_copy(update={"protocols": ["native"], "methods": ["clip", "pacl"]})
    params.ablations = params.ablations.model_copy(update={"strides": [8]})
    voc = {
        name: {"classes": ["background"] * (name == "voc21") + ["cat, kitten", "dog"]} for name in ("voc20", "voc21")
    }
    return params, {"voc": ([OnePhoto()], None, voc)}


def test_the_evaluations_parts_by_hand(tiny_clip, on_voc):
    """How often each photo of VOC is read in a whole run, and each text."""
    found = estimate.evaluation_seconds(tiny_clip, on_voc[0], {"image": 1.0, "text": 0.01, "label": 0.0}, on_voc[1])
    once = estimate.operations(tiny_clip, 24) / estimate.operations(tiny_clip, 16)  # 4 x 6 patches of 8 pixels
    readings = 1 + 4 + 5  # one stride, four lists of templates, five rules
    searches = 4 + 3 * 1.5  # four rules with PACL, three protocols with both methods
    texts = (4 + 1) * 3 * 7 + 2 * 4 * 1  # of the rules and native seven templates, of the others one, and a background
    assert found == pytest.approx(
        {
            "segmentation, native": 1449 * 1.5 * once + 2 * (3 + 3) * 7 * 0.01,  # in both processes, seven templates
            "segmentation's pictures": 2 * (300 + 24 + 12) * once,
            "ablation readings": 100 * (readings + searches) * once + texts * 0.01,
        }
    )


def test_a_search_makes_a_label_map_of_every_scale(tiny_clip, on_voc):
    """32 x 48 pixels at each of twelve scales: three phrases for four rules, and for both methods in three protocols,
    two of which give the background a text."""
    found = estimate.search_seconds(tiny_clip, on_voc[0], {"image": 0.0, "text": 0.0, "label": 0.001}, on_voc[1])
    assert found == pytest.approx(100 * 12 * 32 * 48 * 0.001 * (4 * 3 + 2 * (3 + 4 + 4)))


@pytest.fixture
def on_paper(monkeypatch):
    """The profile paper with only the native protocol, as given, and only PACL, in one process."""
    monkeypatch.setattr(estimate, "processes", lambda: 1)

    def of(native, benchmarks):
        params = load_params("paper", *estimate.SECTIONS, "ablations")
        params.protocols = params.protocols.model_copy(update={"native": native})
        only = {"benchmarks": benchmarks, "protocols": ["native"], "methods": ["pacl"]}
        params.segmentation = params.segmentation.model_copy(update=only)
        return params

    return of


def test_benchmarks_of_one_image_set_are_read_once_for_each_size(tiny_clip, on_paper):
    """COCO's photos of 32 x 48 pixels: read once, and once more where one benchmark wants them at 16 x 24."""
    names, rates = ["coco_object", "coco_stuff"], {"image": 1.0, "text": 0.0, "label": 0.0}
    coco = {"coco": ([OnePhoto()], None, {name: {"classes": ["cat", "dog"]} for name in names})}
    own = Protocol(per_benchmark={"coco_stuff": {"short_side": 16}})
    large, less = (estimate.operations(tiny_clip, n) / estimate.operations(tiny_clip, 16) for n in (24, 6))
    for protocol, once in ((Protocol(), large), (own, large + less)):
        found = estimate.evaluation_seconds(tiny_clip, on_paper(protocol, names), rates, coco)
        assert found["segmentation, native"] == pytest.approx(5000 * once)


def test_each_line_names_the_benchmarks_that_it_leaves_out(tiny_clip, on_paper):
    """Of two benchmarks one has no photos here: its time is in no line, and each line that lacks it says so."""
    ade20k = {"ade20k": ([OnePhoto()], None, {"ade20k": {"classes": ["wall"]}})}
    params, rates = on_paper(Protocol(), ["ade20k", "cityscapes"]), {"image": 1.0, "text": 0.0, "label": 0.0}
    found = estimate.evaluation_seconds(tiny_clip, params, rates, ade20k)
    lacks = {
        "segmentation, native": "cityscapes",
        "segmentation's pictures": "cityscapes",
        "ablation readings": "voc20",
    }
    assert list(found) == [f"{line} (without {name})" for line, name in lacks.items()]
    assert [seconds > 0 for seconds in found.values()] == [True, False, False]


@pytest.fixture
def needs(tiny_clip, on_paper, monkeypatch):
    """What the estimate of the profile paper prints, without benchmarks' photos, of given counts and rates."""

    def of(counts, rates, training_seconds=0):
        params = on_paper(Protocol(), ["ade20k", "cityscapes"])
        made = {"load_params": params, "load_clip": tiny_clip, "counted": counts, "measured": rates}
        none = {"all_scenes": {}, "training_images": None, "ablation_seconds": 0, "needed": []}
        none["training_seconds"] = training_seconds
        for name, value in (made | none).items():
            monkeypatch.setattr(estimate, name, lambda *_, value=value, **options: value)
        return estimate.whole_run("paper", Path("rehearsed"), "random", Path("raw"))

    return of


COUNTED = dict.fromkeys(("kept images", "kept texts", "aligned", "classified", "class prompts"), 0)
RATES = {"image": 1.0, "text": 1.0, "label": 0.0, "linear": 0.0, "square": 0.0}


def test_the_sum_names_what_it_leaves_out_and_times_stand_below_each_other(needs):
    _, *lines = needs(COUNTED, RATES)
    assert lines[-1].startswith("  all together (without ade20k, cityscapes) ")
    assert len({len(line) for line in lines}) == 1


def test_each_part_has_its_own_counts_and_the_sum_has_all(needs):
    """Images of 0.5 and texts of 0.1 seconds: features, training, an embedder, patches of PACL's methods, all."""
    counts = COUNTED | {"kept images": 100, "kept texts": 500, "aligned": 20}
    first, *lines = needs(counts, RATES | {"image": 0.5, "text": 0.1}, training_seconds=300)
    found = {line.rsplit(maxsplit=2)[0].strip(): float(line.split()[-2]) for line in lines if line.startswith("  ")}
    methods = load_params("paper", "patch_alignment").patch_alignment.methods
    aligned = 20 * 0.5 * (1 + 1 + (len(methods) - 1) / 2)  # CLIP itself, and methods that differ in one block of two
    assert "2.0 images/s, 10.0 texts/s" in first
    assert (found["features"], found["train"], found["a trained embedder after"]) == (1.7, 5.0, 6.7)
    assert found["patch_alignment"] == round(aligned)
    (everything,) = (value for name, value in found.items() if name.startswith("all together"))
    assert everything == pytest.approx((400 + aligned) / 60, abs=0.05)


def test_an_image_to_classify_is_read_once(needs):
    """600 images of a second and 300 prompts of a second."""
    lines = needs(COUNTED | {"classified": 600, "class prompts": 300}, RATES)
    assert ["classification", "15.0", "minutes"] in [line.split() for line in lines]


def test_ablation_points_are_trained_and_measured_for_each_seed():
    rates = {"linear": 0.01, "square": 0.0, "scene": 0.002, "image": 0.5, "text": 0.1}
    params = load_params("flickr8k", "train", "model", "features", "ablations")
    points = {
        "default": {},
        "value": {"tokens": "value"},
        "templates_1": {"templates": "one"},
        "scale_3": {"scale": 3.0},
    }
    params.ablations = params.ablations.model_copy(update={"points": points, "seeds": [0, 1]})
    found = estimate.ablation_seconds(params, rates, {"measured": 1449, "nouns": 50, "trained on": 4000})
    run = 2 * (4000 // 64) * 64 * 0.01 + 1449 * 0.002
    assert found == pytest.approx(4 * 2 * run + (4000 + 1449) * 0.5 + 50 * 1 * 0.1)
    assert estimate.ablation_seconds(params, rates, {"measured": 1449, "nouns": 50, "trained on": 3999}) == 0


def test_features_on_the_disk_take_two_bytes_a_number(tiny_clip, tmp_path):
    """16 tokens of 32 numbers an image, 16 numbers a text: 2^30 and 2^31 bytes."""
    params = load_params("flickr8k", *estimate.SECTIONS)
    counts = {"kept images": 2**20, "kept texts": 2**26, "aligned": 0}
    assert estimate.needed(tiny_clip, params, counts, tmp_path)[0] == "Disk: 3.0 GiB of features."


def test_other_disk_and_memory_needs_by_hand(tiny_clip, tmp_path, monkeypatch):
    """16 tokens an image of 32 numbers, in memory of four bytes; 100 bytes of shards with two pairs for 2^24."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.tar").write_bytes(b"0" * 100)
    monkeypatch.setattr(estimate.shards, "survey", lambda found, share: ([2], ""))
    monkeypatch.setattr(estimate.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2**21))
    params = load_params("paper", *estimate.SECTIONS)
    params.train = params.train.model_copy(update={"pairs": 2**24, "batch_size": 2**14, "accumulate": 4})
    params.patch_alignment = params.patch_alignment.model_copy(update={"methods": ["clip", "pacl", "sclip"]})
    disk, memory = estimate.needed(
        tiny_clip, params, {"kept images": 2**15, "kept texts": 0, "aligned": 2**18}, tmp_path
    )
    assert disk == "Disk: 32 MiB of features, and 0.8 GiB of shards by the size of those that are there."
    batch = 4 * 2**14 * 16 * (32 + 3 * 16) / 4 / 2**20
    assert memory.startswith(
        f"Memory: 2.0 GiB at most in the rehearsal; beyond it about {batch:.0f} MiB for a training"
    )
    assert "2.0 GiB for the tokens of notebook 4." in memory  # CLIP's own and three methods', 0.5 GiB each


def test_rates_come_from_two_sizes_of_batch(tiny_clip, monkeypatch, tmp_path):
    """Decoding 0.8 s and encoding 1.6 s for 8 images; steps of 128 and 256 pairs with 1 ms a pair and 1 µs a square."""
    (tmp_path / "texts.json").write_text('{"captions": ["a", "b", "c", "d"]}')
    taken = iter([0.8, 1.6, 2.0, 32 * 256**2 * 0.25, 0.0])
    monkeypatch.setattr(estimate, "seconds_of", lambda work: next(taken))
    monkeypatch.setattr(estimate, "step", lambda clip, params, pairs: 1e-3 * pairs + 1e-6 * pairs**2)
    photos = [Image.new("RGB", (40, 40))] * 10
    found = estimate.measured(tiny_clip, load_params("paper", "train"), photos, tmp_path)
    assert found == pytest.approx(
        {"image": 0.3, "text": 0.5, "label": 0.25, "scene": 0.0, "linear": 1e-3, "square": 1e-6}
    )
    assert estimate.step_seconds(found, 1000) == pytest.approx(2.0)


def test_work_is_timed_by_the_quicker_of_two_runs(monkeypatch):
    ticks, done = iter([0.0, 3.0, 10.0, 12.0]), []
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(ticks))
    assert estimate.seconds_of(lambda: done.append(1)) == 2.0 and len(done) == 2


def test_processor_time_is_of_user_and_system(monkeypatch):
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_utime=2.0, ru_stime=0.5))
    assert processor_seconds() == 2.5


@pytest.mark.slow
def test_flickr8k_is_rehearsed_on_real_photos(real_data):
    told = rehearse("flickr8k", str(real_data))
    ran = [name for name, _ in stages(ROOT, "flickr8k", {"ablations": {"points": ["default", "matched_only"]}})]
    assert [line.split()[0] for line in told.splitlines()[1 : 1 + len(ran)]] == ran
    for part in ("images/s", "a trained embedder after", "segmentation, native", "all together", "Disk: ", "Memory: "):
        assert part in told


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (40, "40 seconds"),
        (89, "89 seconds"),
        (90, "1.5 minutes"),
        (600, "10.0 minutes"),
        (7200, "2.0 hours"),
        (864000, "10.0 days"),
    ],
)
def test_times_in_words(seconds, words):
    assert estimate.in_words(seconds) == words


def test_counts_of_the_whole_run_are_the_official_ones():
    params = load_params("paper", "prepare")
    assert scene_counts(params) == {
        **{"voc20": 1449, "voc21": 1449, "context59": 5105, "context60": 5105, "coco_stuff": 5000},
        **{"coco_object": 5000, "ade20k": 2000, "cityscapes": 500},
    }


def test_fewer_scenes_than_there_are_may_be_asked_for():
    params = load_params("mini", "prepare")
    assert scene_counts(params) == dict.fromkeys(params.prepare.benchmarks, params.prepare.test_scenes)
    for most, expected in ((600, 600), (1500, 1449), (None, 1449)):
        params.prepare = load_params("paper", "prepare").prepare.model_copy(update={"test_scenes": most})
        assert scene_counts(params)["voc20"] == expected


def test_what_a_whole_run_handles_by_hand(tmp_path):
    """Of Flickr8k's 8,091 photos 91 are held out; the rehearsal had four of them, with ten texts and four nouns."""
    few = {"captions": ["text"] * 10, "nouns": ["noun"] * 4}
    few |= {"train": {"captions": [[0]] * 3}, "validation": {"captions": [[1]]}}
    (tmp_path / "data/features/flickr8k").mkdir(parents=True)
    (tmp_path / "data/features/flickr8k/texts.json").write_text(json.dumps(few))
    params = load_params("flickr8k", *estimate.SECTIONS)
    changes = {"train_pairs": 9000, "validation_scenes": 91, "benchmarks": ["voc20", "ade20k"], "test_scenes": None}
    params.prepare = params.prepare.model_copy(update=changes)
    params.patch_alignment = params.patch_alignment.model_copy(update={"benchmark": "ade20k"})
    params.classification = params.classification.model_copy(update={"sets": ["imagenet", "imagenet_a"]})
    found = counted("flickr8k", params, tmp_path)
    nouns = 4 * (8091 / 4) ** 0.7
    assert (found["trained on"], found["measured"], found["aligned"]) == (8000, 1449, 2000)
    assert (found["kept images"], found["nouns"]) == (8091 + 1449, round(nouns))
    assert found["kept texts"] == round(10 * 8091 / 4 + 7 * nouns)
    assert found["classified"] == 50000 + 91 + 7500 + 91
    params.prepare = params.prepare.model_copy(update={"train_pairs": 3000})
    assert counted("flickr8k", params, tmp_path)["kept images"] == 3091 + 1449


def test_classification_sets_are_counted_with_their_own_templates_or_the_profiles():
    params = load_params("paper", "prepare", "classification")
    params.prepare = params.prepare.model_copy(update={"validation_scenes": 10})
    for templates, forms in (("own", 80), ("seven", 7)):
        params.classification = params.classification.model_copy(update={"templates": templates})
        assert prompts_of("imagenet", params) == 1000 * forms
    params.prepare = params.prepare.model_copy(update={"classification_images": 300})
    assert images_of("imagenet", params) == 300 + 10
    params.prepare = load_params("mini", "prepare").prepare.model_copy(update={"classification_images": 300})
    assert images_of("clean", params) == 600 and prompts_of("clean", params) == 0


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_make_rehearse_names_what_is_missing(tmp_path, monkeypatch):
    make = ["make", "-n", "--no-print-directory", "rehearse", "PROFILE=flickr8k", "DATA=data/raw"]
    asked = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert asked == "python -m pacl.tools.rehearse flickr8k --data data/raw"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["pacl.tools.rehearse", *asked.split()[3:-1], str(tmp_path)])
    with pytest.raises(SystemExit, match="where it is expected: .*flickr8k: captions.txt"):
        runpy.run_module("pacl.tools.rehearse", run_name="__main__")
