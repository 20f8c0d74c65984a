"""The measures of a whole sweep: a table and the numbers that sum them up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import measures
from .values import Sweep, format_value

# Pixels measured at once: some eight pictures of 512 x 512, so that memory does not follow the sweep.
PIXELS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Sharpness:
    """Measured sharpness of one area of the pictures, one number a level.

    Attributes:
        area: "picture", "subject" or "background".
        laplacian: variance of the Laplacian (``measures.laplacian_variance``).
        brenner: Brenner gradient (``measures.brenner``).
        lvcorr: LVCorr by Pearson, None where it is not defined (``measures.lvcorr``).
        lvcorr_rank: LVCorr by rank, likewise.
        monotonicity: share of neighbouring requests in the right order, None for a single request.
        plain: the two measures of the plain model's picture in this area, None where there is none.
    """

    area: str
    laplacian: tuple[float, ...]
    brenner: tuple[float, ...]
    lvcorr: float | None
    lvcorr_rank: float | None
    monotonicity: float | None
    plain: tuple[float, float] | None = None

    @property
    def ratios(self) -> tuple[list[float | None], list[float | None]]:
        """Laplacian and Brenner of each picture over those of the plain picture (GBSD, table 1); None over 0."""
        laplacian, brenner = self.plain or (0.0, 0.0)
        return (
            [x / laplacian if laplacian else None for x in self.laplacian],
            [x / brenner if brenner else None for x in self.brenner],
        )


@dataclass(frozen=True)
class Report:
    """What was measured in a sweep, one number a level in the sweep's order.

    Attributes:
        sweep: values and pivot of the pictures.
        areas: the whole picture; with a mask also the subject and the background.
        alignment: ``measures.alignment`` to the picture of ``sweep.reference_row``.
        ms_ssim: multi-scale SSIM to it.
        psnr: in dB to it, None (infinite) for an equal picture.
        lpips: LPIPS to it, None where its package or its weights are not at hand.
        notes: sentences on what could not be measured.
        plain_row: row of the plain model's picture, where that is among the pictures.
    """

    sweep: Sweep
    areas: tuple[Sharpness, ...]
    alignment: tuple[float, ...]
    ms_ssim: tuple[float, ...]
    psnr: tuple[float | None, ...]
    lpips: tuple[float, ...] | None
    notes: tuple[str, ...]
    plain_row: int | None = None

    @property
    def followed(self) -> Sharpness:
        """The area that the blur is asked of: the background where it is known, else the whole picture."""
        return self.areas[-1]

    @property
    def lvcorr(self) -> float | None:
        """LVCorr of ``followed``, None where it is not defined."""
        return self.followed.lvcorr

    @property
    def consistency(self) -> float | None:
        """Mean alignment of the other pictures with the reference, None for a single picture."""
        return _mean_without(self.sweep.reference_row, self.alignment)

    @property
    def focused(self) -> Sharpness:
        """The area that is asked to stay sharp: the subject where it is known, else the whole picture."""
        return self.areas[min(1, len(self.areas) - 1)]

    def gains(self, area: Sharpness) -> tuple[float | None, float | None]:
        """Mean over the pictures of the Laplacian's and of Brenner's ratio to the plain picture in an area."""
        laplacian, brenner = area.ratios
        return _mean_without(self.plain_row, laplacian), _mean_without(self.plain_row, brenner)

    def headline(self) -> str:
        """The summary in one line."""
        line = f"LVCorr {_number(self.lvcorr)} · consistency {_number(self.consistency)}"
        if self.focused.plain is None:
            return line
        return f"{line} · {self._gain_in_words(self.focused)}"

    def _gain_in_words(self, area: Sharpness) -> str:
        laplacian, brenner = self.gains(area)
        return f"{area.area} Laplacian {_ratio(laplacian)}, Brenner {_ratio(brenner)}"

    def markdown(self) -> str:
        """Summary and a table with one row a level, as Markdown."""
        reference = self.sweep.labels[self.sweep.reference_row]
        meaning = "how well the measured blur follows the request, 1 = exactly"
        if self.sweep.name != "blur":
            meaning = f"correlation of the measured blur with the {self.sweep.name}, -1 to 1"
        lines = [
            f"**LVCorr {_number(self.lvcorr)}** ({self.followed.area}): {meaning}.  ",
            f"**Consistency {_number(self.consistency)}**: mean alignment with {reference}, 1 = the same scene.",
        ]
        compared = [area for area in self.areas[-2:] if area.plain is not None]
        if compared:
            lines[-1] += "  "
            gains = "; ".join(self._gain_in_words(area) for area in compared)
            lines.append(f"**Sharpness over the plain picture**, mean: {gains}.")
        lines += [
            "",
            "| area | LVCorr | by rank | in right order |",
            "| --- | ---: | ---: | ---: |",
        ]
        for area in self.areas:
            # Nobody asks the subject to blur: its correlation would be read as a fault or a merit.
            if area.area != "subject":
                numbers = (area.lvcorr, area.lvcorr_rank, area.monotonicity)
                lines.append(f"| {area.area} | {' | '.join(_number(x) for x in numbers)} |")
        columns = self._columns()
        lines += [
            "",
            f"| {self.sweep.name} | {' | '.join(columns)} |",
            f"| ---: |{' ---: |' * len(columns)}",
        ]
        for i, value in enumerate(self.sweep.values):
            names = [*self.sweep.captions[i : i + 1], *(["pivot"] if value == self.sweep.pivot else [])]
            mark = f" ({', '.join(names)})" if names else ""
            cells = " | ".join(column[i] for column in columns.values())
            lines.append(f"| {format_value(value)}{mark} | {cells} |")
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def numbers(self) -> dict[str, object]:
        """What was measured, as plain values for JSON; None where a number is not defined."""
        gains = {area.area: self.gains(area) for area in self.areas if area.plain is not None}
        return {
            "name": self.sweep.name,
            "pivot": self.sweep.pivot,
            "reference": self.sweep.reference_row,
            "area": self.followed.area,
            "lvcorr": self.lvcorr,
            "consistency": self.consistency,
            "laplacian_gain": {area: laplacian for area, (laplacian, _) in gains.items()},
            "brenner_gain": {area: brenner for area, (_, brenner) in gains.items()},
            "levels": [
                {
                    "value": value,
                    "label": self.sweep.labels[row],
                    "laplacian": {area.area: area.laplacian[row] for area in self.areas},
                    "brenner": {area.area: area.brenner[row] for area in self.areas},
                    "alignment": self.alignment[row],
                    "ms_ssim": self.ms_ssim[row],
                    "psnr": self.psnr[row],
                    "lpips": None if self.lpips is None else self.lpips[row],
                }
                for row, value in enumerate(self.sweep.values)
            ],
        }

    def _columns(self) -> dict[str, list[str]]:
        columns = {}
        for area in self.areas:
            columns[f"Laplacian, {area.area}"] = [f"{x:.2e}" for x in area.laplacian]
            columns[f"Brenner, {area.area}"] = [f"{x:.2e}" for x in area.brenner]
            if area.plain is not None:
                laplacian, brenner = area.ratios
                columns[f"Laplacian over plain, {area.area}"] = [_ratio(x) for x in laplacian]
                columns[f"Brenner over plain, {area.area}"] = [_ratio(x) for x in brenner]
        columns["alignment"] = [f"{x:.3f}" for x in self.alignment]
        columns["MS-SSIM"] = [f"{x:.3f}" for x in self.ms_ssim]
        columns["PSNR, dB"] = ["equal" if x is None else f"{x:.1f}" for x in self.psnr]
        if self.lpips is not None:
            columns["LPIPS"] = [f"{x:.3f}" for x in self.lpips]
        return columns


def measure_sweep(
    images: Tensor,
    sweep: Sweep,
    mask: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    plain: Tensor | None = None,
) -> Report:
    """Measure every picture of a sweep.

    Args:
        images: [B, H, W, 3 or more] in 0..1, one a value of ``sweep``.
        mask: the subject, [H, W] or [1 or B, H, W]; sharpness is then measured apart in it and behind it.
        progress: called with the number of pictures done and their total; may raise to stop.
        plain: [1, H, W, 3 or more], the plain model's picture of the same seed, to set the sharpness against.

    Raises:
        ValueError: when pictures, sweep, mask and plain picture do not fit together.
    """
    sweep.check(len(images))
    if plain is not None:
        _check_plain(plain, images)
    reference = images[sweep.reference_row]
    regions: dict[str, Tensor | None] = {"picture": None}
    if mask is not None:
        regions["subject"] = measures.subject_area(mask, images)
        regions["background"] = measures.background_area(mask, images)
    network = measures.lpips_network()

    sharpness = {name: ([], []) for name in regions}
    alignment, ms_ssim, psnr, lpips = [], [], [], []
    count = len(images)
    step = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    for start in range(0, count, step):
        part = images[start : start + step]
        for name, region in regions.items():
            area = region if region is None or len(region) == 1 else region[start : start + step]
            laplacian, brenner = sharpness[name]
            laplacian += measures.laplacian_variance(part, area).tolist()
            brenner += measures.brenner(part, area).tolist()
        alignment += measures.alignment(part, reference).tolist()
        ms_ssim += measures.ms_ssim(part, reference).tolist()
        psnr += [None if math.isinf(x) else x for x in measures.psnr(part, reference).tolist()]
        if network is not None:
            lpips += measures.lpips(part, reference, network).tolist()
        if progress is not None:
            for done in range(start + 1, start + len(part) + 1):
                progress(done, count)

    areas = tuple(_summary(sweep.values, name, *numbers) for name, numbers in sharpness.items())
    if plain is not None:
        # The whole picture says nothing where subject and background are known.
        areas = (
            *areas[:-2],
            *(replace(area, plain=_plain_sharpness(plain, regions[area.area])) for area in areas[-2:]),
        )
    return Report(
        sweep=sweep,
        areas=areas,
        alignment=tuple(alignment),
        ms_ssim=tuple(ms_ssim),
        psnr=tuple(psnr),
        lpips=None if network is None else tuple(lpips),
        notes=tuple(_notes(sweep, areas[-1])),
    )


def measure_pictures(
    images: Tensor,
    plain: Tensor,
    mask: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
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
    areas = tuple(replace(area, lvcorr=None, lvcorr_rank=None, monotonicity=None) for area in report.areas)
    notes = ("The pictures are no sweep, so LVCorr is not defined.", *report.notes)
    return replace(report, areas=areas, notes=notes, plain_row=0), together


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


def _mean_without(row: int | None, numbers: Sequence[float | None]) -> float | None:
    others = [x for i, x in enumerate(numbers) if i != row and x is not None]
    return math.fsum(others) / len(others) if others else None


def _summary(values: tuple[float, ...], area: str, laplacian: list[float], brenner: list[float]) -> Sharpness:
    blurs = measures.negative_logarithm(torch.tensor(laplacian, dtype=torch.float64)).tolist()
    return Sharpness(
        area=area,
        laplacian=tuple(laplacian),
        brenner=tuple(brenner),
        lvcorr=measures.correlation(values, blurs),
        lvcorr_rank=measures.correlation(values, blurs, "rank"),
        monotonicity=measures.monotonicity(values, blurs),
    )


def _notes(sweep: Sweep, followed: Sharpness) -> list[str]:
    if len(sweep) == 1:
        return ["One picture only: LVCorr and consistency need at least two levels."]
    if followed.lvcorr is not None:
        return []
    if len(set(sweep.values)) == 1:
        return [f"All pictures have the same {sweep.name}, so LVCorr is not defined."]
    return [f"All pictures are equally sharp ({followed.area}), so LVCorr is not defined."]


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _ratio(value: float | None) -> str:
    return "not defined" if value is None else f"x{value:.2f}"
