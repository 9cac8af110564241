"""What a rehearsal changes in a profile, what it leaves out, and its estimates against hand-made numbers."""

import runpy
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from helpers.folders import write_flickr8k, write_image, write_voc
from helpers.imports import ROOT
from helpers.profiles import params_of

from pacl.runtime.config import read_section
from pacl.runtime.files import write_json
from pacl.runtime.params import Profile, Protocol
from pacl.tools import rehearse as module
from pacl.tools.estimate import Rehearsed, counts, seconds, work
from pacl.tools.rehearse import in_words, lay_out, needs, reduced, rehearse, run_stage, small, stages
from speed import epoch

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PROFILES = ("mini", "flickr8k", "paper", "paper_l14")


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Flickr8k and VOC, with weights that need no download."""
    write_flickr8k(tmp_path / "raw/flickr8k", "abcdefgh")
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["v1", "v2", "v3"])
    monkeypatch.setattr(module, "load_clip_of", lambda model: None)
    return tmp_path / "raw"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("items", [1, 8, 10_000])
def test_a_reduced_profile_is_valid_and_no_larger(profile, items):
    original = yaml.safe_dump(PARAMS[profile])
    few = reduced(PARAMS[profile], items)
    found = {name: read_section(profile, name, few) for name in Profile.model_fields}
    whole = params_of(profile)
    assert found["train"].pairs <= found["prepare"].train_pairs <= min(4 * items, whole.prepare.train_pairs)
    assert found["prepare"].validation_scenes <= min(2 * items, whole.prepare.validation_scenes)
    assert found["ablations"].inference_scenes <= whole.ablations.inference_scenes
    assert list(found["ablations"].points) == ["default", "matched_only", "value", "templates_80"]
    assert found["protocols"].native.token_stride == whole.protocols.native.token_stride
    assert yaml.safe_dump(PARAMS[profile]) == original


def test_the_embedder_is_compiled_on_a_gpu_only(monkeypatch):
    for gpu in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert reduced(PARAMS["paper"], 4)["train"]["compile"] == gpu


def test_the_mini_world_needs_no_downloaded_data(tmp_path, raw):
    section, notes = module.what_is_there(PARAMS["mini"], params_of("mini"), tmp_path)
    assert not notes and section == PARAMS["mini"]


def test_what_is_missing_is_left_out_and_listed(raw):
    section, notes = module.what_is_there(PARAMS["flickr8k"], params_of("flickr8k"), raw)
    assert not notes and section["prepare"]["raw"] == str(raw)
    assert section["prepare"]["benchmarks"] == ["voc20", "voc21"]
    write_image(raw / "own/test/cat/1.png")
    write_image(raw / "own/validation/cat/1.png")
    wanted = {"benchmarks": ["ade20k", "voc20"], "classification_sets": ["own", "eurosat"], "shown": "coco_seen"}
    changed = PARAMS["flickr8k"] | {
        "prepare": PARAMS["flickr8k"]["prepare"] | wanted,
        "segmentation": PARAMS["flickr8k"]["segmentation"] | {"benchmarks": wanted["benchmarks"]},
        "classification": PARAMS["flickr8k"]["classification"] | {"sets": wanted["classification_sets"]},
    }
    section, (note,) = module.what_is_there(changed, params_of("flickr8k"), raw)
    assert "the whole run would stop here" in note and "ADE20K" in note and "eurosat" in note.lower()
    assert "COCO val2017 with instances" in note and section["prepare"]["shown"] is None
    assert section["prepare"]["benchmarks"] == section["segmentation"]["benchmarks"] == ["voc20"]
    assert section["prepare"]["classification_sets"] == section["classification"]["sets"] == ["own"]
    nothing = changed | {"prepare": changed["prepare"] | {"benchmarks": ["ade20k"]}}
    with pytest.raises(FileNotFoundError, match="ADE20K"):
        module.what_is_there(nothing, params_of("flickr8k"), raw)
    with pytest.raises(FileNotFoundError, match="image-caption shards"):
        module.what_is_there(PARAMS["paper"], params_of("paper"), raw)


def test_missing_weights_are_replaced_by_random_ones_and_said(raw, monkeypatch):
    def missing(model):
        raise FileNotFoundError("the weights are nowhere.")

    monkeypatch.setattr(module, "load_clip_of", missing)
    section, notes = module.what_is_there(PARAMS["flickr8k"], params_of("flickr8k"), raw)
    assert section["model"]["pretrained"] == "random" and PARAMS["flickr8k"]["model"]["pretrained"] == "openai"
    assert notes == ["Rehearsed with random weights: the weights are nowhere."]


def test_a_protocol_of_ones_own_may_leave_all_but_one_value_to_the_defaults():
    assert small("mine", {"logit_scale": 20.0}) == {"logit_scale": 20.0, "short_side": 224}
    windows = {"short_side": 448, "window": 448, "window_stride": 224}
    assert small("mine", windows) == {"short_side": 224, "window": 224, "window_stride": 112}
    less = {"short_side": 100, "per_benchmark": {"voc21": {"short_side": 560, "logit_scale": 50.0}}}
    assert small("mine", less) == {"short_side": 100, "per_benchmark": {"voc21": {"logit_scale": 50.0}}}
    assert small("native", {"window": 64, "window_stride": 32})["window_stride"] == 32


def test_the_stages_are_those_of_the_pipeline_in_an_order_that_can_run():
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found = stages(ROOT, "mini", PARAMS)
    assert list(found) == [name for name, stage in pipeline.items() if not stage.get("frozen")]
    assert {name: runs for name, (_, runs) in found.items() if runs != 1} == {"world": len(PARAMS["world_seeds"])}
    assert not any("$" in part for command, _ in found.values() for part in command)
    made = {name: [next(iter(o)) if isinstance(o, dict) else o for o in pipeline[name]["outs"]] for name in found}
    for position, name in enumerate(found):
        for later in list(found)[position:]:
            needed = [dep for dep in pipeline[name]["deps"] for out in made[later] if dep == out]
            assert not needed, f"{name} needs {needed}, which {later} makes after it"


def test_a_stage_that_fails_is_named_with_what_it_said(tmp_path):
    lay_out(ROOT, tmp_path / "few", PARAMS)
    assert (tmp_path / "few/notebooks/01_prepare.ipynb").is_file() and not (tmp_path / "few/data/prepared").exists()
    templates = yaml.safe_load((tmp_path / "few/data/templates.yaml").read_text())
    assert all(len(forms) == 1 for forms in templates.values())
    command = ["python3", "-c", "import sys; sys.exit('the disk is full.')"]
    with pytest.raises(RuntimeError, match="stage features failed:\nthe disk is full."):
        run_stage("features", command, tmp_path, ROOT)


# --- estimates ---


def test_time_is_a_start_up_and_a_rate_times_work():
    assert seconds([5.0, 8.0], [10.0, 40.0], 1000.0) == pytest.approx(4.0 + 0.1 * 1000)
    assert seconds([5.0, 4.9], [10.0, 40.0], 1000.0) == 4.9, "noise is not a rate"
    assert seconds([5.0, 5.5], [0.0, 0.0], 0.0) == 5.5 and seconds([5.0, 8.0], [10.0, 40.0], 20.0) == 8.0


@pytest.fixture
def rehearsed(tiny_clip):
    """Photos of 32 x 48 pixels of VOC, and of each of 4 photos 2 captions and 1 noun."""
    return Rehearsed(tiny_clip, dict.fromkeys(("voc20", "voc21"), [(32, 48)]), (2.0, 4, 4))


def block(N: int, D: int) -> int:
    """Four D x D maps of attention, two of D x 4D, and twice N x N x D: two operations a product."""
    return 2 * (4 * N * D * D + 2 * N * D * 4 * D + 2 * N * N * D)


@pytest.mark.parametrize(
    ("protocol", "tokens"),
    [
        ({}, [24]),  # patches of 8 pixels
        ({"token_stride": 4}, [77]),
        ({"token_stride": 2, "passes": "shifted"}, [24] * 16),
        ({"short_side": 16, "window": 16, "window_stride": 8}, [4, 4]),  # resized to 16 x 24: two windows
        ({"per_benchmark": {"voc20": {"short_side": 16}}}, [6]),
    ],
)
def test_a_scenes_passes_are_those_of_its_protocol(rehearsed, protocol, tokens):
    found = rehearsed.scene(Protocol.model_validate(protocol), "voc20")
    assert found == rehearsed.layers * sum(block(N, rehearsed.clip.width) for N in tokens)
    assert rehearsed.scene(Protocol(), "cityscapes") == 0


def test_a_trainings_operations_are_those_of_its_steps(rehearsed):
    train = params_of("flickr8k", train={"epochs": 2, "pairs": 35, "batch_size": 10}).train
    sizes = (10, 16, rehearsed.clip.width, rehearsed.clip.dim)
    assert rehearsed.training(train) == 6 * epoch.operations(*sizes)


def test_what_a_rehearsed_project_tells(tmp_path, tiny_clip, monkeypatch):
    photos = [SimpleNamespace(size=(48, 32)), SimpleNamespace(size=(30, 40))]
    one = SimpleNamespace(images=photos, benchmarks={"voc20": None})
    monkeypatch.setattr("pacl.tools.estimate.all_scenes", lambda folder, split: {"voc": one})
    texts = {"captions": ["text"] * 10, "nouns": ["noun"] * 3}
    texts |= {"train": {"captions": [[0]] * 3}, "validation": {"captions": [[1]]}}
    write_json(tmp_path / "data/features/mine/texts.json", texts)
    found = Rehearsed.read(tmp_path, "mine", tiny_clip)
    assert (found.sizes, found.texts) == ({"voc20": [(32, 48), (40, 30)]}, (2.5, 3, 4))


def test_items_of_the_whole_run_are_the_official_ones(rehearsed):
    scenes = {"voc20": 1449, "voc21": 1449, "context59": 5105, "context60": 5105, "coco_stuff": 5000}
    scenes |= {"coco_object": 5000, "ade20k": 2000, "cityscapes": 500}
    found = counts(params_of("paper"), rehearsed)
    assert found.scenes == scenes and found.images == 1449 + 5105 + 5000 + 2000 + 500
    mini = counts(params_of("mini"), rehearsed)
    assert (mini.images, mini.encoded, mini.labelled) == (1000, 21000, 12 * 2 * 400)
    for most, expected in ((600, 600), (1500, 1449), (None, 1449)):
        assert counts(params_of("paper", prepare={"test_scenes": most}), rehearsed).scenes["voc20"] == expected


def test_items_of_a_whole_run_by_hand(rehearsed):
    """Of Flickr8k's 8,091 photos 91 are held out; its nouns grow more slowly than its photos."""
    prepare = {"train_pairs": 9000, "validation_scenes": 91}
    sets = {"sets": ["imagenet", "imagenet_a"]}
    found = counts(params_of("flickr8k", prepare=prepare, classification=sets), rehearsed)
    assert (found.pairs, found.encoded, found.captions) == (8000, 8091, 2 * 8091)
    assert rehearsed.nouns(found.encoded) == pytest.approx(4 * (8091 / 4) ** 0.7)
    assert found.labelled == 50000 + 91 + 7500 + 91
    assert counts(params_of("flickr8k", prepare={"train_pairs": 3000}), rehearsed).encoded == 4000
    few = params_of("flickr8k", prepare=prepare | {"classification_images": 300}, classification=sets)
    assert counts(few, rehearsed).labelled == 2 * (300 + 91)


