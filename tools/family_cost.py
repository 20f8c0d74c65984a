"""What a sweep on other models than FLUX costs, for `benchmark.py`; torch is imported in its environment alone."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial

# A FLUX with few text channels.
FLUX_KIND = {
    "in_channels": 64,
    "joint_attention_dim": 256,
    "pooled_projection_dim": 64,
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}


def families(options: argparse.Namespace) -> None:
    """Six pictures of one scene beside a plain batch of six: grounded by an adapter of rank 64 in two blocks of SDXL's
    kind at width 1280 and of Z-Image's at 1536, and by a LoRA of rank 16 on every linear layer of two blocks of FLUX's;
    1,024 tokens of the picture each, float32."""
    import torch
    from families import random_adapter, z_image
    from flux import build_flux, sample
    from unet import build_unet

    from bokeh.attention.install import install
    from bokeh.attention.lora import Piece, install_lora
    from bokeh.attention.rows import Pivot, Plan

    blurs = (0.0, 4.0, 8.0, 15.0, 22.0, 30.0)

    def grounded(model):
        adapter = random_adapter(model, rank=64, context=768, hidden=64)
        return install(model, adapter, Plan(blurs, Pivot(15.0, 1.0), one_scene=True))

    def with_lora(model):
        layers = model.model.diffusion_model.named_modules()
        pieces = [
            Piece(name, torch.randn(16, layer.in_features), torch.randn(layer.out_features, 16), None)
            for name, layer in layers
            if isinstance(layer, torch.nn.Linear)
        ]
        return install_lora(install(model, None, Plan(blurs, None, one_scene=True)), pieces, 0.1, 1.0)

    def sdxl():
        one_level = {"model_channels": 1280, "channel_mult": [1], "num_res_blocks": [0]}
        blocks = {"transformer_depth": [], "transformer_depth_output": [0], "transformer_depth_middle": 2}
        heads = {"num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True, "context_dim": 2048}
        return build_unet(**one_level, **blocks, **heads)

    wide = z_image(
        dim=1536,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=12,
        n_kv_heads=12,
        cap_feat_dim=256,
        axes_dims=[32, 48, 48],
        axes_lens=[1536, 512, 512],
        pad_tokens_multiple=32,
    )
    two_blocks = FLUX_KIND | {"num_attention_heads": 12, "num_layers": 1, "num_single_layers": 1}
    noise_levels, flow_levels = torch.linspace(14, 0, options.steps + 1), torch.linspace(1, 0, options.steps + 1)
    kinds = {
        "SDXL, grounded sweep": (sdxl, grounded, (4, 32, 32), (77, 2048), noise_levels),
        "Z-Image, grounded sweep": (wide, grounded, (16, 64, 64), (64, 256), flow_levels),
        "FLUX, Bokeh LoRA": (lambda: build_flux(two_blocks), with_lora, (16, 64, 64), (64, 256), flow_levels),
    }
    print(f"\nbeside a plain batch of six; {options.steps} steps, best of {options.repeats}")
    for name, (build, put, shape, text, sigmas) in kinds.items():
        model = build()
        prompt = [[torch.randn(1, *text), {"pooled_output": torch.randn(1, 64), "guidance": 3.0}]]
        noise, latent = torch.randn(1, *shape), {"samples": torch.zeros(6, *shape)}
        jobs = [partial(sample, patched, prompt, latent, sigmas, noise=noise) for patched in (model, put(model))]
        plain, sweep = side_by_side(jobs, options.repeats)
        print(f"  {name:24} {sweep / plain:.3f} ({plain:.2f} s plain)", flush=True)
        del model, jobs
        gc.collect()


def side_by_side(jobs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of the fastest of each job's rounds, the jobs by turns; the first round loads weights and is not one."""
    best = [float("inf")] * len(jobs)
    for round_number in range(repeats + 1):
        for number, job in enumerate(jobs):
            started = time.perf_counter()
            job()
            if round_number:
                best[number] = min(best[number], time.perf_counter() - started)
    return best
