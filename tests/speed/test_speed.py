"""The items compare like with like, and their tables say what was measured; nothing is timed here."""

import copy
import itertools
import json
import os
from collections import Counter
from functools import partial
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers.tiny_clip import TINY
from open_clip.transformer import ResidualAttentionBlock
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pacl.data.benchmark import IGNORE
from pacl.label_maps import label_maps
from pacl.loss import contrastive_loss
from pacl.runtime.config import load_params
from pacl.runtime.params import Protocol
from pacl.training.cached import CachedPairs
from pacl.training.train import train
from speed import (
    compatibility,
    cost,
    dense_inference,
    epoch,
    evaluation,
    features,
    gpu,
    growth,
    measuring,
    ranks,
    startup,
    streaming_memory,
    tables,
)
from speed.__main__ import ITEMS, joined, main, publish
from speed.measuring import held, in_own_process, machine, row

ABACUS = {"processor": "Abacus", "cores": 2, "memory_gigabytes": 8.0, "python": "3.11.0", "torch": "2.0", "load": 0.1}


@pytest.fixture
def settings():
    return load_params("mini", "train").train


# --- ours and the plain way compute the same ---


def test_ours_and_plain_give_one_phi_and_one_gradient_and_bf16_nearly(bfloat16_everywhere):
    given = compatibility.inputs(3, 5, 4, 8)
    (phi, gradient), ours, rounded = (compatibility.step(name, *given) for name in ("plain", "ours", "bf16"))
    torch.testing.assert_close(ours, (phi, gradient), atol=1e-5, rtol=1e-4)
    assert compatibility.VARIANTS["plain"] is compatibility.plain, "and not ours twice"
    error = (rounded[0] - phi).abs().max()
    assert 1e-5 < error < 2e-2, "rounded to 8 bits: neither float32's error nor a wrong result"
    torch.testing.assert_close(rounded[1], gradient, atol=0.05 * gradient.abs().max().item(), rtol=0)


def test_a_profile_s_shares_sum_to_one():
    matrix = torch.randn(300, 300)
    found = compatibility.profile(lambda: (matrix @ matrix).exp_())
    assert sum(found.values()) == pytest.approx(1) and found["matrix products"] > found["softmax"] > 0
    assert found["lengths"] == 0 < found["starting operations"]


@pytest.mark.parametrize("protocol", [evaluation.NONE, evaluation.ENTROPY], ids=["none", "entropy"])
def test_both_ways_of_evaluation_give_one_confusion_matrix(monkeypatch, protocol):
    monkeypatch.setattr(evaluation, "BATCH", 2)
    calls = evaluation.both_ways(*evaluation.batch(6), protocol)
    confmat = calls["plain"]()
    assert torch.equal(calls["ours"](), confmat) and (confmat > 0).sum() > 20


def test_a_photos_label_maps_agree(monkeypatch):
    for name, value in {"CLASSES": 9, "TOKENS": (5, 7), "PIXELS": (60, 90)}.items():
        monkeypatch.setattr(evaluation, name, value)
    tokens, target = evaluation.photo()
    labels = label_maps(tokens, None, Protocol())
    assert torch.equal(labels, evaluation.plain_labels(tokens, Protocol()))
    assert torch.equal(labels, F.interpolate(tokens.logits, size=(60, 90), mode="bilinear").argmax(1))
    assert 0.05 < (target == IGNORE).double().mean() < 0.15
    with pytest.raises(ValueError, match="outside"):
        evaluation.plain_confusion_matrix(labels, target, 3)


