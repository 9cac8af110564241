"""The report in a real browser: it opens from the disk without a network, sorts, switches, enlarges, prints. And three
notebooks in a real JupyterLab (python -m pytest -m slow tests/project/test_browser.py).
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from helpers.folders import link_sources
from helpers.imports import ROOT
from PIL import Image

from pacl.checkpoints import save_embedder
from pacl.clip import load_clip
from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Images, Masks
from pacl.data.prepared import ImageSet
from pacl.evaluation.dense import Passes, Reading
from pacl.evaluation.viewer import write_viewer
from pacl.model import VisionEmbedder
from pacl.notebook import strip
from pacl.report.chapters import write_report
from pacl.report.claims import write_claims
from pacl.report.results import Results
from pacl.runtime.config import load_params
from pacl.runtime.params import Profile, Protocol
from pacl.segment import Method

playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: pip install -e .[dev]")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KERNEL_IS_READY = """() => {
    const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
    return session?.isReady && session.session?.kernel?.status === "idle";
}"""
PIXELS = """() => {
    const images = [...document.querySelectorAll(".widget-image")];
    return images.every((image) => image.complete && image.naturalWidth) && images.map((image) => {
        const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 64});
        canvas.getContext("2d").drawImage(image, 0, 0, 64, 64);
        return canvas.toDataURL();
    });
}"""
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def report(tmp_path_factory, tiny_folder) -> Path:
    """The committed run's report, with a viewer made of three random scenes and two random methods."""
    folder = tmp_path_factory.mktemp("reports") / "mini"
    shutil.copytree(
        ROOT / "reports/mini", folder, ignore=shutil.ignore_patterns("*.ipynb", "report.*", "findings.json")
    )
    for path in folder.rglob("*.png"):  # as large on the page, and much sooner in it
        with Image.open(path) as picture:
            picture.convert("RGB").reduce(4).save(path, dpi=[side / 4 for side in picture.info["dpi"]])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    masks = rng.integers(0, 3, (3, 2, 2), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    masks[:, 0, :3] = [0, 1, 2]
    clip = load_clip("tiny", tiny_folder)
    own = Benchmark("own", ("cat", "dog", "sea", "</script>"), (0, 1, 2, *[IGNORE] * 253))
    methods = {"clip": Method(clip.project, "clip"), "pacl": Method(lambda x: clip.project(x.flip(-1)), "clip")}
    scenes = ImageSet(Images(images), Masks(masks), {"own": own})
    protocol = Protocol(templates="seven", logit_scale=40.0)
    write_viewer(folder / "scenes/viewer.json", Passes(clip, methods, scenes, 16), Reading(own, protocol))
    results = Results("mini", load_params("mini", *Profile.model_fields), folder)
    write_claims(results)
    return write_report(results)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, report):
    """Opens the report in a window of a size and theme; at the end nothing may have complained or left the page."""
    contexts, complaints, requests = [], [], []

    def opened(width=1280, height=900, **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **settings)
        context.set_default_timeout(120_000)  # other tests may keep the processors busy
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {report.as_uri()}


def column(page, table: str, number: int) -> list[str]:
    return page.locator(f"{table} tbody tr > :nth-child({number})").all_inner_texts()


def test_tables_sort_by_number_by_name_and_with_the_keyboard(opened):
    page, table = opened(), "#measured"
    page.evaluate("document.querySelector('#segmentation table.sortable').id = 'measured'")
    before = column(page, table, 4)
    page.click(f"{table} th:nth-child(4) button")
    numbers = [float(text) for text in column(page, table, 4)]
    assert numbers == sorted(map(float, before), reverse=True) != list(map(float, before))
    assert page.get_attribute(f"{table} th:nth-child(4)", "aria-sort") == "descending"
    page.focus(f"{table} th:nth-child(4) button")
    page.keyboard.press("Enter")
    assert [float(text) for text in column(page, table, 4)] == numbers[::-1]
    page.click(f"{table} th:nth-child(1) button")
    names = column(page, table, 1)
    assert names == sorted(names) and page.get_attribute(f"{table} th:nth-child(4)", "aria-sort") is None
    assert page.locator("#reproducibility th button").all_inner_texts() == ["Package"]  # versions are not numbers


