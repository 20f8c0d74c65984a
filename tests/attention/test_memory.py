"""What stays behind when the host's models go: nothing, and without waiting for the garbage collector."""

from __future__ import annotations

import copy
import gc
import inspect
import weakref

import comfy.model_management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from families import build_sdxl, random_adapter
from flux import build_flux, patcher_of, sample

from bokeh.attention.install import install
from bokeh.attention.lora import Piece, install_lora
from bokeh.attention.rows import Pivot, Plan
from bokeh.demo.load import load_demo
from bokeh.training.network import Network

SIGMAS = torch.tensor([1.0, 0.5, 0.0])
SWEEP = Plan((3.0, 15.0, 27.0), Pivot(15.0, 0.5), one_scene=True)


@pytest.fixture(autouse=True)
def _no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def built(golden):
    return build_flux(golden.case["flux"], golden.model.model.diffusion_model.state_dict())


def on(model, kind, adapter):
    if kind == "adapter":
        return install(model, adapter, SWEEP)
    piece = Piece("double_blocks.0.img_attn.proj", torch.ones(2, 32), torch.ones(32, 2), None)
    return install_lora(install(model, None, SWEEP), [piece], 0.0, 1.0)


def sweep(model, golden) -> torch.Tensor:
    latent = {"samples": torch.zeros(3, 16, 8, 8)}
    return sample(model, golden.positive(), latent, SIGMAS, noise=golden.expected["noise"])


@pytest.mark.parametrize("unloaded", [False, True])
@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_a_network_that_ran_goes_with_its_model(golden, adapter, kind, unloaded):
    """The next one's loader finds the card empty: what stays there is on none of the host's lists."""
    base = built(golden)
    model = on(base, kind, adapter)
    sweep(model, golden)
    if unloaded:
        comfy.model_management.unload_all_models()
    weights = [weakref.ref(weight) for weight in base.model.parameters()]
    del base, model
    assert [weight() for weight in weights] == [None] * len(weights)


def test_a_network_that_was_trained_on_goes_with_its_model():
    """SDXL's blocks, which training patches, are not the attentions that adapters do."""
    model = build_sdxl()
    network = Network(model, random_adapter(model), autocast=False, checkpointing=False)
    with network.ready():
        network.load((1, 4, 8, 8))
    weights = [weakref.ref(weight) for weight in model.model.parameters()]
    del model, network
    assert [weight() for weight in weights] == [None] * len(weights)


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_a_network_that_another_model_of_the_host_has_too_keeps_what_is_on_it(golden, adapter, kind):
    first = built(golden)
    second = patcher_of(copy.copy(first.model))
    sweep(on(first, kind, adapter), golden)
    model, held = on(second, kind, adapter), [first]
    del first
    expected = sweep(model, golden)

    def goes(executor, *args, **kwargs):
        held.clear()
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("diffusion_model", "test", goes)
    assert torch.equal(sweep(model, golden), expected)


@pytest.mark.skipif(
    "force_deepcopy" not in inspect.signature(ModelPatcher.clone).parameters, reason="the host makes no second copies"
)
def test_newer_hosts_make_a_second_copy_of_what_is_ours(golden, adapter):
    """As they do for compiled models and LoRAs on a prompt where weights come and go on demand."""
    swept = on(on(golden.model, "lora", adapter), "adapter", adapter)
    for patcher in (load_demo().model, *swept.get_additional_models()):
        made = patcher.clone(force_deepcopy=True)
        assert made.model is not patcher.model
        assert made.model.state_dict().keys() == patcher.model.state_dict().keys()
