"""The benchmarks compare like with like, and their tables say what was measured; nothing is timed here."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import compatibility, cost, epoch, evaluation, features, measuring, tables
from benchmarks.__main__ import ITEMS, joined, main, publish
from benchmarks.items import dense_rows
from benchmarks.measuring import held, in_own_process, machine, row
from pacl.config import load_params
from pacl.labels import label_maps
from pacl.loss import contrastive_loss
from pacl.params import Protocol

MACHINE = {
    "processor": "Abacus",
    "cores": 2,
    "memory_gigabytes": 8.0,
    "python": "3.11.0",
    "torch": "2.0",
    "load": 0.1,
}


def test_ours_and_plain_give_one_phi_and_one_gradient_and_bf16_nearly(bfloat16_everywhere):
    given = compatibility.inputs(3, 5, 4, 8)
    phi, gradient = compatibility.step("plain", *given)
    ours, rounded = compatibility.step("ours", *given), compatibility.step("bf16", *given)
    torch.testing.assert_close(ours, (phi, gradient), atol=1e-5, rtol=1e-4)
    error = (rounded[0] - phi).abs().max()
    assert 1e-5 < error < 2e-2, "rounded to 8 bits: neither float32's error nor a wrong result"
    torch.testing.assert_close(rounded[1], gradient, atol=0.05 * gradient.abs().max().item(), rtol=0)


@pytest.mark.parametrize("protocol", [evaluation.NONE, evaluation.ENTROPY], ids=["none", "entropy"])
def test_both_ways_of_evaluation_give_one_confusion_matrix(monkeypatch, protocol):
    monkeypatch.setattr(evaluation, "BATCH", 2)
    calls = evaluation.both_ways(evaluation.batch(6), protocol)
    confmat = calls["plain"]()
    assert torch.equal(calls["ours"](), confmat) and (confmat > 0).sum() > 20


def test_a_photos_label_maps_agree(monkeypatch):
    monkeypatch.setattr(evaluation, "CLASSES", 9)
    monkeypatch.setattr(evaluation, "TOKENS", (5, 7))
    monkeypatch.setattr(evaluation, "PIXELS", (60, 90))
    *cosines, target = evaluation.photo()
    labels = label_maps(*cosines, Protocol())
    assert torch.equal(labels, evaluation.plain_labels(*cosines, Protocol()))
    assert torch.equal(labels, F.interpolate(cosines[0], size=(60, 90), mode="bilinear").argmax(1))
    assert 0.05 < (target == 255).double().mean() < 0.15
    with pytest.raises(ValueError, match="outside"):
        evaluation.plain_confusion_matrix(labels, target, 3)


def test_a_training_step_has_the_loss_of_its_parts_and_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(epoch, "IMAGES", 32)
    params = load_params("mini", "train").train.model_copy(update={"batch_size": 16})
    patches, texts = epoch.stand_in(tmp_path)
    training = epoch.Training(epoch.WIDTH, epoch.WIDTH, params)
    batch = np.arange(16)
    tokens = torch.from_numpy(np.asarray(patches[batch])).float()
    drawn, keys = texts.draw(np.random.default_rng(0), batch, params.noun_share)
    phi = compatibility.plain(training.embedder(tokens), drawn)
    expected = contrastive_loss(phi, training.logit_scale(), keys[:, None] == keys).item()
    losses = [training.step(tokens, drawn, keys) for _ in range(5)]
    assert losses[0] == pytest.approx(expected, abs=1e-4) and losses[-1] < losses[0]
    assert len(training.epoch(patches, texts, np.random.default_rng(0))) == 2
    assert set(training.taken) == {"reading", "drawing texts", "embedder", "phi", "loss", "gradients", "optimiser"}


def test_operations_are_those_that_torch_counts():
    """A step's products, phi's by its plain definition left out, against torch's own counter."""
    B, N, in_dim, out_dim = 2, 3, 8, 4
    embedder = epoch.Training(in_dim, out_dim, load_params("mini", "train").train).embedder
    with FlopCounterMode(display=False) as counter:
        embedder(torch.randn(B * N, in_dim)).sum().backward()
    of_phi = compatibility.operations(B, N, B, out_dim)
    assert epoch.operations(B, N, in_dim, out_dim) - of_phi == counter.get_total_flops()


