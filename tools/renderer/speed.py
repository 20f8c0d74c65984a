"""What the depth renderer costs: beside Fourier transforms of the same picture, and as the picture grows."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmark import PeakMemory
from torch import Tensor

from ...optics.render import render_depth

# The longer side that discs of 30 px fill a picture of 1024 px up to.
PADDED = 1085


def speed(device: str) -> None:
    """Print times beside ten FFT convolutions of the same four-channel picture, without and with the layers behind
    near things."""
    image, depths = _scenes(1024, 1024, device)
    light = torch.cat([image[0].movedim(-1, 0), torch.ones(1, 1024, 1024, device=device)])
    disc = torch.fft.rfft2(torch.rand(PADDED, PADDED, device=device))

    def ten_convolutions() -> None:
        for _ in range(10):
            torch.fft.irfft2(torch.fft.rfft2(light, s=(PADDED, PADDED)) * disc, s=(PADDED, PADDED))

    ten_convolutions()
    ten = min(_seconds(ten_convolutions, device) for _ in range(3))
    print(f"\ndepth renderer, {device}, blur 30; ten FFT convolutions of 1024 x 1024: {ten:.2f} s")
    for name, depth in depths.items():
        for title, behind in (("", False), (", with layers", True)):
            ours = _seconds(lambda depth=depth, behind=behind: _render(image, depth, behind), device)
            print(f"  {name + title:34} {ours:8.2f} s   {ours / ten:.2f} times that", flush=True)


def growth(device: str) -> None:
    """Print time, memory and the longest silence of pictures from 1 to 24 megapixels, with the layers."""
    print(f"\ndepth renderer, {device}, blur 30, with layers")
    small = None
    for height, width in ((1024, 1024), (2048, 2048), (4000, 6000)):
        image, depths = _scenes(height, width, device)
        silence = Silence()
        with PeakMemory(device) as memory:
            ours = _seconds(lambda: _render(image, depths["64 flat things"], True, silence), device)  # noqa: B023
        each = ours / (height * width)
        small = small or each
        print(
            f"  {height} x {width}: {ours:.1f} s, {each / small:.2f} times as long for each pixel, "
            f"{memory.peak / 2**20:.0f} MB, told at least every {silence.longest:.2f} s",
            flush=True,
        )


class Silence:
    """The longest time between two reports of progress, in s."""

    def __init__(self) -> None:
        self.last, self.longest = time.perf_counter(), 0.0

    def __call__(self, done: int, parts: int) -> None:
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now


def _render(image: Tensor, depth: Tensor, behind: bool, on_part: Callable[[int, int], None] | None = None) -> Tensor:
    # Focused at 0.5, a disparity of 0 or 1 has a radius of 30 px at 1024 px.
    return render_depth(image, depth, 0.5, 30.0, behind=behind, on_part=on_part)


def _seconds(job: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _scenes(height: int, width: int, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, height, width, 3, generator=rng).to(device)
    ramp = torch.linspace(0, 1, width, device=device).expand(1, height, width)
    coarse = torch.rand(1, 1, 8, 8, generator=rng).to(device)
    things = F.interpolate(coarse, size=(height, width))[0]
    hills = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1)
    return image, {"slope": ramp, "64 flat things": things, "hills": hills}