def test_each_stages_work_by_hand(rehearsed):
    """32 x 48 pixels have 24 tokens, CLIP's own size 16; each of its two methods differs in one of two blocks."""
    one, image = {"templates": "one"}, rehearsed.layers * block(16, 32)
    params = params_of(
        "flickr8k",
        prepare={"train_pairs": 4000, "validation_scenes": 96},
        segmentation={"protocols": ["native"], "methods": ["clip", "pacl"]},
        protocols={"native": Protocol()},
        features=one,
        ablations={"points": {"default": {}, "value": {"tokens": "value"}, "one": one, "many": {"pairs": 5000}}},
    )
    found = work(params, rehearsed, whole=True)
    scene, nouns = rehearsed.scene(Protocol(), "voc20"), 4 * 1024**0.7 * 0.1 * image
    assert found["features"] == pytest.approx(4096 * (1 + 2 * 0.1) * image + nouns)
    params.features = params.features.model_copy(update={"templates": "seven"})  # of which a rehearsal has the first
    few, many = (work(params, rehearsed, whole=whole)["features"] for whole in (False, True))
    assert (few, many - few) == pytest.approx((found["features"], 6 * nouns))
    assert (found["prepare"], found["patch_alignment"], found["classification"]) == (4096 + 1449, 1449, 0)
    assert found["segmentation"] == pytest.approx(1449 * 1.5 * scene) and found["scenes"] == 300
    strides = [{"token_stride": 4}, {"token_stride": 4, "passes": "shifted"}]  # which has 8's and 16's tokens
    read = sum(rehearsed.scene(Protocol.model_validate(one), "voc20") for one in strides)
    searched = scene + rehearsed.scene(params.protocols.sclip, "voc21") + rehearsed.scene(params.protocols.tcl, "voc21")
    assert found["ablations"] == pytest.approx(100 * (read + 1.5 * searched)) and found["world"] == 0
    trained = rehearsed.training(params.train.model_copy(update=params.ablations.base))
    points = 3 * 3 * trained + (4000 + 1449) * image + 4 * 1000**0.7 * 0.1 * image  # a point's own nouns
    assert found["ablation_points"] == pytest.approx(1449 * image + points)
    streamed = work(params_of("paper"), rehearsed, whole=True)["train"] - rehearsed.training(params_of("paper").train)
    assert streamed == pytest.approx(10 * 10_000_000 * 1.1 * image)


