"""A data set made of the pictures of a graph: each is checked like a row of a manifest before it joins.

    FOLDER/manifest.jsonl           its rows
    FOLDER/sharp/DIGEST.png         8-bit RGB
    FOLDER/depth/DIGEST.npy         disparity [H, W] float32, near is large
    FOLDER/masks/DIGEST.png         8 bit, white where the subject is

The digest is that of the picture, so the same picture is in a set once, however often it is made.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..files import flush_to_disk, partial
from .folders import DEPTH, MANIFEST_NAME, MASKS, SHARP
from .manifest import check_rows, raw_rows, write_manifest


def gather(
    folder: Path,
    images: Tensor,
    disparity: Tensor,
    masks: Tensor,
    captions: Sequence[str],
    size: int,
    name: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add pictures that are sharp all over to the data set in ``folder``, which is made where there is none.

    Args:
        images: [B, H, W, 3 or more] in 0..1.
        disparity: [B, h, w], larger is nearer.
        masks: [B, h, w], above 0.5 where the subject is, whose depth is what is in focus.
        captions: one for each picture.
        size: short side in px that training is to have; no picture may be smaller.
        name: what sentences call the set.
        on_progress: called with (pictures done, pictures in all); an exception from it leaves the set as it was.

    Returns:
        how many pictures the set did not have yet.

    Raises:
        ManifestError: naming all pictures that training could not use; none is added then.
        ValueError: when the manifest that is there cannot be read.
        OSError: when the disk refuses.
    """
    manifest = folder / MANIFEST_NAME
    rows = raw_rows(manifest, name) if manifest.exists() else []
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = partial(folder)
    try:
        added = []
        for number, caption in enumerate(captions):
            added.append(_write(unfinished, images[number], disparity[number], masks[number], caption))
            if on_progress is not None:
                on_progress(number + 1, len(captions))
        check_rows(added, unfinished, size, name=name)
        for path in sorted(file for file in unfinished.rglob("*") if file.is_file()):
            target = folder / path.relative_to(unfinished)
            target.parent.mkdir(exist_ok=True)
            flush_to_disk(path)
            os.replace(path, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    new = {row["picture"]: row for row in added}
    # In their old places: a run is gone on with on the same rows in the same order. Rows of its owner's may share one.
    rows = [new.pop(str(row.get("picture")), row) for row in rows]
    # Last, so that it never names what is not there.
    write_manifest(manifest, [*rows, *new.values()])
    return len(new)


def _write(folder: Path, image: Tensor, disparity: Tensor, mask: Tensor, caption: str) -> dict[str, object]:
    """Write the files of a picture and return its row."""
    file = io.BytesIO()
    _picture(image[..., :3]).save(file, "PNG", compress_level=4)
    digest = hashlib.sha256(file.getvalue()).hexdigest()[:16]
    names = {"picture": f"{SHARP}/{digest}.png", "depth": f"{DEPTH}/{digest}.npy", "mask": f"{MASKS}/{digest}.png"}
    paths = {key: folder / path for key, path in names.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    paths["picture"].write_bytes(file.getvalue())
    np.save(paths["depth"], disparity.float().cpu().numpy())
    _picture(mask).save(paths["mask"])
    return {**names, "caption": caption}


def _picture(values: Tensor) -> Image.Image:
    return Image.fromarray((values.float().clamp(0, 1) * 255).round().byte().cpu().numpy())
