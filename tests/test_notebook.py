"""A notebook stage: parameters arrive, equal runs give equal bytes, and a failure leaves one clear message."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill import PapermillExecutionError

from pacl import notebook as notebook_module
from pacl.notebook import USAGE, NotebookError, literals, main, parse, read, scrub

PARAMETERS = 'profile = "mini"  # a section of params.yaml\nerror = ""\nsize = 4'
BODY = """import os, sys
print("one", flush=True)
print("progress", file=sys.stderr, flush=True)
print("two", os.getcwd() + "/data")
print(profile, sys.executable, os.environ["PYTHONHASHSEED"])
object()"""
FAILURE = """if error:
    raise {"value": ValueError, "index": IndexError}[error]("Too few pairs: set pairs to 2.")"""


@pytest.fixture
def notebook(tmp_path):
    """The path of a small notebook; its own kernel doesn't exist, and the one called python3 doesn't work."""
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    broken = {"argv": ["false"], "display_name": "Broken", "language": "python"}
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(broken))
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# A stage"), parameters, new_code_cell(BODY), new_code_cell(FAILURE)]
    node = new_notebook(cells=cells, metadata={"kernelspec": {"name": "elsewhere", "display_name": "Elsewhere"}})
    nbformat.write(node, tmp_path / "stage.ipynb")
    return tmp_path / "stage.ipynb"


def run(notebook, target, *arguments):
    command = [sys.executable, "-m", "pacl.notebook", str(notebook), target, *arguments]
    environment = os.environ | {"JUPYTER_PATH": str(notebook.parent)}
    return subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True, timeout=120)


def test_equal_runs_give_equal_bytes(notebook):
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda name: run(notebook, f"new/{name}.ipynb", "profile=paper"), "ab"))
    assert [done.returncode for done in runs] == [0, 0], runs[0].stderr
    first, second = ((notebook.parent / "new" / f"{name}.ipynb").read_bytes() for name in "ab")
    assert first == second
    cells = json.loads(first)["cells"]
    assert [cell.get("execution_count") for cell in cells] == [None, 1, 2, 3, 4]
    printed, shown = cells[3]["outputs"]
    assert "".join(printed["text"]) == f"one\ntwo data\npaper {sys.executable} 0\n"
    assert shown["data"]["text/plain"] == ["<object>"]
    assert sorted(path.name for path in (notebook.parent / "new").iterdir()) == ["a.ipynb", "b.ipynb"]
    assert "progress" in runs[0].stderr  # shown, but not kept


def test_a_failing_cell_keeps_the_last_good_copy(notebook):
    (notebook.parent / "out.ipynb").write_text("the last good copy")
    done = run(notebook, "out.ipynb", "error=value")
    assert done.returncode == 1
    *_, printed, where = done.stderr.splitlines()
    assert printed == "Too few pairs: set pairs to 2."
    assert where.endswith("out.failed.ipynb")
    assert "Traceback" not in done.stderr
    assert (notebook.parent / "out.ipynb").read_text() == "the last good copy"
    assert "Too few pairs" in (notebook.parent / "out.failed.ipynb").read_text()


def test_other_errors_than_the_projects_own_are_named_by_their_kind():
    error = PapermillExecutionError(0, 1, "raise", "IndexError", "list index out of range", [])
    assert notebook_module.message(error) == "IndexError: list index out of range"


@pytest.mark.parametrize(("source", "arguments", "line"), [
    ("stage.ipynb", ["profil=mini"], "profil is not a parameter of {source}; it has profile, error, size."),
    ("missing.ipynb", [], "There is no notebook {source}."),
    ("stage.ipynb", ["size=[1"], "The value of size is not YAML: [1"),
    ("stage.ipynb", ["size=2024-13-45"], "The value of size is not YAML: 2024-13-45"),
    ("stage.ipynb", ["size=2024-12-24"], "The value of size must be a number, text or a list of these: 2024-12-24"),
    ("stage.ipynb", ["size=[a: 1]"], "The value of size must be a number, text or a list of these: [a: 1]"),
    ("stage.ipynb", ["profile"], USAGE),
])  # fmt: skip
def test_a_wrong_call_is_one_sentence(notebook, source, arguments, line):
    path, target = notebook.parent / source, notebook.parent / "new/out.ipynb"
    with pytest.raises(SystemExit) as ended:
        notebook_module.main([str(path), str(target), *arguments])
    assert ended.value.code == line.format(source=path)
    assert not target.parent.exists()


def test_a_good_run_removes_the_copy_of_a_failed_one_and_a_dead_process_leaves_one(notebook, tmp_path, monkeypatch):
    def execute(source, copy, parameters):
        copy.write_bytes(source.read_bytes())
        if dead:
            raise DeadKernelError("Kernel died")

    monkeypatch.setattr(notebook_module, "execute", execute)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    target, dead = tmp_path / "out.ipynb", True
    with pytest.raises(
        NotebookError, match="process died, probably because it ran out of memory.\nThe copy up to the error"
    ):
        notebook_module.run(notebook, target, {})
    assert (tmp_path / "out.failed.ipynb").is_file() and not target.exists()
    dead = False
    notebook_module.run(notebook, target, {})
    assert target.is_file() and not (tmp_path / "out.failed.ipynb").exists()
    with pytest.raises(NotebookError, match="another name than its source"):
        notebook_module.run(notebook, notebook, {})


@pytest.mark.parametrize("content", [
    *(b"no JSON", b"", b"\xff\xd8 a photo", b"[]", b"3", b'{"nbformat": 4, "cells": []}', b'{"nbformat": 9}'),
    b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [3]}',
])  # fmt: skip
def test_other_files_than_notebooks_are_named(tmp_path, content):
    (tmp_path / "corrupt.ipynb").write_bytes(content)
    with pytest.raises(NotebookError, match="corrupt.ipynb is not a notebook."):
        read(tmp_path / "corrupt.ipynb")


def test_outputs_are_joined_and_lose_addresses_and_standard_error():
    outputs = [
        new_output("stream", name=name, text=text) for name, text in (("stdout", "a"), ("stderr", "b"), ("stdout", "c"))
    ]
    data = {"text/html": "<b at 0x1f>", "text/plain": "<f at 0x2e>", "text/markdown": "m at 0x3d"}
    outputs += [new_output("display_data", data), new_output("stream", name="stdout", text="d")]
    kept = scrub(new_notebook(cells=[new_code_cell("x", outputs=outputs)])).cells[0].outputs
    assert [output.get("text") for output in kept] == ["ac", None, "d"]
    assert kept[1].data == {"text/html": "<b>", "text/plain": "<f>", "text/markdown": "m"}


def test_scrub_removes_times_paths_widgets_and_ids():
    widget = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1f"}})
    cell = new_code_cell("bar", outputs=[widget], metadata={"papermill": {"duration": 1.2}, "execution": {}})
    language = {"name": "python", "version": "3.11.7"}
    metadata = {"papermill": {"output_path": "/tmp/x"}, "widgets": {}, "language_info": language}
    notebook = scrub(new_notebook(cells=[cell], metadata=metadata))
    assert notebook.metadata == {"language_info": {"name": "python"}}
    assert (notebook.cells[0].id, notebook.cells[0].metadata, notebook.cells[0].outputs) == ("cell-0", {}, [])


TYPED = new_code_cell(
    """prompts = "cat"  # what to look for
