"""Small real FLUX models on the host's own classes, and sampling through the host's own nodes."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.supported_models
import nodes
import torch
from safetensors.torch import load_file
from torch import Tensor

from bokeh.host import FLUX_FIELDS

# Rows of a random weight; what has more repeats them, because drawing millions takes seconds.
DRAWN = 1024
GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden"


def build_flux(
    sizes: dict, state: dict[str, Tensor] | None = None, dtype=torch.float32, seed: int = 0, concat_channels: int = 0
):
    """A MODEL of these sizes (names as in the golden cases' ``flux``), with given or random weights.

    ``concat_channels`` are what a variant takes beside the latent: 16 as Depth and Canny, 80 as Fill.
    """
    config = comfy.supported_models.Flux(
        {
            "image_model": "flux",
            "in_channels": sizes["in_channels"] // 4 + concat_channels,
            "out_channels": sizes["in_channels"] // 4,
            "patch_size": 2,
            "vec_in_dim": sizes["pooled_projection_dim"],
            "context_in_dim": sizes["joint_attention_dim"],
            "hidden_size": sizes["num_attention_heads"] * sizes["attention_head_dim"],
            "mlp_ratio": 4.0,
            "num_heads": sizes["num_attention_heads"],
            "depth": sizes["num_layers"],
            "depth_single_blocks": sizes["num_single_layers"],
            "axes_dim": sizes["axes_dims_rope"],
            "theta": 10000,
            "qkv_bias": True,
            "guidance_embed": sizes["guidance_embeds"],
            "dtype": dtype,
            **FLUX_FIELDS,
        }
    )
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    if state is None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.diffusion_model.state_dict().items():
            noise = torch.randn((min(len(weight), DRAWN), *weight.shape[1:]), generator=generator)
            if name.endswith(("norm.scale", "norm.weight")):
                noise = 1 + 0.1 * noise
            else:
                noise = noise * 0.5 / weight.shape[-1] ** 0.5
            for rows in weight.split(DRAWN):
                rows.copy_(noise[: len(rows)])
    else:
        # Hosts that rename weights (the q/k norms' `scale`) do it here, for every file they load.
        state = config.process_unet_state_dict(dict(state))
        missing, unexpected = model.diffusion_model.load_state_dict(state, strict=False)
        assert not missing, missing
        assert not unexpected, unexpected
    return patcher_of(model)


def patcher_of(model) -> comfy.model_patcher.ModelPatcher:
    """A network as the host's MODEL."""
    model.eval()
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def build_controlnet(golden: Golden, size: int = 64) -> comfy.controlnet.ControlNet:
    """A ControlNet with random weights for a golden case's model, with a hint of ``size`` px a side."""
    sizes = golden.case["flux"]
    network = comfy.ldm.flux.controlnet.ControlNetFlux(
        operations=comfy.ops.manual_cast,
        dtype=torch.float32,
        in_channels=16,
        out_channels=16,
        vec_in_dim=sizes["pooled_projection_dim"],
        context_in_dim=sizes["joint_attention_dim"],
        hidden_size=sizes["num_attention_heads"] * sizes["attention_head_dim"],
        mlp_ratio=4.0,
        num_heads=sizes["num_attention_heads"],
        depth=1,
        depth_single_blocks=1,
        axes_dim=sizes["axes_dims_rope"],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
        **FLUX_FIELDS,
    )
    network.main_model_double, network.main_model_single = 2, 3
    generator = torch.Generator().manual_seed(2)
    for weight in network.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    control = comfy.controlnet.ControlNet(
        network,
        load_device=comfy.model_management.get_torch_device(),
        manual_cast_dtype=None,
        extra_conds=["y", "guidance"],
    )
    control.set_cond_hint(torch.rand(1, 3, size, size, generator=generator), 1.0, (0.0, 1.0))
    return control


class Golden:
    """One golden case: the model, its inputs and what the authors' code computed."""

    def __init__(self, name: str):
        self.folder = GOLDEN / name
        self.case = json.loads((self.folder / "case.json").read_text())
        self.expected = load_file(self.folder / "expected.safetensors")
        self.model = build_flux(self.case["flux"], load_file(self.folder / "flux.safetensors"))

    def positive(self, guidance: float | None = None, **extra) -> list:
        guidance = self.case["guidance"] if guidance is None else guidance
        return conditioning(self.expected["txt"], self.expected["pooled"], guidance, **extra)

    def negative(self) -> list:
        return conditioning(self.expected["neg_txt"], self.expected["neg_pooled"], 1.0)

    def latent(self) -> dict:
        return {"samples": torch.zeros_like(self.expected["noise"])}


def conditioning(tokens: Tensor, pooled: Tensor, guidance: float = 3.0, **extra) -> list:
    return [[tokens, {"pooled_output": pooled, "guidance": guidance, **extra}]]


def run_node(name: str, /, **inputs) -> tuple:
    """Execute a node as the host does and return its outputs."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    if hasattr(node, "define_schema"):
        result = node.EXECUTE_NORMALIZED(**inputs)
        return result.result if result.result is not None else ()
    return getattr(node(), node.FUNCTION)(**inputs)


class Noise:
    """A NOISE for SamplerCustomAdvanced that hands out a given tensor for every row."""

    seed = 0

    def __init__(self, noise: Tensor):
        self.noise = noise

    def generate_noise(self, latent: dict) -> Tensor:
        return self.noise.expand_as(latent["samples"]).clone()


def sample(model, positive, latent, sigmas, *, noise, negative=None, cfg=1.0, sampler="euler", guider=None) -> Tensor:
    """Sample with the host's own guider and sampler nodes, or with what ``guider`` makes of the model; returns latents
    in the model's own scale."""
    if guider is not None:
        guider = guider(model)
    elif negative is None:
        guider = _custom("BasicGuider", model=model, conditioning=positive)
    else:
        guider = _custom("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
    (out, _) = _custom(
        "SamplerCustomAdvanced",
        noise=Noise(noise),
        guider=guider,
        sampler=comfy.samplers.sampler_object(sampler),
        sigmas=sigmas,
        latent_image=latent,
    )[:2]
    return model.model.process_latent_in(out["samples"])


def _custom(name: str, **inputs):
    result = run_node(name, **inputs)
    return result[0] if len(result) == 1 else result


def relative_error(ours: Tensor, expected: Tensor) -> float:
    ours, expected = ours.cpu(), expected.cpu()
    return float(torch.linalg.vector_norm(ours - expected) / torch.linalg.vector_norm(expected))
