"""Writes files and folders atomically, and reads the JSON files that stages hand to each other."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that an interrupted run or a power cut leaves the old one or the new one: under a temporary name
    in the same folder, flushed to the disk, then renamed.

    Raises OSError that names the file and the remedy.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        flush_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(
            error.errno,
            f"{error.strerror}: {path} was not written; make room or make the folder writable, then run again",
        ) from None


def flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder next to `folder` to write in, which takes its name and place at the end of the block.

    `folder` stays as it is if the block raises or is killed; the next block removes what a killed one left.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def checksum(*parts) -> str:
    """SHA-256 of the parts, bytes or arrays of bytes, one after the other, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def read_array(path: str | Path, *, mmap_mode: str | None = None) -> np.ndarray:
    """NumPy's .npy, with mmap_mode="r" memory-mapped. Raises FileNotFoundError, or ValueError for a corrupt one."""
    try:
        return np.load(path, mmap_mode=mmap_mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: check the path, or run the stage that writes it.") from None
    except Exception as error:  # NumPy's reader raises nearly any kind for a damaged header
        raise ValueError(f"{path} can't be read as an array ({error}): remove it, or write it again.") from None


def write_json(path: Path, content) -> None:
    """Writes JSON atomically; floats are rounded to six decimals, so that equal results are equal bytes. A number that
    is not finite becomes null, because JSON has none.
    """
    write_atomically(path, json.dumps(rounded(content), indent=1, ensure_ascii=False) + "\n")


def rounded(content, digits: int = 6):
    if isinstance(content, dict):
        return {key: rounded(value, digits) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value, digits) for value in content]
    if isinstance(content, float):
        return round(content, digits) if math.isfinite(content) else None
    return content


def read_json(path: Path, *keys: str):
    """A JSON file that an earlier stage wrote, with these keys at its top. Raises FileNotFoundError, or ValueError for
    a corrupt one, naming the file and the remedy.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if keys and not (isinstance(content, dict) and content.keys() >= set(keys)):
            raise ValueError
        return content
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is corrupt: remove it and run the stage that writes it again.") from None
