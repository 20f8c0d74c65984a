"""Sets up a host with this pack in it, runs a workflow, saves its pictures: `python tools/sweep.py`.

Standard library only. Without a workflow it makes a blur sweep with the demonstration model that comes with the pack;
with --flux, with FLUX.1-dev and the host's own files. Afterwards the server stays up for the page, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from setup.client import Graph, HostClient, HostError
from setup.command import command, told
from setup.environment import SetupError, StatusLine, write_atomically
from setup.host import CHECKOUT, Host, cache_folder, ensure_host
from setup.server import HostProcess, accelerator, free_port, write_model_paths

DEFAULT_PORT = 8188
WORKFLOWS = CHECKOUT / "workflows" / "api"
FLUX_WORKFLOW = WORKFLOWS / "flux_dev_blur_sweep.json"
DEMO_WORKFLOW = WORKFLOWS / "demo_sweep.json"

# What each part of FLUX.1-dev may be called: the host's folder, the loader inputs it goes to, the file's name.
FLUX_PARTS = {
    "the model flux1-dev": ("diffusion_models", ("unet_name",), r"flux[._-]?1?[._-]?dev"),
    "the text encoder clip_l": ("text_encoders", ("clip_name1",), r"clip_l"),
    "the text encoder t5xxl": ("text_encoders", ("clip_name2",), r"t5xxl"),
    "the autoencoder ae": ("vae", ("vae_name",), r"ae\.(safetensors|sft)$"),
}
# Relatives of FLUX.1-dev that carry its name but are for another use.
NOT_PLAIN_DEV = re.compile(r"kontext|fill|canny|depth|redux|lora|control|krea", re.IGNORECASE)


def read_workflow(path: Path) -> Graph:
    """A workflow in API format from a file.

    Raises:
        SetupError: no such file, no JSON, or the page's own format.
    """
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"The workflow {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SetupError(f"The workflow {path} is not JSON: {error}.") from error
    if isinstance(graph, dict) and "nodes" in graph and "links" in graph:
        raise SetupError(
            f"{path} is a workflow in the page's format, which only the page can turn into what the server runs. "
            "Open it in the page and save it with Workflow > Export (API), then pass that file."
        )
    if not (isinstance(graph, dict) and graph and all(_is_node(node) for node in graph.values())):
        raise SetupError(
            f'{path} is not a workflow in API format: expected {{"node id": {{"class_type": ..., "inputs": ...}}}}, '
            "as the page saves it with Workflow > Export (API)."
        )
    return graph


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict) and "class_type" in node


def set_input(graph: Graph, assignment: str) -> None:
    """Set one input in place: NODE.INPUT=VALUE, NODE being a node's id, its title or its class type.

    VALUE is read as JSON where it is JSON, else taken as text.

    Raises:
        SetupError: the form is wrong, or NODE and INPUT do not name exactly one input.
    """
    target, equals, text = assignment.partition("=")
    name, dot, key = target.rpartition(".")
    if not (equals and dot and name and key):
        raise SetupError(f"--set {assignment}: expected NODE.INPUT=VALUE, for example KSampler.seed=7.")
    if name in graph:
        found = [name]
    else:
        found = [
            node_id
            for node_id, node in graph.items()
            if name in (node["class_type"], node.get("_meta", {}).get("title"))
        ]
    if len(found) != 1:
        listed = ", ".join(f"{node_id} ({node['class_type']})" for node_id, node in graph.items())
        what = f"fits the nodes {', '.join(found)}" if found else "fits no node"
        raise SetupError(f"--set {assignment}: '{name}' {what}. The workflow has: {listed}.")
    inputs = graph[found[0]]["inputs"]
    if key not in inputs:
        raise SetupError(
            f"--set {assignment}: node {found[0]} has no input '{key}'. It has: {', '.join(inputs) or 'none'}."
        )
    try:
        inputs[key] = json.loads(text)
    except ValueError:
        inputs[key] = text


def find_flux(client: HostClient) -> tuple[dict[str, str], list[str]]:
    """The host's files for FLUX.1-dev as loader input -> file, and the parts that it lacks."""
    files, lacking = {}, []
    for part, (folder, inputs, pattern) in FLUX_PARTS.items():
        for file in sorted(client.models(folder)):
            name = re.split(r"[\\/]", file)[-1]
            if re.match(pattern, name, re.IGNORECASE) and not NOT_PLAIN_DEV.search(name):
                files.update(dict.fromkeys(inputs, file))
                break
        else:
            lacking.append(f"{part} (folder {folder})")
    return files, lacking


