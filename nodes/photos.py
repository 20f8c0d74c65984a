"""Photos of the input folder, by names that a stranger's workflow may have chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import folder_paths

from ..files import BadName, inside, real_inside


def check_photo(photo: str) -> None:
    """Raise ValueError for a name that leads out of the input folder, without a look at the disk."""
    _inside(inside, photo)


def photo_path(photo: str) -> Path:
    """Where a photo of the input folder lies; not one that only a link in there leads to.

    Raises:
        ValueError: one and the same for every name that leads out.
    """
    return _inside(real_inside, photo)


def _inside(find: Callable[[str, str], Path], photo: str) -> Path:
    try:
        return find(folder_paths.get_input_directory(), photo.removesuffix(" [input]"))
    except BadName as error:
        raise ValueError(f'There is no photo "{error.name}" in the input folder. Choose one of the list.') from None
