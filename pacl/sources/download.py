"""Downloads the data sets that a profile needs, and CLIP's weights, from the addresses in data/data_sets.toml.

python -m pacl.sources.download PROFILE [--only SET ...] [--data FOLDER] [--mirror ADDRESS] [--dry-run]

Run it again after an interruption: what is there is skipped, and a partial download is resumed.
"""

import argparse
import errno
import hashlib
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from huggingface_hub.file_download import http_get
from tqdm import tqdm

from pacl.runtime.config import ConfigError, load_params, project_root
from pacl.runtime.params import Model, Prepare
from pacl.sources.addresses import MIRROR, addresses, known_sets
from pacl.sources.layouts import missing
from pacl.sources.prepare import wanted

ARCHIVES = "archives"  # in the raw folder: files on their way; one that was got by hand is taken from there, too
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)
SPARE = 1.1  # of an archive's size: what its files take on a disk


class DownloadError(ValueError):
    """What is needed doesn't fit on the disk, or isn't known."""


class Bar(tqdm):
    """Size, rate and rest, in logs as in terminals."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"disable": False, "mininterval": 1})


def lacking(raw: Path, settings: Prepare, only: list[str] | None = None) -> dict[str, dict]:
    """The sets that the settings need and that are missing in raw, by their keys in data/data_sets.toml or, if they
    aren't there, by their names; each with `get`, the manual way. only: keys, of no others. Raises DownloadError for
    an unknown one.
    """
    if odd := set(only or ()) - known_sets().keys():
        raise DownloadError(f"{min(odd)!r} is not a data set that can be named; there are {', '.join(known_sets())}.")
    rows = [missing(Path(folder), dataset, split) for folder, dataset, split in wanted(raw, settings)]
    key_of = {one["name"]: key for key, one in known_sets().items()}
    found = {}
    for name, _, get, terms in filter(None, rows):
        key = key_of.get(name, name)
        found[key] = {"terms": terms} | known_sets().get(key, {}) | {"name": name, "get": get}
    return {key: one for key, one in found.items() if not only or key in only}


def files_of(raw: Path, one: dict) -> list[dict]:
    """The files of a set of which something is missing in raw."""
    return [
        file for file in one.get("files", ()) if not all((raw / file["into"] / made).exists() for made in file["makes"])
    ]


def size_of(file: dict) -> int:
    return file.get("size") or file["about"]


def space(raw: Path, files: list[dict]) -> int:
    """The bytes that the files will take at most at once: all that is made of them, and one archive. What has already
    arrived of an archive is taken already.
    """
    made = sum(file.get("disk", round(SPARE * size_of(file))) for file in files)
    arrived = [path.stat().st_size for path in (raw / ARCHIVES).glob("*") if path.is_file()]
    return max(0, made + max(map(size_of, files), default=0) - sum(arrived))


def free(folder: Path) -> int:
    """The free bytes of the disk that holds a folder, or will."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def say(raw: Path, sets: dict[str, dict], files: dict[str, list[dict]]) -> None:
    """Prints what is missing, what it takes, and on what terms."""
    for key, one in sets.items():
        if "account" in one or "files" not in one:
            print(f"{one['name']}: not downloaded, because {one.get('account', 'it has no address')}: {one['get']}.")
            continue
        if not files[key]:
            print(f"{one['name']}: {raw / one['folder']} is incomplete; remove it and run again, or {one['get']}.")
            continue
        print(f"{key}: {one['name']}, {shown(sum(map(size_of, files[key])))}. Terms: {one['terms']}.")
        for file in files[key]:
            print(f"    {file['urls'][0]} -> {raw / file['into']}")


def shown(count: float) -> str:
    return tqdm.format_sizeof(count, "B", 1000)


def fetch(file: dict, archives: Path, mirror: str | None) -> Path:
    """A file as published, downloaded into `archives` unless it is there; a partial download is resumed.

    Raises OSError with the answers of all addresses, and ValueError for another checksum than the published one.
    """
    path = archives / name_of(file)
    part = path.with_name(f"{path.name}.part")
    if not path.is_file():
        download(file, part, addresses(file, mirror))
        check(file, part)
        part.rename(path)
    else:
        check(file, path)  # got by hand, or its unpacking was interrupted
        part.unlink(missing_ok=True)
    return path


def name_of(file: dict) -> str:
    return PurePosixPath(file["urls"][0]).name


def download(file: dict, part: Path, urls: list[str]) -> None:
    """Appends to `part` what it lacks. Raises OSError if no address gives it, or the disk is full."""
    failures, options = [], {"headers": {"Accept-Encoding": "identity"}, "tqdm_class": Bar}
    options |= {"displayed_filename": part.stem, "expected_size": file.get("size")}
    for url in urls:
        with part.open("ab") as target:
            arrived = target.tell()
            try:
                return http_get(url, target, resume_size=arrived, **options)
            except Exception as error:  # the client's are of many kinds
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                failures.append(f"{url} ({answer(error)})")
        if arrived:
            failures[-1] += f"; remove {part} if it isn't a part of this file"
    raise OSError(" and ".join(failures))


def answer(error: Exception) -> str:
    """What a server said, or why there was no answer, in a few words."""
    if response := getattr(error, "response", None):
        return f"{response.status_code} {response.reason_phrase}"
    return next(iter(str(error).splitlines()), type(error).__name__)


