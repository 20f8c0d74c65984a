"""Sweeps and ordinary pictures through the host's own sampler nodes, on a golden case's model."""

from __future__ import annotations

import torch
from flux import run_node

from bokeh.attention.rows import Pivot


def swept(golden, adapter, blurs: str, pivot: Pivot | None = None, latent: dict | None = None, model=None):
    return run_node(
        "BokehSweep",
        model=model or golden.model,
        adapter=adapter,
        latent=latent or golden.latent(),
        blurs=blurs,
        strength=1.0,
        pivot=pivot,
    )


def ksample(model, positive, latent, *, negative=None, cfg=1.0, sampler="euler", denoise=1.0, seed=1, steps=4):
    (out,) = run_node(
        "KSampler",
        model=model,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler="simple",
        positive=positive,
        negative=negative or positive,
        latent_image=latent,
        denoise=denoise,
    )
    return out["samples"]


def ksample_part(latent: dict, first: int, last: int, **common) -> dict:
    """Some of the steps: noise is added before step 0 alone, and what is left of it stays unless the last step is."""
    (out,) = run_node(
        "KSamplerAdvanced",
        **common,
        latent_image=latent,
        add_noise="disable" if first else "enable",
        start_at_step=first,
        end_at_step=last,
        return_with_leftover_noise="disable" if last == common["steps"] else "enable",
    )
    return out


def plain(golden, **options) -> torch.Tensor:
    return ksample(golden.model, golden.positive(), golden.latent(), **options)
