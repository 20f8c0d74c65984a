"""What a lens truly shows of six made scenes: flat textured layers seen through many pinholes of a round aperture.

Averaged in linear light, with what lies behind near things and beyond the picture's borders, these are pictures that no
depth renderer is asked to make: it gets the sharp picture through the middle pinhole, and its depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...optics.defocus import DISPLAY_GAMMA, disc_radius
from ...optics.light import fill

SIZE = 384
# Layers go on beyond the picture as far as the largest disc and some pixels.
MARGIN = SIZE * 34 // 512 + 4
SIDE = SIZE + 2 * MARGIN
# Planes of focus of each scene, the nearest first: things near, in the middle and far.
FOCI = {
    "planes": (1.0, 0.55, 0.0),
    "lights": (0.8, 0.25, 0.0),
    "foliage": (1.0, 0.5, 0.0),
    "grid": (1.0, 0.5, 0.0),
    "hair": (0.62, 0.3, 0.0),
    "ground": (0.95, 0.5, 0.02),
}
BLURS = 5.0, 15.0, 30.0
# Pinholes, by the area in px of the largest disc.
PINHOLES = 60, 280


class Layer(NamedTuple):
    """Covered light and coverage, [4, SIDE, SIDE]; disparity in the picture's first row, and its growth a row."""

    maps: Tensor
    disparity: float
    slope: float = 0.0

    def disparities(self) -> Tensor:
        """In the picture, [SIZE, 1]."""
        return self.disparity + self.slope * torch.arange(SIZE)[:, None]


def sharp(layers: list[Layer]) -> tuple[Tensor, Tensor]:
    """The picture through the middle pinhole [1, SIZE, SIZE, 3] and its disparity [1, SIZE, SIZE]."""
    disparity = torch.zeros(SIZE, SIZE)
    for layer in layers:
        disparity = torch.where(_inner(layer.maps[3]) > 0.5, layer.disparities(), disparity)
    return _picture(_through(layers, 0.0, 0.0, 0.0)), disparity[None]


def truth(layers: list[Layer], focus: float, blur: float) -> Tensor:
    """What a lens with the disc's radius ``blur`` at 512 px shows, focused at a disparity, [1, SIZE, SIZE, 3]."""
    per_disparity = disc_radius(torch.tensor(blur), torch.tensor(1.0), SIZE).item()
    defocus = max((layer.disparities() - focus).abs().max().item() for layer in layers)
    fewest, most = PINHOLES
    count = int(min(most, max(fewest, 1.2 * math.pi * (defocus * per_disparity) ** 2)))
    # Vogel's spiral: evenly over the disc.
    index = torch.arange(count) + 0.5
    distance, angle = (index / count).sqrt() * per_disparity, index * math.pi * (3 - math.sqrt(5))
    holes = zip((distance * angle.sin()).tolist(), (distance * angle.cos()).tolist(), strict=True)
    return _picture(sum(_through(layers, focus, y, x) for y, x in holes) / count)


def without_hidden(layers: list[Layer]) -> list[Layer]:
    """The layers as nobody can know them better from the sharp picture: coverage, disparity and what lies outside are
    given, but light that something nearer hides goes on from what is seen beside it."""
    known, seen = [], torch.ones(SIDE, SIDE)
    inside = F.pad(torch.ones(SIZE, SIZE), [MARGIN] * 4) > 0
    for layer in reversed(layers):
        covered = layer.maps[3]
        hidden, seen = inside & (seen < 0.5), seen * (1 - covered)
        light = layer.maps[:3] / covered.clamp(min=1e-4)
        filled, _ = fill(light[None], (~hidden & (covered > 0.01)).float()[None, None], SIZE / 2)
        light = torch.where(hidden, filled[0], light)
        known.append(layer._replace(maps=torch.cat([light * covered, covered[None]])))
    return known[::-1]


def outline(disparity: Tensor, focus: float, blur: float) -> Tensor:
    """Where the outlines of blurred near things were in the sharp picture, [SIZE, SIZE]: pixels beside a step down by
    at least 3 px of radius, from something whose disc has at least 3 px and lies before the plane of focus."""
    signed = (disparity - focus) * disc_radius(torch.tensor(blur), torch.tensor(1.0), SIZE)
    high = F.max_pool2d(signed[None], 3, 1, 1)[0]
    low = -F.max_pool2d(-signed[None], 3, 1, 1)[0]
    return (high >= 3) & (high - low >= 3)


