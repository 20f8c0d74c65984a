"""Rows with contents of their own: photos, masks, prompts, references, control pictures, one for each picture."""

from __future__ import annotations

import comfy.controlnet
import pytest
import torch
from flux import Golden, build_flux, conditioning, relative_error, run_node, sample

from bokeh.attention.contents import BLURS
from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
PIVOT = Pivot(15.0, 1.0)
PICTURES = 3


@pytest.fixture(scope="module")
def sizes():
    return Golden("all_blocks").case["flux"]


KINDS = pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("photo", 16),
        ("photo and mask", 80),
        ("reference", 0),
        ("prompt", 0),
        ("mask", 0),
        ("control", 0),
    ],
)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts(golden, count: int) -> list:
    tokens, pooled = golden.expected["txt"], golden.expected["pooled"]
    return conditioning(
        tokens + 0.5 * random(count, *tokens.shape[1:], seed=5), pooled + 0.5 * random(count, pooled.shape[1], seed=6)
    )


class Hinted(torch.nn.Module):
    """A control model whose residual for the first block is its hint."""

    dtype = torch.float32

    def forward(self, x, hint, timesteps, context, **_):
        tokens = x.shape[2] * x.shape[3] // 4
        return {"input": [hint.mean((2, 3))[:, :1, None].expand(-1, tokens, 32).clone()], "output": []}


def controlled(positive, hints):
    """The conditioning with a ControlNet, and another before it, both with these hints [B, H, W, 3]."""
    for _ in range(2):
        device = torch.device("cpu")
        net = comfy.controlnet.ControlNet(Hinted(), load_device=device, extra_conds=[])
        (positive, _) = run_node(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=positive,
            control_net=net,
            image=hints,
            strength=0.7,
            start_percent=0.0,
            end_percent=1.0,
        )[:2]
    return positive


def with_contents(kind: str, golden, which: slice | list[int]):
    """A conditioning whose pictures ``which`` of three differ in one kind of contents."""
    side = golden.latent()["samples"].shape[-1]
    positive = golden.positive()
    photos = random(PICTURES, 16, side, side, seed=7)[which]
    masks = (random(PICTURES, 8 * side, 8 * side, seed=8) > 0).float()[which]
    if kind == "photo":
        return golden.positive(concat_latent_image=photos)
    if kind == "photo and mask":
        return golden.positive(concat_latent_image=photos, concat_mask=masks[:, None])
    if kind == "reference":
        return golden.positive(reference_latents=[photos])
    if kind == "prompt":
        return [
            [value[which], {**extra, "pooled_output": extra["pooled_output"][which]}]
            for value, extra in prompts(golden, PICTURES)
        ]
    if kind == "mask":
        (inside,) = run_node(
            "ConditioningSetMask", conditioning=prompts(golden, 1), mask=masks, strength=1.0, set_cond_area="default"
        )
        (outside,) = run_node(
            "ConditioningSetMask", conditioning=positive, mask=1 - masks, strength=0.6, set_cond_area="default"
        )
        return inside + outside
    assert kind == "control"
    return controlled(positive, torch.sigmoid(random(PICTURES, 8 * side, 8 * side, 3, seed=9)[which]))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@KINDS
def test_every_picture_of_a_batch_with_pivots_keeps_its_own(golden, sizes, adapter, kind, channels, cfg):
    base = build_flux(sizes, concat_channels=channels)
    model = install(base, adapter, Plan((25.0,), PIVOT))
    side = golden.latent()["samples"].shape[-1]
    noise = random(PICTURES, 16, side, side, seed=4)

    def sampled(which: slice):
        contents = with_contents(kind, golden, which)
        options = {"negative": contents if kind != "prompt" else golden.negative(), "cfg": cfg} if cfg > 1 else {}
        return sample(
            model, contents, {"samples": torch.zeros_like(noise[which])}, SIGMAS, noise=noise[which], **options
        )

    together = sampled(slice(None))
    alone = torch.cat([sampled(slice(i, i + 1)) for i in range(PICTURES)])
    assert relative_error(together, alone) <= 1e-5
    assert relative_error(sampled(slice(0, 1)), sampled(slice(1, 2))) > 1e-2


