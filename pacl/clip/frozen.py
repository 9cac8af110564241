"""The frozen CLIP as PACL needs it: patch tokens, also on denser grids, and text embeddings (paper, section 3)."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import product

import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import Compose

from pacl.clip.baselines import LAST_BLOCKS, check_last_blocks, whole_block
from pacl.clip.weights import checksum, open_clip_model
from pacl.data.images import as_rgb
from pacl.runtime.config import project_root
from pacl.runtime.params import Model
from pacl.runtime.precision import autocast, available

TOKENS = ("after_norm", "before_norm", "value")
PASSES = ("joint", "shifted")
POSITIONS = ("exact", "scaled")
PROMPTS_AT_ONCE = 256


class FrozenCLIP:
    """An open_clip model that never trains, made by `load_clip`; it returns float32 tensors on `device`.

    patch_size, image_size: pixels, as trained. width: D_v, of a patch token. dim: D, of image and text embeddings.
    logit_scale: CLIP's learned inverse temperature. random_weights: True if it was never trained. name: what it was
    loaded as. dtype: "bfloat16" or "float32", in which it computes.
    last_block: the default of `patch_features`, a name of `pacl.clip.baselines.LAST_BLOCKS`.
    kept_texts: the folder where `pacl.clip.texts` keeps embeddings of classes, None for none.
    """

    def __init__(self, model, tokenizer, dim: int, *, name: str, tokens: str, device: torch.device, dtype: str):
        visual = model.visual
        self.is_timm = hasattr(visual, "trunk")
        _check_supported(visual, tokens)
        self.model, self.tokenizer, self.device = model.eval().requires_grad_(False).to(device), tokenizer, device
        self.name, self.tokens, self.random_weights, self.dim = name, tokens, False, dim
        self.dtype, self.kept_texts = available(self.device.type, dtype), None
        self.last_block = "maskclip" if tokens == "value" else "clip"
        patch_size = visual.trunk.patch_embed.patch_size if self.is_timm else visual.patch_size
        self.patch_size, self.image_size = int(patch_size[0]), int(visual.image_size[0])
        self.width = visual.trunk.embed_dim if self.is_timm else visual.conv1.out_channels
        self.logit_scale = model.logit_scale.exp().item()
        transform = image_transform_v2(PreprocessCfg(**visual.preprocess_cfg), is_train=False)
        self.preprocess = Compose([as_rgb, transform])  # open_clip converts after resizing, which mixes hidden colours
        self._mean, self._std = (
            torch.tensor(v, device=device)[:, None, None] for v in (visual.image_mean, visual.image_std)
        )

    @cached_property
    def identity(self) -> dict[str, str]:
        """What embedders trained on its tokens store, to tell it from other CLIPs: weights by their checksum."""
        return {"name": self.name, "tokens": self.tokens, "weights": checksum(self.model)}

    def normalize(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] in [0, 1] -> normalised by CLIP's mean and standard deviation, on `device`."""
        return (images.to(self.device) - self._mean) / self._std

    def grid(self, H: int, W: int, stride: int | None = None) -> tuple[int, int]:
        """Rows and columns of patches (h, w) in an image of H x W pixels.

        Raises ValueError for a stride or an image size that this CLIP can't take.
        """
        P = self.patch_size
        stride = P if stride is None else stride
        allowed = [s for s in range(1, P + 1) if not P % s]
        if stride not in allowed:
            raise ValueError(f"stride {stride} doesn't fit this CLIP's patches of {P} pixels: use {_one_of(allowed)}.")
        if min(H, W) < P:
            raise ValueError(f"an image of {H} x {W} pixels is smaller than a patch of {P} pixels: enlarge or pad it.")
        return (H - P) // stride + 1, (W - P) // stride + 1

    def patch_features(
        self, images: Tensor, stride: int | None = None, *, last_block: str | None = None, passes: str = "joint"
    ) -> Tensor:
        """f_v: the last layer's patch tokens without the class token; normalised images [B, 3, H, W] -> [B, N, D_v].

        stride: pixels between patches, by default patch_size; tokens lie on the `grid`, N = h * w. Position embeddings
        are resized to other grids than the trained one (`resize_position_embedding`).
        last_block: what to read from the last block, a name of `pacl.clip.baselines.LAST_BLOCKS`; by default
        `self.last_block`.
        passes: how to compute a stride s below patch_size P. "joint": the patch convolution sees overlapping patches,
        and all attend to all (the paper's inference uses 4 with ViT-B/16); takes time quadratic in N. "shifted": the
        plain patch grid on the image shifted by each multiple of s, (P / s)^2 passes, each token from the pass that has
        a patch at its place; takes time linear in the number of passes, and the memory of one pass and the tokens.
        timm's networks can only do these.
        Raises ValueError for shapes, strides and names that don't fit.
        """
        name = self.last_block if last_block is None else last_block
        return self.patch_features_by(images, [name], stride, passes=passes)[name]

    @torch.no_grad()
    def patch_features_by(
        self,
        images: Tensor,
        last_blocks: list[str],
        stride: int | None = None,
        *,
        passes: str = "joint",
        positions: str = "exact",
    ) -> dict[str, Tensor]:
        """`patch_features` of several last blocks, each [B, N, D_v], from one run of the blocks before them.

        positions: see `resize_position_embedding`; timm's networks resize theirs in their own way.
        """
        if passes not in PASSES or positions not in POSITIONS:
            allowed = f"passes must be {_one_of(PASSES)} and positions {_one_of(POSITIONS)}"
            raise ValueError(f"{allowed}, not {passes!r} and {positions!r}.")
        check_last_blocks(self.model.visual, last_blocks)
        images, stride = self._on_device(images), self.patch_size if stride is None else stride
        if self.is_timm and passes == "joint" and stride < self.patch_size:
            raise ValueError(f"this CLIP's network is timm's, which takes a stride of {stride} by shifted passes only.")
        grid = self.grid(*images.shape[2:], stride)
        with self._precision():
            if passes == "shifted":
                return self._shifted_passes(images, stride, grid, last_blocks, positions)
            return self._tokens(images, stride, grid, last_blocks, positions)

    @torch.no_grad()
    def block_features(self, images: Tensor) -> Iterator[Tensor]:
        """The patch tokens that each block leaves, before the final LayerNorm, [B, N, D_v] a block; none for a
        network of timm's.
        """
        if self.is_timm:
            return
        images = self._on_device(images)
        with self._precision():
            x = self._embedded(images, self.patch_size, self.grid(*images.shape[2:]))
            for block in self.model.visual.transformer.resblocks:
                x = whole_block(block, x)
                yield x[:, 1:].float()

    @torch.no_grad()
    def project(self, patch_features: Tensor) -> Tensor:
        """The baseline "CLIP": its own projection of patch tokens into the text space, [B, N, D_v] -> [B, N, D]."""
        visual, patch_features = self.model.visual, patch_features.to(self.device)
        if self.is_timm:
            return visual.head(visual.trunk.head(visual.trunk.fc_norm(patch_features))).float()
        if self.tokens == "before_norm":
            patch_features = visual.ln_post(patch_features)
        return (patch_features @ visual.proj).float()

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Whole images [B, 3, image_size, image_size], as `preprocess` makes them -> embeddings [B, D] of length 1.

        Raises ValueError for images of another size.
        """
        images = self._on_device(images)
        if images.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images must be {self.image_size} x {self.image_size} pixels, not {list(images.shape[2:])}."
            )
        with self._precision():
            return F.normalize(self.model.encode_image(images).float(), dim=-1)

    @torch.no_grad()
    def image_and_patch_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`image_features` [B, D] and `patch_features` [B, N, D_v], from one run of the blocks before the last."""
        if self.is_timm:
            return self.image_features(images), self.patch_features(images)
        images, names = self._on_device(images), dict.fromkeys(("clip", self.last_block))
        with self._precision():
            whole = self._with_class_token(images, self.patch_size, self.grid(*images.shape[2:]), list(names))
            class_token = self.model.visual.ln_post(whole["clip"][:, 0].float())
            features = F.normalize((class_token @ self.model.visual.proj).float(), dim=-1)
            return features, self._norm(whole[self.last_block][:, 1:].float())

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """f_t: K prompts -> embeddings [K, D] of length 1. Prompts longer than CLIP's context are truncated."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            return torch.zeros(0, self.dim, device=self.device)
        tokens = self.tokenizer(prompts)
        order = tokens.argmax(-1).argsort(stable=True)  # prompts of similar length in one batch
        with self._precision():
            parts = [encode_text(self.model, part.to(self.device)) for part in tokens[order].split(PROMPTS_AT_ONCE)]
        return F.normalize(torch.cat(parts)[order.argsort()], dim=-1)

    def _shifted_passes(
        self, images: Tensor, stride: int, grid: tuple[int, int], last_blocks: list[str], positions: str
    ) -> dict[str, Tensor]:
        """Token i of a side lies at pixel i * stride, where pass i modulo P / stride has a patch."""
        every, shape = self.patch_size // stride, (len(images), *grid, self.width)
        tokens = {name: torch.empty(shape, device=self.device) for name in last_blocks}
        for row, column in product(range(min(every, grid[0])), range(min(every, grid[1]))):
            shifted = images[..., row * stride :, column * stride :]
            part = self.grid(*shifted.shape[2:])
            for name, x in self._tokens(shifted, self.patch_size, part, last_blocks, positions).items():
                tokens[name][:, row::every, column::every] = x.unflatten(1, part)
        return {name: x.flatten(1, 2) for name, x in tokens.items()}

    def _tokens(
        self, images: Tensor, stride: int, grid: tuple[int, int], last_blocks: list[str], positions: str
    ) -> dict[str, Tensor]:
        if self.is_timm:
            trunk, (H, W) = self.model.visual.trunk, (side * self.patch_size for side in grid)
            x = trunk.forward_features(images[..., :H, :W])  # with class token and registers
            return dict.fromkeys(last_blocks, x[:, trunk.num_prefix_tokens :].float())
        whole = self._with_class_token(images, stride, grid, last_blocks, positions)
        return {name: self._norm(x[:, 1:].float()) for name, x in whole.items()}

    def _with_class_token(
        self, images: Tensor, stride: int, grid: tuple[int, int], last_blocks: list[str], positions: str = "exact"
    ) -> dict[str, Tensor]:
        """open_clip's transformer, except for the stride, the position embeddings and the last block: that block's
        outputs [B, 1 + N, D_v] before the final LayerNorm.
        """
        *blocks, last = self.model.visual.transformer.resblocks
        x = self._embedded(images, stride, grid, positions)
        for block in blocks:
            x = whole_block(block, x)
        return {name: LAST_BLOCKS[name](last, x, grid) for name in last_blocks}

    def _embedded(self, images: Tensor, stride: int, grid: tuple[int, int], positions: str = "exact") -> Tensor:
        """What the first block reads, [B, 1 + N, D_v]."""
        visual = self.model.visual
        x = F.conv2d(images, visual.conv1.weight, visual.conv1.bias, stride=stride)  # [B, D_v, h, w]
        x = x.flatten(2).transpose(1, 2).float()  # [B, N, D_v]; float32 from here on, except for autocast's operations
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        place = resize_position_embedding(visual.positional_embedding, visual.grid_size, grid, positions)
        return visual.ln_pre(x + place)

    def _norm(self, x: Tensor) -> Tensor:
        return x if self.tokens == "before_norm" else self.model.visual.ln_post(x).float()

    def _precision(self):
        return autocast(self.device.type, self.dtype)

    def _on_device(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images must be normalised floats [B, 3, H, W], not {images.dtype} {list(images.shape)}.")
        return images.to(self.device)


def load_clip(
    name: str,
    pretrained: str | os.PathLike,
    *,
    tokens: str = "after_norm",
    device: str | torch.device | None = None,
    dtype: str = "float32",
    untrained: bool = False,
) -> FrozenCLIP:
    """A frozen CLIP.

    name: an open_clip model name ("ViT-B-16"); only a label if pretrained is a folder.
    pretrained: an open_clip tag ("openai"), searched in the caches before any network; a local file (safetensors, a
        state dict, OpenAI's .pt); a folder with open_clip_config.json, weights and, for a vocabulary of its own,
        bpe.txt.gz; or "random", weights of seed 0. OpenAI's weights get the QuickGELU they were trained with.
    tokens: what `patch_features` returns: "after_norm" (the last block's output after CLIP's final LayerNorm),
        "before_norm" (without; the paper doesn't say which), or "value" (MaskCLIP's values after that LayerNorm).
    device: by default a GPU if there is one.
    dtype: "float32", or "bfloat16" for autocast where the device supports it (pacl.runtime.precision).
    Raises FileNotFoundError for missing weights, ValueError for names and models it can't use.
    """
    if tokens not in TOKENS or dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"tokens must be {_one_of(TOKENS)} and dtype float32 or bfloat16, not {tokens!r} and {dtype!r}."
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model, tokenizer, config = open_clip_model(name, str(pretrained), untrained=untrained)
    called, dim = f"{name} {pretrained}", config["embed_dim"]
    clip = FrozenCLIP(model, tokenizer, dim, name=called, tokens=tokens, device=device, dtype=dtype)
    clip.random_weights = untrained or str(pretrained) == "random"
    if clip.is_timm:
        model.visual.trunk = of_any_size(model.visual, config["vision_cfg"]["timm_model_name"]).to(device)
    return clip


def load_clip_of(model: Model, **changes) -> FrozenCLIP:
    """The frozen CLIP of a profile's section `model`, which embeds the classes once for all stages. changes: arguments
    of `load_clip` to set or to override.
    """
    settings = {"tokens": model.tokens, "dtype": model.dtype} | changes
    clip = load_clip(model.backbone, model.pretrained, **settings)
    clip.kept_texts = project_root() / "data/texts"
    return clip


def encode_text(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """open_clip's encode_text [K, context] -> [K, D], computed only up to the longest prompt's end token, CLIP's
    highest: causal attention hides the padding behind it.
    """
    plain = getattr(model, "text_pool_type", "") == "argmax" and isinstance(model.text_projection, Tensor)
    if not plain or model.attn_mask is None:
        return model.encode_text(tokens).float()
    ends = tokens.argmax(-1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    return (model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection).float()


def resize_position_embedding(
    embedding: Tensor, trained: tuple[int, int], grid: tuple[int, int], positions: str = "exact"
) -> Tensor:
    """Resizes position embeddings bicubically, except the class token's, the first: [1 + h0 * w0, D_v] -> [1 + h * w,
    D_v].

    positions: "exact" maps the trained grid's edges onto the new one's, as TCL's code does; "scaled" enlarges by
    (h + 0.1) / h0 and (w + 0.1) / w0, as SCLIP's and NACLIP's code does: its edges lie up to a tenth of a patch off.
    """
    if tuple(trained) == tuple(grid):
        return embedding
    patches = embedding[1:].T.reshape(1, -1, *trained).float()  # [1, D_v, h0, w0]
    factors = [(new + 0.1) / old for new, old in zip(grid, trained, strict=True)]
    to = {"size": grid} if positions == "exact" else {"scale_factor": factors, "recompute_scale_factor": False}
    patches = F.interpolate(patches, mode="bicubic", antialias=False, **to)
    return torch.cat([embedding[:1], patches[0].flatten(1).T.to(embedding.dtype)])


def of_any_size(visual: torch.nn.Module, name: str) -> torch.nn.Module:
    """A timm ViT again, as timm makes it for images of any size (`dynamic_img_size`, which open_clip doesn't pass on):
    it resizes its position embeddings, or computes rotary ones, for the patches of each image.
    """
    old, projects = visual.trunk, len(visual.head) == 0
    pooling = {"num_classes": old.num_classes, "global_pool": old.global_pool} if projects else {}
    trunk = timm.create_model(name, dynamic_img_size=True, **pooling)
    if not projects:
        trunk.reset_classifier(0, global_pool=old.global_pool)
    trunk.load_state_dict(old.state_dict())
    return trunk.eval().requires_grad_(False)


def _check_supported(visual: torch.nn.Module, tokens: str) -> None:
    """Raises ValueError that says why a network gives no patch tokens in the text space."""
    why = _why_not(visual) if isinstance(visual, VisionTransformer) else _why_not_timm(visual, tokens)
    if why:
        raise ValueError(f"this CLIP {why}: use a ViT that projects its class token, such as ViT-B-16.")
    if tokens == "value":
        check_last_blocks(visual, ["maskclip"])


def _why_not(visual: VisionTransformer) -> str:
    """Why a ViT of open_clip's can't be used, "" if it can."""
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return "pools its patches into the image's embedding, and nothing projects a single patch into the text space"
    if any(height != width for height, width in (visual.image_size, visual.patch_size)):
        return "has images or patches that aren't square"
    return ""


def _why_not_timm(visual: torch.nn.Module, tokens: str) -> str:
    """Why a network that isn't open_clip's ViT can't be used, "" if it can."""
    trunk = getattr(visual, "trunk", None)
    if type(getattr(trunk, "patch_embed", None)).__name__ != "PatchEmbed":  # one convolution, a grid of patches
        return "doesn't see its images as a grid of patches, but through a convolutional network"
    if getattr(trunk, "attn_pool", None) is not None:
        return (
            "has no class token of its own (SigLIP's network has none): attention pooling makes the image's embedding, "
            "and nothing projects a single patch into the text space"
        )
    return "" if tokens == "after_norm" else f"is a network of timm's, which gives after_norm, but not {tokens}"


def _one_of(choices: Iterable) -> str:
    return " or ".join(", ".join(map(str, choices)).rsplit(", ", 1))