def check(file: dict, path: Path) -> None:
    """Raises ValueError, and removes the file, if its checksum isn't the published one."""
    kind, _, published = file.get("checksum", "").partition(":")
    if not published:
        return
    with path.open("rb") as content:
        found = hashlib.file_digest(content, kind).hexdigest()
    if found != published:
        path.unlink()
        raise ValueError(f"{name_of(file)} has the {kind} {found} instead of {published}, and was removed: run again")


def unpack(archive: Path, folder: Path, makes: list[str]) -> None:
    """Puts what is wanted of an archive into `folder`, each path atomically.

    Raises ValueError for an archive that is damaged (which is removed), lacks a path, or has a member that would leave
    the folder.
    """
    unfinished = archive.with_name(f"{archive.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        extract(archive, unfinished, makes)
        if absent := [made for made in makes if not (unfinished / made).exists()]:
            raise ValueError(f"{archive} has no {', '.join(absent)}: its layout has changed")
        for made in makes:
            (folder / made).parent.mkdir(parents=True, exist_ok=True)
            if not (folder / made).exists():
                (unfinished / made).rename(folder / made)
    except DAMAGED as error:
        archive.unlink()
        raise ValueError(f"{archive} was damaged ({error}), and was removed: run again") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def extract(archive: Path, folder: Path, makes: list[str]) -> None:
    """Extracts the wanted paths. Raises ValueError for a member, wanted or not, that would leave the folder."""
    bar = {"desc": f"{archive.name}, unpacking", "unit": " files"}

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"{archive} has the member {name!r}, which would leave its folder: don't use it")
        return any(path.is_relative_to(made) for made in makes)

    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder, filter(wanted, Bar(opened.namelist(), **bar)))
    else:
        with tarfile.open(archive) as opened:
            opened.extraction_filter = getattr(tarfile, "data_filter", None)  # Pythons before 3.11.4 have none
            opened.extractall(folder, (member for member in Bar(opened, **bar) if wanted(member.name)))


def get_set(one: dict, raw: Path, mirror: str | None) -> str:
    """Downloads and unpacks what a set lacks. Returns "", or a sentence that says why it failed and what remains to do
    by hand.
    """
    archives = raw / ARCHIVES
    archives.mkdir(parents=True, exist_ok=True)
    for file in files_of(raw, one):
        try:
            path = fetch(file, archives, mirror)
            if path.name.endswith(ENDINGS):
                unpack(path, raw / file["into"], file["makes"])
                path.unlink()
            else:
                (raw / file["into"]).mkdir(parents=True, exist_ok=True)
                path.rename(raw / file["into"] / path.name)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                full = f"no space is left on the disk of {raw}: free some and run the command again to resume"
                return f"{one['name']}: {full}."
            put = f"put {name_of(file)} into {archives} and run again, or {one['get']}"
            return f"{one['name']}: {error}. By hand: {put}. Terms: {one['terms']}."
    return ""


def get_all(raw: Path, settings: Prepare, only: list[str] | None, mirror: str | None, *, dry: bool) -> bool:
    """Downloads all that the settings need and that is missing; returns whether nothing is missing then.

    Raises DownloadError if it wouldn't fit on the disk.
    """
    sets = lacking(raw, settings, only)
    files = {key: files_of(raw, one) for key, one in sets.items()}
    say(raw, sets, files)
    every = [file for of_set in files.values() for file in of_set]
    needed, there = space(raw, every), free(raw)
    if every:
        print(f"Disk needed in {raw}: {shown(needed)}; free: {shown(there)}.", flush=True)
    if dry or not every:
        return dry or not sets
    if needed > there:
        raise DownloadError(f"{raw} needs {shown(needed)}, but only {shown(there)} are free: make room, or use --only.")
    raw.mkdir(parents=True, exist_ok=True)
    with FileLock(raw / ".download.lock", timeout=0):
        failures = [sentence for one in sets.values() if (sentence := get_set(one, raw, mirror))]
    with suppress(OSError):
        (raw / ARCHIVES).rmdir()
    print(*failures, sep="\n", file=sys.stderr, end="\n" if failures else "")
    return not lacking(raw, settings, only)


def get_weights(model: Model, *, dry: bool) -> None:
    """Downloads CLIP's weights if they have an open_clip tag. Raises FileNotFoundError if they can't be had."""
    if model.pretrained == "random" or "/" in model.pretrained or (project_root() / model.pretrained).exists():
        return
    print(f"weights: {model.backbone} {model.pretrained}, by open_clip unless its cache has them", flush=True)
    if not dry:
        from pacl.clip.weights import fetch_weights  # takes seconds to import

        fetch_weights(model.backbone, model.pretrained)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pacl.sources.download", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--only", nargs="+", metavar="SET", help="of the profile's sets only these, without weights")
    parser.add_argument("--data", type=Path, help="the folder to put them in (default: the profile's prepare.raw)")
    parser.add_argument(
        "--mirror", default=os.environ.get(MIRROR), help=f"get ADDRESS/HOST/PATH instead (or ${MIRROR})"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what is missing")
    options = parser.parse_args(arguments)
    try:
        params = load_params(options.profile, "prepare", "model")
        if params.prepare.source == "miniworld":
            return 0
        raw = options.data or project_root() / params.prepare.raw
        complete = get_all(raw, params.prepare, options.only, options.mirror, dry=options.dry_run)
        if not options.only:
            get_weights(params.model, dry=options.dry_run)
    except Timeout:
        print(f"Another download into {raw} is running: wait for it.", file=sys.stderr)
        return 1
    except (ConfigError, DownloadError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: run it again to go on from here.", file=sys.stderr)
        return 130
    return int(not complete)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
