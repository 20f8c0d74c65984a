"""What is wrong with the pictures of a sweep, in sentences for the person who looks at them."""

from __future__ import annotations

from torch import Tensor

from .values import Sweep

# Pictures of 8 bits that differ by less look the same; a batch may round a row a little differently than its twin.
SAME = 1.5 / 255


def identical(images: Tensor, sweep: Sweep) -> bool:
    """Whether all pictures of a scene are the same although their values differ; where each scene has one picture only,
    all pictures.

    Args:
        images: [B, H, W, C] in 0..1, one a value of ``sweep``.
    """
    if len(set(sweep.values)) < 2:
        return False
    scenes = images.split(sweep.levels if sweep.levels > 1 else len(sweep))
    return all(bool(((image - scene[0]).abs() <= SAME).all()) for scene in scenes for image in scene[1:])


def broken(images: Tensor) -> tuple[str, ...]:
    """A sentence when pictures [B, H, W, C] have NaN or infinite values, which are saved and shown as black."""
    count = sum(not bool(image.isfinite().all()) for image in images)
    if not count:
        return ()
    return (
        f"{count} of {len(images)} pictures have NaN or infinite values, which show as black. Start ComfyUI with "
        "--fp32-vae, or use another precision for the model.",
    )


def remarks(images: Tensor, sweep: Sweep) -> tuple[str, ...]:
    """Sentences on pictures that cannot be what was asked for; none for those that can.

    Args:
        images: [B, H, W, C] in 0..1, one a value of ``sweep``.
    """
    if found := broken(images):
        return found
    if not identical(images, sweep):
        return ()
    if sweep.name == "blur":
        return (
            "These pictures are identical: is the model output of Bokeh Sweep connected? The sampler must get the "
            "model from there, and strength must not be 0.",
        )
    return (
        f"These pictures are identical, although their {sweep.name} differs: are all outputs of the node that makes "
        "the sweep connected to the sampler?",
    )