def test_a_vits_operations_are_those_that_torch_counts(random_vit):
    block, x = random_vit.model.visual.transformer.resblocks[0], torch.randn(1, 10, features.WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the others are not counted
        block(x)
    assert counter.get_total_flops() == features.operations(10, layers=1)


def hold(megabytes: int) -> float:
    return held(lambda: np.ones(megabytes * 10**6, dtype=np.uint8))


def test_held_is_the_peak_of_a_call_in_a_process_of_its_own():
    assert in_own_process(hold, 200) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("has, words", [(True, ""), (False, " without bfloat16 (float32 in its place)")])
def test_a_processor_without_bfloat16_is_called_so(monkeypatch, has, words):
    monkeypatch.setattr(measuring, "has_bfloat16", lambda device_type: has)
    monkeypatch.setattr(measuring, "_lines", lambda path: ["flags\t: fpu", "model name\t: Abacus 2", "model name\t: -"])
    assert machine()["processor"] == "Abacus 2" + words


def results() -> dict:
    """A hand-made benchmarks.json."""
    phi = row(
        "phi",
        {"ours": 0.5, "plain": 2.0},
        against="einsum",
        gigabytes={"ours": 0.3, "plain": 1.0},
        targets={"seconds": 0.45, "gigabytes": 0.2},
        floor_seconds=0.25,
        floor="products",
    )
    start = row("import", {"ours": 0.2}, targets={"seconds_limit": 0.3})
    return {
        "items": {
            "compatibility": {"machine": MACHINE, "rows": [phi]},
            "startup": {"machine": MACHINE | {"cores": 8}, "rows": [start], "notes": ["A note."]},
        },
    }


def test_tables_are_made_from_the_numbers():
    made = tables.readme_tables(results())
    phi = "| phi | einsum | 2 → 0.5 | 0.25 (target 0.45: reached) | 1 → 0.3 | 0.3 (target 0.2: missed) | 0.25 | 2 |"
    assert phi in made["compatibility"].splitlines()
    assert "\n\nFloor: products.\n\nMeasured on 2 cores of Abacus with 8.0 GB" in made["compatibility"]
    assert "| import | - | 0.2 (target 0.3: reached) | - | - | - | - | - |" in made["startup"].splitlines()
    assert "\n\nA note.\n\nMeasured on 8 cores of Abacus with 8.0 GB" in made["startup"]


@pytest.mark.parametrize(
    "seconds, words", [(30, "30 seconds"), (150, "2.5 minutes"), (7200, "2 hours"), (172800, "2 days")]
)
def test_durations_are_read_in_one_unit(seconds, words):
    assert tables.duration(seconds) == words


RATES = {
    "photo_seconds": 0.01,
    "tokens_seconds": 0.08,
    "caption_seconds": 0.01,
    "training_seconds": 0.002,
    "read_bytes_a_second": 196 * 768 * 2 * 1000.0,  # a thousand images' tokens
    "training_gigabytes": 0.5,
    "encoder_gigabytes": 0.25,
}


def test_cost_by_hand():
    once, each = (cost.cost(1000, kind, RATES) for kind in ("once", "on the fly"))
    assert once["seconds"] == pytest.approx(100 + 10 * 2 + 10 * 1)  # encoding, training, reading
    assert each["seconds"] == pytest.approx(10 * 100 + 10 * 2)
    assert once["disk_gigabytes"] == pytest.approx(0.301056 + 0.001024) and each["disk_gigabytes"] == 0
    assert once["memory_gigabytes"] == pytest.approx(0.501024) and each["memory_gigabytes"] == 0.75


def test_cost_takes_its_rates_from_the_benchmarks():
    reading = row("reading", {"ours": 1.0}, bytes_a_second=RATES["read_bytes_a_second"])
    encoding = row("tokens", {"ours": 1.0}, gigabytes={"ours": 0.25}, seconds_an_image=0.08)
    step = row("step", {"ours": 1.0}, gigabytes={"ours": 0.5}, seconds_a_pair=0.002)
    measured = {"rows": [reading, encoding], "seconds_a_photo": 0.01, "seconds_a_caption": 0.01}
    assert cost.rates({"features": measured, "epoch": {"rows": [row("epoch", {"ours": 1.0}), step]}}) == RATES


def measured_on(processor: str) -> dict:
    """A machine's items, with what the cost follows from."""
    reading = row("reading", {"ours": 1.0}, bytes_a_second=1e9)
    encoding = row("tokens", {"ours": 1.0}, gigabytes={"ours": 0.25}, seconds_an_image=0.08)
    step = row("step", {"ours": 1.0}, gigabytes={"ours": 0.5}, seconds_a_pair=0.002)
    items = {name: {"rows": [row(name, {"ours": 1.0})]} for name in ITEMS}
    items["features"] = {"rows": [reading, encoding], "seconds_a_photo": 0.01, "seconds_a_caption": 0.01}
    items["epoch"] = {"rows": [row("epoch", {"ours": 1.0}), step]}
    return {name: {"machine": MACHINE | {"processor": processor}} | item for name, item in items.items()}


def without_machine(item: str) -> dict:
    return {name: value for name, value in measured_on("")[item].items() if name != "machine"}


@pytest.fixture
def on_a_new_machine(tmp_path, monkeypatch):
    """main(names) on the machine "new", where all was measured on the machine "old"; gives what it publishes."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/benchmarks.json").write_text(json.dumps(joined(measured_on("old"))))
    published = []
    monkeypatch.setattr("benchmarks.__main__.project_root", lambda: tmp_path)
    monkeypatch.setattr("benchmarks.__main__.machine", lambda: MACHINE | {"processor": "new"})
    monkeypatch.setattr("benchmarks.__main__.in_own_process", lambda _, item: without_machine(item))
    monkeypatch.setattr("benchmarks.__main__.publish", lambda results, *_: published.append(results))

    def run(*names):
        main(list(names))
        return published[-1]

    return run


@pytest.mark.parametrize("names, cost_is_known", [((), True), (("startup",), True), (("epoch",), False)])
def test_items_measured_anew_are_told_from_those_of_another_machine(on_a_new_machine, names, cost_is_known):
    """The cost follows from two items, and is left out where these are of two machines."""
    results = on_a_new_machine(*names)
    assert list(results["items"]) == list(ITEMS)
    new = [name for name, item in results["items"].items() if item["machine"]["processor"] == "new"]
    assert new == list(names or ITEMS)
    assert ("cost" in results) == cost_is_known


def test_an_unknown_item_is_named_before_anything_is_measured(on_a_new_machine, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.in_own_process", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match="there is no benchmark speed: name some of compatibility, "):
        on_a_new_machine("epoch", "speed")


def test_publishing_writes_numbers_figure_and_page(tmp_path):
    page = tmp_path / "README.md"
    places = ["compatibility", "startup", "cost"]
    page.write_text("# Top\n" + "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\nkept\n" for name in places))
    publish(results() | {"cost": cost.table(RATES)}, tmp_path / "reports", page)
    text = page.read_text()
    assert text.startswith("# Top\n") and text.count("kept") == 3 and "old" not in text
    assert "| 8,000 | once |" in text and "no GPU was measured" in text
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"benchmarks.json", "benchmarks.png"}
    again = text
    publish(results() | {"cost": cost.table(RATES)}, tmp_path / "reports", page)
    assert page.read_text() == again
    with pytest.raises(ValueError, match="no place for lost"):
        tables.fill(page, {"lost": "table"})


def test_dense_inference_in_its_own_form_becomes_a_row():
    joint, shifted = ({"seconds": 0, "processor_seconds": p, "gigabytes": g} for p, g in ((10.0, 2.0), (4.0, 0.5)))
    measured = {"size": 400, "stride": 4, "threads": 2, "joint": joint, "shifted": shifted}
    (dense,) = dense_rows(measured, rate=1e9)["rows"]
    assert dense["ratio"] == {"seconds": 0.4, "gigabytes": 0.25}
    assert dense["floor_seconds"] == pytest.approx(16 * features.operations(25 * 25 + 1) / 1e9)
    assert dense["to_floor"] == pytest.approx(4.0 / dense["floor_seconds"])
