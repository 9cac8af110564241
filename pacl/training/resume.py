"""Resuming interrupted runs: a run's whole state in one file, written so that a kill at any moment leaves a good one.

A file is safetensors, so nothing is ever unpickled; its header holds the rest as JSON, and a checksum of both.
"""

import json
import shutil
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pacl.runtime.files import checksum, write_atomically

SAVE_SECONDS = 300  # between two saves within an epoch


class Progress:
    """The states of one run, in a folder of its own below `folder`; the two newest are kept.

    run: whatever identifies the run (settings, data), as JSON. Another run's states are neither used nor removed.
    """

    def __init__(self, folder: Path, run: dict):
        self.parent, self.run = folder, json.loads(json.dumps(run))
        self.folder = folder / checksum(json.dumps(self.run).encode())[:12]
        self.good, self.saved_at = [], time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= SAVE_SECONDS

    def save(self, step: int, state: dict) -> None:
        """Writes the state after `step` steps: tensors, numbers, texts, and lists and dicts of these.

        Raises OSError if it can't be written; the earlier states stay.
        """
        tensors = {}
        text = json.dumps({"run": self.run, "state": pack(state, tensors)})
        path = self.folder / f"step-{step:09d}.safetensors"
        write_atomically(path, save(tensors, {"json": text, "sha256": checksum_of(text, tensors)}))
        self.good, self.saved_at = [*[p for p in self.good if p != path][-1:], path], time.monotonic()
        for other in set(self.folder.iterdir()) - set(self.good):
            other.unlink()

    def load(self) -> dict | None:
        """The newest good state of this run, None if there is none; warns of every state that it skips."""
        for path in newest_first(self.folder):
            try:
                header, tensors = read_state(path)
                if header["run"] != self.run:
                    raise ValueError(f"{path} belongs to {self.differing(header['run'])}.")
            except ValueError as error:
                warnings.warn(f"{error} It is skipped: the run resumes from an earlier state, if any.", stacklevel=3)
                continue
            self.good = [path]
            return unpack(header["state"], tensors)
        for path in (states[0] for states in map(newest_first, self.parent.glob("*")) if states):
            if path.parent != self.folder:
                with suppress(ValueError):
                    other = self.differing(read_state(path)[0]["run"])
                    warnings.warn(f"{path} belongs to {other}. It is skipped: this run starts again.", stacklevel=3)
        return None

    def differing(self, run: dict) -> str:
        return f"a run with other {', '.join(key for key in self.run if run.get(key) != self.run[key])}"

    def remove(self) -> None:
        """Removes the states of this run, which has ended, and those of all interrupted runs before it."""
        shutil.rmtree(self.parent)


class Resumable:
    """A run that can be resumed: the attributes named in PARTS have a state_dict; those in NUMBERS are numbers, texts,
    tensors, and lists and dicts of these.
    """

    PARTS: tuple[str, ...] = ()
    NUMBERS: tuple[str, ...] = ()

    def state(self) -> dict:
        """What `restore` takes."""
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return {"parts": parts} | {name: getattr(self, name) for name in self.NUMBERS}

    def restore(self, state: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state["parts"][name])
        for name in self.NUMBERS:
            setattr(self, name, state[name])


@contextmanager
def sole_run(folder: Path):
    """Keeps other processes from training into this folder, where they would remove each other's states. The lock ends
    with the process, killed or not. Raises ValueError if another process holds it.
    """
    path = folder.parent / ".resume" / f"{folder.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is training {folder}: wait until it has ended.") from None
    with lock:
        yield


def newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def read_state(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """The header and the tensors of a file that Progress.save wrote. Raises ValueError if it is corrupt or foreign."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = checksum_of(header["json"], tensors) == header["sha256"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path} is corrupt or not a saved state ({' '.join(str(error).split())}).") from None
    if not intact:
        raise ValueError(f"{path} is corrupt: its checksum differs.")
    return json.loads(header["json"]), tensors


def checksum_of(text: str, tensors: dict[str, Tensor]) -> str:
    contents = (tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes() for name in sorted(tensors))
    return checksum(text.encode(), *contents)


def pack(value, tensors: dict[str, Tensor]):
    """The value as JSON. Its tensors go into `tensors`, their names in their place; a dict becomes a list of pairs,
    because JSON's keys can only be texts.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [pack(item, tensors) for item in value]
    return value


def unpack(packed, tensors: dict[str, Tensor]):
    """The value that was packed; tuples come back as lists."""
    if isinstance(packed, dict):
        if "tensor" in packed:
            return tensors[packed["tensor"]]
        return {key: unpack(item, tensors) for key, item in packed["pairs"]}
    return [unpack(item, tensors) for item in packed] if isinstance(packed, list) else packed
