"""Trains the vision embedder by contrasting images with texts, both encoders frozen (paper, section 3; settings:
appendix).
"""

import inspect
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pacl.checkpoints import save_embedder
from pacl.loss import LogitScale, contrastive_loss
from pacl.model import VisionEmbedder, compatibility
from pacl.runtime.params import Train
from pacl.runtime.precision import autocast
from pacl.runtime.processes import keep_freed_memory, progress_bar
from pacl.training import distributed
from pacl.training.cached import held_out, identity_of
from pacl.training.curves import Curves
from pacl.training.resume import Progress, Resumable

PHI = {"scoring", "scale", "activation", "pooling", "pooled", "products"}  # the settings that `compatibility` takes


class Run(Resumable):
    """All that training changes: the embedder, its optimiser and schedule, the history, the best weights."""

    PARTS = ("embedder", "logit_scale", "optimizer", "schedule")
    NUMBERS = ("step", "losses", "history", "best")

    def __init__(self, source, settings: Train):
        torch.manual_seed(settings.seed)
        self.clip_identity = getattr(source, "clip_identity", None)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        embedder = VisionEmbedder(source.width, source.text_width, settings.embedder, settings.text_embedder)
        self.embedder = embedder.to(self.device)
        learned = settings.logit_scale == "learned"
        scale = {} if learned else {"start": settings.logit_scale}
        self.logit_scale = LogitScale(max=settings.max_logit_scale, learned=learned, **scale).to(self.device)
        self.optimizer = AdamW(
            parameter_groups(self.embedder, self.logit_scale, settings.weight_decay),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
        )
        steps = source.steps * settings.epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, steps, settings.warmup_steps)
        )
        self.step, self.losses, self.history, self.best = 0, [], [], {}  # losses: of the current epoch

    def state(self) -> dict:
        """What `restore` takes. Raises FloatingPointError if a weight is not finite."""
        if not all(p.isfinite().all() for p in (*self.embedder.parameters(), *self.logit_scale.parameters())):
            raise FloatingPointError(f"a weight is not a number after step {self.step}: lower train.learning_rate.")
        return super().state() | {"random": torch.get_rng_state()}

    def restore(self, state: dict) -> None:
        super().restore(state)
        torch.set_rng_state(state["random"])


def train(
    source, settings: Train, *, validation=None, folder: Path | None = None, live: Path | None = None
) -> tuple[VisionEmbedder, list[dict]]:
    """Trains e_v on a source's batches (see CachedPairs); returns it and its history, one row per epoch.

    validation: held-out pairs (patches, texts); with them the history has their loss and retrieval accuracy.
    folder: where to write the best (lowest validation loss) and the last checkpoint. An interrupted run with the same
    settings and data resumes from .resume/NAME next to it; a finished run removes that.
    live: where to write the curves while it trains, see pacl.training.curves.
    In a process group (pacl.training.distributed), all processes train one embedder, each on its part of every batch.
    Raises FloatingPointError naming the step and the batch if the loss is not finite, and ValueError if the source ends
    early.
    """
    keep_freed_memory()
    if settings.batch_size < distributed.world_size():
        raise ValueError(
            f"a batch of {settings.batch_size} can't be shared by {distributed.world_size()} processes: start fewer."
        )
    run, first = Run(source, settings), distributed.rank() == 0
    progress = folder and Progress(folder.parent / ".resume" / folder.name, identify(source, settings, validation))
    if progress and (state := progress.load()):
        run.restore(state)
    if not distributed.same_everywhere(run.step, run.device):
        raise ValueError(f"processes would resume from different steps: {folder} must be one folder for all of them.")
    save_checkpoints(run, settings, folder, progress)
    curves = Curves(live, run.step) if live and first else None
    embedder = torch.compile(run.embedder) if settings.compile else run.embedder
    steps = settings.epochs * source.steps
    bar = progress_bar(initial=run.step, total=steps, desc="training steps", disable=not first)
    for epoch in range(len(run.history), settings.epochs):
        for _ in steps_of_epoch(run, embedder, source, settings, epoch):
            bar.update()
            if curves:
                curves.loss(run.step, run.losses)
            if progress and first and progress.due():
                progress.save(run.step, run.state())
        end_epoch(run, settings, validation)
        if curves:
            curves.epoch(run.history[-1])
        save_checkpoints(run, settings, folder, progress)
    bar.close()
    if progress and first:
        progress.remove()
    return run.embedder.eval(), run.history


