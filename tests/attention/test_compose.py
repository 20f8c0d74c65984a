"""Beside what people really run: compiled models, fp8 and dequantised weights, ControlNet, interrupts, long queues."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import comfy.model_management
import comfy.utils
import psutil
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from flux import build_controlnet, build_flux, relative_error, sample

from bokeh.attention.install import install
from bokeh.attention.lora import Piece, install_lora
from bokeh.attention.rows import Pivot, Plan

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
SWEEP = Plan((3.0, 15.0, 27.0), Pivot(15.0, 0.5), one_scene=True)


def sweep(model, golden, **options) -> torch.Tensor:
    latent = {"samples": torch.zeros(3, 16, 8, 8)}
    options = {"noise": golden.expected["noise"], **options}
    return sample(model, options.pop("positive", golden.positive()), latent, SIGMAS, **options)


def pytorch_attention(func, *args, **kwargs):
    """The host's attention for GPUs; the one it takes on a CPU measures free memory and cannot be compiled."""
    return attention_pytorch(*args, **kwargs)


@pytest.mark.parametrize("pivot", [15.0, 10.0], ids=["listed", "leaves"])
def test_compiled_models_have_no_graph_break_and_few_graphs(golden, adapter, pivot):
    plan = replace(SWEEP, pivot=Pivot(pivot, 0.5))
    base = golden.model.clone()
    base.model_options["transformer_options"]["optimized_attention_override"] = pytorch_attention
    expected = sweep(install(base, adapter, plan), golden)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = install(base, adapter, plan)
    # fullgraph: a break anywhere in the model is an error.
    set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
    assert relative_error(sweep(compiled, golden), expected) <= 1e-5
    assert relative_error(sweep(compiled, golden), expected) <= 1e-5
    # One graph while grounded, one after: neither a new step nor a new run compiles again.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_fp8_and_bf16_weights(golden, adapter, dtype):
    state = golden.model.model.diffusion_model.state_dict()
    model = build_flux(golden.case["flux"], {name: weight.to(dtype) for name, weight in state.items()}, dtype)
    rounded = build_flux(golden.case["flux"], {name: weight.to(dtype).float() for name, weight in state.items()})
    model.model.manual_cast_dtype = torch.float32
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True
    swept = install(model, adapter, SWEEP)
    assert swept.get_additional_models_with_key("bokeh")[0].model.embedding[0].weight.dtype == torch.float32
    assert relative_error(sweep(swept, golden), sweep(install(rounded, adapter, SWEEP), golden)) <= 1e-5


