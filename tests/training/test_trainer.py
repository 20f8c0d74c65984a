"""The trainer on a tiny FLUX: what learns, what stays, and that a run can be repeated and interrupted."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from blobs import TINY, Blobs, recipe, tiny_flux, weights_of
from flux import build_flux, conditioning, relative_error, sample
from places import CHECKOUT
from sampling import ksample

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan
from bokeh.training.checkpoint import TrainingError, load_checkpoint, save_checkpoint
from bokeh.training.network import Network
from bokeh.training.pictures import Text
from bokeh.training.recipe import draw_units, join
from bokeh.training.start import new_adapter
from bokeh.training.trainer import BEST, CHECKPOINT, Trainer
from bokeh.weights.files import read_adapter
from bokeh.weights.format import build_adapter

sys.path.append(str(CHECKOUT / "tools"))

from benchmark import PeakMemory


@pytest.fixture(scope="module")
def model():
    return tiny_flux()


def forwards_of(model) -> dict[str, object]:
    """The function behind every module's ``forward``, whether it was put on the module or comes from its class."""
    return {name: getattr(m.forward, "__func__", m.forward) for name, m in model.model.named_modules()}


def random_adapter(model, settings, seed: int = 3):
    """An adapter of the recipe's sizes in which no matrix is zero."""
    adapter = new_adapter(model, settings)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) / tensor.shape[-1] ** 0.5
        for name, tensor in adapter.tensors.items()
    }
    names = list(adapter.settings.block_names)
    return build_adapter(tensors, {"variant": adapter.settings.variant, "blocks": names}, "random adapter")


# The network


@pytest.mark.parametrize("keys", [True, False])
def test_a_training_forward_is_a_sampling_forward(model, keys):
    """The velocity of grounded rows against the sampling hooks' own, through the host's sampler."""
    settings = recipe(unfreeze_k=keys)
    adapter = random_adapter(model, settings)
    blurs, sigma, guidance = (3.0, 12.0, 27.0), 0.7, 3.5
    (unit,) = draw_units(settings, Blobs(), 0, 0)
    noise, context, pooled = unit.noise[:1], unit.text.context[:1], unit.text.pooled[:1]
    swept = install(model, adapter, Plan(blurs, Pivot(12.0, 1.0), one_scene=True))
    seen = []

    def watch(executor, *args, **kwargs):
        seen.append(executor(*args, **kwargs))
        return seen[-1]

    swept.add_wrapper_with_key("diffusion_model", "test", watch)
    positive = conditioning(context, pooled, guidance)
    latent = {"samples": torch.zeros(3, *noise.shape[1:])}
    sample(swept, positive, latent, torch.tensor([sigma, 0.0]), noise=noise)
    x = (sigma * noise).expand(3, -1, -1, -1)
    for checkpointing in (True, False):
        network = Network(model, adapter, autocast=False, checkpointing=checkpointing)
        with network.ready():
            network.load(x.shape)
            ours = network.velocity(
                x,
                torch.full((3,), sigma),
                torch.tensor(blurs) / 30,
                Text(context.expand(3, -1, -1), pooled.expand(3, -1)),
                (1, 1, 1),
                guidance,
            )
            assert ours.requires_grad
        assert relative_error(ours.detach(), seen[0]) <= 1e-6


