"""What was measured in a sweep, and the numbers that sum it up. `measure` measures, `table` writes it down."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .values import Sweep


@dataclass(frozen=True)
class Sharpness:
    """Measured sharpness of one area of the pictures, one number a level.

    Attributes:
        area: "picture", "subject" or "background".
        laplacian: variance of the Laplacian (``measures.laplacian_variance``).
        brenner: Brenner gradient (``measures.brenner``).
        lvcorr_k: see ``trend``; None where not defined.
        by_rank, in_order: of ``trend.windows_sharpness``, likewise.
        reference: variances of the rendered reference, None without one.
        lvcorr_reference: see ``trend``; None where not defined.
        plain: the two measures of the plain model's picture in this area, None where there is none.
    """

    area: str
    laplacian: tuple[float, ...]
    brenner: tuple[float, ...]
    lvcorr_k: float | None
    by_rank: float | None
    in_order: float | None
    reference: tuple[float, ...] | None = None
    lvcorr_reference: float | None = None
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
    """What was measured in one scene's sweep, one number a level in the sweep's order; or the means over scenes.

    Attributes:
        sweep: values and pivot of the pictures, of one scene.
        areas: the whole picture; with a mask also the subject and the background.
        kept: share of its sharpness that the subject keeps (``trend.kept_sharpness``), None where not defined and for
            a sweep over something else than the blur.
        alignment: ``measures.alignment`` to the picture of ``sweep.reference_row``.
        ms_ssim: multi-scale SSIM to it.
        psnr: in dB to it, None (infinite) for an equal picture.
        lpips: LPIPS to the level before in the order of the values (None for the first), None where its package or
            its weights are not at hand.
        notes: sentences on what could not be measured.
        plain_row: row of the plain model's picture, where that is among the pictures.
        scenes: the scenes that this is the mean of; none for a single one.
    """

    sweep: Sweep
    areas: tuple[Sharpness, ...]
    kept: tuple[float, ...] | None
    alignment: tuple[float, ...]
    ms_ssim: tuple[float, ...]
    psnr: tuple[float | None, ...]
    lpips: tuple[float | None, ...] | None
    notes: tuple[str, ...]
    plain_row: int | None = None
    scenes: tuple[Report, ...] = ()

    @property
    def picture(self) -> Sharpness:
        """The whole picture, which the definitions of LVCorr are about."""
        return self.areas[0]

    @property
    def followed(self) -> Sharpness:
        """The area that the blur is asked of: the background where it is known, else the whole picture."""
        return self.areas[-1]

    @property
    def focused(self) -> Sharpness:
        """The area that is asked to stay sharp: the subject where it is known, else the whole picture."""
        return self.areas[min(1, len(self.areas) - 1)]

    @property
    def kept_sharpness(self) -> float | None:
        """Mean over all levels but the sharpest of what the subject keeps; without a mask, of what keeps the most."""
        return None if self.kept is None else mean(self.kept, self.sweep.sharpest_row)

    @property
    def score(self) -> float | None:
        """The bokeh score, -1..1: correlation by rank of the area followed, times the sharpness that is kept."""
        if self.scenes:
            return mean(scene.score for scene in self.scenes)
        if self.followed.by_rank is None or self.kept_sharpness is None:
            return None
        return self.followed.by_rank * self.kept_sharpness

    @property
    def consistency(self) -> float | None:
        """Mean alignment of the other pictures with the reference, None for a single picture."""
        return mean(self.alignment, self.sweep.reference_row)

    @property
    def neighbours_lpips(self) -> float | None:
        """LPIPS (VGG), mean over neighbouring levels."""
        return None if self.lpips is None else mean(self.lpips)

    def gains(self, area: Sharpness) -> tuple[float | None, float | None]:
        """Mean over the pictures of the Laplacian's and of Brenner's ratio to the plain picture in an area."""
        laplacian, brenner = area.ratios
        return mean(laplacian, self.plain_row), mean(brenner, self.plain_row)

    def numbers(self) -> dict[str, object]:
        """What was measured, as plain values for JSON; None where a number is not defined."""
        gains = {area.area: self.gains(area) for area in self.areas if area.plain is not None}
        return {
            "name": self.sweep.name,
            "pivot": self.sweep.pivot,
            "reference": self.sweep.reference_row,
            "area": self.followed.area,
            "score": self.score,
            "kept_sharpness": self.kept_sharpness,
            "lvcorr_reference": self.picture.lvcorr_reference,
            "lvcorr_k": self.picture.lvcorr_k,
            "by_rank": self.followed.by_rank,
            "in_order": self.followed.in_order,
            "consistency": self.consistency,
            "lpips": self.neighbours_lpips,
            "laplacian_gain": {area: laplacian for area, (laplacian, _) in gains.items()},
            "brenner_gain": {area: brenner for area, (_, brenner) in gains.items()},
            "levels": [
                {
                    "value": value,
                    "label": self.sweep.labels[row],
                    "laplacian": {area.area: area.laplacian[row] for area in self.areas},
                    "rendered": {area.area: area.reference[row] for area in self.areas if area.reference},
                    "brenner": {area.area: area.brenner[row] for area in self.areas},
                    "kept": None if self.kept is None else self.kept[row],
                    "alignment": self.alignment[row],
                    "ms_ssim": self.ms_ssim[row],
                    "psnr": self.psnr[row],
                    "lpips": None if self.lpips is None else self.lpips[row],
                }
                for row, value in enumerate(self.sweep.values)
            ],
            "scenes": [scene.numbers() for scene in self.scenes],
        }


def mean(numbers: Iterable[float | None], left_out: int | None = None) -> float | None:
    """Mean of those that are defined, without the one of index ``left_out``; None where there are none."""
    defined = [x for i, x in enumerate(numbers) if i != left_out and x is not None]
    return math.fsum(defined) / len(defined) if defined else None


def together(reports: Sequence[Report]) -> Report:
    """The means over the scenes of one sweep."""
    if len(reports) == 1:
        return reports[0]
    first, sweep = reports[0], reports[0].sweep
    if any(report.sweep != sweep for report in reports):
        sweep = replace(sweep, values=_means(report.sweep.values for report in reports), captions=())
    areas = []
    for parts in zip(*(report.areas for report in reports), strict=True):
        numbers = {
            name: mean(getattr(part, name) for part in parts)
            for name in ("lvcorr_k", "lvcorr_reference", "by_rank", "in_order")
        }
        plain = None if parts[0].plain is None else tuple(map(mean, zip(*(part.plain for part in parts), strict=True)))
        areas.append(
            replace(
                parts[0],
                **numbers,
                laplacian=_means(part.laplacian for part in parts),
                brenner=_means(part.brenner for part in parts),
                reference=_means(part.reference for part in parts),
                plain=plain,
            )
        )
    return replace(
        first,
        sweep=sweep,
        areas=tuple(areas),
        kept=_means(report.kept for report in reports),
        alignment=_means(report.alignment for report in reports),
        ms_ssim=_means(report.ms_ssim for report in reports),
        psnr=_means(report.psnr for report in reports),
        lpips=_means(report.lpips for report in reports),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        scenes=tuple(reports),
    )


def _means(lists: Iterable[Sequence[float | None] | None]) -> tuple[float | None, ...] | None:
    """The mean at each level over the scenes that have a list."""
    known = [numbers for numbers in lists if numbers is not None]
    return tuple(map(mean, zip(*known, strict=True))) if known else None
