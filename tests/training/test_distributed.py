"""Several processes train as one: the loss, the gradients and the weights of one process (gloo, on the CPU)."""

import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers.small_training import join_as, params, processes, random_pairs, run_rank, train_uneven

from pacl.checkpoints import load_embedder, save_embedder
from pacl.clip import load_clip
from pacl.data.images import Images, Masks
from pacl.data.prepared import all_scenes
from pacl.evaluation.segmentation import segmentation, segmentation_of_sets
from pacl.evaluation.spread import measure_profile, segmentation_over_ranks
from pacl.metrics import mean_iou, pixel_accuracy
from pacl.model import VisionEmbedder
from pacl.runtime.config import load_params
from pacl.runtime.files import rounded
from pacl.runtime.params import Protocol
from pacl.segment import methods_of
from pacl.sources.prepare import prepare
from pacl.training import distributed
from pacl.training.cached import CachedPairs
from pacl.training.train import train, train_profile

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def run_together(world, target, *arguments):
    """The exit codes of so many processes that join each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [processes.Process(target=target, args=(rank, world, port, *arguments)) for rank in range(world)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    for process in started:
        process.kill()
    return [process.exitcode for process in started]


def train_together(world, folder, changes):
    """The exit codes of so many processes, and what the first of them found."""
    codes, found = run_together(world, run_rank, folder, changes), folder / "found.pt"
    return codes, torch.load(found) if found.exists() else None


def assert_same(found, expected):
    """Loss, gradients, weights and history, to 1e-5."""
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for some, others in zip(found[1:3], expected[1:3], strict=True):
        assert some.keys() == others.keys()
        for name in some:
            torch.testing.assert_close(some[name], others[name], atol=1e-5, rtol=1e-5, msg=name)
    for row, other in zip(found[3], expected[3], strict=True):
        assert row == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (2, {}),
        (3, {"text_embedder": "linear", "accumulate": 2}),
        (3, {"pooling": "matched_only", "mask_same_text": False, "noun_share": 0.0}),
    ],
    ids=["two", "three, text head, in parts", "three, matched only"],
)
def test_several_processes_are_one(world, changes, tmp_path):
    """Batches of 7, 7 and 5 pairs, 6 epochs."""
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    expected = train_uneven(tmp_path / "alone", dict(changes))
    codes, found = train_together(world, tmp_path / "together", changes)
    assert codes == [0] * world
    assert_same(found, expected)
    assert min(gradient.abs().max() for gradient in expected[1].values()) > 1e-4
    assert sorted(path.name for path in (tmp_path / "together/out/mini").iterdir()) == [
        "best.json", "best.safetensors", "last.json", "last.safetensors",
    ]  # fmt: skip


def test_another_number_of_processes_goes_on(tmp_path):
    """Two processes are cut in the fourth epoch, three go on."""
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    expected = train_uneven(tmp_path / "alone", {})
    codes, _ = train_together(2, tmp_path / "together", {"stop": 10})
    assert codes == [1, 1] and list(tmp_path.glob("together/out/.resume/mini/*/*10.safetensors"))
    codes, found = train_together(3, tmp_path / "together", {})
    assert codes == [0, 0, 0]
    assert_same(found, expected)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with features of 24 pairs, which `python -m pacl.training.train` can train on."""
    features = tmp_path / "data/features/mini"
    patches, _ = random_pairs(features, 24)
    for split in ("train", "validation"):
        np.save(features / f"{split}_patches.npy", patches)
    table = json.loads((features / "texts.json").read_text())
    (features / "texts.json").write_text(json.dumps(table | {"validation": table["train"]}))
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["mini"]["train"] |= {"pairs": 24, "batch_size": 8, "epochs": 2, "warmup_steps": 1}
    settings["mini"]["train"]["precision"] = "float32"  # parts of a batch are rounded otherwise than the whole
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_torchrun_trains_a_profile(project):
    train_profile("mini")
    alone, about = load_embedder(project / "checkpoints/mini/last")
    for path in (project / "checkpoints/mini").iterdir():
        path.unlink()
    subprocess.run([*TORCHRUN, "-m", "pacl.training.train", "--profile", "mini"], check=True, capture_output=True)
    together, about_together = load_embedder(project / "checkpoints/mini/last")
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, atol=1e-5, rtol=1e-5)
    assert [row["step"] for row in about["history"]] == [row["step"] for row in about_together["history"]] == [3, 6]


def test_images_are_shared_out_whole_batch_by_whole_batch(monkeypatch):
    for count, world, expected in ((10, 2, [6, 4]), (10, 3, [4, 4, 2]), (3, 4, [2, 1, 0, 0]), (0, 2, [0, 0])):
        monkeypatch.setattr(distributed, "world", lambda world=world: world)
        parts = []
        for rank in range(world):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(distributed.own_part(count, 2))
        assert [len(part) for part in parts] == expected and [i for part in parts for i in part] == list(range(count))


