"""The command that trains a profile: cached pairs or shards, one process or several, one training per folder."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.small_shards import write_shard
from helpers.small_training import join_as, random_pairs, run_together

from pacl.checkpoints import load_embedder
from pacl.training import __main__ as command
from pacl.training import distributed
from pacl.training.__main__ import main, train_profile
from pacl.training.cached import CachedPairs
from pacl.training.resume import sole_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with features of 24 pairs, which `python -m pacl.training` can train on."""
    features = tmp_path / "data/features/mini"
    patches, _ = random_pairs(features, 24)
    for split in ("train", "validation"):
        np.save(features / f"{split}_patches.npy", patches)
    table = json.loads((features / "texts.json").read_text())
    (features / "texts.json").write_text(json.dumps(table | {"validation": table["train"]}))
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["mini"]["train"] |= {"pairs": 24, "batch_size": 8, "epochs": 2, "warmup_steps": 1}
    settings["mini"]["train"]["precision"] = "float32"  # bfloat16 rounds parts of a batch differently from the whole
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def run_command(rank, world_size, port):
    """`python -m pacl.training --profile mini` with the environment that torchrun gives it."""
    join_as(rank, world_size, port)
    sys.argv[1:] = ["--profile", "mini"]
    runpy.run_module("pacl.training", run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_several_processes_train_a_profile_as_one_does(project):
    main(["--profile", "mini"])
    alone, about = load_embedder(project / "checkpoints/mini/last")
    for path in (project / "checkpoints/mini").iterdir():
        path.unlink()
    assert run_together(2, run_command) == [0, 0]
    together, about_together = load_embedder(project / "checkpoints/mini/last")
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, atol=1e-5, rtol=1e-5)
    assert [row["step"] for row in about["history"]] == [row["step"] for row in about_together["history"]] == [3, 6]
    assert (project / "reports/mini/live/plots/metrics/logit_scale.tsv").is_file()


def test_a_process_that_dies_stops_all_and_says_why(project, monkeypatch, capfd):
    """The second process's disk fails in the second epoch, while the first waits for it."""
    whole = CachedPairs.batches

    def batches(self, epoch, *who):
        if epoch == 1 and distributed.rank() == 1:
            raise OSError("the disk of rank 1 is gone")
        return whole(self, epoch, *who)

    def train_rank(rank, world_size, port):
        join_as(rank, world_size, port)
        train_profile("mini")

    monkeypatch.setattr(CachedPairs, "batches", batches)
    assert run_together(2, train_rank) == [1, 1]
    assert "the disk of rank 1 is gone" in capfd.readouterr().err
    assert len(load_embedder(project / "checkpoints/mini/last")[1]["history"]) == 1
    assert list(project.glob("checkpoints/.resume/mini/*/step-000000003.safetensors"))


@pytest.mark.parametrize("gpus, expected", [(0, ["here"]), (1, ["here"]), (2, ["in 2 processes"])])
def test_a_notebook_trains_on_every_gpu(monkeypatch, gpus, expected):
    started = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(command, "train_profile", lambda profile: started.append("here"))

    def launch(function, arguments, num_processes):
        assert (function, arguments) == (command.train_profile, ("mini",))
        started.append(f"in {num_processes} processes")

    monkeypatch.setattr("accelerate.notebook_launcher", launch)
    command.train_on_every_gpu("mini")
    assert started == expected


def test_a_profile_whose_pairs_are_shards_is_streamed(project, tiny_folder, monkeypatch):
    """Its own CLIP sees the shards; the held-out pairs are the cached ones."""
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["mini"]["model"] |= {"backbone": "tiny", "pretrained": str(tiny_folder), "tokens": "value"}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    (project / "data/templates.yaml").symlink_to(ROOT / "data/templates.yaml")
    shards = [str(write_shard(project / f"{number}.tar", 10 * number, 12)) for number in range(2)]
    (project / "data/prepared/mini").mkdir(parents=True)
    listed = json.dumps({"shards": shards, "pairs": [12, 13]})
    (project / "data/prepared/mini/train_shards.json").write_text(listed)
    given = []
    monkeypatch.setattr(command, "train", lambda source, settings, **others: given.append((source, settings, others)))
    train_profile("mini")
    ((source, settings, others),) = given
    assert source.shards == dict(zip(shards, (12, 13), strict=True)) and (source.steps, source.width) == (3, 32)
    assert source.clip_identity["tokens"] == "value" and source.settings == settings
    assert len(others["validation"][0]) == len(others["validation"][1]) == 24
    assert (others["folder"], others["live"]) == (Path("checkpoints/mini"), Path("reports/mini/live"))


def test_a_second_training_of_a_folder_is_refused_while_the_first_one_lasts(project):
    refused = pytest.raises(SystemExit, match="another process is training checkpoints/mini: wait until it has ended")
    with sole_run(Path("checkpoints/mini")), sole_run(Path("checkpoints/flickr8k")), refused:
        main(["--profile", "mini"])
    assert not (project / "checkpoints/mini").exists()


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="params.yaml is neither in"):
        main(["--profile", "mini"])
