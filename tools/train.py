"""Trains a bokeh adapter: `python tools/train.py --demo --out FOLDER`; or with --pairs and --checkpoint, or
--unet, --clip and --vae.

Sets up the host like the other tools, then runs itself inside its environment, where torch is at hand: apart from the
first lines not standard library only. On several GPUs or machines, from that environment and with COMFYUI_PATH set:
`accelerate launch tools/train.py ...`; each process then draws its own share, and --batch is that of one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inside import load_pack, run_inside

if TYPE_CHECKING:
    from bokeh.training.session import Parts

INSIDE = "COMFYUI_BOKEH_TRAIN"
# Seconds between lines that only say that it goes on.
HEARTBEAT = 30.0


def main(arguments: list[str]) -> int:
    """Run inside the host's environment; outside it, set that up and start again there."""
    if os.environ.get(INSIDE) or "WORLD_SIZE" in os.environ:
        return train(arguments)
    return run_inside(__file__, arguments, INSIDE)


def train(arguments: list[str]) -> int:
    """Train until the last step or a signal; the exit code is 1 when something is wrong with what was given."""
    host = os.environ.get("COMFYUI_PATH")
    if not host or not Path(host, "main.py").is_file():
        print(f"COMFYUI_PATH is {host!r}. Expected the folder with ComfyUI's main.py.", file=sys.stderr)
        return 1
    sys.path.insert(0, host)
    load_pack()
    from bokeh.training.recipe import PRESETS, Recipe

    parser = _parser(Recipe, tuple(PRESETS))
    preset = parser.parse_known_args(arguments)[0].preset
    parser.set_defaults(**PRESETS.get(preset, {}))
    options = parser.parse_args(arguments)
    parts = options.checkpoint or (options.unet and options.clip and options.vae)
    if not options.demo and not (parts and options.pairs):
        parser.error("give --demo, or --pairs with --checkpoint or all of --unet, --clip and --vae")
    try:
        settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
        blocks = settings["blocks"]
        settings["blocks"] = blocks[0] if blocks and isinstance(blocks[0], str) else blocks and tuple(blocks)
        return _train(options, Recipe(**settings))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _train(options: argparse.Namespace, recipe: Any) -> int:
    from bokeh.training.processes import processes

    # Before the host chooses a device.
    team = processes()
    parts = load_models(options)
    dataset = load_pictures(options)
    from bokeh.training.session import Session
    from bokeh.training.trainer import BEST

    session = Session(parts, dataset, recipe, options.out, team)
    log = _Log(session.trainer.step, options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopper(session))
    session.run(options.steps, log.show, options.measure_every, options.save_every, not options.no_samples)
    if team.rank == 0:
        done = session.trainer.step
        if done < options.steps:
            print(f"Stopped after {done} of {options.steps} steps. The same command goes on from there.")
        print(
            f"The best adapter so far: {options.out / BEST}. Put it into models/bokeh_adapters under a name of its own."
        )
    team.finish()
    return 0


def load_models(options: argparse.Namespace) -> Parts:
    """The model to train for, with its text encoder and VAE, by the host's own loaders."""
    import torch
    from comfy.cli_args import args

    accelerators = (torch.cuda.is_available(), torch.backends.mps.is_available(), torch.xpu.is_available())
    args.cpu = options.cpu or not any(accelerators)
    torch.set_grad_enabled(False)
    from bokeh.training.session import Parts

    if options.demo:
        from bokeh.demo.load import load_demo
        from bokeh.demo.network import KINDS

        demo = load_demo(options.demo, kind=KINDS[options.family])
        return Parts(demo.model, demo.clip, demo.vae)
    import comfy.sd
    import comfy.utils

    if options.checkpoint:
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))
        return Parts(model, clip, vae)
    kind = getattr(comfy.sd.CLIPType, options.clip_type.upper(), None)
    if kind is None:
        known = ", ".join(kind.name.lower() for kind in comfy.sd.CLIPType)
        raise ValueError(f"--clip-type is {options.clip_type}, which this ComfyUI does not have. It has: {known}.")
    model = comfy.sd.load_diffusion_model(str(options.unet))
    clip = comfy.sd.load_clip([str(path) for path in options.clip], clip_type=kind)
    return Parts(model, clip, comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(options.vae))))


