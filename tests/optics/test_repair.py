"""Soft edges of depth maps become hard, and nothing else changes."""

import torch
import torch.nn.functional as F

from bokeh.optics import repair
from bokeh.optics.repair import repaired


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