images: str = ("a" "b")
output: str = None
background = None
size = 4
sizes = [1, 2]
""",
    metadata={"tags": ["parameters"]},
)


@pytest.mark.parametrize(("pair", "value"), [
    *((f"prompts={text}", text) for text in ("no", "door: open", "cat, #1 shirt, sea", "[1", "null", "", "a=b")),
    ("images=2024", "2024"),
    ("images=2024-12-24", "2024-12-24"),
    *((f"output={text}", text) for text in ("no", "a: b", "sweep/0.2", "2024", "0.5", "5e-05", "-1")),
    *((f"{name}={text}", None) for name in ("output", "background") for text in ("null", "None")),
    *((f"background={text}", text) for text in ("no", "2024-12-24", "007", "-007", "1_000", "1e", "e5", ".")),
    ("background=4", 4),
    *((f"background={x!r}", x) for x in (0.2, 5e-05, 1e-06, 1.5e-3, 1e16, 1e20, -1, -2.5e-7, 0, 12345678901234567)),
    *((f"background={text}", x) for text, x in ((".5", 0.5), ("5.", 5.0), ("1E-3", 0.001), ("0.50", 0.5))),
    ("size=0.5", 0.5),
    ("size=5e-05", 5e-05),
    ("size=false", False),
    ("size=null", None),
    ("sizes=[3, x]", [3, "x"]),
])  # fmt: skip
def test_a_value_is_text_where_the_notebook_has_text(pair, value):
    found = parse(pair, literals(new_notebook(cells=[TYPED])))
    assert found == (pair.partition("=")[0], value) and type(found[1]) is type(value)


def test_what_the_cell_of_parameters_assigns_is_read():
    def cell(lines):
        return new_notebook(cells=[new_code_cell(lines, metadata={"tags": ["parameters"]})])

    lines = "%matplotlib inline\na.b = 1\nc = 2\nd: int = 3\ne = c\nf: str = None\ng: int = None"
    assert literals(cell(lines)) == {"c": 2, "d": 3, "e": ..., "f": str, "g": None}
    assert literals(new_notebook(cells=[new_code_cell("x = 1")])) == {}
    with pytest.raises(NotebookError, match="cell of parameters is not Python"):
        literals(cell("x ="))


def test_stripped_a_notebook_is_as_its_source_whatever_editor_saved_it(tmp_path):
    source, saved = Path(__file__).parents[1] / "notebooks/01_prepare.ipynb", tmp_path / "saved.ipynb"
    assert "tags" in source.read_text(), "which stay"
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.kernelspec.display_name = "my-env (Python 3.12.1)"
    notebook.metadata |= {"language_info": {"name": "python", "version": "3.12.1"}, "vscode": {"interpreter": {}}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"id{number}"
        cell.metadata |= {"vscode": {"languageId": "python"}, "editable": True, "slideshow": {"slide_type": ""}}
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = 7, [nbformat.v4.new_output("stream", text="ran")]
    nbformat.write(notebook, saved)
    main(["strip", str(saved)])
    assert saved.read_bytes() == source.read_bytes()
    saved.write_text("{}")
    with pytest.raises(SystemExit, match="saved.ipynb is not a notebook"):
        main(["strip", str(saved)])
