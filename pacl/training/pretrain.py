"""Pre-trains a small CLIP from pictures and captions. The paper starts from OpenAI's CLIP; this one stands in for it
where its weights can't be had.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer, get_pairs
from safetensors.torch import save
from torch import nn
from tqdm.auto import tqdm

from pacl.runtime.files import checksum, write_atomically
from pacl.runtime.params import Pretrain
from pacl.runtime.precision import autocast
from pacl.training.resume import Progress

EVERY = 50  # steps between two rows of the history


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
    """Writes the merges that these texts need, as open_clip's SimpleTokenizer reads them; equal texts give equal
    bytes.
    """
    lines = ["#merges of CLIP's byte-pair encoding", *(" ".join(merge) for merge in used_merges(texts))]
    write_atomically(path, gzip.compress("\n".join(lines).encode(), mtime=0))


def model_config(settings: Pretrain, vocab_size: int) -> dict:
    """open_clip's configuration of the model."""
    return {
        "embed_dim": settings.embed_dim,
        "vision_cfg": {
            "image_size": settings.image_size, "patch_size": settings.patch_size, "width": settings.width,
            "layers": settings.layers, "head_width": settings.head_width,
        },
        "text_cfg": {
            "context_length": settings.context_length, "vocab_size": vocab_size, "width": settings.text_width,
            "heads": settings.text_width // settings.head_width, "layers": settings.text_layers,
        },
    }  # fmt: skip


def pretrain(
    images: np.ndarray, captions: list[str], config: dict, tokenizer, settings: Pretrain, *, resume: Path
) -> tuple[open_clip.CLIP, list[dict]]:
    """Trains an open_clip.CLIP; returns it with its history, rows {"step", "loss", "learning_rate", "logit_scale"}.

    images: uint8 [M, H, W, 3], mirrored at random; captions: M texts. AdamW, one cycle of the learning rate, bfloat16
    autocast, gradient norm clipped at 1.
    resume: a folder for the state of the last epochs. An interrupted run with the same settings and data resumes from
    it and ends with the weights of an unbroken run; a finished run removes it.
    """
    torch.manual_seed(settings.seed)
    model, tokens = with_explicit_attention(open_clip.CLIP(**config)), tokenizer(captions)  # tokens [M, context length]
    steps = len(images) // settings.batch_size
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps * settings.epochs, pct_start=0.1
    )
    learned, losses, history, done = (model, optimizer, schedule), [], [], 0
    progress = Progress(resume, identify(images, captions, config, settings))
    if saved := progress.load():
        losses, history, done = saved["losses"], saved["history"], saved["epochs"]
        for part, state in zip(learned, saved["learned"], strict=True):
            part.load_state_dict(state)
    for epoch in range(done, settings.epochs):
        rng = np.random.default_rng([settings.seed, epoch])
        batches = rng.permutation(len(images))[: steps * settings.batch_size].reshape(steps, -1)
        bar = tqdm(batches, desc=f"epoch {epoch + 1} of {settings.epochs}", mininterval=10)
        for step, batch in enumerate(bar, epoch * steps + 1):
            losses.append(train_step(model, optimizer, mirrored(rng, images[batch]), tokens[batch]))
            schedule.step()
            if len(losses) == EVERY:
                rate, scale = schedule.get_last_lr()[0], model.logit_scale.exp().item()
                row = {"step": step, "loss": float(np.mean(losses)), "learning_rate": rate, "logit_scale": scale}
                history.append(row)
                losses = []
        states = [part.state_dict() for part in learned]
        state = {"learned": states, "losses": losses, "history": history, "epochs": epoch + 1}
        progress.save((epoch + 1) * steps, state)
    progress.remove()
    return model.eval(), history


def identify(images: np.ndarray, captions: list[str], config: dict, settings: Pretrain) -> dict:
    """What a run must have in common with an interrupted one to resume it: settings, captions, 64 of the images."""
    names = ("batch_size", "epochs", "learning_rate", "weight_decay", "seed")
    shown = images[np.linspace(0, len(images) - 1, 64).astype(int)].tobytes()
    return {
        "settings": {name: getattr(settings, name) for name in names},
        "model": config,
        "data": checksum(json.dumps([images.shape, captions]).encode(), shown),
    }


def with_explicit_attention(model: nn.Module) -> nn.Module:
    """Has the model's MultiheadAttention compute its weights explicitly, which it does when asked to return them: at 65
    tokens several times as fast on a CPU as torch's fused kernel (bfloat16, forward and backward).
    """

    def ask_for_weights(module, inputs: tuple, options: dict) -> tuple[tuple, dict]:
        return inputs, options | {"need_weights": True, "average_attn_weights": False}

    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(ask_for_weights, with_kwargs=True)
    return model


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay only for matrices; none for gains, biases and the logit scale, as in CLIP."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def mirrored(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Each picture of uint8 [B, H, W, 3] mirrored left to right with probability 1/2."""
    flip = rng.random(len(images)) < 0.5
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W], normalised by CLIP's mean and standard deviation."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def train_step(model: nn.Module, optimizer, images: np.ndarray, tokens: torch.Tensor) -> float:
    """One step on uint8 images [B, H, W, 3] and tokens [B, context length]; returns the loss."""
    with autocast("cpu", "bfloat16"):
        image_features, text_features, logit_scale = model(to_tensor(images), tokens)
    loss = open_clip.ClipLoss()(image_features.float(), text_features.float(), logit_scale)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    return loss.item()


def save_clip(folder: Path, model: nn.Module, config: dict) -> None:
    """Writes open_clip_config.json and open_clip_model.safetensors, which open_clip reads from a folder."""
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocess = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    about = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n"
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "open_clip_config.json", about)
    write_atomically(folder / "open_clip_model.safetensors", save(weights))