def test_gradients_are_those_of_finite_differences(model):
    """What the host writes in place, and block numbers in a second forward, must not reach the gradients."""
    settings = recipe(grouped=1.0, grounded=1.0, no_annotation=0.0)
    (unit,) = join([unit for number in range(2) for unit in draw_units(settings, Blobs(), 0, number)])
    double = tiny_flux(torch.float64)
    gradients = {}
    for checkpointing in (True, False):
        trainer = Trainer(double, Blobs(), replace(settings, checkpointing=checkpointing))
        trainer._put(random_adapter(double, settings).tensors)
        with trainer.network.ready():
            trainer.network.load(unit.latents.shape)
            trainer._loss(unit).backward()
            gradients[checkpointing] = {name: weight.grad.clone() for name, weight in trainer.weights.items()}
            if checkpointing:
                continue
            for name, weight in trainer.weights.items():
                direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)).to(weight)
                losses = []
                for sign in (1, -1):
                    with torch.no_grad():
                        weight.add_(direction, alpha=sign * 1e-2)
                        losses.append(float(trainer._loss(unit)))
                        weight.add_(direction, alpha=-sign * 1e-2)
                expected = (losses[0] - losses[1]) / 2e-2
                found = float((direction * gradients[False][name]).sum())
                assert abs(found - expected) <= 2e-2 * abs(expected) + 2e-3, name
    for name, gradient in gradients[False].items():
        assert relative_error(gradients[True][name], gradient) <= 1e-5, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_reaches_every_adapter_tensor_and_nothing_else(dtype):
    model = tiny_flux(dtype)
    before, forwards = weights_of(model), forwards_of(model)
    trainer = Trainer(model, Blobs(), recipe(learning_rate=1e-2))
    start = trainer._copy(trainer.weights)
    trainer.run(4)
    for name, weight in trainer.weights.items():
        assert weight.dtype == torch.float32
        assert weight.grad.any(), name
        assert not torch.equal(weight, start[name]), name
    assert weights_of(model).keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
    assert all(weight.grad is None for weight in model.model.parameters())
    assert forwards_of(model) == forwards


def test_a_new_adapter_changes_nothing(model):
    trainer = Trainer(model, Blobs(), recipe())
    with torch.inference_mode():
        context, pooled = torch.randn(1, 5, 24), torch.randn(1, 20)
        positive = [[context, {"pooled_output": pooled, "guidance": 3.0}]]
        latent = {"samples": torch.zeros(1, 16, 8, 8)}
        plain = ksample(model, positive, latent)
        adapted = ksample(install(model, trainer.adapter(), Plan((20.0,))), positive, latent)
    assert torch.equal(plain, adapted)


def test_autocast_stays_close_to_full_precision(model):
    losses = []
    for autocast in (False, True):
        trainer = Trainer(model, Blobs(), recipe(autocast=autocast))
        trainer.run(3)
        losses.append(torch.tensor(trainer.losses))
    assert not torch.equal(*losses)
    assert relative_error(*losses) <= 2e-2


def fixed_batch(trainer, model):
    """Makes every step train on one batch, which another adapter fits exactly: so there is something to find."""
    settings = trainer.recipe
    (unit,) = draw_units(settings, Blobs(), 0, 0)
    teacher = Network(model, random_adapter(model, settings), autocast=False, checkpointing=False)
    x, sigmas = unit.noise, unit.sigmas[:, None, None, None]
    with teacher.ready(), torch.no_grad():
        teacher.load(x.shape)
        velocity = teacher.velocity(x, *unit[2:], settings.guidance).cpu()
    fitted = unit._replace(latents=x - sigmas * velocity, noise=x + (1 - sigmas) * velocity)

    def draw(numbers):
        trainer.network.load(x.shape)
        return [fitted]

    trainer._draw = draw


def test_the_loss_on_a_fixed_batch_falls_by_half(model):
    settings = recipe(grouped=1.0, grounded=1.0, no_annotation=0.0, learning_rate=1e-2)
    trainer = Trainer(model, Blobs(), settings)
    fixed_batch(trainer, model)
    trainer.run(100, measure_every=1000)
    assert trainer.losses[-1] <= 0.5 * trainer.losses[0], (trainer.losses[0], trainer.losses[-1])


# Checkpoints


@pytest.mark.parametrize("average", [0.9, 0.0])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(model, tmp_path, average):
    settings = recipe(accumulate=2, average=average, learning_rate=1e-2)
    whole = Trainer(model, Blobs(), settings, tmp_path / "whole")
    whole.run(6, measure_every=2)
    first = Trainer(model, Blobs(), settings, tmp_path / "parts")
    first.run(3, measure_every=2)
    second = Trainer(model, Blobs(), settings, tmp_path / "parts")
    assert second.step == 3
    second.run(6, measure_every=2)
    assert second.losses == whole.losses
    # The last step of a part is measured as well.
    assert [point for point in second.held_out if point[0] != 3] == whole.held_out
    ours, theirs = (load_checkpoint(tmp_path / part / CHECKPOINT)[0] for part in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith(("best", "held_out")))


