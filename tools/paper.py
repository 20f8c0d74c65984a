"""Measures a model as Bokeh Diffusion was: 20 prompts, 5 blurs, a CSV, a figure: `python tools/paper.py --flux`.

Sets up a host like `tools/sweep.py` (with --running none: the workflow is queued on a ComfyUI that runs), runs one
workflow with one prompt after the other, and collects what its Bokeh Report measured. Standard library only; the figure
is drawn by the host's Python.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from inside import load_pack
from setup.client import Graph, HostClient, HostError
from setup.command import command, told
from setup.environment import SetupError, StatusLine

from sweep import (
    WORKFLOWS,
    fit_separators,
    flux_files,
    new_folder,
    prepared_server,
    put_files,
    read_workflow,
    set_input,
    step_of,
)

DEMO, FLUX = WORKFLOWS / "demo_protocol.json", WORKFLOWS / "flux_dev_protocol.json"
INSIDE = "COMFYUI_BOKEH_PROTOCOL"
CSV, FIGURE = "protocol.csv", "protocol.png"
# Of a report, in the order of the printed lines; what Bokeh Diffusion published for FLUX.1-dev.
NUMBERS = {
    "lvcorr_reference": "LVCorr (reference)",
    "lpips": "LPIPS (VGG, neighbours)",
    "lvcorr_k": "LVCorr (K)",
    "kept_sharpness": "Kept sharpness",
    "score": "Bokeh score",
    "consistency": "Consistency",
}
PUBLISHED = {"lvcorr_reference": 0.917, "lpips": 0.052}

Row = dict[str, Any]


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line.

    Raises:
        SetupError: no such file, or no prompt in it.
    """
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"The prompts {path} cannot be read ({error}). Give a text file, one prompt a line."
        ) from error
    if not prompts:
        raise SetupError(f"There is no prompt in {path}. Write one a line.")
    return prompts


def report_of(entry: dict[str, Any]) -> Row:
    """The numbers of a run's Bokeh Report.

    Raises:
        SetupError: there is none, or more than one.
    """
    found = [numbers for output in entry.get("outputs", {}).values() for numbers in output.get("bokeh_report", ())]
    if len(found) != 1:
        raise SetupError(
            f"The workflow has {len(found)} Bokeh Report nodes at work, expected one, with images and sweep connected."
        )
    return found[0]


def row_of(prompt: str, seed: int, report: Row) -> Row:
    """A line of the CSV: what sums a sweep up, then the variances of the Laplacian at each blur."""
    row = {"prompt": prompt, "seed": seed, **{name: report[name] for name in NUMBERS}}
    for level in report["levels"]:
        row[f"laplacian {level['value']:g}"] = level["laplacian"]["picture"]
    for level in report["levels"]:
        if "picture" in level["rendered"]:
            row[f"rendered {level['value']:g}"] = level["rendered"]["picture"]
    return row


def measure(
    client: HostClient, graph: Graph, prompts: list[str], options: argparse.Namespace, log: Any
) -> tuple[list[Row], list[str]]:
    """Run the workflow with each prompt, seeds counting up; a row of numbers for each, and what failed."""
    fit_separators(graph, client.object_info())
    rows, failed = [], []
    for number, prompt in enumerate(prompts):
        seed = options.first_seed + number
        set_input(graph, f"{options.prompt}={json.dumps(prompt)}")
        set_input(graph, f"{options.seed}={seed}")
        status = StatusLine(f"Prompt {number + 1} of {len(prompts)}: {prompt}")
        try:
            entry = client.run(graph, lambda status=status: status.tick(step_of(log(1)) if log else ""))
        except KeyboardInterrupt:
            status.finish("stopped")
            client.interrupt()
            raise
        except HostError as error:
            status.finish("left out, its run failed")
            failed.append(f"{prompt}: {error}")
            continue
        rows.append(row_of(prompt, seed, report_of(entry)))
        status.finish()
    if not rows:
        raise SetupError(f"No run came to its end. The last: {failed[-1]}")
    return rows, failed


def summary(rows: list[Row]) -> list[str]:
    """Lines to print: mean and standard deviation over the prompts, beside what was published."""
    levels = sum(name.startswith("laplacian ") for name in rows[0])
    lines = [f"{len(rows)} prompts x {levels} levels, {len(rows) * levels} pictures; mean (standard deviation)"]
    for name, label in NUMBERS.items():
        values = [row[name] for row in rows if row[name] is not None]
        said = "not measured"
        if values:
            said = f"{statistics.fmean(values):.3f} ({statistics.pstdev(values):.3f})"
            if len(values) < len(rows):
                said += f", not defined for {len(rows) - len(values)}"
        if name in PUBLISHED:
            said = f"{said:28} Bokeh Diffusion with FLUX.1-dev: {PUBLISHED[name]:.3f}"
        lines.append(f"  {label:26}{said}")
    return lines


