"""A trained vision embedder as two files, NAME.safetensors (its weights) and NAME.json (what rebuilds it)."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pacl.model import VisionEmbedder
from pacl.runtime.files import write_durably


def save_embedder(path: Path, embedder: VisionEmbedder, about: dict, weights: dict[str, Tensor] | None = None) -> None:
    """Writes path.safetensors and path.json, each whole or not at all. Raises OSError when it cannot.

    about: how it was trained. weights: a state dict of this embedder to write instead of its own.
    """
    weights = embedder.state_dict() if weights is None else weights
    stored = save({name: tensor.contiguous() for name, tensor in weights.items()})
    write_durably(Path(f"{path}.safetensors"), stored)
    content = json.dumps({"embedder": embedder.shape, "sha256": sha256(stored).hexdigest(), **about}, indent=1) + "\n"
    write_durably(Path(f"{path}.json"), content.encode())


def load_embedder(path: Path, clip=None) -> tuple[VisionEmbedder, dict]:
    """An embedder that save_embedder wrote, in evaluation mode, and what its json says. Raises FileNotFoundError, or
    ValueError for a torn file and for one that was trained on the tokens of another CLIP.

    clip: the FrozenCLIP whose tokens it will see; a checkpoint made before they named theirs is known by widths alone.
    """
    for file in (Path(f"{path}.json"), Path(f"{path}.safetensors")):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: train first (`dvc repro train`), or give another checkpoint.")
    try:
        about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        with torch.device("meta"):  # the json may name any size; memory is only for what the weights really have
            embedder = VisionEmbedder(**about["embedder"])
        stored = Path(f"{path}.safetensors").read_bytes()
        if about.get("sha256", "") not in ("", sha256(stored).hexdigest()):
            raise ValueError("the weights are not those that were written")
        embedder.load_state_dict(load(stored), assign=True)
        trained = about.get("clip") and {key: str(about["clip"][key]) for key in ("name", "tokens", "weights")}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{path}.safetensors and its json are no complete checkpoint ({' '.join(str(error).split())}): train again."
        ) from None
    if clip and trained and any(trained[key] != clip.identity[key] for key in ("tokens", "weights")):
        raise ValueError(
            f"{path} was trained on {said(trained)}, but this is {said(clip.identity)}: load that CLIP, or train again."
        )
    if clip and (embedder.in_dim, embedder.out_dim) != (clip.width, clip.dim):
        raise ValueError(
            f"{path} was trained on tokens {embedder.in_dim} and texts {embedder.out_dim} wide, but those of "
            f"{clip.name} are {clip.width} and {clip.dim} wide: load the CLIP it was trained on, or train again."
        )
    return embedder.eval(), about


def said(identity: dict) -> str:
    return "tokens {tokens} of {name} (weights {weights})".format_map(identity)
