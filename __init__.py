"""Bokeh for ComfyUI: control over defocus in FLUX. Registration only; the nodes are in ``nodes/``."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by the host when it loads the pack."""
    from .nodes.extension import BokehExtension

    return BokehExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
