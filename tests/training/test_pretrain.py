"""Pre-training a small CLIP: the pieces of CLIP's own tokenizer, a falling loss, a folder that open_clip reads."""

import json

import numpy as np
import open_clip
import pytest
import torch
from helpers.small_training import same
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch.nn.functional import interpolate

from pacl.clip import load_clip
from pacl.data.pairs import Pairs, Subject, captioned_pairs
from pacl.data.prompts import all_templates
from pacl.runtime.params import Larger, Pretrain
from pacl.sources.miniworld import textures
from pacl.sources.miniworld.captions import caption
from pacl.sources.miniworld.scenes import pair, rng_of, scene
from pacl.sources.miniworld.things import things
from pacl.training import pretrain as pretrain_module
from pacl.training.pretrain import (
    batch_loss,
    draw_batch,
    identify,
    model_config,
    parameter_groups,
    pretrain,
    save_clip,
    save_tokenizer,
    to_tensor,
    train_step,
    used_merges,
    with_explicit_attention,
    zero_shot_accuracy,
)

SETTINGS = Pretrain(
    source="miniworld", raw=None, caption_sets=[], world_seed=3, scenes=64, templates=[], broader_weight=0.0,
    mask_true_texts=False, crop=1.0, colour=0.0, patch_dropout=0.0, whole_epochs=0,
    image_size=64, patch_size=16, width=32, layers=1, head_width=16, embed_dim=16,
    context_length=32, text_width=32, text_layers=1, batch_size=16, epochs=25, learning_rate=3e-3, warmup=0.1,
    weight_decay=0.1, larger=None,
    seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """64 pairs of the mini world."""
    images, captions = zip(*[pair(index, seed=3, split="pretrain") for index in range(64)], strict=True)
    return np.stack(images), list(captions)


@pytest.fixture(scope="module")
def tokenizer(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.txt.gz"
    save_tokenizer(world[1], path)
    return SimpleTokenizer(bpe_path=str(path), context_length=SETTINGS.context_length)


@pytest.fixture(scope="module")
def trained(world, tokenizer, tmp_path_factory):
    resume = tmp_path_factory.mktemp("trained") / "resume"
    return pretrain(captioned_pairs(*world), tokenizer, SETTINGS, resume=resume)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return open_clip.CLIP(**model_config(SETTINGS, tokenizer.vocab_size))


# --- tokenizer ---


def pieces(tokenizer, text):
    return [tokenizer.decoder[token] for token in tokenizer.encode(text)]


def test_the_cut_tokenizer_gives_the_pieces_of_clips_own(tmp_path):
    names = [*things(), *textures.NAMES, *(kind for drawing in things().values() for kind in drawing["kinds"])]
    prompts = [form.format(name) for forms in all_templates().values() for form in forms for name in names[::7]]
    rng = rng_of(5, "train", 0)
    shown = [scene(rng) for _ in range(12)]
    texts = [caption(rng, s["things"], s["stuff"]) for s in shown for _ in range(25)] + names + prompts
    save_tokenizer(texts, tmp_path / "bpe.txt.gz")
    full, cut = SimpleTokenizer(), SimpleTokenizer(bpe_path=str(tmp_path / "bpe.txt.gz"))
    for text in texts:
        assert pieces(cut, text) == pieces(full, text), text
    assert cut.vocab_size == 2 * 256 + len(used_merges(texts)) + 2 < full.vocab_size / 20
    assert max(max(cut.encode(text)) for text in texts) < cut.vocab_size
    assert len(pieces(cut, "xylophone")) > len(pieces(full, "xylophone"))  # a word that it never saw
    assert cut.decode(cut.encode("xylophone")).strip() == "xylophone"


def test_equal_texts_give_equal_tokenizer_files(tmp_path):
    for name in ("one", "two"):
        save_tokenizer(["a red apple", "two ducks"], tmp_path / name / "bpe.txt.gz")
    assert (tmp_path / "one/bpe.txt.gz").read_bytes() == (tmp_path / "two/bpe.txt.gz").read_bytes()
    assert used_merges(["a red apple", "two ducks"]) == used_merges(["two ducks", "apple", "A RED apple"])


# --- training ---


def test_a_tiny_model_learns(trained):
    model, history = trained
    assert [row["step"] for row in history] == [50, 100]  # 64 / 16 * 25 epochs
    assert history[0]["loss"] > history[1]["loss"] + 0.3 and history[1]["loss"] < np.log(16) - 0.5
    assert history[0]["learning_rate"] < SETTINGS.learning_rate and history[1]["learning_rate"] < 1e-4
    assert history[1]["logit_scale"] == pytest.approx(model.logit_scale.exp().item())
    assert not model.training


def pretrained(world, tokenizer, path, **changes):
    settings = SETTINGS.model_copy(update={"epochs": 4, **changes})
    torch.rand(1)  # whatever was drawn before
    model, history = pretrain(captioned_pairs(*world), tokenizer, settings, resume=path)
    return model.state_dict(), history


def interrupt_at(number, monkeypatch):
    """Ctrl-C in this step, counted from 1; returns a list that has an item for each step begun."""
    step, begun = pretrain_module.train_step, []

    def interrupt(*arguments):
        begun.append(1)
        if len(begun) == number:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(pretrain_module, "train_step", interrupt)
    return begun


def test_an_interrupted_run_resumes_to_the_same_weights(world, tokenizer, tmp_path, monkeypatch):
    """15 epochs of 4 steps, interrupted in the 12th: the history's only row has losses from before and after."""
    unbroken = pretrained(world, tokenizer, tmp_path / "unbroken", epochs=15)
    begun = interrupt_at(46, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pretrained(world, tokenizer, tmp_path / "cut", epochs=15)
    weights, history = pretrained(world, tokenizer, tmp_path / "cut", epochs=15)
    assert len(begun) == 46 + 16  # the 12th epoch again and three more
    assert same(weights, unbroken[0]) and history == unbroken[1] and not (tmp_path / "cut").exists()
    assert [row["step"] for row in history] == [50]


LARGER = Larger(image_size=80, epochs=2, whole_epochs=1, learning_rate=1e-3)


def test_a_second_cycle_takes_the_first_ones_weights_to_larger_images(world, tokenizer, tmp_path, monkeypatch):
    """15 epochs of 4 steps are those of a run without the 2 after them, which have a learning rate of their own."""
    first, _ = pretrained(world, tokenizer, tmp_path / "first", epochs=15)
    step, seen, before = pretrain_module.train_step, [], []

    def noted(model, optimizer, images, batch):
        if len(seen) == 60:
            before.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        seen.append((images.shape[-1], optimizer.param_groups[0]["lr"]))
        return step(model, optimizer, images, batch)

    monkeypatch.setattr(pretrain_module, "train_step", noted)
    after, history = pretrained(world, tokenizer, tmp_path / "both", epochs=15, larger=LARGER)
    assert [size for size, _ in seen] == [64] * 60 + [80] * 8 and [row["step"] for row in history] == [50]
    assert max(rate for _, rate in seen[:60]) == pytest.approx(3e-3)
    assert max(rate for _, rate in seen[60:]) == pytest.approx(1e-3, rel=0.01)
    place = "visual.positional_embedding"
    small, large = first.pop(place), before[0].pop(place)
    assert same(first, before[0]) and (len(small), len(large), len(after[place])) == (1 + 4 * 4, 1 + 5 * 5, 1 + 5 * 5)
    assert torch.equal(small[0], large[0]), "the class token has no place in the image"
    spread = interpolate(small[1:].T.reshape(1, -1, 4, 4), (5, 5), mode="bicubic", antialias=True)
    torch.testing.assert_close(large[1:], spread.flatten(2)[0].T)
    assert not torch.equal(after["visual.proj"], first["visual.proj"])


@pytest.mark.parametrize("interrupted", [10, 17, 22])  # in the first cycle, in the first step of the second, later
def test_two_cycles_resume_to_the_same_weights(world, tokenizer, tmp_path, monkeypatch, interrupted):
    unbroken = pretrained(world, tokenizer, tmp_path / "unbroken", larger=LARGER)
    begun = interrupt_at(interrupted, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pretrained(world, tokenizer, tmp_path / "cut", larger=LARGER)
    weights, history = pretrained(world, tokenizer, tmp_path / "cut", larger=LARGER)
    assert len(begun) == interrupted + 24 - (interrupted - 1) // 4 * 4, "from the last whole epoch"
    assert same(weights, unbroken[0]) and history == unbroken[1]


PHOTOS = SETTINGS.model_copy(
    update={
        "templates": ["one", "seven"], "broader_weight": 0.5, "mask_true_texts": True, "crop": 0.5, "colour": 0.3,
        "patch_dropout": 0.5, "whole_epochs": 1, "epochs": 3,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def classes():
    """Eight classes of eight noisy pictures, each class of one colour; half of the classes are animals."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (8, 1, 1, 1, 3))
    images = np.clip(colours + rng.normal(0, 10, (8, 8, 64, 64, 3)), 0, 255).astype(np.uint8)
    names = ("cat", "dog", "cow", "hen", "car", "bus", "cup", "hat")
    broader = [("animal",) if name in names[:4] else () for name in names]
    subjects = [Subject((), (n,), wide, frozenset({n, *wide})) for n, wide in zip(names, broader, strict=True)]
    return Pairs(images.reshape(-1, 64, 64, 3), np.repeat(np.arange(8), 8), subjects)


def run_photos(classes, tokenizer, path, **options):
    model, history = pretrain(classes, tokenizer, PHOTOS, resume=path, **options)
    return model.state_dict(), history


def test_after_each_epoch_the_model_is_measured(classes, tokenizer, tmp_path):
    modes, rows = [], []

    def measure(model):
        modes.append(model.training)
        return zero_shot_accuracy(model, tokenizer, classes.images, classes.kinds.tolist(), list("abcdefgh"))

    _, history = run_photos(classes, tokenizer, tmp_path / "resume", measure=measure, show=rows.append)
    assert modes == [False] * 3 and [row["step"] for row in history] == [4, 8, 12] and rows == history
    assert all(0 <= row["accuracy"] <= 1 for row in history)


def test_patches_are_dropped_but_in_the_last_epochs(classes, tokenizer, tmp_path, monkeypatch):
    seen = []

    def step(model, optimizer, images, batch):
        seen.append((model.training, model.visual.patch_dropout.prob))
        optimizer.step()
        return 0.0

    monkeypatch.setattr(pretrain_module, "train_step", step)
    run_photos(classes, tokenizer, tmp_path / "resume", measure=lambda model: 0.0)
    assert seen == [(True, 0.5)] * 8 + [(True, 0.0)] * 4


@pytest.mark.usefixtures("float32_everywhere")
def test_the_loss_is_clips_of_names_plus_that_of_broader_words(classes, tokenizer, model):
    """Pair by pair, without the negatives that are true: another cat's name, another animal's broader word."""
    rows = [0, 1, 9, 33, 40]  # two cats, a dog, a car, a bus
    subjects = [classes.subjects[kind] for kind in classes.kinds[rows]]
    images = to_tensor(classes.images[rows], 64)
    batch = draw_batch(np.random.default_rng(1), subjects, tokenizer, PHOTOS)
    with torch.no_grad():
        seen = model.encode_image(images, normalize=True)
        expected = 0.0
        for texts, weight, of in zip(batch, (1.0, 0.5), ([0, 1, 2, 3, 4], [0, 1, 2]), strict=True):
            read = model.encode_text(texts.tokens, normalize=True)[texts.own]
            logits = model.logit_scale.exp() * seen[of] @ read.T
            alike = [[i != j and (weight < 1 or {i, j} == {0, 1}) for j in range(len(of))] for i in range(len(of))]
            logits[torch.tensor(alike)] = -torch.inf
            both = (logits.log_softmax(0).diagonal() + logits.log_softmax(1).diagonal()).mean() / 2
            expected -= weight * both
        torch.testing.assert_close(batch_loss(model, images, batch), expected, rtol=1e-4, atol=1e-4)
    assert len(batch[1].tokens) == 1, "one text for all animals"


@pytest.mark.usefixtures("float32_everywhere")
def test_with_distinct_captions_the_loss_is_open_clips(world, tokenizer, model):
    images, batch = batch_of(world, tokenizer, slice(0, 8))
    with torch.no_grad():
        features = model(images, tokenizer(world[1][:8]))
        torch.testing.assert_close(
            batch_loss(model, images, batch), open_clip.ClipLoss()(*features), rtol=1e-4, atol=1e-4
        )


def test_every_epoch_sees_every_image_once_at_a_rate_that_warms_up(world, tokenizer, tmp_path, monkeypatch):
    """Steps that only note what they are given: the i-th one's loss is i."""
    seen, rates, decays = [], [], set()

    def step(model, optimizer, images, batch):
        (texts,) = batch
        seen.append(sorted(map(tuple, texts.tokens[texts.own].tolist())))
        rates.append(optimizer.param_groups[0]["lr"])
        decays.add(tuple(group["weight_decay"] for group in optimizer.param_groups))
        optimizer.step()  # without gradients it changes nothing
        return float(len(rates))

    monkeypatch.setattr(pretrain_module, "train_step", step)
    _, history = pretrained(world, tokenizer, tmp_path / "resume", epochs=15)
    assert decays == {(0.1, 0.0)} and len(rates) == 60
    assert rates.index(max(rates)) == 5 and max(rates) == pytest.approx(SETTINGS.learning_rate), "a tenth of the steps"
    assert [(row["step"], row["loss"]) for row in history] == [(50, np.mean(range(1, 51)))]
    everything = sorted(map(tuple, tokenizer(world[1]).tolist()))
    assert sorted(sum(seen[:4], [])) == sorted(sum(seen[4:8], [])) == everything and seen[:4] != seen[4:8]


def test_a_model_computes_the_same_with_explicit_attention(world, tokenizer, model, monkeypatch):
    """The text encoder's causal mask comes through too, and torch's fused kernel is never called."""
    images, tokens = to_tensor(world[0][:4], 64), tokenizer(world[1][:4])
    expected = model(images, tokens)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", lambda *_, **__: pytest.fail("fused"))
    found = with_explicit_attention(model)(images, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def batch_of(world, tokenizer, part):
    pairs = captioned_pairs(world[0][part], world[1][part])
    return to_tensor(pairs.images, 64), draw_batch(np.random.default_rng(0), pairs.subjects, tokenizer, SETTINGS)


def test_a_steps_gradient_is_not_longer_than_1_and_the_scale_stays_below_100(world, tokenizer, model):
    """Plain descent at a rate of 0.01 moves all weights together by 0.01 if the gradient was longer."""
    batch = batch_of(world, tokenizer, slice(0, 16))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(90))  # a large scale makes gradients long
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.01), *batch)
    moved = [(new.detach() - old).norm() for new, old in zip(model.parameters(), before, strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(0.01, rel=0.01)
    for start, end in ((5.0, np.log(100)), (-1.0, 0.0)):
        with torch.no_grad():
            model.logit_scale.fill_(start)
        train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), *batch)
        assert model.logit_scale.item() == pytest.approx(end)


def test_a_step_forgets_the_gradient_of_the_one_before(world, tokenizer, model):
    def gradient(*batches):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for batch in batches:
            train_step(model, optimizer, *batch_of(world, tokenizer, batch))
        return model.visual.proj.grad.clone()

    first, second = slice(0, 8), slice(8, 16)
    torch.testing.assert_close(gradient(first, second), gradient(second))
    assert not torch.allclose(gradient(first), gradient(second))


def test_a_run_resumes_only_with_equal_settings_and_data(world, tokenizer):
    images, captions = world
    pairs, other_tokens = captioned_pairs(images, captions), SimpleTokenizer()
    same_run = identify(pairs, tokenizer, SETTINGS)
    moved = SETTINGS.model_copy(update={"raw": "elsewhere"})
    assert same_run == identify(captioned_pairs(images.copy(), list(captions)), tokenizer, moved)
    changes = {"batch_size": 8, "epochs": 3, "learning_rate": 1e-3, "seed": 1, "crop": 0.5, "larger": LARGER}
    others = [(pairs, tokenizer, SETTINGS.model_copy(update={key: value})) for key, value in changes.items()]
    others += [(captioned_pairs(255 - images, captions), tokenizer, SETTINGS), (pairs, other_tokens, SETTINGS)]
    others += [(captioned_pairs(images, captions[::-1]), tokenizer, SETTINGS)]
    others += [(Pairs(images, pairs.kinds[::-1], pairs.subjects), tokenizer, SETTINGS)]
    assert all(identify(*other) != same_run for other in others)


def test_only_matrices_decay(model):
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    apart = {names[id(parameter)] for parameter in others["params"]}
    assert {"logit_scale", "visual.class_embedding", "visual.ln_post.weight", "ln_final.bias"} <= apart
    assert not any(name.endswith("proj.weight") or name == "text_projection" for name in apart)
    assert len(decayed["params"]) + len(apart) == len(names)


# --- the saved folder ---


@pytest.fixture(scope="module")
def folder(trained, world, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("miniclip")
    save_tokenizer(world[1], path / "bpe.txt.gz")
    save_clip(path, trained[0], model_config(SETTINGS, tokenizer.vocab_size))
    return path


def test_the_folder_is_read_by_load_clip_and_by_open_clip(folder, trained, world, tokenizer):
    clip, model = load_clip("miniclip", folder, device="cpu"), trained[0]
    assert (clip.patch_size, clip.image_size, clip.width, clip.dim) == (16, 64, 32, 16)
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item())
    plain = open_clip.create_model(f"local-dir:{folder}").eval()
    pixels, texts = to_tensor(world[0][:4], 64), world[1][:4]
    with torch.no_grad():
        images, words = model.encode_image(pixels, normalize=True), model.encode_text(tokenizer(texts), normalize=True)
        torch.testing.assert_close(plain.encode_image(pixels, normalize=True), images, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain.encode_text(tokenizer(texts), normalize=True), words, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.image_features(pixels), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.text_features(texts), words, atol=1e-5, rtol=1e-5)
    seen = torch.stack([clip.preprocess(Image.fromarray(image)) for image in world[0][:4]])
    torch.testing.assert_close(pixels, seen)  # training sees images as evaluation does


def test_the_configuration_is_the_one_asked_for(folder, tokenizer):
    about = json.loads((folder / "open_clip_config.json").read_text())
    config, preprocess = about["model_cfg"], about["preprocess_cfg"]
    assert config["vision_cfg"] == {"image_size": 64, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    assert config["text_cfg"]["heads"] == 32 // 16 and config["text_cfg"]["vocab_size"] == tokenizer.vocab_size
    assert (preprocess["interpolation"], preprocess["resize_mode"]) == ("bicubic", "shortest")
    wide = SETTINGS.model_copy(update={"text_width": 64, "width": 128})
    assert model_config(wide, 600)["text_cfg"]["heads"] == 64 // 16
