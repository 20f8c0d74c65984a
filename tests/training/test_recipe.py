"""What the units of a batch share, and how often each kind of unit comes."""

from __future__ import annotations

import pytest
import torch
from blobs import Blobs, recipe

from bokeh.training.pictures import Text
from bokeh.training.recipe import PRESETS, Recipe, draw_units, join, rate_share


def test_rows_of_a_scene_share_what_they_should():
    settings = recipe(per_scene=4, grouped=1.0, grounded=1.0, no_annotation=0.5, no_caption=0.5)
    grounded = dropped = plain_caption = 0
    for number in range(40):
        (unit,) = draw_units(settings, Blobs(), 7, number)
        assert unit.latents.shape == unit.noise.shape == (4, 16, 8, 8)
        for values in (unit.noise, unit.sigmas, *unit.text[:2]):
            assert torch.equal(values, values[:1].expand_as(values))
        if (unit.annotations == -1).any():
            assert (unit.annotations == -1).all()
            assert unit.pivots == (0, 1, 2, 3)
            dropped += 1
        else:
            assert len(set(unit.pivots)) == 1
            assert unit.annotations.unique().numel() == 4
            grounded += 1
        plain_caption += int(bool(unit.text.context.any()))
    assert 8 < dropped < 32
    assert 8 < plain_caption < 32
    assert grounded + dropped == 40


def test_shares_kinds_and_timesteps_follow_the_settings():
    settings = recipe(grouped=0.5, grounded=0.5, no_annotation=0.0, timestep_mean=1.5, timestep_std=0.5)
    units = [unit for step in range(400) for unit in draw_units(settings, Blobs(), step, 0)]
    grouped = [torch.equal(unit.noise[0], unit.noise[1]) for unit in units]
    grounded = [unit.pivots != (0, 1) for unit in units]
    assert 0.4 < sum(grouped) / 400 < 0.6
    assert 0.17 < sum(grounded) / 400 < 0.33
    assert all(group for group, held in zip(grouped, grounded, strict=True) if held)
    logits = torch.logit(torch.cat([unit.sigmas for unit in units]))
    assert abs(float(logits.mean()) - 1.5) < 0.1
    assert abs(float(logits.std()) - 0.5) < 0.05
    for data, kinds in ((Blobs(groups=False), {False}), (Blobs(singles=False), {True})):
        drawn = [unit for step in range(20) for unit in draw_units(settings, data, step, 0)]
        assert {torch.equal(unit.noise[0], unit.noise[1]) for unit in drawn} == kinds


def test_units_of_different_sizes_stay_apart():
    settings = recipe(grouped=1.0, grounded=1.0, no_annotation=0.0)
    small = [unit for number in range(2) for unit in draw_units(settings, Blobs(), 0, number)]
    (large,) = draw_units(settings, Blobs(side=10), 0, 2)
    joined = join([small[0], large, small[1]])
    assert [len(unit.pivots) for unit in joined] == [4, 2]
    assert joined[0].pivots == (*small[0].pivots, *(2 + pivot for pivot in small[1].pivots))
    assert torch.equal(joined[0].latents[2:], small[1].latents)


def test_captions_keep_their_own_length_and_go_in_parts():
    class Captions(Blobs):
        def draw(self, *args, **kwargs):
            drawn = super().draw(*args, **kwargs)
            texts = [Text(text.context[: 3 + number % 2]) for number, text in enumerate(drawn.texts)]
            return drawn._replace(texts=texts)

    settings = recipe(per_scene=4, grouped=0.0, no_caption=0.0)
    units = draw_units(settings, Captions(), 0, 0)
    assert [unit.text.context.shape for unit in units] == [(2, 3, 24), (2, 4, 24)]
    assert sum(len(unit.latents) for unit in units) == 4


def test_by_row_a_picture_shares_noise_and_level_with_the_one_it_follows_alone():
    settings = recipe(per_scene=4, grouped=1.0, grounded=0.5, by_row=True, no_annotation=0.3, noise_offset=0.05)
    following = dropped = 0
    for number in range(50):
        (unit,) = draw_units(settings, Blobs(), 3, number)
        for row, pivot in enumerate(unit.pivots):
            for other in range(4):
                same = torch.equal(unit.noise[row], unit.noise[other])
                assert same == (pivot == unit.pivots[other])
                assert same == bool(unit.sigmas[row] == unit.sigmas[other])
            following += row != pivot
            if row != pivot:
                assert unit.pivots[pivot] == pivot
                assert unit.annotations[row] != -1 != unit.annotations[pivot]
        dropped += int((unit.annotations == -1).sum())
        assert torch.equal(unit.text.context, unit.text.context[:1].expand_as(unit.text.context))
    assert 0.1 < following / 150 < 0.4
    assert 0.2 < dropped / 200 < 0.4


def test_offset_noise_moves_whole_channels():
    plain, offset = (
        torch.cat([draw_units(recipe(noise_offset=size), Blobs(side=32), 0, n)[0].noise for n in range(20)])
        for size in (0.0, 0.5)
    )
    assert plain.mean((2, 3)).std() < 0.05
    assert 0.4 < offset.mean((2, 3)).std() < 0.6


def test_the_published_recipe_is_a_recipe_and_its_rate_a_cosine():
    settings = Recipe(**PRESETS["BokehDepth"])
    fall = settings.warmup, settings.decay, settings.cosine
    rates = [rate_share(step, 400, *fall) for step in (0, 99, 200, 399)]
    assert rates[1] == pytest.approx(0.8563, abs=1e-3)
    assert rates[2] == pytest.approx(0.5)
    assert rates[0] < 0.011
    assert rates[3] < 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 6, "per_scene": 4}, "A batch of 6 pictures cannot be made of groups of 4."),
        ({"grouped": 1.5}, "grouped is 1.5. It is a share"),
        ({"decay": -0.1}, "decay is -0.1. It is a share"),
        ({"blocks": "widest"}, 'blocks is "widest". Choose "deep", or the numbers of blocks.'),
        ({"rank": 0}, "rank is 0. Choose a whole number of at least 1."),
        ({"average": 1.0}, "average is 1.0."),
        ({"learning_rate": 1e-300}, "learning_rate is 1e-300. Choose a number of at least 1e-12."),
        ({"learning_rate": float("nan")}, "learning_rate is nan. Choose a number greater than 0."),
        ({"rank": float("nan")}, "rank is nan. Choose a whole number of at least 1."),
        ({"timestep_mean": float("nan")}, "timestep_mean is nan. Choose a finite number, such as 0.6."),
        ({"weight_decay": float("nan")}, "weight_decay is nan. Choose a number from 0 up."),
        ({"seed": 10**5000}, "The seed is outside 0 to"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0. Choose a number greater than 0."),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        recipe(**settings)
