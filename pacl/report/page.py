"""Renders a report's chapters: as one self-contained HTML file, and as Markdown (templates: data/report/)."""

import base64
import io
import json
import re
from pathlib import Path

import markdown
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pacl.runtime.config import project_root

MARKS = {
    "reproduced": "✓",
    "not reproduced": "✗",
    "not tested": "–",
}  # a verdict is told by sign and words, not colour alone


def write_html(content: dict, path: Path) -> None:
    """Writes the page with its style, script and pictures inside."""
    sources = project_root() / "data/report"
    style, script = ((sources / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    page = environment(autoescape=True).get_template("page.html")
    path.write_text(page.render(**content, style=Markup(style), script=Markup(script)) + "\n", encoding="utf-8")


def write_markdown(content: dict, path: Path) -> None:
    """Writes the same content as Markdown; pictures are linked relative to it."""
    page = environment(autoescape=False).get_template("page.md").render(**content)
    path.write_text(re.sub(r"\n{3,}", "\n\n", page).strip() + "\n", encoding="utf-8")


def environment(*, autoescape: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(project_root() / "data/report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "prose": prose,
        "data_uri": data_uri,
        "size": size,
        "cell": cell,
        "slug": slug,
        "script_data": script_data,
    }
    made.globals["marks"] = MARKS
    return made


def prose(text: str) -> Markup:
    """Markdown as HTML; no line begins with the % of a number."""
    return Markup(markdown.markdown(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)))


def data_uri(path: Path) -> str:
    """A PNG as text, in its 256 best colours: a third of its size, and hardly a difference to see."""
    small = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"


def script_data(content) -> Markup:
    """JSON that may stand inside a script element, whatever its texts hold."""
    return Markup(json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def size(path: Path) -> tuple[int, int]:
    """A picture's width and height on the page, in pixels: a hundred to the inch it was drawn at."""
    with Image.open(path) as picture:
        scale = 100 / picture.info.get("dpi", (200, 200))[0]
        return round(scale * picture.width), round(scale * picture.height)


def cell(value: str) -> str:
    """A text as a Markdown table's cell."""
    return " ".join(value.split()).replace("|", "\\|")


def slug(words: str) -> str:
    return re.sub(r"\W+", "-", words.lower()).strip("-")
