"""Makes the thumbnails of the example workflows: real results of the demonstration model, and of Bokeh Render.

``python tools/thumbnails.py`` with the Python of ComfyUI (it has Pillow) and COMFYUI_PATH set; some minutes on a CPU.
A thumbnail is a square: one scene, sharp left and blurred right of a line, and for a sweep its levels below. Examples
for models whose weights may not be shipped get the demonstration model's too, and those for photos get a scene that is
drawn here together with its depth; they say so.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from setup.client import Graph, HostClient
from setup.server import PACK, HostProcess

WORKFLOWS = PACK / "workflows"
SIDE, LEVELS, QUALITY = 600, 4, 88
SAID = "drawn by the demonstration model"
DRAWN, RENDERED = "a drawn scene", "a drawn scene, by Bokeh Render"
PHOTO, DEPTH, MASK = "thumbnail_photo.png", "thumbnail_depth.png", "thumbnail_mask.png"
# The drawn scene, in metres: balls (middle to the right, height, distance, radius, colour) over a floor, and a wall.
BALLS = (
    (-0.55, -0.55, 2.4, 0.45, (0.85, 0.16, 0.12)),
    (0.45, -0.55, 4.0, 0.45, (0.95, 0.75, 0.12)),
    (1.75, -0.45, 6.5, 0.55, (0.15, 0.55, 0.75)),
    (-1.9, -0.4, 7.5, 0.6, (0.30, 0.62, 0.25)),
)
FLOOR, WALL = -1.0, 10.0
# The ball that the mask shows.
NAMED = 1


class Example(NamedTuple):
    """What the thumbnail of one example shows.

    Attributes:
        number: what the file's name begins with.
        prompt, seed: of the demonstration model.
        strip: whether the levels are shown below.
        said: written on it where the example itself draws otherwise.
        kind: "blur", "unet" for the other network, "words", "second" for a second pass, "photo" for Bokeh Render,
            "rack" for a pull of its focus, "named" for a mask in place of the depth, "alpha" for semantic bokeh, whose
            plain picture is at 1, or "camera" for the example itself.
    """

    number: str
    prompt: str
    seed: int
    strip: bool
    said: str = ""
    kind: str = "blur"


EXAMPLES = (
    Example("1", "a red heart before teal lights", 8, True),
    Example("2", "a yellow disc before navy stripes", 11, False),
    Example("3", "a green diamond before plum lights", 3, True),
    Example("4", "a pink heart before olive checks", 5, True, SAID),
    Example("5", "a blue disc before brown lights", 4, False, SAID),
    Example("6", "an orange diamond before grey tiles", 2, True, SAID),
    Example("7", "a red diamond before navy checks", 6, False, SAID, "alpha"),
    Example("8", "a yellow heart before plum tiles", 7, False, SAID, "alpha"),
    Example("9", "", 0, False, DRAWN, "photo"),
    Example("10", "", 0, False, DRAWN, "photo"),
    Example("11", "", 0, True, DRAWN, "rack"),
    Example("12", "a blue heart before brown tiles", 9, True, "", "second"),
    Example("13", "a green heart before grey lights", 12, True, SAID, "words"),
    Example("14", "a green heart before grey lights", 12, True, SAID, "words"),
    Example("15", "a pink heart before olive checks", 5, True, SAID),
    Example("16", "", 0, False, RENDERED, "photo"),
    Example("17", "", 0, False, DRAWN, "named"),
    Example("18", "a red heart before navy checks", 3, False, SAID, "alpha"),
    Example("19", "an orange square before plum tiles", 6, True, SAID),
    Example("20", "a red heart before navy checks", 4, True, "", "camera"),
    Example("21", "an orange heart before plum lights", 10005, True, "", "unet"),
)
# Where the photos' focus is: the point, and for a pull its end. By the ball that it lies on.
POINTS = {"9": ((0.24, 0.63),), "10": ((0.80, 0.44),), "11": ((0.24, 0.63), (0.80, 0.44)), "16": ((0.63, 0.52),)}
POINTS |= {"17": POINTS["9"]}


def blur_graph(example: Example) -> Graph:
    """The sweep of the first command, with another scene and the single pictures alone saved."""
    graph: Graph = json.loads((WORKFLOWS / "api" / "demo_sweep.json").read_text(encoding="utf-8"))
    graph["prompt"]["inputs"]["text"] = example.prompt
    graph["sampler"]["inputs"]["seed"] = example.seed
    graph["single"] = node("PreviewImage", images=["match", 0])
    for name in ("report", "larger", "grid", "sheet"):
        del graph[name]
    return graph


def unet_graph(example: Example) -> Graph:
    """The same sweep by the UNet."""
    graph = blur_graph(example)
    graph["demo"]["inputs"]["network"], graph["adapter"]["inputs"]["adapter"] = "unet", "demo: unet"
    return graph


def alpha_graph(example: Example) -> Graph:
    """Semantic bokeh on the same model: plain and focused on the object."""
    graph = blur_graph(example)
    del graph["match"], graph["adapter"]
    graph["local"] = node("CLIPTextEncode", text=example.prompt.split(" before ")[0], clip=["demo", 1])
    prompts = {"global_prompt": ["prompt", 0], "local_prompt": ["local", 0]}
    values = {"vary": "alpha", "values": "1, 0.3", "alpha": 0.5, "layout": 0.8}
    graph["sweep"] = node("BokehStageSweep", model=["demo", 0], latent=["size", 0], **prompts, **values)
    graph["sampler"]["inputs"] |= {"positive": ["sweep", 1], "latent_image": ["sweep", 2]}
    graph["single"]["inputs"]["images"] = ["decode", 0]
    return graph


def words_graph(example: Example) -> Graph:
    """A sweep without the adapter, by words that the model knows."""
    graph = blur_graph(example)
    del graph["sweep"]["inputs"]["adapter"], graph["adapter"]
    graph["sweep"]["inputs"]["blurs"] = "0, 10, 20, 30"
    words = ("sharp", "slightly blurred", "blurred", "strongly blurred", "completely blurred")
    subject, ground = example.prompt.split(" before ")
    wordings = "\n".join(f"before {word} {ground}" for word in words)
    graph["words"] = node(
        "BokehWords", clip=["demo", 1], sweep=["sweep", 2], prompt=subject, wordings=wordings, blend=False
    )
    graph["sampler"]["inputs"]["positive"] = ["words", 0]
    del graph["prompt"]
    return graph


def second_graph(example: Example) -> Graph:
    """The sweep, sampled again at one and a half times its size."""
    graph = blur_graph(example)
    graph["larger"] = node("LatentUpscaleBy", samples=["sampler", 0], upscale_method="bislerp", scale_by=1.5)
    again = graph["sampler"]["inputs"] | {"latent_image": ["larger", 0], "denoise": 0.6, "seed": example.seed + 1}
    graph["again"] = node("KSampler", **again)
    graph["decode"]["inputs"]["samples"] = ["again", 0]
    return graph


def photo_graph(example: Example) -> Graph:
    """The drawn scene with the focus at a point, or pulled from one to another."""
    (x, y), (pull_x, pull_y) = POINTS[example.number][0], POINTS[example.number][-1]
    lens = {"lens": "85 mm f/1.4, 36 x 24 mm", "f_number": 0, "focal_length": 50, "blur": 15, "sharp": 0}
    point = {"focus_by": "point", "focus_x": x, "focus_y": y, "distances": "2", "pull_x": pull_x, "pull_y": pull_y}
    pull = {"pull": "even" if example.kind == "rack" else "off", "pull_steps": LEVELS}
    depth = {"depth_is": "near is bright", "nearest": nearest(), "farthest": WALL, "sensor": "full frame, 36 x 24 mm"}
    shape = {"blades": "round", "rotation": 0, "cats_eye": 0, "highlight": 0}
    unused = {"depth_range": "shared by the batch", "repair": True, "blurs": "15", "focus_by": "point"}
    unused |= {"depth_is": "near is bright", "focus_x": 0.5, "focus_y": 0.5, "focus_value": 0.5}
    return {
        "photo": node("LoadImage", image=PHOTO),
        "depth": node("LoadImage", image=DEPTH),
        "focus": node("BokehFocus", image=["photo", 0], depth=["depth", 0], **depth, **point, **pull, **lens),
        "render": node("BokehRender", image=["photo", 0], focus=["focus", 0], **unused, **shape),
        "single": node("PreviewImage", images=["render", 0]),
    }


def named_graph(example: Example) -> Graph:
    """The drawn scene in which one ball is sharp, by its mask alone."""
    graph = photo_graph(example)
    graph["depth"] = node("LoadImageMask", image=MASK, channel="red")
    inputs = graph["focus"]["inputs"]
    inputs |= {"mask": inputs.pop("depth"), "focus_by": "mask", "lens": "blur"}
    return graph


def camera_graph(example: Example) -> Graph:
    """The example itself: a photo of the demonstration model, drawn sharp all over, then refocused."""
    (file,) = WORKFLOWS.glob(f"{example.number} *.json")
    workflow = json.loads(file.read_text(encoding="utf-8"))
    sources = {link: (str(source), slot) for link, source, slot, *_ in workflow["links"]}
    graph: Graph = {}
    for entry in workflow["nodes"]:
        values = iter(entry.get("widgets_values") or [])
        inputs = {}
        for socket in entry["inputs"]:
            if "widget" in socket:
                inputs[socket["name"]] = next(values)
                if socket["name"] == "seed":
                    next(values)  # what the page does with it after a run
            elif socket["link"] is not None:
                inputs[socket["name"]] = list(sources[socket["link"]])
        graph[str(entry["id"])] = node(entry["type"], **inputs)
    looked, drawn = ("BokehSweepView", "ImageStitch", "BokehRender", "MarkdownNote"), "BokehRefocus"
    (refocus,) = (key for key, entry in graph.items() if entry["class_type"] == drawn)
    (sampler,) = (key for key, entry in graph.items() if entry["inputs"].get("model") == [refocus, 0])
    (decoded,) = (key for key, entry in graph.items() if entry["inputs"].get("samples") == [sampler, 0])
    kept = {key: entry for key, entry in graph.items() if entry["class_type"] not in looked}
    return kept | {"single": node("PreviewImage", images=[decoded, 0])}


def scene() -> tuple[Image.Image, Image.Image, Image.Image]:
    """A drawn picture, sharp everywhere, its inverse distances in grey, from those of the wall to the nearest, and the
    mask of one ball."""
    fine = 3
    axis = (np.arange(SIDE * fine) + 0.5) / (SIDE * fine) - 0.5
    # A ray goes by (x, y) for each metre of distance.
    x, y = np.meshgrid(axis * 0.9, -axis * 0.9 - 0.12)
    distance = np.full(x.shape, WALL)
    lamps = (np.mod(x * WALL + 0.2, 0.8) - 0.4) ** 2 + (np.mod(y * WALL, 0.8) - 0.4) ** 2 < 0.08**2
    colour = np.where(lamps[..., None], (1.0, 0.92, 0.75), (0.10, 0.10, 0.16))
    floor = np.divide(FLOOR, y, out=np.full(y.shape, np.inf), where=y < 0)
    seen = floor < distance
    distance = np.where(seen, floor, distance)
    tiles = (np.floor(x * distance / 0.5) + np.floor(distance / 0.5)) % 2
    colour = np.where(seen[..., None], np.where(tiles[..., None], (0.62, 0.58, 0.52), (0.24, 0.22, 0.21)), colour)
    shown = np.zeros(x.shape)
    for number, (right, up, away, radius, paint) in enumerate(BALLS):
        a, b = x**2 + y**2 + 1, x * right + y * up + away
        inside = b**2 - a * (right**2 + up**2 + away**2 - radius**2)
        hit = (b - np.sqrt(np.maximum(inside, 0))) / a
        seen = (inside > 0) & (hit < distance)
        normal = np.stack([x * hit - right, y * hit - up, hit - away], -1) / radius
        light = 0.25 + 0.75 * np.clip(normal @ np.array((-0.5, 0.65, -0.57)), 0, 1)
        stripe = np.where(np.floor((normal[..., 1] + 1) * 6) % 2, 1.0, 0.72)
        colour = np.where(seen[..., None], light[..., None] * stripe[..., None] * np.array(paint), colour)
        distance = np.where(seen, hit, distance)
        shown = np.where(seen, float(number == NAMED), shown)
    picture = colour.reshape(SIDE, fine, SIDE, fine, 3).mean((1, 3))
    inverse = 1 / distance[fine // 2 :: fine, fine // 2 :: fine]
    grey = (inverse - 1 / WALL) / (1 / nearest() - 1 / WALL)
    mask = shown[fine // 2 :: fine, fine // 2 :: fine]
    return tuple(Image.fromarray((255 * part.clip(0, 1)).round().astype(np.uint8)) for part in (picture, grey, mask))


def nearest() -> float:
    """The distance of the floor at the lower edge of the drawn scene, in metres."""
    return FLOOR / (-0.5 * 0.9 - 0.12)


GRAPHS = {
    "blur": blur_graph,
    "unet": unet_graph,
    "alpha": alpha_graph,
    "words": words_graph,
    "second": second_graph,
    "photo": photo_graph,
    "rack": photo_graph,
    "named": named_graph,
    "camera": camera_graph,
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def pictures(client: HostClient, example: Example) -> list[Image.Image]:
    """The example's scene, from sharp to blurred; of a pull from its first focus to its last."""
    entry = client.run(GRAPHS[example.kind](example), timeout=1200)
    found = [picture for picture in client.pictures(entry) if picture.node == "single"]
    levels = [Image.open(io.BytesIO(client.download(picture))).convert("RGB") for picture in found]
    return [scene()[0], *levels] if example.kind in ("photo", "named") else levels


