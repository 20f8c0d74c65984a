"""Clips: memory beside what comes and goes does not grow with the frames, progress is told in frames, and it stops."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import pytest
import torch
from focus_inputs import SETTINGS
from memory import PeakMemory

from bokeh.nodes.focus import BokehFocus

SIZE = (256, 384)
FRAME = 4 * SIZE[0] * SIZE[1]


def clip(frames: int, **changed):
    """A clip whose pictures take the memory of one, and whose depth walks from left to right."""
    walk = torch.linspace(0, 1, SIZE[1]).roll(5).expand(frames, *SIZE).clone()
    walk += torch.arange(frames)[:, None, None] / frames
    image = torch.rand(1, *SIZE, 3).expand(frames, -1, -1, -1)
    return {**SETTINGS, "image": image, "depth": walk[..., None], **changed}


def beside(frames: int, **changed) -> int:
    """Bytes at the peak of a run of Bokeh Focus besides what it gives: the focus, the defocus, what is in focus."""
    given = clip(frames, **changed)
    with PeakMemory() as memory:
        done = BokehFocus.execute(**given)
    assert len(done.result[0]) == frames
    return memory.peak - 3 * frames * FRAME


@pytest.mark.parametrize(
    "changed",
    [{}, {"lens": "50 mm f/1.8, 36 x 24 mm"}, {"depth_is": "near is dark", "pull": "eased"}, {"depth_is": "1/m"}],
    ids=str,
)
def test_memory_beside_the_clip_does_not_grow_with_its_frames(changed):
    beside(2, **changed)  # what the libraries take once
    # A copy of all depth would be 96 more than the samples that its ends are found by.
    assert min(beside(96, **changed) for _ in range(2)) < 72 * FRAME


def test_progress_is_told_in_frames_from_the_first_on_and_a_clip_can_be_stopped(monkeypatch):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: told.append((value, total)))
    BokehFocus.execute(**clip(12))
    assert told == [(frame, 36) for frame in range(1, 37)]
    stop = {"after": 5}

    def interrupt():
        stop["after"] -= 1
        if not stop["after"]:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        BokehFocus.execute(**clip(12))


def test_frames_are_the_same_in_a_clip_and_with_one_map_for_all():
    given = clip(5, lens="85 mm f/1.4, 36 x 24 mm", focus_by="distances", distances="2")
    focus, defocus, in_focus, _ = BokehFocus.execute(**given).result
    for row in range(5):
        torch.testing.assert_close(focus.defocus(row), defocus[row], rtol=0, atol=0)
        torch.testing.assert_close(focus.in_focus(row), in_focus[row], rtol=0, atol=0)
    still = given["depth"][:1]
    one = BokehFocus.execute(**given | {"depth": still}).result
    many = BokehFocus.execute(**given | {"depth": still.expand(5, -1, -1, -1)}).result
    torch.testing.assert_close(one[1], many[1], rtol=0, atol=0)
    assert one[0].disparity.shape == (1, *SIZE)
    assert one[3] == many[3]
