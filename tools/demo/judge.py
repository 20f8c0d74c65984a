"""How good is the demonstration model: measured on prompts and seeds that it never saw, through the host's sampler.

The scenes are procedural, so truth is at hand: a prompt's true pictures at any blur, and the colours by which the
object is told from what is behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from statistics import fmean

import comfy.sample
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from kornia.color import rgb_to_lab
from scipy import ndimage
from torch import Tensor

from ...attention.install import install
from ...attention.rows import Pivot, Plan
from ...optics.defocus import DISPLAY_GAMMA
from ...sweep import measures, trend
from ...training.scenes import (
    BACKGROUND_COLOURS,
    CELLS,
    GRID,
    LAMP,
    PATTERNS,
    PLACES,
    RIM,
    SIZE,
    Props,
    Scene,
    Scenes,
    caption,
    kinds,
    object_tones,
    place,
    render,
    subject_masks,
)
from ...weights.format import Adapter

LEVELS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
PIVOT = 15.0
GROUNDING = 0.8
STEPS = 30
CFG = 1.3
# Weaker than this (a two-hundredth of the grey scale) a pattern has no phase to speak of.
PATTERN_FLOOR = 0.005


@dataclass(frozen=True)
class Case:
    """One prompt and seed: ``scene`` holds the kind (its place and cells are not the model's)."""

    scene: Scene
    prompt: str
    seed: int


def cases(count: int, seed: int = 0) -> list[Case]:
    """Prompts held out of training, each with a seed of its own; every held-out kind before any a second time."""
    generator = torch.Generator().manual_seed(seed)
    every = kinds(held_out=True)
    chosen = []
    for index in range(count):
        if index % len(every) == 0:
            order = torch.randperm(len(every), generator=generator)
        scene = place(every[order[index % len(every)]][None], generator)
        chosen.append(Case(scene, caption(scene, 0), 10_000 * (seed + 1) + index))
    return chosen


class Painter:
    """Pictures of the demonstration model by the host's sampler.

    Args:
        model, clip, vae: as ``load_demo`` gives them.
        cfg: of classifier-free guidance against the empty prompt without a blur.
    """

    def __init__(self, model: ModelPatcher, clip, vae, cfg: float = CFG):
        self.model, self.clip, self.vae, self.cfg = model, clip, vae, cfg

    def paint(
        self, case: Case, blurs: tuple[float, ...] = (), adapter: Adapter | None = None, pivot: Pivot | None = None
    ) -> Tensor:
        """One picture [1, H, W, 3] of the prompt without a blur, else one for each blur."""
        if not blurs:
            return self.decode(self.sample(self.model, case, self.prompt(case.prompt), 1))
        model = install(self.model, adapter, Plan(blurs, pivot, one_scene=True))
        model, positive = self.dialled(model, case, blurs)
        return self.decode(self.sample(model, case, positive, len(blurs)))

    def dialled(self, model: ModelPatcher, case: Case, blurs: tuple[float, ...]) -> tuple[ModelPatcher, list]:
        """Model and prompt that make the blurs; for an adapter they are what they are."""
        return model, self.prompt(case.prompt)

    def prompt(self, text: str) -> list:
        """Conditioning of the host."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def noise(self, case: Case, rows: int) -> Tensor:
        """The case's noise, the same in every row."""
        latent = torch.zeros(1, self.model.model.latent_format.latent_channels, SIZE // 8, SIZE // 8)
        return comfy.sample.prepare_noise(latent, case.seed).repeat(rows, 1, 1, 1)

    def sample(self, model: ModelPatcher, case: Case, positive: list, rows: int) -> Tensor:
        """Latents [rows, C, h, w]."""
        noise, negative = self.noise(case, rows), self.prompt("")
        return comfy.sample.sample(
            *(model, noise, STEPS, self.cfg, "euler", "simple", positive, negative, torch.zeros_like(noise)),
            disable_pbar=True,
            seed=case.seed,
        )

    def decode(self, samples: Tensor) -> Tensor:
        """Pictures [n, H, W, 3]."""
        return self.vae.decode(samples)[..., :3].float().clamp(0, 1)


def find_subject(pictures: Tensor, scene: Scene) -> Tensor:
    """The object of the prompt in pictures [n, H, W, 3]: booleans [n, H, W], found by colour.

    Pixels nearer to one of the object's two tones than to any mixture of the background's, the largest connected
    piece of them, its holes filled, grown by the width of the dark rim.
    """
    tones = object_tones()[int(scene.colour)].pow(1 / DISPLAY_GAMMA)
    dark, bright = (torch.tensor(rgb) for rgb in list(BACKGROUND_COLOURS.values())[int(scene.ground)])
    gain = LAMP if PATTERNS[int(scene.pattern)] == "lights" else 1.0
    low, high = dark.pow(DISPLAY_GAMMA), gain * bright.pow(DISPLAY_GAMMA)
    shares = torch.linspace(0, 1, 65)[:, None]
    behind = (low + shares * (high - low)).clamp(0, 1).pow(1 / DISPLAY_GAMMA)
    own = torch.cdist(pictures.flatten(0, 2), tones).amin(1)
    other = torch.cdist(pictures.flatten(0, 2), behind).amin(1)
    candidates = (own < other).reshape(pictures.shape[:3]).numpy()
    found = torch.zeros(pictures.shape[:3], dtype=torch.bool)
    grow = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), round(RIM))
    for index, candidate in enumerate(candidates):
        labels, count = ndimage.label(candidate)
        if count:
            largest = 1 + max(range(count), key=lambda i: (labels == i + 1).sum())
            filled = ndimage.binary_fill_holes(labels == largest)
            found[index] = torch.from_numpy(ndimage.binary_dilation(filled, grow))
    return found


