"""The paper's open choices and those of re-implementations, each trained and measured alone:
python -m pacl.evaluation.ablations.points PROFILE [POINT ...], by default every point of params.yaml.

The file of a point keeps checksums of what it was computed from. A point whose inputs are unchanged is not trained
again, so an interrupted run resumes with the points that are missing.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from pacl.runtime.config import ConfigError, load_params, project_root, read_yaml
from pacl.runtime.files import checksum, read_json, write_json
from pacl.runtime.params import Train

OUTSIDE_TRAIN = ("tokens", "templates")  # what a point may change in the sections `model` and `features`
PREPARED = ("train.json", "train_images.npy", "test_*scenes.*", "test_*masks.npy")  # what points read of either folder
FEATURES = ("train_patches.npy", "texts.json", "*_features.npy")


def run_points(profile: str, names: list[str] | None = None) -> list[Path]:
    """Trains points with every seed and measures them on the test scenes; writes
    reports/PROFILE/ablation_points/POINT.json and removes the files of points that params.yaml no longer has. Returns
    what it wrote.

    A point that asks for more pairs than there are is written with that reason and no runs. Raises ConfigError for a
    name that is not a point and for changes that are not parameters.
    """
    params = load_params(profile, "model", "features", "train", "protocols", "ablations")
    points, folder = params.ablations.points, Path("reports", profile, "ablation_points")
    if unknown := [name for name in names or () if name not in points]:
        raise ConfigError(f"{unknown[0]!r} is not a point of {profile}.ablations, which has {', '.join(points)}.")
    for path in folder.glob("*.json"):
        if path.stem not in points:
            path.unlink()
    files = {"code": of_files(code_files()), "data": of_files(data_files(profile))}
    changed = {}
    for point in names or points:
        changes = params.ablations.base | points[point]
        settings = [train_settings(params, changes, seed) for seed in params.ablations.seeds]
        inputs = files | {"settings": of_settings(params, changes, settings)}
        if kept_inputs(folder / f"{point}.json") != inputs:
            changed[folder / f"{point}.json"] = changes, settings, inputs
    if changed:
        from pacl.evaluation.ablations.quick import PointTrainer  # seconds to import

        trainer = PointTrainer(profile, params)
        for path, (changes, settings, inputs) in changed.items():
            results = trainer.results(changes, settings)
            write_json(path, {"point": path.stem, "changes": changes, **results, "inputs": inputs})
    return list(changed)


def train_settings(params, changes: dict, seed: int) -> Train:
    own = {name: value for name, value in changes.items() if name not in OUTSIDE_TRAIN}
    return Train.model_validate(params.train.model_dump() | own | {"seed": seed})


def kept_inputs(path: Path) -> dict | None:
    """The checksums in a point's file, None without a readable one."""
    try:
        return read_json(path, "inputs")["inputs"]
    except (FileNotFoundError, ValueError):
        return None


def code_files() -> Iterable[Path]:
    """The files that the stage ablation_points depends on in every profile: code, templates, the mini CLIP."""
    root = project_root()
    for name in read_yaml(root / "dvc.yaml")["stages"]["ablation_points"]["deps"]:
        if "${" not in name:
            path = root / name
            yield from (one for one in path.rglob("*") if "__pycache__" not in one.parts) if path.is_dir() else [path]


def data_files(profile: str) -> Iterable[Path]:
    for folder, patterns in (("data/prepared", PREPARED), ("data/features", FEATURES)):
        for pattern in patterns:
            yield from Path(folder, profile).glob(pattern)


def of_files(paths: Iterable[Path]) -> str:
    """A checksum of the files' names and contents. Raises FileNotFoundError."""
    found = []
    for path in sorted(path for path in paths if not path.is_dir()):
        with open(path, "rb") as file:
            found.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return checksum(*found)


def of_settings(params, changes: dict, settings: list[Train]) -> str:
    sections = [params.model, params.features, params.protocols.native, *settings]
    return checksum(json.dumps([changes, *(one.model_dump(mode="json") for one in sections)]).encode())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Usage: python -m pacl.evaluation.ablations.points PROFILE [POINT ...]")
    try:
        print(*run_points(sys.argv[1], sys.argv[2:]) or ["no point has changed"], sep="\n")
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(str(error))