def compose(levels: list[Image.Image], example: Example) -> Image.Image:
    """The square thumbnail of a scene's levels."""
    thumbnail = Image.new("RGB", (SIDE, SIDE), "#111")
    small = SIDE // LEVELS if example.strip else 0
    first, last = (
        level.resize((SIDE, SIDE), Image.Resampling.LANCZOS).crop((0, small // 2, SIDE, SIDE - small + small // 2))
        for level in (levels[0], levels[-1])
    )
    thumbnail.paste(last)
    thumbnail.paste(first.crop((0, 0, SIDE // 2, first.height)))
    draw = ImageDraw.Draw(thumbnail)
    draw.line((SIDE // 2, 0, SIDE // 2, first.height), "white", 3)
    for place in range(LEVELS if example.strip else 0):
        level = levels[round(place * (len(levels) - 1) / (LEVELS - 1))]
        side = small - 4
        thumbnail.paste(level.resize((side, side), Image.Resampling.LANCZOS), (place * small + 2, SIDE - side))
    if example.said:
        font = ImageFont.load_default(22)
        left, top, right, bottom = draw.textbbox((0, 0), example.said, font)
        foot = first.height - 12
        draw.rectangle((12, foot - (bottom - top) - 16, right - left + 32, foot), "#111")
        draw.text((22, foot - (bottom - top) - 8 - top), example.said, "white", font)
    return thumbnail


def main() -> int:
    """Make all of them, or those whose numbers are given."""
    wanted = sys.argv[1:] or [example.number for example in EXAMPLES]
    host = Path(os.environ["COMFYUI_PATH"])
    with tempfile.TemporaryDirectory() as base, HostProcess(host, Path(sys.executable), Path(base)) as server:
        folder = Path(base) / "input"
        folder.mkdir(exist_ok=True)
        for picture, name in zip(scene(), (PHOTO, DEPTH, MASK), strict=True):
            picture.save(folder / name)
        for example in EXAMPLES:
            if example.number in wanted:
                (file,) = WORKFLOWS.glob(f"{example.number} *.json")
                place = file.with_suffix(".jpg")
                compose(pictures(server.client, example), example).save(place, quality=QUALITY)
                print(place.name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
