"""A trained vision embedder in two files, NAME.safetensors (its weights) and NAME.json (how to rebuild it)."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pacl.model import VisionEmbedder
from pacl.runtime.files import checksum, write_atomically
from pacl.runtime.precision import check_weights


def save_embedder(path: Path, embedder: VisionEmbedder, about: dict, weights: dict[str, Tensor] | None = None) -> None:
    """Writes path.safetensors and path.json, each atomically. Raises OSError if it can't.

    about: how it was trained. weights: a state dict to write instead of the embedder's own.
    """
    weights = embedder.state_dict() if weights is None else weights
    stored = save({name: tensor.contiguous() for name, tensor in weights.items()})
    write_atomically(Path(f"{path}.safetensors"), stored)
    content = {"embedder": embedder.shape, "sha256": checksum(stored), **about}
    write_atomically(Path(f"{path}.json"), json.dumps(content, indent=1) + "\n")


def load_embedder(path: Path, clip=None) -> tuple[VisionEmbedder, dict]:
    """An embedder that save_embedder wrote, in evaluation mode, and the content of its json.

    path: with or without .safetensors, or a folder that `save_pretrained` wrote, or its model.safetensors; its
    config.json has the shape alone.
    clip: the FrozenCLIP whose tokens it will see; old checkpoints don't name theirs, so only widths are compared.
    Raises FileNotFoundError, or ValueError for a corrupt file and for one trained on the tokens of another CLIP.
    """
    described, weights = files_of(Path(path))
    for file in (described, weights):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: train first (`dvc repro train`), or name another checkpoint.")
    try:
        about = json.loads(described.read_text(encoding="utf-8"))
        about = about if "embedder" in about else {"embedder": about}
        with torch.device("meta"):  # allocates nothing: a corrupt json may name any size
            embedder = VisionEmbedder(**about["embedder"])
        stored = weights.read_bytes()
        if about.get("sha256", "") not in ("", checksum(stored)):
            raise ValueError("the weights' checksum differs")
        embedder.load_state_dict(load(stored), assign=True)
        trained = about.get("clip") and {key: str(about["clip"][key]) for key in ("name", "tokens", "weights")}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{weights} or its json is corrupt ({' '.join(str(error).split())}): train again.") from None
    check_weights(embedder, str(weights))
    if clip and trained and any(trained[key] != clip.identity[key] for key in ("tokens", "weights")):
        raise ValueError(
            f"{path} was trained on {in_words(trained)}, but this is {in_words(clip.identity)}: load that CLIP, or "
            "train again."
        )
    if clip and (embedder.in_dim, embedder.out_dim) != (clip.width, clip.dim):
        raise ValueError(
            f"{path} was trained on tokens {embedder.in_dim} and texts {embedder.out_dim} wide, but those of "
            f"{clip.name} are {clip.width} and {clip.dim} wide: load the CLIP it was trained on, or train again."
        )
    return embedder.eval(), about


def files_of(path: Path) -> tuple[Path, Path]:
    """The JSON file that describes an embedder and the file of its weights."""
    if path.is_dir():
        return path / "config.json", path / "model.safetensors"
    name = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    described = Path(f"{name}.json")
    if name.name == "model" and not described.exists() and (name.parent / "config.json").exists():  # a folder's file
        return files_of(name.parent)
    return described, Path(f"{name}.safetensors")


def in_words(identity: dict) -> str:
    return "tokens {tokens} of {name} (weights {weights})".format_map(identity)
