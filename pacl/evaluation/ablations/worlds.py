"""Does the effect depend on one lucky world? Everything but pre-training, from other seeds of the mini world:
python -m pacl.evaluation.ablations.worlds PROFILE SEED.
"""

import sys
import tempfile
from pathlib import Path

from pacl.clip.features import Texts, text_features, text_table, tokens_of
from pacl.clip.frozen import load_clip_of
from pacl.data.prepared import all_scenes, read_pairs
from pacl.evaluation.ablations.quick import measure, scenes_by_benchmark, train_and_measure
from pacl.runtime.config import load_params
from pacl.runtime.files import write_json
from pacl.runtime.params import Train
from pacl.sources.prepare import prepare


def run_world(profile: str, seed: int) -> Path:
    """Renders pairs and test scenes from `seed`, trains the ablations' base setting, measures CLIP and PACL; writes
    reports/PROFILE/worlds/SEED.json. Photographs have no seed: then the file says so.
    """
    params = load_params(profile, "prepare", "model", "features", "train", "protocols", "ablations")
    target = Path("reports", profile, "worlds", f"{seed}.json")
    if params.prepare.source != "miniworld":
        write_json(target, {"seed": seed, "skipped": f"{params.prepare.source} is not drawn from a seed"})
        return target
    settings = Train.model_validate(params.train.model_dump() | params.ablations.base)
    few = {"seed": seed, "train_pairs": settings.pairs, "validation_scenes": 10, "classification_sets": []}
    clip, batch_size = load_clip_of(params.model), params.features.batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder / "prepared", params.prepare.model_copy(update=few))
        pairs, captions = read_pairs(folder / "prepared", "train")
        text_features(clip, text_table({"train": captions}, params.features.nouns), folder, params.features.templates)
        image_sets = all_scenes(folder / "prepared", "test")
        scenes = scenes_by_benchmark(clip, image_sets, params.protocols.native, batch_size=batch_size)
        pacl = train_and_measure(tokens_of(clip, pairs, batch_size), Texts(folder, "train"), scenes, settings)
    of_clip = measure(scenes, lambda tokens: clip.project(tokens.to(clip.device)))
    write_json(target, {"seed": seed, "clip": of_clip, "pacl": pacl})
    return target


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        sys.exit("Usage: python -m pacl.evaluation.ablations.worlds PROFILE SEED")
    try:
        print(run_world(sys.argv[1], int(sys.argv[2])))
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(str(error))
