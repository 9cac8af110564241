"""Where the frozen CLIP comes from: open_clip's models, with weights from a cache, a file, a folder or the network (the
paper starts from OpenAI's CLIP).
"""

import difflib
import hashlib
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from huggingface_hub.errors import HfHubHTTPError
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.pretrained import download_pretrained

from pacl.runtime.network import answers
from pacl.runtime.precision import check_weights

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
VOCABULARY = "bpe.txt.gz"
FOLDER_BIT = 0x10  # of a zip entry's attributes


def open_clip_model(name: str, pretrained: str, *, untrained: bool = False) -> tuple[torch.nn.Module, object, dict]:
    """An open_clip model with weights, its tokenizer and its configuration; errors as in `pacl.clip.load_clip`."""
    folder = Path(pretrained) if pretrained != "random" and Path(pretrained).is_dir() else None
    source = f"local-dir:{folder}" if folder else name.replace("/", "-")
    config = folder_config(folder) if folder else _built_in_config(source)
    if any(key.startswith("hf_") for key in config["text_cfg"]):
        raise ValueError(
            f"{name} reads text with a Hugging Face model or tokenizer, which isn't supported: use another CLIP."
        )
    if untrained or pretrained == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _build(source, quick_gelu=False)
    elif folder:
        weights = _weights_in(folder)
        _check_size(folder / CONFIG, config, weights)
        model = _build(source, quick_gelu=False)
        _load(model, weights, f"the model in {folder / CONFIG}")
    else:
        model = _pretrained(source, pretrained, config)
    return model, _tokenizer(source, folder, config), config


