"""How near the depth renderer comes to what a lens shows, to the exact renderer, and to itself at other sizes.

Pictures come from the wheel of scikit-image, which pip fetches once; they, true pictures and those of the exact
renderer are kept in the cache folder, under the code that made them.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from setup.environment import write_atomically
from setup.host import cache_folder
from torch import Tensor

from ...optics.exact import render_exactly
from ...optics.render import render_depth
from ...optics.repair import enlarged, repaired
from . import scenes

WHEEL = "scikit_image-0.16.2-cp38-cp38-manylinux1_x86_64.whl"
WHEEL_SHA256 = "41e28db0136f29ecd305bef0408fdfc64be9d415e54f5099a95555c65f5c1865"
PICTURES = ("astronaut", "brick", "chelsea", "coffee", "gravel", "motorcycle_left", "motorcycle_disp", "rocket")
# Disparity in px to 1/m: (d + offset) / (focal length in px * distance of the two cameras in m).
OFFSET, FOCAL_LENGTH, APART = 31.086, 994.978, 0.193001
# What true pictures are made by.
SCENES_CODE = "tools/renderer/scenes.py", "optics/defocus.py", "optics/light.py"
# How wide a border is looked at, in px.
BORDER = 16


class Case(NamedTuple):
    """A picture [1, H, W, 3], its disparity [1, H, W], and how it is rendered."""

    name: str
    image: Tensor
    disparity: Tensor
    focus: float
    blur: float

    def rendered(self, behind: bool = False) -> Tensor:
        return render_depth(self.image, self.disparity, self.focus, self.blur, behind=behind)

    def exact(self) -> Tensor:
        return _kept(
            f"exact of {self.name}",
            _code("optics/exact.py", "optics/defocus.py", "optics/light.py", "tools/renderer/scenes.py"),
            lambda: render_exactly(self.image, self.disparity, self.focus, self.blur),
        )


def to_truth() -> None:
    """Print PSNR to the truth of six scenes by what is in focus and how blurred, and how far old outlines show: of the
    exact renderer, of ours without and with layers, and of one that is told all but what is hidden."""
    print("\nto what a lens shows, dB, then error gradient on old outlines (of 255):")
    print(f"  {'':26}{'exact':>8}{'levels':>8}{'layers':>8}{'best':>8}")
    every: list[tuple[float, ...]] = []
    outlines: list[tuple[float, ...]] = []
    borders: list[float] = []
    for kind in scenes.FOCI:
        rows, layers = [], scenes.SCENES[kind](scenes.Canvas(pictures()))
        image, disparity = scenes.sharp(layers)
        for focus in scenes.FOCI[kind]:
            for blur in scenes.BLURS:
                case = Case(f"{kind} {focus} {blur}", image, disparity, focus, blur)
                true = _truth(kind, layers, focus, blur)
                best = _kept(
                    f"best of {case.name}",
                    _code(*SCENES_CODE),
                    lambda case=case, layers=layers: scenes.truth(scenes.without_hidden(layers), case.focus, case.blur),
                )
                made = case.exact(), case.rendered(), case.rendered(behind=True), best
                rows.append(tuple(decibels(picture, true) for picture in made))
                borders.append(_border(made[2] - true))
                outline = scenes.outline(disparity[0], focus, blur)
                ghosts = tuple(_gradient(picture - true)[outline].mean().item() for picture in made)
                outlines += [ghosts] if outline.any() else []
                told = "".join(f"{value:8.2f}" for value in rows[-1])
                told += "".join(f"{value:8.2f}" for value in ghosts) if outline.any() else ""
                print(f"  {kind:8} focus {focus:<5g} blur {blur:<4g}{told}", flush=True)
        print(f"  {kind:26}{_means(rows)}", flush=True)
        every += rows
    print(f"  mean of {len(every):<19}{_means(every)}")
    for index, name in ((1, "levels"), (2, "with layers")):
        print(f"  worst against the exact renderer, {name}: {min(row[index] - row[0] for row in every):.2f} dB")
    print(f"  error gradient on old outlines: {_means(outlines)}; largest {_means([_largest(outlines)])}")
    print(f"  mean error in a border of {BORDER} px: {fmean(borders):.4f}, largest {max(borders, key=abs):.4f}")


def to_exact() -> None:
    """Print PSNR to the exact renderer of random scenes and of the motorcycle."""
    print("\nto the exact renderer, dB")
    found = []
    for case in (*_random_cases(), *_motorcycle_cases()):
        found.append(decibels(case.rendered(), case.exact()))
        print(f"  {case.name:40} {found[-1]:.1f}", flush=True)
    print(f"  lowest {min(found):.1f}, median {median(found):.1f}")


def at_sizes() -> None:
    """Print how alike pictures rendered at 512 px are to larger ones that are reduced."""
    print("\nrendered larger and reduced to 512 px, dB to rendered at 512 px")
    for kind in ("slope", "smooth", "blobs", "planes"):
        made = {}
        for size in (512, 1024, 2048):
            image, disparity = scenes.random_scene(kind, 2048, torch.Generator().manual_seed(7))
            factor = 2048 // size
            light = F.avg_pool2d(image.pow(2.2).movedim(-1, 1), factor)
            small = disparity[:, factor // 2 :: factor, factor // 2 :: factor]
            light = light.pow(1 / 2.2).movedim(1, -1)
            rendered = render_depth(light, small, 0.4, 30.0, behind=True).pow(2.2).movedim(-1, 1)
            made[size] = F.avg_pool2d(rendered, size // 512).pow(1 / 2.2)
        found = ", ".join(f"{size}: {decibels(made[size], made[512]):.1f}" for size in (1024, 2048))
        print(f"  {kind:8} {found}", flush=True)


def small_maps() -> None:
    """Print PSNR to the truth of three scenes at blur 15 by a depth map of a quarter of the sides: enlarged bilinearly
    and repaired, enlarged by the picture, and the whole map."""
    print("\nto what a lens shows, dB, by depth maps of a quarter of the sides")
    print(f"  {'':26}{'bilinear':>9}{'picture':>8}{'whole':>8}")
    every: list[tuple[float, ...]] = []
    for kind in ("planes", "lights", "grid"):
        layers = scenes.SCENES[kind](scenes.Canvas(pictures()))
        image, disparity = scenes.sharp(layers)
        small = F.avg_pool2d(disparity, 4)
        bilinear = F.interpolate(small[None], size=disparity.shape[1:], mode="bilinear")[0, 0]
        maps = repaired(bilinear), enlarged(small[0], image[0]), disparity[0]
        for focus in scenes.FOCI[kind]:
            true = _truth(kind, layers, focus, 15.0)
            made = (render_depth(image, given[None], focus, 15.0, behind=True) for given in maps)
            every.append(tuple(decibels(picture, true) for picture in made))
            print(f"  {kind:8} focus {focus:<12g}{_means(every[-1:])}", flush=True)
    print(f"  mean of {len(every):<19}{_means(every)}")


@lru_cache
def pictures() -> Path:
    """The folder with the pictures, fetched if it is not there."""
    folder = cache_folder() / "pictures"
    if not all(any(folder.glob(f"{name}.*")) for name in PICTURES):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        command += ["--python-version", "3.8", "--only-binary=:all:", "--platform", "manylinux1_x86_64"]
        subprocess.run([*command, "scikit-image==0.16.2"], check=True)
        wheel = folder / WHEEL
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise SystemExit(f"{wheel} is not the wheel that is expected. Delete it and run this again.")
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                path = Path(entry)
                if path.parent.as_posix() == "skimage/data" and path.stem in PICTURES:
                    write_atomically(folder / path.name, archive.read(entry))
        wheel.unlink()
    return folder


def motorcycle() -> tuple[Tensor, Tensor]:
    """The picture [1, 500, 741, 3] and its disparity in 1/m [1, 500, 741], with holes filled from beside them."""
    from scipy.ndimage import distance_transform_edt

    with Image.open(pictures() / "motorcycle_left.png") as opened:
        image = torch.from_numpy(np.array(opened.convert("RGB")))[None] / 255
    with np.load(pictures() / "motorcycle_disp.npz") as maps:
        disparity = maps[maps.files[0]].astype(np.float32)
    unknown = ~(np.isfinite(disparity) & (disparity > 0))
    nearest = distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return image, torch.from_numpy(disparity[tuple(nearest)] + OFFSET)[None] / (FOCAL_LENGTH * APART)


def decibels(one: Tensor, other: Tensor) -> float:
    return -10 * math.log10((one - other).square().mean().item() + 1e-12)


def _truth(kind: str, layers: list[scenes.Layer], focus: float, blur: float) -> Tensor:
    name = f"truth of {kind} {focus} {blur}"
    return _kept(name, _code(*SCENES_CODE), lambda: scenes.truth(layers, focus, blur))


def _random_cases() -> Iterator[Case]:
    for index in range(24):
        rng = torch.Generator().manual_seed(100 + index)
        kind = ("planes", "blobs", "slope", "smooth")[index % 4]
        image, disparity = scenes.random_scene(kind, 512, rng)
        blur, focus = 5 + 25 * torch.rand(1, generator=rng).item(), torch.rand(1, generator=rng).item()
        yield Case(f"{index} {kind} focus {focus:.2f} blur {blur:.1f}", image, disparity, focus, blur)


def _motorcycle_cases() -> Iterator[Case]:
    image, disparity = motorcycle()
    low, high = disparity.aminmax()
    for blur in scenes.BLURS:
        for focus in (1.0, 0.5, 0.0):
            name = f"motorcycle focus {focus:g} blur {blur:g}"
            yield Case(name, image, (disparity - low) / (high - low), focus, blur)


def _gradient(error: Tensor) -> Tensor:
    """Length [H, W] of the gradient of an error's luminance, in steps of a picture of 8 bits for each px (Sobel)."""
    luminance = error[0] @ torch.tensor([0.299, 0.587, 0.114]) * 255
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 8
    around = F.pad(luminance[None, None], (1, 1, 1, 1), mode="replicate")
    y, x = F.conv2d(around, torch.stack([kernel.T, kernel])[:, None])[0]
    return y.hypot(x)


def _border(error: Tensor) -> float:
    inner = F.pad(torch.ones(error.shape[1] - 2 * BORDER, error.shape[2] - 2 * BORDER), [BORDER] * 4)
    return error[0][inner == 0].mean().item()


def _means(rows: list[tuple[float, ...]]) -> str:
    return "".join(f"{fmean(column):8.2f}" for column in zip(*rows, strict=True))


def _largest(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(max(column) for column in zip(*rows, strict=True))


def _code(*files: str) -> bytes:
    root = Path(__file__).resolve().parents[2]
    return b"".join((root / file).read_bytes() for file in files)


def _kept(name: str, code: bytes, make: Callable[[], Tensor]) -> Tensor:
    """What ``make`` makes, or made before by the same code."""
    key = hashlib.sha256(name.encode() + code).hexdigest()[:24]
    path = cache_folder() / "renderer" / f"{key}.npy"
    if not path.is_file():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, made.numpy())
        part.replace(path)
    return torch.from_numpy(np.load(path))
