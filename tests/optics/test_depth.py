"""Depth pictures to disparities, and the focus in them."""

import math
import re

import pytest
import torch

from bokeh.optics.depth import AS_IS, EACH, SHARED, disparity_of, focus_at, focus_in, metric_disparity_of

RAMP = torch.linspace(0.2, 0.6, 12)[None, None].expand(1, 8, 12)


def grey(maps: torch.Tensor) -> torch.Tensor:
    """Maps [B, H, W] as the host's IMAGE."""
    return maps[..., None].repeat(1, 1, 1, 3)


def assert_refused(message: str, call, *args) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(*args)


def test_a_map_is_brought_to_its_full_range_bright_near_or_dark_near():
    bright, notes = disparity_of(grey(RAMP), True, 1, (8, 12))
    torch.testing.assert_close(bright[0, 0], torch.linspace(0, 1, 12), atol=1e-6, rtol=0)
    assert notes == []
    dark, _ = disparity_of(grey(RAMP), False, 1, (8, 12))
    assert torch.equal(dark, 1 - bright)


def test_maps_of_a_batch_share_a_range_have_their_own_or_are_taken_as_they_are():
    maps = grey(torch.cat([RAMP, RAMP * 0.5]))
    shared, _ = disparity_of(maps, True, 2, (8, 12), SHARED)
    torch.testing.assert_close(shared[0], (RAMP[0] - 0.1) / 0.5)
    # The same wall is as near in both frames of a clip, whatever else comes and goes.
    torch.testing.assert_close(shared[1], (RAMP[0] * 0.5 - 0.1) / 0.5)
    each, _ = disparity_of(maps, True, 2, (8, 12), EACH)
    torch.testing.assert_close(each[0], each[1], atol=1e-6, rtol=0)
    as_is, _ = disparity_of(maps, True, 2, (8, 12), AS_IS)
    torch.testing.assert_close(as_is, maps[..., 0])
    assert torch.equal(disparity_of(maps, True, 2, (8, 12))[0], shared)
    one, _ = disparity_of(grey(RAMP), True, 3, (8, 12))
    assert one.shape == (3, 8, 12)
    assert torch.equal(one[2], one[0])
    # A frame without any depth is one of a clip, but no still.
    flat = torch.cat([grey(RAMP), torch.full((1, 8, 12, 3), 0.4)])
    assert (disparity_of(flat, True, 2, (8, 12))[0][1] - 0.5).abs().max() < 1e-6


def test_a_hot_pixel_does_not_squeeze_the_rest_and_rounding_is_no_mistake():
    ramp = torch.linspace(0, 1, 64)[None, None].expand(1, 64, 64).clone()
    hot = ramp.clone()
    hot[0, 5, 5] = 40.0
    disparity, _ = disparity_of(grey(hot), True, 1, (64, 64))
    expected, _ = disparity_of(grey(ramp), True, 1, (64, 64))
    hot_pixel = hot == 40
    torch.testing.assert_close(disparity[~hot_pixel], expected[~hot_pixel], atol=0.01, rtol=0)
    assert disparity[hot_pixel] == 1
    assert disparity_of(grey(ramp * 1.0000001), True, 1, (64, 64), AS_IS)[0].max() == 1
    assert_refused(
        "The depth map goes from 0 to 40, expected 0 to 1 to be taken as it is. Choose another range, or a unit.",
        *(disparity_of, grey(hot), True, 1, (64, 64), AS_IS),
    )


def test_a_clip_may_be_stopped_at_each_map_whenever_all_are_gone_through():
    maps = (RAMP + torch.arange(5)[:, None, None] / 5)[..., None]

    def stops(call, *args, **settings) -> int:
        asked = []
        call(*args, **settings, on_band=lambda: asked.append(1))
        return len(asked)

    # For their extremes, for their ends and for the result; distances for whether they are any.
    for span in (EACH, SHARED):
        assert stops(disparity_of, maps, True, 5, (8, 12), span) >= 15
    assert stops(metric_disparity_of, maps, True, 5, (8, 12)) >= 15
    asked = []
    focus_in(maps[..., 0], torch.ones(8, 12), lambda: asked.append(1))
    assert len(asked) == 5


def test_metres_and_their_inverse_are_used_as_they_are():
    metres = grey(1 / (RAMP * 5))
    metres[0, 0, 0] = math.inf
    disparity, notes = metric_disparity_of(metres, True, 1, (8, 12))
    assert disparity[0, 0, 0] == 0
    torch.testing.assert_close(disparity[0, 1], RAMP[0, 0] * 5)
    assert notes == []
    torch.testing.assert_close(metric_disparity_of(grey(RAMP * 5), False, 2, (8, 12))[0][1], RAMP[0] * 5)
    assert_refused(
        "The depth map has 3 of 288 values that are not distances above 0. Give the distances as they are, not a "
        "picture of them, or choose what the map shows.",
        *(metric_disparity_of, with_a_zero(metres), True, 1, (8, 12)),
    )
    assert_refused(
        "The depth map goes down to -3, expected 0 (infinity) and more in 1/m. Choose what it shows.",
        *(metric_disparity_of, grey(RAMP * -5), False, 1, (8, 12)),
    )


