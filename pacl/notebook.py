"""Runs a notebook as a pipeline stage so that equal runs give equal bytes.

python -m pacl.notebook SOURCE TARGET name=value ...    (names of the `parameters` cell; a value is text where that cell
has text or says `: str`, YAML elsewhere)
python -m pacl.notebook strip SOURCE ...    (removes what running and saving put into sources)
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from ruamel.yaml import YAML, YAMLError

from pacl.runtime.config import NUMBER
from pacl.runtime.files import write_atomically

PYTHON = {"name": "python3", "display_name": "Python 3", "language": "python"}
SOURCE_KERNEL = PYTHON | {"display_name": "Python 3 (ipykernel)"}  # as JupyterLab writes it, which then needn't ask
PLAIN_ERRORS = ("ConfigError", "FileNotFoundError", "ValueError")  # whose messages are full sentences
WIDGET = "application/vnd.jupyter.widget-view+json"
USAGE = "Usage: python -m pacl.notebook SOURCE TARGET name=value ..., or: python -m pacl.notebook strip SOURCE ..."


class ThisInterpreter(AsyncKernelManager):
    """Starts the kernel with the running Python, whatever kernels named python3 the machine has."""

    kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


class NotebookError(Exception):
    """A failure; its message is printed as it is."""


def run(source: Path, target: Path, parameters: dict) -> None:
    """Executes source in the working directory and writes the scrubbed copy to target atomically.

    Raises NotebookError; after a failing cell, the partial copy lies next to target as NAME.failed.ipynb.
    """
    if source.resolve() == target.resolve():
        raise NotebookError(f"The executed copy needs another name than its source {source}.")
    notebook = read(source)
    known = literals(notebook) if parameters else {}
    if unknown := [name for name in parameters if name not in known]:
        raise NotebookError(f"{unknown[0]} is not a parameter of {source}; it has {', '.join(known) or 'none'}.")
    failed = target.with_suffix(".failed.ipynb")
    with tempfile.TemporaryDirectory() as folder:
        plain, copy = Path(folder, "source.ipynb"), Path(folder, "executed.ipynb")
        nbformat.write(notebook, plain)
        target.parent.mkdir(parents=True, exist_ok=True)
        # An empty IPython folder keeps the user's start-up files and history out of the results.
        os.environ.pop("JPY_SESSION_NAME", None)  # by which pacl.tools.play knows JupyterLab
        os.environ.update(IPYTHONDIR=folder, PYTHONHASHSEED="0", PYDEVD_DISABLE_FILE_VALIDATION="1")
        try:
            execute(plain, copy, parameters)
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            write_scrubbed(copy, failed)
            raise NotebookError(f"{message(error)}\nThe copy up to the error: {failed}") from None
        write_scrubbed(copy, target)
    failed.unlink(missing_ok=True)


def execute(source: Path, copy: Path, parameters: dict) -> None:
    """papermill with this Python; passes on the notebook's standard error and shows a progress bar on terminals."""
    papermill.execute_notebook(
        source,
        copy,
        parameters,
        kernel_manager_class=ThisInterpreter,
        progress_bar=sys.stderr.isatty(),
        stderr_file=sys.stderr,
        shutdown_kernel="immediate",  # everything is written by then, and torch takes seconds to exit
    )


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook, with plain Python in place of the kernel it was saved with. Raises NotebookError."""
    if not source.is_file():
        raise NotebookError(f"There is no notebook {source}.")
    try:
        notebook = nbformat.read(source, as_version=4)
    except (ValueError, AttributeError, TypeError, KeyError, nbformat.ValidationError):  # nbformat trusts JSON's types
        raise NotebookError(f"{source} is not a notebook.") from None
    notebook.metadata.kernelspec = PYTHON
    return notebook


def message(error: papermill.PapermillExecutionError | DeadKernelError) -> str:
    """The last line of the notebook's traceback."""
    if isinstance(error, DeadKernelError):
        return "The notebook's Python process died, probably because it ran out of memory."
    return error.evalue if error.ename in PLAIN_ERRORS else f"{error.ename}: {error.evalue}"