def test_the_viewer_switches_scene_and_prompt(opened):
    page = opened()
    pictures = page.locator("#explorer .views img")
    assert page.locator("#explorer .scenes label").count() == 3
    assert pictures.count() == 11 and page.locator("#explorer .views figure").count() == 6
    pictures.last.scroll_into_view_if_needed()
    assert pictures.evaluate_all("images => images.every((image) => image.naturalWidth > 0)")
    first = pictures.evaluate_all("images => images.map((image) => image.src)")
    page.click("#explorer .scenes label >> nth=1")
    second = pictures.evaluate_all("images => images.map((image) => image.src)")
    assert first[0] != second[0]
    page.keyboard.press("ArrowRight")
    assert page.locator("#explorer .scenes input >> nth=2").is_checked()
    page.locator("#explorer .prompts label").last.click()
    assert page.inner_text("#explorer .told").startswith("“</script>” is not in this scene: CLIP takes ")
    assert "not in this scene" in page.inner_text("#explorer .views")
    page.click("#explorer .prompts label >> nth=0")
    assert re.search(r"CLIP IoU \d+\.\d %, PACL IoU \d+\.\d %", page.inner_text("#explorer .told"))


def test_pictures_open_large_contents_lead_to_chapters_and_tables_fit(opened):
    page = opened()
    page.locator(".enlarge").first.click()
    assert page.locator("#viewer").is_visible()
    assert page.locator("#viewer img").get_attribute("src") == page.locator(".enlarge img").first.get_attribute("src")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    targets = page.locator("nav a").evaluate_all("links => links.map((link) => link.hash)")
    assert len(targets) >= 8 and "#look" in targets
    assert all(page.locator(target).count() == 1 for target in targets)
    scales = page.locator("#ablations .tight .scroll")  # the search for logit scales
    assert scales.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_a_phone_needs_no_sideways_scrolling_and_folds_the_contents(opened):
    page = opened(width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.locator("nav details").evaluate("fold => fold.open")


def test_dark_follows_the_system_and_the_button_changes_it(opened):
    page = opened(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 60
    page.click("#theme")
    assert min(map(int, re.findall(r"\d+", page.evaluate(background))[:3])) > 200


def test_paper_is_white_has_no_controls_and_cuts_nothing_off(opened):
    """A4, 794 pixels wide, of which its margins leave 688; everything unfolded, with a dark system."""
    page = opened(width=794, color_scheme="dark")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) > 3
    page.emulate_media(media="print", color_scheme="dark")
    page.add_style_tag(content="body { width: 688px !important; }")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for part in ("#theme", "nav", ".scenes", ".prompts", ".screen"):
        assert not page.locator(part).first.is_visible(), part
    wide = "nodes => nodes.map((node) => [node.getBoundingClientRect().right, node.textContent.slice(0, 80)])"
    for right, text in page.locator("table, img, pre, .bars").evaluate_all(wide):
        assert right <= 689, text


@pytest.fixture
def jupyterlab(tmp_path):
    """A JupyterLab server on a copy of the project with an untrained embedder: its address, and the project."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "notebooks", link_sources(project) / "notebooks")
    clip = load_clip("miniclip", ROOT / "data/miniclip")
    embedder = VisionEmbedder(clip.width, clip.dim)
    save_embedder(project / "checkpoints/mini/best", embedder, {"history": [{"logit_scale": 20.0}]})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--ServerApp.root_dir={project}", "--IdentityProvider.token=here"]
    command += ["--LabApp.expose_app_in_browser=True"]
    home = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=project, env=home, stdout=log, stderr=log)
        wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}", project
        server.terminate()
        server.wait(30)


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            return urllib.request.urlopen(f"{address}/api?token=here", timeout=5).close()
        except OSError:
            time.sleep(0.5)
    pytest.fail("JupyterLab didn't answer")


def run_all_cells(page, path: Path) -> list:
    """The code cells of the open notebook as saved when all have run or one has failed."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_function(KERNEL_IS_READY, timeout=120_000)  # before, JupyterLab would ask for a kernel
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    for _ in range(60):
        page.wait_for_timeout(2000)
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        failed = any(output.output_type == "error" for cell in cells for output in cell.outputs)
        if failed or all(cell.execution_count for cell in cells):
            break
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ["00_pacl_explained", "09_consistency"])
def test_jupyterlab_runs_a_notebook_from_top_to_bottom(browser, jupyterlab, name):
    address, project = jupyterlab
    shutil.copytree(ROOT / "reports/mini/segmentation", project / "reports/mini/segmentation")
    path = project / f"notebooks/{name}.ipynb"
    source = path.read_text(encoding="utf-8")
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{address}/lab/tree/notebooks/{path.name}?token=here")
    cells = run_all_cells(page, path)
    page.context.close()
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.evalue for output in outputs if output.output_type == "error"] == []
    assert all(cell.execution_count for cell in cells)
    assert "Warning" not in " ".join(output.text for output in outputs if output.get("name") == "stderr")
    assert any({"image/png", "text/html"} & output.get("data", {}).keys() for output in outputs), "a picture or a table"
    strip([path])
    assert path.read_text(encoding="utf-8") == source