def overlap(masks: Tensor, reference: Tensor) -> Tensor:
    """Intersection over union of masks [n, H, W] with ``reference`` [H, W], [n]; 0 where both are empty."""
    union = (masks | reference).sum((1, 2))
    return (masks & reference).sum((1, 2)) / union.clamp(min=1)


def pattern_wave(pictures: Tensor, background: Tensor, scene: Scene) -> Tensor:
    """The background pattern's fundamental wave, complex [n]: the Fourier coefficient of the grey picture at the
    pattern's period over ``background`` [n, H, W]; its angle is the pattern's place, its size the contrast."""
    grey = measures.luma(pictures)
    area = background.float()
    count = area.sum((1, 2), keepdim=True).clamp(min=1)
    grey = (grey - (grey * area).sum((1, 2), keepdim=True) / count) * area
    steps = torch.arange(SIZE) * (2 * math.pi / GRID)
    across = torch.exp(-1j * steps)
    down = across if PATTERNS[int(scene.pattern)] == "checks" else torch.ones(SIZE)
    return (grey * down[:, None] * across).sum((1, 2)) / count.flatten()


def mean_colour(pictures: Tensor, background: Tensor) -> Tensor:
    """CIELAB colour [n, 3] of the background's mean light, which a blur leaves alone."""
    light = pictures.pow(DISPLAY_GAMMA) * background[..., None]
    mean = light.sum((1, 2)) / background.sum((1, 2)).clamp(min=1)[:, None]
    return rgb_to_lab(mean.pow(1 / DISPLAY_GAMMA)[:, :, None, None])[:, :, 0, 0]


def read_cells(pictures: Tensor, blurs: Tensor, props: Props, scene: Scene) -> Tensor:
    """Which cells of the background are bright, int64 [n, 8, 8], in pictures [n, H, W, 3] of ``blurs`` [n]: those
    whose mean light is nearer to a cell's among none but bright ones than to a cell's among none but dim ones."""
    alike = scene.copies(len(blurs))
    # The first cell is one that no object covers.
    dim, bright = (
        _cell_means(render(props, alike._replace(cells=torch.full_like(alike.cells, shade)), blurs))[:, :1, :1]
        for shade in (0, 1)
    )
    return (_cell_means(pictures) > (dim + bright) / 2).long()


