"""The latent batch of a sweep: one scene, once for each value."""

from __future__ import annotations


def repeat_scene(latent: dict, count: int, name: str) -> dict:
    """The latent of one picture ``count`` times; ``batch_index`` lets the host start every row from the same noise.

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
    repeated = {**latent, "batch_index": latent.get("batch_index", [0]) * count}
    repeated["samples"] = latent["samples"].repeat(count, *[1] * (latent["samples"].ndim - 1))
    return repeated
