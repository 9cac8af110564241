"""The report's page: the blocks that chapters are made of, as plain tables, and how these are rendered as one
self-contained HTML file and as Markdown (templates: data/report/).
"""

import base64
import json
import re
from functools import cache
from pathlib import Path

import markdown
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pacl.figures.charts import size
from pacl.runtime.config import project_root
from pacl.runtime.files import write_atomically

MARKS = {"reproduced": "✓", "not reproduced": "✗", "not tested": "–"}  # colour alone would not tell verdicts apart
PHOTOS = ("scenes", "heat_maps", "segmentation_grid")  # figures that show photos
# 1,024  −3.1  83.4 ± 0.4  41.8–49.4  72.3?  ≤ 3  0.2, missed  –
NUMBER = re.compile(r"(≤ )?[+−]?[\d,]*\.?\d+( ?[±–] ?[\d.]+)?(\?|, missed)?$|–$")


def from_data(name: str):
    """The content of a YAML file in data/."""
    return yaml.load((project_root() / "data" / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


@cache
def words() -> dict:
    return from_data("report/words.yaml")


def say(name: str, **values) -> dict:
    """The paragraph of that name in words.yaml, with the values filled in."""
    return text(words()[name].format(**values))


def text(content: str) -> dict:
    """A paragraph of Markdown."""
    return {"kind": "text", "text": content}


def joined(texts: list[dict]) -> dict:
    """Several texts as one paragraph."""
    return text(" ".join(one["text"] for one in texts))


def heading(title: str) -> dict:
    return {"kind": "heading", "title": title}


def missing(name: str) -> dict:
    """The sentence in place of a file that isn't there; its folder, or its own name, is the stage that writes it."""
    stage = name.split("/")[0].removesuffix(".json")
    return text(f"*`{name}` isn't there: run the stage **{stage}**, which writes it (`dvc repro {stage}`).*")


def figure(results, name: str, caption: str | None = None, *, folder: str = "figures", **values) -> dict:
    """A picture of a run, by its name without .png: HTML embeds it, Markdown links it. Without a caption it has that of
    its name in words.yaml, with the values filled in, and that of photos says where their credits are.
    """
    file, caption = f"{folder}/{name}.png", caption or words()["captions"][name].format(**values)
    if name in PHOTOS and "credits" in results.prepared:
        caption += f" {words()['credited']}"
    if file not in results.pictures:
        return missing(file)
    return {"kind": "figure", "name": file, "path": results.folder / file, "caption": caption}


def table(
    columns: list[str],
    rows: list[list],
    *,
    caption="",
    strong=(),
    outside=False,
    screen=False,
    unsorted=(),
    tight=False,
) -> dict:
    """Rows of texts. strong: indices of the rows to stress; outside: the numbers come from other work; screen: not
    printed on paper; unsorted: columns without an order; tight: many narrow columns.
    """
    rows = [[str(value) for value in row] for row in rows]
    numeric = [all(map(NUMBER.match, column)) for column in zip(*rows, strict=True)] or [False] * len(columns)
    about = {"caption": caption, "strong": strong, "outside": outside, "screen": screen, "unsorted": unsorted}
    return {"kind": "table", "columns": columns, "rows": rows, "numeric": numeric, "tight": tight, **about}


def bars(title: str, rows: list[tuple[str, float, str]], *, wide: bool = False, stressed: bool = True) -> dict:
    """Bars from 0 to 1: (label, value, its text). wide: labels are long; stressed: the first bar stands out."""
    texts = [[label, written] for label, _, written in rows]
    return {"kind": "bars", "title": title, "rows": rows, "texts": texts, "wide": wide, "stressed": stressed}


def fold(title: str, content: list[dict]) -> dict:
    return {"kind": "fold", "title": title, "blocks": content}


def code(content: str) -> dict:
    return {"kind": "code", "text": content.rstrip("\n")}


def percent(fraction, sign: str = "") -> str:
    """A fraction in percent with one decimal, "–" for none; sign "+" for a difference, with a true minus."""
    if fraction is None or fraction != fraction:
        return "–"
    return f"{100 * fraction:{sign}.1f}".replace("-", "−")


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def write_page(content: dict, folder: Path) -> Path:
    """Writes report.md, which links its pictures, and report.html, which holds its style, script and pictures. Returns
    the latter's path.
    """
    page = environment(autoescape=False).get_template("page.md").render(**content)
    write_atomically(folder / "report.md", re.sub(r"\n{3,}", "\n\n", page).strip() + "\n")
    sources = project_root() / "data/report"
    style, script = (Markup((sources / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    page = environment(autoescape=True).get_template("page.html").render(**content, style=style, script=script)
    write_atomically(folder / "report.html", page + "\n")
    return folder / "report.html"


def environment(*, autoescape: bool) -> Environment:
    loader, blocks = FileSystemLoader(project_root() / "data/report"), {"trim_blocks": True, "lstrip_blocks": True}
    made = Environment(loader=loader, autoescape=autoescape, undefined=StrictUndefined, **blocks)
    made.filters |= {one.__name__: one for one in (prose, data_uri, size, slug, script_data, markdown_table)}
    made.globals["marks"] = MARKS
    return made


def prose(content: str) -> Markup:
    """Markdown as HTML; no line begins with the % of a number."""
    return Markup(markdown.markdown(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", content)))


def markdown_table(rows: list[list[str]], columns: list[str], numeric: list[bool] | None = None, strong=()) -> str:
    """A Markdown table; numeric: which columns are aligned right; strong: indices of the rows in bold."""

    def line(row, mark: str = "") -> str:
        cells = (mark + " ".join(value.split()).replace("|", "\\|") + mark for value in row)
        return f"| {' | '.join(cells)} |"

    rule = ["---:" if right else "---" for right in numeric or [False] * len(columns)]
    return "\n".join([line(columns), line(rule), *(line(row, "**" * (i in strong)) for i, row in enumerate(rows))])


def data_uri(path: Path) -> str:
    """A PNG as text."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def script_data(content) -> Markup:
    """JSON that is safe inside a script element, whatever texts it holds."""
    return Markup(json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def slug(words: str) -> str:
    return re.sub(r"\W+", "-", words.lower()).strip("-")
