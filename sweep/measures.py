"""Numbers for what a sweep claims: the blur follows the request, the scene stays.

Pictures are [B, H, W, 3 or more] sRGB in 0..1, at least 16 px a side; a result has one number a picture.
Grey means luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, as OpenCV's grey). All in float32; no measure
returns NaN for flat pictures.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import pickle
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..optics.defocus import DISPLAY_GAMMA

LUMA = (0.299, 0.587, 0.114)
SMALLEST_SIDE = 16

# Dilation of the subject before the rest counts as background, in parts of the longer side: a mask
# follows the outline to a few pixels only, and one sharp pixel of the subject outweighs a blurred area.
BACKGROUND_MARGIN = 0.02

# Multi-scale SSIM (Wang, Simoncelli, Bovik 2003): exponents of the scales, window, constants.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, WINDOW_SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2

LPIPS_SMALLEST_SIDE = 64

# Alignment: longer side of the working picture, its windows, and the Gaussians tried, in working pixels.
# The largest equals a disc of an eighth of the picture (a disc's standard deviation is radius / 2).
ALIGNMENT_SIDE = 128
ALIGNMENT_WINDOW = 16
ALIGNMENT_SIGMAS = tuple(0.25 * 2 ** (i / 2) for i in range(12))
# Some 10 MB each while they are compared, whatever the size of the pictures.
ALIGNED_AT_ONCE = 8
# Standard deviation 1e-4, a fortieth of an 8-bit step: what is flatter has no structure to compare.
ALIGNMENT_FLAT = 1e-8


def luma(images: Tensor) -> Tensor:
    """Grey [B, H, W] float32 of [B, H, W, 3 or more].

    Raises:
        ValueError: for another shape, pictures under 16 px, or NaN and infinite values.
    """
    if images.ndim != 4 or images.shape[-1] < 3 or min(images.shape[1:3]) < SMALLEST_SIDE:
        raise ValueError(
            f"Measures take a batch of RGB pictures [B, H, W, 3] of at least {SMALLEST_SIDE} px a side; what "
            f"came has the shape {list(images.shape)}. Connect an IMAGE output."
        )
    red, green, blue = images[..., :3].float().unbind(-1)
    grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    if not grey.isfinite().all():
        raise ValueError(
            "A picture has NaN or infinite values, so it cannot be measured. Such a picture is usually black: "
            "decode it again in full precision (--fp32-vae)."
        )
    return grey


def as_shown(images: Tensor) -> Tensor:
    """Pictures as they are saved and shown, [B, H, W, 3] float32, cut off at 0 and 1. Raises as ``luma``."""
    luma(images)
    return images[..., :3].float().clamp(0, 1)


def subject_area(mask: Tensor, images: Tensor) -> Tensor:
    """The mask of the subject as booleans [1 or B, H, W] (true above 0.5), checked against the pictures.

    Raises:
        ValueError: when size or number do not fit the pictures, or nothing is masked.
    """
    # With --gpu-only pictures are on the GPU, and the masks of Load Image are not.
    area = mask.reshape(-1, *mask.shape[-2:]).to(images.device) > 0.5
    (height, width), (rows, columns) = images.shape[1:3], area.shape[1:]
    if (rows, columns) != (height, width):
        raise ValueError(
            f"The mask is {columns} x {rows} px, but the pictures are {width} x {height} px. Scale the mask to "
            f"the pictures' size; a picture loaded without transparency gives an empty mask of 64 x 64 px."
        )
    if len(area) not in (1, len(images)):
        raise ValueError(
            f"There are {len(area)} masks for {len(images)} pictures. Give one mask for all, or one a picture."
        )
    if not area.flatten(1).any(1).all():
        raise ValueError("The mask is empty. Mark the subject in it, or leave the mask unconnected.")
    return area


def background_area(mask: Tensor, images: Tensor) -> Tensor:
    """What is not subject, booleans [1 or B, H, W]: the complement of the mask, dilated by a square of
    2 % of the picture's longer side (at least 2 px) to each side.

    Raises:
        ValueError: as ``subject_area``, or when the dilated subject fills a picture.
    """
    subject = subject_area(mask, images).float()[:, None]
    margin = max(2, round(BACKGROUND_MARGIN * max(subject.shape[-2:])))
    for size in ((2 * margin + 1, 1), (1, 2 * margin + 1)):
        subject = F.max_pool2d(subject, size, stride=1, padding=(size[0] // 2, size[1] // 2))
    area = subject[:, 0] < 0.5
    if not area.flatten(1).any(1).all():
        raise ValueError(
            f"The mask with its margin of {margin} px covers a whole picture, so no background is left to "
            f"measure. Mask the subject only, or leave the mask unconnected."
        )
    return area


def laplacian_variance(images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance of the Laplacian of the grey picture, [B] in squared grey levels (0..1 scale).

    The Laplacian is the sum of the four neighbours less four times the pixel, mirrored at the picture's
    border without repeating it (OpenCV's default, SciPy's "mirror"); the variance is the mean squared
    deviation over the picture, or over the pixels where ``mask`` ([H, W] or [1 or B, H, W]) is above 0.5.
    Source: Pech-Pacheco et al. 2000, LAPV.
    """
    curves = laplacian(images)
    if mask is None:
        return curves.flatten(1).var(1, correction=0)
    area = subject_area(mask, images)
    mean = _mean_over(area, curves)[:, None, None]
    return _mean_over(area, (curves - mean).square())


