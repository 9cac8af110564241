"""Where a CLIP's weights come from: folders, files, caches, tags, and one sentence for what is missing or wrong."""

import gzip
import json
import logging
import re
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from helpers.archive import Archive
from helpers.tiny_clip import TINY, images, load_config, save_folder
from safetensors.torch import save_file

from pacl.clip import load_clip, weights

pytestmark = pytest.mark.usefixtures("one_tokenizer")


@pytest.fixture
def built_in(tmp_path, monkeypatch):
    """A built-in model "tiny" with a tag "openai", no network and empty caches."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    tag = {"hf_hub": "nobody/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


load = partial(load_clip, "tiny", device="cpu")


def refused(pretrained, match, error=ValueError, **options):
    with pytest.raises(error, match=match):
        load(pretrained, **options)


def activation(clip):
    return type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__


# --- folders ---


def test_a_folder_may_bring_its_own_vocabulary(tmp_path):
    save_folder(tmp_path, {**TINY, "text_cfg": {**TINY["text_cfg"], "vocab_size": 600}})
    with gzip.open(tmp_path / "bpe.txt.gz", "wt") as file:
        file.write('"bpe_simple_vocab"\na t</w>\nc at</w>\n')
    clip = load(tmp_path)
    tokens = clip.tokenizer(["cat"])
    assert tokens.shape == (1, 12) and tokens[0, 1] == 513  # 256 bytes, 256 bytes ending a word, the second merge
    assert clip.text_features(["cat"]).shape == (1, 16)


def test_folders_name_what_they_lack(tmp_path):
    refused(tmp_path, "needs open_clip_config.json", FileNotFoundError)
    for content in ("{", json.dumps({"model_cfg": {**TINY, "text_cfg": []}})):
        (tmp_path / "open_clip_config.json").write_text(content)
        refused(tmp_path, 'is not JSON with the "model_cfg" of a CLIP')
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    refused(tmp_path, "no weights", FileNotFoundError)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not weights at all" * 200_000)
    refused(tmp_path, "doesn't hold weights of the model in .*open_clip_config.json")


@pytest.mark.parametrize("size", [[8, 4000], [], [8, 0]])
def test_an_image_size_larger_than_the_weights_or_not_a_size_is_named_with_its_file(tmp_path, size):
    """The longer side determines how many places a model has."""
    save_folder(tmp_path)
    vision = {**TINY["vision_cfg"], "image_size": size}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**TINY, "vision_cfg": vision}}))
    wrong = "describes a model of more than" if size == [8, 4000] else "has a size that isn't a positive whole number"
    refused(tmp_path, f"open_clip_config.json {wrong}")
    save_folder(tmp_path, {**TINY, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32}})  # a ResNet
    refused(tmp_path, "use a ViT that projects its class token")


def test_safetensors_come_before_what_must_be_unpickled(tmp_path):
    expected = save_folder(tmp_path, seed=0).visual.proj
    torch.save(open_clip.CLIP(**TINY).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    assert torch.equal(load(tmp_path).model.visual.proj, expected)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "open_clip_pytorch_model.safetensors")
    assert torch.equal(load(tmp_path).model.visual.proj, expected)


def test_an_untrained_clip_has_the_folders_architecture_and_weights_of_seed_0(tmp_path):
    trained = save_folder(tmp_path, seed=1).state_dict()
    clip = load_clip("tiny", tmp_path, device="cpu", untrained=True)
    torch.manual_seed(0)
    expected, found = open_clip.CLIP(**TINY).state_dict(), clip.model.state_dict()
    assert clip.random_weights and all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["visual.proj"], trained["visual.proj"])


def test_random_weights_are_meant_though_a_folder_is_called_random(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").mkdir()
    assert load_config(TINY).random_weights and load_config(TINY, pretrained=Path("random")).random_weights


def test_loading_leaves_logging_as_it_was_and_warns_of_nothing(tmp_path, caplog):
    save_folder(tmp_path)
    load(tmp_path)
    assert logging.root.manager.disable == logging.NOTSET and not caplog.records
    logging.disable(logging.INFO)
    try:
        load(tmp_path)
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)


# --- names ---


def test_unknown_names_are_named(built_in, monkeypatch):
    for name in ("ViT-B-17", "水"):
        with pytest.raises(ValueError, match=f"no model '{name}': did you mean ViT-B-16"):
            load_clip(name, "openai")
    refused("opnai", "nor an open_clip tag of tiny \\(its tags: openai\\)", FileNotFoundError)
    refused("random", "tokens must be", tokens="after")
    refused("random", "dtype float32 or bfloat16, not 'after_norm' and 'float16'", dtype="float16")
    monkeypatch.delitem(open_clip.pretrained._PRETRAINED, "tiny")
    refused("openai", "its tags: none", FileNotFoundError)


def test_texts_read_by_hugging_faces_models_are_refused():
    config = {**TINY, "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}}
    with pytest.raises(ValueError, match="tiny reads text with a Hugging Face model or tokenizer"):
        load_config(config)


# --- files and their activation ---


def test_a_file_has_the_activation_of_its_folder_its_model_or_its_name(built_in, monkeypatch, capsys):
    """open_clip only warns where OpenAI's weights would run with the wrong activation."""
    state = save_folder(built_in / "folder").state_dict()
    (built_in / "OpenAI").mkdir()
    for name in ("plain.bin", "my_OpenAI.bin", "OpenAI/plain.bin", "openaim.bin"):
        torch.save(state, built_in / name)
        clip = load(built_in / name)
        assert activation(clip) == ("QuickGELU" if name == "my_OpenAI.bin" else "GELU")
        assert torch.equal(clip.model.visual.proj, state["visual.proj"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "plain.bin runs with GELU: so does tiny, and the file's name is none of open_clip's."
    assert said[1] == "my_OpenAI.bin runs with QuickGELU: its name is that of open_clip's openai."
    for quick_gelu, expected in ((False, "GELU"), (True, "QuickGELU")):
        save_folder(built_in / "folder", {**TINY, "quick_gelu": quick_gelu})
        clip = load(built_in / "folder/open_clip_model.safetensors")
        assert activation(clip) == expected
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", {**TINY, "quick_gelu": True})
    assert activation(load(built_in / "plain.bin")) == "QuickGELU"
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["tiny"], "laion", {"hf_hub": "nobody/tiny/"})
    refused("laion", "computes QuickGELU, but 'laion' was trained without")


# What the files of these families are called: by open_clip's tag, their repository, their authors.
FILES = [
    ("ViT-B-16", "b16_400m.pt", True),
    ("ViT-B-16", "DFN2B-CLIP-ViT-B-16.bin", True),
    ("ViT-B-16-quickgelu", "dfn2b.bin", True),
    ("ViT-B-32", "vit_b_32-quickgelu-laion400m_e32-46683a32.pt", True),
    ("ViT-B-16", "vit_b_16-laion400m_e32-55e67d44.pt", False),
    ("ViT-B-16-quickgelu", "CLIP-ViT-B-16-laion2B-s34B-b88K.bin", False),
    ("ViT-B-16", "ViT-B-16.bin", False),
    ("ViT-B-16-quickgelu", "ViT-B-16.bin", True),
    ("ViT-B-16", "pytorch_model.bin", False),
]


@pytest.mark.parametrize("name, file, quick_gelu", FILES)
def test_a_file_named_as_open_clips_tags_are_has_their_activation(tmp_path, name, file, quick_gelu):
    found, why = weights._activation(tmp_path / "openai" / file, name, open_clip.get_model_config(name))
    assert found == quick_gelu and why


def test_every_tag_that_open_clip_flags_is_known_by_its_name():
    for name, tag in open_clip.list_pretrained():
        settings, config = open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name)
        if settings.get("quick_gelu"):
            assert weights._activation(Path(f"{tag}.pt"), name, config)[0], (name, tag)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    state = save_folder(tmp_path).state_dict()
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, tmp_path / "open_clip_model.safetensors")
    refused(tmp_path, "safetensors holds a weight that is not a finite number, in visual.proj: copy")


