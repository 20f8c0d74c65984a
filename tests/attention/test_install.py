"""What fits on what: models and adapters that are refused, and weights that the host looks after."""

from __future__ import annotations

import itertools

import comfy.ldm.flux.layers as layers
import pytest
import torch
from adapters import official_tensors
from comfy.ldm.flux.math import apply_rope
from comfy.patcher_extension import CallbacksMP
from families import build_sdxl
from flux import Golden, build_flux, relative_error, run_node, sample
from unet import build_unet

from bokeh.attention.install import install, uninstall
from bokeh.attention.module import adapter_patcher
from bokeh.attention.rows import Pivot, Plan
from bokeh.weights.format import build_adapter

SIGMAS = torch.tensor([1.0, 0.6, 0.3, 0.0])


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("all_blocks")


def adapter_for(blocks=(0, 1, 2, 3, 4), settings=None, width=32, **options):
    return build_adapter(official_tensors(width, list(blocks), **options), settings, "portrait.safetensors")


def refusal(model, adapter) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the caller compares the whole sentence
        run_node("BokehBlur", model=model, adapter=adapter, blur=5.0, strength=1.0)
    return str(error.value)


@pytest.mark.parametrize(("build", "name"), [(build_unet, "BaseModel (UNetModel)"), (build_sdxl, "SDXL (UNetModel)")])
def test_other_models_are_refused_by_name(build, name):
    assert refusal(build(), adapter_for()) == (
        'The adapter portrait.safetensors is made for models of the family "flux", but this model is '
        f'{name} of the family "unet" (Stable Diffusion 1.5, SDXL). Use the adapter that was trained for this model. '
        "Where there is none: words (Bokeh Words) and slider LoRAs (Bokeh LoRA) change the blur of any model without "
        "an adapter, and Train Bokeh Adapter makes one."
    )


def test_nunchaku_is_refused_by_name(golden):
    class ComfyFluxWrapper(torch.nn.Module):
        """Nunchaku's class is known by its name alone; the package needs a GPU to be imported."""

    model = golden.model.clone()
    network = model.model.diffusion_model
    model.model.diffusion_model = ComfyFluxWrapper()
    try:
        assert refusal(model, adapter_for()) == (
            "This model was loaded by Nunchaku, whose FLUX does not pass on what bokeh needs in its attention. Load "
            "FLUX with the standard Load Diffusion Model node, or as GGUF or fp8 to save memory."
        )
    finally:
        model.model.diffusion_model = network


def test_an_adapter_of_another_width_is_refused_naming_both(golden):
    assert refusal(golden.model, adapter_for(width=48)) == (
        "The adapter portrait.safetensors is made for a model of width 48, but this model's width is 32. "
        "Use the adapter that was trained for this model."
    )


def test_an_adapter_with_more_blocks_than_the_model_is_refused(golden):
    assert refusal(golden.model, adapter_for(blocks=(0, 7))) == (
        "The adapter portrait.safetensors adapts block 7, but this model has only 2 double and 3 single blocks "
        "(numbers 0 to 4). Use the adapter that was trained for this model."
    )


def test_block_names_of_another_depth_are_refused(golden):
    names = ["transformer_blocks.0", "single_transformer_blocks.0"]
    adapter = adapter_for(blocks=(0, 3), settings={"blocks": names})
    assert refusal(golden.model, adapter) == (
        "The adapter portrait.safetensors lists other blocks in its settings than its weights reach in this model of "
        "2 double and 3 single blocks ('single_transformer_blocks.0' is in one of them only). "
        "Use the adapter that was trained for this model."
    )
    right = adapter_for(blocks=(0, 2), settings={"blocks": names})
    assert install(golden.model, right, Plan((5.0,))) is not golden.model