def test_the_rate_falls_over_the_last_share_of_the_steps_interrupted_or_not(model, tmp_path):
    settings = recipe(decay=0.5, warmup=2, learning_rate=8e-3)
    rates = []

    def train(folder, stop_after=None):
        trainer = Trainer(model, Blobs(), settings, folder)

        def on_step(progress):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            if progress.step == stop_after:
                raise KeyboardInterrupt

        trainer.run(8, on_step, measure_every=100)
        return trainer

    whole = train(tmp_path / "whole")
    assert rates == pytest.approx([4e-3, 8e-3, 8e-3, 8e-3, 8e-3, 6e-3, 4e-3, 2e-3])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stop_after=6)
    assert train(tmp_path / "parts").losses == whole.losses
    assert rates[8:] == rates[:8]


def test_a_checkpoint_from_before_a_setting_goes_on_with_its_default(model, tmp_path):
    Trainer(model, Blobs(), recipe(), tmp_path).run(1)
    tensors, info = load_checkpoint(tmp_path / CHECKPOINT)
    del info["recipe"]["by_row"]
    save_checkpoint(tmp_path / CHECKPOINT, tensors, info)
    assert Trainer(model, Blobs(), recipe(), tmp_path).step == 1
    with pytest.raises(TrainingError, match="another recipe: by_row False there and True here"):
        Trainer(model, Blobs(), recipe(by_row=True), tmp_path)


def test_another_recipe_or_model_is_refused_naming_the_difference(model, tmp_path):
    Trainer(model, Blobs(), recipe(), tmp_path).run(1)
    with pytest.raises(TrainingError) as refused:
        Trainer(model, Blobs(), recipe(rank=8, seed=5), tmp_path)
    assert str(refused.value) == (
        f"{tmp_path / CHECKPOINT}: was made with another recipe: rank 4 there and 8 here, seed 0 there and 5 here. "
        "Go on with the recipe of the checkpoint, or choose another name to start anew."
    )
    with pytest.raises(TrainingError, match=r"was made with another model: weights \w+ there and \w+ here\."):
        Trainer(tiny_flux(seed=1), Blobs(), recipe(), tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="cannot be read as a checkpoint"):
        Trainer(model, Blobs(), recipe(), tmp_path)


def test_a_model_that_gives_nan_is_refused_before_the_first_measurement(tmp_path):
    broken = tiny_flux()
    with torch.no_grad():
        broken.model.diffusion_model.final_layer.linear.weight.fill_(float("nan"))
    trainer = Trainer(broken, Blobs(), recipe(), tmp_path)
    with pytest.raises(TrainingError, match="cannot be trained on: its loss for a first picture is nan"):
        trainer.run(2)
    assert not trainer.held_out
    assert not list(tmp_path.iterdir())


def test_the_best_adapter_by_held_out_loss_is_kept(model, tmp_path):
    """One batch learned by heart: held-out pictures gain from it at first, if at all, and lose in the end."""
    settings = recipe(batch=2, learning_rate=0.1, average=0.0)
    trainer = Trainer(model, Blobs(), settings, tmp_path)
    fixed_batch(trainer, model)
    seen = []
    trainer.run(30, seen.append, measure_every=1)
    losses = [loss for _, loss in trainer.held_out]
    assert losses[1:] == [progress.held_out for progress in seen]
    best = min(range(31), key=losses.__getitem__)
    assert best < 30, losses
    assert [progress.step for progress in seen if progress.best][-1:] == ([best] if best else [])
    again = Trainer(model, Blobs(), settings)
    again._put(trainer.adapter().tensors)
    with again.network.ready():
        assert again._measure()[0] == losses[best]
    if best:
        kept = read_adapter(tmp_path / BEST)
        assert kept.settings == trainer.adapter().settings
        assert all(torch.equal(kept.tensors[name], tensor) for name, tensor in trainer.adapter().tensors.items())