def test_linear_layers_that_dequantise_on_the_fly(golden, adapter):
    """Quantised loaders swap in linear layers of their own; here one that holds int8 and a scale."""

    class Int8Linear(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.scale = linear.weight.abs().amax() / 127
            self.register_buffer("stored", (linear.weight / self.scale).round().to(torch.int8))
            self.bias = linear.bias

        def forward(self, x):
            return torch.nn.functional.linear(x, self.stored.to(x.dtype) * self.scale, self.bias)

    state = golden.model.model.diffusion_model.state_dict()
    quantised, rounded = (build_flux(golden.case["flux"], state) for _ in range(2))
    for block in (0, 2):
        name = f"single_blocks.{block}.linear1"
        layer = Int8Linear(comfy.utils.get_attr(quantised.model.diffusion_model, name))
        weight = comfy.utils.get_attr(rounded.model.diffusion_model, name).weight
        weight.copy_(layer.stored.float() * layer.scale)
        comfy.utils.set_attr(quantised.model.diffusion_model, name, layer)
    ours = sweep(install(quantised, adapter, SWEEP), golden)
    assert relative_error(ours, sweep(install(rounded, adapter, SWEEP), golden)) <= 1e-5


def test_flux_controlnet_reaches_every_row_and_its_own_blocks_stay_plain(golden, adapter):
    control = build_controlnet(golden)
    positive = golden.positive(control=control, control_apply_to_uncond=False)
    rows = sweep(install(golden.model, adapter, SWEEP), golden, positive=positive)
    assert relative_error(rows, sweep(install(golden.model, adapter, SWEEP), golden)) > 1e-3
    for row, blur in zip(rows, SWEEP.blurs, strict=True):
        alone = install(golden.model, adapter, Plan((blur,), SWEEP.pivot))
        latent = {"samples": torch.zeros(1, 16, 8, 8)}
        expected = sample(alone, positive, latent, SIGMAS, noise=golden.expected["noise"])
        assert relative_error(row[None], expected) <= 1e-5
    in_turns = Plan(SWEEP.blurs, SWEEP.pivot, one_scene=True, rows_at_once=1)
    assert relative_error(sweep(install(golden.model, adapter, in_turns), golden, positive=positive), rows) <= 1e-5


def test_an_interrupt_leaves_the_model_clean_and_frees_the_run(golden, adapter):
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    plain = sample(golden.model, golden.positive(), latent, SIGMAS, noise=golden.expected["noise"])
    model = install(golden.model, adapter, Plan((3.0, 27.0), Pivot(15.0), one_scene=True))
    whole = sweep_of_two(model, golden)
    runs = []

    def interrupt(executor, x, timestep, *args, **kwargs):
        runs.append(weakref.ref(args[-1]["bokeh_run"]))
        if float(timestep[0]) < 0.6:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()
        return executor(x, timestep, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key("diffusion_model", "test", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sweep_of_two(watched, golden)
    gc.collect()
    assert len(runs) == 3
    assert runs[0]() is None
    assert torch.equal(sample(golden.model, golden.positive(), latent, SIGMAS, noise=golden.expected["noise"]), plain)
    assert torch.equal(sweep_of_two(model, golden), whole)
    # The noise of other samplers is their own again.
    assert not torch.equal(*torch.randn(2, 4))


def sweep_of_two(model, golden) -> torch.Tensor:
    latent = {"samples": torch.zeros(2, 16, 8, 8)}
    return sample(model, golden.positive(), latent, SIGMAS, noise=golden.expected["noise"])


def test_two_hundred_queue_entries_leave_no_memory_behind(golden, adapter):
    process = psutil.Process()
    latent = {"samples": torch.zeros(2, 16, 8, 8)}

    def entry(number: int) -> None:
        blurs = (number % 30, 30 - number % 30)
        model = install(golden.model, adapter, Plan(tuple(map(float, blurs)), Pivot(15.0), one_scene=True))
        sample(model, golden.positive(), latent, SIGMAS[-3:], noise=golden.expected["noise"])

    for number in range(40):
        entry(number)
    gc.collect()
    objects, memory = len(gc.get_objects()), process.memory_info().rss
    for number in range(200):
        entry(number)
    gc.collect()
    assert len(gc.get_objects()) - objects < 2000
    assert process.memory_info().rss - memory < 32 * 2**20


def installed(golden, adapter, kind):
    if kind == "adapter":
        return install(golden.model, adapter, SWEEP)
    piece = Piece("double_blocks.0.img_attn.proj", torch.ones(2, 32), torch.ones(32, 2), None)
    return install_lora(install(golden.model, None, SWEEP), [piece], 0.0, 1.0)


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_the_host_finds_no_leak_when_a_node_is_run_again(golden, adapter, kind, caplog):
    """Between two runs the network still has the first one's forwards."""
    weights = []
    for _ in range(3):
        made = installed(golden, adapter, kind)
        ((patcher,),) = (models for models in made.additional_models.values() if models)
        weights.append(weakref.ref(patcher.model))
        sweep(made, golden)
        del made, patcher
    assert "leak" not in caplog.text
    sweep(golden.model, golden)
    assert [ref() for ref in weights] == [None] * 3


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_a_model_that_ran_with_bokeh_goes_when_the_host_needs_its_memory(golden, adapter, kind, monkeypatch):
    """The first to go is what is not wholly on the card: here the network, which is last in the host's list."""
    alone = sample(golden.model, golden.positive(), golden.latent(), SIGMAS, noise=golden.expected["noise"])
    sweep(installed(golden, adapter, kind), golden)
    loaded = comfy.model_management.current_loaded_models
    loaded.sort(key=lambda entry: entry.model.model is golden.model.model)
    monkeypatch.setattr(
        type(loaded[0]), "model_offloaded_memory", lambda entry: int(entry.model.model is golden.model.model)
    )
    comfy.model_management.unload_all_models()
    assert not loaded
    plain = sample(golden.model, golden.positive(), golden.latent(), SIGMAS, noise=golden.expected["noise"])
    assert torch.equal(plain, alone)


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_what_stays_in_the_network_once_its_model_is_gone_does_nothing(golden, adapter, kind):
    network = golden.model.model.diffusion_model
    inputs = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    layer = network.double_blocks[0].img_attn.proj if kind == "lora" else network.double_blocks[0].img_attn.qkv
    plain = layer(inputs)
    sweep(installed(golden, adapter, kind), golden)
    assert "forward" in vars(layer)
    assert torch.equal(layer(inputs), plain)
