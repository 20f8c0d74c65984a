"""A report as Markdown: what sums it up, and one row a level."""

from __future__ import annotations

from .report import Report
from .values import format_value

# Begin the lines of the summary; `tools/sweep.py` prints these.
SCORE, CONSISTENCY, LVCORR, KEPT = "Bokeh score", "Consistency", "LVCorr", "Kept sharpness"
LPIPS = "LPIPS (VGG, neighbours)"
# Of an area and of a scene, the columns of both tables.
_NUMBERS = ("by_rank", "in_order", "lvcorr_k", "lvcorr_reference")


def headline(report: Report) -> str:
    """The summary in one line."""
    picture, parts = report.picture, {}
    if report.score is not None:
        parts[SCORE.lower()] = report.score
    if report.focused.plain is None:
        # With the gains over a plain picture the line is full.
        if report.kept_sharpness is not None:
            parts[KEPT.lower()] = report.kept_sharpness
        if picture.lvcorr_reference is not None:
            parts[f"{LVCORR} (reference)"] = picture.lvcorr_reference
        elif picture.lvcorr_k is not None:
            parts[k_name(report)] = picture.lvcorr_k
    parts["consistency"] = report.consistency
    line = " · ".join(f"{name} {number(value)}" for name, value in parts.items())
    if report.focused.plain is not None:
        line += f" · {_gain_in_words(report, report.focused)}"
    return f"{line[0].upper()}{line[1:]}"


def markdown(report: Report) -> str:
    """Summary and tables, as Markdown."""
    lines = [*(f"{line}  " for line in _summary(report)[:-1]), _summary(report)[-1], "", *_areas(report), ""]
    if report.scenes:
        lines += [*_scenes(report), ""]
    lines += _levels(report)
    if report.notes:
        lines += ["", *(f"- {note}" for note in report.notes)]
    return "\n".join(lines) + "\n"


def k_name(report: Report) -> str:
    """LVCorr with what was asked for: Genfocus' definition for a sweep over the blur K."""
    return f"{LVCORR} ({'K' if report.sweep.name == 'blur' else report.sweep.name})"


def _summary(report: Report) -> list[str]:
    picture, reference = report.picture, report.sweep.labels[report.sweep.reference_row]
    of = f", mean over {len(report.scenes)} scenes" if report.scenes else ""
    kept = "" if report.kept_sharpness is None else f", {KEPT.lower()} {number(report.kept_sharpness)}"
    lines = []
    if report.score is not None:
        what = "the subject" if len(report.areas) > 1 else "what stays sharpest"
        lines += [
            f"**{SCORE} {number(report.score)}** ({report.followed.area}{of}): the blur's correlation with the request "
            f"by rank, times the sharpness kept; 1 = perfect.",
            f"**{KEPT} {number(report.kept_sharpness)}**: of {what}, 1 = all of it.",
        ]
    if picture.lvcorr_reference is not None:
        lines.append(
            f"**{LVCORR} (reference) {number(picture.lvcorr_reference)}**{kept}: trend against a render by depth, as "
            "in Bokeh Diffusion; whole picture."
        )
    meaning = ", as in Genfocus" if report.sweep.name == "blur" else ""
    lines += [
        f"**{k_name(report)} {number(picture.lvcorr_k)}**{kept}: how sharpness falls with the {report.sweep.name}"
        f"{meaning}; whole picture.",
        f"**{CONSISTENCY} {number(report.consistency)}**: mean alignment with {reference}, 1 = the same scene.",
    ]
    if report.neighbours_lpips is not None:
        lines.append(f"**{LPIPS} {number(report.neighbours_lpips)}**: 0 = no difference from level to level.")
    compared = [area for area in report.areas[-2:] if area.plain is not None]
    if compared:
        gains = "; ".join(_gain_in_words(report, area) for area in compared)
        lines.append(f"**Sharpness over the plain picture**, mean: {gains}.")
    return lines


def _columns(report: Report) -> dict[str, str]:
    names = ("by rank", "in right order", k_name(report), f"{LVCORR} (reference)")
    columns = dict(zip(_NUMBERS, names, strict=True))
    if report.picture.lvcorr_reference is None:
        del columns["lvcorr_reference"]
    return columns


def _areas(report: Report) -> list[str]:
    columns = _columns(report)
    lines = [f"| area | {' | '.join(columns.values())} |", f"| --- |{' ---: |' * len(columns)}"]
    for area in report.areas:
        # Nobody asks the subject to blur: its correlation would be read as a fault or a merit.
        if area.area != "subject":
            lines.append(f"| {area.area} | {' | '.join(number(getattr(area, name)) for name in columns)} |")
    return lines


def _scenes(report: Report) -> list[str]:
    columns = _columns(report)
    names = ("score", "kept", *columns.values(), "consistency")
    lines = [f"| scene | {' | '.join(names)} |", f"| ---: |{' ---: |' * len(names)}"]
    for index, scene in enumerate(report.scenes, 1):
        followed = {"by_rank", "in_order"}
        cells = [getattr(scene.followed if name in followed else scene.picture, name) for name in columns]
        cells = [scene.score, scene.kept_sharpness, *cells, scene.consistency]
        lines.append(f"| {index} | {' | '.join(map(number, cells))} |")
    return lines


def _levels(report: Report) -> list[str]:
    sweep, columns = report.sweep, _level_columns(report)
    lines = [f"| {sweep.name} | {' | '.join(columns)} |", f"| ---: |{' ---: |' * len(columns)}"]
    for i, value in enumerate(sweep.values):
        names = [*sweep.captions[i : i + 1], *(["pivot"] if value == sweep.pivot else [])]
        mark = f" ({', '.join(names)})" if names else ""
        cells = " | ".join(column[i] for column in columns.values())
        lines.append(f"| {format_value(value)}{mark} | {cells} |")
    return lines


def _level_columns(report: Report) -> dict[str, list[str]]:
    columns = {}
    for area in report.areas:
        columns[f"Laplacian, {area.area}"] = [f"{x:.2e}" for x in area.laplacian]
        if area.reference is not None:
            columns[f"reference, {area.area}"] = [f"{x:.2e}" for x in area.reference]
        columns[f"Brenner, {area.area}"] = [f"{x:.2e}" for x in area.brenner]
        if area.plain is not None:
            laplacian, brenner = area.ratios
            columns[f"Laplacian over plain, {area.area}"] = [ratio(x) for x in laplacian]
            columns[f"Brenner over plain, {area.area}"] = [ratio(x) for x in brenner]
    if report.kept is not None:
        columns["kept"] = [f"{x:.3f}" for x in report.kept]
    columns["alignment"] = [f"{x:.3f}" for x in report.alignment]
    columns["MS-SSIM"] = [f"{x:.3f}" for x in report.ms_ssim]
    columns["PSNR, dB"] = ["equal" if x is None else f"{x:.1f}" for x in report.psnr]
    if report.lpips is not None:
        columns["LPIPS to the level before"] = ["" if x is None else f"{x:.3f}" for x in report.lpips]
    return columns


def _gain_in_words(report: Report, area) -> str:
    laplacian, brenner = report.gains(area)
    return f"{area.area} Laplacian {ratio(laplacian)}, Brenner {ratio(brenner)}"


def number(value: float | None) -> str:
    """Three decimals, or that it is not defined."""
    return "not defined" if value is None else f"{value:.3f}"


def ratio(value: float | None) -> str:
    """Such as x3.81."""
    return "not defined" if value is None else f"x{value:.2f}"
