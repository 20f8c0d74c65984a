"""The virtual camera on the demonstration model: how its two LoRAs are trained, and how near they come to the truth on
held-out scenes, through the public nodes and the host's sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import comfy.sample
import torch
from torch import Tensor

from ...demo import ADAPTERS
from ...demo.load import Demo, load_demo
from ...nodes.genfocus import BokehAllInFocus, BokehRefocus
from ...sweep.measures import laplacian_variance, psnr
from ...training.conditions import ConditionTrainer
from ...training.recipe import Recipe
from ...training.refocus import ALL_IN_FOCUS, PROMPTS, REFOCUS, SceneExamples, focus_of
from ...training.scenes import Props, Scene, draw_scenes, render, subject_masks
from ...training.trainer import BEST, Progress
from ...weights.files import read_adapter
from ...weights.genfocus import Genfocus

RECIPE = Recipe(
    batch=8,
    per_scene=1,
    rank=28,
    learning_rate=2e-3,
    warmup=50,
    decay=0.4,
    average=0.99,
    timestep_mean=1.0,
    timestep_std=1.5,
    held_out_units=32,
    checkpointing=False,
)
BLURS = (5.0, 15.0, 30.0)
# Disparities in focus.
PLANES = {"object in focus": 1.0, "background in focus": 0.0}
STEPS = 28
# Pictures that go through the model together.
_TOGETHER = 4
_LINE_SECONDS = 30.0


def learn(kind: str, demo: Path, folder: Path, steps: int, seed: int) -> int:
    """Train a LoRA of one kind, going on from what is in ``folder``; the exit code."""
    torch.set_grad_enabled(False)
    model, clip, vae = load_demo(demo)
    trainer = ConditionTrainer(model, SceneExamples(kind, vae, clip, model), replace(RECIPE, seed=seed), folder)
    first, started, said = trainer.step, time.process_time(), time.monotonic()

    def on_step(progress: Progress) -> None:
        nonlocal said
        if progress.held_out is None and time.monotonic() - said < _LINE_SECONDS:
            return
        said, recent = time.monotonic(), trainer.losses[-50:]
        pace = (time.process_time() - started) / (progress.step - first)
        held_out = "" if progress.held_out is None else f"  held out {progress.held_out:.4f}"
        line = f"step {progress.step}/{progress.steps}  loss {sum(recent) / len(recent):.4f}{held_out}"
        print(f"{line}  {pace:.2f} s of a core a step", flush=True)

    try:
        trainer.run(steps, on_step, measure_every=50, save_every=50)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.")
        return 130
    print(f"The best so far: {folder / BEST}")
    return 0


class Camera:
    """The public nodes on the demonstration model, with a LoRA each."""

    def __init__(self, demo: Demo, all_in_focus: Genfocus, refocus: Genfocus):
        self.demo, self.loras, self.props = demo, {ALL_IN_FOCUS: all_in_focus, REFOCUS: refocus}, Props()

    def sharpen(self, photos: Tensor, seed: int = 0) -> Tensor:
        """Photos [n, H, W, 3] with everything in focus."""
        node = BokehAllInFocus.execute(self.demo.model, self.loras[ALL_IN_FOCUS], self.demo.vae, photos, False)
        return self._develop(ALL_IN_FOCUS, *node.result, seed)

    def focus(self, sharp: Tensor, scene: Scene, blurs: Tensor, planes: Tensor, seed: int = 0) -> Tensor:
        """Sharp photos [n, H, W, 3] at blurs [n] with the planes [n] in focus."""
        focus = focus_of(self.props, scene, blurs, planes)
        node = BokehRefocus.execute(self.demo.model, self.loras[REFOCUS], self.demo.vae, sharp, focus=focus)
        return self._develop(REFOCUS, *node.result[:2], seed)

    def _develop(self, kind: str, model, latent: dict, seed: int) -> Tensor:
        positive = self.demo.clip.encode_from_tokens_scheduled(self.demo.clip.tokenize(PROMPTS[kind]))
        samples = latent["samples"]
        out = comfy.sample.sample(
            *(model, comfy.sample.prepare_noise(samples, seed), STEPS, 1.0, "euler", "simple"),
            *(positive, positive, samples),
            disable_pbar=True,
            seed=seed,
        )
        return self.demo.vae.decode(out)[..., :3].float().clamp(0, 1)


def judge_camera(
    camera: Camera, count: int, seed: int = 0, on_case: Callable[[int], None] = lambda _: None
) -> dict[str, Tensor]:
    """By name, a number for each of ``count`` held-out scenes: PSNR in dB, or sharpness as a ratio."""
    drawn = draw_scenes(torch.Generator().manual_seed(seed), count, held_out=True)
    found: dict[str, list[Tensor]] = {}
    for first in range(0, count, _TOGETHER):
        scene = drawn.take(torch.arange(first, min(first + _TOGETHER, count)))
        for name, values in _judge(camera, scene, seed + first).items():
            found.setdefault(name, []).append(values)
        on_case(first + len(scene.row))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _judge(camera: Camera, scene: Scene, seed: int) -> dict[str, Tensor]:
    props, vae = camera.props, camera.demo.vae
    flat = torch.ones(len(scene.row))
    sharp = render(props, scene, 0 * flat)
    found = {"sharp picture through the codec alone": psnr(vae.decode(vae.encode(sharp)).clamp(0, 1), sharp)}
    ends = {}
    for where, plane in PLANES.items():
        for blur in BLURS:
            truth = render(props, scene, blur * flat, plane * flat)
            name = f"blur {blur:g}, {where}"
            back = camera.sharpen(truth, seed)
            found[f"all in focus, from {name}"] = psnr(back, sharp)
            found[f"    its input, {name}"] = psnr(truth, sharp)
            ends[where] = camera.focus(sharp, scene, blur * flat, plane * flat, seed)
            found[f"refocus to {name}"] = psnr(ends[where], truth)
    subject = subject_masks(props, scene)
    near, far = (ends[where] for where in PLANES)
    for name, area in (("object", subject), ("background", 1 - subject)):
        change = [
            laplacian_variance(torch.stack([a, b]), mask[None])
            for a, b, mask in zip(near, far, (area > 0.99).float(), strict=True)
        ]
        found[f"sharpness of the {name}, background over object in focus, blur {BLURS[-1]:g}"] = torch.stack(
            [values[1] / values[0] for values in change]
        )
    return found


def print_judgement(
    demo: Path,
    all_in_focus: Path | None,
    refocus: Path | None,
    cases: int,
    seed: int,
    on_case: Callable[[int], None],
) -> int:
    """Print what ``judge_camera`` finds; the LoRAs are the demo folder's own by default. The exit code."""
    torch.set_grad_enabled(False)
    own = [demo / ADAPTERS[name] for name in ("demo: all in focus", "demo: refocus")]
    loras = map(read_adapter, (all_in_focus or own[0], refocus or own[1]))
    found = judge_camera(Camera(load_demo(demo), *loras), cases, seed, on_case)
    print(f"\n{cases} held-out scenes, {STEPS} steps, euler, simple; PSNR in dB, or a ratio: mean and lowest")
    for name, values in found.items():
        print(f"{name:72}{values.mean():8.2f}{values.min():8.2f}")
    return 0
