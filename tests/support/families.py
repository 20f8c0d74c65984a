"""One tiny random model of every family, on the host's own classes, and adapters for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models as supported
import torch
from comfy.ldm.chroma.model import ChromaParams
from flux import build_flux, patcher_of, sample
from unet import build_unet

from bokeh.attention.install import network_places
from bokeh.host import FLUX_FIELDS
from bokeh.weights.format import Adapter, build_adapter

CONTEXT = 24
FLOW_SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
NOISE_SIGMAS = torch.tensor([10.0, 5.0, 2.0, 0.5, 0.0])


@dataclass(frozen=True)
class Kind:
    """A family's tiny model.

    Attributes:
        build: makes the MODEL. shape: of its latent, channels first.
        extras: widths of what its prompts carry besides tokens.
        calls: for each attention call of the network, in order, its place; None for calls to be left alone.
        projections: for each place the modules whose outputs hold its queries and keys, with their first columns.
    """

    build: Callable
    shape: tuple[int, ...]
    calls: list[int | None]
    projections: list[tuple[str, int, str, int]]
    extras: dict[str, int] = field(default_factory=dict)
    sigmas: torch.Tensor = field(default_factory=lambda: FLOW_SIGMAS)
    width: int = CONTEXT


def _fill(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.diffusion_model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        if ("norm" in name or "ln_" in name) and weight.ndim == 1:
            # Krea 2 stores the scales of its norms less 1.
            weight.copy_(0.1 * noise + (0.0 if model.__class__.__name__ == "Krea2" else 1.0))
        else:
            weight.copy_(noise * 1.5 / weight[0].numel() ** 0.5)


def dit(kind: str, **config) -> Callable:
    def build(seed: int = 0):
        settings = getattr(supported, kind)(config | {"dtype": torch.float32})
        settings.set_inference_dtype(torch.float32, None)
        model = settings.get_model({}, device=comfy.model_management.unet_offload_device())
        _fill(model, seed)
        return patcher_of(model)

    return build


def build_sdxl(seed: int = 0):
    return build_unet(
        seed,
        kind=supported.SDXL,
        transformer_depth=[0, 2],
        transformer_depth_output=[0, 0, 2, 2],
        transformer_depth_middle=3,
        use_linear_in_transformer=True,
        num_head_channels=16,
        num_heads=-1,
        adm_in_channels=2816,
        num_classes="sequential",
    )


def _attn1(names: list[str]) -> list[tuple[str, int, str, int]]:
    return [(f"{name}.to_q", 0, f"{name}.to_k", 0) for name in names]


_SD15 = [
    f"{block}.transformer_blocks.0.attn1"
    for block in (
        "input_blocks.1.1",
        "input_blocks.3.1",
        "middle_block.1",
        "output_blocks.0.1",
        "output_blocks.1.1",
        "output_blocks.2.1",
        "output_blocks.3.1",
    )
]
_SDXL = [
    f"{block}.transformer_blocks.{number}.attn1"
    for block, depth in (
        ("input_blocks.3.1", 2),
        ("middle_block.1", 3),
        ("output_blocks.0.1", 2),
        ("output_blocks.1.1", 2),
    )
    for number in range(depth)
]


def _alternating(count: int) -> list[int | None]:
    """Self-attention and cross-attention in turn."""
    return [place for number in range(count) for place in (number, None)]


_FLUX_SIZES = {
    "in_channels": 64,
    "pooled_projection_dim": 16,
    "joint_attention_dim": CONTEXT,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "axes_dims_rope": [4, 6, 6],
    "guidance_embeds": True,
}


def build_flux1(seed: int = 0):
    model = build_flux(_FLUX_SIZES)
    _fill(model.model, seed)
    return model


def _fused(names: list[str], keys: int) -> list[tuple[str, int, str, int]]:
    return [(name, 0, name, keys) for name in names]


# Of a FLUX and of the models built like one.
_FLUX_BLOCKS = {"num_heads": 2, "depth": 2, "depth_single_blocks": 3}
_FLUX_PROJECTIONS = _fused(
    [f"double_blocks.{i}.img_attn.qkv" for i in range(2)] + [f"single_blocks.{i}.linear1" for i in range(3)], 32
)


def z_image(**sizes) -> Callable:
    """A model of Z-Image's kind."""
    return dit(
        "ZImage",
        image_model="lumina2",
        patch_size=2,
        in_channels=16,
        qk_norm=True,
        rope_theta=256.0,
        ffn_dim_multiplier=4.0,
        z_image_modulation=True,
        time_scale=1000.0,
        **sizes,
    )