class Interrupted(Blobs):
    """Interrupts from inside the third step."""

    def __init__(self, how):
        super().__init__()
        self.how, self.draws = how, 0

    def draw(self, generator, scenes, per_scene, held_out=False):
        self.draws += not held_out
        if self.draws == 5:
            self.how()
        return super().draw(generator, scenes, per_scene, held_out)


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("how", "raised"),
    [
        (raise_keyboard_interrupt, KeyboardInterrupt),
        # The host raises it in the next layer of the network.
        (comfy.model_management.interrupt_current_processing, comfy.model_management.InterruptProcessingException),
    ],
)
def test_an_interrupt_leaves_the_model_clean_and_a_checkpoint_to_go_on_from(model, tmp_path, how, raised):
    before, forwards = weights_of(model), forwards_of(model)
    learning = [weight.requires_grad for weight in model.model.parameters()]
    trainer = Trainer(model, Interrupted(how), recipe(), tmp_path / "parts")
    with pytest.raises(raised):
        trainer.run(4)
    assert trainer.step == 2
    assert forwards_of(model) == forwards
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
    assert [weight.requires_grad for weight in model.model.parameters()] == learning
    assert not torch.is_grad_enabled()
    resumed = Trainer(model, Blobs(), recipe(), tmp_path / "parts")
    resumed.run(4)
    whole = Trainer(model, Blobs(), recipe())
    whole.run(4)
    assert resumed.losses == whole.losses


def test_a_loss_that_is_no_number_stops_with_a_sentence(model):
    class Broken(Blobs):
        def draw(self, generator, scenes, per_scene, held_out=False):
            drawn = super().draw(generator, scenes, per_scene, held_out)
            return drawn if held_out else drawn._replace(latents=drawn.latents * float("nan"))

    with pytest.raises(TrainingError, match=r"The loss of step 1 is nan, .* lower learning rate \(now 0\.0001\)"):
        Trainer(model, Broken(), recipe()).run(1)


def test_a_held_out_loss_that_is_no_number_stops_before_the_first_step(model, tmp_path):
    """It would stay the best for ever, and the result be the adapter that has learned nothing."""

    class Broken(Blobs):
        held_out = 0

        def draw(self, generator, scenes, per_scene, held_out=False):
            drawn = super().draw(generator, scenes, per_scene, held_out)
            self.held_out += held_out
            return drawn._replace(latents=drawn.latents * float("nan")) if held_out and self.held_out > 1 else drawn

    trainer = Trainer(model, Broken(), recipe(), tmp_path)
    with pytest.raises(TrainingError, match=r"The loss on held-out pictures after step 0 is nan"):
        trainer.run(2)
    assert trainer.step == 0
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_no_number_reaches_no_weight_and_no_checkpoint(model, tmp_path):
    Trainer(model, Blobs(), recipe(), tmp_path).run(1)
    trainer = Trainer(model, Blobs(), recipe(), tmp_path)
    weight = next(iter(trainer.weights.values()))
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"The gradient of step 2 is (nan|inf), .* lower learning rate"):
        trainer.run(3, save_every=1)
    tensors, info = load_checkpoint(tmp_path / CHECKPOINT)
    assert info["step"] == 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())


# The true width


def test_one_step_at_the_true_width(record_property):
    sizes = {**TINY, "attention_head_dim": 128, "num_attention_heads": 24, "num_layers": 1, "num_single_layers": 1}
    sizes |= {"axes_dims_rope": [16, 56, 56], "joint_attention_dim": 256}
    model = build_flux(sizes, dtype=torch.bfloat16)
    settings = recipe(rank=128, context_dim=768, hidden_dim=64, batch=2, average=0.0, held_out_units=1)
    data = Blobs(side=16, tokens=16, sizes=sizes)
    with PeakMemory() as memory:
        start = time.perf_counter()
        trainer = Trainer(model, data, settings)
        with trainer.network.ready():
            loss = trainer._advance(steps=1)
        seconds = time.perf_counter() - start
    megabytes = memory.peak / 2**20
    record_property("seconds", round(seconds, 1))
    record_property("megabytes", round(megabytes))
    print(f"\none step at width 3072, rank 128, 2 x 128 px: {seconds:.1f} s, {megabytes:.0f} MB beside the model")
    assert 0 < loss < 100
    assert all(weight.grad is not None for weight in trainer.weights.values())
