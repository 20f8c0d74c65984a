"""The latent batch of a sweep: every scene once for each value."""

from __future__ import annotations

from comfy.utils import repeat_to_batch_size


def repeat_scenes(latent: dict, count: int) -> dict:
    """Every picture of a latent ``count`` times, one scene after the other.

    ``batch_index`` lets the host start the rows of a scene from the noise that its picture has in an ordinary batch.
    """
    samples, scenes = latent["samples"], latent["samples"].shape[0]
    numbers = latent.get("batch_index", range(scenes))
    repeated = {**latent, "batch_index": [number for number in numbers for _ in range(count)]}
    repeated["samples"] = samples.repeat_interleave(count, dim=0)
    mask = latent.get("noise_mask")
    if mask is not None and mask.ndim > 2:
        if samples.ndim == 4 and mask.shape[0] not in (1, count, scenes * count):
            # As the host brings masks to a batch, which would be that of all rows.
            mask = repeated["noise_mask"] = repeat_to_batch_size(mask, scenes)
        if mask.shape[0] == scenes > 1:
            repeated["noise_mask"] = mask.repeat_interleave(count, dim=0)
    return repeated


def repeat_scene(latent: dict, count: int, name: str) -> dict:
    """``repeat_scenes`` for a sweep of one scene.

    Args:
        latent: LATENT with one picture.
        count: number of values in the sweep.
        name: what the values are, as in ``Sweep.name``.

    Raises:
        ValueError: when the latent holds several pictures.
    """
    batch = latent["samples"].shape[0]
    if batch != 1:
        raise ValueError(
            f"A sweep is one scene, but its latent is a batch of {batch}. Set the batch size of the latent to 1, or "
            f"pick one with LatentFromBatch; the sweep makes one row for each {name} by itself."
        )
    return repeat_scenes(latent, count)
