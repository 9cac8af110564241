"""The vision embedder, the only trained part of PACL, and phi, the compatibility of an image and a text that trains it
(paper, section 3).
"""

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from pacl.phi import all_pairs, directions, matched_only
from pacl.runtime.precision import check_weights

CHOICES = {
    "kind": ("residual", "mlp", "linear"),
    "text_embedder": ("frozen", "linear"),
    "scoring": ("cosine", "dot"),
    "activation": ("softmax", "sigmoid"),
    "pooling": ("all_pairs", "matched_only"),
    "pooled": ("raw", "unit"),
    "products": ("float32", "bfloat16"),
}


class VisionEmbedder(
    nn.Module, PyTorchModelHubMixin, library_name="pacl", license="mit", tags=["image-segmentation", "clip"]
):
    """e_v: CLIP's patch tokens [..., in_dim] into the text's space [..., out_dim], not normalised.

    kind: "residual" (the paper's: Linear-ReLU-Linear plus a Linear skip; (768, 512) has 1,050,112 parameters), "mlp"
    (no skip) or "linear" (only the skip).
    text_embedder: e_t, which every text embedding [..., out_dim] must pass through (`.text_embedder`): "frozen" (the
    paper's: leaves it as CLIP made it) or "linear" (starts as the identity; public re-implementations train one).
    save_pretrained, from_pretrained and push_to_hub are huggingface_hub's; from_pretrained raises ValueError for
    weights that don't fit, unless strict=False.
    Raises ValueError for another kind or text embedder and for tokens of another width.
    """

    def __init__(self, in_dim: int, out_dim: int, kind: str = "residual", text_embedder: str = "frozen"):
        super().__init__()
        _check_choices(kind=kind, text_embedder=text_embedder)
        self.in_dim, self.out_dim, self.kind = in_dim, out_dim, kind
        # The arguments that build an embedder of this architecture.
        self.shape = {"in_dim": in_dim, "out_dim": out_dim, "kind": kind, "text_embedder": text_embedder}
        if kind != "linear":
            self.main = nn.Sequential(nn.Linear(in_dim, out_dim), nn.ReLU(), nn.Linear(out_dim, out_dim))
        if kind != "mlp":
            self.skip = nn.Linear(in_dim, out_dim)
        self.text_embedder = nn.Identity()
        if text_embedder == "linear":
            self.text_embedder = nn.Linear(out_dim, out_dim)
            nn.init.eye_(self.text_embedder.weight)
            nn.init.zeros_(self.text_embedder.bias)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, strict: bool = True, **settings):
        """huggingface_hub's hook; its own default would leave what a file lacks at random."""
        try:
            embedder = super()._from_pretrained(model_id=model_id, strict=strict, **settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{model_id} doesn't hold the weights of this embedder ({reason}): share it again, or name another one."
            ) from None
        check_weights(embedder, model_id)
        return embedder

    def forward(self, patch_features: Tensor) -> Tensor:
        if patch_features.shape[-1] != self.in_dim:
            raise ValueError(
                f"patch features are {patch_features.shape[-1]} wide, but this embedder takes {self.in_dim}."
            )
        if self.kind == "residual":
            return self.main(patch_features) + self.skip(patch_features)
        return self.main(patch_features) if self.kind == "mlp" else self.skip(patch_features)


