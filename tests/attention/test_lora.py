"""Bokeh LoRA: every row at its own strength is that row with the host's own loader at that strength."""

from __future__ import annotations

import json
import os
import re

import comfy.ops
import comfy.sd
import folder_paths
import nodes
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from families import build_case, dit, random_adapter
from flux import relative_error, run_node
from safetensors.torch import save_file

from bokeh.attention.install import install, uninstall
from bokeh.attention.lora import install_lora, read_pieces
from bokeh.attention.rows import Pivot, Plan

BLURS = (0.0, 12.0, 30.0)
PLAN = Plan(BLURS, None, one_scene=True)
SHARP, BLURRED = -0.5, 1.0


def strength(blur: float) -> float:
    return SHARP + (BLURRED - SHARP) * blur / 30


def low_rank(outputs: int, inputs: int, kernel=(), rank=3, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """up and down, of such a size that the pictures change."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, inputs, *kernel, generator=generator) / (inputs * torch.Size(kernel).numel()) ** 0.5
    up = torch.randn(outputs, rank, *[1] * len(kernel), generator=generator) * 0.2
    return up, down


def of_every_layer(model, form: str) -> dict[str, torch.Tensor]:
    """A LoRA on all linear layers and convolutions of a network, in one of the forms that the host reads."""
    tensors = {}
    for number, (name, layer) in enumerate(model.model.diffusion_model.named_modules()):
        if isinstance(layer, torch.nn.Conv2d):
            up, down = low_rank(layer.out_channels, layer.in_channels, layer.kernel_size, seed=number)
        elif isinstance(layer, torch.nn.Linear):
            up, down = low_rank(layer.out_features, layer.in_features, seed=number)
        else:
            continue
        if form == "kohya":
            key = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(2.0)}
        else:
            key = f"diffusion_model.{name}"
            tensors |= {f"{key}.lora_B.weight": up, f"{key}.lora_A.weight": down}
    return tensors


def diffusers_flux() -> dict[str, torch.Tensor]:
    """Projections that FLUX's own layout fuses, and the last norm, whose halves it swaps."""
    tensors, width = {}, 32
    layers = {f"transformer_blocks.{i}.attn.to_{part}": (width, width) for i in range(2) for part in "qkv"}
    layers |= {f"single_transformer_blocks.{i}.attn.to_{part}": (width, width) for i in range(3) for part in "qkv"}
    layers |= {f"single_transformer_blocks.{i}.proj_mlp": (4 * width, width) for i in range(3)}
    layers["norm_out.linear"] = (2 * width, width)
    for number, (name, shape) in enumerate(layers.items()):
        up, down = low_rank(*shape, seed=number)
        tensors |= {f"transformer.{name}.lora_B.weight": up, f"transformer.{name}.lora_A.weight": down}
    return tensors


def by_the_host(model, tensors, factor: float):
    return comfy.sd.load_lora_for_models(model, None, tensors, factor, 0.0)[0]


CASES = {
    "sd15 kohya": ("sd15", lambda model: of_every_layer(model, "kohya")),
    "sdxl generic": ("sdxl", lambda model: of_every_layer(model, "generic")),
    "flux diffusers": ("flux", lambda model: diffusers_flux()),
    "flux generic": ("flux", lambda model: of_every_layer(model, "generic")),
    "qwen-image generic": ("qwen-image", lambda model: of_every_layer(model, "generic")),
    "z-image generic": ("z-image", lambda model: of_every_layer(model, "generic")),
}


@pytest.fixture(scope="module", params=list(CASES))
def made(request):
    family, tensors = CASES[request.param]
    case = build_case(family)
    return case, tensors(case.model)


def with_lora(model, tensors, sharp=SHARP, blurred=BLURRED):
    return install_lora(model, read_pieces(tensors, model, "FILE")[0], sharp, blurred)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_every_row_is_that_row_with_the_hosts_loader_at_its_strength(made, cfg):
    case, tensors = made
    rows = case.run(install(with_lora(case.model, tensors), None, PLAN), 3, cfg)
    for row, blur in zip(rows, BLURS, strict=True):
        alone = case.run(by_the_host(case.model, tensors, strength(blur)), 1, cfg)
        assert relative_error(row[None], alone) <= 1e-4
    assert relative_error(rows[:1], rows[2:]) > 1e-3


def test_rows_keep_their_strengths_where_references_have_timesteps_of_their_own():
    """Newer hosts (0.33): the network of Qwen-Image then gets every timestep twice."""
    case = build_case("qwen-image")
    tensors, ((tokens, extra),) = of_every_layer(case.model, "generic"), case.positive
    photo = torch.randn(1, *case.kind.shape, generator=torch.Generator().manual_seed(3))
    method = {"reference_latents": [photo], "reference_latents_method": "index_timestep_zero"}
    positive = [[tokens, extra | method]]
    rows = case.run(install(with_lora(case.model, tensors), None, PLAN), 3, positive=positive)
    for row, blur in zip(rows, BLURS, strict=True):
        alone = case.run(by_the_host(case.model, tensors, strength(blur)), 1, positive=positive)
        assert relative_error(row[None], alone) <= 1e-4


def test_rows_of_strength_zero_are_the_models_own(made):
    case, tensors = made
    plain = case.run(case.model, 3, 4.0)
    swept = install(with_lora(case.model, tensors, 0.0, 1.0), None, PLAN)
    rows = case.run(swept, 3, 4.0)
    assert torch.equal(rows[0], plain[0])
    assert not torch.equal(rows[2], plain[2])
    assert torch.equal(case.run(case.model, 3, 4.0), plain)


@pytest.mark.parametrize("order", ["before", "after"])
def test_adapter_grounding_and_lora_act_together_in_either_order(made, order):
    case, tensors = made
    adapter = random_adapter(case.model)
    plan = Plan(BLURS, Pivot(12.0, 0.5), one_scene=True)
    if order == "before":
        model = install(with_lora(case.model, tensors), adapter, plan)
    else:
        model = with_lora(install(case.model, adapter, plan), tensors)
    rows = case.run(model, 3, 4.0)
    # The pivot stands alone; ungrounded it is the adapter's picture on a model with the LoRA in its weights.
    alone = install(by_the_host(case.model, tensors, strength(12.0)), adapter, Plan((12.0,)))
    assert relative_error(rows[1:2], case.run(alone, 1, 4.0)) <= 1e-4
    turns = install(with_lora(case.model, tensors), adapter, Plan(BLURS, plan.pivot, True, rows_at_once=1))
    assert relative_error(case.run(turns, 3, 4.0), rows) <= 1e-5
    assert torch.equal(case.run(uninstall(case.model), 1, 4.0), case.run(case.model, 1, 4.0))


def test_a_second_sweep_behind_a_lora_keeps_it_and_two_loras_add_up():
    case = build_case("sd15")
    first, second = (
        {name: tensor * factor for name, tensor in of_every_layer(case.model, "generic").items()}
        for factor in (1.0, 0.7)
    )
    both = with_lora(with_lora(case.model, first), second, 0.0, 0.5)
    swept = install(install(both, None, PLAN), None, PLAN)
    rows = case.run(swept, 3)
    for row, blur in zip(rows, BLURS, strict=True):
        alone = by_the_host(by_the_host(case.model, first, strength(blur)), second, 0.5 * blur / 30)
        assert relative_error(row[None], case.run(alone, 1)) <= 1e-4


def test_bf16_weights_take_a_lora():
    case = build_case("sd15")
    tensors = {name: tensor.bfloat16() for name, tensor in of_every_layer(case.model, "kohya").items()}
    rows = case.run(install(with_lora(case.model, tensors), None, PLAN), 3)
    alone = case.run(by_the_host(case.model, tensors, BLURRED), 1)
    assert relative_error(rows[2:], alone) <= 1e-2


def mixed_precision(layer: torch.nn.Linear) -> torch.nn.Module:
    """A linear layer as the host loads one from a file whose weights are in fp8, each with its scale."""
    form = {"format": "float8_e4m3fn"}
    ops = comfy.ops.mixed_precision_ops({"": form}, torch.float32, full_precision_mm=True)
    made = ops.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    state = layer.state_dict() | {
        "weight": layer.weight.to(torch.float8_e4m3fn),
        "weight_scale": torch.ones(()),
        "comfy_quant": torch.tensor(list(json.dumps(form).encode()), dtype=torch.uint8),
    }
    made.load_state_dict(state, strict=False)
    return made


@pytest.mark.parametrize("kind", ["plain", "mixed precision"])
def test_fp8_weights_take_a_lora_that_is_not_rounded_with_them(kind):
    case, rounded = build_case("flux"), build_case("flux")
    tensors = of_every_layer(case.model, "generic")
    network, twins = (made.model.model.diffusion_model for made in (case, rounded))
    for name, layer in list(network.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            stored = layer.weight.to(torch.float8_e4m3fn)
            twins.get_submodule(name).weight = torch.nn.Parameter(stored.float(), requires_grad=False)
            if kind == "plain":
                layer.weight = torch.nn.Parameter(stored, requires_grad=False)
                layer.comfy_cast_weights = True
            else:
                network.set_submodule(name, mixed_precision(layer))
    rows = case.run(install(with_lora(case.model, tensors), None, PLAN), 3, 4.0)
    for row, blur in zip(rows, BLURS, strict=True):
        alone = case.run(by_the_host(rounded.model, tensors, strength(blur)), 1, 4.0)
        assert relative_error(row[None], alone) <= 1e-4


def test_a_compiled_model_has_two_graphs_with_adapter_grounding_and_lora():
    case = build_case("flux")
    base, tensors = case.model.clone(), of_every_layer(case.model, "generic")
    base.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *args, **kwargs: (
        attention_pytorch(*args, **kwargs)
    )

    def swept():
        return install(with_lora(base, tensors), random_adapter(base), Plan(BLURS, Pivot(12.0, 0.5), one_scene=True))

    expected = case.run(swept(), 3)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = swept()
    set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
    for _ in range(2):
        assert relative_error(case.run(compiled, 3), expected) <= 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_strength_zero_at_both_ends_is_the_very_model():
    case = build_case("sd15")
    assert with_lora(case.model, of_every_layer(case.model, "kohya"), 0.0, 0.0) is case.model


def test_without_a_blur_to_follow_the_run_is_refused():
    case = build_case("sd15")
    with pytest.raises(ValueError, match="no Bokeh Blur or Bokeh Sweep, so its strength has no blur to follow"):
        case.run(with_lora(case.model, of_every_layer(case.model, "kohya")), 1)


def test_one_strength_at_both_ends_is_no_dial():
    case = build_case("sd15")
    model = with_lora(case.model, of_every_layer(case.model, "kohya"), 0.5, 0.5)
    with pytest.raises(ValueError, match="Nothing changes with the blur"):
        case.run(install(model, None, PLAN), 3)


def test_what_is_no_product_of_two_matrices_is_refused_by_name():
    model, name = build_case("sd15").model, "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    up, down = low_rank(64, 64)
    plain = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    cases = {
        "LoHa product": {
            f"{name}.hada_w1_a": up,
            f"{name}.hada_w1_b": down,
            f"{name}.hada_w2_a": up,
            f"{name}.hada_w2_b": down,
        },
        "LoKr product": {f"{name}.lokr_w1": torch.ones(8, 8), f"{name}.lokr_w2": torch.ones(8, 8)},
        "DoRA scale": plain | {f"{name}.dora_scale": torch.ones(64, 1)},
        "Tucker product": plain | {f"{name}.lora_mid.weight": torch.ones(3, 3, 1, 1)},
        "whole weight difference": {f"{name}.diff": torch.zeros(64, 64)},
    }
    for what, tensors in cases.items():
        with pytest.raises(
            ValueError, match=rf"The LoRA FILE holds a {what} for .*attn1\.to_q.*with Load LoRA instead"
        ):
            read_pieces(tensors, model, "FILE")
    odd = {f"{name}.lora_up.weight": torch.zeros(32, 3), f"{name}.lora_down.weight": down}
    with pytest.raises(ValueError, match=r"64 inputs and 32 outputs .*has 64 and 64"):
        read_pieces(odd, model, "FILE")
    with pytest.raises(ValueError, match="changes nothing in this model"):
        read_pieces(diffusers_flux(), model, "FILE")


def test_experts_which_get_tokens_of_all_pictures_in_a_heap_are_refused_by_name():
    hidream = dit(
        "HiDream",
        image_model="hidream",
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[16, 16],
        text_emb_dim=16,
        llama_layers=[0, 0],
        axes_dims_rope=(8, 8),
        max_resolution=(32, 32),
    )
    model = hidream()
    every = of_every_layer(model, "generic")
    shared = {key: value for key, value in every.items() if ".experts." not in key}
    assert any(".shared_experts." in key for key in shared)
    assert read_pieces(shared, model, "FILE")[0]
    with pytest.raises(
        ValueError, match=r"FILE changes .*\.experts\.0\.w\d\.weight, a part of .* with Load LoRA instead"
    ):
        read_pieces(every, model, "FILE")


def test_half_a_product_an_odd_alpha_and_layers_that_are_not_there_are_said():
    model = build_case("sd15").model
    whole = of_every_layer(model, "kohya")
    (up, *_) = (key for key in whole if key.endswith(".lora_up.weight"))
    down, alpha = up.replace("lora_up", "lora_down"), up.replace("lora_up.weight", "alpha")
    with pytest.raises(ValueError, match=rf"one of two matrices only: it holds no {re.escape(down)}\. Get it again"):
        read_pieces({key: value for key, value in whole.items() if key != down}, model, "FILE")
    with pytest.raises(ValueError, match=rf"holds \[2\] numbers in {re.escape(alpha)}, expected one"):
        read_pieces(whole | {alpha: torch.ones(2)}, model, "FILE")
    assert read_pieces(whole, model, "FILE")[1] == ()
    without_up = {key: value for key, value in whole.items() if key != up} | {"lora_unet_x.alpha": torch.ones(())}
    pieces, (note,) = read_pieces(without_up, model, "FILE")
    assert len(pieces) == len(read_pieces(whole, model, "FILE")[0]) - 1
    assert note.startswith("2 tensors of FILE belong to no layer of this model, or are half a product")


def test_a_broken_control_lora_of_flux_is_refused_in_a_sentence():
    """The host takes the size of img_in from its matrices before it reads the rest."""
    model = build_case("flux").model
    first = {f"img_in.lora_{part}.weight": torch.ones(shape) for part, shape in (("A", (4, 128)), ("B", (32, 4)))}
    whole = first | {"single_blocks.0.norm.key_norm.scale": torch.ones(8)}
    with pytest.raises(ValueError, match=r"The LoRA FILE .*Load LoRA instead"):
        read_pieces(whole, model, "FILE")
    with pytest.raises(ValueError, match=r"FILE has one of two matrices only: it holds no img_in\.lora_B\.weight"):
        read_pieces({key: value for key, value in whole.items() if "lora_B" not in key}, model, "FILE")
    with pytest.raises(ValueError, match=r"FILE holds a tensor of one side only, expected a matrix\. Get it again"):
        read_pieces(whole | {"img_in.lora_A.weight": torch.ones(4)}, model, "FILE")


def test_a_lora_of_flux_acts_on_chroma_which_lacks_some_of_its_layers():
    case = build_case("chroma")
    tensors = {key: value for key, value in diffusers_flux().items() if ".proj_mlp." not in key}
    pieces, (note,) = read_pieces(tensors, case.model, "FILE")
    assert note.startswith("2 tensors of FILE belong to no layer of this model")
    rows = case.run(install(install_lora(case.model, pieces, SHARP, BLURRED), None, PLAN), 3)
    for row, blur in zip(rows, BLURS, strict=True):
        alone = case.run(by_the_host(case.model, tensors, strength(blur)), 1)
        assert relative_error(row[None], alone) <= 1e-4


def test_the_node_reads_any_lora_of_the_folder_and_leaves_text_encoders_out(tmp_path, monkeypatch):
    case = build_case("sd15")
    tensors = of_every_layer(case.model, "kohya")
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 3)}
    save_file(tensors | text, tmp_path / "slider.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    node = nodes.NODE_CLASS_MAPPINGS["BokehLora"]
    inputs = {"model": case.model, "at_sharp": SHARP, "at_blurred": BLURRED}
    out = node.EXECUTE_NORMALIZED(lora="slider.safetensors", **inputs)
    assert "1 tensors of slider.safetensors are for text encoders and are left out" in str(out.ui)
    rows = case.run(install(out.result[0], None, PLAN), 3)
    assert torch.equal(rows, case.run(install(with_lora(case.model, tensors), None, PLAN), 3))
    with pytest.raises(ValueError, match=r"page\.safetensors: is neither a safetensors nor a PyTorch file"):
        run_node("BokehLora", lora="page.safetensors", **inputs)
    # Nothing is left in the file, which somebody may write over or cut off while the model is in use.
    (tmp_path / "slider.safetensors").write_bytes(b"")
    assert torch.equal(rows, case.run(install(out.result[0], None, PLAN), 3))
    assert node.fingerprint_inputs(lora=None) is None
    assert node.fingerprint_inputs(lora="no\0name") != node.fingerprint_inputs(lora="slider.safetensors")


def test_a_lora_in_a_pickle_that_runs_code_or_takes_all_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".pt"}))
    torch.save({"lora_unet_x.lora_up.weight": torch.zeros(1).expand(10**6, 1000)}, tmp_path / "large.pt")
    (tmp_path / "code.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.")
    os.mkfifo(tmp_path / "pipe.pt")
    inputs = {"model": build_case("sd15").model, "at_sharp": SHARP, "at_blurred": BLURRED}
    refusals = {"large": "is larger than what is stored", "code": "could run code", "pipe": "There is no LoRA"}
    for name, message in refusals.items():
        with pytest.raises(ValueError, match=message):
            run_node("BokehLora", lora=f"{name}.pt", **inputs)


@pytest.mark.parametrize(
    ("up", "down", "message"),
    [
        (torch.full((64, 3), float("nan")), torch.ones(3, 64), "holds NaN or infinite values"),
        (torch.ones(64, 3), torch.full((3, 64), float("inf")), "holds NaN or infinite values"),
        (torch.ones(64, 0), torch.ones(0, 64), "expected two matrices"),
        (torch.ones(64), torch.ones(64), "expected two matrices"),
    ],
)
def test_a_lora_of_no_numbers_is_refused(up, down, message):
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(2.0)}
    with pytest.raises(ValueError, match=message):
        read_pieces(tensors, build_case("sd15").model, "FILE")