def put_files(graph: Graph, files: dict[str, str]) -> None:
    """Put the files that were found where the loaders name a part of FLUX.1-dev, in place."""
    patterns = [pattern for *_, pattern in FLUX_PARTS.values()]
    for node in graph.values():
        for key in files.keys() & node["inputs"].keys():
            if any(re.match(pattern, str(node["inputs"][key]), re.IGNORECASE) for pattern in patterns):
                node["inputs"][key] = files[key]


def fit_separators(graph: Graph, info: dict[str, Any]) -> None:
    """Write file names in subfolders the way this host lists them (a backslash on Windows), in place."""
    for node in graph.values():
        known = info.get(node["class_type"], {}).get("input", {})
        for key, value in node["inputs"].items():
            spec = known.get("required", {}).get(key) or known.get("optional", {}).get(key)
            if not (isinstance(value, str) and spec):
                continue
            options = spec[0] if isinstance(spec[0], list) else (spec[1:] or [{}])[0].get("options", ())
            same = [o for o in options if isinstance(o, str) and o.replace("\\", "/") == value.replace("\\", "/")]
            if same and value not in options:
                node["inputs"][key] = same[0]


def require_nodes(graph: Graph, info: dict[str, Any], server: HostProcess) -> None:
    """Raises SetupError when the host lacks a node of the workflow; with the log when it is one of ours."""
    unknown = sorted({node["class_type"] for node in graph.values()} - info.keys())
    if not unknown:
        return
    text = f"The host does not know these nodes of the workflow: {', '.join(unknown)}."
    if any(name.startswith("Bokeh") for name in unknown):
        text += f" The pack did not load, or lacks them. Last lines of {server.log}:\n{server.log_tail()}"
    raise SetupError(text)


def new_folder(output: Path, name: str) -> Path:
    """A new folder <output>/<name>-<n> with the first number that is free."""
    output.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = output / f"{name}-{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def save_pictures(client: HostClient, entry: dict[str, Any], output: Path, name: str) -> list[Path]:
    """Save a run's pictures into a new folder and return their paths."""
    pictures = client.pictures(entry)
    if not pictures:
        return []
    folder = new_folder(output, name)
    saved = []
    for number, picture in enumerate(pictures, start=1):
        path = folder / f"{number:02d}-{picture.filename}"
        write_atomically(path, client.download(picture))
        saved.append(path)
    return saved


def step_of(log: str) -> str:
    """The sampler's step, from the bar that it draws into the server's log; "" before it begins."""
    bars = re.findall(r"\| *(\d+)/(\d+) \[", log)
    return "step {} of {}".format(*bars[-1]) if bars else ""


def measured(entry: dict[str, Any]) -> list[str]:
    """The summaries that report nodes gave in a run: score, LVCorr, consistency, without Markdown's marks."""
    texts = [text for output in entry.get("outputs", {}).values() for text in output.get("text", ())]
    lines = [line.replace("**", "").strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if re.match(r"(Bokeh score|Kept|LVCorr|Consistency|LPIPS).* -?\d\.\d+.*: ", line)]


def flux_files(client: HostClient, host: Host) -> dict[str, str]:
    """The host's own file names for FLUX.1-dev, as ``put_files`` takes them.

    Raises:
        SetupError: naming the parts that the host lacks.
    """
    files, lacking = find_flux(client)
    if lacking:
        raise SetupError(
            f"The host sees no FLUX.1-dev; missing: {'; '.join(lacking)}. Put the files into these folders of "
            f"{host.models or server_base() / 'models'}, or set COMFYUI_PATH to a ComfyUI that has them. Without "
            "--flux, the demonstration model that comes with the pack makes the sweep."
        )
    return files


def server_base() -> Path:
    """The folder for the server's models, results and settings."""
    return cache_folder() / "base"


