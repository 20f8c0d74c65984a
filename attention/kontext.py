"""What is particular to the image-to-image adapter: a photo in, the photo at another blur out.

Source: BokehDepth (Zhang et al., arXiv 2512.12425) and its release. The photo is the graph's reference latent, its
tokens stand in every attention and hold the scene, so there is nothing left for a pivot to do. Its blur is K, drawn
from 1 to 30 in training.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..sweep.values import BLUR_MAX
from ..weights.format import Adapter
from ..weights.genfocus import Genfocus
from ..weights.settings import IMAGE_TO_IMAGE

K_MIN = 1.0


def reference_holds_scene(adapter: Adapter | None) -> bool:
    """Whether pictures of this adapter follow a reference latent, so that a sweep needs no pivot."""
    return adapter is not None and adapter.settings.variant == IMAGE_TO_IMAGE


def in_range(adapter: Adapter | None, blurs: Sequence[float]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The blurs that the adapter knows, 1..30 for an image-to-image adapter, and a note where that changed one."""
    if isinstance(adapter, Genfocus):
        raise ValueError(
            f"{adapter.source} is a file of Genfocus, which makes a photo sharp or refocuses it. Connect it to Bokeh "
            "All in Focus or Bokeh Refocus, and an adapter for blur here."
        )
    if not reference_holds_scene(adapter):
        return tuple(blurs), ()
    return at_least(K_MIN, blurs)


def at_least(lowest: float, blurs: Sequence[float]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The blurs raised to ``lowest``, and a note that names those which were."""
    small = sorted({blur for blur in blurs if blur < lowest})
    if not small:
        return tuple(blurs), ()
    named = ", ".join(f"{blur:g}" for blur in small)
    note = f"Blur {named} was raised to {lowest:g}: the adapter knows {lowest:g} to {BLUR_MAX:g}."
    return tuple(max(blur, lowest) for blur in blurs), (note,)
