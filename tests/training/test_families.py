"""Training of an adapter for a tiny model of every family."""

from __future__ import annotations

import pytest
import torch
from blobs import recipe, weights_of
from families import KINDS, build_case, random_adapter
from flux import relative_error

from bokeh.attention.families import find
from bokeh.attention.install import install, network_places
from bokeh.attention.lora import Piece, install_lora
from bokeh.attention.rows import Pivot, Plan
from bokeh.training.checkpoint import TrainingError
from bokeh.training.network import Network
from bokeh.training.pictures import Draw, Text
from bokeh.training.recipe import draw_units, join
from bokeh.training.start import deep, new_adapter
from bokeh.training.trainer import BEST, Trainer
from bokeh.weights.files import read_adapter

BLURS = (3.0, 15.0, 27.0)


class Drawn:
    """Random latents of a case's shape that fade as the blur grows, with captions of two lengths."""

    groups = singles = True

    def __init__(self, case):
        self.case = case

    def text(self, generator) -> Text:
        length = 5 + 2 * int(torch.randint(2, (), generator=generator))
        context = torch.randn(length, self.case.kind.width, generator=generator)
        (pooled,) = self.case.kind.extras.values() or (None,)
        return Text(context, None if pooled is None else torch.randn(pooled, generator=generator))

    def draw(self, generator, scenes, per_scene, held_out=False) -> Draw:
        latents = torch.randn((scenes, *self.case.kind.shape), generator=generator).repeat_interleave(per_scene, 0)
        blurs = 30 * torch.rand(scenes * per_scene, generator=generator)
        faded = latents * (1 - blurs / 40).view(-1, *[1] * (latents.ndim - 1))
        return Draw(faded, [self.text(generator) for _ in range(scenes)], blurs)

    def empty(self) -> Text:
        return self.text(torch.Generator().manual_seed(0))

    def identity(self):
        return {}


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    return build_case(request.param)


def test_a_training_forward_is_a_sampling_forward(case):
    """Padding of prompts, sizes, guidance, time scales: whatever the host makes of a prompt for this model."""
    adapter, sigma = random_adapter(case.model), float(case.kind.sigmas[2])
    swept = install(case.model, adapter, Plan(BLURS, Pivot(15.0, 1.0), one_scene=True))
    (tokens, extras) = case.positive[0]
    positive = [[tokens, {**extras, "guidance": 3.5}]] if find(case.model.model.diffusion_model).guided else None
    denoised = case.run(swept, 3, positive=positive, sigmas=torch.tensor([sigma, 0.0]))
    x = (sigma * case.noise).repeat(3, *[1] * (case.noise.ndim - 1))
    network = Network(case.model, adapter, autocast=False, checkpointing=True)
    text = Text(tokens.expand(3, -1, -1), *(value.expand(3, -1) for value in extras.values()))
    with network.ready():
        network.load(x.shape)
        levels, annotations = torch.full((3,), sigma), torch.tensor(BLURS) / 30
        found = network.velocity(x, levels, annotations, text, (1, 1, 1), 3.5).detach().cpu()
    assert relative_error(x - sigma * found, denoised) <= 1e-5


def test_gradient_reaches_every_adapter_tensor_and_nothing_else_and_the_saved_adapter_sweeps(case, tmp_path):
    before = weights_of(case.model)
    data, settings = Drawn(case), recipe(learning_rate=1e-2, average=0.0)
    trainer = Trainer(case.model, data, settings, tmp_path)
    start = trainer._copy(trainer.weights)
    trainer.run(3, measure_every=1)
    for name, weight in trainer.weights.items():
        assert weight.grad.any(), name
        assert not torch.equal(weight, start[name]), name
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(case.model).items())
    assert all(weight.grad is None for weight in case.model.model.parameters())
    assert Trainer(case.model, data, settings, tmp_path).step == 3
    adapter = read_adapter(tmp_path / BEST) if (tmp_path / BEST).exists() else trainer.adapter()
    rows = case.run(install(case.model, adapter, Plan(BLURS, Pivot(15.0, 0.5), one_scene=True)), 3, 4.0)
    assert torch.isfinite(rows).all()
    assert (tmp_path / BEST).exists()
    assert relative_error(rows[:1], rows[2:]) > 1e-4


def test_blocks_are_computed_twice_and_give_the_same_gradients(case):
    unit = join(draw_units(recipe(grouped=1.0, grounded=1.0, no_annotation=0.0), Drawn(case), 0, 0))[0]
    network, family = case.model.model.diffusion_model, find(case.model.model.diffusion_model)
    inside = [next(network.get_submodule(block).parameters()) for block in family.blocks(network)]
    owners = [
        module for module in network.modules() if any(weight in set(inside) for weight in module._parameters.values())
    ]
    gradients, calls = {}, {}
    for checkpointing in (True, False):
        calls[checkpointing] = 0

        def count(module, inputs, output, checkpointing=checkpointing):
            calls[checkpointing] += 1

        trainer = Trainer(case.model, Drawn(case), recipe(checkpointing=checkpointing))
        trainer._put(random_adapter(case.model, context=12, hidden=8).tensors)
        handles = [owner.register_forward_hook(count) for owner in owners]
        with trainer.network.ready():
            trainer.network.load(unit.latents.shape)
            trainer._loss(unit).backward()
        for handle in handles:
            handle.remove()
        gradients[checkpointing] = {name: weight.grad.clone() for name, weight in trainer.weights.items()}
    for name, gradient in gradients[False].items():
        assert relative_error(gradients[True][name], gradient) <= 1e-5, name
    # All but those that no gradient has reached before: the first ones of a network.
    assert calls[True] >= 2 * calls[False] - 4


def test_a_model_with_a_lora_that_follows_the_blur_is_refused():
    case = build_case("sd15")
    name = "middle_block.1.transformer_blocks.0.attn1.to_q"
    model = install_lora(case.model, [Piece(name, torch.ones(2, 64), torch.ones(64, 2), None)], 0.0, 1.0)
    with pytest.raises(TrainingError, match=r"carries a Bokeh LoRA, .* Connect the model from before Bokeh LoRA"):
        Trainer(model, Drawn(case), recipe())


def test_a_model_of_no_family_is_refused():
    case = build_case("wan")
    with pytest.raises(ValueError, match=r"Bokeh adapters work on these models: .*; but this model is WAN21"):
        Trainer(case.model, Drawn(case), recipe())


def test_the_deeper_blocks_are_the_coarsest_or_the_later_ones():
    chosen = {}
    for name in ("sd15", "sdxl", "flux", "z-image"):
        model = build_case(name).model
        _, places = network_places(model)
        chosen[name] = deep(places)
        adapter = new_adapter(model, recipe(blocks="deep"))
        assert adapter.settings.block_names == tuple(places[number].name for number in chosen[name])
    assert chosen == {"sd15": (1, 2, 3, 4), "sdxl": (4, 5, 6, 7, 8), "flux": (2, 3, 4), "z-image": (1, 2)}


@pytest.mark.parametrize("widest", [(320, 640, 1280, 1280, 1280, 640, 320)])
def test_a_real_unets_deeper_blocks_are_its_coarsest(widest):
    _, places = network_places(build_case("sd15").model)
    assert deep([places[0]._replace(width=width) for width in widest]) == (2, 3, 4)