def test_a_training_step_has_the_loss_of_its_parts_and_learns(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(epoch, "IMAGES", 32)
    patches, texts = epoch.stand_in(tmp_path)
    training = epoch.Training(epoch.WIDTH, epoch.WIDTH, settings.model_copy(update={"batch_size": 16}))
    tokens = torch.from_numpy(patches[np.arange(16)]).float()
    drawn, keys = texts.draw(np.random.default_rng(0), np.arange(16), settings.noun_share)
    phi = compatibility.plain(training.embedder(tokens), drawn)
    expected = contrastive_loss(phi, training.logit_scale(), keys[:, None] == keys).item()
    losses = [training.step(tokens, drawn, keys) for _ in range(5)]
    assert losses[0] == pytest.approx(expected, abs=1e-4) and losses[-1] < losses[0]
    assert len(training.epoch(patches, texts, np.random.default_rng(0))) == 2
    assert set(training.taken) == {"reading", "drawing texts", "embedder", "phi", "loss", "gradients", "optimiser"}


def test_the_losses_of_one_process_are_those_of_a_training(tmp_path, monkeypatch, settings):
    few = {"pairs": 16, "batch_size": 8, "epochs": 2, "warmup_steps": 1, "noun_share": 0.0}
    monkeypatch.setattr(ranks, "PAIRS", 16)
    monkeypatch.setattr(ranks, "CHANGES", few)
    ranks.write_pairs(tmp_path)
    found, settings = ranks.losses(tmp_path), settings.model_copy(update=few)
    _, history = train(CachedPairs(*epoch.read_stand_in(tmp_path), settings), settings)
    assert np.mean(np.reshape(found, (2, 2)), axis=1) == pytest.approx([row["loss"] for row in history], abs=1e-5)


def test_the_gpus_script_runs_in_a_small_form_and_compares_like_with_like(monkeypatch):
    """Every row on the CPU: what a GPU would be measured with computes what the plain way computes."""
    calls, timed = [], gpu.waited
    monkeypatch.setattr(gpu, "waited", lambda call, repeats: (calls.append(call), timed(call, repeats))[1])
    found = gpu.measure()
    rows = found["rows"]
    assert [row["name"].split(",")[0] for row in rows] == [
        "ViT-S-32-alt's patch tokens of 2 images",
        "phi of all pairs",
        "the same",
        "a training step of 8 pairs at ViT-B/16's size",
        "ViT-S-32-alt's tokens of a photo of 48 x 40",
    ]
    assert all(row["seconds"]["ours"] > 0 and row["gigabytes"]["ours"] >= 0 for row in rows)
    assert ["seconds" in row["ratio"] for row in rows] == [True, True, True, False, True]
    assert "with no GPU" in found["machine"]["processor"] and "would take" in found["notes"][1]
    ours, plain, _ = [call() for call in calls if getattr(call, "func", None) is compatibility.step]
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    shifted, joint = (call() for call in calls if "passes" in call.keywords)
    assert shifted.shape == joint.shape == (1, 3 * 5, 384)


def test_memory_as_the_work_grows_is_measured_in_a_small_form(tmp_path, monkeypatch):
    """Cached pairs, and streamed ones of a small CLIP in place of ViT-B/16."""
    monkeypatch.setattr(growth, "NOUNS", 10)
    growth.write_cached(tmp_path, 30)
    assert 0.05 < growth.cached(tmp_path, 30, 10) < 10
    monkeypatch.setattr("open_clip.get_model_config", lambda name: copy.deepcopy(TINY))
    monkeypatch.setattr(streaming_memory, "PAIRS", 12)
    assert 0 <= growth.streamed(tmp_path, 4, 2) < 1


def test_the_papers_epochs_on_gpus_by_hand(monkeypatch):
    monkeypatch.setattr(gpu, "load_params", lambda *_: SimpleNamespace(train=SimpleNamespace(pairs=1_000_000)))
    said = gpu.estimate({"images_a_second": 1000.0}, 2000.0, {"seconds_a_pair": 0.0005})  # 2 ms a pair, ten times
    assert "5.56 hours on 1, 41.7 minutes on 8 such GPUs" in said


def test_without_a_gpu_its_item_is_written_nowhere(on_a_new_machine, capsys):
    assert not on_a_new_machine("gpu") and "The GPU is not measured" in capsys.readouterr().out
    assert list(on_a_new_machine("gpu", "startup")["items"]) == list(ITEMS)


# --- floors and memory ---


def test_operations_are_those_that_torch_counts(settings):
    """A step's products, without phi's, and a ViT's block against torch's own counter."""
    B, N, in_dim, out_dim = 2, 3, 8, 4
    embedder = epoch.Training(in_dim, out_dim, settings).embedder
    with FlopCounterMode(display=False) as counter:
        embedder(torch.randn(B * N, in_dim)).sum().backward()
    of_phi = compatibility.operations(B, N, B, out_dim)
    assert epoch.operations(B, N, in_dim, out_dim) - of_phi == counter.get_total_flops()
    block, x = ResidualAttentionBlock(features.WIDTH, 12), torch.randn(1, 10, features.WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the others are not counted
        block(x)
    assert counter.get_total_flops() == features.operations(10, layers=1)


def test_phis_floor_is_the_cheaper_of_two_ways():
    """By hand: scores and their gradient 2 NKD; |v|^2 by N x N tables 2 NN(K + D), or by v itself 3 NKD more."""
    assert compatibility.operations(1, 2, 3, 4) == 2 * (2 * 24 + 2 * 4 * 7)
    assert compatibility.operations(5, 20, 3, 4) == 5 * 2 * 5 * 20 * 3 * 4


def test_held_is_the_peak_of_a_call_and_an_item_has_a_process_of_its_own():
    assert in_own_process(held, partial(np.ones, 200 * 10**6, np.uint8)) == pytest.approx(0.2, abs=0.02)
    assert in_own_process(os.getpid) != os.getpid()


@pytest.mark.parametrize("has, words", [(True, ""), (False, " without bfloat16 (float32 in its place)")])
def test_a_processor_without_bfloat16_is_called_so(monkeypatch, has, words):
    monkeypatch.setattr(measuring, "has_bfloat16", lambda device_type: has)
    said = "flags\t: fpu\nmodel name\t: Abacus 2\nmodel name\t: -\n"
    monkeypatch.setattr(measuring, "Path", lambda path: SimpleNamespace(read_text=lambda: said))
    assert machine()["processor"] == "Abacus 2" + words


# --- what is made of the times: here they are given ---


def test_a_median_leaves_out_the_first_turn_and_calls_take_turns(monkeypatch):
    order, taken = [], iter([90, 99, 3, 30, 1, 10, 2, 50, 8, 20])
    monkeypatch.setattr(measuring, "seconds", lambda call: (order.append(call()), next(taken))[1])
    found = measuring.medians({"ours": lambda: "a", "plain": lambda: "b"}, 4)
    assert found == {"ours": 2.5, "plain": 25} and order == ["a", "b"] * 5


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (2, 5)])
def test_one_thread_is_timed_by_the_processor_and_more_by_the_clock(monkeypatch, threads, expected):
    clocks = {"process_time": itertools.count(), "perf_counter": itertools.count(step=5)}
    fake = SimpleNamespace(**{name: lambda ticks=ticks: next(ticks) for name, ticks in clocks.items()})
    monkeypatch.setattr(measuring, "time", fake)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert measuring.seconds(lambda: None) == expected


