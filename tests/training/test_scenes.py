"""Procedural scenes: the same from a seed, exactly what the layered renderer gives, honest about what is where."""

from __future__ import annotations

import time

import pytest
import torch

from bokeh.demo.words import split
from bokeh.optics.defocus import DISPLAY_GAMMA, disc_radius, render_layers
from bokeh.sweep.measures import background_area, laplacian_variance
from bokeh.sweep.trend import by_rank
from bokeh.tools.demo.judge import LEVELS, Verdict, cases, find_subject, judge, overlap, sliced_distance
from bokeh.training.scenes import (
    BOX,
    DIM,
    GRID,
    PATTERNS,
    SIZE,
    Props,
    Scenes,
    caption,
    draw_scenes,
    kinds,
    place,
    render,
    subject_masks,
)


@pytest.fixture(scope="module")
def props():
    return Props()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("planes", [None, torch.tensor([1.0, 0.0, 0.4, 0.0, 0.7, 0.0])])
def test_pictures_equal_the_layered_renderer(props, planes):
    scene, blurs = draw_scenes(generator(), 6), torch.tensor([0.0, 3.0, 9.5, 15.0, 22.0, 30.0])
    margin = GRID
    side = SIZE + 2 * margin
    colours, alphas = torch.zeros(6, 2, 3, side, side), torch.zeros(6, 2, 1, side, side)
    alphas[:, 0] = 1
    for i in range(6):
        ground, pattern = scene.ground[i], scene.pattern[i]
        cells = scene.cells[i, :1].expand(8, 8) if PATTERNS[pattern] == "stripes" else scene.cells[i]
        brightness = torch.kron(torch.where(cells == 1, 1.0, DIM), props.patterns[pattern])
        dark, more = (tone[ground, pattern][:, None, None] for tone in props.grounds)
        colours[i, 0] = torch.nn.functional.pad(dark + brightness * more, (margin,) * 4, mode="circular")
        top, left = (margin + GRID * int(step[i]) for step in (scene.row, scene.column))
        box = (..., slice(top, top + BOX), slice(left, left + BOX))
        colours[i, 1][box] = props.objects[0][scene.colour[i], scene.shape[i]]
        alphas[i, 1][box] = props.objects[1][scene.shape[i]]
    near = torch.ones(6) if planes is None else planes
    radii = torch.stack([disc_radius(blurs, near, SIZE), disc_radius(blurs, 1 - near, SIZE)], 1)
    light = render_layers(colours, alphas, radii, margin)
    expected = light.clamp(0, 1).pow(1 / DISPLAY_GAMMA).movedim(1, -1)
    # Compared as light: the display curve is infinitely steep at black.
    ours = render(props, scene, blurs, planes)
    torch.testing.assert_close(ours.pow(DISPLAY_GAMMA), expected.pow(DISPLAY_GAMMA), atol=1e-5, rtol=0)


