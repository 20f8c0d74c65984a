"""Measures every picture of a sweep, scene by scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from . import measures, trend
from .report import Report, Sharpness, together
from .values import Sweep

# Pixels measured at once: some eight pictures of 512 x 512, so that memory does not follow the sweep.
PIXELS_AT_ONCE = 2**21
# Beyond 0..1 by more than rounding.
BEYOND = 1 / 255

Progress = Callable[[int, int], None]


def measure_sweep(
    images: Tensor,
    sweep: Sweep,
    mask: Tensor | None = None,
    progress: Progress | None = None,
    plain: Tensor | None = None,
    reference: Tensor | None = None,
) -> Report:
    """Measure every picture of a sweep.

    Args:
        images: [B, H, W, 3 or more], one a value of ``sweep``; measured as they are saved, cut off at 0 and 1.
        mask: the subject, [H, W] or [1, scenes or B, H, W]; sharpness is then measured apart in it and behind it.
        progress: called with the number of pictures done and their total; may raise to stop.
        plain: [1, H, W, 3 or more], the plain model's picture of the same seed, to set the sharpness against.
        reference: [B, H, W, 3], what a lens would show (``reference.rendered``).

    Returns:
        Of several scenes the means, with the report of each in ``scenes``.

    Raises:
        ValueError: when pictures, sweep, mask and plain picture do not fit together, or cannot be measured.
    """
    sweep.check(len(images))
    if plain is not None:
        _check_plain(plain, images)
        plain = measures.as_shown(plain)
    if mask is not None:
        mask = sweep.for_pictures(mask)
        measures.background_area(mask, images)
    network, missing = measures.lpips_network()
    reports = []
    for scene in range(sweep.scenes):
        rows = slice(scene * sweep.levels, (scene + 1) * sweep.levels)

        def on_picture(done: int, first: int = rows.start) -> None:
            if progress is not None:
                progress(first + done, len(images))

        reports.append(
            _measure_scene(
                images[rows],
                sweep.scene(scene),
                mask if mask is None or len(mask) == 1 else mask[rows],
                on_picture,
                plain,
                None if reference is None else reference[rows],
                network,
            )
        )
    report = together(reports)
    return replace(report, notes=(*report.notes, *_beyond(images), *([missing] if missing else [])))


def _measure_scene(
    images: Tensor,
    sweep: Sweep,
    mask: Tensor | None,
    on_picture: Callable[[int], None],
    plain: Tensor | None,
    reference: Tensor | None,
    network: torch.nn.Module | None,
) -> Report:
    pivot = measures.as_shown(images[sweep.reference_row][None])[0]
    regions: dict[str, Tensor | None] = {"picture": None}
    if mask is not None:
        regions["subject"] = measures.subject_area(mask, images)
        regions["background"] = measures.background_area(mask, images)
    kept_area = _kept_area(images, sweep, regions.get("subject"))

    sharpness = {name: ([], [], [], []) for name in regions}
    kept, alignment, ms_ssim, psnr = [], [], [], []
    step = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        part = measures.as_shown(images[start : start + step])

        def of_part(region: Tensor | None, start: int = start) -> Tensor | None:
            return region if region is None or len(region) == 1 else region[start : start + step]

        for name, region in regions.items():
            laplacian, brenner, windows, rendered = sharpness[name]
            laplacian += measures.laplacian_variance(part, of_part(region)).tolist()
            brenner += measures.brenner(part, of_part(region)).tolist()
            windows += trend.windows_sharpness(part, of_part(region)).tolist()
            if reference is not None:
                rendered += measures.laplacian_variance(reference[start : start + step], of_part(region)).tolist()
        if kept_area is not None:
            kept += measures.laplacian_variance(part, of_part(kept_area)).tolist()
        alignment += measures.alignment(part, pivot).tolist()
        ms_ssim += measures.ms_ssim(part, pivot).tolist()
        psnr += [None if math.isinf(x) else x for x in measures.psnr(part, pivot).tolist()]
        for done in range(start + 1, start + len(part) + 1):
            on_picture(done)

    areas = tuple(_summary(sweep.values, name, *numbers) for name, numbers in sharpness.items())
    if plain is not None:
        # The whole picture says nothing where subject and background are known.
        areas = (
            *areas[:-2],
            *(replace(area, plain=_plain_sharpness(plain, regions[area.area])) for area in areas[-2:]),
        )
    kept = trend.kept_sharpness(kept, sweep.sharpest_row) if kept else None
    return Report(
        sweep=sweep,
        areas=areas,
        kept=None if kept is None else tuple(kept),
        alignment=tuple(alignment),
        ms_ssim=tuple(ms_ssim),
        psnr=tuple(psnr),
        lpips=None if network is None else tuple(_neighbours(images, sweep, network, on_picture)),
        notes=tuple(_notes(sweep, areas)),
    )


def measure_pictures(
    images: Tensor,
    plain: Tensor,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Report, Tensor]:
    """Measure pictures that are no sweep against the plain model's picture.

    Args:
        plain: [1, H, W, 3 or more]; the other arguments are those of ``measure_sweep``.

    Returns:
        The report, in which the plain picture is row 0 and holds the scene, and the pictures it is about, [1 + B, ...].

    Raises:
        ValueError: when the pictures and the mask do not fit together.
    """
    _check_plain(plain, images)
    together = torch.cat((plain[..., :3], images[..., :3].to(plain)))
    if mask is not None and mask.ndim > 2 and len(mask) == len(images) > 1:
        mask = torch.cat((mask[:1], mask))
    numbers = range(len(together))
    sweep = Sweep(tuple(map(float, numbers)), 0.0, "picture", ("plain", *(f"picture {i}" for i in numbers[1:])))
    report = measure_sweep(together, sweep, mask, progress, plain)
    areas = tuple(replace(area, lvcorr_k=None, by_rank=None, in_order=None) for area in report.areas)
    notes = ("The pictures are no sweep, so LVCorr is not defined.", *report.notes)
    return replace(report, areas=areas, notes=notes, plain_row=0), together


def _beyond(images: Tensor) -> list[str]:
    count = sum(bool(((image[..., :3] < -BEYOND) | (image[..., :3] > 1 + BEYOND)).any()) for image in images)
    if not count:
        return []
    return [
        f"{count} of {len(images)} pictures have values outside 0 to 1; they were measured as they are saved, cut off "
        "there."
    ]


def _kept_area(images: Tensor, sweep: Sweep, subject: Tensor | None) -> Tensor | None:
    """Where sharpness is to be kept in a sweep over the blur, [1 or B, H, W]: the subject where it is known."""
    # Of another sweep the lowest value is not that of the sharpest picture.
    if sweep.name != "blur":
        return None
    if subject is not None or sweep.sharpest_row == sweep.softest_row:
        return subject
    ends = (measures.as_shown(images[row][None])[0] for row in (sweep.sharpest_row, sweep.softest_row))
    area = trend.part_in_focus(*ends)
    return None if area is None else area[None]


def _neighbours(
    images: Tensor, sweep: Sweep, network: torch.nn.Module, on_picture: Callable[[int], None]
) -> list[float | None]:
    """LPIPS of each picture to the one before it in the order of the values; None for the first."""
    order = sorted(range(len(sweep)), key=lambda row: sweep.values[row])
    found: list[float | None] = [None] * len(sweep)
    for before, after in pairwise(order):
        pair = measures.as_shown(images[before][None]), measures.as_shown(images[after][None])
        found[after] = measures.lpips(*pair, network).item()
        # The network takes seconds for large pictures on a CPU: the run may be stopped in between.
        on_picture(len(images))
    return found


def _check_plain(plain: Tensor, images: Tensor) -> None:
    if len(plain) != 1:
        raise ValueError(
            f"There are {len(plain)} plain pictures, expected one: the picture of the same seed and size without "
            "Bokeh Stage or a blur adapter. ImageFromBatch picks one out of a batch."
        )
    if plain.shape[1:3] != images.shape[1:3]:
        sizes = [f"{picture.shape[2]} x {picture.shape[1]}" for picture in (plain, images)]
        raise ValueError(
            f"The plain picture is {sizes[0]} px, but the pictures are {sizes[1]} px. Sample it at their size, with "
            "the same seed."
        )


def _plain_sharpness(plain: Tensor, region: Tensor | None) -> tuple[float, float]:
    area = None if region is None else region[:1]
    return measures.laplacian_variance(plain, area).item(), measures.brenner(plain, area).item()


def _summary(
    values: tuple[float, ...],
    area: str,
    laplacian: list[float],
    brenner: list[float],
    windows: list[float],
    reference: list[float],
) -> Sharpness:
    return Sharpness(
        area=area,
        laplacian=tuple(laplacian),
        brenner=tuple(brenner),
        lvcorr_k=trend.lvcorr_k(values, laplacian),
        by_rank=trend.by_rank(values, windows),
        in_order=trend.in_order(values, windows),
        reference=tuple(reference) or None,
        lvcorr_reference=trend.lvcorr_reference(reference, laplacian) if reference else None,
    )


def _notes(sweep: Sweep, areas: tuple[Sharpness, ...]) -> list[str]:
    if len(sweep) == 1:
        return ["One picture only: LVCorr and consistency need at least two levels."]
    if len(set(sweep.values)) == 1:
        return [f"All pictures have the same {sweep.name}, so LVCorr is not defined."]
    return [
        f"All pictures are equally sharp ({area.area}), so LVCorr is not defined."
        for area in dict.fromkeys((areas[0], areas[-1]))
        if area.lvcorr_k is None
    ]
