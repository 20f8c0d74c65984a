"""The demonstration model: a small FLUX or UNet, its text side and its image codec; they come with the pack."""

from pathlib import Path

FOLDER = Path(__file__).parent
# What it can be adapted by, as Load Bokeh Adapter lists it, and the files. The names have no ending, so no file in the
# model folder can have one of them; they are saved in workflow files, so they are never changed.
ADAPTERS = {
    "demo": "adapter.safetensors",
    "demo: unet": "unet_adapter.safetensors",
    "demo: all in focus": "all_in_focus.safetensors",
    "demo: refocus": "refocus.safetensors",
}