@pytest.mark.parametrize(("q", "k"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_partly_adapted_models_of_every_kind(q, k, guidance_embeds):
    """Gaps, alpha, missing q or k, no guidance embedding, a picture that is not square; against a plain statement."""
    sizes = Golden("true_cfg").case["flux"] | {"guidance_embeds": guidance_embeds}
    model = build_flux(sizes, seed=3)
    adapter = adapter_for(blocks=(1, 3), settings={"lora_alpha": 2.0, "lora_scale": 0.7}, q=q, k=k)
    swept = install(model, adapter, Plan((3.0, 27.0), Pivot(15.0, 1.0), one_scene=True))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 16, 6, 10, generator=generator)
    text, pooled = torch.randn(1, 5, 24, generator=generator), torch.randn(1, 12, generator=generator)
    positive = [[text, {"pooled_output": pooled, "guidance": 3.0}]]
    latent = {"samples": torch.zeros(2, 16, 6, 10)}
    expected = plain_statement(model, adapter, (3.0, 27.0, 15.0), noise, text, pooled)
    rows = sample(swept, positive, latent, SIGMAS, noise=noise)
    assert relative_error(rows, expected[:2]) <= 1e-5


def plain_statement(model, adapter, blurs, noise, text, pooled) -> torch.Tensor:
    """Euler over the equations of docs/how_it_works.md, with the last row as the pivot, written without our code.

    The host's blocks are driven through forward hooks on their projections and a replaced attention function.
    """
    network, tensors, settings = model.model.diffusion_model, adapter.tensors, adapter.settings
    factor = settings.lora_alpha / settings.rank
    count, doubles = len(blurs), len(network.double_blocks)
    blocks = list(network.double_blocks) + list(network.single_blocks)

    def low_rank(name: str, x: torch.Tensor) -> torch.Tensor:
        return factor * x @ tensors[f"{name}.down.weight"].T @ tensors[f"{name}.up.weight"].T

    a = torch.tensor(blurs)[:, None] / 30
    e = torch.relu(a @ tensors["embedding.0.weight"].T + tensors["embedding.0.bias"])
    e = e @ tensors["embedding.2.weight"].T + tensors["embedding.2.bias"]

    def projection_hook(number: int):
        def hook(module, inputs, output):
            width = settings.width
            out = output.clone()
            for place, (part, on) in enumerate((("q", settings.unfreeze_q), ("k", settings.unfreeze_k))):
                if on:
                    x = output[..., place * width : (place + 1) * width]
                    out[..., place * width : (place + 1) * width] += settings.lora_scale * low_rank(
                        f"blocks.{number}.{part}", x
                    )
            return out

        return hook

    handles = [
        (blocks[n].img_attn.qkv if n < doubles else blocks[n].linear1).register_forward_hook(projection_hook(n))
        for n in settings.blocks
    ]
    calls = iter(())
    original = layers.attention

    def attention(q, k, v, pe, mask=None, **_):
        # Newer hosts hand over tensors in containers, to be emptied by the first who takes them.
        q, k, v = (tensor if isinstance(tensor, torch.Tensor) else tensor.take() for tensor in (q, k, v))
        number = next(calls)
        if number not in settings.blocks:
            return original(q, k, v, pe=pe, mask=mask)
        q, k = apply_rope(q, k, pe)
        out = []
        for t in range(count):
            keys = torch.cat((k[t], k[-1]), 1) if settings.unfreeze_k else k[t]
            values = torch.cat((v[t], v[t]), 1) if settings.unfreeze_k else v[t]
            weights = torch.softmax(q[-1] @ keys.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
            out.append((weights @ values).transpose(0, 1).flatten(1))
        return torch.stack(out) + low_rank(f"blocks.{number}.v", e)[:, None]

    layers.attention = attention
    try:
        x = noise.expand(count, -1, -1, -1)
        for sigma, following in itertools.pairwise(SIGMAS):
            calls = iter(range(len(blocks)))
            velocity = network(
                x,
                sigma.expand(count),
                context=text.expand(count, -1, -1),
                y=pooled.expand(count, -1),
                guidance=torch.full((count,), 3.0),
            )
            x = x + (following - sigma) * velocity
        return x
    finally:
        layers.attention = original
        for handle in handles:
            handle.remove()


# Weights in the host's care


def test_the_host_loads_and_counts_the_weights_once(golden):
    adapter = adapter_for()
    first = install(golden.model, adapter, Plan((5.0,)))
    second = install(golden.model, adapter, Plan((25.0,)))
    (one,), (two,) = (m.get_additional_models_with_key("bokeh") for m in (first, second))
    assert one.model is two.model
    expected = sum(tensor.nbytes for tensor in adapter.tensors.values())
    assert one.model_size() == expected
    assert one in first.get_nested_additional_models()


def test_weights_that_fit_the_models_dtype_are_not_copied():
    adapter = adapter_for()
    module = adapter_patcher(adapter, torch.float32).model
    ours = {parameter.data_ptr() for parameter in module.parameters()}
    assert ours == {tensor.data_ptr() for tensor in adapter.tensors.values()}
    half = adapter_patcher(adapter, torch.bfloat16).model
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_removing_the_adapter_leaves_patches_of_other_packs(golden):
    def theirs(x):
        return x

    name = "diffusion_model.double_blocks.1.img_attn.qkv.forward"
    patched = golden.model.clone()
    patched.add_object_patch(name, theirs)
    swept = install(patched, adapter_for(), Plan((5.0,)))
    assert swept.object_patches[name] is not theirs
    bare = uninstall(swept)
    assert bare.object_patches == {name: theirs}
    assert not any(bare.get_all_wrappers(kind) for kind in bare.wrappers)
    assert bare.get_additional_models() == []


@pytest.mark.parametrize("budget", [0, 1])
def test_partly_offloaded_weights_give_the_same_pictures(golden, budget):
    """Low-VRAM loading casts the weights of each layer when it runs; here the host is told to keep them away."""
    adapter = adapter_for()
    model = install(golden.model, adapter, Plan((5.0, 20.0), Pivot(12.0), one_scene=True))
    latent = {"samples": torch.zeros(2, 16, 8, 8)}
    inputs = {"noise": golden.expected["noise"]}
    whole = sample(model, golden.positive(), latent, SIGMAS, **inputs)
    (patcher,) = model.get_additional_models_with_key("bokeh")
    patcher.detach()
    patcher.patch_model(patcher.load_device, lowvram_model_memory=budget)
    try:
        ours = sample(model, golden.positive(), latent, SIGMAS, **inputs)
    finally:
        patcher.detach()
    assert relative_error(ours, whole) <= 1e-6


def test_a_clone_with_a_network_of_its_own_uses_that_networks_norms(golden):
    """As newer hosts clone a model for a second GPU, or for LoRA hooks on a conditioning."""
    model = install(golden.model, adapter_for(), Plan((5.0, 20.0), Pivot(12.0), one_scene=True))
    latent, noise = {"samples": torch.zeros(2, 16, 8, 8)}, golden.expected["noise"]
    expected = sample(model, golden.positive(), latent, SIGMAS, noise=noise)
    clone = model.clone()
    clone.model = build_flux(golden.case["flux"], golden.model.model.diffusion_model.state_dict()).model
    clone.backup, clone.object_patches_backup = {}, {}
    (patcher,) = model.get_additional_models_with_key("bokeh")
    build, arguments = patcher.cached_patcher_init
    clone.set_additional_models("bokeh", [build(*arguments)])
    for callback in model.get_all_callbacks(CallbacksMP.ON_CLONE):
        callback(model, clone)
    kept = [weight.clone() for weight in golden.model.model.parameters()]
    for weight in golden.model.model.parameters():
        weight.fill_(float("nan"))
    try:
        ours = sample(clone, golden.positive(), latent, SIGMAS, noise=noise)
    finally:
        for weight, value in zip(golden.model.model.parameters(), kept, strict=True):
            weight.copy_(value)
    assert relative_error(ours, expected) <= 1e-6