def random_scene(kind: str, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A picture of soft spots and noise, and disparities: a slope, flat things, round ones or hills."""
    spots = torch.rand(1, size // 4, size // 4, 3, generator=rng).movedim(-1, 1)
    spots = F.interpolate(spots, (size, size), mode="bilinear").movedim(1, -1)
    image = (spots * 0.7 + 0.3 * torch.rand(1, size, size, 3, generator=rng)).clamp(0, 1)
    y = torch.linspace(0, 1, size)[:, None].expand(size, size)
    if kind == "slope":
        return image, y[None].clone()
    if kind == "smooth":
        coarse = torch.rand(1, 1, 6, 6, generator=rng)
        return image, F.interpolate(coarse, (size, size), mode="bicubic")[0].clamp(0, 1)
    disparity = torch.full((1, size, size), 0.2)
    if kind == "planes":
        disparity[:, size // 3 : 2 * size // 3, size // 4 : size // 2] = 0.55
        disparity[:, size // 2 :, 3 * size // 4 :] = 0.95
        return image, disparity
    disparity[:] = 0.1
    for _ in range(6):
        top, left, radius, value = torch.rand(4, generator=rng)
        disparity[0, (y - top).hypot(y.T - left) < 0.05 + 0.2 * radius] = value
    return image, disparity


def _picture(light: Tensor) -> Tensor:
    return light.clamp(0, 1).pow(1 / DISPLAY_GAMMA).movedim(0, -1)[None]


def _inner(maps: Tensor) -> Tensor:
    return maps[..., MARGIN : MARGIN + SIZE, MARGIN : MARGIN + SIZE]


def _through(layers: list[Layer], focus: float, y: float, x: float) -> Tensor:
    """Light [3, SIZE, SIZE] through a pinhole that moves what is one unit of disparity out of focus by (y, x) px."""
    out = torch.zeros(3, SIZE, SIZE)
    for layer in layers:
        if layer.slope:
            seen = _slanted(layer, focus, y, x)
        else:
            seen = _moved(layer.maps, (layer.disparity - focus) * y, (layer.disparity - focus) * x)
        out = out * (1 - seen[3:]) + seen[:3]
    return out


def _moved(maps: Tensor, y: float, x: float) -> Tensor:
    for axis, move in ((1, y), (2, x)):
        start = math.floor(MARGIN - move)
        part = MARGIN - move - start
        maps = torch.lerp(maps.narrow(axis, start, SIZE), maps.narrow(axis, start + 1, SIZE), part)
    return maps


def _slanted(layer: Layer, focus: float, y: float, x: float) -> Tensor:
    rows, columns = torch.arange(SIZE), torch.arange(SIZE)
    # The row r of the layer is seen at r + y (disparity(r) - focus).
    at = (rows - y * (layer.disparity - focus)) / (1 + y * layer.slope)
    across = columns - (x * (layer.disparity + layer.slope * at - focus))[:, None]
    places = torch.stack([across, at[:, None].expand(SIZE, SIZE)], -1)
    grid = ((places + MARGIN) * 2 + 1) / SIDE - 1
    return F.grid_sample(layer.maps[None], grid[None], padding_mode="border", align_corners=False)[0]


class Canvas:
    """Coordinates in sizes of the picture, textures and chance of a scene."""

    def __init__(self, pictures: Path) -> None:
        self.y = ((torch.arange(SIDE) - MARGIN) / SIZE)[:, None].expand(SIDE, SIDE)
        self.x = self.y.T
        self.pictures, self.rng = pictures, torch.Generator().manual_seed(1)

    def random(self) -> float:
        return torch.rand(1, generator=self.rng).item()

    def texture(self, name: str) -> Tensor:
        """Linear light [3, SIDE, SIDE] of a picture, mirrored at its borders."""
        return _texture(self.pictures / name)

    def disc(self, y: float, x: float, radius: float) -> Tensor:
        return cover(radius - (self.y - y).hypot(self.x - x))


def cover(distance: Tensor) -> Tensor:
    """Coverage of pixels by how far inside of an outline they are, in sizes of the picture."""
    return (distance * SIZE + 0.5).clamp(0, 1)


def layer(light: Tensor, coverage: Tensor | float, disparity: float, slope: float = 0.0) -> Layer:
    coverage = torch.as_tensor(coverage, dtype=torch.float32).expand(SIDE, SIDE)
    return Layer(torch.cat([light * coverage, coverage[None]]), disparity, slope)


def colour(*parts: float) -> Tensor:
    return torch.tensor(parts)[:, None, None]


@lru_cache
def _texture(path: Path) -> Tensor:
    with Image.open(path) as picture:
        values = torch.from_numpy(np.array(picture.convert("RGB"))).movedim(-1, 0) / 255
    values = torch.cat([values, values.flip(-1)], -1)
    values = torch.cat([values, values.flip(-2)], -2)
    across, down = math.ceil(SIDE / values.shape[-1]), math.ceil(SIDE / values.shape[-2])
    return values.repeat(1, down, across)[:, :SIDE, :SIDE].pow(DISPLAY_GAMMA)


def _planes(at: Canvas) -> list[Layer]:
    layers = [layer(at.texture("brick.png") * colour(1.0, 0.75, 0.6).pow(DISPLAY_GAMMA), 1.0, 0.0)]
    for y, x, half, disparity, name in (
        (0.3, 0.3, 0.2, 0.3, "chelsea.png"),
        (0.55, 0.6, 0.22, 0.55, "coffee.png"),
        (0.8, 0.25, 0.2, 1.0, "gravel.png"),
    ):
        inside = torch.minimum(half - (at.y - y).abs(), half - (at.x - x).abs())
        layers.append(layer(at.texture(name), cover(inside), disparity))
    return layers


def _lights(at: Canvas) -> list[Layer]:
    """Lamps behind buildings behind a portrait at night."""
    night = (colour(0.01, 0.012, 0.03) + colour(0.03, 0.03, 0.05) * (1 - at.y)).clamp(0, 1)
    colours = (1.0, 0.6, 0.25), (1.0, 0.95, 0.8), (0.4, 0.6, 1.0), (1.0, 0.25, 0.2), (0.4, 1.0, 0.5)
    for _ in range(46):
        y, x = at.random() * 0.6, at.random() * 1.1 - 0.05
        lamp = colour(*colours[int(at.random() * 5)])
        night = torch.lerp(night, lamp.expand_as(night), at.disc(y, x, 0.0045))
    layers = [layer(night, 1.0, 0.0)]
    for left, width, height, disparity in ((0.05, 0.2, 0.45, 0.25), (0.7, 0.25, 0.55, 0.3)):
        inside = torch.minimum(torch.minimum(at.x - left, left + width - at.x), at.y - (1 - height))
        wall = 0.05 + 0.04 * torch.rand(3, 1, 1, generator=at.rng)
        windows = (((at.y * 40) % 2 < 0.8) & ((at.x * 40) % 2 < 0.8)).float()
        layers.append(layer(wall + windows * 0.3 * colour(1.0, 0.8, 0.4), cover(inside), disparity))
    head = 0.13 - (at.y - 0.42).hypot(at.x - 0.48)
    shoulders = 0.27 - ((at.y - 0.88).square() * 0.7 + (at.x - 0.48).square()).sqrt()
    portrait = torch.maximum(head, torch.minimum(shoulders, at.y - 0.3))
    return [*layers, layer(at.texture("astronaut.png"), cover(portrait), 0.8)]


def _foliage(at: Canvas) -> list[Layer]:
    sky = torch.stack([torch.full_like(at.y, 0.7), 0.8 - 0.3 * at.y, 1 - 0.5 * at.y])
    ground = at.texture("rocket.jpg").pow(1 / DISPLAY_GAMMA) * 0.6 + 0.4 * sky
    layers = [layer(ground.clamp(0, 1).pow(DISPLAY_GAMMA), 1.0, 0.0)]
    for disparity, count, length in ((0.25, 220, 0.03), (0.5, 160, 0.035), (0.75, 60, 0.04), (1.0, 22, 0.06)):
        covered, light = torch.zeros(SIDE, SIDE), torch.zeros(3, SIDE, SIDE)
        for _ in range(count):
            y, x, angle = at.random() * 1.2 - 0.1, at.random() * 1.2 - 0.1, at.random() * 3.14
            # The near leaves leave the middle free.
            if disparity >= 0.75 and 0.25 < x < 0.7:
                continue
            along = (at.x - x) * math.cos(angle) + (at.y - y) * math.sin(angle)
            beside = (at.y - y) * math.cos(angle) - (at.x - x) * math.sin(angle)
            leaf = cover(length * 0.28 * (1 - (along / length).square()) - beside.abs())
            green = colour(0.1 + 0.3 * at.random(), 0.3 + 0.4 * at.random(), 0.05 + 0.1 * at.random())
            shade = (green * (1 + 0.3 * beside / length)).clamp(0, 1).pow(DISPLAY_GAMMA)
            light = torch.lerp(light, shade, leaf)
            covered = covered + leaf - covered * leaf
        layers.append(layer(light / covered.clamp(min=1e-4), covered, disparity))
    return layers


def _grid(at: Canvas) -> list[Layer]:
    """A fence before a cat before a wall."""
    wall = layer(at.texture("brick.png") * colour(0.6, 0.8, 1.0).pow(DISPLAY_GAMMA), 1.0, 0.0)
    cat = layer(at.texture("chelsea.png"), at.disc(0.55, 0.5, 0.28), 0.5)
    one, other = ((at.x + at.y) * 9) % 1, ((at.x - at.y) * 9) % 1
    wires = torch.maximum(0.055 - (one - 0.5).abs(), 0.055 - (other - 0.5).abs()) / 9 / 1.414
    steel = colour(0.55, 0.56, 0.58) * (0.6 + 0.4 * torch.sin(at.x * 40))
    return [wall, cat, layer(steel, cover(wires), 1.0)]


def _hair(at: Canvas) -> list[Layer]:
    ground = at.texture("coffee.png")
    for _ in range(14):
        y, x = at.random(), at.random()
        ground = torch.lerp(ground, torch.ones(()), at.disc(y, x, 0.006))
    covered = at.disc(0.6, 0.5, 0.2)
    dark = (colour(0.25, 0.16, 0.1) + 0.08 * torch.sin(at.x * 180)).clamp(0, 1).pow(DISPLAY_GAMMA)
    for _ in range(150):
        angle, length, bend = at.random() * 6.283, 0.2 + 0.16 * at.random(), (at.random() - 0.5) * 2.4
        angles = angle + bend * torch.linspace(0, 1, 50) * 0.5
        steps = torch.stack([angles.sin(), angles.cos()], -1).cumsum(0) / 50 * length
        strand = _strand(steps + torch.tensor([0.6, 0.5]))
        covered = covered + strand - covered * strand
    face = cover(0.16 - (at.y - 0.64).hypot((at.x - 0.5) * 1.15))
    return [layer(ground, 1.0, 0.0), layer(dark, covered, 0.6), layer(at.texture("astronaut.png"), face, 0.62)]


def _strand(points: Tensor) -> Tensor:
    """Coverage of a line 1.2 px wide through points [n, 2], (y, x) in sizes of the picture."""
    points = points * SIZE + MARGIN
    out = torch.zeros(SIDE, SIDE)
    first = (points.amin(0) - 2).floor().int().clamp(min=0).tolist()
    last = (points.amax(0) + 3).ceil().int().clamp(max=SIDE).tolist()
    if first[0] >= last[0] or first[1] >= last[1]:
        return out
    y, x = (torch.arange(*ends) for ends in zip(first, last, strict=True))
    places = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)[:, :, None]
    start, way = points[:-1], points[1:] - points[:-1]
    along = (((places - start) * way).sum(-1) / way.square().sum(-1)).clamp(0, 1)
    apart = (places - start - along[..., None] * way).square().sum(-1).amin(-1).sqrt()
    out[first[0] : last[0], first[1] : last[1]] = (1.1 - apart).clamp(0, 1)
    return out


def _ground(at: Canvas) -> list[Layer]:
    horizon = 0.4
    slope = 0.95 / ((1 - horizon) * SIZE)
    start = 0.02 - horizon * SIZE * slope
    haze = torch.stack([torch.full_like(at.y, 0.6), 0.75 - 0 * at.y, 0.95 - 0 * at.y])
    sky = at.texture("coffee.png").pow(1 / DISPLAY_GAMMA) * 0.5 + 0.5 * haze
    layers = [layer(sky.pow(DISPLAY_GAMMA), 1.0, 0.0)]
    layers.append(layer(at.texture("gravel.png"), cover(at.y - horizon), start, slope))
    for x, foot, half, height, name in (
        (0.2, 0.55, 0.07, 0.35, "brick.png"),
        (0.5, 0.72, 0.1, 0.45, "chelsea.png"),
        (0.82, 0.93, 0.12, 0.6, "astronaut.png"),
    ):
        inside = torch.minimum(half - (at.x - x).abs(), torch.minimum(foot - at.y, at.y - (foot - height)))
        layers.append(layer(at.texture(name), cover(inside), start + slope * foot * SIZE))
    return layers


SCENES: dict[str, Callable[[Canvas], list[Layer]]] = {
    "planes": _planes,
    "lights": _lights,
    "foliage": _foliage,
    "grid": _grid,
    "hair": _hair,
    "ground": _ground,
}
