"""Makes the thumbnails of the example workflows: real results of the demonstration model, and of nothing else.

``python tools/thumbnails.py`` with the Python of ComfyUI (it has Pillow) and COMFYUI_PATH set; some minutes on a CPU.
A thumbnail is a square: one scene, sharp left and blurred right of a line, and for a sweep its levels below. Examples
for models whose weights may not be shipped get the demonstration model's too, and say so.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont
from setup.client import Graph, HostClient
from setup.server import PACK, HostProcess

WORKFLOWS = PACK / "workflows"
SIDE, LEVELS, QUALITY = 600, 4, 88
SAID = "drawn by the demonstration model"


class Example(NamedTuple):
    """What the thumbnail of one example shows.

    Attributes:
        number: the first character of the file's name.
        prompt, seed: of the demonstration model.
        strip: whether the levels are shown below.
        own: whether the example itself draws with the demonstration model.
        kind: "blur", or "alpha" for semantic bokeh, whose plain picture is the one at 1.
    """

    number: str
    prompt: str
    seed: int
    strip: bool
    own: bool
    kind: str = "blur"


EXAMPLES = (
    Example("1", "a red heart before teal lights", 8, True, True),
    Example("2", "a yellow disc before navy stripes", 11, False, True),
    Example("3", "a green diamond before plum lights", 3, True, True),
    Example("4", "a pink heart before olive checks", 5, True, False),
    Example("5", "a blue disc before brown lights", 4, False, False),
    Example("6", "an orange diamond before grey tiles", 2, True, False),
    Example("7", "a red diamond before navy checks", 6, False, False, "alpha"),
    Example("8", "a yellow heart before plum tiles", 7, False, False, "alpha"),
)


def blur_graph(example: Example) -> Graph:
    """The sweep of the first command, with another scene and the single pictures alone saved."""
    graph: Graph = json.loads((WORKFLOWS / "api" / "demo_sweep.json").read_text(encoding="utf-8"))
    graph["prompt"]["inputs"]["text"] = example.prompt
    graph["sampler"]["inputs"]["seed"] = example.seed
    graph["single"] = node("PreviewImage", images=["match", 0])
    for name in ("report", "larger", "grid", "sheet"):
        del graph[name]
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


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def pictures(client: HostClient, example: Example) -> list[Image.Image]:
    """The example's scene, from sharp to blurred."""
    entry = client.run(alpha_graph(example) if example.kind == "alpha" else blur_graph(example), timeout=1200)
    found = [picture for picture in client.pictures(entry) if picture.node == "single"]
    return [Image.open(io.BytesIO(client.download(picture))).convert("RGB") for picture in found]


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
    if not example.own:
        font = ImageFont.load_default(22)
        left, top, right, bottom = draw.textbbox((0, 0), SAID, font)
        foot = first.height - 12
        draw.rectangle((12, foot - (bottom - top) - 16, right - left + 32, foot), "#111")
        draw.text((22, foot - (bottom - top) - 8 - top), SAID, "white", font)
    return thumbnail


def main() -> int:
    """Make all of them, or those whose numbers are given."""
    wanted = sys.argv[1:] or [example.number for example in EXAMPLES]
    host = Path(os.environ["COMFYUI_PATH"])
    with tempfile.TemporaryDirectory() as base, HostProcess(host, Path(sys.executable), Path(base)) as server:
        for example in EXAMPLES:
            if example.number in wanted:
                (file,) = WORKFLOWS.glob(f"{example.number} *.json")
                place = file.with_suffix(".jpg")
                compose(pictures(server.client, example), example).save(place, quality=QUALITY)
                print(place.name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
