"""Trains the vision embedder by contrasting images with texts, both encoders frozen (paper, section 3; settings:
appendix).

python -m pacl.training.train --profile PROFILE    (alone, or by torchrun in several processes)
"""

import argparse
import importlib
import inspect
import math
import sys
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pacl.checkpoints import save_embedder
from pacl.clip.features import Texts, read_features
from pacl.loss import LogitScale, contrastive_loss
from pacl.model import VisionEmbedder, compatibility
from pacl.runtime.config import load_params
from pacl.runtime.precision import autocast
from pacl.runtime.processes import keep_freed_memory, progress_bar
from pacl.training import distributed
from pacl.training.cached import CachedPairs, held_out, identity_of
from pacl.training.curves import Curves
from pacl.training.resume import Progress, sole_run


class Run:
    """All that training changes: the embedder, its optimiser and schedule, what was measured, the best weights."""

    def __init__(self, source, params):
        torch.manual_seed(params.seed)
        self.clip_identity = getattr(source, "clip_identity", None)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        embedder = VisionEmbedder(source.width, source.text_width, params.embedder, params.text_embedder)
        self.embedder, self.logit_scale = (
            embedder.to(self.device),
            LogitScale(max=params.max_logit_scale).to(self.device),
        )
        self.optimizer = AdamW(
            parameter_groups(self.embedder, self.logit_scale, params.weight_decay),
            lr=params.learning_rate,
            betas=params.betas,
            eps=params.eps,
        )
        steps = source.steps * params.epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, steps, params.warmup_steps)
        )
        self.step, self.losses, self.history, self.best = 0, [], [], {}  # losses: of the epoch under way

    def state(self) -> dict:
        """What `restore` takes. Raises FloatingPointError when a weight is no number."""
        if not all(p.isfinite().all() for p in (*self.embedder.parameters(), *self.logit_scale.parameters())):
            raise FloatingPointError(f"a weight is no number after step {self.step}: lower train.learning_rate.")
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        numbers = {name: getattr(self, name) for name in ("step", "losses", "history", "best")}
        return {"parts": parts, "random": torch.get_rng_state(), **numbers}

    def restore(self, state: dict) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["random"])
        for name in ("step", "losses", "history", "best"):
            setattr(self, name, state[name])

    def _parts(self) -> dict:
        return {name: getattr(self, name) for name in ("embedder", "logit_scale", "optimizer", "schedule")}


def train(
    source, params, *, validation=None, folder: Path | None = None, live: Path | None = None
) -> tuple[VisionEmbedder, list[dict]]:
    """Trains e_v on a source's batches (see CachedPairs); returns it and its history, one row an epoch.

    validation: (patches, texts) of held-out pairs or a source; with it the history has their loss and retrieval
    accuracy.
    folder: where best (lowest validation loss) and last checkpoints are written. A run that was cut goes on from
    .resume/NAME beside it, which is gone when the run has ended, if settings and data are the same.
    live: where the curves are written while it trains, see pacl.training.curves.
    In a process group (pacl.training.distributed) all processes train one embedder, each on its part of every batch.
    Raises FloatingPointError naming the step and the batch when the loss is no number, and ValueError for a source
    that ends early.
    """
    keep_freed_memory()
    if params.batch_size < distributed.world():
        raise ValueError(
            f"a batch of {params.batch_size} can't be shared by {distributed.world()} processes: start fewer."
        )
    run = Run(source, params)
    progress = folder and Progress(folder.parent / ".resume" / folder.name, identify(source, params, validation))
    if progress and (state := progress.load()):
        run.restore(state)
    if not distributed.same_everywhere(run.step, run.device):
        raise ValueError(f"processes would go on from different steps: {folder} must be one folder for all of them.")
    keep(run, params, folder, progress)
    curves = Curves(live, run.step) if live and distributed.rank() == 0 else None
    embedder = torch.compile(run.embedder) if params.compile else run.embedder
    steps = params.epochs * source.steps
    bar = progress_bar(initial=run.step, total=steps, desc="training steps", disable=distributed.rank() > 0)
    for epoch in range(len(run.history), params.epochs):
        start = run.step - epoch * source.steps
        batches = islice(source.epoch(epoch, distributed.rank(), distributed.world(), start), source.steps - start)
        for number, batch in enumerate(batches, start):
            run.losses.append(train_step(run, embedder, batch, params, f"epoch {epoch + 1}, batch {number + 1}"))
            run.step += 1
            bar.update()
            if curves:
                curves.loss(run.step, run.losses)
            if progress and distributed.rank() == 0 and progress.due():
                progress.save(run.step, run.state())
        if run.step != (epoch + 1) * source.steps:
            raise ValueError(
                f"the source ended after {len(run.losses)} of the {source.steps} batches of epoch {epoch + 1}."
            )
        end_epoch(run, params, validation)
        if curves:
            curves.epoch(run.history[-1])
        keep(run, params, folder, progress)
    bar.close()
    if progress and distributed.rank() == 0:
        progress.remove()
    return run.embedder.eval(), run.history


