"""The trainer inside a node, and on quantised models: inference mode, tensors of other packs."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from blobs import Blobs, assert_same_tensors, recipe, tensors_of, tiny_flux, weights_of
from sampling import ksample

from bokeh.attention.install import install
from bokeh.attention.rows import Pivot, Plan
from bokeh.training.checkpoint import TrainingError
from bokeh.training.trainer import Trainer

# Inside nodes


def test_weights_that_were_loaded_inside_a_node_train_and_keep_their_bits():
    with torch.inference_mode():
        model = tiny_flux()
        before, own = weights_of(model), tensors_of(model)
        assert next(model.model.parameters()).is_inference()
        trainer = Trainer(model, Blobs(), recipe())
        trainer.run(2)
        assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
        assert_same_tensors(model, own)
        positive = [[torch.randn(1, 5, 24), {"pooled_output": torch.randn(1, 20), "guidance": 3.0}]]
        swept = install(model, trainer.adapter(), Plan((0.0, 15.0, 30.0), Pivot(15.0), one_scene=True))
        assert torch.isfinite(ksample(swept, positive, {"samples": torch.zeros(3, 16, 8, 8)})).all()
    normal = Trainer(tiny_flux(), Blobs(), recipe())
    normal.run(2)
    assert trainer.losses == normal.losses


@pytest.mark.parametrize("raised", [KeyboardInterrupt, comfy.model_management.InterruptProcessingException, OSError])
def test_a_run_inside_a_node_that_ends_early_puts_the_models_own_tensors_back(raised):
    """Copies would do, but for kernels that go by where in memory a tensor begins: pictures differ in the last bit."""

    def on_step(progress):
        raise raised

    with torch.inference_mode():
        model = tiny_flux()
        # On a LoRA as well: the host changes those weights in place, and changes them back.
        key = "diffusion_model.img_in.weight"
        lora = model.clone()
        lora.add_patches({key: ("diff", (torch.ones_like(model.model.diffusion_model.img_in.weight),))})
        own, before = tensors_of(model), weights_of(model)
        with pytest.raises(raised):
            Trainer(lora, Blobs(), recipe()).run(2, on_step)
        assert_same_tensors(model, own)
        assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())


# Quantised models


class Packed(torch.Tensor):
    """Weights as GGUF keeps them: bytes whose shape is not the matrix's, and whose copies are themselves."""

    def __new__(cls, data, full_shape):
        return torch.Tensor._make_subclass(cls, data)

    def __init__(self, data, full_shape):
        self.full_shape = full_shape

    def clone(self, *args, **kwargs):
        return self

    def detach(self):
        return self

    def to(self, *args, **kwargs):
        moved = super().to(*args, **kwargs)
        moved.full_shape = self.full_shape
        return moved

    @property
    def shape(self):
        return self.full_shape


class PackedLinear(torch.nn.Module):
    def __init__(self, linear, plain: bool):
        super().__init__()
        self.scale = linear.weight.abs().amax() / 127
        whole = (linear.weight / self.scale).round().to(torch.int8)
        stored = whole if plain else Packed(whole.view(torch.uint8).flatten(), whole.shape)
        self.weight = torch.nn.Parameter(stored, requires_grad=False)
        self.bias = linear.bias

    def matrix(self, dtype):
        data = self.weight.to("cpu").as_subclass(torch.Tensor)
        return data.view(torch.int8).reshape(self.weight.shape).to(self.bias.device, dtype) * self.scale

    def forward(self, x):
        return torch.nn.functional.linear(x, self.matrix(x.dtype), self.bias)


class CuttingLinear(PackedLinear):
    """A kernel that nobody wrote a backward pass for: it says nothing."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class FailingLinear(PackedLinear):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise NotImplementedError("kernel without a derivative\nand pages of details")
        return super().forward(x)


def quantised(kind, plain: bool = False):
    """A model whose single blocks have linear layers of ``kind``, and its first weight packed too."""
    model = tiny_flux()
    network = model.model.diffusion_model
    for block in network.single_blocks:
        block.linear1 = kind(block.linear1, plain)
    network.double_blocks[0].img_mlp[0] = PackedLinear(network.double_blocks[0].img_mlp[0], plain)
    return model


@pytest.mark.parametrize("plain", [False, True])
def test_weights_that_are_packed_in_a_class_of_their_own_train_inside_a_node(plain):
    with torch.inference_mode():
        model = quantised(PackedLinear, plain)
        own = tensors_of(model)
        trainer = Trainer(model, Blobs(), recipe())
        trainer.run(2)
        assert_same_tensors(model, own)
        for module in list(model.model.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, PackedLinear):
                    unpacked = torch.nn.Linear(1, 1)
                    unpacked.weight, unpacked.bias = torch.nn.Parameter(layer.matrix(torch.float32)), layer.bias
                    setattr(module, name, unpacked)
        dequantised = Trainer(model, Blobs(), recipe())
        dequantised.run(2)
    assert trainer.losses == pytest.approx(dequantised.losses, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (CuttingLinear, r"no gradient passes through single_blocks\.0\.linear1"),
        (FailingLinear, "a step of it ended with: kernel without a derivative"),
    ],
)
def test_a_model_that_gives_no_gradients_is_refused_before_the_first_measurement(kind, why, tmp_path):
    with torch.inference_mode():
        model = quantised(kind)
        own = tensors_of(model)
        trainer = Trainer(model, Blobs(), recipe(), tmp_path)
        with pytest.raises(TrainingError, match=rf"This model cannot be trained on: {why}\. .*Packed uint8.*fp8 file"):
            trainer.run(2)
        assert_same_tensors(model, own)
    assert not trainer.held_out
    assert not list(tmp_path.iterdir())


# Other families
