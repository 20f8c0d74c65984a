"""The golden cases of Genfocus on its nodes, and Genfocus stated once more without a node: its conditions as rows of a
call of the host's FLUX, its LoRA written round the linear layers by hand, which reproduces the golden cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from flux import Golden, run_node
from torch import Tensor, nn

from bokeh.optics.focus import Focus

# A picture whose latent has the golden cases' 8 x 8.
IMAGE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
FOCUS = Focus(torch.linspace(0, 1, 64).expand(1, 64, 64), False, torch.tensor([0.5]), torch.tensor([20.0]))


class Encoder:
    """A VAE that gives the golden latents of the conditions, one after the other."""

    def __init__(self, golden: Golden, order: list[int] | None = None) -> None:
        latents = [golden.expected[f"condition/{number}"] for number in order or range(golden.case["conditions"])]
        self.latents = iter([golden.model.model.process_latent_out(latent) for latent in latents])

    def encode(self, image):
        assert image.shape[1:] == IMAGE.shape[1:]
        return next(self.latents)


def nodes_on(golden: Golden, load, order: list[int] | None = None, **inputs) -> tuple:
    """Model and latent as the case's node gives them."""
    inputs = {"model": golden.model, "adapter": load(golden), "vae": Encoder(golden, order), "image": IMAGE, **inputs}
    if golden.folder.name == "genfocus_bokeh":
        return run_node("BokehRefocus", **{"focus": FOCUS, "blurs": "", **inputs})[:2]
    return run_node("BokehAllInFocus", **{"pre_deblur": golden.case["conditions"] > 1, **inputs})


def random_lora(flux: dict, modules: dict[str, int], alpha: float | None = None, seed: int = 0) -> dict[str, Tensor]:
    """A file of Genfocus for a model of these sizes: ``modules`` (as in the file, with ``{}`` for every block's number)
    with their ranks."""
    width = flux["num_attention_heads"] * flux["attention_head_dim"]
    sizes = {
        "x_embedder": (flux["in_channels"], width),
        "norm1.linear": (width, 6 * width),
        "norm.linear": (width, 3 * width),
        "attn.to_q": (width, width),
        "attn.to_k": (width, width),
        "attn.to_v": (width, width),
        "attn.to_out.0": (width, width),
        "ff.net.2": (4 * width, width),
        "proj_mlp": (width, 4 * width),
        "proj_out": (5 * width, width),
    }
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for module, rank in modules.items():
        count = flux["num_single_layers"] if module.startswith("single") else flux["num_layers"]
        for name in dict.fromkeys(module.format(number) for number in range(count)):
            inputs, outputs = next(size for part, size in sizes.items() if name.endswith(part))
            prefix = f"transformer.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{prefix}.lora_B.weight"] = 0.3 * torch.randn(outputs, rank, generator=generator)
            if alpha is not None:
                tensors[f"{prefix}.alpha"] = torch.tensor(alpha)
    return tensors


class Statement:
    """The velocity of one picture, as ``prototypes`` of the reference compute it.

    Args:
        network: the host's FLUX.
        lora: tensors as in a file.
        conditions: latents [1, C, h, w], in the model's own scale.
        deltas: rows and columns of tokens that each stands aside.
        txt, pooled, guidance: of the picture.
    """

    def __init__(self, network, lora, conditions, deltas, txt, pooled, guidance: float) -> None:
        self.device = comfy.model_management.get_torch_device()
        self.network, self.deltas, self.guidance = network, deltas, guidance
        self.lora = {name: tensor.to(self.device) for name, tensor in lora.items()}
        self.conditions = [latents.to(self.device) for latents in conditions]
        self.txt, self.pooled = txt.to(self.device), pooled.to(self.device)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        count = len(self.conditions)
        rows = torch.cat([x.to(self.device), *self.conditions])
        t = torch.tensor([sigma] + [0.0] * count, device=self.device)
        guidance = torch.tensor([self.guidance] + [1.0] * count, device=self.device)
        options = {"optimized_attention_override": self._attention}
        txt, pooled = self.txt.expand(1 + count, -1, -1), self.pooled.expand(1 + count, -1)
        with self._changed(), torch.no_grad():
            return self.network(rows, t, txt, pooled, guidance, transformer_options=options)[:1].to(x)

    def run(self, x: Tensor, sigmas: Tensor) -> Tensor:
        """Euler's steps."""
        for now, then in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
            x = x + (then - now) * self(x, now)
        return x

    def _attention(self, func, q, k, v, heads, mask=None, **kwargs) -> Tensor:
        text, count = self.txt.shape[1], len(self.conditions)

        def seen(x: Tensor, numbers) -> Tensor:
            return torch.cat([x[:1], *(x[1 + number : 2 + number, :, text:] for number in numbers)], 2)

        every = range(count)
        out = [func(q[:1], seen(k, every), seen(v, every), heads, mask, **kwargs)]
        for number in every:
            own = q[1 + number : 2 + number]
            out.append(func(own, seen(k, [number]), seen(v, [number]), heads, mask, **kwargs))
        return torch.cat(out)

    def _product(self, name: str) -> tuple[Tensor, Tensor] | None:
        down, up = (self.lora.get(f"transformer.{name}.lora_{part}.weight") for part in "AB")
        if down is None:
            return None
        alpha = self.lora.get(f"transformer.{name}.alpha")
        return down, up if alpha is None else up * float(alpha) / down.shape[0]

    @contextmanager
    def _changed(self) -> Iterator[None]:
        network, patched = self.network, []
        width = network.hidden_size

        def put(module: nn.Module, forward) -> None:
            patched.append(module)
            module.forward = forward

        def wrap(linear: nn.Module, *parts: tuple[int, str]) -> None:
            products = [(first, self._product(name)) for first, name in parts]
            before = linear.forward

            def forward(x: Tensor) -> Tensor:
                out = before(x).clone()
                for first, product in products:
                    if product is not None:
                        out[1:, ..., first : first + len(product[1])] += x[1:] @ product[0].T @ product[1].T
                return out

            put(linear, forward)

        wrap(network.img_in, (0, "x_embedder"))
        for number, block in enumerate(network.double_blocks):
            at = f"transformer_blocks.{number}."
            wrap(block.img_mod.lin, (0, f"{at}norm1.linear"))
            wrap(block.img_attn.qkv, *((place * width, f"{at}attn.to_{part}") for place, part in enumerate("qkv")))
            wrap(block.img_attn.proj, (0, f"{at}attn.to_out.0"))
            wrap(block.img_mlp[2], (0, f"{at}ff.net.2"))
        for number, block in enumerate(network.single_blocks):
            at = f"single_transformer_blocks.{number}."
            wrap(block.modulation.lin, (0, f"{at}norm.linear"))
            parts = [(place * width, f"{at}attn.to_{part}") for place, part in enumerate("qkv")]
            wrap(block.linear1, *parts, (3 * width, f"{at}proj_mlp"))
            wrap(block.linear2, (0, f"{at}proj_out"))
        embed, text = network.pe_embedder.forward, self.txt.shape[1]

        def positions(ids: Tensor) -> Tensor:
            ids = ids.expand(1 + len(self.conditions), -1, -1).clone()
            for number, (down, right) in enumerate(self.deltas):
                ids[1 + number, text:, 1] += down
                ids[1 + number, text:, 2] += right
            return embed(ids)

        put(network.pe_embedder, positions)
        try:
            yield
        finally:
            for module in patched:
                del module.forward