@pytest.mark.slow
def test_a_photo_is_uploaded_and_three_prompts_show_three_maps(browser, jupyterlab, tmp_path):
    """Without photos and weights, the notebook begins with a scene of the mini world and the CLIP that knows it. Then a
    photo of the reader's: three prompts, three maps, sliders, a mistake said in a sentence. Screenshots in tmp_path.
    """
    address, project = jupyterlab
    path, photo = project / "notebooks/segment_your_images.ipynb", tmp_path / "a <b> photo.png"
    Image.linear_gradient("L").convert("RGB").resize((200, 120)).save(photo)
    page, complaints = browser.new_context(viewport={"width": 1280, "height": 1100}).new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{address}/lab/tree/notebooks/{path.name}?token=here")
    cells = run_all_cells(page, path)
    assert [o.evalue for cell in cells for o in cell.outputs if o.output_type == "error"] == []

    def shown(count: int, before: list[str] = (), new: tuple[int, ...] = ()) -> list[str]:
        """The pixels of the pictures, when there are so many and exactly the new ones differ from those `before`."""
        differ = "before.every((one, i) => (one !== now[i]) === news.includes(i))"
        ready = f"([count, before, news]) => {{ const now = ({PIXELS})(); return now.length === count && {differ} }}"
        page.wait_for_function(ready, arg=[count, list(before), list(new)], timeout=120_000)
        return page.evaluate(PIXELS)

    page.locator(".widget-upload").scroll_into_view_if_needed()
    scene = shown(2 + 4)  # apple, tree, boat, pond
    page.screenshot(path=tmp_path / "scene.png")
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").click()
    chooser.value.set_files(photo)
    first = shown(2 + 4, scene, range(6))
    words = page.locator(".widget-text input").first
    words.fill("dark; <i>bright; grey, silver")
    words.press("Enter")
    found = shown(2 + 3)
    assert found[0] == first[0] != scene[0]
    titles = page.locator(".widget-vbox .widget-vbox .widget-html-content").all_inner_texts()
    assert [title.split(":")[0] for title in titles] == [
        "photo", "best prompt of each pixel", "■ dark", "■ <i>bright", "■ grey, silver"
    ]  # fmt: skip
    page.screenshot(path=tmp_path / "photo.png")
    values = page.locator(".widget-slider .widget-readout")
    values.nth(1).fill("0.2")
    values.nth(1).press("Enter")
    paler = shown(2 + 3, found, (1, 2, 3, 4))  # blend: all but the photo
    values.nth(0).fill("0.98")
    values.nth(0).press("Enter")
    shown(2 + 3, paler, (1,))  # background: the mask alone
    page.screenshot(path=tmp_path / "sliders.png")
    words.fill("dark; Dark")
    words.press("Enter")
    told = page.locator(".widget-html-content > b").first
    playwright.expect(told).to_contain_text("CLIP reads the same in the prompts")
    page.context.close()
    assert complaints == []
