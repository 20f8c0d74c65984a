"""Inversion of sampling: from a picture to the noise from which the model makes it.

Euler sampling goes down the noise levels sigma_0 > ... > sigma_S = 0 by
    x_(i+1) = x_i + (sigma_(i+1) - sigma_i) v(x_i, sigma_i),   v(x, sigma) = (x - denoised(x, sigma)) / sigma,
v being the velocity of flow models and the noise of those that predict noise or v.
Its exact inverse is implicit,
    x_i = x_(i+1) + (sigma_i - sigma_(i+1)) v(x_i, sigma_i),
and is solved at every step by fixed-point iteration (AIDI, Pan et al., arXiv 2309.04907; ReNoise, Garibi et al.,
arXiv 2403.14602). So it undoes the steps of the host's own `euler`, not those of the exact flow, which higher-order
inversions approximate (RF-Solver, Wang et al., arXiv 2411.04746). The iteration starts from the velocity of the step
before, reused as in FireFlow (Deng et al., arXiv 2412.07517), and then needs two or three calls of the model a step.

The one step to sigma = 0 ends on the model's own estimate of the clean picture. What the model would not have drawn
has no x_i that leads to it, and iterating on would only pile it up in the noise; so that step stops once an iteration
no longer halves what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .checks import sides_of
from .install import KEY
from .rows import Trajectory

# Relative change of the state. Half precision cannot tell much less apart, and less did not help reconstruction.
TOLERANCE = 1e-3
# Of the step to sigma = 0: what an iteration may leave of the residual and be worth another one.
LAST_STEP_GAIN = 0.5

Progress = Callable[[int, Tensor, Tensor, int], None]


@dataclass(frozen=True, eq=False)
class InvertedNoise:
    """A NOISE of the host from which sampling leads back to the inverted pictures.

    Attributes:
        noise: [n, C, ..., h, w] in the model's own scale, so that noise_scaling(sigma_0, noise, z) = x_0.
        needs_picture: True when the picture z is in x_0: below full noise, and in models of other kinds than flow.
        batch_index: the host's numbers of the n pictures in the batch they came from.
        seed: for samplers that draw on the way.
    """

    noise: Tensor
    needs_picture: bool
    batch_index: tuple[int, ...]
    seed: int = 0

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """The noise of every row of ``input_latent``: of one picture for all of them, of several each its own.

        Raises:
            ValueError: when the latent is of another size, has rows of other pictures, or lacks the picture.
        """
        latent = input_latent["samples"]
        if latent.shape[1:] != self.noise.shape[1:]:
            raise ValueError(
                f"The inverted noise is {sides_of(self.noise)} (channels x height x width), but the latent that is "
                f"being sampled is {sides_of(latent)}. Sample a latent of the size that was inverted."
            )
        if self.needs_picture and not latent.any():
            raise ValueError(
                "Sampling starts from the inverted picture here (a denoise below 1, or a model that adds noise to it "
                "at any denoise), but the sampler's latent is empty. Connect the latent that was inverted."
            )
        if len(self.noise) == 1:
            return self.noise.repeat(len(latent), *[1] * (latent.ndim - 1))
        wanted = list(input_latent.get("batch_index", range(len(latent))))
        missing = sorted(set(wanted) - set(self.batch_index))
        if missing:
            raise ValueError(
                f"The inverted noise belongs to the pictures {list(self.batch_index)} of a batch, but the latent that "
                f"is being sampled asks for picture {missing[0]}. Sample the very batch that was inverted."
            )
        return self.noise[[self.batch_index.index(number) for number in wanted]]


@dataclass(frozen=True, eq=False)
class Inversion:
    """What an inversion found.

    Attributes:
        noise: what goes into the sampler.
        trajectory: the pictures at every noise level.
        residuals: relative residual of each picture at every step [S, n], in the order of sampling.
        reconstruction: the latents [n, C, h, w] that `euler` makes of the noise at the same noise levels.
        calls: calls of the model that the inversion took.
    """

    noise: InvertedNoise
    trajectory: Trajectory
    residuals: Tensor
    reconstruction: Tensor
    calls: int


def invert(
    guider: comfy.samplers.CFGGuider,
    latent: dict[str, Any],
    sigmas: Tensor,
    iterations: int,
    on_step: Progress | None = None,
) -> Inversion:
    """Invert the pictures of ``latent`` along ``sigmas``, and sample back to see how well it went.

    Args:
        guider: as for sampling; the blur slider on its model is set to what the pictures show.
        latent: LATENT of the host with n clean pictures [n, C, h, w].
        sigmas: the noise levels of sampling [S + 1], falling, the last one 0.
        iterations: calls of the model a step, at most.
        on_step: called as the host's sampler callbacks are, over 2 S steps: S up and S down.

    Raises:
        ValueError: when the model carries a sweep or a pivot, when there is no picture in the latent or not one of this
            model, or when the noise levels do not lead to a clean picture.
    """
    model, pictures = guider.model_patcher, latent["samples"]
    _check_model(model)
    _check_pictures(model, pictures)
    pictures = comfy.sample.fix_empty_latent_channels(model, pictures)
    sampling = model.get_model_object("model_sampling")
    _check_sigmas(sigmas, 1.0 if isinstance(sampling, comfy.model_sampling.CONST) else float(sampling.sigma_max))
    steps = len(sigmas) - 1
    sampler = _Inverter(iterations)
    # The falling levels go in, because hooks and other packs read them as a sampling run's.
    guider.sample(torch.zeros_like(pictures), pictures, sampler, sigmas, callback=_part(on_step, 0, 2 * steps), seed=0)
    trajectory = Trajectory(sigmas.flip(0).float().cpu(), torch.stack(sampler.states))
    clean, start = trajectory.states[0], trajectory.states[-1]
    noise, offset = _noise_within(sampling, start, clean, float(sigmas[0]))
    noise = InvertedNoise(
        noise=noise,
        needs_picture=bool(offset.any()),
        batch_index=tuple(latent.get("batch_index", range(len(pictures)))),
    )
    reconstruction = guider.sample(
        noise.generate_noise({**latent, "samples": pictures}),
        pictures,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        callback=_part(on_step, steps, 2 * steps),
        disable_pbar=True,
        seed=noise.seed,
    )
    return Inversion(noise, trajectory, torch.stack(sampler.residuals[::-1]), reconstruction.cpu(), sampler.calls)


def _noise_within(sampling, start: Tensor, clean: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """The noise that the host's noise_scaling makes into ``start`` at ``sigma``, and what it adds to it of the picture
    ``clean``. It is linear in both: sigma * noise + (1 - sigma) * picture for flow models, say."""
    level = torch.tensor([sigma])
    # As the host's samplers decide.
    most = not isinstance(sampling, comfy.model_sampling.CONST) and sigma > float(sampling.sigma_max) * (1 - 1e-5)
    offset = sampling.noise_scaling(level, torch.zeros_like(clean), clean, most)
    factor = sampling.noise_scaling(level, torch.ones_like(clean), torch.zeros_like(clean), most)
    return (start - offset) / factor, offset


class _Inverter(comfy.samplers.Sampler):
    """A sampler of the host that goes the other way: from the picture at the last level to noise at the first.

    After one run: ``states`` from clean to noise, the ``residuals`` [n] of the steps between them, ``calls``.
    """

    def __init__(self, iterations: int):
        self.iterations = iterations
        self.states: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.calls = 0

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        x = latent_image
        self.states.append(x.cpu())
        rows, steps = x.new_ones(x.shape[0]), len(sigmas) - 1
        velocity = None
        for i in reversed(range(steps)):
            sigma, width = sigmas[i], sigmas[i] - sigmas[i + 1]

            def step_back(state: Tensor, x=x, sigma=sigma, width=width) -> Tensor:
                comfy.model_management.throw_exception_if_processing_interrupted()
                self.calls += 1
                return x + width * (state - model_wrap(state, sigma * rows, **extra_args)) / sigma

            guess = x if velocity is None else x + width * velocity
            gain = LAST_STEP_GAIN if i == steps - 1 else float("inf")
            state, residual = fixed_point(step_back, guess, self.iterations, TOLERANCE, gain)
            velocity, x = (state - x) / width, state
            self.states.append(x.cpu())
            self.residuals.append(residual.cpu())
            if callback is not None:
                callback(steps - 1 - i, x - sigma * velocity, x, steps)
        return x


def fixed_point(
    function: Callable[[Tensor], Tensor], start: Tensor, iterations: int, tolerance: float, gain: float = float("inf")
) -> tuple[Tensor, Tensor]:
    """Solve x = function(x) for every row of ``start`` [n, ...] by iterating x <- function(x).

    A row is done when its change |function(x) - x| is at most ``tolerance`` |x|, or more than ``gain`` times the
    change before; ``iterations`` is the most calls of ``function``, which gets all rows.

    Returns:
        The solution and, for each row, the last relative residual |function(x) - x| / |x| [n] on the way to it.
    """
    x = start
    before = residual = start.new_full((len(start),), float("inf"))
    active = torch.ones_like(residual, dtype=torch.bool)
    for _ in range(iterations):
        change = function(x) - x
        length = change.flatten(1).norm(dim=1)
        moves = active & ~(length > gain * before)
        before = length
        residual = torch.where(active, length / x.flatten(1).norm(dim=1), residual)
        x = torch.where(moves.view(-1, *[1] * (x.ndim - 1)), x + change, x)
        active = moves & (residual > tolerance)
        if not active.any():
            break
    return x, residual


def _part(on_step: Progress | None, done: int, total: int) -> Progress | None:
    """The callback of one of the two runs, counting over both."""
    if on_step is None:
        return None
    return lambda step, denoised, x, _: on_step(done + step, denoised, x, total)


def _check_model(model) -> None:
    for wrapper in model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        plan = wrapper.__self__.plan
        if plan.one_scene or plan.pivot is not None:
            raise ValueError(
                f"A picture is inverted by itself, but this model carries a bokeh "
                f"{'sweep' if plan.one_scene else 'pivot'}. Connect a guider whose model has the blur slider at "
                "the blur that the picture shows, without a pivot; the sweep and the pivot come after the inversion."
            )


def _check_pictures(model, pictures: Tensor) -> None:
    channels = model.get_model_object("latent_format").latent_channels
    sides = model.get_model_object("latent_format").latent_dimensions
    if pictures.ndim not in (4, 2 + sides) or pictures.shape[1] != channels:
        raise ValueError(
            f"The latent is {sides_of(pictures)} (channels x height x width), but this model's pictures have "
            f"{channels} channels. Encode the picture with the VAE that belongs to the model."
        )
    if not torch.isfinite(pictures).all():
        raise ValueError(
            "The latent has NaN or infinite values. If it comes from VAE Encode, start ComfyUI with --fp32-vae."
        )
    if not pictures.flatten(1).any(1).all():
        raise ValueError("The latent is empty. Connect a photo through VAE Encode, or a finished picture's latent.")


def _check_sigmas(sigmas: Tensor, most: float) -> None:
    falls = len(sigmas) > 1 and float(sigmas[-1]) == 0 and (sigmas[:-1] > sigmas[1:]).all()
    if not falls or float(sigmas[0]) > most * 1.001:
        listed = ", ".join(f"{float(sigma):.3g}" for sigma in sigmas)
        raise ValueError(
            f"The sigmas are [{listed}], expected at least two that fall from at most {most:g} to 0. Connect "
            "BasicScheduler, the same that goes into the sampler."
        )