def save(rows: list[Row], folder: Path) -> None:
    """Write the CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / CSV).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)


def draw(folder: Path) -> None:
    """The figure from the CSV, inside the host's Python: sharpness over blur, a line a prompt, and the numbers."""
    from bokeh.sweep.figure import BLUE, GREY, PURPLE, blank_figure, plain_axes

    with (folder / CSV).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    figure = blank_figure(10, 4.2)
    curves = figure.add_axes((0.08, 0.15, 0.5, 0.7))
    for kind, colour in (("laplacian ", GREY), ("rendered ", PURPLE)):
        names = sorted((n for n in rows[0] if n.startswith(kind)), key=lambda name: float(name.split()[1]))
        blurs = [float(name.split()[1]) for name in names]
        drawn = []
        for row in rows:
            variances = [float(row[name] or "nan") for name in names]
            if names and variances[0] > 0:
                drawn.append([variance / variances[0] for variance in variances])
                curves.plot(blurs, drawn[-1], color=colour, linewidth=0.8, alpha=0.5)
        if drawn:
            middle = [statistics.median(level) for level in zip(*drawn, strict=True)]
            label = "rendered" if kind == "rendered " else "pictures"
            curves.plot(blurs, middle, color=PURPLE if label == "rendered" else BLUE, linewidth=2.8, label=label)
    plain_axes(curves, 10)
    curves.set_title("Variance of the Laplacian over that of the sharpest", loc="left", size=11)
    curves.set_xlabel("requested blur", size=10)
    curves.set_ylim(0, 1.2)
    curves.legend(frameon=False, fontsize=10)
    shown = [name for name in NUMBERS if any(row[name] for row in rows)]
    numbers = figure.add_axes((0.76, 0.15, 0.21, 0.7))
    for place, name in enumerate(reversed(shown)):
        values = [float(row[name]) for row in rows if row[name]]
        numbers.plot(values, [place] * len(values), "o", color=GREY, markersize=4, alpha=0.6)
        numbers.plot(statistics.fmean(values), place, "D", color=BLUE, markersize=7)
    plain_axes(numbers, 10)
    numbers.set_yticks(range(len(shown)), [NUMBERS[name] for name in reversed(shown)])
    numbers.set_xlim(-0.05, 1.05)
    numbers.set_title(f"{len(rows)} prompts", loc="left", size=11)
    figure.savefig(folder / FIGURE)


def run(options: argparse.Namespace) -> int:
    """Measure and write; the exit code."""
    path = options.workflow or (FLUX if options.flux else DEMO)
    graph = read_workflow(path)
    prompts = read_prompts(options.prompts or (FLUX if options.workflow else path).with_suffix(".txt"))
    for assignment in options.set:
        set_input(graph, assignment)
    if options.running:
        (rows, failed), python = measure(HostClient(options.running), graph, prompts, options, None), sys.executable
    else:
        host, server = prepared_server()
        with server:
            if options.flux and not options.workflow:
                put_files(graph, flux_files(server.client, host))
            (rows, failed), python = measure(server.client, graph, prompts, options, server.log_tail), host.python
    folder = new_folder(options.output, "protocol")
    save(rows, folder)
    print("\n".join(summary(rows)))
    for line in failed:
        print(f"Left out: {line}", file=sys.stderr)
    drawn = subprocess.run([str(python), __file__, str(folder)], env={**os.environ, INSIDE: "1"}, check=False)
    if drawn.returncode:
        print(f"The figure was not drawn. The numbers are in {folder / CSV}.")
    print(folder.resolve())
    return 0


def main(arguments: list[str]) -> int:
    """Command line; the exit code."""
    if os.environ.get(INSIDE):
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec("matplotlib") is None:
            print(f"{sys.executable} is not ComfyUI's Python, so it draws no figure.", file=sys.stderr)
            return 1
        load_pack()
        draw(Path(arguments[0]))
        return 0
    parser = argparse.ArgumentParser(description="Measure a model's bokeh on 20 prompts at 5 blurs.")
    parser.add_argument("--flux", action="store_true", help="FLUX.1-dev and Lotus for the depth, with the host's files")
    parser.add_argument("--workflow", type=Path, metavar="FILE", help="a workflow of yours in API format, any model")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one a line; default: 20 that come with the pack")
    parser.add_argument("--prompt", default="prompt.text", metavar="NODE.INPUT", help="default: prompt.text")
    parser.add_argument("--seed", default="sampler.seed", metavar="NODE.INPUT", help="default: sampler.seed")
    parser.add_argument("--first-seed", type=int, default=1, help="the other prompts count up from it (default: 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="set an input (may be repeated)"
    )
    parser.add_argument("--running", type=int, metavar="PORT", help="queue on a ComfyUI that runs on this machine")
    parser.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="default: ./output")
    options = parser.parse_args(arguments)
    return told(lambda: run(options))


if __name__ == "__main__":
    command(main)
