"""Pre-trains the mini world's CLIP from image-caption pairs; the paper starts from OpenAI's CLIP, this stands in for
it where no weights can be had.
"""

import gzip
import hashlib
import json
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer, get_pairs
from safetensors.torch import save_file
from tqdm.auto import tqdm

from pacl.runtime.precision import autocast
from pacl.training.resume import Progress


def used_merges(texts: list[str]) -> list[tuple[str, str]]:
    """The byte-pair merges of CLIP's tokenizer that these texts need, in CLIP's order: the same tokens from a
    vocabulary of hundreds.
    """
    full = SimpleTokenizer()
    words = {word for text in texts for word in full.pat.findall(text.lower())}
    used = {merge for word in words for merge in merges_of(word, full.bpe_ranks)}
    return sorted(used, key=full.bpe_ranks.get)


def merges_of(word: str, ranks: dict) -> list[tuple[str, str]]:
    """The merges that byte-pair encoding applies to one plain ASCII word."""
    pieces, applied = [*word[:-1], word[-1] + "</w>"], []
    while len(pieces) > 1:
        best = min(get_pairs(pieces), key=lambda pair: ranks.get(pair, np.inf))
        if best not in ranks:
            break
        applied.append(best)
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == best:
                pieces[i : i + 2] = ["".join(best)]
            i += 1
    return applied


def save_tokenizer(texts: list[str], path: Path) -> None:
    """Writes the merges these texts need in the form that open_clip's SimpleTokenizer reads; equal texts give equal
    bytes.
    """
    lines = ["#merges of CLIP's byte-pair encoding", *(" ".join(merge) for merge in used_merges(texts))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def model_config(params, vocab_size: int) -> dict:
    """open_clip's model configuration of the mini CLIP."""
    return {
        "embed_dim": params.embed_dim,
        "vision_cfg": {
            "image_size": params.image_size, "patch_size": params.patch_size, "width": params.width,
            "layers": params.layers, "head_width": params.head_width,
        },
        "text_cfg": {
            "context_length": params.context_length, "vocab_size": vocab_size, "width": params.text_width,
            "heads": params.text_width // params.head_width, "layers": params.text_layers,
        },
    }  # fmt: skip


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W], normalised by CLIP's mean and standard deviation."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def pretrain(
    images: np.ndarray, captions: list[str], config: dict, tokenizer, params, *, resume: Path
) -> tuple[open_clip.CLIP, list[dict]]:
    """Trains an open_clip.CLIP; returns it with its history, a dict {"step", "loss", "learning_rate", "logit_scale"}
    every 50 steps.

    images: uint8 [M, H, W, 3], mirrored at random; captions: M texts. AdamW, one cycle, bf16 autocast, gradient norm
    clipped at 1.
    resume: a folder that has the state of the last epochs until the run has ended; a run that was cut goes on from it
    to the weights of an unbroken one, if settings and data are the same.
    """
    torch.manual_seed(params.seed)
    model = open_clip.CLIP(**config)
    tokens = tokenizer(captions)  # [M, context length]
    steps = len(images) // params.batch_size
    optimizer = torch.optim.AdamW(
        parameter_groups(model, params.weight_decay), lr=params.learning_rate, betas=(0.9, 0.98), eps=1e-6
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, params.learning_rate, total_steps=steps * params.epochs, pct_start=0.1
    )
    learned, epochs_done, losses, history = (model, optimizer, schedule), 0, [], []
    progress = Progress(resume, identify(images, captions, config, params))
    if saved := progress.load():
        epochs_done, losses, history = saved["epochs_done"], saved["losses"], saved["history"]
        for part, state in zip(learned, saved["learned"], strict=True):
            part.load_state_dict(state)
    for epoch in range(epochs_done, params.epochs):
        rng = np.random.default_rng([params.seed, epoch])
        batches = rng.permutation(len(images))[: steps * params.batch_size].reshape(steps, -1)
        for i, batch in enumerate(tqdm(batches, desc=f"epoch {epoch + 1} of {params.epochs}", mininterval=10)):
            losses.append(train_step(model, optimizer, mirrored(rng, images[batch]), tokens[batch]))
            schedule.step()
            if len(losses) == 50:
                row = {
                    "step": epoch * steps + i + 1,
                    "loss": float(np.mean(losses)),
                    "learning_rate": schedule.get_last_lr()[0],
                }
                history.append(row | {"logit_scale": model.logit_scale.exp().item()})
                losses = []
        states = [part.state_dict() for part in learned]
        progress.save(
            (epoch + 1) * steps, {"learned": states, "epochs_done": epoch + 1, "losses": losses, "history": history}
        )
    progress.remove()
    return model.eval(), history


def identify(images: np.ndarray, captions: list[str], config: dict, params) -> dict:
    """What a run that was cut must have in common with the one that goes on: settings, captions, 64 of the images."""
    names = ("batch_size", "epochs", "learning_rate", "weight_decay", "seed")
    digest = hashlib.sha256(json.dumps([images.shape, captions]).encode())
    digest.update(images[np.linspace(0, len(images) - 1, 64).astype(int)].tobytes())
    return {"settings": {name: getattr(params, name) for name in names}, "model": config, "data": digest.hexdigest()}


def parameter_groups(model, weight_decay: float) -> list[dict]:
    """Matrices decay; gains, biases and the logit scale don't, as in CLIP."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


def mirrored(rng, images: np.ndarray) -> np.ndarray:
    flip = rng.random(len(images)) < 0.5
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def plain_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
    """Softmax attention in two matrix products: at 65 tokens several times as fast on a CPU as PyTorch's fused kernel
    (bf16, forward and backward).
    """
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ value


def train_step(model, optimizer, images: np.ndarray, tokens: torch.Tensor) -> float:
    with (
        autocast("cpu", "bfloat16"),
        mock.patch("torch.nn.functional.scaled_dot_product_attention", plain_attention),
    ):
        image_features, text_features, logit_scale = model(to_tensor(images), tokens)
    loss = open_clip.ClipLoss()(image_features.float(), text_features.float(), logit_scale)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    return loss.item()


def save_clip(folder: Path, model, config: dict) -> None:
    """Writes open_clip_config.json and open_clip_model.safetensors, the layout that open_clip reads from a folder."""
    preprocess = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n"
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