def laplacian(images: Tensor) -> Tensor:
    """Laplacian of the grey picture, [B, H, W], as ``laplacian_variance`` takes it."""
    grey = luma(images)
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    # As differences, so that a flat area gives zero and not rounding.
    return (
        (padded[:, :-2, 1:-1] - grey)
        + (padded[:, 2:, 1:-1] - grey)
        + (padded[:, 1:-1, :-2] - grey)
        + (padded[:, 1:-1, 2:] - grey)
    )


def brenner(images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Brenner gradient of the grey picture: the mean of (I(x + 2, y) - I(x, y))^2, [B] in squared grey
    levels (0..1 scale), over all pairs in the picture or those with both pixels in ``mask``.

    Source: Brenner et al. 1976; the mean for their sum, so that pictures of any size compare.
    """
    grey = luma(images)
    squares = (grey[:, :, 2:] - grey[:, :, :-2]).square()
    if mask is None:
        return squares.flatten(1).mean(1)
    area = subject_area(mask, images)
    return _mean_over(area[:, :, 2:] & area[:, :, :-2], squares)


def _mean_over(area: Tensor, values: Tensor) -> Tensor:
    return (values * area).sum((1, 2)) / area.sum((1, 2)).clamp(min=1)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB to ``reference``, [H, W, 3] or one for each, [B]; infinite for an equal picture.

    10 log10(1 / mean squared difference over pixels and RGB).
    """
    difference = images[..., :3].float() - reference[..., :3].float()
    return -10 * difference.square().flatten(1).mean(1).log10()


def ms_ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale SSIM of the grey pictures to the grey ``reference`` [H, W, 3], [B], 1 = equal.

    Wang, Simoncelli and Bovik 2003: five scales, window 11, sigma 1.5, the terms' means clipped at 0. As in
    torchmetrics, whose values these are, the coarsest scale reflects the picture at its border. (Theirs
    filters in two dimensions at once, which takes some ten times as long.) A picture with a side
    under 176 px gets as many scales as leave the window room, their exponents scaled to the same sum.
    """
    x, y = luma(images), luma(reference[None])
    scales = min(len(SCALE_WEIGHTS), 1 + int(math.log2(min(x.shape[1:]) / WINDOW)))
    weights = torch.tensor(SCALE_WEIGHTS[:scales], device=x.device)
    weights *= sum(SCALE_WEIGHTS) / weights.sum()
    terms = []
    for scale in range(1, scales + 1):
        coarsest = scale == scales
        if coarsest:
            x, y = (F.pad(maps[:, None], (WINDOW // 2,) * 4, mode="reflect")[:, 0] for maps in (x, y))
        mean_y, square_y = _smooth(torch.cat([y, y * y]))
        # One picture at a time: the maps of one stay in the processor's cache.
        terms.append(torch.stack([_term(picture, y[0], mean_y, square_y, coarsest) for picture in x]))
        if not coarsest:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return torch.stack(terms, dim=-1).relu().pow(weights).prod(-1)


def _term(x: Tensor, y: Tensor, mean_y: Tensor, square_y: Tensor, luminance: bool) -> Tensor:
    """Mean contrast-structure term of SSIM, or the whole SSIM with ``luminance``."""
    mean_x, square_x, mean_xy = _smooth(torch.stack([x, x * x, x * y]))
    product, power_x, power_y = mean_x * mean_y, mean_x.square(), mean_y.square()
    variances = (square_x - power_x).clamp(min=0) + (square_y - power_y).clamp(min=0)
    term = (2 * (mean_xy - product) + C2) / (variances + C2)
    if luminance:
        term = term * (2 * product + C1) / (power_x + power_y + C1)
    return term.mean()


def _smooth(maps: Tensor) -> Tensor:
    """Gaussian window over [B, H, W], without border: a tap at a time, which beats a convolution on a CPU."""
    taps = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * WINDOW_SIGMA**2)) for i in range(WINDOW)]
    total = math.fsum(taps)
    for dim in (2, 1):
        length = maps.shape[dim] - WINDOW + 1
        smooth = maps.narrow(dim, 0, length) * (taps[0] / total)
        for i in range(1, WINDOW):
            smooth.add_(maps.narrow(dim, i, length), alpha=taps[i] / total)
        maps = smooth
    return maps


def lpips_file() -> Path:
    """Where torchvision keeps the weights of LPIPS' backbone, in torch's hub folder."""
    from torchvision.models import VGG16_Weights

    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(VGG16_Weights.DEFAULT.url).path).name)


def lpips_network() -> tuple[nn.Module | None, str]:
    """The LPIPS network (VGG, Zhang et al. 2018), or None and a sentence on what is missing.

    It takes the package torchmetrics and torchvision's file of the backbone. Neither is required, neither is fetched.
    """
    file = lpips_file()
    missing = ""
    # Looked for before it is imported, which takes seconds.
    if importlib.util.find_spec("torchmetrics") is None:
        missing = "the package torchmetrics is not installed"
    elif not file.is_file():
        missing = f"{file.name} is not in the folder checkpoints of torch's hub"
    else:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            return LearnedPerceptualImagePatchSimilarity("vgg").net, ""
        except ImportError as error:
            missing = f"torchmetrics cannot be imported ({error})"
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            logging.warning("LPIPS is left out: %s cannot be read (%s).", file, error)
            missing = f"{file.name} in the folder checkpoints of torch's hub cannot be read"
    return None, (
        f"LPIPS is left out: {missing}. It takes `pip install torchmetrics` and torchvision's {file.name}, which "
        "`torchvision.models.vgg16(weights='DEFAULT')` fetches; nothing is fetched by itself."
    )


def lpips(images: Tensor, others: Tensor, network: nn.Module) -> Tensor:
    """LPIPS (Zhang et al. 2018, VGG) of pictures and ``others`` [B, H, W, 3], [B]; 0 = equal.

    By a ``network`` from ``lpips_network``. Pictures with a side under 64 px are enlarged to it (bilinear):
    the network's pooling leaves nothing of smaller ones.
    """
    x, y = (p[..., :3].float().movedim(-1, 1).clamp(0, 1) for p in (images, others))
    scale = LPIPS_SMALLEST_SIDE / min(x.shape[2:])
    if scale > 1:
        size = [math.ceil(scale * side) for side in x.shape[2:]]
        x, y = (F.interpolate(p, size=size, mode="bilinear") for p in (x, y))
    return network.to(x.device)(x, y, normalize=True).flatten()


def alignment(images: Tensor, reference: Tensor) -> Tensor:
    """Whether pictures show the scene of ``reference`` [H, W, 3] in the same places, whatever the blur of
    either: [B], 1 = the same scene, about 0 = nothing in common, negative = inverted.

    1. Both pictures, at 128 px on the longer side, are cut into overlapping windows of 16 px, as the blur
       may differ from place to place (a sharp subject before a blurred background).
    2. In each window the sharper of the two is brought to the level of the blurrier: from a scale of
       Gaussians s and for either picture as the sharper, the one is taken that makes them most alike by
       the contrast-structure term of SSIM, (2 cov + c) / (var + var + c). A term without the means, so
       that exposure does not count, but with the contrast, so that blur cannot be overdone.
    3. Both are smoothed by the same s as well. A Gaussian and a lens (a disc) agree in the coarse part and
       not in the fine one, where a disc even inverts contrast; this takes the fine part away in
       proportion to the *difference* in blur, so pictures of equal blur keep all their detail.
    4. The score is the zero-mean normalised cross-correlation of the windows so matched, pooled:
       sum cov / sqrt(sum var * sum var). Pooling weighs each window by its contrast.

    Done on the values as they are and on linear light (power 2.2), as a blur may have worked on either;
    the better one counts. Two flat pictures score 1; so does a flat one with a texture that blur can make
    flat, while a flat one with coarser structure scores about 0.
    """
    luma(images), luma(reference[None])
    scores = []
    for gamma in (1.0, DISPLAY_GAMMA):
        target = _blur_stack(reference[None], gamma)
        parts = images.split(ALIGNED_AT_ONCE)
        scores.append(torch.cat([_aligned(_blur_stack(part, gamma), target) for part in parts]))
    return torch.stack(scores).amax(0)


def _aligned(images: tuple[Tensor, Tensor, Tensor], reference: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, mean_x, variance_x = images
    y, mean_y, variance_y = reference
    # The scale's step is sqrt(2): entry i + 1 is entry i blurred by sigma_i once more. The first entry is
    # the picture as it is, for windows of equal blur.
    last = len(ALIGNMENT_SIGMAS)
    same, extra = [0, *range(1, last)], [0, *range(2, last + 1)]
    covariances, variances_x, variances_y = [], [], []
    for of_x, of_y in ((extra, same), (same, extra)):
        covariances.append(_windows(x[:, of_x] * y[:, of_y]) - mean_x[:, of_x] * mean_y[:, of_y])
        variances_x.append(variance_x[:, of_x])
        variances_y.append(variance_y[:, of_y].expand_as(variances_x[-1]))
    covariance, var_x, var_y = (torch.cat(parts, 1) for parts in (covariances, variances_x, variances_y))
    c = ALIGNMENT_FLAT
    best = ((2 * covariance + c) / (var_x + var_y + c)).argmax(1, keepdim=True)
    covariance, var_x, var_y = (t.gather(1, best).mean((1, 2, 3)) for t in (covariance, var_x, var_y))
    return (covariance + c) / ((var_x + c) * (var_y + c)).sqrt()


def _blur_stack(images: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The working picture and its blurs [B, sigmas + 1, h, w], with the windows' means and variances."""
    longer = max(images.shape[1:3])
    half = ALIGNMENT_WINDOW // 2
    height, width = (max(2, round(ALIGNMENT_SIDE / half * side / longer)) * half for side in images.shape[1:3])
    rgb = images[..., :3].float()
    light = (rgb if gamma == 1 else rgb.clamp(min=0).pow(gamma)) @ rgb.new_tensor(LUMA)
    grey = F.interpolate(light[:, None], size=(height, width), mode="area")
    # Without the mean, the windows' variances lose less to rounding.
    grey = grey - grey.mean((1, 2, 3), keepdim=True)
    rows, columns = (_gaussians(side).to(grey) for side in (height, width))
    stack = torch.cat([grey, rows @ grey @ columns.mT], 1)
    mean = _windows(stack)
    return stack, mean, (_windows(stack.square()) - mean.square()).clamp(min=0)


@lru_cache(maxsize=8)
def _gaussians(side: int) -> Tensor:
    """Gaussian blurs of a line of ``side`` pixels, mirrored at its ends, as matrices [sigmas, side, side]."""
    position = torch.arange(-side, 2 * side)
    mirrored = torch.where(position < 0, -1 - position, position).where(position < side, 2 * side - 1 - position)
    distance = (position - torch.arange(side)[:, None]).float()
    matrices = []
    for sigma in ALIGNMENT_SIGMAS:
        taps = torch.exp(-0.5 * (distance / sigma).square())
        matrix = torch.zeros(side, side).index_add_(1, mirrored, taps)
        matrices.append(matrix / matrix.sum(1, keepdim=True))
    return torch.stack(matrices)


def _windows(maps: Tensor) -> Tensor:
    """Means of [B, S, h, w] over windows that overlap by half."""
    return F.avg_pool2d(F.avg_pool2d(maps, ALIGNMENT_WINDOW // 2), 2, stride=1)