def test_a_seed_gives_the_same_pictures_and_another_seed_others():
    first, again, other = (Scenes().draw(generator(seed), 8, 2) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert torch.equal(first.blurs, again.blurs)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (16, SIZE, SIZE, 3)
    assert len(first.captions) == 8
    assert first.blurs.min() >= 0
    assert first.blurs.max() <= 30


def test_pictures_of_one_scene_share_object_and_place(props):
    drawn = Scenes().draw(generator(3), 4, 2)
    scene = draw_scenes(generator(3), 4)
    inside = subject_masks(props, scene) > 0.999
    for index in range(4):
        first, second = drawn.images[2 * index], drawn.images[2 * index + 1]
        assert torch.equal(first[inside[index]], second[inside[index]])
        assert drawn.captions[index] == caption(scene, index)


def test_held_out_prompts_are_never_trained_on_and_know_every_word():
    trained = {tuple(kind) for kind in kinds(held_out=False).tolist()}
    held_out = {tuple(kind) for kind in kinds(held_out=True).tolist()}
    assert len(held_out) == 64
    assert not trained & held_out
    assert len(trained | held_out) == 576
    for part, size in enumerate((6, 4, 6, 4)):
        assert {kind[part] for kind in held_out} == set(range(size))
        assert {kind[part] for kind in trained} == set(range(size))
    captions = set(Scenes().draw(generator(), 400, 1).captions)
    assert not captions & {case.prompt for case in cases(64)}


def test_captions_use_only_words_the_model_knows():
    for text in Scenes().draw(generator(), 200, 1).captions:
        known, unknown = split(text)
        assert len(known) == 4, text
        assert not unknown, text


def test_thousands_of_pictures_a_second_are_possible(record_property):
    scenes = Scenes()
    scenes.draw(generator(), 8, 1)
    started = time.perf_counter()
    assert len(scenes.draw(generator(), 512, 1).images) == 512
    record_property("pictures_per_second", 512 / (time.perf_counter() - started))


def test_the_blur_of_true_pictures_is_measurable(props):
    levels = torch.tensor(LEVELS)
    for index in range(12):
        scene = draw_scenes(generator(100 + index), 1)
        pictures = render(props, scene.copies(len(levels)), levels)
        mask = (subject_masks(props, scene) > 0).float()
        area = background_area(mask, pictures).float()
        assert by_rank(LEVELS, laplacian_variance(pictures, area).tolist()) > 0.95, caption(scene, 0)


def test_the_judge_finds_the_object_whatever_the_blur(props):
    levels = torch.tensor(LEVELS)
    for case in cases(16):
        truth = subject_masks(props, case.scene)[0] > 0.5
        found = find_subject(render(props, case.scene.copies(len(levels)), levels), case.scene)
        assert overlap(found, truth).min() > 0.9, case.prompt


def test_the_judge_tells_true_pictures_from_spoilt_ones(props):
    true, moved, shifted, frozen, noisy = [], [], [], [], []
    levels = torch.tensor(LEVELS)
    for index, case in enumerate(cases(3)):
        scene = case.scene.copies(len(levels))
        pictures = render(props, scene, levels)
        steps = torch.arange(len(levels))
        others = place(torch.stack(scene[:4], 1), generator(index)).cells
        elsewhere = scene._replace(column=(scene.column + steps) % 4 + 1, cells=others)
        noise = 0.05 * torch.randn(pictures.shape, generator=generator(index))
        true.append(judge(pictures, case, props))
        moved.append(judge(render(props, elsewhere, levels), case, props))
        slipped = torch.stack([picture.roll(GRID * level // 4, 1) for level, picture in enumerate(pictures)])
        shifted.append(judge(slipped, case, props))
        frozen.append(judge(pictures[3:4].repeat(7, 1, 1, 1), case, props))
        noisy.append(judge((pictures + noise).clamp(0, 1), case, props))
    true, moved, shifted, frozen, noisy = (Verdict.mean(rows) for rows in (true, moved, shifted, frozen, noisy))
    assert true.lvcorr_reference > 0.99
    assert true.kept > 0.95
    assert true.score > 0.95
    assert true.order > 0.9
    assert true.overlap > 0.98
    assert true.colour_change < 2
    assert true.render_psnr > 45
    assert moved.overlap < 0.3
    assert true.phase_kept > 0.9
    assert shifted.phase_kept < 0.5
    assert true.cells_kept > 0.9
    assert moved.cells_kept < 0.7
    assert moved.scene_change > 10 * true.scene_change
    assert frozen.lvcorr_reference == frozen.lvcorr_k == frozen.score == 0
    assert frozen.render_psnr < true.render_psnr - 15
    assert noisy.render_psnr < 30


def test_the_set_distance_grows_with_noise_and_with_another_blur():
    scenes = Scenes()
    first, second = (scenes.draw(generator(seed), 64, 1).images for seed in (1, 2))
    alike = sliced_distance(first, second)
    noise = 0.05 * torch.randn(first.shape, generator=generator(3))
    assert sliced_distance((first + noise).clamp(0, 1), second) > 1.5 * alike
    assert sliced_distance(scenes.draw(generator(4), 64, 1, sharp=True).images, second) > 2 * alike
