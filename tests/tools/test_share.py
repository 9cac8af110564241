"""A trained embedder as a portable folder: what arrives is what was sent."""

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from helpers.imports import ROOT

from pacl.checkpoints import save_embedder
from pacl.model import VisionEmbedder
from pacl.tools.share import share

METRICS = {
    "patch_alignment": {"pacl": {"accuracy": 0.7254, "interval": [0.7, 0.8]}},
    "segmentation": {"my.set": {"native": {"clip": {"miou": 0.25}}}},
    "classification": {"clean": {"clip": 0.985}},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with an embedder of random weights and hand-made results."""
    folder = tmp_path / "project"
    (folder / "reports/mini/prepare").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "reports/mini/metrics.json").write_text(json.dumps(METRICS))
    (folder / "reports/mini/prepare/prepare.json").write_text('{"label": "the mini world", "pairs": 20000}')
    about = {"train": {"scale": 10.0, "epochs": 8}, "history": [{"epoch": 1}, {"epoch": 2}]}
    save_embedder(folder / "checkpoints/mini/best", VisionEmbedder(128, 128, "mlp", "linear"), about)
    monkeypatch.chdir(folder)
    return folder


def test_a_shared_embedder_comes_back_as_it_was(project, tmp_path):
    folder = tmp_path / "in/a/new/folder, it's ü"
    share("mini", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    found = VisionEmbedder.from_pretrained(folder)
    assert found.shape == {"in_dim": 128, "out_dim": 128, "kind": "mlp", "text_embedder": "linear"}
    weights = huggingface_hub.load_state_dict_from_file(project / "checkpoints/mini/best.safetensors")
    assert found.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items())


def test_the_card_has_the_runs_figures(project, tmp_path):
    share("mini", tmp_path / "shared")
    card = huggingface_hub.ModelCard.load(tmp_path / "shared/README.md")
    assert "| patch_alignment / accuracy | pacl | 0.725 |\n" in card.text
    assert "| segmentation / my.set / native / miou | clip | 0.250 |\n" in card.text
    assert "| classification / clean | clip | 0.985 |\n" in card.text and "interval" not in card.text
    assert "- all measured on: the mini world\n- pairs: 20,000\n" in card.text and "weights after epoch 2" in card.text
    assert "| scale | 10.0 |" in card.text and "| embedder | mlp |" in card.text
    assert card.data.license == "mit" and "## Limits" in card.text


def test_the_card_names_the_clip_by_its_checksum_where_the_checkpoint_does(project, tmp_path):
    share("mini", tmp_path / "older")
    identity = {"name": "miniclip", "tokens": "after_norm", "weights": "0123abcd"}
    about = {"train": {}, "history": [{}], "clip": identity}
    save_embedder(project / "checkpoints/mini/best", VisionEmbedder(128, 128), about)
    share("mini", tmp_path / "new")
    older, new = ((tmp_path / name / "README.md").read_text() for name in ("older", "new"))
    assert "patch tokens after_norm. These are" in older
    assert "patch tokens after_norm (checksum of the weights 0123abcd). These are" in new


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_line_shares_or_says_why_not_in_one_sentence(project, tmp_path, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["share", *arguments])
        runpy.run_module("pacl.tools.share", run_name="__main__")

    with pytest.raises(SystemExit, match="^Usage: python -m pacl.tools.share PROFILE FOLDER$"):
        command("mini")
    command("mini", str(tmp_path / "shared"))
    assert capsys.readouterr().out == f"{tmp_path}/shared holds mini's embedder and its model card.\n"
    with pytest.raises(SystemExit, match="^.*shared is not empty: name a new folder.$"):
        command("mini", str(tmp_path / "shared"))


def test_the_cards_example_runs(project, tmp_path, tiny_folder, monkeypatch):
    """With another CLIP in the place of the run's, so wide as the embedder."""
    save_embedder(project / "checkpoints/mini/best", VisionEmbedder(32, 16), {"train": {}, "history": [{}]})
    share("mini", tmp_path / "shared")
    text = (tmp_path / "shared/README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace("'data/miniclip'", repr(str(tiny_folder)))
    code = code.replace("this folder, or its name on the Hub", str(tmp_path / "shared"))
    names = {"images": torch.randn(2, 3, 32, 32)}
    exec(code, names)
    assert names["cosines"].shape == (2, 16, 1) and names["cosines"].abs().max() <= 1.0001


def test_nothing_is_overwritten_and_what_is_missing_is_named(project, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("")
    with pytest.raises(FileExistsError, match="full is not empty: name a new folder"):
        share("mini", tmp_path / "full")
    (tmp_path / "empty").mkdir()
    share("mini", tmp_path / "empty")
    for missing, said in (
        ("reports/mini/metrics.json", "run `dvc repro`"),
        ("checkpoints/mini/best.json", "train first"),
    ):
        (project / missing).unlink()
        with pytest.raises(FileNotFoundError, match=f"{missing} is missing: {said}"):
            share("mini", tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="checkpoints/flickr8k/best.json is missing"):
        share("flickr8k", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "project"]


def test_an_embedder_is_pushed_with_its_weights_and_configuration(monkeypatch):
    sent = {}

    def upload(self, *, folder_path, **_):
        sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})

    def create(self, repo_id, **_):
        return SimpleNamespace(repo_id=repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    VisionEmbedder(8, 4, "linear").push_to_hub("someone/pacl")
    sizes = {"in_dim": 8, "out_dim": 4, "kind": "linear", "text_embedder": "frozen"}
    assert json.loads(sent["config.json"]) == sizes
    assert "model.safetensors" in sent and "README.md" in sent
