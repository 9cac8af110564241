"""Segmentation measured by several processes, each on its part of the images; their confusion matrices are added up.

torchrun --standalone --nproc_per_node=N -m pacl.spread --profile PROFILE --output FILE
"""

import argparse
import sys
from pathlib import Path

from torch import Tensor

from pacl import ranks
from pacl.checkpoints import load_embedder
from pacl.clip import FrozenCLIP, load_clip
from pacl.config import load_params
from pacl.data import Images, Masks, all_scenes, write_json
from pacl.evaluate import methods_of, scores, segmentation, with_images
from pacl.params import Protocol
from pacl.segment import Method


def segmentation_over_ranks(
    clip: FrozenCLIP,
    methods: dict[str, Method],
    image_sets: dict[str, tuple[Images, Masks, dict]],
    names: list[str],
    protocol: Protocol,
    *,
    batch_size: int = 32,
) -> dict[str, dict[str, Tensor]]:
    """What pacl.evaluate.segmentation_of_sets gives, benchmark -> method -> int64 [K, K], in every process of a group;
    batches are those of one process. Raises ValueError for a benchmark that no set has.
    """
    confmats = {}
    for images, masks, wanted in with_images(image_sets, names, protocol):
        part = ranks.own_part(len(images), batch_size)
        some = images.some(part), masks.some(part)
        found = segmentation(clip, methods, *some, wanted, protocol, batch_size=batch_size)
        confmats |= {name: {m: ranks.summed(c, clip.device) for m, c in of.items()} for name, of in found.items()}
    return {name: confmats[name] for name in names}


def measure_profile(profile: str, output: Path) -> None:
    """Measures checkpoints/PROFILE/best as notebook 5 does and writes what reports/PROFILE/segmentation.json holds."""
    params = load_params(profile, "model", "protocols", "segmentation")
    model, settings = params.model, params.segmentation
    with ranks.process_group():
        clip = load_clip(model.backbone, model.pretrained, tokens=model.tokens, dtype=model.dtype)
        embedder, _ = load_embedder(Path("checkpoints", profile, "best"), clip)
        methods = methods_of(clip, embedder, settings.methods)
        sets, names = all_scenes(Path("data/prepared", profile), "test"), settings.benchmarks
        confmats = {
            key: segmentation_over_ranks(clip, methods, sets, names, protocol, batch_size=settings.batch_size)
            for key, protocol in params.protocols.named(settings.protocols).items()
        }
        if ranks.rank() == 0:
            write_json(output, scores(confmats))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pacl.spread", description="Measures segmentation in processes.")
    parser.add_argument("--profile", default="mini", help="a section of params.yaml")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    folder = next(path for path in arguments.output.absolute().parents if path.exists())
    if arguments.output.is_dir() or not folder.is_dir():  # or it would be known after hours
        sys.exit(f"{arguments.output} can't be written: let --output name a file in a folder.")
    try:
        measure_profile(arguments.profile, arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