def test_a_row_has_ratios_if_there_is_a_plain_way_and_ours_as_a_multiple_of_the_floor():
    made = row("a", {"ours": 3.0, "plain": 4.0}, gigabytes={"ours": 1.0}, floor_seconds=1.5, more=7)
    assert made["ratio"] == {"seconds": 0.75} and made["to_floor"] == 2.0 and made["more"] == 7
    assert "to_floor" not in row("a", {}, floor_seconds=1.5)


def fixed(module, monkeypatch, *, seconds: dict | None = None, gigabytes: dict | None = None, rate=1e3) -> None:
    """An item whose times, memory (by its function's arguments) and product rate are given."""
    given = {
        "medians": lambda calls, repeats: {name: seconds[name] for name in calls},
        "in_own_process": lambda function, *arguments: gigabytes[arguments[-2:]],
        "product_rate": lambda dtype=torch.float32: rate if dtype == torch.float32 else 2 * rate,
    }
    for name, function in given.items():
        monkeypatch.setattr(module, name, function, raising=False)


def test_phi_is_compared_in_float32_and_in_bfloat16_with_the_plain_way(monkeypatch, bfloat16_everywhere):
    size = (3, 5, 4, 8)
    gigabytes = {("ours", size): 0.1, ("plain", size): 1.0, ("bf16", size): 0.3}
    fixed(compatibility, monkeypatch, seconds={"ours": 1.0, "plain": 4.0, "bf16": 2.0}, gigabytes=gigabytes)
    ours, rounded = compatibility.compared("small", size, 1)
    assert (ours["seconds"], ours["gigabytes"]) == ({"ours": 1.0, "plain": 4.0}, {"ours": 0.1, "plain": 1.0})
    assert (rounded["seconds"], rounded["gigabytes"]) == ({"ours": 2.0, "plain": 4.0}, {"ours": 0.3, "plain": 1.0})
    assert ours["floor_seconds"] == 2 * rounded["floor_seconds"] == compatibility.operations(*size) / 1e3
    given = compatibility.inputs(*size)
    (phi, gradient), (near, turned) = (compatibility.step(name, *given) for name in ("ours", "bf16"))
    assert rounded["phi_largest_error"] == np.abs(phi.numpy() - near.numpy()).max()
    apart = np.linalg.norm(gradient.numpy() - turned.numpy()) / np.linalg.norm(gradient.numpy())
    assert rounded["gradient_relative_error"] == pytest.approx(apart, rel=1e-4)


