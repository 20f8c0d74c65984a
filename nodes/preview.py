"""Small pictures of all levels while they are sampled, for Bokeh Sweep View: the host's own preview shows one row."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable
from io import BytesIO

import latent_preview
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ..sweep.values import Sweep
from .view import shown

KEY = "bokeh_preview"
# Seconds from one to the next, and how many times as long as it takes to make one.
_APART, _TIMES = 0.4, 20
# Pixels of the longer side: of a few pictures, of very many, and what all of them come to.
_LARGEST, _SMALLEST, _TOGETHER = 384, 96, 1000


def with_previews(model: ModelPatcher, sweep: Sweep) -> ModelPatcher:
    """A clone of ``model`` that shows the page, while it samples ``sweep``, what all its rows look like so far.

    By the host's previewer, so in the quality that the user chose, and not at all where previews are off.
    """

    def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        seen = _seen(callback, executor.class_obj.model_patcher, sweep)
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, seen, *args, **kwargs)

    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return clone


def _seen(callback: Callable | None, model: ModelPatcher, sweep: Sweep) -> Callable | None:
    """The sampler's callback, which also shows the rows of the sweep now and then."""
    running = get_executing_context()
    # From a command nobody looks on, and a command has no server.
    if callback is None or running is None or len(sweep) < 2 or _server().client_id is None:
        return callback
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    if previewer is None:
        return callback
    side = min(max(int(_TOGETHER / math.sqrt(len(sweep))), _SMALLEST), _LARGEST)
    free_at = 0.0

    def on_step(step: int, denoised: Tensor, x: Tensor, total: int):
        nonlocal free_at
        answer = callback(step, denoised, x, total)
        start = time.monotonic()
        # Rows of pivots that nobody asked for stand behind the sweep's; the last step is followed by the pictures.
        if start >= free_at and step + 1 < total and len(denoised) >= len(sweep):
            rows = denoised[: len(sweep)].split(1)
            previews = [previewer.decode_latent_to_preview_image("JPEG", row) for row in rows]
            if None not in previews:
                pictures = [picture.convert("RGB") for _, picture, _ in previews]
                for picture in pictures:
                    picture.thumbnail((side, side))
                _send(running, sweep, pictures, step, total)
            spent = time.monotonic() - start
            free_at = start + spent + max(_APART, _TIMES * spent)
        return answer

    return on_step


def _send(running, sweep: Sweep, pictures: list[Image.Image], step: int, total: int) -> None:
    message = {
        "prompt_id": running.prompt_id,
        "node": running.node_id,
        "step": step + 1,
        "steps": total,
        "sweep": shown(sweep, [{"jpeg": _jpeg(picture)} for picture in pictures], pictures[0].size),
    }
    _server().send_sync(KEY, message, _server().client_id)


def _jpeg(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def _server():
    from server import PromptServer

    return PromptServer.instance
