"""Procedural scenes for training without a single photo: a sharp object before a patterned background.

Every scene is a list of numbers drawn from a seed, knows its layers, and can be rendered at any blur from 0
to 30. Objects and patterns sit on a grid of 16 px, the grid of a FLUX model's image tokens, so that a small
model learns them in hours on a plain CPU. The cells of a pattern are bright or dim by chance: that is a scene's
own, as the arrangement of things behind a photograph's subject is, and tokens differ by it.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..optics.defocus import DISPLAY_GAMMA, disc_radius, spread_periodic
from ..sweep.values import BLUR_MAX
from .pictures import Identity, Pictures

GRID = 16
SIZE = 128

# sRGB. Objects are vivid and backgrounds muted, so that a picture's pixels tell which is which.
OBJECT_COLOURS = {
    "red": (0.88, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.98, 0.90, 0.10),
    "green": (0.12, 0.72, 0.16),
    "blue": (0.10, 0.28, 0.92),
    "pink": (0.96, 0.25, 0.70),
}
BACKGROUND_COLOURS = {
    "grey": ((0.10, 0.10, 0.11), (0.80, 0.80, 0.80)),
    "brown": ((0.16, 0.09, 0.05), (0.80, 0.66, 0.52)),
    "teal": ((0.03, 0.15, 0.17), (0.50, 0.80, 0.78)),
    "olive": ((0.11, 0.13, 0.04), (0.74, 0.76, 0.50)),
    "plum": ((0.14, 0.05, 0.15), (0.78, 0.58, 0.78)),
    "navy": ((0.04, 0.06, 0.18), (0.58, 0.66, 0.84)),
}
# How far an object out of focus reaches beyond its box, in px: the largest disc and its soft edge.
REACH = 8
# The highest blur that is called so.
BLUR_WORDS = (
    (4.0, "sharp"),
    (11.0, "slightly blurred"),
    (18.0, "blurred"),
    (24.0, "strongly blurred"),
    (BLUR_MAX, "completely blurred"),
)
SHAPES = ("disc", "square", "diamond", "heart")
PATTERNS = ("stripes", "checks", "lights", "tiles")
# Cells of a background in either direction, each bright or dim.
CELLS = SIZE // GRID
DIM = 0.2
RIM = 2.2
BOX = 3 * GRID
PLACES = 4
LAMP = 3.0


class Scene(NamedTuple):
    """A batch of scenes, int64: indices into the tables above [n], which cells of the background are bright (1) or
    dim (0) [n, 8, 8], and the place of the object's box in steps of the grid [n]. Stripes take the first row of the
    cells for all."""

    colour: Tensor
    shape: Tensor
    ground: Tensor
    pattern: Tensor
    cells: Tensor
    row: Tensor
    column: Tensor

    def take(self, chosen: Tensor) -> Scene:
        """Some of the scenes, int64 [m]."""
        return Scene(*(part[chosen] for part in self))

    def copies(self, count: int) -> Scene:
        """The first scene, ``count`` times."""
        return self.take(torch.zeros(count, dtype=torch.int64))


def kinds(held_out: bool) -> Tensor:
    """Every combination of colour, shape, background and pattern that is kept for training or held out of it
    (64 of 576, in which each of them occurs): int64 [n, 4]."""
    sizes = (len(OBJECT_COLOURS), len(SHAPES), len(BACKGROUND_COLOURS), len(PATTERNS))
    every = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
    chosen = (every * torch.tensor([1, 2, 3, 4])).sum(1) % 9 == 0
    return every[chosen == held_out]


def draw_scenes(generator: torch.Generator, count: int, held_out: bool = False) -> Scene:
    """``count`` scenes, every kind equally likely."""
    choice = kinds(held_out)
    return place(choice[torch.randint(len(choice), (count,), generator=generator)], generator)


def place(choice: Tensor, generator: torch.Generator) -> Scene:
    """One scene of each kind [n, 4] that is asked for: cells and place by chance."""
    cells = torch.randint(2, (len(choice), CELLS, CELLS), generator=generator)
    row, column = (1 + torch.randint(PLACES, (len(choice),), generator=generator) for _ in range(2))
    return Scene(*choice.unbind(1), cells, row, column)


def caption(scene: Scene, index: int) -> str:
    """Scene ``index`` in plain words, such as "a red disc before teal lights"."""
    colour, shape = list(OBJECT_COLOURS)[scene.colour[index]], SHAPES[scene.shape[index]]
    ground, pattern = list(BACKGROUND_COLOURS)[scene.ground[index]], PATTERNS[scene.pattern[index]]
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape} before {ground} {pattern}"


def tell_blur(text: str, blur: float) -> str:
    """A caption that also says, roughly, how blurred the background is: "... before strongly blurred teal lights"."""
    words = next(words for limit, words in BLUR_WORDS if blur <= limit)
    return text.replace(" before ", f" before {words} ")


def object_tones() -> Tensor:
    """The two tones of each object colour in linear light, [colours, 2, 3]: plain and pale."""
    plain = _linear(torch.tensor(list(OBJECT_COLOURS.values())))
    return torch.stack([plain, plain + 0.4 * (1 - plain)], dim=1)


class Props:
    """The drawn parts, ready to be put together: objects with their coverage, and backgrounds."""

    @cached_property
    def objects(self) -> tuple[Tensor, Tensor]:
        """Linear light [colours, shapes, 3, 48, 48] and coverage [shapes, 1, 48, 48]."""
        fine = 4
        side = BOX * fine
        axis = (torch.arange(side) + 0.5) / fine - BOX / 2
        y, x = axis[:, None], axis[None, :]
        radius = 0.45 * BOX
        inside = {
            "disc": radius - (x.square() + y.square()).sqrt(),
            "square": 0.84 * radius - torch.maximum(x.abs(), y.abs()),
            "diamond": (1.06 * radius - (x.abs() + y.abs())) / math.sqrt(2),
            "heart": _heart(x / radius, y / radius) * radius,
        }
        depth = torch.stack([inside[name].expand(side, side) for name in SHAPES])
        # A dark rim round a texture of squares.
        rim = (depth < RIM).float()
        weave = (((x / 8).floor() + (y / 8).floor()) % 2 == 0) * (1 - rim)
        coverage = _reduce((depth > 0).float()[:, None], fine)
        colours = []
        for plain, pale in object_tones()[..., None, None]:
            picture = plain * (1 - 0.88 * rim)[:, None] + weave[:, None] * (pale - plain)
            colours.append(_reduce(picture, fine))
        return torch.stack(colours), coverage

    @cached_property
    def patterns(self) -> Tensor:
        """Where a cell of each pattern is bright, [patterns, 16, 16] coverage."""
        fine = 4
        axis = (torch.arange(GRID * fine) + 0.5) / fine
        u, v = axis.expand(len(axis), -1), axis[:, None].expand(-1, len(axis))
        masks = {
            "stripes": u < GRID / 2,
            "checks": (u < GRID / 2) != (v < GRID / 2),
            "lights": ((u - GRID / 2).square() + (v - GRID / 2).square()).sqrt() < 2.6,
            "tiles": (u > 3.0) & (v > 3.0),
        }
        return _reduce(torch.stack([masks[name] for name in PATTERNS]).float(), fine)

    @cached_property
    def grounds(self) -> tuple[Tensor, Tensor]:
        """Linear light [colours, patterns, 3] of a background's dark parts, and how much its bright parts add."""
        dark, bright = (_linear(torch.tensor(tones)) for tones in zip(*BACKGROUND_COLOURS.values(), strict=True))
        # Lamps are brighter than paper, so that their discs still glow when they are large.
        gain = torch.tensor([LAMP if name == "lights" else 1.0 for name in PATTERNS])[:, None]
        dark = dark[:, None].expand(-1, len(PATTERNS), -1)
        return dark, gain * bright[:, None] - dark