def with_a_zero(depth: torch.Tensor) -> torch.Tensor:
    depth = depth.clone()
    depth[0, 2, 2] = 0
    return depth


def test_a_map_of_another_size_is_resized_with_a_note():
    disparity, notes = disparity_of(grey(RAMP), True, 1, (16, 24))
    assert disparity.shape == (1, 16, 24)
    assert (disparity[0, 0].diff() >= 0).all()
    assert disparity.min() >= 0
    assert disparity.max() <= 1
    assert notes == ["The depth map of 12 x 8 was resized to the picture's 24 x 16."]
    _, notes = disparity_of(grey(RAMP), True, 1, (16, 16))
    assert notes == [
        "The depth map of 12 x 8 was resized to the picture's 16 x 16. Its shape is another: check that the depth map "
        "belongs to this picture."
    ]


def test_bad_depth_is_refused():
    nan, infinite, coloured = grey(RAMP), grey(RAMP), grey(RAMP)
    nan[0, 0, :2] = math.nan
    infinite[0, 3, 4] = math.inf
    coloured[..., 2] = 0
    size = (8, 12)
    assert_refused(
        "The depth has the shape [8, 12, 3], expected [B, H, W, C]. Connect an IMAGE.",
        *(disparity_of, nan[0], True, 1, size),
    )
    assert_refused(
        "There are 2 depth maps for 3 pictures. Give one map for each picture, or one for all.",
        *(disparity_of, nan.repeat(2, 1, 1, 1), True, 3, size),
    )
    assert_refused(
        "There are 2 depth maps for 1 picture. Give one map for each picture, or one for all.",
        *(disparity_of, nan.repeat(2, 1, 1, 1), True, 1, size),
    )
    for bad, count in ((nan, 2), (infinite, 1)):
        assert_refused(
            f"The depth map has NaN or infinite values in {count} of its 96 pixels. Make it again, in full precision "
            "if need be.",
            *(disparity_of, bad, True, 1, size),
        )
    assert_refused(
        "The depth map is coloured. Set its node to grey output, without a colour scale.",
        *(disparity_of, coloured, True, 1, size),
    )
    assert_refused(
        "Depth map 2 of 2 has the same value, 0.5, everywhere: there is no depth to render a blur from. Check that it "
        "comes from a depth node and belongs to this picture.",
        *(disparity_of, torch.cat([grey(RAMP), torch.full((1, 8, 12, 3), 0.5)]), True, 2, size, EACH),
    )


def test_the_focus_is_the_disparity_at_a_point():
    disparity = torch.arange(96.0).reshape(1, 8, 12) / 95
    corners = ((0, 0, 0), (1, 0, 11), (0, 1, 84), (1, 1, 95), (0.5, 0.5, 54))
    for x, y, pixel in corners:
        assert focus_at(disparity, x, y).tolist() == [disparity.flatten()[pixel].item()]
    for x, y in ((1.2, 0.5), (0.5, -0.1), (math.nan, 0)):
        assert_refused(
            f"The focus point ({x:g}, {y:g}) is outside the picture. x goes from 0 (left) to 1 (right), y from 0 (top) "
            "to 1 (bottom).",
            *(focus_at, disparity, x, y),
        )


def test_the_focus_in_a_mask_is_the_median_of_what_it_shows():
    disparity = torch.linspace(0, 1, 12)[None, None].expand(2, 8, 12)
    mask = torch.zeros(2, 8, 12)
    mask[0, :, 2:5] = 1
    mask[1, :, 8:11] = 0.8
    focus, notes = focus_in(disparity, mask)
    assert torch.equal(focus, disparity[0, 0, [3, 9]])
    assert notes == []
    shared, _ = focus_in(disparity, mask[0])
    assert torch.equal(shared, disparity[0, 0, [3, 3]])
    resized, notes = focus_in(disparity, mask.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(resized, focus)
    assert notes == ["The mask of 24 x 16 was resized to the picture's 12 x 8."]
    with_channel, _ = focus_in(disparity, mask[:, None])
    assert torch.equal(with_channel, focus)


def test_bad_masks_are_refused():
    disparity = RAMP.expand(3, 8, 12)
    empty = "is empty: no pixel is above 0.5. Paint what is to be sharp, or disconnect it."
    assert_refused(f"The focus mask {empty}", focus_in, disparity, torch.zeros(8, 12))
    masks = torch.ones(3, 8, 12)
    masks[1] = 0.5
    assert_refused(f"Focus mask 2 of 3 {empty}", focus_in, disparity, masks)
    assert_refused(
        "There are 2 masks for 3 pictures. Give one mask for each picture, or one for all.",
        *(focus_in, disparity, masks[:2]),
    )
