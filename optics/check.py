"""What both depth renderers refuse: `exact` and `render`."""

from __future__ import annotations

import torch
from torch import Tensor

BLADES = (0, 5, 6, 7, 8, 9)
# The strongest blur K: beyond any lens, 85 mm f/1.4 at 1 m has 90.
STRONGEST = 1000.0


def per_picture(value: Tensor | float, image: Tensor, name: str) -> Tensor:
    """A setting as [B] in float32 on the picture's device."""
    values = torch.as_tensor(value, dtype=torch.float32, device=image.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, len(image))):
        raise ValueError(
            f"The {name} has the shape {list(values.shape)} for {len(image)} pictures. Give one number for all, or one "
            "for each."
        )
    if not values.isfinite().all():
        raise ValueError(f"The {name} is NaN or infinite. Give a finite number.")
    return values.expand(len(image))


def check(image: Tensor, disparity: Tensor, blur: Tensor) -> None:
    """Raise ValueError for shapes that do not fit, NaN or infinite values, and blurs outside their range."""
    if image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(f"The pictures have the shape {list(image.shape)}, expected [B, H, W, 3]: RGB in 0 to 1.")
    if disparity.shape != image.shape[:3]:
        raise ValueError(
            f"The disparities have the shape {list(disparity.shape)}, the pictures {list(image.shape)}. Give one "
            "disparity for each pixel of each picture."
        )
    check_finite(image, "pictures")
    check_finite(disparity, "disparities")
    for value in blur.tolist():
        if not 0 <= value <= STRONGEST:
            raise ValueError(f"Blur {value:g} is outside 0 to {STRONGEST:g}. 0 is sharp, 30 a strong defocus.")


def check_finite(values: Tensor, name: str) -> None:
    """Raise ValueError for NaN or infinite values of what is called ``name``."""
    # The ends are NaN where any value is, and need no memory.
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        raise ValueError(f"The {name} have NaN or infinite values. Replace them, or make them again.")


def check_lens(gamma: float, blades: int, rotation: float, cats_eye: float, highlight: float) -> None:
    """Raise ValueError for settings of the lens outside their range."""
    # Each also false for NaN.
    if not 0 < gamma < float("inf"):
        raise ValueError(f"Gamma {gamma:g} is not above 0. 2.2 is that of pictures; 1 blurs the values themselves.")
    if blades not in BLADES:
        raise ValueError(f"An aperture of {blades} blades was asked for. Use 5 to 9, or 0 for a round one.")
    if not abs(rotation) < float("inf"):
        raise ValueError("The rotation is infinite or NaN. Give it in degrees.")
    if not 0 <= cats_eye <= 1:
        raise ValueError(f"Cat's eye {cats_eye:g} is outside 0 (round everywhere) to 1.")
    if not 0 <= highlight < float("inf"):
        raise ValueError(f"Highlight {highlight:g} is not a number from 0 (off) up. 3 makes lights glow.")


def check_radius(radius: float, height: int, width: int) -> None:
    """Raise ValueError for a disc that is wider than the picture."""
    if radius > min(height, width) / 2:
        raise ValueError(
            f"The largest disc has a radius of {radius:.0f} px in a picture of {width} x {height} px, wider than the "
            "picture. Check the unit of the depth map and the focus, or use a smaller blur."
        )
