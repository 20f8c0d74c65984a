"""Small data sets of blur pairs as real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

WIDTH, HEIGHT = 96, 64
# EXIF of a portrait on full frame: 50 mm, f/1.8, 2 m.
LENS = {"FocalLength": 50, "FocalLengthIn35mmFilm": 50, "FNumber": 1.8, "SubjectDistance": 2.0}


def texture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> np.ndarray:
    """[H, W, 3] uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def near_half(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Disparity [H, W] float32: a slope up to 0.4 on the left, the subject at 1 on the right."""
    disparity = np.tile(np.linspace(0, 0.8, width, dtype=np.float32), (height, 1))
    disparity[:, width // 2 :] = 1
    return disparity


def save_grey(path: Path, values: np.ndarray) -> Path:
    """A map of 0..1 as an 8-bit grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((values * 255).round().astype(np.uint8)).save(path)
    return path


def save_picture(path: Path, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(width, height, seed)).save(path)
    return path


def save_photo(path: Path, lens: dict[str, float] = LENS, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """A JPEG with these values in its EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    values = exif.get_ifd(ExifTags.IFD.Exif)
    for name, value in lens.items():
        whole = name == "FocalLengthIn35mmFilm"
        values[ExifTags.Base[name]] = value if whole else IFDRational(round(value * 100), 100)
    Image.fromarray(texture(width, height)).save(path, exif=exif)
    return path


def save_scene(folder: Path, name: str, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict[str, object]:
    """A sharp picture, its depth map and its mask in the folders of a data set; returns the row."""
    disparity = near_half(*size)
    save_picture(folder / "sharp" / f"{name}.png", *size, seed=seed)
    save_grey(folder / "depth" / f"{name}.png", disparity)
    save_grey(folder / "masks" / f"{name}.png", (disparity == 1).astype(np.float32))
    return {
        "picture": f"sharp/{name}.png",
        "caption": f"scene {name}",
        "depth": f"depth/{name}.png",
        "mask": f"masks/{name}.png",
    }


def save_lines(path: Path, *rows: dict[str, object] | str | bytes) -> Path:
    """A manifest of rows, or of raw lines."""
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return path
