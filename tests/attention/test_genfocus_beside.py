"""Genfocus with other files, sizes and batches than the golden ones, and beside what people really run."""

from __future__ import annotations

import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from families import build_case
from flux import Golden, build_flux, relative_error, run_node, sample
from genfocus import Statement, nodes_on, random_lora
from safetensors.torch import load_file, save_file

from bokeh.optics.focus import Focus
from bokeh.weights.settings import AdapterError

TOLERANCE = 1e-5
SIGMAS = torch.tensor([1.0, 0.8, 0.45, 0.0])
DOUBLE, SINGLE = "transformer_blocks.{}.", "single_transformer_blocks.{}."
FILES = {
    "all in ranks of their own": (
        {"x_embedder": 5, f"{DOUBLE}norm1.linear": 2, f"{DOUBLE}attn.to_q": 3, f"{DOUBLE}attn.to_v": 7}
        | {f"{SINGLE}norm.linear": 4, f"{SINGLE}proj_mlp": 6, f"{SINGLE}attn.to_k": 1, f"{SINGLE}proj_out": 8},
        None,
    ),
    "with alpha": ({"x_embedder": 4, f"{DOUBLE}ff.net.2": 4, f"{SINGLE}attn.to_q": 8}, 2.0),
    "without x_embedder": ({f"{DOUBLE}norm1.linear": 3, f"{DOUBLE}attn.to_out.0": 3, f"{SINGLE}proj_out": 3}, None),
}


class Latents:
    """A VAE that gives latents in turn."""

    def __init__(self, golden: Golden, latents: list[torch.Tensor]) -> None:
        self.latents = iter([golden.model.model.process_latent_out(latent) for latent in latents])

    def encode(self, image):
        return next(self.latents)


def statement(golden: Golden, lora: dict, conditions: list[torch.Tensor]) -> Statement:
    case, expected = golden.case, golden.expected
    deltas = case.get("deltas") or [(0, 0)] * len(conditions)
    network = golden.model.model.diffusion_model
    return Statement(network, lora, conditions, deltas, expected["txt"], expected["pooled"], case["guidance"])


@pytest.fixture
def load(adapters_folder):
    def load(tensors: dict):
        save_file(tensors, adapters_folder / "file.safetensors")
        return run_node("BokehLoadAdapter", adapter="file.safetensors")[0]

    return load


@pytest.mark.parametrize("name", ["genfocus_bokeh", "genfocus_deblur", "genfocus_pre_deblur"])
@pytest.mark.usefixtures("reference_rounding")
def test_the_statement_here_is_the_authors(name):
    golden = Golden(name)
    (file,) = (golden.folder / "adapter").iterdir()
    conditions = [golden.expected[f"condition/{number}"] for number in range(golden.case["conditions"])]
    for sigma in ("1", "0.7", "0.1"):
        found = statement(golden, load_file(file), conditions)(golden.expected["noise"], float(sigma))
        assert relative_error(found, golden.expected[f"forward/{sigma}"]) < TOLERANCE


@pytest.mark.parametrize("file", FILES)
def test_a_batch_of_two_odd_photos_with_any_file_is_each_as_stated(load, file):
    golden = Golden("genfocus_bokeh")
    modules, alpha = FILES[file]
    lora = random_lora(golden.case["flux"], modules, alpha)
    generator = torch.Generator().manual_seed(3)
    noise, sharp, maps = (torch.randn(2, 16, 50, 66, generator=generator) for _ in range(3))
    # 8 px that no token has are cut off.
    photos = torch.rand(2, 400, 536, 3, generator=generator)
    focus = Focus(torch.zeros(2, 400, 536), False, torch.tensor([0.5, 0.2]), torch.tensor([20.0, 9.0]))
    model, latent = run_node(
        "BokehRefocus",
        model=golden.model,
        adapter=load(lora),
        vae=Latents(golden, [sharp, maps[:1], maps[1:]]),
        image=photos,
        focus=focus,
    )[:2]
    out = sample(model, golden.positive(), latent, SIGMAS, noise=noise)
    plain = sample(golden.model, golden.positive(), latent, SIGMAS, noise=noise)
    for row in range(2):
        expected = statement(golden, lora, [sharp[row : row + 1], maps[row : row + 1]]).run(
            noise[row : row + 1], SIGMAS
        )
        assert relative_error(out[row : row + 1], expected) < TOLERANCE
    assert relative_error(out, plain) > 1e-3