def identify(source, settings: Train, validation) -> dict:
    """What a run must have in common with an interrupted one to resume it."""
    data = [getattr(source, "identity", ""), source.width, source.text_width, source.steps]
    held_out = identity_of(*validation) if validation else ""
    return {"settings": settings.model_dump(mode="json"), "data": data, "validation data": held_out}


def steps_of_epoch(run: Run, embedder, source, settings: Train, epoch: int) -> Iterator[None]:
    """Trains the rest of an epoch, one step per iteration. Raises ValueError if the source ends early."""
    done = run.step - epoch * source.steps
    batches = source.batches(epoch, distributed.rank(), distributed.world_size(), done)
    for batch in islice(batches, source.steps - done):
        number = run.step - epoch * source.steps
        run.losses.append(train_step(run, embedder, batch, settings, f"epoch {epoch + 1}, batch {number + 1}"))
        del batch  # or it would be held while the next one is made
        run.step += 1
        yield
    if run.step != (epoch + 1) * source.steps:
        raise ValueError(
            f"the source ended after {len(run.losses)} of the {source.steps} batches of epoch {epoch + 1}: check that "
            "its data are complete."
        )


def train_step(run: Run, embedder, batch: tuple, settings: Train, name: str) -> float:
    """One step of the optimiser; returns the loss. Raises FloatingPointError with the batch's name."""
    loss, _ = batch_loss(embedder, run.logit_scale(), batch, settings)
    if not torch.isfinite(loss):
        reason = explain_bad_loss([part.to(run.device) for part in batch])
        raise FloatingPointError(f"the loss is {loss.item()} at step {run.step} ({name}): {reason}")
    run.optimizer.zero_grad()
    loss.backward()
    distributed.sum_gradients(run.embedder.parameters())  # not the logit scale's, which is complete on each rank
    run.optimizer.step()
    run.schedule.step()
    return loss.item()


def explain_bad_loss(batch: list[Tensor]) -> str:
    """The remedy for a loss that is not finite, the same on all ranks."""
    for what, values in zip(("tokens", "texts"), batch, strict=False):
        bad = torch.cat(distributed.all_gather((~values.isfinite()).flatten(1).any(1).to(torch.uint8)))  # [B]
        if bad.any():
            places = ", ".join(map(str, bad.nonzero().flatten().tolist()[:10]))
            return f"the {what} of its pairs {places} (counted from 0) are not numbers; look for bad features."
    return "its tokens and texts are all numbers, so lower train.learning_rate."


def end_epoch(run: Run, settings: Train, validation) -> None:
    """Adds an epoch's row to the history, and keeps its weights if they are the best."""
    row = {
        "epoch": len(run.history) + 1,
        "step": run.step,
        "loss": float(np.mean(run.losses)),
        "logit_scale": run.logit_scale().item(),
    }
    if validation:
        row |= validate(run.embedder, run.logit_scale(), validation, settings)
    run.losses = []
    run.history.append(row)
    if best_row(run.history) is run.history[-1]:
        run.best = {name: tensor.detach().clone() for name, tensor in run.embedder.state_dict().items()}


def best_row(history: list[dict]) -> dict:
    """The epoch with the lowest validation loss; without validation the last one."""
    return min(history, key=lambda row: row.get("validation_loss", -row["epoch"]))


def save_checkpoints(run: Run, settings: Train, folder: Path | None, progress: Progress | None) -> None:
    """Writes the state to resume from and, after a full epoch, the last and the best checkpoint. Called at the start
    too, so that a folder that can't be written stops training at once.
    """
    if not progress or distributed.rank() > 0:
        return
    state = run.state()
    if run.history and not run.losses:
        best = best_row(run.history)["epoch"]
        for name, weights, epochs in (("last", None, len(run.history)), ("best", run.best, best)):
            train, history = settings.model_dump(mode="json"), run.history[:epochs]
            about = {"clip": run.clip_identity, "train": train, "history": history}
            save_embedder(folder / name, run.embedder, about, weights)
    progress.save(run.step, state)


