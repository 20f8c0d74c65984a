"""A sweep at FLUX's true width: the host's standard loader takes the file, and the pack what it makes of it."""

from __future__ import annotations

import folder_paths
import torch
from adapters import official_tensors, write_official
from flux import build_flux, conditioning, run_node
from safetensors.torch import save_file
from sampling import ksample

WIDTH, TOKENS, POOLED = 3072, 4096, 768
SIZES = {
    "in_channels": 64,
    "pooled_projection_dim": POOLED,
    "joint_attention_dim": TOKENS,
    "num_attention_heads": 24,
    "attention_head_dim": WIDTH // 24,
    # In place of 19 and 38.
    "num_layers": 1,
    "num_single_layers": 1,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True,
}


def write_flux(path):
    state = build_flux(SIZES, dtype=torch.bfloat16).model.diffusion_model.state_dict()
    # Newer hosts rename the norms of the files that they read.
    save_file({name.replace("_norm.weight", "_norm.scale"): weight for name, weight in state.items()}, path)


def test_a_sweep_at_the_true_width_through_the_standard_loaders(tmp_path, monkeypatch):
    write_flux(tmp_path / "flux.safetensors")
    write_official(tmp_path / "wide", official_tensors(WIDTH, [0, 1], rank=128, context_dim=768, hidden_dim=64))
    for kind in ("diffusion_models", "bokeh_adapters"):
        paths, endings = folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([*paths, str(tmp_path)], endings))
    (model,) = run_node("UNETLoader", unet_name="flux.safetensors", weight_dtype="default")
    assert model.model.diffusion_model.hidden_size == WIDTH
    (adapter,) = run_node("BokehLoadAdapter", adapter="wide/model.safetensors")
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    swept, rows, _ = run_node(
        "BokehSweep", model=model, adapter=adapter, latent=latent, blurs="0, 15, 30", strength=1.0
    )
    generator = torch.Generator().manual_seed(1)
    positive = conditioning(torch.randn(1, 8, TOKENS, generator=generator), torch.zeros(1, POOLED))
    sampled = ksample(swept, positive, rows, steps=2)
    assert sampled.shape == (3, 16, 16, 16)
    assert sampled.isfinite().all()
    assert (sampled[0] - sampled[2]).abs().mean() > 0.005 * sampled.abs().mean()
