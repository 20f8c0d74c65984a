"""Contact sheets: every picture untouched in its place, every caption readable."""

import math
import re

import pytest
import torch

from bokeh.sweep.sheet import ACCENT, PAGE, automatic_columns, contact_sheet

LABELS = ("blur 0", "blur 7.5", "blur 15", "blur 22.5", "blur 30")


def pictures(count: int, height: int = 96, width: int = 128, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(3))


def place_of(sheet: torch.Tensor, image: torch.Tensor) -> tuple[int, int]:
    """Row and column of the sheet's pixel where the picture starts; fails unless it is there bit for bit."""
    corners = (sheet[0, : 1 - image.shape[0], : 1 - image.shape[1]] == image[0, 0, :3]).all(-1).nonzero()
    for y, x in corners.tolist():
        if torch.equal(sheet[0, y : y + image.shape[0], x : x + image.shape[1]], image[..., :3]):
            return y, x
    raise AssertionError("the picture is not on the sheet")


def test_pictures_are_unchanged_and_in_reading_order():
    images = pictures(5)
    sheet = contact_sheet(images, LABELS, columns=2)
    places = [place_of(sheet, image) for image in images]
    rows = sorted({y for y, _ in places})
    columns = sorted({x for _, x in places})
    assert (len(rows), len(columns)) == (3, 2)
    assert [(rows.index(y), columns.index(x)) for y, x in places] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert sheet.dtype == torch.float32


@pytest.mark.parametrize("side", [16, 64, 512, 2048])
def test_every_caption_is_written_under_its_picture(side):
    images = pictures(2, side, side)
    sheet = contact_sheet(images, ("blur 0", "blur 12.5"), columns=2, marks=(1,))
    page = torch.tensor(PAGE) / 255
    for image in images:
        y, x = place_of(sheet, image)
        strip = sheet[0, y + side :, x : x + side]
        ink = (strip - page).abs().amax(-1) > 0.3
        assert ink.any(), "no caption"
        lines = ink.any(1).nonzero().flatten()
        assert lines.max() < len(strip) - 1, "the caption is cut off"
    if side >= 64:
        assert ink[3:].any(1).sum() >= 0.03 * side


def test_a_picture_of_nan_is_black_and_its_caption_says_so():
    images = pictures(2)
    plain = contact_sheet(images, LABELS[:2], columns=2)
    images[1, 3, 5] = float("nan")
    images[1, 4, 5] = float("inf")
    sheet = contact_sheet(images, LABELS[:2], columns=2)
    assert sheet.isfinite().all()
    y, x = place_of(sheet, images[0])
    half = slice(None), slice(None), slice(x + images.shape[2] + 1, None)
    assert torch.equal(sheet[..., : x + images.shape[2], :], plain[..., : x + images.shape[2], :])
    captions = [picture[half][0, y + images.shape[1] :] for picture in (plain, sheet)]
    assert not torch.equal(*captions)


def test_only_the_marked_caption_has_the_accent():
    images = pictures(5)
    plain = contact_sheet(images, LABELS, columns=5)
    marked = contact_sheet(images, LABELS, columns=5, marks=(2,))
    accent = (marked[0] == torch.tensor(ACCENT) / 255).all(-1)
    assert not (plain[0] == torch.tensor(ACCENT) / 255).all(-1).any()
    _, x = place_of(marked, images[2])
    columns = accent.any(0).nonzero().flatten()
    assert columns.min() == x
    assert columns.max() < x + 128


def test_a_marked_caption_on_a_narrow_picture_takes_two_lines():
    images = pictures(2, 64, 48)
    marked = contact_sheet(images, ("blur 12.5", "blur 15"), marks=(0,))
    plain = contact_sheet(images, ("blur 12.5", "blur 15"))
    assert marked.shape[1] > plain.shape[1]


def test_automatic_columns_come_near_a_landscape_page():
    wanted = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4, 9: 3, 12: 4, 24: 6, 30: 6}
    assert {count: automatic_columns(count, 1, 1.1) for count in wanted} == wanted
    for shape in ((1, 1.1), (1.5, 1.1), (1, 1.6)):
        for count in range(1, 201):
            columns = automatic_columns(count, *shape)
            rows = math.ceil(count / columns)
            assert count - (rows - 1) * columns >= columns / 2, f"{count} in {columns} columns"
            if count >= 12:
                assert 0.75 < columns * shape[0] / (rows * shape[1]) < 3


def test_more_columns_than_pictures_leave_no_empty_cells():
    images = pictures(2)
    assert contact_sheet(images, LABELS[:2], columns=9).shape == contact_sheet(images, LABELS[:2], 2).shape


def test_further_channels_are_left_out():
    images = pictures(2, channels=4)
    assert torch.equal(contact_sheet(images, LABELS[:2]), contact_sheet(images[..., :3], LABELS[:2]))


def assert_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_bad_input_is_named():
    images = pictures(3)
    assert_refused(
        lambda: contact_sheet(images, LABELS),
        "A contact sheet needs one label a picture, but got 3 pictures and 5 labels. Connect the pictures and the "
        "sweep of the same run.",
    )
    assert_refused(
        lambda: contact_sheet(images, LABELS[:3], columns=-1),
        "A contact sheet cannot have -1 columns. Use 1 or more, or 0 for automatic.",
    )
    assert_refused(
        lambda: contact_sheet(images[..., 0], LABELS[:3]),
        "A contact sheet takes a batch of RGB pictures [B, H, W, 3]; what came has the shape [3, 96, 128]. Connect "
        "an IMAGE output.",
    )
