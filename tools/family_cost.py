"""What a sweep on other models than FLUX costs, for `benchmark.py`; torch is imported in its environment alone."""

from __future__ import annotations

import argparse
import gc
import time

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
    from families import dit, random_adapter
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

    z_image = dit(
        "ZImage",
        image_model="lumina2",
        patch_size=2,
        in_channels=16,
        dim=1536,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=12,
        n_kv_heads=12,
        qk_norm=True,
        cap_feat_dim=256,
        axes_dims=[32, 48, 48],
        axes_lens=[1536, 512, 512],
        rope_theta=256.0,
        ffn_dim_multiplier=4.0,
        z_image_modulation=True,
        time_scale=1000.0,
        pad_tokens_multiple=32,
    )
    two_blocks = FLUX_KIND | {"num_attention_heads": 12, "num_layers": 1, "num_single_layers": 1}
    noise_levels, flow_levels = torch.linspace(14, 0, options.steps + 1), torch.linspace(1, 0, options.steps + 1)
    kinds = {
        "SDXL, grounded sweep": (sdxl, grounded, (4, 32, 32), (77, 2048), noise_levels),
        "Z-Image, grounded sweep": (z_image, grounded, (16, 64, 64), (64, 256), flow_levels),
        "FLUX, Bokeh LoRA": (lambda: build_flux(two_blocks), with_lora, (16, 64, 64), (64, 256), flow_levels),
    }
    print(f"\nbeside a plain batch of six; {options.steps} steps, best of {options.repeats}")
    for name, (build, put, shape, text, sigmas) in kinds.items():
        model = build()
        prompt = [[torch.randn(1, *text), {"pooled_output": torch.randn(1, 64), "guidance": 3.0}]]
        runs, best = {"plain": model, "sweep": put(model)}, dict.fromkeys(("plain", "sweep"), float("inf"))
        noise, latent = torch.randn(1, *shape), {"samples": torch.zeros(6, *shape)}
        for round_number in range(options.repeats + 1):
            for kind, patched in runs.items():
                started = time.perf_counter()
                sample(patched, prompt, latent, sigmas, noise=noise)
                # The first round loads weights.
                if round_number:
                    best[kind] = min(best[kind], time.perf_counter() - started)
        print(f"  {name:24} {best['sweep'] / best['plain']:.3f} ({best['plain']:.2f} s plain)", flush=True)
        del model, runs, patched
        gc.collect()
