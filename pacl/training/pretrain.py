"""Pre-trains a small CLIP from pictures and texts. The paper starts from OpenAI's CLIP; this one stands in for it where
its weights can't be had.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN as MEAN
from open_clip.constants import OPENAI_DATASET_STD as STD
from open_clip.model import resize_pos_embed
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from pacl.clip.frozen import encode_text
from pacl.data.pairs import Pairs, Said, Subject, draw_broader, draw_texts, spread, true_texts
from pacl.data.prompts import templates
from pacl.loss import contrastive_loss
from pacl.runtime.files import checksum, write_atomically
from pacl.runtime.params import Pretrain
from pacl.runtime.precision import autocast
from pacl.runtime.processes import keep_freed_memory, progress_bar
from pacl.training.augment import augmented, resized
from pacl.training.resume import Progress, Resumable

EVERY = 50  # steps between two rows of the history


def used_merges(texts: list[str]) -> list[tuple[str, str]]:
    """The byte-pair merges of CLIP's tokenizer that these texts need, in CLIP's order: the same tokens from a
    vocabulary of hundreds.
    """
    full, used = SimpleTokenizer(), set()
    merge_of = {"".join(merge): merge for merge in full.bpe_ranks}  # no two merges make the same piece
    pieces = {full.decoder[token] for text in set(texts) for token in full.encode(text)}
    while made := pieces & merge_of.keys():
        used |= {merge_of[piece] for piece in made}
        pieces = {part for piece in made for part in merge_of[piece]}
    return sorted(used, key=full.bpe_ranks.get)


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


def cycles(settings: Pretrain) -> list[Pretrain]:
    """The settings of each cycle of the learning rate: `settings`, then, where it is given, `larger` in their place."""
    if settings.larger is None:
        return [settings]
    changed = settings.larger.model_dump()
    return [settings, settings.model_copy(update=changed | {"larger": None})]


class Run(Resumable):
    """All that a cycle of pre-training changes: the model, its optimiser and schedule, the history.

    before: the cycle before it, whose model and history go on; epochs and steps are counted on.
    """

    PARTS = ("model", "optimizer", "schedule")
    NUMBERS = ("step", "losses", "history")

    def __init__(self, pairs: Pairs, settings: Pretrain, vocab_size: int, before: "Run | None" = None):
        torch.manual_seed(settings.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = trainable_model(settings, vocab_size).to(self.device)
        groups = parameter_groups(self.model, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6)
        self.epoch_steps = len(pairs.images) // settings.batch_size
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            settings.learning_rate,
            total_steps=self.epoch_steps * settings.epochs,
            pct_start=settings.warmup,
        )
        first = before.epochs.stop if before else 0
        self.epochs = range(first, first + settings.epochs)
        self.step, self.losses, self.history = 0, [], []  # losses: since the history's last row
        if before:
            self.step, self.history = before.step, before.history
            take_weights(self.model, before.model)


def trainable_model(settings: Pretrain, vocab_size: int) -> open_clip.CLIP:
    config = model_config(settings, vocab_size)
    config["vision_cfg"]["patch_dropout"] = settings.patch_dropout
    return with_explicit_attention(open_clip.CLIP(**config))


def take_weights(model: open_clip.CLIP, smaller: open_clip.CLIP) -> None:
    """Copies the weights of a model for smaller images, with its position embeddings spread over the larger grid."""
    weights = smaller.state_dict()
    resize_pos_embed(weights, model)
    model.load_state_dict(weights)


def pretrain(
    pairs: Pairs,
    tokenizer,
    settings: Pretrain,
    *,
    resume: Path,
    measure: Callable[[open_clip.CLIP], float] | None = None,
    show: Callable[[dict], None] = lambda row: None,
) -> tuple[open_clip.CLIP, list[dict]]:
    """Trains an open_clip.CLIP; returns it with its history, rows {"step", "loss", "learning_rate", "logit_scale"}.

    AdamW, one cycle of the learning rate, bfloat16 autocast, gradient norm clipped at 1; with `settings.larger` a
    second cycle on larger images, as CLIP's ViT-L/14@336px had (Radford et al. 2021, section 2.5).
    measure: called after each epoch with the model, in eval mode; what it returns makes a row {"step", "accuracy"}.
    show: called with each new row.
    resume: a folder for the state of the last minutes. An interrupted run with the same settings and data resumes from
    it and ends with the weights of an unbroken run; a finished run removes it.
    """
    keep_freed_memory()
    run, progress = None, Progress(resume, identify(pairs, tokenizer, settings))
    saved = progress.load()
    for cycle in cycles(settings):
        run = Run(pairs, cycle, tokenizer.vocab_size, before=run)
        if saved and saved["step"] > run.epochs.stop * run.epoch_steps:
            continue  # it was interrupted in a later cycle
        if saved:
            run.restore(saved)
            saved = None
        train_cycle(run, pairs, tokenizer, cycle, progress, measure, show)
    progress.remove()
    return run.model.eval(), run.history


def train_cycle(run: Run, pairs: Pairs, tokenizer, settings: Pretrain, progress: Progress, measure, show) -> None:
    """The rest of a cycle; `measure` and `show` as in `pretrain`."""
    bar = progress_bar(initial=run.step, total=run.epochs.stop * run.epoch_steps, desc="pre-training steps")
    for epoch in range(max(run.epochs.start, run.step // max(run.epoch_steps, 1)), run.epochs.stop):
        for row in steps_of_epoch(run, pairs, tokenizer, settings, epoch):
            bar.update()
            if row:
                show(row)
            if progress.due():
                progress.save(run.step, run.state())
        if measure:
            run.history.append({"step": run.step, "accuracy": measure(run.model.eval())})
            show(run.history[-1])
        progress.save(run.step, run.state())
    bar.close()


def steps_of_epoch(run: Run, pairs: Pairs, tokenizer, settings: Pretrain, epoch: int) -> Iterator[dict | None]:
    """Trains the rest of an epoch, one step per iteration; yields the history's new row, if any.

    What is random in a step comes from the seed and its place, so a resumed run draws the same.
    """
    order = spread(np.random.default_rng([settings.seed, epoch]), pairs.kinds)
    whole = epoch >= run.epochs.stop - settings.whole_epochs
    run.model.train()
    run.model.visual.patch_dropout.prob = 0.0 if whole else settings.patch_dropout  # ignored by the Identity for 0
    for i in range(run.step - epoch * run.epoch_steps, run.epoch_steps):
        rng = np.random.default_rng([settings.seed, epoch, i])
        torch.manual_seed(int(rng.integers(2**31)))  # of the patches that are dropped
        rows = order[i * settings.batch_size : (i + 1) * settings.batch_size]
        texts = draw_batch(rng, [pairs.subjects[kind] for kind in pairs.kinds[rows]], tokenizer, settings)
        images = augmented(rng, pairs.images[rows], settings.image_size, settings.crop, settings.colour)
        run.losses.append(train_step(run.model, run.optimizer, normalize(images, MEAN, STD), texts))
        run.schedule.step()
        run.step += 1
        yield new_row(run) if len(run.losses) == EVERY else None


def new_row(run: Run) -> dict:
    """Adds the losses since the last row to the history, as a row."""
    loss, run.losses = float(np.mean(run.losses)), []
    rate, scale = run.schedule.get_last_lr()[0], run.model.logit_scale.exp().item()
    run.history.append({"step": run.step, "loss": loss, "learning_rate": rate, "logit_scale": scale})
    return run.history[-1]


@dataclass(frozen=True)
class Texts:
    """What one term of the loss compares.

    rows [b]: images of the batch; tokens [T, context length]: distinct texts; own [b]: the text of each image;
    true: bool [b, b], see `true_texts`, or None; weight: of the term.
    """

    rows: Tensor
    tokens: Tensor
    own: Tensor
    true: Tensor | None
    weight: float


def draw_batch(rng: np.random.Generator, subjects: list[Subject], tokenizer, settings: Pretrain) -> list[Texts]:
    """The texts of a batch, and the broader words of those that have some."""
    forms = [templates(name) for name in settings.templates]
    said = [(draw_texts(rng, subjects, forms), 1.0)]
    if settings.broader_weight and any(subject.broader for subject in subjects):
        said.append((draw_broader(rng, subjects, forms), settings.broader_weight))
    return [tokenized(one, subjects, tokenizer, settings.mask_true_texts, weight) for one, weight in said]


def tokenized(said: Said, subjects: list[Subject], tokenizer, masked: bool, weight: float) -> Texts:
    distinct = {text: i for i, text in enumerate(dict.fromkeys(said.texts))}
    own = torch.tensor([distinct[text] for text in said.texts])
    true = torch.from_numpy(true_texts(said, subjects)) if masked else None
    return Texts(torch.tensor(said.rows), tokenizer(list(distinct)), own, true, weight)


def to_tensor(images: np.ndarray, size: int) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, size, size], normalised."""
    return normalize(resized(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, size), MEAN, STD)


