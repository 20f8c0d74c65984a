"""What Genfocus' conditions cost; a part of ``benchmark``, for ``python tools/benchmark.py --parts genfocus``."""

from __future__ import annotations

import argparse
import time
from typing import Any


def genfocus(sizes: dict, options: argparse.Namespace, memory: type) -> None:
    """A step with two conditions and a LoRA of rank 64 on them, beside the plain batch of as many rows, by turns; on a
    GPU the same in tiles.

    Args:
        sizes: of the model, as the tests' ``build_flux`` takes them.
        memory: ``PeakMemory`` of ``benchmark``.
    """
    import torch
    from flux import build_flux, conditioning, sample

    from bokeh.attention.conditions import Conditions
    from bokeh.attention.genfocus import install_conditions
    from bokeh.attention.lora import read_pieces
    from bokeh.training.conditions import new_conditions

    on_gpu = torch.cuda.is_available()
    model = build_flux(sizes, dtype=torch.bfloat16 if on_gpu else torch.float32)
    lora = new_conditions(model, 64, 0)
    pieces, _ = read_pieces(lora.tensors, model, lora.source)
    positive = conditioning(torch.randn(1, 512, sizes["joint_attention_dim"]), torch.randn(1, 64))
    sigmas = torch.linspace(1, 0, options.steps + 1)
    width = sizes["attention_head_dim"] * sizes["num_attention_heads"]
    blocks = f"{sizes['num_layers']} + {sizes['num_single_layers']} blocks"
    print(f"\nGenfocus, width {width}, {blocks}, LoRA of rank 64, 512 tokens of text, {model.model.get_dtype()}")
    print(f"{options.steps} steps, best of {options.repeats}")

    def run(conditioned: bool, side: int, tiled: bool = False) -> tuple[float, Any]:
        noise, used, rows = torch.randn(1, 16, side, side), model, 3
        if conditioned:
            conditions = Conditions((noise, noise), ((0, 0),) * 2, tiled=tiled)
            used, rows = install_conditions(model, pieces, conditions), 1
        with memory() as peak:
            started = time.perf_counter()
            sample(used, positive, {"samples": torch.zeros(rows, 16, side, side)}, sigmas, noise=noise)
            if on_gpu:
                torch.cuda.synchronize()
            return time.perf_counter() - started, peak

    # Weights are loaded, and threads are there.
    run(False, 8)
    run(True, 8)
    for size in (512, 1024):
        kinds = {"plain batch of three": (False, False), "two conditions": (True, False)}
        if size > 512 and on_gpu:
            kinds["two conditions, in tiles"] = (True, True)
        found: dict[str, list[tuple[float, Any]]] = {name: [] for name in kinds}
        for _ in range(options.repeats):
            for name, (conditioned, tiled) in kinds.items():
                found[name].append(run(conditioned, size // 8, tiled))
        plain = min(seconds for seconds, _ in found["plain batch of three"])
        for name, runs in found.items():
            seconds, peak = min(one for one, _ in runs), max(used.peak for _, used in runs)
            line = f"  {size} px, {name:26} {seconds:8.2f} s, {seconds / plain:.3f}   peak {peak / 2**20:7.0f} MB"
            print(line, flush=True)
