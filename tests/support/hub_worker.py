"""Runs downloads in a process of its own: huggingface_hub reads HF_ENDPOINT and HF_HUB_OFFLINE when it is imported.

Reads one JSON job a line from standard input, answers each with one JSON line. COMFYUI_PATH names the host.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import types
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, os.environ["COMFYUI_PATH"])
# The pack's package under a name, without the nodes: they need the whole host, the weights only folder_paths.
pack = types.ModuleType("bokeh")
pack.__path__ = [str(Path(__file__).resolve().parents[2])]
sys.modules["bokeh"] = pack

import folder_paths  # noqa: E402
from read_only import read_only  # noqa: E402

from bokeh.weights import folder, hub  # noqa: E402


class Stopped(Exception):
    """Stands for the host's interrupt."""


def run(job: dict) -> dict:
    folder_paths.models_dir = job["models"]
    folder_paths.folder_names_and_paths.pop(folder.MODEL_FOLDER, None)
    folder_paths.filename_list_cache.clear()
    folder.register_folder()
    label = folder.PUBLIC_ADAPTERS[job.get("adapter", 0)].label
    answer = {"progress": [], "before": folder.adapter_choices()}
    hub.PATIENCE = job.get("patience", 60)
    started, last = time.monotonic(), []

    def progress(done: int, total: int) -> None:
        answer["progress"].append((done, total))
        answer["during"] = folder.adapter_choices()
        last[:] = [time.monotonic()]
        if done >= job.get("stop_at", total + 1) or last[0] - started > job.get("stop_after", math.inf):
            raise Stopped

    try:
        with read_only(Path(job["models"])) if job.get("read_only") else nullcontext():
            answer["path"] = str(hub.download(label, progress))
    except folder.AdapterError as error:
        answer["error"] = str(error)
    except Stopped:
        answer["stopped"] = time.monotonic() - last[0]
    answer["seconds"] = time.monotonic() - started
    answer["children"] = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return answer | {"after": folder.adapter_choices()}


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