def compatibility(
    patch_embeddings: Tensor,
    text_embeddings: Tensor,
    *,
    scoring: str = "cosine",
    scale: float = 10.0,
    activation: str = "softmax",
    pooling: str = "all_pairs",
    pooled: str = "raw",
    products: str = "float32",
    first_text: int | None = None,
) -> Tensor:
    """phi of every image with every text: [B, N, D], [K, D] -> [B, K], cosines, in float32 (float64 for float64 input).

    Each pair averages the image's un-normalised tokens with its own `attention` and compares the average with the text
    (paper, section 3):

        a = attention(patch_embeddings, text_embeddings)                    # [B, N, K]
        v = torch.einsum("bnk,bnd->bkd", a, patch_embeddings)               # [B, K, D]
        phi = torch.nn.functional.cosine_similarity(v, text_embeddings, dim=-1)

    pacl.phi computes the same in less than half the time and with little memory; it can be differentiated once.
    pooling="matched_only" averages image i once, with text i's attention, as public re-implementations do: another
    objective, kept for comparison. It needs B == K, or first_text, the number of image 0's text: image i's text is then
    first_text + i.
    pooled="unit" averages tokens of length 1, as some public re-implementations do.
    products="bfloat16" rounds the inputs and results of all_pairs' matrix products, which takes about 0.6 of the time;
    speed/README.md says how far off phi and its gradient are. Devices without such products compute in float32
    (pacl.runtime.precision).
    Raises ValueError for shapes that do not fit and for unknown options.
    """
    _check_shapes(patch_embeddings, text_embeddings)
    _check_choices(scoring=scoring, activation=activation, pooling=pooling, pooled=pooled, products=products)
    own = text_embeddings[first_text or 0 :][: None if first_text is None else len(patch_embeddings)]
    if pooling == "matched_only" and len(patch_embeddings) != len(own):
        raise ValueError(
            f'pooling="matched_only" needs one text per image, not {len(own)} for {len(patch_embeddings)}.'
        )
    with torch.autocast(patch_embeddings.device.type, enabled=False):  # sums over patches need float32
        if pooled == "unit":
            patch_embeddings = directions(_at_least_float32(patch_embeddings))
        if pooling == "all_pairs":
            return all_pairs(patch_embeddings, text_embeddings, scoring, scale, activation, products)
        return matched_only(patch_embeddings, text_embeddings, own, scoring, scale, activation)


def attention(
    patch_embeddings: Tensor,
    text_embeddings: Tensor,
    *,
    scoring: str = "cosine",
    scale: float = 10.0,
    activation: str = "softmax",
) -> Tensor:
    """a(x, y): the weight of each patch for each text, [B, N, D], [K, D] -> [B, N, K].

    scale * cosine (scoring="cosine") or scale * dot product (scoring="dot") of each token with each text, then a
    softmax over the N patches (activation="softmax"; paper, section 3) or a sigmoid of each score
    (activation="sigmoid"; public re-implementations, whose weights do not sum to 1).
    Raises ValueError for shapes that do not fit and for unknown options.
    """
    _check_shapes(patch_embeddings, text_embeddings)
    _check_choices(scoring=scoring, activation=activation)
    patches, text = _at_least_float32(patch_embeddings), _at_least_float32(text_embeddings)
    scores = scale * (directions(patches) @ directions(text).T if scoring == "cosine" else patches @ text.T)
    return scores.softmax(dim=1) if activation == "softmax" else scores.sigmoid()


def similarity_map(patch_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """s(x, y): the cosine of every patch with every text, [B, N, D], [K, D] -> [B, N, K].

    Raises ValueError for shapes that do not fit and for embeddings that are not numbers.
    """
    _check_shapes(patch_embeddings, text_embeddings)
    patches, text = _at_least_float32(patch_embeddings), _at_least_float32(text_embeddings)
    cosines = directions(patches) @ directions(text).T
    _check_numbers(cosines)
    return cosines


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_shapes(patch_embeddings: Tensor, text_embeddings: Tensor) -> None:
    if patch_embeddings.ndim != 3 or 0 in patch_embeddings.shape:
        raise ValueError(f"patch embeddings must be non-empty [B, N, D], not {list(patch_embeddings.shape)}.")
    if text_embeddings.ndim != 2 or 0 in text_embeddings.shape:
        raise ValueError(f"text embeddings must be non-empty [K, D], not {list(text_embeddings.shape)}.")
    if patch_embeddings.shape[2] != text_embeddings.shape[1]:
        raise ValueError(
            "patch and text embeddings must have the same width, not "
            f"{patch_embeddings.shape[2]} and {text_embeddings.shape[1]}."
        )


def _check_numbers(cosines: Tensor) -> None:
    if cosines.isnan().any():  # whose label maps would look like any other
        raise ValueError("embeddings of patches or texts are not numbers (NaN): check the weights that made them.")


def _check_choices(**options: str) -> None:
    for option, value in options.items():
        if value not in CHOICES[option]:
            raise ValueError(f"{option} must be one of {', '.join(CHOICES[option])}, not {value!r}.")
