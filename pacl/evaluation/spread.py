"""Segmentation measured by several processes, each on its part of the images; their confusion matrices are added up.

torchrun --standalone --nproc_per_node=N -m pacl.evaluation.spread --profile PROFILE --output FILE
"""

import argparse
import sys
from pathlib import Path

from torch import Tensor

from pacl.checkpoints import load_embedder
from pacl.clip import load_clip
from pacl.clip.frozen import FrozenCLIP
from pacl.data.images import Images, Masks
from pacl.data.prepared import all_scenes
from pacl.evaluation.segmentation import scores, segmentation, with_images
from pacl.runtime.config import load_params
from pacl.runtime.files import write_json
from pacl.runtime.params import Protocol
from pacl.segment import Method, methods_of
from pacl.training import distributed


def segmentation_over_ranks(
    clip: FrozenCLIP,
    methods: dict[str, Method],
    image_sets: dict[str, tuple[Images, Masks, dict]],
    names: list[str],
    protocol: Protocol,
    *,
    batch_size: int = 32,
) -> dict[str, dict[str, Tensor]]:
    """What pacl.evaluation.segmentation.segmentation_of_sets gives, benchmark -> method -> int64 [K, K], in every process of a group;
    batches are those of one process. Raises ValueError for a benchmark that no set has.
    """
    confmats = {}
    for images, masks, wanted in with_images(image_sets, names, protocol):
        part = distributed.own_part(len(images), batch_size)
        some = images.some(part), masks.some(part)
        found = segmentation(clip, methods, *some, wanted, protocol, batch_size=batch_size)
        confmats |= {name: {m: distributed.summed(c, clip.device) for m, c in of.items()} for name, of in found.items()}
    return {name: confmats[name] for name in names}


def measure_profile(profile: str, output: Path) -> None:
    """Measures checkpoints/PROFILE/best as notebook 5 does and writes what reports/PROFILE/segmentation.json holds."""
    params = load_params(profile, "model", "protocols", "segmentation")
    model, settings = params.model, params.segmentation
    with distributed.process_group():
        clip = load_clip(model.backbone, model.pretrained, tokens=model.tokens, dtype=model.dtype)
        embedder, _ = load_embedder(Path("checkpoints", profile, "best"), clip)
        methods = methods_of(clip, embedder, settings.methods)
        sets, names = all_scenes(Path("data/prepared", profile), "test"), settings.benchmarks
        confmats = {
            key: segmentation_over_ranks(clip, methods, sets, names, protocol, batch_size=settings.batch_size)
            for key, protocol in params.protocols.named(settings.protocols).items()
        }
        if distributed.rank() == 0:
            write_json(output, scores(confmats))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m pacl.evaluation.spread", description="Measures segmentation in processes."
    )
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