def checksum(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that identify the weights, whatever device or file they come from."""
    digest = hashlib.blake2b(digest_size=8)
    for weight in model.parameters():
        digest.update(weight.detach().float().cpu().contiguous().reshape(-1).numpy())
    return digest.hexdigest()


def folder_config(folder: Path) -> dict:
    """The model configuration of a folder that open_clip saved.

    Raises FileNotFoundError if it has none and ValueError if it can't be read.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a CLIP folder: it needs {CONFIG} and {WEIGHTS[0]}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        towers = ("vision_cfg", "text_cfg")
        if type(config["embed_dim"]) is not int or not all(isinstance(config[name], dict) for name in towers):
            raise ValueError
        return config
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON with the "model_cfg" of a CLIP: copy it again.') from error


def find_cached(tag: dict) -> Path | None:
    """The weights of an open_clip.get_pretrained_cfg in Hugging Face's cache or ~/.cache/clip, or None."""
    for repository, filename in _hub_files(tag):
        found = huggingface_hub.try_to_load_from_cache(
            repository, filename, cache_dir=huggingface_hub.constants.HF_HUB_CACHE
        )
        if isinstance(found, str):
            return Path(found)
    downloaded = Path.home() / ".cache" / "clip" / os.path.basename(tag.get("url", ""))
    return downloaded if downloaded.is_file() else None


def fetch_weights(name: str, pretrained: str) -> Path | None:
    """The file of an open_clip tag's weights, which is downloaded unless a cache has it; None if it is no tag.

    Raises FileNotFoundError if it can't be downloaded.
    """
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    return (find_cached(tag) or _download(name, pretrained, tag)) if tag else None


def has_weights(name: str, pretrained: str) -> bool:
    """Whether weights can be loaded without a download."""
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    return find_cached(tag) is not None if tag else pretrained == "random" or Path(pretrained).exists()


def _pretrained(name: str, pretrained: str, config: dict) -> torch.nn.Module:
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        quick_gelu = tag.get("quick_gelu", False)
    elif Path(pretrained).is_file():
        quick_gelu, why = _activation(Path(pretrained), name, config)
        print(f"{Path(pretrained).name} runs with {'QuickGELU' if quick_gelu else 'GELU'}: {why}.")
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise FileNotFoundError(
            f"{pretrained!r} is neither a file, nor a folder, nor an open_clip tag of {name} (its tags: {tags})."
        )
    if config.get("quick_gelu") and not quick_gelu:
        raise ValueError(
            f"{name} computes QuickGELU, but {pretrained!r} was trained without it: use another model name."
        )
    weights = fetch_weights(name, pretrained) if tag else Path(pretrained)
    model = _build(name, quick_gelu=quick_gelu, preprocess=tag)
    _load(model, weights, name)
    return model


def _activation(weights: Path, name: str, config: dict) -> tuple[bool, str]:
    """Whether a file was trained with QuickGELU, and what says so: a state dict itself doesn't."""
    if (weights.parent / CONFIG).is_file():
        return bool(folder_config(weights.parent).get("quick_gelu")), f"{CONFIG} next to it says so"
    if _is_openai_archive(weights):
        return True, "it is one of OpenAI's archives"
    if tag := _tag_in(weights.stem, name.removesuffix("-quickgelu")):
        return bool(open_clip.get_pretrained_cfg(*tag).get("quick_gelu")), f"its name is that of open_clip's {tag[1]}"
    return bool(config.get("quick_gelu")), f"so does {name}, and the file's name is none of open_clip's"


def _tag_in(stem: str, name: str) -> tuple[str, str] | None:
    """The model and the open_clip tag whose name, repository or file a file's name holds; the longest of several."""
    found = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        settings = open_clip.get_pretrained_cfg(name, tag)
        repository, url = settings.get("hf_hub", ""), settings.get("url", "")
        for known in (tag, repository.rstrip("/").rpartition("/")[2], os.path.basename(os.path.splitext(url)[0])):
            if _plain(known) not in ("", _plain(name)) and f"_{_plain(known)}_" in f"_{_plain(stem)}_":
                found[known] = tag
    return (name, found[max(found, key=len)]) if found else None


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def _download(name: str, pretrained: str, tag: dict) -> Path:
    hub = _hub_files(tag)
    looked_in = huggingface_hub.constants.HF_HUB_CACHE if hub else Path.home() / ".cache" / "clip"
    missing = FileNotFoundError(
        f"the weights {pretrained!r} of {name} are not in {looked_in} and can't be downloaded from here: run "
        f"`python -c \"from pacl.clip import load_clip; load_clip('{name}', '{pretrained}')\"` on a machine with a "
        f"network and copy that folder, or name a local weights file instead of {pretrained!r}."
    )
    url = huggingface_hub.constants.ENDPOINT if hub else tag["url"]
    if huggingface_hub.constants.HF_HUB_OFFLINE or not answers(url):
        raise missing  # asked first, since huggingface_hub would try each file six times
    try:
        return Path(download_pretrained(tag))
    except (OSError, RuntimeError, HfHubHTTPError) as error:
        raise missing from error


def _hub_files(tag: dict) -> list[tuple[str, str]]:
    if not tag.get("hf_hub"):
        return []
    repository, filename = os.path.split(tag["hf_hub"])
    names = (os.path.splitext(filename)[0] + ".safetensors", filename) if filename else (WEIGHTS[0], WEIGHTS[2])
    return [(repository, name) for name in names]


def _build(source: str, *, quick_gelu: bool, preprocess: dict | None = None) -> torch.nn.Module:
    try:
        with _quiet():  # open_clip warns of random weights, but they are loaded next
            return open_clip.create_model(
                source,
                load_weights=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg=preprocess,
                pretrained_text=False,
            )
    except Exception as error:  # a folder's configuration may say anything
        raise ValueError(f"open_clip can't build a CLIP from {source} ({error}): check {CONFIG}.") from error


def _check_size(path: Path, config: dict, weights: Path) -> None:
    """Raises ValueError for a configuration of a larger model than its weights fill: it could take any memory."""
    try:
        vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    except TypeError:
        return  # open_clip refuses it too
    image, patch = _longer_side(vision.image_size), _longer_side(vision.patch_size)
    towers = [(text.layers, text.width, text.context_length)]
    if vision.timm_model_name is None and not isinstance(vision.layers, list):  # a ViT of open_clip's own
        towers.append((vision.layers, vision.width, (image // patch) ** 2 if _is_size(image, patch) else None))
    if not _is_size(config["embed_dim"], text.vocab_size, *chain(*towers)):
        raise ValueError(f"{path} has a size that isn't a positive whole number.")
    least = text.vocab_size * text.width + text.context_length**2  # the causal mask
    least += sum(layers * 4 * width**2 + length * width + config["embed_dim"] for layers, width, length in towers)
    if least > weights.stat().st_size:
        raise ValueError(f"{path} describes a model of more than {least:,} numbers, but {weights} is smaller.")


def _longer_side(size):
    """The longer of [height, width]; anything else as it is."""
    return max(size) if isinstance(size, list) and size and _is_size(*size) else size


def _is_size(*values) -> bool:
    return all(type(value) is int and value > 0 for value in values)


def _load(model: torch.nn.Module, path: Path, name: str) -> None:
    try:
        _check_archive(path)
        if _is_openai_archive(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
            sizes = ("input_resolution", "context_length", "vocab_size")
            model.load_state_dict({key: value for key, value in state.items() if key not in sizes})
        else:
            with _unwrapped(path) as plain:
                open_clip.load_checkpoint(model, str(plain), weights_only=True)
    except Exception as error:  # the readers raise nearly any kind for a damaged file
        raise ValueError(
            f"{path} doesn't hold weights of {name} that open_clip can read{_misfit(model, path)}."
        ) from error
    check_weights(model, path)


@contextmanager
def _unwrapped(path: Path) -> Iterator[Path]:
    """The file, or a temporary one with what it holds under "model", as trainings save it next to other states."""
    pickled = path.suffix not in (".safetensors", ".npz", ".npy")
    held = torch.load(path, map_location="cpu", weights_only=True) if pickled else {}
    if not isinstance(held, dict) or not isinstance(held.get("model"), dict):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(held["model"], Path(folder, "model.pt"))
        yield Path(folder, "model.pt")


def _misfit(model: torch.nn.Module, path: Path) -> str:
    """What is wrong with a file's keys, or else with its tensors' sizes, as the end of a sentence; nothing where it has
    the model's or can't be read.
    """
    try:
        with _unwrapped(path) as plain:
            held = open_clip.factory.load_state_dict(str(plain), weights_only=True)
    except Exception:
        return ""
    if "vision_model.embeddings.class_embedding" in held:
        return ": it has the layout of Hugging Face's transformers, convert it as docs/data.md says under Weights"
    expected = model.state_dict()
    more, lacking = ([key for key in some if key not in other] for some, other in ((held, expected), (expected, held)))
    said = [f"{words} {', '.join(keys[:3])}" for words, keys in (("it lacks", lacking), ("has", more)) if keys]
    sizes = {key: (list(held[key].shape), list(expected[key].shape)) for key in expected if key in held}
    other = [f"{key} is {own}, not {of_model}" for key, (own, of_model) in sizes.items() if own != of_model]
    said = said or [key for key in other if "positional_embedding" not in key][:3]  # open_clip resizes those
    return f": {' and '.join(said)}" if said else ""


def _check_archive(path: Path) -> None:
    """Raises BadZipFile for a damaged .pt or .bin archive: torch.jit ignores checksums, and from a file marked as a
    folder torch reads nothing and leaves the weights' memory as it was.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            folders = [e.filename for e in archive.infolist() if e.external_attr & FOLDER_BIT and not e.is_dir()]
            if damaged := archive.testzip() or folders:
                raise zipfile.BadZipFile(f"{damaged}")


def _is_openai_archive(path: Path) -> bool:
    """Whether it is TorchScript, as OpenAI's .pt files are, which torch.load(weights_only=True) refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # not an archive, or a damaged one, for which zipfile raises nearly any kind
        return False


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has a configuration but no weights: it needs {WEIGHTS[0]}.")


def _tokenizer(source: str, folder: Path | None, config: dict):
    if folder and (folder / VOCABULARY).is_file():
        context_length = config["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        return open_clip.tokenizer.SimpleTokenizer(bpe_path=str(folder / VOCABULARY), context_length=context_length)
    return open_clip.get_tokenizer(source)


def _built_in_config(name: str) -> dict:
    if name not in open_clip.list_models():
        near = ", ".join(difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)) or "ViT-B-16"
        raise ValueError(f"open_clip has no model {name!r}: did you mean {near}?")
    return open_clip.get_model_config(name)


@contextmanager
def _quiet() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