def test_a_state_dict_under_the_key_model_is_unwrapped(built_in):
    state = save_folder(built_in / "folder").state_dict()
    prefixed = {f"module.{name}": weight for name, weight in state.items()}
    for held in ({"model": state, "optimizer": {}}, {"model": prefixed, "epoch": 3}, {"state_dict": prefixed}):
        torch.save(held, built_in / "trained.pt")
        found = load(built_in / "trained.pt").model.state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in state.items())


def test_weights_that_do_not_fit_are_named_by_their_first_keys(built_in):
    state = save_folder(built_in / "folder").state_dict()
    renamed = {name.replace("visual.", "image."): weight for name, weight in state.items()}
    hugging_face = {"vision_model.embeddings.class_embedding": torch.zeros(3), "text_projection.weight": torch.zeros(3)}
    lacks = "it lacks visual.class_embedding, visual.positional_embedding, visual.proj and has image.class_embedding,"
    layout = "it has the layout of Hugging Face's transformers, convert it as docs/data.md says under Weights"
    grown, sizes = state | {"visual.proj": torch.zeros(3, 4)}, r"visual.proj is \[3, 4\], not \[\d+, \d+\]\.$"
    for held, said in ((renamed, lacks), ({"model": renamed}, lacks), (grown, sizes), (hugging_face, layout)):
        torch.save(held, built_in / "other.pt")
        refused(built_in / "other.pt", f"other.pt doesn't hold weights of tiny .* can read: {said}")