def test_a_users_lora_acts_on_pictures_and_conditions_alike(load_genfocus):
    golden = Golden("genfocus_deblur")
    generator, name = torch.Generator().manual_seed(1), "single_blocks.0.linear1"
    weight = golden.model.model.diffusion_model.get_submodule(name).weight
    up, down = (torch.randn(shape, generator=generator) * 0.2 for shape in ((len(weight), 2), (2, weight.shape[1])))
    file = {f"diffusion_model.{name}.lora_up.weight": up, f"diffusion_model.{name}.lora_down.weight": down}
    merged = Golden("genfocus_deblur")
    merged.model.model.diffusion_model.get_submodule(name).weight.add_(0.8 * up @ down)

    def run(case: Golden) -> torch.Tensor:
        model, latent = nodes_on(case, load_genfocus)
        return sample(model, case.positive(), latent, SIGMAS, noise=case.expected["noise"])

    before = run(golden)
    golden.model, _ = comfy.sd.load_lora_for_models(golden.model, None, file, 0.8, 0.0)
    assert relative_error(run(golden), run(merged)) < TOLERANCE
    assert relative_error(before, run(merged)) > 1e-3


@pytest.mark.parametrize("name", ["genfocus_bokeh", "genfocus_pre_deblur"])
def test_a_compiled_model_has_two_graphs_at_most(load_genfocus, name):
    golden = Golden(name)
    golden.model.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *args, **kwargs: (
        attention_pytorch(*args, **kwargs)
    )

    def run(compiled: bool) -> torch.Tensor:
        model, latent = nodes_on(golden, load_genfocus)
        if compiled:
            set_torch_compile_wrapper(model, backend="eager", fullgraph=True)
        return sample(model, golden.positive(), latent, SIGMAS, noise=golden.expected["noise"])

    expected = run(False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for _ in range(2):
        assert relative_error(run(True), expected) < TOLERANCE
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_fp8_and_bf16_weights_are_within_the_plain_models_own_difference(load_genfocus, dtype):
    golden = Golden("genfocus_bokeh")
    state = golden.model.model.diffusion_model.state_dict()
    stored = build_flux(golden.case["flux"], {name: weight.to(dtype) for name, weight in state.items()}, dtype)
    stored.model.manual_cast_dtype = torch.float32
    for module in stored.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True
    sigmas, noise = torch.tensor([1.0, 0.5]), golden.expected["noise"]

    def plain(model) -> torch.Tensor:
        return sample(model, golden.positive(), golden.latent(), sigmas, noise=noise)

    def conditioned(model) -> torch.Tensor:
        made, latent = nodes_on(golden, load_genfocus, model=model)
        return sample(made, golden.positive(), latent, sigmas, noise=noise)

    own = relative_error(plain(stored), plain(golden.model))
    assert 0 < relative_error(conditioned(stored), conditioned(golden.model)) < 1.05 * own


def test_what_is_none_of_genfocus_is_refused_by_name(load, load_genfocus):
    golden = Golden("genfocus_bokeh")
    flux = golden.case["flux"]
    ordinary = random_lora(flux, {f"{DOUBLE}attn.to_q": 4, f"{SINGLE}attn.to_q": 4})
    with pytest.raises(AdapterError, match="LoRA"):
        load(ordinary)
    text = {f"transformer.transformer_blocks.0.attn.add_q_proj.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    with pytest.raises(AdapterError, match="LoRA"):
        load(random_lora(flux, {"x_embedder": 2}) | text)
    with pytest.raises(ValueError, match=r"12 tensors of .* belong to no layer of this model.* with all its blocks"):
        nodes_on(golden, load_genfocus, model=build_flux({**flux, "num_single_layers": flux["num_single_layers"] - 1}))
    with pytest.raises(ValueError, match="changes nothing in this model"):
        nodes_on(golden, load_genfocus, model=build_case("sd15").model)
    inputs = {"model": golden.model, "adapter": load_genfocus(golden), "vae": Latents(golden, []), "blurs": ""}
    photo = torch.rand(1, 64, 64, 3)
    with pytest.raises(ValueError, match="Nothing says how far"):
        run_node("BokehRefocus", **inputs, image=photo)
    with pytest.raises(ValueError, match="defocus map is for a picture of 80 x 64, but the photo is 64 x 64"):
        run_node("BokehRefocus", **inputs, image=photo, defocus=torch.zeros(1, 64, 80))
    with pytest.raises(ValueError, match="has its blur in it already"):
        run_node("BokehRefocus", **inputs | {"blurs": "3"}, image=photo, defocus=torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="Both a focus and a defocus map"):
        run_node("BokehRefocus", **inputs, image=photo, defocus=torch.zeros(1, 64, 64), focus=object())
    with pytest.raises(ValueError, match="NaN"):
        run_node("BokehRefocus", **inputs, image=photo, defocus=torch.full((1, 64, 64), float("nan")))


def test_pairs_that_lack_a_half_and_odd_alphas_are_refused_by_name(load):
    flux = Golden("genfocus_bokeh").case["flux"]
    whole, name = random_lora(flux, {"x_embedder": 2, f"{SINGLE}proj_out": 3}, 2.0), "transformer.x_embedder"
    down, up, alpha = f"{name}.lora_A.weight", f"{name}.lora_B.weight", f"{name}.alpha"

    def without(*keys: str) -> dict:
        return {key: value for key, value in whole.items() if key not in keys}

    for tensors, words in (
        (without(down), r"for x_embedder it holds lora_B.weight .* expected a lora_A"),
        (without(up), r"for x_embedder it holds lora_A.weight .* expected a lora_A"),
        (without(up, down), "for x_embedder it holds an alpha alone"),
        (without(up) | {f"{name}.lora_B.default.weight": whole[up]}, "for x_embedder it holds"),
        (whole | {f"{name}.lora_B.default.weight": whole[up].clone()}, "for x_embedder it holds"),
        (whole | {up: whole[up][:, :1].contiguous()}, "for x_embedder it holds"),
        (whole | {alpha: torch.ones(2)}, r"alpha of x_embedder is \[2\] numbers, expected one"),
        (whole | {alpha: torch.tensor(float("nan"))}, r"x_embedder.alpha holds NaN"),
    ):
        with pytest.raises(AdapterError, match=words):
            load(tensors)
    assert load(whole | {alpha: torch.ones(1)}).tensors[alpha].item() == 1


def test_a_map_of_ones_own_is_the_focus_that_says_the_same(load_genfocus):
    golden, seen = Golden("genfocus_bokeh"), []

    class Watch(Latents):
        def encode(self, image):
            seen.append(image)
            return super().encode(image)

    latents = [golden.expected["condition/0"], golden.expected["condition/1"]]
    focus = Focus(torch.rand(1, 64, 64), False, torch.tensor([0.5]), torch.tensor([20.0]))
    inputs = {"model": golden.model, "adapter": load_genfocus(golden), "image": torch.rand(1, 64, 64, 3)}
    by_focus = run_node("BokehRefocus", **inputs, vae=Watch(golden, latents), blurs="", focus=focus)
    by_map = run_node("BokehRefocus", **inputs, vae=Watch(golden, latents), blurs="", defocus=focus.defocus(0)[None])
    assert torch.equal(seen[1], seen[3])
    assert len(by_map[2]) == len(by_focus[2]) == 1
