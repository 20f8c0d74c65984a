"""Training of condition LoRAs: the forward of sampling, files of Genfocus' own, runs that go on where they stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from demo_files import write_demo
from flux import Golden, build_flux, relative_error, run_node
from safetensors.torch import load_file
from unet import build_unet

from bokeh.demo.load import load_demo
from bokeh.optics.focus import Focus
from bokeh.training.conditions import ConditionNetwork, ConditionTrainer, Example, new_conditions
from bokeh.training.recipe import Recipe
from bokeh.training.refocus import ALL_IN_FOCUS, REFOCUS, SceneExamples
from bokeh.training.trainer import BEST, CHECKPOINT
from bokeh.weights.files import read_adapter
from bokeh.weights.genfocus import Genfocus

RECIPE = Recipe(
    batch=2, per_scene=1, rank=2, held_out_units=2, checkpointing=False, average=0.0, learning_rate=3e-3, warmup=1
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_demo(write_demo(tmp_path_factory.mktemp("demo")))


def trainer(demo, kind: str, folder: Path | None = None) -> ConditionTrainer:
    return ConditionTrainer(demo.model, SceneExamples(kind, demo.vae, demo.clip, demo.model), RECIPE, folder)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["genfocus_bokeh", "genfocus_deblur"])
@pytest.mark.usefixtures("reference_rounding")
def test_a_training_forward_is_what_the_authors_compute(name, checkpointing):
    golden = Golden(name)
    (file,) = (golden.folder / "adapter").iterdir()
    count = golden.case["conditions"]
    network = ConditionNetwork(golden.model, Genfocus(load_file(file), name), count, False, checkpointing)
    conditions = tuple(golden.expected[f"condition/{number}"].repeat(2, 1, 1, 1) for number in range(count))
    x, context, pooled = (golden.expected[part] for part in ("noise", "txt", "pooled"))
    example = Example(x.repeat(2, 1, 1, 1), conditions, context.repeat(2, 1, 1), pooled.repeat(2, 1))
    with network.ready():
        network.load((2, *x.shape[1:]))
        found = network.velocity(example.latents, torch.tensor([0.7, 0.1]), example, golden.case["guidance"])
        for row, sigma in enumerate((0.7, 0.1)):
            assert relative_error(found[row : row + 1].detach(), golden.expected[f"forward/{sigma}"]) < 1e-5
        found.square().mean().backward()
    # The condition's last products reach no picture.
    without = {key for key, weight in network.weights.items() if weight.grad is None or not weight.grad.any()}
    assert without
    assert all(key.startswith("transformer.single_transformer_blocks.") for key in without)
    assert set(network.weights) == set(load_file(file))


def test_a_run_that_stopped_goes_on_and_its_file_is_one_that_the_loader_reads(demo, tmp_path):
    whole, first = trainer(demo, REFOCUS), trainer(demo, REFOCUS, tmp_path)
    whole.run(4, measure_every=4)
    first.run(2, measure_every=4)
    again = trainer(demo, REFOCUS, tmp_path)
    again.run(4, measure_every=4)
    assert (tmp_path / CHECKPOINT).exists()
    assert again.losses == whole.losses
    assert whole.held_out[-1][1] != whole.held_out[0][1]
    found = read_adapter(tmp_path / BEST)
    assert isinstance(found, Genfocus)
    modules = {name.split(".lora_")[0].rpartition("blocks.")[2].partition(".")[2] for name in found.tensors}
    # What reaches no picture stays as it was and is left out.
    assert {"norm1.linear", "attn.to_out.0", "ff.net.2", "norm.linear", "proj_mlp", "proj_out"} < modules
    assert "transformer.single_transformer_blocks.3.proj_out.lora_A.weight" not in found.tensors
    assert found.tensors["transformer.x_embedder.lora_A.weight"].shape == (2, 128)
    focus = Focus(torch.zeros(1, 128, 128), False, torch.tensor([1.0]), torch.tensor([10.0]))
    image = torch.rand(1, 128, 128, 3)
    inputs = {"model": demo.model, "adapter": found, "vae": demo.vae, "image": image}
    assert run_node("BokehRefocus", **inputs, focus=focus, blurs="")[1]["samples"].shape == (1, 32, 16, 16)


def test_examples_are_settled_by_their_own_generators(demo):
    source = SceneExamples(ALL_IN_FOCUS, demo.vae, demo.clip, demo.model)
    both, one = (source.draw([torch.Generator().manual_seed(seed) for seed in seeds]) for seeds in ((4, 5), (5,)))
    assert torch.allclose(both.latents[1:], one.latents, atol=1e-5)
    assert torch.allclose(both.conditions[0][1:], one.conditions[0], atol=1e-5)
    assert not torch.allclose(one.conditions[0], one.latents, atol=0.1)


def test_another_model_is_refused_by_name(demo):
    with pytest.raises(ValueError, match=r"for FLUX.1 models, but this model is BaseModel"):
        new_conditions(build_unet(), 2, 0)
    assert new_conditions(build_flux(Golden("genfocus_bokeh").case["flux"]), 2, 0).tensors