def test_benchmarks_of_one_image_set_are_read_once_for_each_size(rehearsed):
    found = []
    for own in ({}, {"voc21": {"short_side": 16}}):
        protocols = {"native": Protocol.model_validate({"per_benchmark": own})}
        params = params_of("flickr8k", protocols=protocols, segmentation={"protocols": ["native"], "methods": ["pacl"]})
        found.append(work(params, rehearsed, whole=True)["segmentation"])
    large, less = (2 * block(N, rehearsed.clip.width) for N in (24, 6))
    assert found == [1449 * large, 1449 * (large + less)]


def test_the_table_adds_up_and_names_a_trained_embedder():
    """4 seconds of start-up and 1 second for each of 100 items; the world runs twice, the report isn't scaled."""
    names = ("features", "train", "world", "report")
    times = [dict.fromkeys(names, 4.0 + count) for count in (1, 2)]
    works = [dict.fromkeys(names[:3], float(count)) for count in (1, 2, 100)]
    lines = module.time_table(times, works, {"features": 1, "train": 1, "world": 2, "report": 1})
    found = {line[:20].strip(): line.split("   ")[-1].strip() for line in lines[1:]}
    assert [found[name] for name in names] == ["1.7 minutes", "1.7 minutes", "3.5 minutes", "6 seconds"]
    assert found["a trained embedder"] == "3.5 minutes" and found["all together"] == "7.0 minutes"
    assert lines[-1].split()[2:6] == ["20.0", "s", "24.0", "s"]