def test_bfloat16_is_not_measured_where_it_would_be_float32(monkeypatch):
    monkeypatch.setattr("pacl.runtime.precision.has_bfloat16", lambda device_type: False)
    gigabytes = {(variant, (3, 5, 4, 8)): 0.1 for variant in ("ours", "plain")}
    fixed(compatibility, monkeypatch, seconds={"ours": 1.0, "plain": 4.0}, gigabytes=gigabytes)
    assert [one["name"] for one in compatibility.compared("small", (3, 5, 4, 8), 1)] == ["phi of all pairs, small"]


def test_dense_inference_takes_memory_from_the_allocator_that_returns_it(monkeypatch):
    asked = []

    def run(function, passes):
        returned = "MALLOC_MMAP_THRESHOLD_" in os.environ
        asked.append((passes, returned))
        scale = 2.0 if passes == "joint" else 1.0
        return {"seconds": 5 * scale, "gigabytes": 8 * scale if returned else 99.0}

    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    fixed(dense_inference, monkeypatch, rate=1e9)
    monkeypatch.setattr(dense_inference, "in_own_process", run)
    (dense,) = dense_inference.measure()["rows"]
    assert asked == [("shifted", False), ("joint", False), ("shifted", True), ("joint", True)]
    assert (dense["seconds"], dense["gigabytes"]) == ({"ours": 5, "plain": 10}, {"ours": 8, "plain": 16})
    assert dense["floor_seconds"] == pytest.approx(16 * features.operations(25 * 25 + 1) / 1e9)


def test_an_epochs_parts_are_scaled_to_the_mini_worlds_steps_without_the_warm_up(monkeypatch, settings):
    def epoch_of_four(self, patches, texts, rng):
        self.taken.update(Counter(reading=1.0, gradients=3.0))
        return [0.0] * 4

    monkeypatch.setattr(epoch, "IMAGES", 8)
    monkeypatch.setattr(epoch.Training, "epoch", epoch_of_four)
    fixed(epoch, monkeypatch)
    found = epoch.mini_epoch(settings.model_copy(update={"pairs": 105, "batch_size": 10}))
    assert found["parts"] == {"reading": 2.5, "gradients": 7.5} and found["seconds"] == {"ours": 10.0}
    assert found["floor_seconds"] == 10 * epoch.operations(10, epoch.N, epoch.WIDTH, epoch.WIDTH) / 1e3


def test_the_parts_of_steps_add_up_and_a_large_step_is_shared_by_its_pairs(monkeypatch, settings):
    training, ticks = epoch.Training(4, 4, settings), iter([0.0, 1.0, 5.0, 7.0])
    with monkeypatch.context() as patched:
        patched.setattr(epoch, "perf_counter", lambda: next(ticks))
        for _ in range(2):
            with training.timed("phi"):
                pass
    assert training.taken == {"phi": 3.0}
    monkeypatch.setattr(epoch, "LARGE", {"B": 8, "N": 3, "in_dim": 4, "out_dim": 2})
    fixed(epoch, monkeypatch, seconds={"ours": 2.0}, gigabytes={(settings,): 0.5})
    found = epoch.large_step(settings)
    assert found["seconds_a_pair"] == 0.25 and found["gigabytes"] == {"ours": 0.5}
    assert found["floor_seconds"] == epoch.operations(8, 3, 4, 2) / 1e3