# Fields that newer hosts require and older ones do not know.
_CHROMA_FIELDS = FLUX_FIELDS | ({"vec_in_dim": None} if "vec_in_dim" in ChromaParams.__dataclass_fields__ else {})

KINDS = {
    "sd15": Kind(build_unet, (4, 16, 16), _alternating(7), _attn1(_SD15), sigmas=NOISE_SIGMAS),
    "sdxl": Kind(build_sdxl, (4, 16, 16), _alternating(9), _attn1(_SDXL), {"pooled_output": 1280}, sigmas=NOISE_SIGMAS),
    # Medium: the first block has a second attention, of the picture alone.
    "sd3.5": Kind(
        dit(
            "SD3",
            in_channels=16,
            patch_size=2,
            depth=2,
            adm_in_channels=2048,
            input_size=None,
            num_patches=64,
            pos_embed_max_size=8,
            pos_embed_scaling_factor=None,
            qk_norm="rms",
            x_block_self_attn_layers=[0],
            context_embedder_config={
                "target": "torch.nn.Linear",
                "params": {"in_features": CONTEXT, "out_features": 128},
            },
        ),
        (16, 8, 8),
        [0, 1, 2],
        _fused([f"joint_blocks.{name}.qkv" for name in ("0.x_block.attn", "0.x_block.attn2", "1.x_block.attn")], 128),
        {"pooled_output": 2048},
    ),
    "qwen-image": Kind(
        dit(
            "QwenImage",
            image_model="qwen_image",
            in_channels=64,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=CONTEXT,
            axes_dims_rope=(4, 6, 6),
        ),
        (16, 1, 8, 8),
        [0, 1, 2],
        [(f"transformer_blocks.{i}.attn.to_q", 0, f"transformer_blocks.{i}.attn.to_k", 0) for i in range(3)],
    ),
    # Two refiners of the picture and two of the prompt run first.
    "z-image": Kind(
        z_image(
            dim=256,
            n_layers=3,
            n_refiner_layers=2,
            n_heads=8,
            n_kv_heads=8,
            cap_feat_dim=CONTEXT,
            axes_dims=[8, 12, 12],
            axes_lens=[64, 64, 64],
            pad_tokens_multiple=4,
        ),
        (16, 8, 8),
        [None] * 4 + [0, 1, 2],
        _fused([f"layers.{i}.attention.qkv" for i in range(3)], 256),
    ),
    "flux.2": Kind(
        dit(
            "Flux2",
            image_model="flux2",
            in_channels=128,
            out_channels=128,
            patch_size=1,
            vec_in_dim=None,
            context_in_dim=CONTEXT,
            hidden_size=32,
            mlp_ratio=3.0,
            **_FLUX_BLOCKS,
            axes_dim=[4, 4, 4, 4],
            theta=2000,
            qkv_bias=False,
            guidance_embed=True,
            global_modulation=True,
            mlp_silu_act=True,
            ops_bias=False,
            default_ref_method="index",
            ref_index_scale=10.0,
            **FLUX_FIELDS,
        ),
        (128, 8, 8),
        list(range(5)),
        _FLUX_PROJECTIONS,
        {"pooled_output": 16},
    ),
    "chroma": Kind(
        dit(
            "Chroma",
            image_model="chroma",
            in_channels=64,
            out_channels=64,
            patch_size=2,
            context_in_dim=CONTEXT,
            hidden_size=32,
            mlp_ratio=3.0,
            **_FLUX_BLOCKS,
            axes_dim=[4, 6, 6],
            theta=10000,
            qkv_bias=True,
            in_dim=64,
            out_dim=32,
            hidden_dim=48,
            n_layers=2,
            **_CHROMA_FIELDS,
        ),
        (16, 8, 8),
        list(range(5)),
        _FLUX_PROJECTIONS,
        {"pooled_output": 16},
    ),
    "flux": Kind(build_flux1, (16, 8, 8), list(range(5)), _FLUX_PROJECTIONS, {"pooled_output": 16}),
}
if hasattr(supported, "Krea2"):
    KINDS["krea2"] = Kind(
        dit(
            "Krea2",
            image_model="krea2",
            features=64,
            tdim=16,
            txtdim=CONTEXT // 2,
            heads=4,
            kvheads=2,
            multiplier=2,
            layers=3,
            txtlayers=2,
            txtheads=2,
            txtkvheads=2,
        ),
        (16, 1, 8, 8),
        [None] * 4 + [0, 1, 2],
        [(f"blocks.{i}.attn.wq", 0, f"blocks.{i}.attn.wk", 0) for i in range(3)],
    )