def test_disk_and_memory_by_hand(rehearsed, tmp_path, monkeypatch):
    """16 tokens of 32 numbers an image, 16 numbers a text; 100 bytes of shards with two pairs for 2^24."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.tar").write_bytes(b"0" * 100)
    monkeypatch.setattr(module.shards, "survey", lambda found, share: ([2], ""))
    monkeypatch.setattr(module.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2**21))
    params = params_of(
        "paper",
        prepare={"train_pairs": 2**21 - 1000, "benchmarks": ["voc20"], "test_scenes": 2**10},
        train={"pairs": 2**24, "batch_size": 2**14, "accumulate": 4},
        features={"templates": "one"},
        patch_alignment={"methods": ["clip", "pacl", "sclip"]},
    )
    rehearsed.texts, rehearsed.kept = (1.0, 0, 4), {"voc20": 2**17}
    disk, memory = needs(params, rehearsed, tmp_path)
    tokens = 300 * 7 * 11  # of 32 x 48 pixels, one every 4
    assert disk == (
        "Disk: 2.1 GiB of features, 0.8 GiB of shards by the size of those that are there, "
        f"{4 * 2**17 * tokens / 2**30:.1f} GiB of coarse logits."
    )
    batch = 4 * 2**14 * 16 * (32 + 3 * 16) / 4 / 2**20
    assert memory.startswith(
        f"Memory: 2.0 GiB at most in the rehearsal; beyond it about {batch:.0f} MiB for a training"
    )
    assert memory.endswith("8 MiB for the tokens of patch_alignment.")  # CLIP's own and three methods', 2 MiB each


def test_times_in_words():
    assert list(map(in_words, (89, 90, 7200, 864000))) == ["89 seconds", "1.5 minutes", "2.0 hours", "10.0 days"]


@pytest.mark.slow
def test_flickr8k_is_rehearsed_on_real_photos(real_data):
    told = rehearse("flickr8k", str(real_data)).splitlines()
    names = [line.split()[0] for line in told if "minutes" in line or "hours" in line or "seconds" in line]
    assert [name for name in names if name not in ("a", "all")] == list(stages(ROOT, "flickr8k", PARAMS))
    assert any(line.startswith("Disk: ") for line in told) and any(line.startswith("Memory: ") for line in told)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_make_rehearse_names_what_is_missing(tmp_path, monkeypatch):
    make = ["make", "-n", "--no-print-directory", "rehearse", "PROFILE=flickr8k", "DATA=data/raw"]
    asked = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert asked == "python -m pacl.tools.rehearse flickr8k --data data/raw"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["pacl.tools.rehearse", *asked.split()[3:-1], str(tmp_path)])
    with pytest.raises(SystemExit, match="where it is expected: .*flickr8k: captions.txt"):
        runpy.run_module("pacl.tools.rehearse", run_name="__main__")
