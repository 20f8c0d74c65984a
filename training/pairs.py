"""Blur pairs from a manifest: groups of one scene at several blurs, and single photos with the blur they show.

The two kinds of Bokeh Diffusion (arXiv 2503.08434, section 4.1): pictures sharp all over with their depth, rendered
at several blurs the moment they are drawn, and photos as they were taken. A blur is K in a picture of 512 px on its
short side. Rendering at another size scales the discs, not the number; a crop of a photo shows its discs larger, so
its K grows by as much.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import comfy.model_management
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..host import is_out_of_memory
from ..optics.render import render_depth
from ..sweep.values import BLUR_MAX
from .entries import DepthMap, Entry, open_picture
from .pictures import Identity, Pictures

STEP = 16
# Bytes a pixel that rendering takes: its picture, the maps of a tile and their sums.
RENDER_BYTES = 256
# The paper renders its pairs at K in 1..30; below 1 a disc is hardly a pixel.
RENDERED_MIN = 1.0
# Share of rendered pictures that stay sharp all over.
SHARP_SHARE = 1 / 8
LONGEST_SIDE = 2.0
# Crops keep at least 1 / 1.25 of the largest that fits.
ZOOM_MAX = 1.25


class ManifestPairs:
    """The entries of a manifest as a data set (see `pictures.Dataset`).

    Attributes:
        groups: there are pictures with depth, so that groups can be drawn.
        singles: single pictures can be drawn; always.
    """

    singles = True

    def __init__(
        self,
        entries: Sequence[Entry],
        size: int = 512,
        keep_aspect: bool = False,
        held_out: float = 0.05,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            entries: from `manifest.read_manifest`, checked for this size.
            size: short side of the pictures in px, a multiple of 16.
            keep_aspect: cut pictures to the multiple of 16 px nearest to their own shape (at most 1 : 2) instead of
                squares; all scenes of one draw then have one shape.
            held_out: share of the pictures that is kept from training, 0..0.5, chosen by a hash of the picture's name:
                a picture stays on its side when entries are added, and all its entries are on one side.
            device: where blurs are rendered; the pictures come back on the CPU.

        Raises:
            ValueError: for no entries, a size that is no multiple of 16, or another share.
        """
        if not entries:
            raise ValueError("There are no rows to train on. Add rows to the manifest.")
        if size < STEP or size % STEP:
            raise ValueError(f"The training size is {size} px, expected a multiple of {STEP}. Use 512, for example.")
        if not 0 <= held_out <= 0.5:
            raise ValueError(f"The held-out share is {held_out:g}, expected 0 to 0.5. Use 0.05, for example.")
        self.size, self.keep_aspect, self.held_out, self.device = size, keep_aspect, held_out, device
        # Held out kind by kind, so that a few photos among thousands of groups have a held-out part too.
        self._grouped = _split([entry for entry in entries if entry.depth], held_out)
        self._photos = _split([entry for entry in entries if not entry.depth], held_out)
        self.groups = bool(self._grouped[False])

    def summary(self) -> str:
        """How many pictures of each kind there are and how many of them are held out, one line each."""
        kinds = (("Sharp pictures with depth", self._grouped), ("Photos with their own blur", self._photos))
        return "\n".join(
            f"{name}: {len(parts[False]) + len(parts[True])} (held out: {len(parts[True])})"
            for name, parts in kinds
            if parts[False] or parts[True]
        )

    def draw(self, generator: torch.Generator, scenes: int, per_scene: int, held_out: bool = False) -> Pictures:
        """`scenes` scenes at `per_scene` blurs each, all decided by the generator (on the CPU).

        Groups come from pictures with depth alone. Single pictures (``per_scene`` 1) come from all entries: photos show
        their own blur, the others are rendered at a random one.

        Raises:
            ValueError: when there are no such pictures, or a file cannot be read any more, naming its entry.
        """
        entries = self._grouped[held_out] + ([] if per_scene > 1 else self._photos[held_out])
        if not entries:
            raise ValueError(
                f"There are no {'held-out ' if held_out else ''}{'groups' if per_scene > 1 else 'pictures'} to draw. "
                + ("Hold out a share above 0, of two pictures at least." if held_out else "Add rows with a depth.")
            )
        images, blurs = [], []
        chosen = self._choose(entries, scenes, generator)
        for entry in chosen:
            drawn, shown = self._scene(entry, per_scene, generator)
            images.append(drawn)
            blurs.append(shown)
        return Pictures(torch.cat(images), [entry.caption for entry in chosen], torch.cat(blurs))

    def identity(self) -> Identity:
        """Of everything that settles what is drawn: the files' contents, the captions and the settings. Not of where
        they lie."""
        kept = [entry for parts in (self._grouped, self._photos) for part in parts.values() for entry in part]
        shown = [(entry.name, entry.digest, entry.blur, entry.depth and entry.depth.settings) for entry in kept]
        return {
            "pictures": _digest(shown),
            "captions": _digest([entry.caption for entry in kept]),
            "size": self.size,
            "keep_aspect": self.keep_aspect,
            "held_out": self.held_out,
        }

    def shape(self, entry: Entry) -> tuple[int, int]:
        """Height and width in px of an entry's pictures when they are drawn."""
        if not self.keep_aspect:
            return self.size, self.size
        ratio = max(entry.width, entry.height) / min(entry.width, entry.height)
        # Downwards: a longer one would leave the picture.
        long = STEP * int(self.size * min(ratio, LONGEST_SIDE) / STEP)
        return (self.size, long) if entry.width >= entry.height else (long, self.size)

    def _choose(self, entries: Sequence[Entry], count: int, generator: torch.Generator) -> list[Entry]:
        """Different entries of one shape as long as there are enough of them; every entry is equally likely to lead."""
        lead = entries[_integer(len(entries), generator)]
        if self.keep_aspect:
            entries = [entry for entry in entries if self.shape(entry) == self.shape(lead)]
        if len(entries) < count:
            return [entries[_integer(len(entries), generator)] for _ in range(count)]
        return [entries[i] for i in torch.randperm(len(entries), generator=generator)[:count].tolist()]

    def _scene(self, entry: Entry, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        window, zoom = self._window(entry, generator)
        try:
            cut = _cut(open_picture(entry.picture), window, self.shape(entry), Image.Resampling.LANCZOS)
            picture = torch.from_numpy(cut / np.float32(255))
            if entry.depth is None:
                return picture[None], torch.tensor([min(entry.blur * zoom, BLUR_MAX)])
            blurs = group_blurs(count, generator)
            return self._render(picture, entry.depth, window, blurs), blurs
        except ValueError as error:
            raise ValueError(
                f"Row {entry.number} of the manifest, {entry.name}: {error}. Check the manifest again."
            ) from error

    def _render(self, picture: Tensor, depth: DepthMap, window: Sequence[float], blurs: Tensor) -> Tensor:
        height, width = picture.shape[:2]
        # Not Lanczos: it would overshoot at edges and put false depths there.
        cut = _cut(Image.fromarray(depth.disparity()), window, (height, width), Image.Resampling.BILINEAR)
        disparity = torch.from_numpy(cut)

        def render(device: torch.device, at_once: int) -> Tensor:
            return torch.cat(
                [
                    render_depth(
                        picture.to(device).expand(len(part), -1, -1, -1),
                        disparity.to(device).expand(len(part), -1, -1),
                        depth.focus,
                        part.to(device),
                    ).cpu()
                    for part in blurs.split(at_once)
                ]
            )

        device, at_once = _room(torch.device(self.device), RENDER_BYTES * height * width, len(blurs))
        try:
            return render(device, at_once)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            comfy.model_management.soft_empty_cache()
        return render(torch.device("cpu"), len(blurs))

    def _window(self, entry: Entry, generator: torch.Generator) -> tuple[tuple[float, float, float, float], float]:
        """A crop as parts of the picture (left, top, right, bottom), and by how much more it is enlarged than the
        whole picture would be. It holds the subject, or lies in it where the subject is larger."""
        height, width = self.shape(entry)
        largest = min(entry.width / width, entry.height / height)
        zoom_max = min(ZOOM_MAX, largest)
        if entry.blur:
            zoom_max = min(zoom_max, BLUR_MAX / entry.blur * largest * self.size / min(entry.width, entry.height))
        scale = largest / _between(1.0, max(1.0, zoom_max), generator)
        left, right = _place(scale * width, entry.width, entry.subject[0], entry.subject[2], generator)
        top, bottom = _place(scale * height, entry.height, entry.subject[1], entry.subject[3], generator)
        return (left, top, right, bottom), min(entry.width, entry.height) / (scale * self.size)


def _room(device: torch.device, memory: int, count: int) -> tuple[torch.device, int]:
    """Where ``count`` pictures of ``memory`` bytes each are rendered, and how many at once: the host makes room on its
    device, and what still does not fit is work for the CPU."""
    if device.type == "cpu":
        return device, count
    # For one alone: more than that is not worth a model that is pushed out.
    comfy.model_management.free_memory(memory, device)
    fits = int(comfy.model_management.get_free_memory(device) // memory)
    return (device, min(fits, count)) if fits else (torch.device("cpu"), count)


def group_blurs(count: int, generator: torch.Generator) -> Tensor:
    """Blurs of one group, in any order: one in each of ``count`` equal parts of 1..30, so that they contrast; in some
    groups the smallest is 0 instead, an eighth of all pictures."""
    parts = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    blurs = RENDERED_MIN + (BLUR_MAX - RENDERED_MIN) * parts
    if torch.rand((), generator=generator) < count * SHARP_SHARE:
        blurs[0] = 0
    return blurs[torch.randperm(count, generator=generator)]


def _split(entries: Iterable[Entry], share: float) -> dict[bool, list[Entry]]:
    """Rows by whether they are held out. With a share above 0 and two pictures or more there is one on either side."""
    entries = list(entries)
    places = {entry.name: _place_of(entry.name) for entry in entries}
    held_out = {name for name, place in places.items() if place < share}
    if share > 0 and len(places) > 1:
        order = sorted(places, key=places.get)
        held_out = (held_out | {order[0]}) - {order[-1]}
    return {kept: [entry for entry in entries if (entry.name in held_out) == kept] for kept in (False, True)}


def _digest(values: list) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _place_of(name: str) -> float:
    """A number in 0..1 that depends on the name alone, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def _place(length: float, side: int, first: float, last: float, generator: torch.Generator) -> tuple[float, float]:
    """Start and end of a crop of ``length`` px, as parts of the ``side``: it holds ``first`` to ``last`` or lies
    within it."""
    low, high = (min(max(at, 0.0), side - length) for at in sorted((first * side, last * side - length)))
    # Whole pixels: half a pixel between them would soften a picture that is to be sharp.
    start = min(round(_between(low, high, generator)), max(0, math.floor(side - length + 1e-6)))
    return start / side, (start + length) / side


def _cut(
    picture: Image.Image, window: Sequence[float], shape: tuple[int, int], resampling: Image.Resampling
) -> np.ndarray:
    """The window (parts of the picture) resized to ``shape`` (height, width), float32."""
    width, height = picture.size
    left, top, right, bottom = window
    box = (left * width, top * height, min(right * width, width), min(bottom * height, height))
    return np.array(picture.resize(shape[::-1], resampling, box=box), dtype=np.float32)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