def test_an_evaluations_row_has_the_memory_of_both_and_the_pixels_that_differ(monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 2)
    monkeypatch.setattr(
        evaluation, "CASES", {"small": (partial(evaluation.batch, 6), evaluation.NONE, {"seconds": 0.5})}
    )
    gigabytes = {("small", "ours"): 0.1, ("small", "plain"): 0.4}
    fixed(evaluation, monkeypatch, seconds={"ours": 1.0, "plain": 4.0}, gigabytes=gigabytes)
    plain, wrong = evaluation.plain_labels, torch.zeros(2, 64, 64, dtype=torch.long)
    wrong[0, 0, :2] = 1
    assert evaluation.measured("small")["different_pixels"] == 0
    monkeypatch.setattr(evaluation, "plain_labels", lambda *given: plain(*given) + wrong)
    found = evaluation.measured("small")
    assert found["different_pixels"] == 2 and found["ratio"] == {"seconds": 0.25, "gigabytes": 0.25}
    assert found["floor_seconds"] == 5 * 2 * 64 * 64 * 6 / 1e3


def test_rates_of_reading_and_encoding_are_those_of_ours(monkeypatch):
    for name, value in {"IMAGES": 10, "N": 2, "WIDTH": 4, "BATCH": 5, "ENCODED": 4, "PROMPTS": 10}.items():
        monkeypatch.setattr(features, name, value)
    gigabytes = {("bfloat16",): 0.2, ("float32",): 0.4}
    fixed(features, monkeypatch, seconds={"ours": 0.5, "plain": 2.0}, gigabytes=gigabytes)
    monkeypatch.setattr(features, "copy_rate", lambda: 1000.0)
    size = 10 * 2 * 4 * 2  # bytes
    read = features.reading()
    assert read["bytes_a_second"] == size / 0.5 and read["floor_seconds"] == size / 1000

    def encoder(dtype):
        tokens = torch.tensor([[[1.0, 0.0], [1.0, 1.0 if dtype == "bfloat16" else 0.0]]])
        return SimpleNamespace(patch_features=lambda x: tokens, text_features=len, preprocess=None), torch.zeros(4)

    monkeypatch.setattr(features, "encoder", encoder)
    found = features.encoding()
    assert found["seconds_an_image"] == 0.125 and found["gigabytes"] == {"ours": 0.2, "plain": 0.4}
    assert found["floor_seconds"] == 4 * features.operations(3) / 2e3
    assert found["lowest_cosine"] == pytest.approx(0.5**0.5) and found["largest_difference"] == 1
    assert found["mean_cosine"] == pytest.approx((1 + 0.5**0.5) / 2) and found["largest_value"] == 1
    whole = features.measure()
    assert (whole["seconds_a_photo"], whole["seconds_a_caption"]) == (0.5, 0.05)


def test_a_wait_is_the_median_after_a_first_one(monkeypatch):
    ticks = iter([0, 90, 0, 3, 0, 1, 0, 2])
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert measuring.waited(lambda: None, 3) == 2


def test_only_a_pipeline_at_rest_is_timed(monkeypatch):
    said = SimpleNamespace(stdout="Stage 'train' would run", stderr="")
    monkeypatch.setattr(startup, "run", lambda arguments: said)
    monkeypatch.setattr(startup, "waited", lambda call, repeats: 0.25)
    changed = startup.measure()
    assert changed["notes"] and len(changed["rows"]) == len(startup.COMMANDS) - 1
    said.stdout = "Data and pipelines are up to date."
    whole = startup.measure()
    limits = [row["name"] for row in whole["rows"] if row["targets"]]
    assert not whole["notes"] and limits == ["import pacl", "dvc repro with nothing to do"]


def test_memory_that_grows_is_told_after_the_warm_up():
    found = streaming_memory.summary([(100 * i, 500.0 if i < 3 else 200.0 + i, 50.0) for i in range(1, 11)])
    assert found["steps"] == 1000 and found["from_step"] == 300
    assert found["growth_per_1000_steps"] == {"training process": 10.0, "reading process": 0.0}
    assert (found["first"]["training process"], found["last"]["training process"]) == (203.0, 210.0)