def load_pictures(options: argparse.Namespace) -> Any:
    """The dataset: a manifest's, or procedural scenes."""
    if options.pairs is None:
        from bokeh.training.scenes import Scenes

        return Scenes()
    import comfy.model_management

    from bokeh.training.manifest import read_manifest
    from bokeh.training.pairs import ManifestPairs

    rows = read_manifest(options.pairs, options.size)
    device = comfy.model_management.get_torch_device()
    dataset = ManifestPairs(rows, options.size, options.keep_aspect, options.held_out, device)
    print(dataset.summary())
    return dataset


class _Log:
    """Lines in the terminal, and the latest picture in the folder."""

    def __init__(self, step: int, options: argparse.Namespace) -> None:
        self._options = options
        self._first, self._start = step, time.monotonic()
        self._last = self._start

    def show(self, progress: Any, picture: Any) -> None:
        now = time.monotonic()
        if picture is None and now - self._last < HEARTBEAT:
            return
        self._last = now
        pace = (now - self._start) / (progress.step - self._first)
        line = f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}"
        if progress.held_out is not None:
            line += f"  held out {progress.held_out:.4f}{' (best)' if progress.best else ''}"
        left = pace * (progress.steps - progress.step) / 60
        print(f"{line}  {pace:.2f} s a step, {left:.0f} min left", flush=True)
        if picture is not None:
            self._write(picture)

    def _write(self, picture: Any) -> None:
        from PIL import Image

        from bokeh.files import whole_file
        from bokeh.training.session import PREVIEW

        with whole_file(self._options.out / PREVIEW) as unfinished:
            Image.fromarray((255 * picture[0]).round().byte().numpy()).save(unfinished, "PNG")


def _stopper(session: Any):
    """Ends the run after its step; the second signal ends it at once."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        print("Stopping after this step; again to stop at once.", flush=True)
        session.trainer.stop()

    return stop


def _block(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _parser(recipe: type, presets: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a bokeh adapter. The same command goes on where a run stopped.",
        epilog="What the settings of the recipe mean is written in training/recipe.py.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoint, best adapter, picture")
    parser.add_argument("--steps", type=int, default=1000, help="in all; default: 1000")
    models = parser.add_argument_group("model")
    demo = Path(__file__).resolve().parent.parent / "demo"
    models.add_argument(
        "--demo",
        type=Path,
        nargs="?",
        const=demo,
        metavar="FOLDER",
        help="the demonstration model, of this pack or here",
    )
    models.add_argument("--family", choices=("flux", "unet"), default="flux", help="which of them; default: flux")
    models.add_argument("--checkpoint", type=Path, metavar="FILE", help="model, text encoder and VAE in one file")
    models.add_argument("--unet", type=Path, metavar="FILE", help="a diffusion model")
    models.add_argument(
        "--clip", type=Path, nargs="+", metavar="FILE", help="its text encoders; FLUX.1: clip_l and t5xxl"
    )
    models.add_argument("--clip-type", default="flux", metavar="NAME", help="their type in Load CLIP; default: flux")
    models.add_argument("--vae", type=Path, metavar="FILE", help="its VAE")
    models.add_argument("--cpu", action="store_true", help="train on the CPU even where there is a GPU")
    data = parser.add_argument_group("pictures")
    data.add_argument("--pairs", type=Path, metavar="MANIFEST", help="default with --demo: procedural scenes")
    data.add_argument("--size", type=int, default=512, help="short side in px; default: 512")
    data.add_argument("--keep-aspect", action="store_true", help="pictures nearly in their own shape, not squares")
    data.add_argument("--held-out", type=float, default=0.05, help="share kept for measuring; default: 0.05")
    run = parser.add_argument_group("run")
    run.add_argument("--measure-every", type=int, default=100, metavar="N", help="steps; default: 100")
    run.add_argument("--save-every", type=int, default=500, metavar="N", help="steps; default: 500")
    run.add_argument("--no-samples", action="store_true", help="no sweep with every measurement")
    run.add_argument("--preset", choices=presets, help="a published recipe; the settings below change it")
    settings = parser.add_argument_group("recipe")
    for field in dataclasses.fields(recipe):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            settings.add_argument(name, action=argparse.BooleanOptionalAction, default=default)
        elif default is None:
            settings.add_argument(name, type=_block, nargs="+", metavar="N", help='numbers, or "deep"; default: all')
        else:
            settings.add_argument(name, type=type(default), default=default, metavar="X", help=f"default: {default}")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