@pytest.mark.parametrize("rows_at_once", [0, 1])
@KINDS
def test_a_pivot_outside_the_values_shows_what_the_nearest_blur_shows(
    golden, sizes, adapter, kind, channels, rows_at_once
):
    base = build_flux(sizes, concat_channels=channels)

    def swept(blurs: tuple[float, ...], which: list[int]):
        model = install(base, adapter, Plan(blurs, PIVOT, True, rows_at_once))
        latent = {"samples": golden.latent()["samples"].repeat(len(blurs), 1, 1, 1)}
        return sample(model, with_contents(kind, golden, which), latent, SIGMAS, noise=golden.expected["noise"])

    outside = swept((2.0, 16.0, 27.0), [0, 1, 2])
    assert relative_error(outside, swept((2.0, 16.0, 27.0, 15.0), [0, 1, 2, 1])[:3]) <= 1e-5


def test_prompts_written_for_blurs_are_found_by_value(golden, adapter):
    (tokens, extra) = prompts(golden, 3)[0]
    model = install(golden.model, adapter, Plan((27.0, 2.0), PIVOT, True))
    latent = {"samples": golden.latent()["samples"].repeat(2, 1, 1, 1)}
    by_value = [[tokens, {**extra, BLURS: (2.0, 15.0, 27.0)}]]
    rows = sample(model, by_value, latent, SIGMAS, noise=golden.expected["noise"])

    listed = install(golden.model, adapter, Plan((27.0, 2.0, 15.0), PIVOT, True))
    latent = {"samples": golden.latent()["samples"].repeat(3, 1, 1, 1)}
    order = [2, 0, 1]
    by_row = conditioning(tokens[order], extra["pooled_output"][order])
    assert relative_error(rows, sample(listed, by_row, latent, SIGMAS, noise=golden.expected["noise"])[:2]) <= 1e-5

    unknown = [[tokens, {**extra, BLURS: (2.0, 14.0, 27.0)}]]
    with pytest.raises(ValueError, match=r"written for the blurs 2, 14, 27, but a picture of this run has blur 15\."):
        sample(model, unknown, latent | {"samples": latent["samples"][:2]}, SIGMAS, noise=golden.expected["noise"])


@pytest.mark.parametrize(("kind", "channels"), [("photo", 16), ("reference", 0), ("mask", 0)])
def test_photos_of_as_many_scenes_as_prompts_are_the_scenes(golden, sizes, adapter, kind, channels):
    """Three scenes at three blurs: what is one for each of three may be either."""
    base, blurs = build_flux(sizes, concat_channels=channels), (2.0, 15.0, 27.0)
    model = install(base, adapter, Plan(blurs, PIVOT, True))
    ((tokens, extra),) = prompts(golden, 3)
    pooled = extra["pooled_output"]

    def sampled(which: slice):
        ((_, extra), *others) = with_contents(kind, golden, which)
        contents = [[tokens, {**extra, "pooled_output": pooled, BLURS: blurs}], *others]
        latent = {"samples": golden.latent()["samples"].repeat(3 * len(range(PICTURES)[which]), 1, 1, 1)}
        return sample(model, contents, latent, SIGMAS, noise=golden.expected["noise"])

    together = sampled(slice(None))
    assert relative_error(together, torch.cat([sampled(slice(i, i + 1)) for i in range(PICTURES)])) <= 1e-5


@pytest.mark.parametrize("count", [2, 4])
def test_other_counts_are_spread_over_the_pictures_as_without_pivots(golden, sizes, adapter, count):
    """Two or four photos in a batch of three: the host decides who sees which, pivots or not."""
    base = build_flux(sizes, concat_channels=16)
    side = golden.latent()["samples"].shape[-1]
    noise = random(PICTURES, 16, side, side, seed=4)
    photos = random(count, 16, side, side, seed=7)
    latent = {"samples": torch.zeros_like(noise)}

    def sampled(pivot: Pivot | None):
        model = install(base, adapter, Plan((25.0,), pivot))
        return sample(model, golden.positive(concat_latent_image=photos), latent, SIGMAS, noise=noise)

    # Grounding 0 leaves every picture as it is without a pivot.
    assert relative_error(sampled(Pivot(15.0, 0.0)), sampled(None)) <= 1e-5