def identify(source, params, validation) -> dict:
    """What a run that was cut must have in common with the one that goes on."""
    data = [getattr(source, "identity", ""), source.width, source.text_width, source.steps]
    held_out = identity_of(*validation) if isinstance(validation, tuple) else getattr(validation, "identity", "")
    return {"settings": params.model_dump(mode="json"), "data": data, "validation data": held_out}


def train_step(run: Run, embedder, batch: tuple, params, name: str) -> float:
    """One step of the optimiser; returns the loss. Raises FloatingPointError with the batch's name."""
    loss, _ = batch_loss(embedder, run.logit_scale(), batch, params)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {run.step} ({name}): {blame([part.to(run.device) for part in batch])}"
        )
    run.optimizer.zero_grad()
    loss.backward()
    distributed.sum_gradients(run.embedder.parameters())  # not the logit scale's, whose gradient each rank has whole
    run.optimizer.step()
    run.schedule.step()
    return loss.item()


def blame(batch: list[Tensor]) -> str:
    """What to do about a loss that is no number; all ranks say the same."""
    for what, values in zip(("tokens", "texts"), batch, strict=False):
        bad = torch.cat(distributed.gathered((~values.isfinite()).flatten(1).any(1).to(torch.uint8)))  # [B]
        if bad.any():
            places = ", ".join(map(str, bad.nonzero().flatten().tolist()[:10]))
            return f"the {what} of its pairs {places} (counted from 0) are no numbers; look for bad features."
    return "lower train.learning_rate, its tokens and texts are all numbers."


def end_epoch(run: Run, params, validation) -> None:
    """Adds an epoch's row to the history and keeps its weights if they are the best."""
    row = {
        "epoch": len(run.history) + 1,
        "step": run.step,
        "loss": float(np.mean(run.losses)),
        "logit_scale": run.logit_scale().item(),
    }
    run.losses = []
    run.history.append(row | (validate(run.embedder, run.logit_scale(), validation, params) if validation else {}))
    best = min(run.history, key=lambda row: row.get("validation_loss", -row["epoch"]))
    if best is run.history[-1]:
        run.best = {name: tensor.detach().clone() for name, tensor in run.embedder.state_dict().items()}


def keep(run: Run, params, folder: Path | None, progress: Progress | None) -> None:
    """Writes what a cut run goes on from, and after a whole epoch last and best; at the start, too, to find out whether
    it can.
    """
    if not progress or distributed.rank() > 0:
        return
    state = run.state()
    if run.history and not run.losses:
        best = min(run.history, key=lambda row: row.get("validation_loss", -row["epoch"]))["epoch"]
        for name, weights, epochs in (("last", None, len(run.history)), ("best", run.best, best)):
            settings, history = params.model_dump(mode="json"), run.history[:epochs]
            about = {"clip": run.clip_identity, "train": settings, "history": history}
            save_embedder(folder / name, run.embedder, about, weights)
    progress.save(run.step, state)


def batch_loss(embedder, logit_scale: Tensor, batch: list[Tensor], params) -> tuple[Tensor, Tensor]:
    """The loss of a batch and its phi [B, B]; batch: this rank's tokens [b, N, D_v], text_embeddings [b, D], keys [b].

    Every rank has the whole loss of all ranks' images and texts. Its gradient in a weight of the embedder is that by
    way of this rank's images; added up over ranks it is one process's. That of the logit scale is whole.
    """
    tokens, text_embeddings, keys = (tensor.to(logit_scale.device) for tensor in batch)
    texts = distributed.gathered(text_embeddings.float())
    first = sum(len(part) for part in texts[: distributed.rank()])
    phi = torch.cat(distributed.gathered(phi_of(embedder, tokens.float(), torch.cat(texts), params, first)))
    return loss_of(phi, torch.cat(distributed.gathered(keys)), logit_scale, params), phi


