"""Makes docs/photo_strip.jpg, one photo from f/1.4 to f/16: `python tools/strip.py PHOTO`.

PHOTO is coffee.png of scikit-image (skimage/data in its wheel of version 0.16.2), a photograph by Rachel Michetti,
courtesy of Pikolo Espresso Bar, CC0. Its depth is drawn here: table, saucer, coffee and rim are parallel planes, so the
inverse of the distance is linear in each, and theirs are multiples of each other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

INSIDE = "COMFYUI_BOKEH_STRIP"
PLACE = Path(__file__).resolve().parents[1] / "docs" / "photo_strip.jpg"
SIZE, TILE, QUALITY = (600, 400), (300, 200), 88
APERTURES = (1.4, 2.8, 5.6, 16)
FOCAL_LENGTH, SENSOR = 85, (36.0, 24.0)
# Where the focus is: the front of the rim, in px of the photo.
POINT = (262, 205)
# Distances of the table at the upper and the lower edge of the photo, and of the floor beyond it, in m.
TABLE, FLOOR = (0.70, 0.42), 1.6
# The multiples, seen from 36 cm above the table: the saucer, the spoon in it, the coffee, and the rim 5.5 cm up.
SAUCER, SPOON, COFFEE, RIM = 1.02, 1.05, 1.09, 1.18


def main() -> int:
    """Run inside the host's environment; outside it, set that up and start again there."""
    if len(sys.argv) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    from inside import load_pack, run_inside

    if not os.environ.get(INSIDE):
        return run_inside(__file__, [str(Path(sys.argv[1]).resolve())], INSIDE)
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    load_pack()
    make(Path(sys.argv[1]))
    return 0


def make(photo: Path) -> None:
    """Write the strip."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw, ImageFont

    from bokeh.optics.focus import Focus, Lens, blurs_of
    from bokeh.optics.lens import f_number_labels
    from bokeh.optics.render import render_defocus

    image = Image.open(photo).convert("RGB")
    if image.size != SIZE:
        raise SystemExit(f"{photo.name} has {image.width} x {image.height} px, expected the photo of 600 x 400.")
    picture = torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
    map_ = torch.from_numpy(disparity().astype(np.float32))[None]
    plane = map_[:, POINT[1], POINT[0]]
    strip = Image.new("RGB", (TILE[0] * len(APERTURES), TILE[1]))
    for place, (f_number, label) in enumerate(zip(APERTURES, f_number_labels(APERTURES), strict=True)):
        blur = blurs_of(Lens(FOCAL_LENGTH, f_number, SENSOR), f_number, plane, SIZE[1], SIZE[0])
        defocus = Focus(map_, True, plane, blur, f_number=f_number).defocus(0)
        shown = render_defocus(picture, defocus, behind=True, highlight=1.0).numpy()
        tile = Image.fromarray((255 * shown).round().astype(np.uint8)).resize(TILE, Image.Resampling.LANCZOS)
        font = ImageFont.load_default(18)
        ImageDraw.Draw(tile).text((8, 4), label, "white", font, stroke_width=2, stroke_fill="black")
        strip.paste(tile, (place * TILE[0], 0))
    strip.save(PLACE, quality=QUALITY)
    print(PLACE.name)


def disparity():
    """The inverse of the distance of each pixel of the photo, [400, 600] in 1/m."""
    import numpy as np

    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)

    def ellipse(left: float, top: float, right: float, bottom: float) -> np.ndarray:
        """0 in the middle, 1 on the edge of the ellipse in this box."""
        return np.hypot((2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top))

    table = 1 / TABLE[0] + (1 / TABLE[1] - 1 / TABLE[0]) * y / SIZE[1]
    made = np.where(x / 155 + y / 107 < 1, 1 / FLOOR, table)
    made = np.where(ellipse(77, 68, 480, 388) < 1, SAUCER * table, made)
    # The spoon: its bowl, and its handle as a thick line.
    along = np.clip(((x - 375) * 38 - (y - 240) * 165) / (38**2 + 165**2), 0, 1)
    handle = np.hypot(x - 375 - 38 * along, y - 240 + 165 * along) < 7 + 7 * along
    made = np.where((ellipse(326, 246, 408, 326) < 1) | handle, SPOON * table, made)
    # The wall of the cup goes down from the rim to where it stands, narrower there.
    rim = ellipse(173, 19, 408, 208)
    down = np.clip((y - 150) / (283 - 150), 0, 1)
    wall = (y > 113) & (y < 283) & (x > 173 + 46 * down**2) & (x < 408 - 80 * down**2)
    foot = 1 / TABLE[0] + (1 / TABLE[1] - 1 / TABLE[0]) * 283 / SIZE[1]
    front = RIM * (1 / TABLE[0] + (1 / TABLE[1] - 1 / TABLE[0]) * 208 / SIZE[1])
    made = np.where(wall, front + (foot - front) * down, made)
    made = np.where((ellipse(195, 226, 262, 308) < 1), front, made)
    # From the rim's inner edge down to the coffee.
    inside = np.clip((1 - ellipse(190, 35, 392, 196)) / 0.25, 0, 1)
    return np.where(rim < 1, (RIM + (COFFEE - RIM) * inside) * table, made)


if __name__ == "__main__":
    sys.exit(main())
