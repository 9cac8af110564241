"""Trains a profile's vision embedder (paper, section 3), on cached features or on streamed shards.

python -m pacl.training --profile PROFILE    (alone, or by torchrun in several processes)
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from pacl.clip.features import Texts, read_features
from pacl.runtime.config import load_params
from pacl.training import distributed
from pacl.training.cached import CachedPairs
from pacl.training.resume import sole_run
from pacl.training.train import train


def train_profile(profile: str) -> None:
    """Trains on data/features/PROFILE, or on the shards that data/prepared/PROFILE/train_shards.json lists, and writes
    checkpoints/PROFILE and the curves in reports/PROFILE/live; called by every process of a group, if there is one.

    The held-out pairs are cached in both cases. Raises what `train` and the sources raise, and ValueError while another
    process trains the same profile.
    """
    settings, features = load_params(profile, "train").train, Path("data/features", profile)
    folder, shards = Path("checkpoints", profile), Path("data/prepared", profile, "train_shards.json")
    with distributed.process_group():
        validation = read_features(features / "validation_patches.npy", 3), Texts(features, "validation")
        if shards.is_file():
            from pacl.training.streamed import open_stream  # takes seconds, because it imports CLIP

            source = open_stream(profile, shards)
        else:
            source = CachedPairs(read_features(features / "train_patches.npy", 3), Texts(features, "train"), settings)
        with sole_run(folder) if distributed.rank() == 0 else nullcontext():
            train(source, settings, validation=validation, folder=folder, live=Path("reports", profile, "live"))


def train_on_every_gpu(profile: str) -> None:
    """`train_profile` for a notebook: in one process per GPU if there are several, else in this one."""
    if (gpus := torch.cuda.device_count()) > 1:
        from accelerate import notebook_launcher

        notebook_launcher(train_profile, (profile,), num_processes=gpus)
    else:
        train_profile(profile)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pacl.training", description="Trains a profile's vision embedder.")
    parser.add_argument("--profile", default="mini", help="a section of params.yaml")
    try:
        train_profile(parser.parse_args(arguments).profile)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
