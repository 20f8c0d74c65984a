"""The demonstration model: a small FLUX, its text side and its image codec, small enough to come with the pack."""

from pathlib import Path

FOLDER = Path(__file__).parent
ADAPTER_FILE = "adapter.safetensors"