def test_each_process_measures_whole_batches_and_adds_up_what_all_of_them_counted(monkeypatch):
    """The second of two: the last two of six scenes, in batches of four."""
    scenes = np.arange(6, dtype=np.uint8)
    images = Images(np.broadcast_to(scenes[:, None, None, None], (6, 4, 4, 3)))
    masks = Masks(np.broadcast_to(scenes[:, None, None], (6, 4, 4)))
    measured = []

    def measure(clip, methods, images, masks, wanted, protocol, *, batch_size):
        measured.append(([images[i].getpixel((0, 0))[0] for i in range(len(images))], len(masks), batch_size))
        assert [int(masks[i][0, 0]) for i in range(len(masks))] == measured[-1][0]
        return {name: {"pacl": torch.tensor([1])} for name in wanted}

    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "summed", lambda tensor, device: tensor + 10)
    monkeypatch.setattr("pacl.evaluation.spread.segmentation", measure)
    sets = {"": (images, masks, {"voc20": {}, "voc21": {}})}
    clip = SimpleNamespace(device=torch.device("cpu"))
    found = segmentation_over_ranks(clip, {}, sets, ["voc21", "voc20"], Protocol(), batch_size=4)
    assert measured == [([4, 5], 2, 4)] and list(found) == ["voc21", "voc20"]
    assert found["voc20"]["pacl"].item() == 11


def test_segmentation_by_several_processes_is_that_of_one(project, before_forks, monkeypatch):
    """Five scenes in batches of two by two processes, against the evaluation of one process; to the last digit."""
    settings = yaml.safe_load((project / "params.yaml").read_text())
    mini = settings["mini"]
    few = {"train_pairs": 24, "validation_scenes": 2, "test_scenes": 5, "classification_images": 1}
    mini["prepare"] |= few | {"classification_sets": ["clean"], "benchmarks": ["voc21", "context59"]}
    mini["segmentation"] |= {"batch_size": 2, "protocols": ["sclip"], "benchmarks": ["voc21", "context59"]}
    mini["segmentation"]["methods"] = ["clip", "pacl"]
    mini["protocols"]["sclip"]["templates"] = "one"
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    for name in ("miniclip", "templates.yaml", "classes", "classification", "miniworld"):
        (project / "data" / name).symlink_to(ROOT / "data" / name)
    prepare(project / "data/prepared/mini", load_params("mini", "prepare").prepare)
    torch.manual_seed(0)
    save_embedder(project / "checkpoints/mini/best", VisionEmbedder(128, 128), {})

    def measure_rank(rank, world, port):
        join_as(rank, world, port)
        counted = []
        monkeypatch.setattr(
            "pacl.evaluation.spread.segmentation",
            lambda clip, methods, images, *others, batch_size: (
                counted.append(len(images)) or segmentation(clip, methods, images, *others, batch_size=batch_size)
            ),
        )
        measure_profile("mini", Path("found.json"))
        Path(f"images of {rank}.json").write_text(json.dumps(counted))

    assert run_together(2, measure_rank) == [0, 0]
    assert [json.loads((project / f"images of {rank}.json").read_text()) for rank in (0, 1)] == [[4], [1]]
    found = json.loads((project / "found.json").read_text())
    params = load_params("mini", "protocols", "segmentation")
    clip = load_clip("miniclip", "data/miniclip", dtype=mini["model"]["dtype"])
    methods = methods_of(clip, load_embedder(project / "checkpoints/mini/best")[0], ["clip", "pacl"])
    image_sets = all_scenes(project / "data/prepared/mini", "test")
    protocol = params.protocols.named(["sclip"])["sclip"]
    confmats = segmentation_of_sets(clip, methods, image_sets, ["voc21", "context59"], protocol, batch_size=2)
    assert found == {
        name: {"sclip": {m: rounded({"miou": mean_iou(c), "pixel_accuracy": pixel_accuracy(c)}) for m, c in of.items()}}
        for name, of in confmats.items()
    }
    assert found["voc21"]["sclip"]["clip"] != found["voc21"]["sclip"]["pacl"]


def test_more_processes_than_pairs_in_a_batch_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 2 can't be shared by 3 processes: start fewer"):
        train(None, params(pairs=4, batch_size=2))


def test_a_process_that_dies_stops_all_and_says_why(project, monkeypatch, capfd):
    """The second process's disk fails in the second epoch, while the first waits for it."""
    whole = CachedPairs.epoch

    def epoch(self, number, *who):
        if number == 1 and distributed.rank() == 1:
            raise OSError("the disk of rank 1 is gone")
        return whole(self, number, *who)

    def train_rank(rank, world, port):
        join_as(rank, world, port)
        train_profile("mini")

    monkeypatch.setattr(CachedPairs, "epoch", epoch)
    assert run_together(2, train_rank) == [1, 1]
    assert "the disk of rank 1 is gone" in capfd.readouterr().err
    assert len(load_embedder(project / "checkpoints/mini/last")[1]["history"]) == 1
    assert list(project.glob("checkpoints/.resume/mini/*/step-000000003.safetensors"))


@pytest.mark.parametrize("output", [".", "file.txt/found.json"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch, output):
    (tmp_path / "file.txt").touch()
    monkeypatch.setattr("pacl.runtime.config.load_params", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("sys.argv", ["pacl.evaluation.spread", "--output", str(tmp_path / output)])
    with pytest.raises(SystemExit, match="can't be written: let --output name a file in a folder"):
        runpy.run_module("pacl.evaluation.spread", run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_measures_the_profile_it_is_given(tmp_path, monkeypatch):
    def refuse(profile, *sections):
        raise ValueError(f"{profile} has no {', '.join(sections)}.")

    monkeypatch.setattr("pacl.runtime.config.load_params", refuse)
    monkeypatch.setattr(
        "sys.argv", ["pacl.evaluation.spread", "--profile", "paper", "--output", str(tmp_path / "found.json")]
    )
    with pytest.raises(SystemExit, match="^paper has no model, protocols, segmentation.$"):
        runpy.run_module("pacl.evaluation.spread", run_name="__main__")