THEIRS = {  # transformers' names for open_clip's; transformers 4.57.1 itself gives equal features after the conversion
    r"(visual\.)?transformer\.resblocks\.(\d+)": r"\1encoder.layers.\2",
    r"ln_1": "layer_norm1",
    r"ln_2": "layer_norm2",
    r"mlp\.c_fc": "mlp.fc1",
    r"mlp\.c_proj": "mlp.fc2",
    r"attn\.": "self_attn.",
    r"ln_final": "final_layer_norm",
    r"visual\.ln_pre": "visual.pre_layrnorm",
    r"visual\.ln_post": "visual.post_layernorm",
    r"visual\.conv1": "visual.embeddings.patch_embedding",
    r"visual\.class_embedding": "visual.embeddings.class_embedding",
    r"positional_embedding$": "embeddings.position_embedding.weight",
    r"^token_embedding": "embeddings.token_embedding",
}


def as_transformers(state):
    theirs = {"logit_scale": state.pop("logit_scale"), "visual_projection.weight": state.pop("visual.proj").T}
    theirs["text_projection.weight"] = state.pop("text_projection").T
    for key, weight in state.items():
        for ours, name in THEIRS.items():
            key = re.sub(ours, name, key)
        key = key.replace("visual.", "vision_model.") if key.startswith("visual.") else f"text_model.{key}"
        if "in_proj" in key:
            parts = zip("qkv", weight.chunk(3), strict=True)
            theirs |= {key.replace("in_proj_", f"{part}_proj."): value.clone() for part, value in parts}
        else:
            theirs[key] = weight
    return {key: weight.contiguous() for key, weight in theirs.items()}