def prepared_server(port: int | None = None) -> tuple[Host, HostProcess]:
    """The host, set up, and a server of it with this pack that is not started yet."""
    host = ensure_host()
    base = server_base()
    for kind in ("diffusion_models", "text_encoders", "vae", "bokeh_adapters"):
        (base / "models" / kind).mkdir(parents=True, exist_ok=True)
    model_paths = base / "model_paths.yaml"
    write_model_paths(model_paths, [host.models] if host.models else [])
    device = accelerator(host.python)
    if device == "cpu" and shutil.which("nvidia-smi"):
        print(
            f"There is an NVIDIA driver here, but the PyTorch in {host.python} does not use it. Set COMFYUI_PYTHON "
            "to the Python of your own ComfyUI to compute on the GPU."
        )
    server = HostProcess(
        host.code,
        host.python,
        base,
        port=port if port is not None else free_port(DEFAULT_PORT),
        cpu=device == "cpu",
        model_paths=model_paths,
    )
    print(f"Starting ComfyUI {host.version} on {device} (log: {server.log})")
    return host, server


def serve(options: argparse.Namespace) -> int:
    """Set up, start, run, save, and keep serving; the exit code."""
    path = options.workflow or (FLUX_WORKFLOW if options.flux else DEMO_WORKFLOW)
    # Before anything slow, so that a mistyped name costs no time.
    graph = read_workflow(path)
    host, server = prepared_server(options.port)
    with server:
        if options.flux and not options.workflow:
            put_files(graph, flux_files(server.client, host))
        for assignment in options.set:
            set_input(graph, assignment)
        return run_and_stay(options, server, graph, path)


def run_and_stay(options: argparse.Namespace, server: HostProcess, graph: Graph, path: Path) -> int:
    """Run a workflow, save its pictures and, unless told otherwise, serve until Ctrl-C; the exit code."""
    client = server.client
    info = client.object_info()
    require_nodes(graph, info, server)
    fit_separators(graph, info)
    status = StatusLine(f"Running {path}")
    try:
        entry = client.run(graph, lambda: status.tick(step_of(server.log_tail(1))))
    except HostError as error:
        status.finish("stopped")
        if not server.alive():
            raise SetupError(f"The server ended during the run. Last lines of its log:\n{server.log_tail()}") from error
        raise SetupError(f"The run failed: {error}") from error
    except KeyboardInterrupt:
        status.finish("stopped")
        client.interrupt()
        raise
    status.finish()
    saved = save_pictures(client, entry, options.output, path.stem)
    if saved:
        print(f"{len(saved)} picture{'s' if len(saved) > 1 else ''} in {saved[0].parent.resolve()}")
        for picture in saved:
            print(f"  {picture.name}")
    else:
        print("The workflow left no pictures: it has no Save Image or Preview Image node.")
    for line in measured(entry):
        print(line)
    if options.once:
        return 0
    print(f"The page: {server.url}   (Ctrl-C stops the server)")
    print("To go on by hand: in the page, Workflow > Browse Templates > Bokeh > 1 Blur sweep.", flush=True)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    raise SetupError(f"The server ended by itself with exit code {code}. Last lines of its log:\n{server.log_tail()}")


def main(arguments: list[str]) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(
        description="Set up a ComfyUI with this pack, run a workflow, save its pictures, and serve the page.",
        epilog="Environment: COMFYUI_PATH (a ComfyUI of yours to use), COMFYUI_PYTHON (an interpreter to use as it "
        "is), COMFYUI_BOKEH_CACHE (where everything fetched and made goes).",
    )
    parser.add_argument("--workflow", type=Path, metavar="FILE", help="a workflow in API format; default: a blur sweep")
    parser.add_argument("--flux", action="store_true", help="make the default sweep with the host's FLUX.1-dev")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="set an input; NODE is an id, a title or a class type (may be repeated)",
    )
    parser.add_argument("--port", type=int, help=f"port on this machine (default: {DEFAULT_PORT}, or a free one)")
    parser.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="default: ./output")
    parser.add_argument("--once", action="store_true", help="end after the run instead of serving the page")
    options = parser.parse_args(arguments)
    return told(lambda: serve(options))


if __name__ == "__main__":
    command(main)