def _brightness(props: Props, scene: Scene) -> Tensor:
    """The backgrounds between dark and bright, [n, 1, H, W] in 0..1."""
    striped = scene.pattern == PATTERNS.index("stripes")
    cells = torch.where(striped[:, None, None], scene.cells[:, :1], scene.cells)
    shades = torch.where(cells > 0, 1.0, DIM)
    return torch.einsum("nrc,nyx->nrycx", shades, props.patterns[scene.pattern]).reshape(-1, 1, SIZE, SIZE)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """Positive inside a heart: two discs side by side over a rotated square."""
    y = y + 0.12
    lobes = 0.5 - ((x.abs() - 0.47).square() + (y + 0.35).square()).sqrt()
    point = (0.96 - (x.abs() + (y - 0.02).abs())) / math.sqrt(2)
    point = torch.where(y < -0.35, torch.full_like(point, -1.0), point)
    return torch.maximum(lobes, point)


def _linear(rgb: Tensor) -> Tensor:
    return rgb.pow(DISPLAY_GAMMA)


def _reduce(maps: Tensor, factor: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(maps, factor)


def render(props: Props, scene: Scene, blurs: Tensor, planes: Tensor | None = None) -> Tensor:
    """Pictures of scenes, [n, H, W, 3] sRGB in 0..1, scene i at ``blurs[i]``.

    The background is at disparity 0 and the object at 1; ``planes`` [n] are the disparities in focus, the objects' by
    default. The same pictures as ``render_layers`` gives, but only the brightness of the backgrounds is blurred: their
    colour follows it.
    """
    objects, coverage = props.objects
    before = torch.ones_like(blurs) if planes is None else planes
    radii = disc_radius(blurs, before, SIZE)
    dark, more = (tone[scene.ground, scene.pattern][..., None, None] for tone in props.grounds)
    light = (dark + spread_periodic(_brightness(props, scene), radii) * more).movedim(1, -1).contiguous()
    cover = coverage[scene.shape]
    parts = torch.cat([cover * objects[scene.colour, scene.shape], cover], dim=1)
    reach = 0 if planes is None else REACH
    if reach:
        parts = torch.nn.functional.pad(parts, [reach] * 4)
        parts = spread_periodic(parts, disc_radius(blurs, 1 - before, SIZE))
    parts = parts.movedim(1, -1)
    rows, columns = _box(scene, reach)
    box = torch.arange(len(blurs))[:, None, None], rows, columns
    light[box] = light[box] * (1 - parts[..., 3:]) + parts[..., :3]
    return light.clamp_(0, 1).pow_(1 / DISPLAY_GAMMA)


def subject_masks(props: Props, scene: Scene) -> Tensor:
    """Where the object is, [n, H, W] coverage 0..1."""
    masks = torch.zeros(len(scene.row), SIZE, SIZE)
    rows, columns = _box(scene)
    masks[torch.arange(len(masks))[:, None, None], rows, columns] = props.objects[1][scene.shape, 0]
    return masks


def _box(scene: Scene, reach: int = 0) -> tuple[Tensor, Tensor]:
    """Pixel rows [n, 48, 1] and columns [n, 1, 48] of the object's box, larger by ``reach`` on every side."""
    steps = torch.arange(-reach, BOX + reach)
    return (GRID * scene.row)[:, None, None] + steps[:, None], (GRID * scene.column)[:, None, None] + steps


class Scenes:
    """Endless procedural scenes as a dataset (see ``pictures.Dataset``): groups and single pictures."""

    groups = True
    singles = True

    def __init__(self) -> None:
        self.props = Props()

    def draw(
        self,
        generator: torch.Generator,
        scenes: int,
        per_scene: int,
        held_out: bool = False,
        sharp: bool = False,
    ) -> Pictures:
        drawn = draw_scenes(generator, scenes, held_out)
        blurs = (0.0 if sharp else BLUR_MAX) * torch.rand(scenes * per_scene, generator=generator)
        repeated = drawn.take(torch.arange(scenes).repeat_interleave(per_scene))
        captions = [caption(drawn, i) for i in range(scenes)]
        return Pictures(render(self.props, repeated, blurs), captions, blurs)

    def identity(self) -> Identity:
        return {"pictures": "procedural scenes"}