def test_the_conversion_in_the_docs_gives_open_clips_weights(built_in, monkeypatch):
    state = save_folder(built_in / "folder").state_dict()
    monkeypatch.chdir(built_in)
    save_file(as_transformers(dict(state)), "model.safetensors")
    refused("model.safetensors", "layout of Hugging Face's transformers")
    docs = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(import re\n.*?)```", docs, re.DOTALL)[1], {})
    found = load("openai.safetensors").model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in state.items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_openais_archive_is_read_with_its_activation(built_in):
    """OpenAI's .pt files: TorchScript in half precision with three sizes beside the weights."""
    reference = save_folder(built_in / "folder").half()
    sizes = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    archive = Archive({name: tensor.clone() for name, tensor in reference.state_dict().items()} | sizes)
    torch.jit.save(torch.jit.trace(archive, torch.ones(1).half()), built_in / "ViT.pt")
    clip = load(built_in / "ViT.pt")
    assert activation(clip) == "QuickGELU" and clip.model.visual.proj.dtype == torch.float32
    torch.testing.assert_close(clip.model.visual.proj, reference.visual.proj.float())


def test_a_pickle_that_would_run_code_is_refused(built_in):
    class Runs:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Runs()}, built_in / "evil.pt")
    refused(built_in / "evil.pt", "doesn't hold weights")


# --- caches and downloads ---


def test_a_cached_tag_needs_no_network_and_gets_its_activation_and_mean(built_in):
    snapshot = built_in / "hub" / "models--nobody--tiny" / "snapshots" / "0"
    reference = save_folder(snapshot, {**TINY, "quick_gelu": True})
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    clip = load("openai")
    reference.visual.output_tokens = True
    torch.testing.assert_close(clip.patch_features(images()), reference.visual(images())[1], atol=1e-5, rtol=1e-5)
    assert activation(clip) == "QuickGELU"
    torch.testing.assert_close(clip.normalize(torch.zeros(3, 1, 1)).flatten()[0], torch.tensor(-0.1 / 0.26862954))


def test_weights_are_found_where_hugging_face_and_open_clip_keep_them(built_in):
    hub = built_in / "hub/models--nobody--tiny/snapshots/0"
    note = hub.parents[1] / ".no_exist/0/own.safetensors"  # Hugging Face's note that there is no such file
    own, tag, url = {"hf_hub": "nobody/tiny/own.bin"}, {"hf_hub": "nobody/tiny/"}, {"url": "https://elsewhere/ViT.pt"}

    def add(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0")

    add(hub.parents[1] / "refs/main")
    add(note)
    for wanted, path in (
        (own, hub / "own.bin"),
        (tag, hub / "open_clip_pytorch_model.bin"),
        (tag, hub / "open_clip_model.safetensors"),  # comes before the other
        (url, built_in / ".cache/clip/ViT.pt"),
    ):
        assert weights.find_cached(wanted) in (None, hub / "open_clip_pytorch_model.bin")
        add(path)
        assert weights.find_cached(wanted) == path
    assert weights.find_cached({}) is None
    note.rename(hub / "own.safetensors")
    assert weights.find_cached(own) == hub / "own.safetensors"


def test_missing_weights_are_one_sentence_within_seconds(built_in):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load_clip("tiny", "openai")
    message = str(error.value)
    assert time.monotonic() - start < 3
    assert "\n" not in message and "tiny" in message and str(built_in / "hub") in message
    assert "load_clip('tiny', 'openai')" in message and "local weights file" in message


@pytest.fixture
def server():
    """The address of a server that has nothing, and what was asked of it."""
    asked = []

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Nothing) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_weights_outside_hugging_face_are_asked_for_at_their_own_address(built_in, server, monkeypatch):
    """An answer that the page isn't there is an answer: the network is reachable."""
    state = save_folder(built_in / "folder").state_dict()
    torch.save(state, built_in / "downloaded.bin")
    tag = {"url": f"{server[0]}/ViT.pt"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["tiny"], "own", tag)
    monkeypatch.setattr(weights, "download_pretrained", lambda tag: str(built_in / "downloaded.bin"))
    clip = load("own")
    assert torch.equal(clip.model.visual.proj, state["visual.proj"]) and server[1] == ["/ViT.pt"]


@pytest.mark.parametrize("error", [RuntimeError("the checksum differs"), ConnectionError("interrupted")])
def test_a_download_that_fails_says_where_the_weights_may_lie(built_in, server, monkeypatch, error):
    def fail(tag):
        raise error

    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["tiny"], "own", {"url": f"{server[0]}/ViT.pt"})
    monkeypatch.setattr(weights, "download_pretrained", fail)
    refused("own", "'own' of tiny are not in .*/.cache/clip and can't be downloaded", FileNotFoundError)


def test_offline_no_server_is_asked(built_in, server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server[0])
    monkeypatch.setattr(weights, "download_pretrained", lambda tag: pytest.fail("it tried"))
    refused("openai", "can't be downloaded from here", FileNotFoundError)
    assert server[1] == []