def _cell_means(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(measures.luma(pictures.pow(DISPLAY_GAMMA)), GRID)


def nearest_scene(picture: Tensor, blur: Tensor, bright: Tensor, props: Props, scene: Scene) -> tuple[Scene, Tensor]:
    """The prompt's scene whose true picture at ``blur`` is most like ``picture`` [H, W, 3], and its PSNR in dB, [1]:
    cells ``bright`` as ``read_cells`` finds them, the object at the best of its places, then every cell turned that is
    better so."""
    places = torch.cartesian_prod(*[torch.arange(1, PLACES + 1)] * 2)
    turns = torch.eye(CELLS**2, dtype=torch.int64).unflatten(1, (CELLS, CELLS))

    def likeness(tried: Scene) -> Tensor:
        return measures.psnr(render(props, tried, blur.expand(len(tried.row))), picture)

    placed = scene.copies(len(places))._replace(
        cells=bright.expand(len(places), -1, -1), row=places[:, 0], column=places[:, 1]
    )
    found = placed.take(likeness(placed).argmax()[None])
    turned = found.copies(len(turns))._replace(cells=found.cells ^ turns)
    plain = likeness(found)
    mended = found._replace(cells=found.cells ^ turns[likeness(turned) > plain].sum(0, keepdim=True))
    better = likeness(mended)
    return (mended, better) if better > plain else (found, plain)


def sliced_distance(pictures: Tensor, reference: Tensor, seed: int = 0) -> float:
    """Sliced Wasserstein distance (Karras et al., arXiv 1710.10196, section 5) between two sets of as many pictures
    [n, H, W, 3]: 7 x 7 patches of three Laplacian pyramid levels, 512 directions, times 1000; the mean over levels."""
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for first, second in zip(_pyramid(pictures), _pyramid(reference), strict=True):
        directions = F.normalize(torch.randn(512, 3 * 49, generator=generator), dim=1)
        sides: list[Tensor] = []
        for maps in (first, second):
            patches = maps.unfold(2, 7, 1).unfold(3, 7, 1).movedim(1, 3)
            places = patches.shape[:3]
            drawn = torch.randint(places.numel(), (8192,), generator=generator)
            chosen = patches[torch.unravel_index(drawn, places)].flatten(2)
            if not sides:
                centre, spread = chosen.mean((0, 2), keepdim=True), chosen.std((0, 2), keepdim=True).clamp(min=1e-6)
            sides.append(((chosen - centre) / spread).flatten(1) @ directions.T)
        distances.append((sides[0].sort(0).values - sides[1].sort(0).values).abs().mean().item())
    return 1000 * fmean(distances)


def _pyramid(pictures: Tensor) -> Iterator[Tensor]:
    maps = pictures.movedim(-1, 1)
    for _ in range(2):
        small = F.avg_pool2d(maps, 2)
        yield maps - F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        maps = small
    yield maps


def _labelled(label: str) -> float:
    return field(metadata={"label": label})


@dataclass
class Verdict:
    """Means over all cases; one for each way of making the pictures."""

    lvcorr_reference: float = _labelled("LVCorr (reference)")
    lvcorr_k: float = _labelled("LVCorr (K)")
    lvcorr_background: float = _labelled("background alone, by logarithm")
    kept: float = _labelled("kept sharpness")
    score: float = _labelled("bokeh score")
    order: float = _labelled("neighbouring levels in order")
    overlap: float = _labelled("object mask, IoU with the pivot's")
    phase_kept: float = _labelled("pattern within 1 px of the pivot's")
    cells_kept: float = _labelled("cells bright or dim as in the pivot's")
    colour_change: float = _labelled("background colour, delta E")
    scene_change: float = _labelled("scene change, 1 - alignment")
    render_psnr: float = _labelled("PSNR to the nearest true picture")

    @classmethod
    def mean(cls, rows: list[Verdict]) -> Verdict:
        return cls(*(fmean(getattr(row, entry.name) for row in rows) for entry in fields(cls)))


def judge(pictures: Tensor, case: Case, props: Props) -> Verdict:
    """One case's pictures [7, H, W, 3], one for each of ``LEVELS``."""
    middle = LEVELS.index(PIVOT)
    pictures = (255 * pictures).round() / 255
    subject = find_subject(pictures, case.scene)
    everywhere = subject.any(0)
    if not everywhere.any():
        # Nothing like the object in any picture: no mask to leave out.
        everywhere[SIZE // 2, SIZE // 2] = True
    mask = everywhere.float()
    background = measures.background_area(mask, pictures).expand(len(pictures), -1, -1)
    behind = trend.windows_sharpness(pictures, background).tolist()
    whole = measures.laplacian_variance(pictures).tolist()
    logarithms = measures.laplacian_variance(pictures, background.float()).clamp(min=1e-12).log().tolist()
    wave = pattern_wave(pictures, background, case.scene)
    turned = torch.angle(wave * wave[middle].conj()).abs() * GRID / (2 * math.pi)
    clear = wave.abs() > PATTERN_FLOOR
    kept = (turned <= 1.0) | ~clear
    levels = torch.tensor(LEVELS)
    cells = read_cells(pictures, levels, props, case.scene)
    # Cells wholly outside of what the object covers at any level.
    free = F.avg_pool2d(background[0].float()[None], GRID)[0] == 1
    same = (cells == cells[middle])[:, free] if free.any() else torch.zeros(len(LEVELS), 1)
    colours = mean_colour(pictures, background)
    aligned = measures.alignment(pictures, pictures[middle])
    nearest = [nearest_scene(*each, props, case.scene) for each in zip(pictures, levels, cells, strict=True)]
    scene = nearest[middle][0].copies(len(LEVELS))
    reference = measures.laplacian_variance(render(props, scene, levels)).tolist()
    # Of the object in the scene, as its place differs where nothing holds it.
    inside = torch.stack([subject_masks(props, found)[0] > 0.5 for found, _ in nearest])
    sharp = trend.kept_sharpness(measures.laplacian_variance(pictures, inside.float()).tolist(), 0) or [0.0]
    sharpness = fmean(sharp[1:] or sharp)
    others = [i for i in range(len(LEVELS)) if i != middle]
    return Verdict(
        lvcorr_reference=trend.lvcorr_reference(reference, whole) or 0.0,
        lvcorr_k=trend.lvcorr_k(LEVELS, whole) or 0.0,
        lvcorr_background=trend.lvcorr_k(LEVELS, logarithms) or 0.0,
        kept=sharpness,
        score=(trend.by_rank(LEVELS, behind) or 0.0) * sharpness,
        order=trend.in_order(LEVELS, behind),
        overlap=overlap(subject, subject[middle])[others].mean().item(),
        phase_kept=kept[others].float().mean().item(),
        cells_kept=same[others].float().mean().item(),
        colour_change=(colours - colours[middle]).norm(dim=1)[others].mean().item(),
        scene_change=(1 - aligned)[others].mean().item(),
        render_psnr=torch.cat([psnr for _, psnr in nearest]).mean().item(),
    )


def evaluate(
    painter: Painter,
    adapter: Adapter | None,
    count: int = 64,
    seed: int = 0,
    on_case: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Verdict], dict[str, float]]:
    """Verdicts on true, ungrounded and grounded pictures of ``count`` cases, and the distances of sets of pictures to
    sets of true ones of the same prompts (``base`` at any blur, the others at the middle one)."""
    scenes, chosen = Scenes(), cases(count, seed)
    props = scenes.props
    verdicts: dict[str, list[Verdict]] = {"true": [], "ungrounded": [], "grounded": []}
    middle: dict[str, list[Tensor]] = {"base": [], "ungrounded": [], "grounded": []}
    generator = torch.Generator().manual_seed(seed)
    for index, case in enumerate(chosen):
        made = {
            "true": render(props, case.scene.copies(len(LEVELS)), torch.tensor(LEVELS)),
            "ungrounded": painter.paint(case, LEVELS, adapter),
            "grounded": painter.paint(case, LEVELS, adapter, Pivot(PIVOT, GROUNDING)),
        }
        for name, pictures in made.items():
            verdicts[name].append(judge(pictures, case, props))
            if name in middle:
                middle[name].append(pictures[LEVELS.index(PIVOT)])
        middle["base"].append(painter.paint(case)[0])
        on_case(index + 1)
    every = Scene(*(torch.cat(parts) for parts in zip(*(case.scene for case in chosen), strict=True)))
    at_pivot = render(props, every, torch.full((count,), PIVOT))
    at_any = render(props, every, 30 * torch.rand(count, generator=generator))
    distances = {
        name: sliced_distance(torch.stack(made), at_any if name == "base" else at_pivot)
        for name, made in middle.items()
    }
    again = scenes.draw(generator, count, 1, held_out=True)
    distances["true pictures, other blurs and places"] = sliced_distance(again.images, at_any)
    return {name: Verdict.mean(rows) for name, rows in verdicts.items()}, distances