def batch_loss(model: nn.Module, images: Tensor, batch: list[Texts]) -> Tensor:
    """The weighted sum of CLIP's losses, of the texts and of the broader words."""
    device, scale = images.device, model.logit_scale.exp()
    with autocast(device.type, "bfloat16"):
        seen = model.encode_image(images)
        read = [encode_text(model, texts.tokens.to(device)) for texts in batch]
    seen, losses = F.normalize(seen.float(), dim=-1), []
    for texts, features in zip(batch, read, strict=True):
        similarity = seen[texts.rows] @ F.normalize(features.float(), dim=-1)[texts.own].T
        true = None if texts.true is None else texts.true.to(device)
        losses.append(texts.weight * contrastive_loss(similarity, scale, true))
    return sum(losses)


def train_step(model: nn.Module, optimizer, images: Tensor, batch: list[Texts]) -> float:
    """One step on normalised images [B, 3, H, W] and their texts; returns the loss."""
    loss = batch_loss(model, images.to(model.logit_scale.device), batch)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    return loss.item()


@torch.no_grad()
def zero_shot_accuracy(model: nn.Module, tokenizer, images: np.ndarray, labels: list[int], prompts: list[str]) -> float:
    """The share of uint8 images [M, H, W, 3] that are nearest to the prompt of their class."""
    device, size = model.logit_scale.device, model.visual.image_size[0]
    texts = F.normalize(encode_text(model, tokenizer(prompts).to(device)), dim=-1)
    parts = np.array_split(images, max(1, len(images) // 100))
    scores = torch.cat([model.encode_image(to_tensor(part, size).to(device)) @ texts.T for part in parts])
    return (scores.argmax(1).cpu() == torch.tensor(labels)).float().mean().item()


def identify(pairs: Pairs, tokenizer, settings: Pretrain) -> dict:
    """What a run must have in common with an interrupted one to resume it: settings, texts, 64 of the images."""
    shown = pairs.images[np.linspace(0, len(pairs.images) - 1, 64).astype(int)].tobytes()
    texts = [[one.captions, one.names, one.broader, sorted(one.true)] for one in pairs.subjects]
    data = json.dumps([pairs.images.shape, pairs.kinds.tolist(), texts])
    return {
        "settings": settings.model_dump(mode="json", exclude={"raw"}),
        "tokens": tokenizer.vocab_size,
        "data": checksum(data.encode(), shown),
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


def save_clip(folder: Path, model: nn.Module, config: dict) -> None:
    """Writes open_clip_config.json and open_clip_model.safetensors, which open_clip reads from a folder."""
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    about = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n"
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "open_clip_config.json", about)
    write_atomically(folder / "open_clip_model.safetensors", save(weights))
