"""Contact sheets: every picture of a sweep on one page, with a caption."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Neutral and darker than most pictures, so that the page neither tints nor outshines them.
PAGE = (38, 38, 38)
TEXT = (205, 205, 205)
ACCENT = (240, 178, 84)

LANDSCAPE = 3 / 2
# Weight of an unfilled last row against a page that is off 3:2 (as a logarithm of the ratio).
GAP_WEIGHT = 0.8
MARK = "pivot"
SMALLEST_TEXT = 10
TINIEST_TEXT = 7


def contact_sheet(images: Tensor, labels: Sequence[str], columns: int = 0, marks: Collection[int] = ()) -> Tensor:
    """Lay pictures out in rows, in their order, each over a caption.

    Pictures are neither resized nor requantised: the values of each appear unchanged on the sheet.

    Args:
        images: [B, H, W, 3 or more] in 0..1; channels after the third are left out.
        labels: one caption a picture. That of a picture with NaN or infinite values, which are black, says so.
        columns: pictures in a row; 0 chooses the number that brings the sheet nearest to 3:2 without
            leaving the last row less than half full.
        marks: rows of ``images`` whose captions are marked as pivots.

    Returns:
        [1, sheet height, sheet width, 3] float32 in 0..1.

    Raises:
        ValueError: for another shape, no picture, or as many captions as pictures.
    """
    if images.ndim != 4 or images.shape[-1] < 3 or len(images) == 0:
        raise ValueError(
            f"A contact sheet takes a batch of RGB pictures [B, H, W, 3]; what came has the shape "
            f"{list(images.shape)}. Connect an IMAGE output."
        )
    if len(labels) != len(images):
        raise ValueError(
            f"A contact sheet needs one label a picture, but got {len(images)} pictures and {len(labels)} "
            f"labels. Connect the pictures and the sweep of the same run."
        )
    if columns < 0:
        raise ValueError(f"A contact sheet cannot have {columns} columns. Use 1 or more, or 0 for automatic.")

    count, height, width = images.shape[:3]
    whole = [bool(image.isfinite().all()) for image in images]
    labels = [label if fine else f"{label}: NaN" for label, fine in zip(labels, whole, strict=True)]
    captions = _Captions(labels, marks, width, height)
    gutter = max(3, round(0.03 * min(width, height)))
    step_x, step_y = width + gutter, height + captions.height + gutter
    columns = min(columns, count) or automatic_columns(count, step_x, step_y)
    rows = math.ceil(count / columns)

    sheet = torch.empty(1, rows * step_y + gutter, columns * step_x + gutter, 3)
    sheet[:] = torch.tensor(PAGE) / 255
    for i in range(count):
        x, y = gutter + i % columns * step_x, gutter + i // columns * step_y
        sheet[0, y : y + height, x : x + width] = images[i, ..., :3].nan_to_num(0, 0, 0)
        sheet[0, y + height : y + height + captions.height, x : x + width] = captions.draw(i)
    return sheet


def automatic_columns(count: int, cell_width: float, cell_height: float) -> int:
    """Number of columns that brings ``count`` cells nearest to a 3:2 page, the last row at least half full."""

    def cost(columns: int) -> tuple[bool, float]:
        rows = math.ceil(count / columns)
        ratio = columns * cell_width / (rows * cell_height)
        gap = (rows * columns - count) / columns
        return gap > 0.5, abs(math.log(ratio / LANDSCAPE)) + GAP_WEIGHT * gap

    return min(range(1, count + 1), key=cost)


class _Captions:
    """The strips under the pictures: all in one size, marked ones in two lines where one is too narrow."""

    def __init__(self, labels: Sequence[str], marks: Collection[int], width: int, height: int) -> None:
        self.width, self.marks = width, marks
        wanted = max(SMALLEST_TEXT, round(0.05 * min(width, height)))
        one_line = [(f"{label} · {MARK}",) if i in marks else (label,) for i, label in enumerate(labels)]
        two_lines = [(label, MARK) if i in marks else (label,) for i, label in enumerate(labels)]
        size = self._fitting_size(one_line, wanted, SMALLEST_TEXT)
        self.lines = one_line if size else two_lines
        size = size or self._fitting_size(two_lines, wanted, TINIEST_TEXT) or TINIEST_TEXT
        self.font = ImageFont.load_default(size)
        self.pitch = round(1.3 * size)
        self.top = round(0.5 * size)
        self.height = self.top + self.pitch * max(len(lines) for lines in self.lines) + round(0.15 * size)

    def _fitting_size(self, captions: list[tuple[str, ...]], largest: int, smallest: int) -> int | None:
        texts = {text for lines in captions for text in lines}
        for size in range(largest, smallest - 1, -1):
            font = ImageFont.load_default(size)
            if all(font.getlength(text) <= self.width for text in texts):
                return size
        return None

    def draw(self, row: int) -> Tensor:
        marked = row in self.marks
        strip = Image.new("RGB", (self.width, self.height), PAGE)
        pen = ImageDraw.Draw(strip)
        if marked:
            pen.rectangle((0, 0, self.width, max(1, round(0.12 * self.font.size)) - 1), fill=ACCENT)
        for i, text in enumerate(self.lines[row]):
            position = (0, self.top + i * self.pitch)
            pen.text(position, self._shortened(text), font=self.font, fill=ACCENT if marked else TEXT)
        return torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)

    def _shortened(self, text: str) -> str:
        if self.font.getlength(text) <= self.width:
            return text
        while text and self.font.getlength(text + "…") > self.width:
            text = text[:-1]
        return text + "…"