# Models whose places no table knows.
UNTABLED = {
    "wan": Kind(
        dit(
            "WAN21_T2V",
            image_model="wan2.1",
            model_type="t2v",
            dim=64,
            ffn_dim=64,
            num_heads=4,
            num_layers=2,
            freq_dim=32,
            text_dim=CONTEXT,
        ),
        (16, 1, 8, 8),
        [0, None, 1, None],
        [],
    ),
}


@dataclass(eq=False)
class Case:
    name: str
    kind: Kind
    model: comfy.model_patcher.ModelPatcher
    noise: torch.Tensor
    positive: list
    negative: list

    def run(self, model, rows: int, cfg: float = 1.0, sampler: str = "euler", positive=None, sigmas=None, guider=None):
        """Pictures [rows, ...] of the sampler's nodes, in the model's own scale; by ``guider``, a function of the
        model, in place of the host's first one."""
        return sample(
            model,
            positive or self.positive,
            {"samples": torch.zeros(rows, *self.kind.shape)},
            self.kind.sigmas if sigmas is None else sigmas,
            noise=self.noise,
            cfg=cfg,
            negative=self.negative,
            sampler=sampler,
            guider=guider,
        )


def prompt_a_row(case: Case, rows: int) -> list:
    """A conditioning with a prompt of its own for every row; the last one is the case's."""
    tokens, extras = case.positive[0]
    generator = torch.Generator().manual_seed(11)
    others = [torch.randn(tokens.shape, generator=generator) for _ in range(rows - 1)]
    return [[torch.cat((*others, tokens)), {name: value.repeat(rows, 1) for name, value in extras.items()}]]


def build_case(name: str) -> Case:
    kind, generator = (KINDS | UNTABLED)[name], torch.Generator().manual_seed(5)

    def prompt() -> list:
        extras = {key: torch.randn(1, width, generator=generator) for key, width in kind.extras.items()}
        return [[torch.randn(1, 7, kind.width, generator=generator), extras]]

    noise = torch.randn(1, *kind.shape, generator=generator)
    return Case(name, kind, kind.build(), noise, prompt(), prompt())


def random_adapter(model, *, scale: float = 1.0, choose=None, q=True, k=True, rank=4, context=12, hidden=8) -> Adapter:
    """An adapter in format 2 for the places ``choose`` of a model (all by default), large enough to change pictures."""
    family, places = network_places(model)
    chosen = [place for number, place in enumerate(places) if choose is None or number in choose]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    tensors = {
        "embedding.0.weight": random(hidden, 1),
        "embedding.0.bias": random(hidden),
        "embedding.2.weight": random(context, hidden),
        "embedding.2.bias": random(context),
    }
    for number, place in enumerate(chosen):
        parts = {"v": (context, place.width)}
        parts |= {"q": (place.q.width,) * 2} if q else {}
        parts |= {"k": (place.k.width,) * 2} if k else {}
        for part, (inputs, outputs) in parts.items():
            tensors[f"blocks.{number}.{part}.down.weight"] = random(rank, inputs)
            tensors[f"blocks.{number}.{part}.up.weight"] = random(outputs, rank) * scale
    settings = {"variant": "text-to-image", "family": family.name, "blocks": [place.name for place in chosen]}
    return build_adapter(tensors, settings, "random")
