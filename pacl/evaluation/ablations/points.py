"""The paper's open choices and the re-implementations' other ones, each trained and measured alone: python -m
pacl.evaluation.ablations.points PROFILE POINT.
"""

import gc
import sys
from pathlib import Path

import numpy as np

from pacl.clip.features import Texts, read_features
from pacl.data.prepared import all_scenes, read_pairs
from pacl.evaluation.ablations.quick import MEASURED, Scenes, load_scenes, measure, scenes_file
from pacl.runtime.config import ConfigError, load_params
from pacl.runtime.files import read_json, write_json
from pacl.runtime.params import Train
from pacl.runtime.processes import in_parts
from pacl.training.cached import CachedPairs
from pacl.training.train import train

NOT_TRAINING = ("tokens", "templates")  # what a point may change beside the train section: model's and features'


def run_point(profile: str, point: str) -> Path:
    """Trains one point with every seed and measures it on the test scenes; writes reports/PROFILE/ablations/POINT.json.

    A point that asks for more pairs than there are is written with the reason and no runs. Raises ConfigError for a
    point that params.yaml lacks or whose changes are no parameters.
    """
    params = load_params(profile, "model", "features", "train", "protocols", "ablations")
    if point not in params.ablations.points:
        raise ConfigError(f"{point!r} is no point of {profile}.ablations; it has {', '.join(params.ablations.points)}.")
    changes = params.ablations.base | params.ablations.points[point]
    settings = [train_settings(params, changes, seed) for seed in params.ablations.seeds]
    target = Path("reports", profile, "ablations", f"{point}.json")
    features, prepared = Path("data/features", profile), Path("data/prepared", profile)
    train_tokens = read_features(features / "train_patches.npy", 3)
    if settings[0].pairs > len(train_tokens):
        reason = f"needs {settings[0].pairs:,} pairs, {profile} has {len(train_tokens):,}"
        write_json(target, {"point": point, "changes": changes, "skipped": reason, "runs": []})
        return target
    texts, benchmarks = Texts(features, "train"), {}
    for name in MEASURED:
        if scenes_file(features, name).is_file():
            benchmarks[name] = load_scenes(scenes_file(features, name))
    if changes.get("templates", params.features.templates) != params.features.templates:
        texts.noun_features = other_templates(params, features, changes["templates"])
    if changes.get("tokens", params.model.tokens) != params.model.tokens:
        train_tokens, benchmarks = other_tokens(params, prepared, changes["tokens"], settings[0].pairs)

    def runs(part: range) -> list[dict]:
        found = []
        for setting in settings[part.start : part.stop]:
            embedder, _ = train(CachedPairs(train_tokens, texts, setting), setting)
            found.append({"seed": setting.seed, **measure(benchmarks, embedder.cpu(), embedder.text_embedder)})
        return found

    of_seeds = in_parts(runs, len(settings), parts=len(settings))  # more processes than cores leave none idle
    write_json(target, {"point": point, "changes": changes, "runs": [run for part in of_seeds for run in part]})
    return target


def train_settings(params, changes: dict, seed: int) -> Train:
    own = {name: value for name, value in changes.items() if name not in NOT_TRAINING}
    return Train.model_validate(params.train.model_dump() | own | {"seed": seed})


def clip_with(params, tokens: str):
    from pacl.clip import load_clip  # seconds to import, and most points work on what the features stage kept

    return load_clip(params.model.backbone, params.model.pretrained, tokens=tokens, dtype=params.model.dtype)


def other_templates(params, features: Path, template_list: str) -> np.ndarray:
    """Noun prompts in other templates, float16 [nouns, templates, D]."""
    from pacl.clip.features import noun_features

    nouns = read_json(features / "texts.json")["nouns"]
    return noun_features(clip_with(params, params.model.tokens), nouns, template_list)


def other_tokens(params, prepared: Path, tokens: str, pairs: int) -> tuple[np.ndarray, dict[str, Scenes]]:
    """Tokens of another kind: of the first `pairs` training images, and of the test scenes."""
    from pacl.clip.features import tokens_of
    from pacl.evaluation.ablations.targets import scenes_by_benchmark

    clip, batch_size = clip_with(params, tokens), params.features.batch_size
    images = read_pairs(prepared, "train")[0].some(range(pairs))
    image_sets = all_scenes(prepared, "test")
    scenes = scenes_by_benchmark(clip, image_sets, params.protocols.native, batch_size=batch_size)
    return tokens_of(clip, images, batch_size), scenes


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m pacl.evaluation.ablations.points PROFILE POINT")
    try:
        print(run_point(*sys.argv[1:]))
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(str(error))
    gc.freeze()  # or Python looks once more through all of torch's objects before it leaves, which takes a second