def test_the_distance_of_several_processes_is_the_largest_either_way(tmp_path, monkeypatch):
    losses = {1: [4.0, 3.0, 2.0], 2: [4.0, 3.25, 2.0], 3: [4.0, 3.0, 1.5]}
    given = {"write_pairs": lambda folder: None, "in_processes": lambda world, folder: losses[world]}
    for name, function in (given | {"project_root": lambda: tmp_path}).items():
        monkeypatch.setattr(ranks, name, function)
    ranks.main()
    written = json.loads((tmp_path / "reports/ranks.json").read_text())
    assert written["largest_difference"] == {"2": "2.5e-01", "3": "5.0e-01"} and written["steps"] == 3
    assert written["losses"] == {str(world): found for world, found in losses.items()}


# --- tables and figure ---


def results() -> dict:
    """A hand-made speed.json."""
    measures = {"gigabytes": {"ours": 0.3, "plain": 1.0}, "targets": {"seconds": 0.45, "gigabytes": 0.2}}
    floor = {"floor_seconds": 0.25, "floor": "products"}
    phi = row("phi", {"ours": 0.5, "plain": 2.0}, against="einsum", **measures, **floor)
    start = row("import", {"ours": 0.2}, targets={"seconds_limit": 0.3})
    return {
        "items": {
            "compatibility": {"machine": ABACUS, "rows": [phi]},
            "startup": {"machine": ABACUS | {"cores": 8}, "rows": [start], "notes": ["A note."]},
        },
    }


def test_tables_are_made_from_the_numbers():
    made = tables.readme_tables(results())
    phi = "| phi | einsum | 2 → 0.5 | 0.25 (target 0.45: reached) | 1 → 0.3 | 0.3 (target 0.2: missed) | 0.25 | 2 |"
    assert phi in made["compatibility"].splitlines()
    assert "\n\nFloor: products.\n\nMeasured on 2 cores of Abacus with 8.0 GB" in made["compatibility"]
    assert "| import | - | 0.2 (target 0.3: reached) | - | - | - | - | - |" in made["startup"].splitlines()
    assert "\n\nA note.\n\nMeasured on 8 cores of Abacus with 8.0 GB" in made["startup"]
    missed = row("import", {"ours": 0.31}, targets={"seconds_limit": 0.3})
    assert tables.cells(missed)[2] == "0.31 (target 0.3: missed)"
    costs = {"pairs": 8000, "features": "once", "seconds": 90.0, "disk_gigabytes": 2.416, "memory_gigabytes": 1234.5}
    assert tables.cost_cells(costs) == ["8,000", "once", "90 seconds", "2.42", "1234"]
    assert [tables.number(value) for value in (45.67, 0.001234, 99.96, None)] == ["45.7", "0.00123", "100", "-"]
    durations = {30: "30 seconds", 150: "2.5 minutes", 7200: "2 hours", 172800: "2 days"}
    assert {seconds: tables.duration(seconds) for seconds in durations} == durations


