"""Official layouts of public data sets: where their parts are, how to get them, on what terms (paper, section 4).

A data set is a dictionary of data/data_sets.toml, or one of the same form; `key` is its name there.
"""

from collections.abc import Iterable
from pathlib import Path

from pacl.runtime.config import project_root
from pacl.sources.addresses import known_sets


def data_set(key: str) -> dict:
    return {"key": key} | known_sets()[key]


def partial(dataset: dict, found: int, split: str = "all") -> str:
    """A sentence if the number of images isn't the official one, else ""."""
    sizes, name = dataset["sizes"][split], dataset["name"] if split == "all" else f"{dataset['name']} {split}"
    official = sizes if isinstance(sizes, list) else [sizes]
    if found in official:
        return ""
    return f"{name}: {found:,} of {official[0]:,} images, so results on them aren't comparable to published numbers."


def parts_of(folder: str | Path, dataset: dict, split: str = "") -> dict[str, Path]:
    """The path of each part of a data set. Raises FileNotFoundError, see `check_present`."""
    check_present([(folder, dataset, split)])
    return {part: next(places(Path(folder), globs, split)) for part, globs in dataset["parts"].items()}


def places(folder: Path, globs: tuple[str, ...], split: str):
    return (path for glob in globs for path in sorted(folder.glob(glob.format(split=split))))


def check_present(wanted: list[tuple[str | Path, dict, str]]) -> None:
    """Raises one FileNotFoundError that lists all that is missing of the wanted (folder, data set, split)."""
    rows = [row for folder, dataset, split in wanted if (row := missing(Path(folder), dataset, split))]
    if rows:
        titles = ("where it is expected", "how to get it", "terms")
        lines = ["Data that this project can't redistribute is missing:"]
        for name, *about in dict.fromkeys(rows):
            lines += [name, *(f"    {title}: {text}" for title, text in zip(titles, about, strict=True))]
        raise FileNotFoundError("\n".join(lines))


def missing(folder: Path, dataset: dict, split: str) -> tuple[str, str, str, str] | None:
    """(name, where it is expected, how to get it, terms) of a data set, None if nothing is missing."""
    parts = dataset["parts"].values()
    absent = [globs[0].format(split=split) for globs in parts if not any(places(folder, globs, split))]
    if not absent:
        return None
    return dataset["name"], f"{folder}: {', '.join(absent)}", dataset["get"].format(folder=folder), dataset["terms"]


def by_stem(paths: Iterable[Path], ending: str) -> dict[str, Path]:
    """The files whose names have an ending before their suffix, by the name without both. Raises ValueError for two
    files of one name.
    """
    by_name = {}
    for path in paths:
        if path.stem.endswith(ending):
            first = by_name.setdefault(path.stem.removesuffix(ending), path)
            if first != path:
                raise ValueError(f"{first} and {path} have the same name, so a mask would fit both: rename one.")
    return by_name


def shown(names: list[str]) -> str:
    """The number of names and the first three, for a message."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "0"


def lines_of(path: Path) -> list[str]:
    """The lines of a class list or a split, without blank ones."""
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def numbered_lines(path: Path) -> list[str]:
    """A text file's lines, of which the first names value 0. Raises ValueError for a blank line before the last."""
    lines = [line.strip() for line in text_of(path).rstrip().splitlines()]
    if "" in lines:
        raise ValueError(
            f"{path}, line {lines.index('') + 1} is blank: write a name there, or - for a value without a class."
        )
    return lines


def text_of(path: Path) -> str:
    """A UTF-8 text file without a byte order mark. Raises ValueError for another encoding."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8.") from None


def class_list(name: str) -> list[str]:
    """The classes of data/classes/NAME.txt, each its comma-separated synonyms."""
    return lines_of(project_root() / f"data/classes/{name}.txt")
