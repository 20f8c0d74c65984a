"""Defocus the slow, obvious way: one disc at a time, in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np


def distance(y: np.ndarray, x: np.ndarray, blades: int, rotation: float) -> np.ndarray:
    """Distance from an aperture's centre; of a polygon by the lines through its sides."""
    if not blades:
        return np.hypot(y, x)
    apothem = math.sqrt(math.pi / (blades * math.tan(math.pi / blades)))
    normals = [math.radians(rotation) + (2 * side + 1) * math.pi / blades for side in range(blades)]
    return np.max([x * math.cos(a) + y * math.sin(a) for a in normals], axis=0) / apothem


def rendered_slowly(image, disparity, focus, blur, gamma=2.2, blades=0, rotation=0.0, cats_eye=0.0):
    """The equations of `optics.exact` for one picture [H, W, 3] in float64; settings as for `render_exactly`."""
    height, width = disparity.shape
    signed = blur * (disparity.astype(np.float64) - focus) * min(height, width) / 512
    radius = np.abs(signed)
    light = image.astype(np.float64) ** gamma
    reach = math.ceil((radius.max() + 0.5) * 1.2)
    y, x = np.mgrid[:height, :width]
    shift_y, shift_x = y - (height - 1) / 2, x - (width - 1) / 2
    corner = math.hypot(height - 1, width - 1) / 2
    shift_y, shift_x = (
        cats_eye / 2 * radius * shift * np.hypot(shift_y, shift_x) / corner**2 for shift in (shift_y, shift_x)
    )

    def disc(dy, dx, of):
        """Coverage at (dy, dx) from the centre of the disc of pixel ``of``."""
        far = distance(dy, dx, blades, rotation)
        for sign in (-1, 1) if cats_eye else ():
            far = np.maximum(far, np.hypot(dy + sign * shift_y[of], dx + sign * shift_x[of]))
        return np.clip(radius[of] + 0.5 - far, 0, 1)

    around = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    area = np.array([[disc(*around, (i, j)).sum() for j in range(width)] for i in range(height)])
    front, level, behind = (np.zeros((height, width, 4)) for _ in range(3))
    shows = np.zeros((height, width))
    for i, j in itertools.product(range(height), range(width)):
        to = np.s_[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
        dy, dx = y[to] - i, x[to] - j
        of_x, of_y = disc(dy, dx, (i, j)) / area[i, j], disc(dy, dx, to) / area[to]
        nearer = np.clip(signed[i, j] - signed[to], -1, 1)
        colour = np.append(light[i, j], 1)
        front[to] += (np.maximum(nearer, 0) * of_x)[..., None] * colour
        level[to] += ((1 - np.abs(nearer)) * of_x)[..., None] * colour
        largest = np.where(radius[i, j] > radius[to], of_x, of_y)
        behind[to] += (np.maximum(-nearer, 0) * largest)[..., None] * colour
        shows[to] += np.maximum(-nearer, 0) * of_y
    covered = front[..., 3:]
    front = front / np.maximum(covered, 1)
    shows = np.where(behind[..., 3] > 0, shows, 0)[..., None]
    back = shows * behind / np.maximum(behind[..., 3:], 1e-300)
    mixed = front + (1 - front[..., 3:]) * (level + back) / (level[..., 3:] + shows)
    return np.clip(mixed[..., :3], 0, 1) ** (1 / gamma)


def layers_slowly(colours, alphas, radii):
    """One picture of layers [N, H, W, 3] and coverages [N, H, W] in linear light, the rearmost first."""
    count, height, width = alphas.shape
    y, x = np.mgrid[:height, :width]
    out = np.zeros((height, width, 3))
    for layer in range(count):
        reach = math.ceil(radii[layer] + 1)
        around = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        area = np.clip(radii[layer] + 0.5 - np.hypot(*around), 0, 1).sum()
        spread = np.zeros((height, width, 4))
        for i, j in np.argwhere(alphas[layer] > 0):
            disc = np.clip(radii[layer] + 0.5 - np.hypot(y - i, x - j), 0, 1) / area
            spread += disc[..., None] * alphas[layer, i, j] * np.append(colours[layer, i, j], 1)
        out = out * (1 - spread[..., 3:]) + spread[..., :3]
    return out
