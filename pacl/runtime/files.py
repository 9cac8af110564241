"""runtime.files."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path


def unfinished(folder: Path) -> Path:
    """A new folder beside it to write in, until `finish` gives it the folder's name; what a run that was cut left there
    is gone, and the folder itself stays as it is.
    """
    path = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def finish(path: Path, folder: Path) -> None:
    """Puts the `unfinished` folder in the place of the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    path.rename(folder)


def write_json(path: Path, content) -> None:
    """Writes JSON, whole or not at all; floats are rounded to six decimals, so that equal results are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(rounded(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def rounded(content, digits: int = 6):
    if isinstance(content, dict):
        return {key: rounded(value, digits) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value, digits) for value in content]
    return round(content, digits) if isinstance(content, float) else content


def read_json(path: Path, *keys: str):
    """A JSON file that an earlier stage wrote, with these keys at its top. Raises FileNotFoundError, or ValueError for
    a torn one, naming the file and the remedy.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if keys and not (isinstance(content, dict) and content.keys() >= set(keys)):
            raise ValueError
        return content
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no whole JSON file: remove it and run the stage that writes it again.") from None


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, power cuts included: a temporary name, flushed to the disk, then renamed.

    Raises OSError naming the file and what to do.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        flush_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(
            error.errno, f"{error.strerror}: {path} was not written; make room or make the folder writable, then go on"
        ) from None


def flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
