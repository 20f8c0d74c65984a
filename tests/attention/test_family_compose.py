"""Stable Diffusion's UNets among the host's own patches, and the traps of the other families."""

from __future__ import annotations

import types

import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.model_sampling
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from families import KINDS, build_case, random_adapter
from flux import relative_error, run_node
from unet import build_control

from bokeh.attention.install import adapt, block_places, install
from bokeh.attention.module import AdapterModule
from bokeh.attention.rows import Pivot, Plan
from bokeh.training.network import Network
from bokeh.training.pictures import Text
from bokeh.training.recipe import Unit

BLURS = (3.0, 15.0, 27.0)
PIVOT = Pivot(15.0, 0.5)
SWEEP = Plan(BLURS, PIVOT, one_scene=True)
UNETS = ("sd15", "sdxl")


@pytest.fixture(scope="module", params=UNETS)
def case(request):
    return build_case(request.param)


def blocks_of(case) -> set[tuple[str, int]]:
    kinds = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    parts = (place[0].split(".") for place in case.kind.projections)
    return {(kinds[name], 0 if name == "middle_block" else int(number)) for name, number, *_ in parts}


def ip_adapter(case, model):
    """Packs of this kind replace the attention to the prompt in every block."""
    clone = model.clone()
    for kind, number in blocks_of(case):
        clone.set_model_attn2_replace(
            lambda q, k, v, extra: 0.5 * optimized_attention(q, k, v, extra["n_heads"]), kind, number
        )
    return clone


def lora(case, model):
    clone, generator = model.clone(), torch.Generator().manual_seed(3)
    state = model.model.state_dict()
    keys = [key for key in state if "attn1.to_" in key and key.endswith("weight")]
    clone.add_patches({key: ("diff", (0.05 * torch.randn(state[key].shape, generator=generator),)) for key in keys})
    return clone


def own_patches(case, model):
    clone = model.clone()
    clone.set_model_attn1_patch(lambda q, k, v, extra: (q * 1.1, k, v * 0.9))
    clone.set_model_attn1_output_patch(lambda out, extra: out * 0.8)
    return clone


def own_override(case, model):
    clone = model.clone()

    def override(func, q, k, v, *args, **kwargs):
        return func(q, 1.1 * k, v, *args, **kwargs)

    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    return clone


def host_node(name: str, **inputs):
    return lambda case, model: run_node(name, model=model, **inputs)[0]


COMPOSED = {
    "FreeU": host_node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "PAG": host_node("PerturbedAttentionGuidance", scale=3.0),
    "SAG": host_node("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "RescaleCFG": host_node("RescaleCFG", multiplier=0.7),
    "attention to the prompt replaced": ip_adapter,
    "DeepShrink": host_node(
        "PatchModelAddDownscale",
        block_number=1,
        downscale_factor=2.0,
        start_percent=0.0,
        end_percent=0.5,
        downscale_after_skip=True,
        downscale_method="bicubic",
        upscale_method="bicubic",
    ),
    "LoRA": lora,
    "attention patches": own_patches,
    "another override": own_override,
}


@pytest.fixture(scope="module")
def plain(case) -> torch.Tensor:
    """The sweep without anything beside it."""
    return case.run(install(case.model, random_adapter(case.model), SWEEP), 3, 4.0)


@pytest.mark.parametrize("name", list(COMPOSED))
def test_a_row_of_a_sweep_is_that_row_alone_beside_other_patches(case, plain, name):
    """Each on both UNets: on one of them before our layers, on the other behind them."""
    adapter = random_adapter(case.model)

    def built(plan: Plan):
        if case.name == "sd15":
            return install(COMPOSED[name](case, case.model), adapter, plan)
        return COMPOSED[name](case, install(case.model, adapter, plan))

    rows = case.run(built(SWEEP), 3, 4.0)
    assert relative_error(rows, plain) > 1e-4
    for row, blur in zip(rows, BLURS, strict=True):
        assert relative_error(row[None], case.run(built(Plan((blur,), PIVOT)), 1, 4.0)) <= 2e-5


def area(case):
    generator = torch.Generator().manual_seed(9)
    second = [[torch.randn(1, 7, case.kind.width, generator=generator), case.positive[0][1]]]
    return (
        case.positive
        + run_node("ConditioningSetArea", conditioning=second, width=64, height=128, x=32, y=0, strength=1.0)[0]
    )


def lora_hook(case):
    generator, state = torch.Generator().manual_seed(9), case.model.model.state_dict()
    hook = comfy.hooks.WeightHook(1.0, 1.0)
    hook.weights = {
        key: ("diff", (0.05 * torch.randn(state[key].shape, generator=generator),))
        for key in state
        if "attn1.to_" in key and key.endswith("weight")
    }
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return [[case.positive[0][0], {**case.positive[0][1], "hooks": group}]]


def control(case):
    """A ControlNet with one picture for all rows."""
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(9))
    net, whole = build_control(case.model), {"start_percent": 0.0, "end_percent": 1.0}
    inputs = {"positive": case.positive, "negative": case.negative, "control_net": net, "image": hint, "strength": 1.0}
    return run_node("ControlNetApplyAdvanced", **inputs, **whole)[0]


