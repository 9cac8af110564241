"""Official layouts of public data sets: what must lie where, how to get it, on what terms (paper, section 4).

A data set is a dictionary: name; folder, below the raw folder; parts, what must be there, each in one of several places
(globs, {split} filled in); sizes, how many images each official split has, several numbers where editions differ; get,
how it is downloaded; terms.
"""

from pathlib import Path

from pacl.runtime.config import project_root


def partial(dataset: dict, found: int, split: str = "all") -> str:
    """A sentence if there are other than the official number of images, else ""."""
    sizes, name = dataset["sizes"][split], dataset["name"] if split == "all" else f"{dataset['name']} {split}"
    official = sizes if isinstance(sizes, tuple) else (sizes,)
    if found in official:
        return ""
    return f"{name}: {found:,} of {official[0]:,} images, so no result on them is comparable to a published number."


def parts_of(folder: str | Path, dataset: dict, split: str = "") -> dict[str, Path]:
    """Where each part of a data set lies. Raises FileNotFoundError, see `check_present`."""
    check_present([(folder, dataset, split)])
    return {part: next(places(Path(folder), globs, split)) for part, globs in dataset["parts"].items()}


def places(folder: Path, globs: tuple[str, ...], split: str):
    return (path for glob in globs for path in sorted(folder.glob(glob.format(split=split))))


def check_present(wanted: list[tuple[str | Path, dict, str]]) -> None:
    """Raises one FileNotFoundError that lists what is missing of all wanted (folder, data set, split)."""
    rows = [row for folder, dataset, split in wanted if (row := missing(Path(folder), dataset, split))]
    if rows:
        titles = ("where it is expected", "how to get it", "terms")
        lines = ["Data that can't come with this project is missing:"]
        for name, *about in dict.fromkeys(rows):
            lines += [name, *(f"    {title}: {text}" for title, text in zip(titles, about, strict=True))]
        raise FileNotFoundError("\n".join(lines))


def missing(folder: Path, dataset: dict, split: str) -> tuple[str, str, str, str] | None:
    """Name, place, how to get it and terms for that list, None if nothing is missing."""
    parts = dataset["parts"].values()
    absent = [globs[0].format(split=split) for globs in parts if not any(places(folder, globs, split))]
    if not absent:
        return None
    return dataset["name"], f"{folder}: {', '.join(absent)}", dataset["get"].format(folder=folder), dataset["terms"]


def files(folder: Path, suffixes: set[str], ending: str) -> dict[str, Path]:
    """The files at or below a folder by their names without `ending` and suffix; those with another are left out.

    Raises ValueError for two of one name.
    """
    by_name = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.stem.endswith(ending):
            first = by_name.setdefault(path.stem.removesuffix(ending), path)
            if first != path:
                raise ValueError(f"{first} and {path} have one name, which a mask couldn't tell apart: rename one.")
    return by_name


def lines_of(path: Path) -> list[str]:
    """A text file's lines without blank ones, as class lists and splits are written."""
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def numbered_lines(path: Path) -> list[str]:
    """A text file's lines, of which the first stands for 0. Raises ValueError for a blank one before the last."""
    lines = [line.strip() for line in text_of(path).rstrip().splitlines()]
    if "" in lines:
        raise ValueError(f"{path}, line {lines.index('') + 1} is blank: write a name, as each line names one value.")
    return lines


def text_of(path: Path) -> str:
    """A UTF-8 text file, without the mark that some editors begin it with. Raises ValueError for another encoding."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8.") from None


def class_list(name: str) -> list[str]:
    """The classes in data/classes/NAME.txt, one a line, a class's synonyms separated by commas."""
    return lines_of(project_root() / f"data/classes/{name}.txt")
