"""Soft edges of depth maps become hard, and nothing else changes."""

import torch
import torch.nn.functional as F

from bokeh.optics import repair
from bokeh.optics.repair import enlarged, repaired


def planes(size: int = 96) -> torch.Tensor:
    disparity = torch.full((size, size), 0.1)
    disparity[20:70, 30:60] = 0.5
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disparity[(y - 60) ** 2 + (x - 64) ** 2 < 20**2] = 0.9
    return disparity


def test_soft_edges_become_hard_ones():
    sharp = planes()
    soft = F.avg_pool2d(F.pad(sharp[None, None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0, 0]
    quarter = F.interpolate(F.avg_pool2d(sharp[None, None], 2), scale_factor=2, mode="bilinear")[0, 0]
    for given in (soft, quarter):
        hard = repaired(given)
        values = torch.tensor([0.1, 0.5, 0.9])
        between = [(maps[..., None] - values).abs().amin(-1).gt(0.02).float().mean() for maps in (given, hard)]
        assert between[1] < 0.3 * between[0]
        assert (hard - sharp).abs().mean() < 0.6 * (given - sharp).abs().mean()


def test_hard_edges_and_slopes_stay():
    sharp = planes()
    assert (repaired(sharp) != sharp).float().mean() < 0.002
    slope = torch.linspace(0, 1, 200)[:, None].expand(200, 50)
    assert torch.equal(repaired(slope), slope)


def test_bands_do_not_show(monkeypatch):
    sharp = planes()
    soft = F.avg_pool2d(F.pad(sharp[None, None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0, 0]
    whole, bands = repaired(soft), []
    monkeypatch.setattr(repair, "BAND", 17)
    assert torch.equal(repaired(soft), whole)
    repaired(soft, lambda: bands.append(1))
    assert len(bands) == 6


def painted(disparity: torch.Tensor) -> torch.Tensor:
    """A picture [H, W, 3] of surfaces, each of a colour, with a grain of their own."""
    colours = torch.stack([disparity, 1 - disparity, (disparity * 3) % 1], -1)
    return (colours + 0.05 * torch.randn(colours.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def small_of(disparity: torch.Tensor, times: int = 4) -> torch.Tensor:
    return F.avg_pool2d(disparity[None, None], times)[0, 0]


def test_a_small_map_has_its_edges_where_the_picture_has_them():
    sharp = planes()
    small = small_of(sharp)
    bilinear = repaired(F.interpolate(small[None, None], size=sharp.shape, mode="bilinear")[0, 0])
    by_picture = enlarged(small, painted(sharp))
    wrong = [((maps - sharp).abs() > 0.1).float().mean() for maps in (bilinear, by_picture)]
    assert wrong[1] < 0.3 * wrong[0]


def test_without_edges_a_small_map_is_bilinear_and_without_colours_it_has_no_other_surface():
    slope = torch.linspace(0, 1, 200)[:, None].expand(200, 40)
    bilinear = F.interpolate(slope[None, None], size=(597, 163), mode="bilinear")[0, 0]
    assert torch.equal(enlarged(slope, torch.rand(597, 163, 3)), bilinear)
    made = enlarged(small_of(planes()), torch.zeros(96, 96, 3))
    assert (made[..., None] - torch.tensor([0.1, 0.5, 0.9])).abs().amin(-1).gt(0.02).float().mean() < 0.02


def test_an_enlarged_maps_bands_do_not_show(monkeypatch):
    small, picture, bands = small_of(planes()), painted(planes()), []
    whole = enlarged(small, picture)
    monkeypatch.setattr(repair, "BAND", 17)
    torch.testing.assert_close(enlarged(small, picture, lambda: bands.append(1)), whole, rtol=0, atol=1e-5)
    assert len(bands) == 8