def test_the_figure_has_a_bar_a_share_with_its_target_and_floor():
    """Rows without a plain way, such as the import, have none."""
    axis = tables.figure(results()).axes[0]
    bars = [bar for group in axis.containers for bar in group]
    assert [bar.get_width() for bar in bars] == [0.25, 0.3]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["phi"]
    targets = [lines.get_segments()[0][0].tolist() for lines in axis.collections]
    assert [target[0] for target in targets] == [0.45, 0.2]
    assert [y for _, y in targets] == pytest.approx([bar.get_y() for bar in bars]), "a target stands at its own bar"
    (floor,) = [line for line in axis.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert floor.get_xdata().tolist() == [0.125]
    plt.close("all")


RATES = {
    "photo_seconds": 0.01,
    "tokens_seconds": 0.08,
    "caption_seconds": 0.01,
    "training_seconds": 0.002,
    "read_bytes_a_second": 196 * 768 * 2 * 1000.0,  # a thousand images' tokens
    "training_gigabytes": 0.5,
    "encoder_gigabytes": 0.25,
}


def measured_on(processor: str) -> dict:
    """A machine's items, with what the cost follows from."""
    reading = row("reading", {"ours": 1.0}, bytes_a_second=RATES["read_bytes_a_second"])
    encoding = row("tokens", {"ours": 1.0}, gigabytes={"ours": 0.25}, seconds_an_image=0.08)
    step = row("step", {"ours": 1.0}, gigabytes={"ours": 0.5}, seconds_a_pair=0.002)
    items = {name: {"rows": [row(name, {"ours": 1.0})]} for name in (*ITEMS, "gpu")}
    items["features"] = {"rows": [reading, encoding], "seconds_a_photo": 0.01, "seconds_a_caption": 0.01}
    items["epoch"]["rows"].append(step)
    return {name: {"machine": ABACUS | {"processor": processor}} | item for name, item in items.items()}


def test_cost_by_hand_from_the_measured_rates():
    assert cost.rates(measured_on("one")) == RATES
    once, each = (cost.cost(1000, kind, RATES) for kind in ("once", "on the fly"))
    assert once["seconds"] == pytest.approx(100 + 10 * 2 + 10 * 1)  # encoding, training, reading
    assert each["seconds"] == pytest.approx(10 * 100 + 10 * 2)
    assert once["disk_gigabytes"] == pytest.approx(0.301056 + 0.001024) and each["disk_gigabytes"] == 0
    assert once["memory_gigabytes"] == pytest.approx(0.501024) and each["memory_gigabytes"] == 0.75
    rule, _ = cost.table(RATES)["notes"]
    assert "photo (10 ms to decode and resize), tokens (80 ms) and caption (10 ms)" in rule
    assert "its training (2 ms)" in rule and "(0.301 GB per second, from the page cache)" in rule


@pytest.fixture
def on_a_new_machine(tmp_path, monkeypatch):
    """main(names) on the machine "new", where all was measured on the machine "old"; gives what it publishes."""
    (tmp_path / "reports").mkdir()
    old = {name: item for name, item in measured_on("old").items() if name in ITEMS}
    (tmp_path / "reports/speed.json").write_text(json.dumps(joined(old)))
    published, new = [], {name: dict(item) for name, item in measured_on("new").items()}
    monkeypatch.setattr("speed.__main__.project_root", lambda: tmp_path)
    monkeypatch.setattr("speed.__main__.machine", lambda: ABACUS | {"processor": "new"})
    monkeypatch.setattr("speed.__main__.in_own_process", lambda measure: new[measure.__module__.split(".")[1]])
    monkeypatch.setattr("speed.__main__.publish", lambda results, *_: published.append(results))

    def run(*names, **options):
        main(list(names), **options)
        return published and published[-1]

    return run


@pytest.mark.parametrize("names, cost_is_known", [((), True), (("startup",), True), (("epoch",), False)])
def test_items_measured_again_are_told_from_those_of_another_machine(on_a_new_machine, names, cost_is_known):
    """The cost follows from two items, and is left out if these are of two machines."""
    results = on_a_new_machine(*names)
    assert list(results["items"]) == list(ITEMS)
    new = [name for name, item in results["items"].items() if item["machine"]["processor"] == "new"]
    assert new == list(names or ITEMS)
    assert ("cost" in results) == cost_is_known


def test_printing_writes_nothing(on_a_new_machine, capsys):
    assert not on_a_new_machine("epoch", write=False)
    assert "step" in capsys.readouterr().out


def test_an_unknown_item_is_named_before_anything_is_measured(on_a_new_machine, monkeypatch):
    monkeypatch.setattr("speed.__main__.in_own_process", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match="there is no item speed: name some of compatibility, "):
        on_a_new_machine("epoch", "speed")


def test_publishing_writes_numbers_figure_and_page(tmp_path):
    page = tmp_path / "README.md"
    places = ["compatibility", "startup", "cost"]
    page.write_text("# Top\n" + "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\nkept\n" for name in places))
    publish(results() | {"cost": cost.table(RATES)}, tmp_path / "reports", page)
    text = page.read_text()
    assert text.startswith("# Top\n") and text.count("kept") == 3 and "old" not in text
    assert "| 8,000 | once |" in text and "no GPU was measured" in text
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"speed.json", "speed.png"}
    tables.fill(page, tables.readme_tables(results() | {"cost": cost.table(RATES)}))
    assert page.read_text() == text
    with pytest.raises(ValueError, match="no place for lost"):
        tables.fill(page, {"lost": "table"})
