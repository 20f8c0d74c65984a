"""What it costs, and how near the depth renderer is to a lens:
`python tools/benchmark.py [--parts NAME ...] [--steps N] [--repeats N]`.

Ratios within one run, on a random FLUX of width 1536 (12 heads of 128), 1 double + 2 single blocks, an adapter of
rank 64, 1,024 image and 64 text tokens, in float32 on a CPU; with an accelerator also at the true width with all
57 blocks in bfloat16. Sets up the host like the other tools, then runs itself inside its environment, where torch
is at hand: apart from the first lines not standard library only.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from family_cost import FLUX_KIND, families, side_by_side

INSIDE = "COMFYUI_BOKEH_BENCHMARK"


def main() -> int:
    """Run inside the host's environment; outside it, set that up and start again there."""
    if os.environ.get(INSIDE):
        return measure()
    from inside import run_inside

    return run_inside(__file__, sys.argv[1:], INSIDE)


class PeakMemory:
    """The most memory in use while a block runs, above what was in use before; bytes. Of the GPU where there is one, or
    of the device that is named."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def __enter__(self) -> PeakMemory:
        import psutil
        import torch

        self.cuda = torch.cuda.is_available() if self.device is None else self.device == "cuda"
        self.peak = 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        self.process = psutil.Process()
        self.before = self.process.memory_info().rss
        self.running = True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss - self.before)
            time.sleep(0.002)

    def __exit__(self, *exc_info: object) -> None:
        import torch

        if self.cuda:
            self.peak = torch.cuda.max_memory_allocated() - self.before
        else:
            self.running = False
            self.thread.join()


def measure() -> int:
    """Print the table; the imports need the host's environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2, help="sampling steps of each run")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the fastest run of each kind counts")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="default: all")
    options = parser.parse_args()
    tests = Path(__file__).resolve().parent.parent / "tests"
    sys.path[:0] = [str(tests), str(tests / "support"), os.environ["COMFYUI_PATH"]]
    from comfy.cli_args import args

    # The attention that the host takes on GPUs; its default on a CPU works in pieces after the free memory.
    args.use_pytorch_cross_attention = True
    import conftest  # noqa: F401 - loads the host and the pack

    for part in options.parts:
        _PARTS[part](options)
    return 0


