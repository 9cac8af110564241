"""The report in a real browser: it opens from the disk without a network, sorts, switches, enlarges, prints."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pacl.claims import write_claims
from pacl.clip import load_clip
from pacl.config import load_params
from pacl.data import Images, Masks
from pacl.params import Protocol
from pacl.report import write_report
from pacl.viewer import write_viewer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed: pip install -e .[dev]")
ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECTIONS = ("prepare", "model", "features", "train", "protocols")
MEASURED = ("patch_alignment", "segmentation", "classification", "ablations")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def report(tmp_path_factory, tiny_folder) -> Path:
    """The committed run's report, with a viewer made of three random scenes and two random methods."""
    folder = tmp_path_factory.mktemp("report") / "mini"
    shutil.copytree(ROOT / "reports/mini", folder, ignore=shutil.ignore_patterns("*.ipynb", "report.*"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    masks = rng.integers(0, 3, (3, 2, 2), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    masks[:, 0, :3] = [0, 1, 2]
    clip = load_clip("tiny", tiny_folder)
    benchmark = {"classes": ["cat", "dog", "sea", "</script>"], "table": [0, 1, 2] + [255] * 253}
    methods = {"clip": clip.project, "pacl": lambda tokens: clip.project(tokens.flip(-1))}
    protocol = Protocol(templates="seven", logit_scale=40.0)
    write_viewer(folder / "viewer.json", clip, methods, Images(images), Masks(masks), benchmark, protocol)
    params = load_params("mini", *SECTIONS, *MEASURED)
    write_claims(folder, params)
    return write_report("mini", params, folder)


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
    page = opened()
    table = "#segmentation table.sortable >> nth=0"
    page.evaluate("document.querySelector('#segmentation table.sortable').id = 'measured'")
    table = "#measured"
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


def test_the_viewer_switches_scene_and_prompt(opened):
    page = opened()
    pictures = page.locator("#explorer .views img")
    assert page.locator("#explorer .scenes label").count() == 3
    assert pictures.count() == 11 and page.locator("#explorer .views figure").count() == 6
    pictures.last.scroll_into_view_if_needed()
    assert page.evaluate(
        "[...document.querySelectorAll('#explorer .views img')].every((image) => image.naturalWidth > 0)"
    )
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


def test_a_picture_opens_large_and_closes_with_escape(opened):
    page = opened()
    page.locator(".enlarge").first.click()
    dialog = page.locator("#viewer")
    assert dialog.is_visible()
    assert page.locator("#viewer img").get_attribute("src") == page.locator(".enlarge img").first.get_attribute("src")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_contents_lead_to_their_chapters(opened):
    page = opened()
    links = page.locator("nav a")
    assert links.count() >= 8
    for target in links.evaluate_all("links => links.map((link) => link.hash)"):
        assert page.locator(target).count() == 1
    assert page.locator("nav a[href='#look']").count() == 1


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


def test_it_prints(opened):
    page = opened()
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) > 3