def batch_loss(embedder, logit_scale: Tensor, batch: tuple, settings: Train) -> tuple[Tensor, Tensor]:
    """The loss of a batch and its phi [B, B]; batch: this rank's tokens [b, N, D_v], text_embeddings [b, D], keys [b].

    Every rank computes the loss over all ranks' images and texts. The gradient of the embedder's weights is the part
    that comes from this rank's images, and the sum over ranks is that of one process; the logit scale's is complete.
    """
    tokens, text_embeddings, keys = (tensor.to(logit_scale.device) for tensor in batch)
    texts = distributed.all_gather(text_embeddings.float())
    first = sum(len(part) for part in texts[: distributed.rank()])
    phi = torch.cat(distributed.all_gather(phi_of(embedder, tokens.float(), torch.cat(texts), settings, first)))
    return loss_of(phi, torch.cat(distributed.all_gather(keys)), logit_scale, settings), phi


def phi_of(embedder, tokens: Tensor, text_embeddings: Tensor, settings: Train, first_text: int = 0) -> Tensor:
    """phi [b, B] of tokens [b, N, D_v] and texts [B, D]; first_text: the number of image 0's own text."""

    def part(tokens: Tensor, first: int) -> Tensor:
        with autocast(tokens.device.type, settings.precision):
            patch_embeddings = embedder(tokens)
        options = settings.model_dump(include=PHI)
        return compatibility(patch_embeddings, embedder.text_embedder(text_embeddings), first_text=first, **options)

    if settings.accumulate == 1:
        return part(tokens, first_text)
    parts, done = [], 0
    for some in tokens.tensor_split(min(settings.accumulate, len(tokens))):
        parts.append(checkpoint(part, some, first_text + done, use_reentrant=False))
        done += len(some)
    return torch.cat(parts)


def loss_of(phi: Tensor, keys: Tensor, logit_scale: Tensor, settings: Train) -> Tensor:
    same_text = keys[:, None] == keys if settings.mask_same_text else None
    return contrastive_loss(phi, logit_scale, same_text)


@torch.no_grad()
def validate(embedder, logit_scale: Tensor, validation, settings: Train) -> dict:
    """Loss on held-out pairs (patches, texts), and the share of images that find their text in the batch. Only captions
    are used, the same ones each time.

    Raises FloatingPointError if the loss is not finite.
    """
    losses, hits = [], []
    for batch in held_out(*validation, settings):
        tokens, text_embeddings, keys = (tensor.to(logit_scale.device) for tensor in batch)
        phi = phi_of(embedder, tokens.float(), text_embeddings.float(), settings)
        losses.append(loss_of(phi, keys, logit_scale, settings).item())
        hits.append((phi.argmax(1).cpu() == torch.arange(len(phi))).float().mean().item())
    if not np.isfinite(losses).all():
        number = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise FloatingPointError(
            f"the validation loss is {losses[number]} in batch {number + 1}: look for bad features."
        )
    return {"validation_loss": float(np.mean(losses)), "validation_retrieval": float(np.mean(hits))}


class AdamW(torch.optim.AdamW):
    """torch's AdamW without the wrappers that hide its methods from torch.compile: the first call of a wrapper imports
    torch._dynamo, which takes seconds, and nothing here compiles an optimiser.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad, add_param_group, state_dict, load_state_dict = (
        inspect.unwrap(getattr(torch.optim.AdamW, name))
        for name in ("zero_grad", "add_param_group", "state_dict", "load_state_dict")
    )


def parameter_groups(embedder, logit_scale, weight_decay: float) -> list[dict]:
    """Weight decay only for the weight matrices, as in CLIP."""
    weights = [p for p in embedder.parameters() if p.ndim > 1]
    others = [p for p in embedder.parameters() if p.ndim <= 1] + list(logit_scale.parameters())
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine to zero, updated at every step (paper, appendix)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