_FEW_BLOCKS = {"num_layers": 1, "num_single_layers": 2}
_SMALL = FLUX_KIND | {"num_attention_heads": 12} | _FEW_BLOCKS
_FULL = FLUX_KIND | {"num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38}


def flux(options: argparse.Namespace) -> None:
    """Sweeps and training on FLUX."""
    import torch

    compare("width 1536, 1 + 2 blocks, rank 64, float32, 512 px", _SMALL, 64, torch.float32, 512, 64, options)
    if torch.cuda.is_available():
        for size in (512, 1024):
            title = f"width 3072, 19 + 38 blocks, rank 128, bfloat16, {size} px"
            compare(title, _FULL, 128, torch.bfloat16, size, 512, options)
        title = "width 3072, 19 + 38 blocks, rank 128, bfloat16, 512 px"
        training(title, _FULL, 128, torch.bfloat16, 512, 512, options)
    title = "width 1536, 1 + 2 blocks, rank 64, float32, 256 px"
    training(title, _SMALL, 64, torch.float32, 256, 64, options)


def conditions(options: argparse.Namespace) -> None:
    """Genfocus' conditions, at the true width on a CPU too: what attention costs beside all else depends on it."""
    import torch
    from genfocus_cost import genfocus

    two_blocks = {"num_layers": 1, "num_single_layers": 1}
    genfocus(_FULL if torch.cuda.is_available() else _FULL | two_blocks, options, PeakMemory)


def renderer_speed(options: argparse.Namespace) -> None:
    """What the depth renderer costs beside Fourier transforms, on every device there is."""
    from bokeh.tools.renderer import speed

    for device in _devices():
        speed.speed(device)


def renderer_growth(options: argparse.Namespace) -> None:
    """And as the picture grows from 1 to 24 megapixels."""
    from bokeh.tools.renderer import speed

    for device in _devices():
        speed.growth(device)


def _devices() -> tuple[str, ...]:
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def renderer_truth(options: argparse.Namespace) -> None:
    """How near the depth renderer is to what a lens shows, with whole and with small depth maps."""
    from bokeh.tools.renderer import bars

    bars.small_maps()
    bars.to_truth()


def renderer_exact(options: argparse.Namespace) -> None:
    """How near the depth renderer is to the exact one, and to itself at other sizes."""
    from bokeh.tools.renderer import bars

    bars.to_exact()
    bars.at_sizes()


def report_of_200_levels(options: argparse.Namespace) -> None:
    """The whole report, measures and figure, on 200 pictures of 512 x 512 with a mask."""
    import torch

    from bokeh.sweep.figure import draw
    from bokeh.sweep.measure import measure_sweep
    from bokeh.sweep.values import Sweep

    images = torch.rand(8, 512, 512, 3).repeat(25, 1, 1, 1)
    mask = torch.zeros(1, 512, 512)
    mask[:, :, :256] = 1
    sweep = Sweep(tuple(i * 30 / 199 for i in range(200)), pivot=15.0)
    started = time.perf_counter()
    draw(measure_sweep(images, sweep, mask), images)
    print(f"\nreport of 200 levels of 512 x 512: {time.perf_counter() - started:.1f} s")


def stages(options: argparse.Namespace) -> None:
    """Stage diffusion beside plain sampling, on a UNet of the width of SD1.5 with two of its four levels."""
    import torch
    from flux import sample
    from unet import CONTEXT, build_unet

    from bokeh.stages.hooks import install_stages
    from bokeh.stages.prompts import stage_prompt

    model = build_unet(model_channels=320)
    plain, local = ([[torch.randn(1, 77, CONTEXT), {}]] for _ in range(2))
    noise, sigmas = torch.randn(1, 4, 16, 16), torch.linspace(14, 0, 5 * options.steps + 1)
    staged = install_stages(model), stage_prompt(model, plain, local, (0.5,), (0.8,))
    latent = {"samples": torch.zeros_like(noise)}
    jobs = [partial(sample, *run, latent, sigmas, noise=noise) for run in ((model, plain), staged)]
    alone, with_stages = side_by_side(jobs, options.repeats)
    print(f"\nstages / plain sampling, {len(sigmas) - 1} steps: {with_stages / alone:.3f} ({alone:.3f} s plain)")


def load_full_size(options: argparse.Namespace) -> None:
    """From a file of the published size (57 blocks, rank 128, 583 MB) to an adapter ready for a bfloat16 model."""
    import psutil
    import torch
    from adapters import official_tensors, write_official

    from bokeh.attention.module import adapter_patcher
    from bokeh.weights.files import read_adapter

    def anonymous() -> int:
        memory = psutil.Process().memory_info()
        # What is not backed by a file; systems that do not tell give everything.
        return memory.rss - getattr(memory, "shared", 0)

    with tempfile.TemporaryDirectory() as folder:
        path = write_official(Path(folder), official_tensors(3072, list(range(57)), 128, 768, 64))
        gc.collect()
        before = anonymous()
        started = time.perf_counter()
        adapter = read_adapter(path)
        read, read_memory = time.perf_counter() - started, anonymous() - before
        started = time.perf_counter()
        module = adapter_patcher(adapter, torch.bfloat16).model
        made, made_memory = time.perf_counter() - started, anonymous() - before
        kept = sum(weight.nbytes for weight in module.parameters())
        print(f"\nloading a file of {path.stat().st_size / 2**20:.0f} MB")
        print(f"  read and checked    {read:6.2f} s   {read_memory / 2**20:5.0f} MB beyond the mapped file")
        print(f"  ready in bfloat16   {made:6.2f} s   {made_memory / 2**20:5.0f} MB, weights {kept / 2**20:.0f} MB")
        # Windows cannot delete a file that is still mapped.
        del adapter, module
        gc.collect()


def compare(title: str, sizes: dict, rank: int, dtype, size: int, text: int, options: argparse.Namespace) -> None:
    """Time the runs of one model side by side, and print times, ratios and memory."""
    import torch
    from adapters import official_tensors
    from flux import build_flux, conditioning, sample

    from bokeh.attention.install import install
    from bokeh.attention.rows import Pivot, Plan
    from bokeh.weights.format import build_adapter

    model = build_flux(sizes, dtype=dtype)
    width = sizes["attention_head_dim"] * sizes["num_attention_heads"]
    blocks = list(range(sizes["num_layers"] + sizes["num_single_layers"]))
    adapter = build_adapter(official_tensors(width, blocks, rank, 768, 64), None, "random")
    positive = conditioning(torch.randn(1, text, 256), torch.randn(1, 64))
    noise = torch.randn(1, 16, size // 8, size // 8)
    sigmas = torch.linspace(1, 0, options.steps + 1)
    values = (0.0, 4.0, 8.0, 15.0, 22.0, 30.0)

    def run(plan: Plan | None, rows: int) -> Callable[[], object]:
        patched = model if plan is None else install(model, adapter, plan)
        latent = {"samples": torch.zeros(rows, *noise.shape[1:])}
        return lambda: sample(patched, positive, latent, sigmas, noise=noise)

    outside = Pivot(12.0, 1.0)
    pairs = [run(Plan((value,), outside), 1) for value in values]
    runs = {
        "one picture, unpatched": run(None, 1),
        "one picture, slider": run(Plan((20.0,)), 1),
        "batch of six, unpatched": run(None, 6),
        "sweep of six, grounding 0": run(Plan(values, Pivot(15.0, 0.0), one_scene=True), 6),
        "sweep of six, grounding 1": run(Plan(values, Pivot(15.0, 1.0), one_scene=True), 6),
        "sweep of six + pivot row": run(Plan(values, outside, one_scene=True), 6),
        "six runs of target + pivot": lambda: [pair() for pair in pairs],
    }
    best, peak = dict.fromkeys(runs, float("inf")), dict.fromkeys(runs, 0)
    for round_number in range(options.repeats + 1):
        for name, job in runs.items():
            with PeakMemory() as memory:
                started = time.perf_counter()
                job()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - started
            peak[name] = max(peak[name], memory.peak)
            # The first round loads weights.
            if round_number:
                best[name] = min(best[name], seconds)
    print(f"\n{title}; {options.steps} steps, best of {options.repeats}")
    for name in runs:
        print(f"  {name:28} {best[name]:8.3f} s   peak {peak[name] / 2**20:7.0f} MB")
    for over, under in (
        ("one picture, slider", "one picture, unpatched"),
        ("sweep of six, grounding 0", "batch of six, unpatched"),
        ("sweep of six, grounding 1", "batch of six, unpatched"),
        ("sweep of six + pivot row", "six runs of target + pivot"),
    ):
        print(f"  {over} / {under}: {best[over] / best[under]:.3f}")


def training(title: str, sizes: dict, rank: int, dtype, size: int, text: int, options: argparse.Namespace) -> None:
    """Time a training step on four pictures of one scene, grounded, with blocks computed twice and with activations
    kept, and print times, their ratio and, of a GPU, whether and in how much memory it fits."""
    from blobs import Blobs
    from comfy.model_management import OOM_EXCEPTION, soft_empty_cache
    from flux import build_flux

    from bokeh.training.recipe import Recipe
    from bokeh.training.trainer import Trainer

    model = build_flux(sizes, dtype=dtype)
    data = Blobs(singles=False, side=size // 8, tokens=text, sizes=sizes)
    print(f"\ntraining: {title}; batch of 4, best of {options.repeats}")
    best = {}
    for name, checkpointing in (("blocks computed twice", True), ("activations kept", False)):
        recipe = Recipe(
            batch=4, per_scene=4, rank=rank, grouped=1.0, grounded=1.0, held_out_units=1, checkpointing=checkpointing
        )
        ends: list[float] = []
        try:
            with PeakMemory() as memory:
                trainer = Trainer(model, data, recipe)
                # The first step allocates and the last one is measured on held-out pictures: neither counts.
                trainer.run(options.repeats + 2, lambda _, ends=ends: ends.append(time.perf_counter()))
        except OOM_EXCEPTION:
            print(f"  {name:28} does not fit")
            continue
        finally:
            trainer = None
            gc.collect()
            soft_empty_cache()
        best[name] = min(after - before for before, after in pairwise(ends[:-1]))
        # On a CPU the process keeps what the run before it took: its growth says nothing of this one.
        peak = f"   peak {(memory.before + memory.peak) / 2**20:7.0f} MB with the model" if memory.cuda else ""
        print(f"  {name:28} {best[name]:8.3f} s{peak}")
    if len(best) == 2:
        twice, kept = best.values()
        print(f"  blocks computed twice / activations kept: {twice / kept:.3f}")


_PARTS = {
    "flux": flux,
    "families": families,
    "stages": stages,
    "loading": load_full_size,
    "genfocus": conditions,
    "report": report_of_200_levels,
    "renderer": renderer_speed,
    "growth": renderer_growth,
    "truth": renderer_truth,
    "exact": renderer_exact,
}

if __name__ == "__main__":
    sys.exit(main())
