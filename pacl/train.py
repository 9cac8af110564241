"""Trains the vision embedder by contrasting images with captions, both encoders frozen (paper, section 3; settings:
appendix).
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from pacl.features import Texts
from pacl.loss import LogitScale, contrastive_loss
from pacl.model import VisionEmbedder, compatibility


def train(
    patches: np.ndarray, texts: Texts, params, *, validation: tuple | None = None, folder: Path | None = None
) -> tuple[VisionEmbedder, list[dict]]:
    """Trains e_v on the first `params.pairs` images; returns it and its history, one row an epoch.

    patches: [M, N, D_v], float16 tokens, as an array or a memory map. texts: their captions and nouns.
    validation: (patches, texts) of held-out pairs; with it the history has their loss and retrieval accuracy.
    folder: where best (lowest validation loss) and last checkpoints are written.
    Raises FloatingPointError naming the step when the loss is no number, and ValueError when there are fewer pairs
    than asked for.
    """
    if len(patches) < params.pairs:
        raise ValueError(
            f"there are {len(patches)} training pairs, but train.pairs asks for {params.pairs}: "
            "prepare more, or lower it."
        )
    torch.manual_seed(params.seed)
    rng = np.random.default_rng(params.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder = VisionEmbedder(patches.shape[-1], texts.caption_features.shape[-1], params.embedder).to(device)
    logit_scale = LogitScale(max=params.max_logit_scale).to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups(embedder, logit_scale, params.weight_decay),
        lr=params.learning_rate,
        betas=params.betas,
        eps=params.eps,
    )
    steps = params.pairs // params.batch_size
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps * params.epochs, params.warmup_steps)
    )
    history = []
    for epoch in tqdm(range(params.epochs), desc="epochs", mininterval=5):
        losses = []
        for batch in rng.permutation(params.pairs)[: steps * params.batch_size].reshape(steps, -1):
            loss = batch_loss(embedder, logit_scale(), patches, texts, np.sort(batch), rng, params)[0]
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {epoch * steps + len(losses)}: "
                    "lower train.learning_rate, or look for bad features."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        row = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            "loss": float(np.mean(losses)),
            "logit_scale": logit_scale().item(),
        }
        history.append(row | (validate(embedder, logit_scale(), *validation, params) if validation else {}))
        if folder:
            save_checkpoints(folder, embedder, history, params)
    return embedder.eval(), history


def parameter_groups(embedder, logit_scale, weight_decay: float) -> list[dict]:
    """Weight decay on the weight matrices only, as CLIP does."""
    weights = [p for p in embedder.parameters() if p.ndim > 1]
    others = [p for p in embedder.parameters() if p.ndim <= 1] + list(logit_scale.parameters())
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine to zero, changed at every step (paper, appendix)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def batch_loss(
    embedder, logit_scale: Tensor, patches, texts: Texts, batch: np.ndarray, rng, params
) -> tuple[Tensor, Tensor]:
    """The loss of one batch and its phi [B, B]."""
    device = logit_scale.device
    tokens = torch.from_numpy(np.asarray(patches[batch])).to(device).float()  # [B, N, D_v]
    text_embeddings, keys = texts.draw(rng, batch, params.noun_share)  # [B, D], [B]
    phi = compatibility(
        embedder(tokens), text_embeddings.to(device), scoring=params.scoring, scale=params.scale, pooling=params.pooling
    )
    same_text = (keys[:, None] == keys).to(device) if params.mask_same_text else None
    return contrastive_loss(phi, logit_scale, same_text), phi


@torch.no_grad()
def validate(embedder, logit_scale: Tensor, patches, texts: Texts, params) -> dict:
    """Loss on held-out pairs, whole captions only and the same ones each time, and how often an image finds its
    caption in its batch.
    """
    rng, losses, hits = np.random.default_rng(0), [], []
    captions_only = params.model_copy(update={"noun_share": 0.0})
    size = min(params.batch_size, len(patches))
    for batch in np.arange(len(patches) // size * size).reshape(-1, size):
        loss, phi = batch_loss(embedder, logit_scale, patches, texts, batch, rng, captions_only)
        losses.append(loss.item())
        hits.append((phi.argmax(1).cpu() == torch.arange(len(batch))).float().mean().item())
    return {"validation_loss": float(np.mean(losses)), "validation_retrieval": float(np.mean(hits))}


def save_checkpoints(folder: Path, embedder: VisionEmbedder, history: list[dict], params) -> None:
    """Writes last, and best when the newest epoch has the lowest validation loss."""
    best = min(history, key=lambda row: row.get("validation_loss", -row["epoch"]))
    for name in ["last", *(["best"] if best is history[-1] else [])]:
        save_embedder(folder / name, embedder, {"train": params.model_dump(mode="json"), "history": history})


def save_embedder(path: Path, embedder: VisionEmbedder, about: dict) -> None:
    """Writes path.safetensors (the weights) and path.json (what rebuilds it, and how it was trained)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in embedder.state_dict().items()}, f"{path}.safetensors")
    shape = {"in_dim": embedder.in_dim, "out_dim": embedder.out_dim, "kind": embedder.kind}
    Path(f"{path}.json").write_text(json.dumps({"embedder": shape, **about}, indent=1) + "\n", encoding="utf-8")


def load_embedder(path: Path) -> tuple[VisionEmbedder, dict]:
    """An embedder that save_embedder wrote, in evaluation mode, and what its json says. Raises FileNotFoundError, or
    ValueError for a torn file.
    """
    for file in (Path(f"{path}.json"), Path(f"{path}.safetensors")):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: train first (`dvc repro train`), or give another checkpoint.")
    try:
        about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        embedder = VisionEmbedder(**about["embedder"])
        embedder.load_state_dict(load_file(f"{path}.safetensors"))
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path}.safetensors and its json are no complete checkpoint ({' '.join(str(error).split())}): train again."
        ) from None
    return embedder.eval(), about