@pytest.mark.parametrize("prompt", [area, lora_hook, control])
def test_a_row_of_a_sweep_is_that_row_alone_with_prompts_of_other_kinds(case, prompt):
    adapter, positive = random_adapter(case.model), prompt(case)
    rows = case.run(install(case.model, adapter, SWEEP), 3, 4.0, positive=positive)
    assert relative_error(rows, case.run(install(case.model, adapter, SWEEP), 3, 4.0)) > 1e-4
    for row, blur in zip(rows, BLURS, strict=True):
        alone = case.run(install(case.model, adapter, Plan((blur,), PIVOT)), 1, 4.0, positive=positive)
        assert relative_error(row[None], alone) <= 2e-5


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_a_row_of_a_sweep_is_that_row_alone_with_noise_on_the_way(case, sampler):
    adapter = random_adapter(case.model)

    def pictures(plan: Plan) -> torch.Tensor:
        torch.manual_seed(0)
        return case.run(install(case.model, adapter, plan), len(plan.blurs), 4.0, sampler=sampler)

    for row, blur in zip(pictures(SWEEP), BLURS, strict=True):
        assert relative_error(row[None], pictures(Plan((blur,), PIVOT))) <= 2e-5


def test_pictures_cut_into_tiles_for_attention_alone_stay_one_scene(case):
    """HyperTile hands queries of rows x tiles and keys of rows; both runs draw the same tiles from the node's seed."""
    adapter = random_adapter(case.model)

    def tiled(plan: Plan):
        model = install(case.model, adapter, plan)
        return run_node("HyperTile", model=model, tile_size=32, swap_size=1, max_depth=1, scale_depth=False)[0]

    rows = case.run(tiled(SWEEP), 3, 4.0)
    assert relative_error(rows, case.run(install(case.model, adapter, SWEEP), 3, 4.0)) > 1e-4
    for row, blur in zip(rows, BLURS, strict=True):
        assert relative_error(row[None], case.run(tiled(Plan((blur,), PIVOT)), 1, 4.0)) <= 2e-5


@pytest.mark.parametrize("name", ["sd15", "sd3.5"])
def test_a_compiled_model_has_two_graphs(name):
    case = build_case(name)
    base, adapter = case.model.clone(), random_adapter(case.model)
    base.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *args, **kwargs: (
        attention_pytorch(*args, **kwargs)
    )
    expected = case.run(install(base, adapter, SWEEP), 3)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = install(base, adapter, SWEEP)
    set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
    for _ in range(2):
        assert relative_error(case.run(compiled, 3), expected) <= 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("name", list(KINDS))
def test_adapters_sit_on_projections_because_norms_may_be_fused_away(name):
    model = KINDS[name].build()
    adapter = random_adapter(model)
    clone = adapt(model, adapter, AdapterModule(adapter, torch.float32), block_places(model, adapter))
    adapted = {patch for patch, forward in clone.object_patches.items() if hasattr(forward.hook, "parts")}
    listed = {module for q, _, k, _ in KINDS[name].projections for module in (q, k)}
    assert adapted == {f"diffusion_model.{module}.forward" for module in listed}


@pytest.mark.parametrize("name", ["sd15", "sd3.5"])
def test_a_network_called_by_hand_is_its_old_self_once_its_model_is_loaded_again(name):
    case = build_case(name)
    base, generator = case.model.model, torch.Generator().manual_seed(2)
    given = {"x": torch.randn(1, *case.kind.shape, generator=generator), "t": torch.tensor([0.5])}
    given |= {} if name == "sd15" else {"y": case.positive[0][1]["pooled_output"]}
    given["c_crossattn"] = case.positive[0][0]
    given = {name: part.to(case.model.load_device) for name, part in given.items()}

    def by_hand() -> torch.Tensor:
        comfy.model_management.load_models_gpu([case.model])
        return base.apply_model(**given)

    before = by_hand()
    case.run(install(case.model, random_adapter(case.model), SWEEP), 3, 4.0)
    assert torch.equal(by_hand(), before)


@pytest.mark.parametrize("predicts_v", [False, True])
def test_training_weighs_the_errors_of_v_alike_at_every_noise_level(predicts_v):
    model = build_case("sd15").model.clone()
    if predicts_v:
        kinds = (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION)
        model.add_object_patch("model_sampling", types.new_class("Sampling", kinds)(model.model.model_config))
    network = Network(model, random_adapter(model), autocast=False, checkpointing=False)
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    unit = Unit(z, noise, torch.tensor([0.2, 0.9]), torch.zeros(2), Text(torch.zeros(2, 7, 24)), (0, 1))
    with network.ready():
        x, sigmas, target, weights = (part.cpu() for part in network.noisy(unit))
    assert torch.equal(target, noise)
    assert torch.allclose(x, z + sigmas[:, None, None, None] * noise)
    # An error d of the network's own answer moves (x - denoised) / sigma by d (noise) or d / sqrt(sigma^2 + 1) (v).
    sampling = model.get_model_object("model_sampling")
    assert torch.allclose(sigmas, torch.tensor([sampling.percent_to_sigma(1 - share) for share in (0.2, 0.9)]))
    answers = [
        (x - sampling.calculate_denoised(sigmas, answer, x)) / sigmas[:, None, None, None] for answer in (x, x + 1)
    ]
    moved = (answers[1] - answers[0]).square().flatten(1).mean(1)
    assert torch.allclose(weights * moved, torch.ones(2), rtol=1e-3)
