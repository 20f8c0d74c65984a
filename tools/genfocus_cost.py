"""What Genfocus' conditions cost; a part of ``benchmark``, for ``python tools/benchmark.py --parts genfocus``."""

from __future__ import annotations

import argparse
import time
from typing import Any


def genfocus(sizes: dict, options: argparse.Namespace, memory: type) -> None:
    """A step with two conditions and a LoRA of rank 64 on them, beside the plain batch of as many rows, and the same in
    tiles; on a FLUX of true width, with one double and two single blocks on a CPU.

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
    print(
        f"\nGenfocus, width 3072, two conditions, 512 tokens of text, {options.steps} steps, best of {options.repeats}"
    )

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
        plain: float | None = None
        kinds = {"plain batch of three": (False, False), "two conditions": (True, False)}
        if size > 512 and on_gpu:
            kinds["two conditions, in tiles"] = (True, True)
        for name, (conditioned, tiled) in kinds.items():
            found = [run(conditioned, size // 8, tiled) for _ in range(options.repeats)]
            seconds, peak = min(one for one, _ in found), max(used.peak for _, used in found)
            plain = plain or seconds
            print(f"  {size} px, {name:26} {seconds:8.2f} s, {seconds / plain:.3f}   peak {peak / 2**20:7.0f} MB")