def write_scrubbed(copy: Path, target: Path) -> None:
    write_atomically(target, nbformat.writes(scrub(nbformat.read(copy, as_version=4))) + "\n")


def scrub(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Removes what differs between equal runs: times, paths, random ids, widgets, Python's patch version."""
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    return notebook


def tidy(outputs: list) -> list:
    """The outputs without standard error and widgets; neighbouring pieces of printed text, split at random, joined."""
    kept = []
    for output in outputs:
        if output.get("name") == "stderr" or WIDGET in output.get("data", {}):
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        texts = output if output.output_type == "stream" else output.get("data", {})
        for key in texts.keys() & {"text", "text/plain", "text/html", "text/markdown"}:
            texts[key] = steady(texts[key])
    return kept


def steady(text: str) -> str:
    """The text without memory addresses and without the working directory's path."""
    return re.sub(r" at 0x[0-9a-f]+", "", text.replace(f"{Path.cwd()}{os.sep}", ""))


def parse(pair: str, known: dict) -> tuple[str, object]:
    """name=value: text where the notebook has text, or None and the value is not a number; YAML elsewhere.

    known: the notebook's `literals`. Raises NotebookError, also for YAML's dates and mappings.
    """
    name, _, value = pair.partition("=")
    default = known.get(name, ...)
    if isinstance(default, str):
        return name, value
    if default in (None, str):
        none = value in ("null", "None", "~", "")
        return name, None if none else value if default is str else text_or_number(value)
    try:
        found = YAML(typ="safe").load(value)
    except (YAMLError, ValueError, RecursionError):
        raise NotebookError(f"The value of {name} is not YAML: {value}") from None
    if not is_plain(found):
        raise NotebookError(f"The value of {name} must be a number, text or a list of these: {value}")
    return name, found


def text_or_number(value: str) -> str | int | float:
    """A number as Python writes it, or text."""
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value):
        return int(value)
    return float(value) if re.fullmatch(NUMBER, value) and re.search("[.eE]", value) else value


def is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def literals(notebook: nbformat.NotebookNode) -> dict:
    """What the `parameters` cell assigns, by name: a constant, `str` for None where the annotation is str (a path), ...
    for anything else. Raises NotebookError.
    """
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    lines = [line for line in "".join(cells[:1]).splitlines() if not line.startswith(("%", "!"))]  # IPython's own
    try:
        assignments = ast.parse("\n".join(lines)).body
    except SyntaxError as error:
        raise NotebookError(f"The notebook's cell of parameters is not Python: {error}.") from None
    found = {}
    for line in assignments:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name):
            value = line.value.value if isinstance(line.value, ast.Constant) else ...
            is_path = value is None and getattr(getattr(line, "annotation", None), "id", "") == "str"
            found[target.id] = str if is_path else value
    return found


def strip(sources: list[Path]) -> None:
    """Removes from notebooks what running and saving them put there: outputs, counts, and what one's editor calls its
    Python, which nbstripout leaves. Raises NotebookError.
    """
    for source in sources:
        read(source)
    subprocess.run([sys.executable, "-m", "nbstripout", *sources], check=True)
    for source in sources:
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata = {"kernelspec": SOURCE_KERNEL}
        for cell in notebook.cells:
            cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        nbformat.write(notebook, source)


def main(arguments: list[str]) -> None:
    """The command line; exits with status 1 and one or two lines on standard error if something is wrong."""
    stripping = arguments[:1] == ["strip"]
    if len(arguments) < 2 or not stripping and not all("=" in pair for pair in arguments[2:]):
        sys.exit(USAGE)
    try:
        if stripping:
            return strip([Path(source) for source in arguments[1:]])
        source, target, *pairs = arguments
        known = literals(read(Path(source))) if pairs else {}
        run(Path(source), Path(target), dict(parse(pair, known) for pair in pairs))
    except NotebookError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr, flush=True)
        os._exit(130)  # at a usual exit, asyncio would print dozens of lines on the task that ended


if __name__ == "__main__":
    main(sys.argv[1:])
