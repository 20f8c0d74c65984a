"""Sweeps on disk: one folder a sweep, which is a public contract.

    sweep_00001_/
        01_blur_00.00.png ...   the levels: number of the picture from 1 in the sweep's order, name of the
                                values, value to two decimals
        sheet.png               the contact sheet
        sweep.webp              the animation, if one was asked for
        sweep.json              what the pictures are

``sweep.json`` is one object of strict JSON, version 1. A list has one entry a picture, in the sweep's order:

- ``format`` "comfyui-bokeh-sweep", ``format_version`` 1;
- ``name`` of the values ("blur", 0..30), the ``values``, their ``labels`` ("blur 12.5");
- ``pivot``: value of the pivot picture, null when nothing was grounded; ``pivot_row``: its index in the lists,
  from 0, null when it is not among the pictures;
- ``size``: ``width`` and ``height`` of the pictures in px;
- ``seed`` of the sampler, null if not known;
- ``files``: names of the ``levels`` (a list), of the ``sheet`` and of the ``animation`` (null without one);
- ``measures`` over the whole picture, as in the report: ``laplacian_variance`` (a list); ``lvcorr_k``, its correlation
  with the values as in Genfocus; ``by_rank``, that of the sharpness of windows by rank (``trend``); null where not
  defined.

PNG files carry the given metadata as text chunks, the animation as EXIF, both the way the host's own do.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files import BadName, inside, partial
from .measures import SMALLEST_SIDE, as_shown, laplacian_variance
from .sheet import contact_sheet
from .trend import by_rank, lvcorr_k, windows_sharpness
from .values import Sweep

FORMAT, FORMAT_VERSION = "comfyui-bokeh-sweep", 1
SHEET, ANIMATION, DESCRIPTION = "sheet.png", "sweep.webp", "sweep.json"

# The host's level: higher ones take long and save little.
PNG_COMPRESSION = 4
WEBP_QUALITY = 90
WEBP_LONGEST_SIDE = 16383
# Some thirty pictures of 1024 x 1024. A sheet is to be looked at as a whole, and viewers refuse far larger ones.
SHEET_PIXELS = 32_000_000
EXIF_MODEL = 0x0110
# Tags below it that hold text, or nothing that is defined.
EXIF_PLACES = 5
# Pictures a second; the time of one is whole milliseconds, in 24 bits.
SLOWEST, FASTEST = 0.1, 60.0

Progress = Callable[[int, int], None]


class ExportError(ValueError):
    """A sweep that cannot be saved; the text says what came, what was expected and what to do."""


@dataclass(frozen=True)
class SavedSweep:
    """A finished ``folder``, the names of the ``pictures`` in it (levels, contact sheet, animation), and ``notes``: a
    sentence for each thing that is not in them."""

    folder: Path
    pictures: tuple[str, ...]
    notes: tuple[str, ...] = ()


def checked_prefix(prefix: str, output: str | os.PathLike[str]) -> str:
    """``prefix`` as a plain relative path that stays in the folder ``output``.

    Raises:
        ExportError: for a prefix that names nothing, leads out of the folder or is no name.
    """
    try:
        return str(inside(output, prefix))
    except BadName as error:
        if error.why:
            text = f'The filename prefix "{error.name}" {error.why}. Write a name'
        elif os.path.abspath(os.path.join(output, prefix.strip())) == os.path.abspath(output):
            raise ExportError(
                f'The filename prefix "{error.name}" names no folder. Write a name such as "bokeh/sweep"; every save '
                "makes a new folder of that name with a number."
            ) from None
        else:
            text = f'The filename prefix "{error.name}" leads outside the output folder. Write a name inside it,'
        raise ExportError(f'{text} such as "bokeh/sweep".') from None


@contextmanager
def explained(called: str) -> Iterator[None]:
    """Turns every OSError of the block into an ExportError about writing to the folder that is ``called`` so."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"The sweep cannot be written to {called} ({error.strerror or error}). No unfinished sweep was left there. "
            "Free space, make the folder writable, or choose another filename prefix."
        ) from error


