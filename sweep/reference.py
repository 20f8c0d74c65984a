"""The physically rendered reference of a sweep: its sharpest picture, blurred by its depth as a lens does it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..optics.depth import SHARED, disparity_of, focus_in
from ..optics.render import render_depth
from .measures import as_shown, subject_area
from .trend import part_in_focus
from .values import Sweep


def rendered_scenes(
    images: Tensor,
    sweep: Sweep,
    depth: Tensor,
    mask: Tensor | None = None,
    on_part: Callable[[int, int], None] | None = None,
    render: Callable[..., Tensor] = render_depth,
) -> tuple[Tensor, list[str]]:
    """``rendered`` for every scene of a sweep.

    Args:
        images: [B, H, W, 3 or more], one a value of ``sweep``.
        depth, mask: one for all, one a scene or one a picture, of which that of the sharpest counts.
        render: `render_depth`, wherever it is run.

    Raises:
        ValueError: as ``rendered``; for another number of maps; for a sweep over something else than the blur.
    """
    if sweep.name != "blur":
        raise ValueError(
            f"The reference is rendered at the blurs of a sweep, but this one is over {sweep.name}. Disconnect depth."
        )
    if len(depth) not in (1, sweep.scenes, len(sweep)):
        raise ValueError(
            f"There are {len(depth)} depth maps for {len(sweep)} pictures. Give one map, or one for each scene or "
            "picture."
        )
    if mask is not None:
        mask = subject_area(sweep.for_pictures(mask), images).float()
    made, notes = [], []
    for scene in range(sweep.scenes):
        row = scene * sweep.levels + sweep.sharpest_row

        def of_scene(maps: Tensor, scene: int = scene, row: int = row) -> Tensor:
            return maps[row if len(maps) == len(sweep) else scene if len(maps) == sweep.scenes else 0][None]

        def on_share(done: int, parts: int, scene: int = scene) -> None:
            if on_part is not None:
                on_part(scene * parts + done, sweep.scenes * parts)

        pictures = images[scene * sweep.levels : (scene + 1) * sweep.levels]
        pictures, told = rendered(
            pictures, sweep.scene(scene), of_scene(depth), None if mask is None else of_scene(mask), on_share, render
        )
        made.append(pictures)
        notes += told
    return torch.cat(made), list(dict.fromkeys(notes))


def rendered(
    images: Tensor,
    sweep: Sweep,
    depth: Tensor,
    mask: Tensor | None = None,
    on_part: Callable[[int, int], None] | None = None,
    render: Callable[..., Tensor] = render_depth,
) -> tuple[Tensor, list[str]]:
    """What a lens would show of one scene at the sweep's blurs, and sentences for the user.

    The blur K counts for the scene's whole range of depth, as in the pairs that the published adapter learned from. The
    plane of focus is the median depth of the mask; without one, of what keeps the most of its sharpness. A picture
    that already shows the blur a gets the discs that bring their variances to that of the blur b, sqrt(b^2 - a^2).

    Args:
        images: [B, H, W, 3 or more], one a value of ``sweep``, of one scene.
        depth: [1, h, w, C], grey, near things bright; resized to the pictures and repaired.
        mask: the subject in the sharpest picture, [1, H, W].
        on_part: called often with parts done and their total; may raise to stop.
        render: as for ``rendered_scenes``.

    Raises:
        ValueError: for a depth map or a mask that is none.
    """
    sharpest = sweep.sharpest_row
    missing = sorted(set(sweep.values) - {sweep.values[sharpest]})

    def on_band() -> None:
        if on_part is not None:
            on_part(0, max(1, len(missing)))

    sharp, soft = as_shown(images[[sharpest, sweep.softest_row]])
    size = tuple(sharp.shape[:2])
    disparity, notes = disparity_of(depth, True, 1, size, SHARED, pictures=sharp[None], on_band=on_band)
    if mask is None:
        mask = part_in_focus(sharp, soft)
    plane, told = (disparity.flatten(1).median(1).values, []) if mask is None else focus_in(disparity, mask)
    notes += told
    least = sweep.values[sharpest]
    if least > 0:
        notes.append(f"The reference starts from blur {least:g}: a sweep from 0 has one of its own sharp picture.")
    made: dict[float, Tensor] = {least: sharp[None]}
    for number, value in enumerate(missing):

        def on_share(done: int, parts: int, number: int = number) -> None:
            if on_part is not None:
                on_part(number * parts + done, len(missing) * parts)

        blur = math.sqrt(value**2 - least**2)
        made[value] = render(sharp[None], disparity, plane, blur=blur, behind=True, on_part=on_share)
    # Wherever the render ended up: with --gpu-only the pictures are elsewhere.
    place = made[sweep.values[sweep.softest_row]].device
    return torch.cat([made[value].to(place) for value in sweep.values]), notes
