"""Makes the demonstration model and measures it: `python tools/demo base --work FOLDER` and `... judge`.

`base` trains the network of one family and writes it with its image codec; the adapter is trained on that by
`python tools/train.py --demo`, the two LoRAs of the virtual camera by `conditions`. `judge` and its like print how good
they are, on prompts and seeds held out of training. Sets up the host like the other tools, then runs itself inside its
environment: apart from the first lines not standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

# In place of this folder, whose modules belong to the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from inside import load_pack, run_inside  # noqa: E402

INSIDE = "COMFYUI_BOKEH_DEMO"
DEMO = Path(__file__).resolve().parents[2] / "demo"
CHECKPOINT = "base.checkpoint"
SAVE_SECONDS = 120.0
LINE_SECONDS = 30.0


def main(arguments: list[str]) -> int:
    """Run inside the host's environment; outside it, set that up and start again there."""
    options = _parser().parse_args(arguments)
    if os.environ.get(INSIDE):
        return _inside(options)
    return run_inside(__file__, arguments, INSIDE)


def _inside(options: argparse.Namespace) -> int:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    load_pack()
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    try:
        return options.command(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def base(options: argparse.Namespace) -> int:
    """Train codec and network, going on from what is in the work folder."""
    import torch

    from bokeh.demo.load import demo_files
    from bokeh.demo.network import KINDS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        codec = _codec(options, device)
        average = _network(options, codec, device)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint; the codec's few minutes start again.")
        return 130
    for path, state in zip(demo_files(options.out, KINDS[options.family]), (average, codec.state_dict()), strict=True):
        _write(path, state)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _codec(options: argparse.Namespace, device: str) -> Any:
    """The image codec to start with, else that in the work folder, made if it is not there."""
    from bokeh.demo.codec import PatchCodec
    from bokeh.demo.load import demo_files, load_weights
    from bokeh.tools.demo.base import FROM_FOLDER
    from bokeh.tools.demo.decoder import DecoderRecipe, fit_codec, train_decoder

    given = options.codec or options.start
    _, kept = demo_files(given or options.work)
    if given or kept.exists():
        codec = PatchCodec()
        load_weights(codec, kept, again=FROM_FOLDER)
        return codec
    codec = fit_codec(options.seed)
    recipe = DecoderRecipe(seed=options.seed)
    train_decoder(codec, recipe, device, _Said(recipe.steps, "decoder: "))
    _write(kept, codec.state_dict())
    return codec


def _network(options: argparse.Namespace, codec: Any, device: str) -> dict[str, Any]:
    """The network's averaged weights."""
    from bokeh.demo.load import demo_files
    from bokeh.demo.network import KINDS
    from bokeh.host import flux_file_names
    from bokeh.tools.demo.base import BaseRecipe, BaseTrainer

    recipe = BaseRecipe(steps=options.steps, batch=options.batch, seed=options.seed, family=options.family)
    trainer = BaseTrainer(codec, recipe, device, options.compile)
    if options.start:
        model, _ = demo_files(options.start, KINDS[options.family])
        trainer.start_from(model)
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = options.work / CHECKPOINT
    if checkpoint.exists():
        trainer.load(checkpoint)
    first, started = trainer.step, time.monotonic()
    saved = said = started

    def on_step(step: int, loss: float) -> None:
        nonlocal saved, said
        now = time.monotonic()
        if now - said > LINE_SECONDS:
            said = now
            pace = (step - first) * recipe.batch / (now - started)
            recent = trainer.losses[-100:]
            print(
                f"step {step}/{recipe.steps}  loss {sum(recent) / len(recent):.4f}  {pace:.0f} pictures/s", flush=True
            )
        if now - saved > SAVE_SECONDS:
            saved = now
            trainer.save(checkpoint)

    trainer.run(on_step, options.workers)
    trainer.save(checkpoint)
    return flux_file_names(trainer.average)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write tensors in float16, the codec's linear map in float32."""
    import torch
    from safetensors.torch import save_file

    from bokeh.files import whole_file

    exact = ("mean", "encoder", "decoder")
    tensors = {
        name: tensor.to("cpu", torch.float32 if name in exact else torch.float16).contiguous()
        for name, tensor in state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished)


def judge(options: argparse.Namespace) -> int:
    """Print what `tools/demo/judge.py` measures."""
    painter, adapter = _demo(options)
    from bokeh.tools.demo.judge import CFG, GROUNDING, LEVELS, PIVOT, STEPS, cases, evaluate

    example = cases(1)[0]
    painter.paint(example)
    started = time.monotonic()
    painter.paint(example, LEVELS, adapter)
    print(f"seven levels without a pivot: {time.monotonic() - started:.1f} s")
    print(f"{options.cases} held-out prompts, each with a seed of its own; {STEPS} steps, euler, simple, cfg {CFG:g}")
    print(f"levels {', '.join(f'{level:g}' for level in LEVELS)}; pivot {PIVOT:g}, grounding {GROUNDING}\n")
    verdicts, distances = evaluate(painter, adapter, options.cases, options.seed, _count)
    _print_verdicts(verdicts, 12)
    ratio = verdicts["ungrounded"].scene_change / verdicts["grounded"].scene_change
    print(f"scene change, ungrounded over grounded: {ratio:.2f}")
    print("\nsliced Wasserstein distance to true pictures (two sets of true pictures of other scenes for scale)")
    for name, distance in distances.items():
        print(f"  {name:42}{distance:8.1f}")
    return 0


def photos(options: argparse.Namespace) -> int:
    """Print what `tools/demo/judge_photos.py` measures."""
    painter, adapter = _demo(options, cfg=1.0)
    from bokeh.tools.demo.judge_photos import judge_photos

    found = judge_photos(painter, adapter, options.cases, options.seed, _count)
    print(f"{options.cases} held-out prompts; the pictures that are refocused show blur 15\n")
    _print_verdicts(found.verdicts, 22)
    print("\nsample or render, invert, sample back at the same blur: PSNR in dB")
    for name, error in found.psnr.items():
        print(f"  {name:20}{error:6.1f}")
    return 0


def stages(options: argparse.Namespace) -> int:
    """Print what `tools/demo/judge_stages.py` measures."""
    painter, _ = _demo(options)
    from bokeh.tools.demo.judge_stages import judge_stages

    alphas = (0.0, 0.3, 0.5, 0.7)
    print("sharpness over the plain picture, geometric mean; the local prompt is the object alone")
    for layout in (0.8, 0.4):
        found = judge_stages(painter, alphas, layout, options.cases, options.seed, _count)
        print(file=sys.stderr)
        print(f"{f'layout {layout:g}':24}" + "".join(f"  alpha {alpha:g}".rjust(12) for alpha in alphas))
        for name, ratios in found.items():
            print(f"{name:24}" + "".join(f"{ratio:12.3f}" for ratio in ratios))
    return 0


def conditions(options: argparse.Namespace) -> int:
    """Train a condition LoRA, going on from what is in the work folder."""
    from bokeh.tools.demo.camera import learn

    return learn(options.kind, options.demo, options.work / options.kind, options.steps, options.seed)


def camera(options: argparse.Namespace) -> int:
    """Print what `tools/demo/camera.py` measures."""
    from bokeh.tools.demo.camera import print_judgement

    return print_judgement(options.demo, options.all_in_focus, options.refocus, options.cases, options.seed, _count)


def slider(options: argparse.Namespace) -> int:
    """Train a slider LoRA on a finished model."""
    from bokeh.tools.demo.slider import SliderRecipe, finished, train_slider

    recipe = SliderRecipe(steps=options.steps, seed=options.seed)
    _write(options.out, train_slider(finished(options.demo, options.family), recipe, _Said(recipe.steps)))
    print(f"{options.out}  {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def carriers(options: argparse.Namespace) -> int:
    """Print what `tools/demo/carriers.py` measures."""
    painter, adapter = _demo(options)
    from bokeh.tools.demo.carriers import judge_carriers, table

    print(table(judge_carriers(painter, adapter, options.cases, options.seed, _count)))
    return 0


def ablate(options: argparse.Namespace) -> int:
    """Train an adapter with its value in self-attention and one with it in cross-attention, and judge both."""
    import torch

    torch.set_grad_enabled(False)
    from bokeh.tools.demo.ablate import judge_places
    from bokeh.tools.demo.carriers import table

    steps, said = options.steps, _Said(options.steps)
    print(table(judge_places(options.demo, options.work, steps, options.cases, options.seed, said, _count)))
    return 0


def verdicts(options: argparse.Namespace) -> int:
    """Print what `tools/demo/judge_verdicts.py` measures."""
    painter, adapter = _demo(options)
    from bokeh.sweep.verdict import FOLLOWS, KEEPS, STAYS
    from bokeh.tools.demo.judge_verdicts import NUMBERS, judge_verdicts

    found = judge_verdicts(painter, adapter, options.cases, options.seed, _count)
    print(file=sys.stderr)
    print(f"{options.cases} held-out prompts: of the values, the 5th, 50th and 95th percentile")
    print(f"{'':44}" + "".join(f"{name:>24}" for name in NUMBERS))
    for kind, rows in found.items():
        ends = ([values.nanquantile(part).item() for part in (0.05, 0.5, 0.95)] for values in rows.values())
        print(f"{kind:44}" + "".join(f"{low:10.3f}{middle:7.3f}{high:7.3f}" for low, middle, high in ends))
    for name, scale in zip(NUMBERS, (FOLLOWS, KEEPS, STAYS), strict=True):
        print(f"\n{name}: share of sweeps at each word")
        for kind, rows in found.items():
            values, shares, above = rows[name], [], float("inf")
            for least, words in scale:
                share = ((values >= least) & (values < above)).float().mean().item()
                shares.append(f"{share:5.0%} {words or 'not said'}")
                above = least
            print(f"  {kind:44}" + "  ".join(shares))
    return 0


def _demo(options: argparse.Namespace, **settings: float):
    import torch

    torch.set_grad_enabled(False)
    from bokeh.demo import ADAPTERS
    from bokeh.demo.load import load_demo
    from bokeh.demo.network import KINDS
    from bokeh.tools.demo.judge import Painter
    from bokeh.weights.files import read_adapter

    kind = KINDS[options.family]
    demo = load_demo(options.demo, kind=kind)
    by = getattr(options, "by", "adapter")
    if by == "adapter":
        return Painter(*demo, **settings), read_adapter(options.adapter or options.demo / ADAPTERS[kind.adapter])
    from bokeh.tools.demo.dials import LoraPainter, WordsPainter

    if by == "words":
        return WordsPainter(*demo, layout=options.layout, **settings), None
    return LoraPainter(*demo, file=options.lora, **settings), None


class _Said:
    """A line with the loss now and then."""

    def __init__(self, steps: int, of: str = ""):
        self._steps, self._of, self._last = steps, of, time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        if time.monotonic() - self._last > LINE_SECONDS or step == self._steps:
            self._last = time.monotonic()
            print(f"{self._of}step {step}/{self._steps}  loss {loss:.5f}", flush=True)


def _count(done: int) -> None:
    print(f"\r{done}", end="", file=sys.stderr, flush=True)


def _print_verdicts(verdicts: dict, width: int) -> None:
    from bokeh.tools.demo.judge import Verdict

    print(file=sys.stderr)
    print(f"{'':36}" + "".join(f"{name:>{width}}" for name in verdicts))
    for field in dataclasses.fields(Verdict):
        values = "".join(f"{getattr(verdict, field.name):{width}.4f}" for verdict in verdicts.values())
        print(f"{field.metadata['label']:36}{values}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make and measure the demonstration model.")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("base", help="train a network and its image codec")
    making.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="where the checkpoint goes")
    making.add_argument("--out", type=Path, default=DEMO, metavar="FOLDER", help="where the model goes")
    _add_family(making)
    making.add_argument("--steps", type=int, default=4400)
    making.add_argument("--batch", type=int, default=64)
    making.add_argument("--seed", type=int, default=0)
    making.add_argument(
        "--start", type=Path, metavar="FOLDER", help="go on from the model and codec there; take another seed"
    )
    making.add_argument("--codec", type=Path, metavar="FOLDER", help="take the codec there instead of making one")
    making.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="by torch.compile")
    making.add_argument("--workers", type=int, default=0, help="processes that draw pictures ahead; for a GPU")
    making.set_defaults(command=base)
    learning = commands.add_parser("conditions", help="train a LoRA of the virtual camera")
    learning.add_argument("kind", choices=("all_in_focus", "refocus"))
    learning.add_argument("--demo", type=Path, default=DEMO, metavar="FOLDER", help="where the model is")
    learning.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="where checkpoint and LoRA go")
    learning.add_argument("--steps", type=int, default=2000)
    learning.add_argument("--seed", type=int, default=0)
    learning.set_defaults(command=conditions)
    judging = commands.add_parser("camera", help="measure the virtual camera's LoRAs")
    judging.add_argument("--demo", type=Path, default=DEMO, metavar="FOLDER")
    for name in ("--all-in-focus", "--refocus"):
        judging.add_argument(name, type=Path, metavar="FILE", help="default: the one in the demo folder")
    judging.add_argument("--cases", type=int, default=32)
    judging.add_argument("--seed", type=int, default=0)
    judging.set_defaults(command=camera)
    sliding = commands.add_parser("slider", help="train a slider LoRA on a finished model, from sharp to blurred")
    sliding.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the LoRA goes")
    sliding.set_defaults(command=slider)
    _add_family(sliding)
    ablating = commands.add_parser("ablate", help="on the UNet: the value in self-attention or in cross-attention")
    ablating.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="where checkpoints go")
    ablating.add_argument("--cases", type=int, default=16)
    ablating.set_defaults(command=ablate)
    for short, steps in ((sliding, 400), (ablating, 60)):
        short.add_argument("--demo", type=Path, default=DEMO, metavar="FOLDER", help="where the model is")
        short.add_argument("--steps", type=int, default=steps)
        short.add_argument("--seed", type=int, default=0)
    for name, command, cases, text in (
        ("judge", judge, 64, "measure model and adapter"),
        ("photos", photos, 16, "measure pivots from a latent, and inversion"),
        ("stages", stages, 32, "measure what GBSD's stages do"),
        ("carriers", carriers, 16, "find the layers of the UNet that carry the scene"),
        ("verdicts", verdicts, 32, "measure what the report says of good and of broken sweeps"),
    ):
        judging = commands.add_parser(name, help=text)
        judging.add_argument("--demo", type=Path, default=DEMO, metavar="FOLDER")
        _add_family(judging)
        judging.add_argument("--adapter", type=Path, metavar="FILE", help="default: the one in the demo folder")
        judging.add_argument("--cases", type=int, default=cases)
        judging.add_argument("--seed", type=int, default=0)
        judging.set_defaults(command=command, **({"family": "unet"} if name == "carriers" else {}))
        if name in ("judge", "carriers"):
            judging.add_argument("--by", choices=("adapter", "words", "lora"), default="adapter", help="the dial")
            judging.add_argument("--lora", type=Path, metavar="FILE", help="for --by lora, as `slider` writes it")
            judging.add_argument("--layout", type=float, default=0.0, help="by words: share of steps before they count")
    return parser


def _add_family(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", choices=("flux", "unet"), default="flux", help="default: flux")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