def save_sweep(
    images: Tensor,
    sweep: Sweep,
    parent: str | os.PathLike[str],
    name: str,
    counter: int = 1,
    *,
    frames_per_second: float | None = None,
    seed: int | None = None,
    metadata: Mapping[str, object] | None = None,
    on_progress: Progress | None = None,
    called: str | None = None,
) -> SavedSweep:
    """Write a sweep into a new folder ``<name>_<number>_`` below ``parent``.

    The folder appears when it is complete, or not at all, also if ``on_progress`` raises. One that is already
    there is never touched: the number goes up from ``counter`` until it is free. Pictures keep their size; only
    on a contact sheet that would pass 32 megapixels they are shrunk.

    Args:
        images: [B, H, W, 3 or 4] sRGB in 0..1; values outside are clipped, NaN becomes black.
        frames_per_second: speed of the animation, which goes up through the values and down again and then
            repeats without a jump; of pictures with the same value it shows the first. None for no animation.
        metadata: objects for JSON under their names ("prompt", "workflow"). One that cannot be written is left out.
        on_progress: gets the number of steps done and the number of all.
        called: what sentences call ``parent``, its path by default.

    Raises:
        ValueError: when the number of pictures does not fit the sweep.
        ExportError: for another shape, pictures too large for WebP, a speed that WebP cannot have, and when ``parent``
            cannot be written.
    """
    sweep.check(len(images))
    _check_shape(images, animated=frames_per_second is not None)
    if frames_per_second is not None and not SLOWEST <= frames_per_second <= FASTEST:
        raise ExportError(
            f"The animation is to show {frames_per_second:g} pictures a second, expected {SLOWEST:g} to {FASTEST:g}."
        )
    frames = animation_rows(sweep.values) if frames_per_second is not None else []
    step = _steps(len(images) + len(frames), on_progress)
    parent = Path(parent)
    texts, notes = _embeddable(metadata or {}, animated=bool(frames))
    unfinished = partial(parent)
    try:
        with explained(called or str(parent)):
            unfinished.mkdir(parents=True)
            info, levels, sharpness = _png_info(texts), _level_names(sweep), []
            for file, image in zip(levels, images, strict=True):
                _picture(image).save(unfinished / file, pnginfo=info, compress_level=PNG_COMPRESSION)
                sharpness.append(_sharpness(image))
                step()
            sheet = contact_sheet(_fitted(images), sweep.labels, marks=sweep.pivot_rows)[0]
            _picture(sheet).save(unfinished / SHEET, pnginfo=info, compress_level=PNG_COMPRESSION)
            if frames:
                _save_animation(unfinished / ANIMATION, images, frames, frames_per_second, texts, step)
            animation = ANIMATION if frames else None
            description = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "name": sweep.name,
                "values": sweep.values,
                "labels": sweep.labels,
                "pivot": sweep.pivot,
                "pivot_row": sweep.pivot_row,
                "size": {"width": images.shape[2], "height": images.shape[1]},
                "seed": seed,
                "files": {"levels": levels, "sheet": SHEET, "animation": animation},
                "measures": _measures(sweep.values, sharpness),
            }
            text = json.dumps(description, indent=2, allow_nan=False) + "\n"
            (unfinished / DESCRIPTION).write_text(text, encoding="utf-8")
            folder = _settle(unfinished, parent, name, counter)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return SavedSweep(folder, (*levels, SHEET, *([ANIMATION] if frames else [])), notes)


def animation_rows(values: Sequence[float]) -> list[int]:
    """Rows of the pictures from the lowest value up to the highest and back to the one before the lowest."""
    first: dict[float, int] = {}
    for row, value in enumerate(values):
        first.setdefault(value, row)
    up = [first[value] for value in sorted(first)]
    return up + up[-2:0:-1]


def find_seed(prompt: Mapping[str, dict] | None, node: str | None) -> int | None:
    """The seed behind the pictures that arrive at ``node``: that of the nearest node upstream of its input
    ``images`` with an input ``seed`` or ``noise_seed``.

    Args:
        prompt: the graph in the host's API form, {id: {"inputs": {name: value or [id, slot]}}}.

    Returns:
        None without such a node, and when the seed comes from a node that computes it.
    """
    nodes = prompt or {}
    waiting, seen = [_inputs(nodes, node).get("images")], set()
    # The list grows as it is read, so nearer nodes come before farther ones.
    for link in waiting:
        if not _is_link(link) or link[0] in seen:
            continue
        seen.add(link[0])
        inputs = _inputs(nodes, link[0])
        for key in ("seed", "noise_seed"):
            if key in inputs:
                return _integer(nodes, inputs[key])
        waiting += inputs.values()
    return None


def _inputs(nodes: Mapping[str, dict], node: str | None) -> dict:
    return nodes.get(node, {}).get("inputs", {})


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _integer(nodes: Mapping[str, dict], value: object) -> int | None:
    """An integer as it stands, or that of the linked node if it does nothing but hold one."""
    if _is_link(value):
        inputs = _inputs(nodes, value[0])
        value = next((inputs[key] for key in ("value", "seed", "noise_seed") if key in inputs), None)
    return value if type(value) is int else None


def _check_shape(images: Tensor, animated: bool) -> None:
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        raise ExportError(
            f"A sweep is saved as RGB or RGBA pictures [B, H, W, 3 or 4]; what came has the shape "
            f"{list(images.shape)}. Connect an IMAGE output."
        )
    height, width = images.shape[1:3]
    if animated and max(height, width) > WEBP_LONGEST_SIDE:
        raise ExportError(
            f"The pictures are {width} x {height} px, and a WebP animation holds at most {WEBP_LONGEST_SIDE} px a "
            "side. Switch the animation off, or scale the pictures down."
        )