def phi_of(embedder, tokens: Tensor, text_embeddings: Tensor, params, first_text: int = 0) -> Tensor:
    """phi [b, B] of tokens [b, N, D_v] and texts [B, D], of which image 0's own is the one numbered first_text."""

    def part(tokens: Tensor, first: int) -> Tensor:
        with autocast(tokens.device.type, params.precision):
            patch_embeddings = embedder(tokens)
        return compatibility(
            patch_embeddings,
            embedder.text_embedder(text_embeddings),
            scoring=params.scoring,
            scale=params.scale,
            activation=params.activation,
            pooling=params.pooling,
            products=params.products,
            first_text=first,
        )

    if params.accumulate == 1:
        return part(tokens, first_text)
    parts, done = [], 0
    for some in tokens.tensor_split(min(params.accumulate, len(tokens))):
        parts.append(checkpoint(part, some, first_text + done, use_reentrant=False))
        done += len(some)
    return torch.cat(parts)


def loss_of(phi: Tensor, keys: Tensor, logit_scale: Tensor, params) -> Tensor:
    same_text = keys[:, None] == keys if params.mask_same_text else None
    return contrastive_loss(phi, logit_scale, same_text)


@torch.no_grad()
def validate(embedder, logit_scale: Tensor, validation, params) -> dict:
    """Loss on held-out pairs, (patches, texts) or a source, and how often an image finds its text in its batch. Of
    (patches, texts) it sees whole captions only and the same ones each time.

    Raises FloatingPointError when the loss is no number.
    """
    losses, hits = [], []
    batches = held_out(*validation, params) if isinstance(validation, tuple) else validation.epoch(0)
    for batch in batches:
        tokens, text_embeddings, keys = (tensor.to(logit_scale.device) for tensor in batch)
        phi = phi_of(embedder, tokens.float(), text_embeddings.float(), params)
        losses.append(loss_of(phi, keys, logit_scale, params).item())
        hits.append((phi.argmax(1).cpu() == torch.arange(len(phi))).float().mean().item())
    if not np.isfinite(losses).all():
        number = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise FloatingPointError(
            f"the validation loss is {losses[number]} in batch {number + 1}: look for bad features."
        )
    return {"validation_loss": float(np.mean(losses)), "validation_retrieval": float(np.mean(hits))}


def train_profile(profile: str, open_source=None) -> None:
    """Trains on data/features/PROFILE and writes checkpoints/PROFILE; in every process of a group, if there is one.

    open_source: opens another source of training batches, a profile -> what `train` takes; validation stays the same.
    """
    params, features = load_params(profile, "train").train, Path("data/features", profile)
    folder = Path("checkpoints", profile)
    with distributed.process_group():
        texts = {split: Texts(features, split) for split in ("train", "validation")}
        patches = {split: read_features(features / f"{split}_patches.npy", 3) for split in texts}
        source = open_source(profile) if open_source else CachedPairs(patches["train"], texts["train"], params)
        held_out = patches["validation"], texts["validation"]
        with sole_run(folder) if distributed.rank() == 0 else nullcontext():
            train(source, params, validation=held_out, folder=folder, live=Path("reports", profile, "live"))


class AdamW(torch.optim.AdamW):
    """torch's, without the wrappers that hide its methods from torch.compile: to call one imports torch._dynamo, which
    takes seconds, and nothing here compiles an optimiser.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad, add_param_group, state_dict, load_state_dict = (
        inspect.unwrap(getattr(torch.optim.AdamW, name))
        for name in ("zero_grad", "add_param_group", "state_dict", "load_state_dict")
    )


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m pacl.training.train", description="Trains a profile's vision embedder."
    )
    parser.add_argument("--profile", default="mini", help="a section of params.yaml")
    chosen = parser.parse_args().profile
    try:
        if Path("data/prepared", chosen, "train_shards.json").is_file():
            importlib.import_module("pacl.training.streamed").train_streamed(
                chosen
            )  # by name: no stage needs it through this module
        else:
            train_profile(chosen)
    except (ValueError, FileNotFoundError, FloatingPointError, OSError) as error:
        sys.exit(str(error))