def _steps(total: int, on_progress: Progress | None) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(min(done, total), total)

    return step


def _level_names(sweep: Sweep) -> list[str]:
    digits = max(2, len(str(len(sweep))))
    return [f"{i:0{digits}}_{sweep.name}_{value:05.2f}.png" for i, value in enumerate(sweep.values, 1)]


def _picture(image: Tensor) -> Image.Image:
    levels = (image.float().nan_to_num().clamp(0, 1) * 255).round()
    return Image.fromarray(levels.to(torch.uint8).cpu().numpy())


def _fitted(images: Tensor) -> Tensor:
    """The pictures without transparency, shrunk where all of them together have too many pixels for a sheet."""
    count, height, width = images.shape[:3]
    scale = math.sqrt(SHEET_PIXELS / (count * height * width))
    if scale >= 1:
        return images[..., :3]
    size = [max(1, int(scale * side)) for side in (height, width)]
    # One at a time: a whole sweep at once would need its memory again.
    small = [F.interpolate(image[None, ..., :3].movedim(-1, 1).float(), size=size, mode="area") for image in images]
    return torch.cat(small).movedim(1, -1)


def _save_animation(
    path: Path,
    images: Tensor,
    rows: list[int],
    frames_per_second: float,
    texts: Mapping[str, str],
    step: Callable[[], None],
) -> None:
    pictures = {row: _picture(images[row]) for row in sorted(rows)}
    for picture in pictures.values():
        # Pillow asks each frame for its position before encoding it, the one moment to stop a long animation.
        picture.seek = lambda _: step()
    first, *rest = (pictures[row] for row in rows)
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=round(1000 / frames_per_second),
        loop=0,
        quality=WEBP_QUALITY,
        method=4,
        # Every frame a key frame: as differences they are no smaller, and a level looks worse on the way down.
        kmin=0,
        kmax=1,
        exif=_exif(texts),
    )


def _embeddable(metadata: Mapping[str, object], animated: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """The metadata as JSON texts, and a sentence about what is left out: it is not worth the pictures."""
    texts, lost = {}, []
    for name, value in metadata.items():
        try:
            texts[name] = json.dumps(value)
            PngInfo().add_text(name, texts[name])
        except (TypeError, ValueError, AttributeError, RecursionError):
            texts.pop(name, None)
            lost.append(ascii(name)[:50])
    notes = [f"Not saved with the pictures, as it is no text that they can hold: {', '.join(lost)}."] if lost else []
    if animated and (beyond := [name for name in texts if name != "prompt"][EXIF_PLACES:]):
        notes.append(f"Saved with the pictures, but not with the animation, which is full: {', '.join(beyond)[:200]}.")
    return texts, tuple(notes)


def _png_info(texts: Mapping[str, str]) -> PngInfo:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    return info


def _exif(texts: Mapping[str, str]) -> Image.Exif:
    """As the host's: the prompt under Model, the first others under the tags from Make downwards."""
    exif = Image.Exif()
    others = [name for name in texts if name != "prompt"][:EXIF_PLACES]
    for place, name in enumerate(others, 1):
        exif[EXIF_MODEL - place] = f"{name}:{texts[name]}"
    if "prompt" in texts:
        exif[EXIF_MODEL] = f"prompt:{texts['prompt']}"
    return exif


def _sharpness(image: Tensor) -> tuple[float, float] | None:
    """Variance of the Laplacian, and sharpness of windows."""
    if min(image.shape[:2]) < SMALLEST_SIDE or not image.isfinite().all():
        return None
    shown = as_shown(image[None])
    return laplacian_variance(shown).item(), windows_sharpness(shown).item()


def _measures(values: Sequence[float], sharpness: list[tuple[float, float] | None]) -> dict:
    variances = [found and found[0] for found in sharpness]
    known = None not in sharpness
    return {
        "laplacian_variance": variances,
        "lvcorr_k": lvcorr_k(values, variances) if known else None,
        "by_rank": by_rank(values, [windows for _, windows in sharpness]) if known else None,
    }


def _settle(unfinished: Path, parent: Path, name: str, counter: int) -> Path:
    """Give the finished folder the first free number; returns where it is then."""
    while True:
        folder = parent / f"{name}_{counter:05}_"
        try:
            if not os.path.lexists(folder):
                # No full folder is replaced by this: of two processes one fails, and takes the next number.
                unfinished.rename(folder)
                return folder
        except OSError:
            if not os.path.lexists(folder):
                raise
        counter += 1
