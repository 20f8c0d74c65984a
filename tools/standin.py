"""Random stand-ins for FLUX.1-dev and what belongs to it, for machines without the real files.

Runs inside a host's environment: the one file in this folder that needs more than the standard library (torch and
safetensors). Shapes and key names are those of the real files, so the host's standard loaders take them; the
weights are random, so that pictures made with them are coloured noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from setup.environment import write_atomically
from torch import Tensor, nn

SEED = 20250311
FLUX_FILE = "bokeh-standin-flux.safetensors"
ADAPTER_FOLDER = "standin"
ADAPTER_FILE = "bokeh-standin-adapter.safetensors"
CLIP_FILE = "bokeh-standin-clip-l.safetensors"

README = """These files are stand-ins with RANDOM weights. They let the whole chain run on a machine that has no
FLUX.1-dev; the pictures they make are coloured noise. They may be deleted at any time and are made again.

diffusion_models/{flux}
    the shape of FLUX.1-dev with 1 double and 1 single block in place of 19 and 38
bokeh_adapters/{folder}/{adapter}, config.json
    an adapter for these 2 blocks in the public adapter's format
text_encoders/{clip}
    the shape of CLIP-L
vae_approx/taef1_encoder.safetensors, taef1_decoder.safetensors
    the shape of the small FLUX autoencoder; the host knows it by these names only
"""


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write beside and rename, so that nobody meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _linear(
    name: str, inputs: int, outputs: int, generator: torch.Generator, dtype: torch.dtype, gain: float = 1.0
) -> Iterator[tuple[str, Tensor]]:
    """A linear layer that keeps the size of its input (times gain), with a zero bias."""
    weight = torch.randn(outputs, inputs, generator=generator) * (gain / math.sqrt(inputs))
    yield f"{name}.weight", weight.to(dtype)
    yield f"{name}.bias", torch.zeros(outputs, dtype=dtype)


def write_flux(
    path: Path,
    *,
    width: int = 3072,
    heads: int = 24,
    double: int = 1,
    single: int = 1,
    guidance: bool = True,
    context: int = 4096,
    pooled: int = 768,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = SEED,
) -> None:
    """Write a random FLUX transformer in the host's key layout.

    Args:
        path: the safetensors file.
        width: width of the token stream; the host's detection takes 3072 with 24 heads only.
        heads: attention heads.
        double: number of double-stream blocks.
        single: number of single-stream blocks.
        guidance: with (FLUX.1-dev) or without (schnell) the guidance embedding.
        context: width of the text tokens.
        pooled: width of the pooled text vector.
        dtype: of all weights.
        seed: of the random generator.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def linear(name: str, inputs: int, outputs: int, gain: float = 1.0) -> None:
        weights.update(_linear(name, inputs, outputs, generator, dtype, gain))

    def norms(name: str) -> None:
        for which in ("query_norm", "key_norm"):
            weights[f"{name}.{which}.scale"] = torch.ones(width // heads, dtype=dtype)

    # 16 latent channels, packed 2 x 2.
    linear("img_in", 64, width)
    linear("txt_in", context, width)
    embedders = {"time_in": 256, "vector_in": pooled, **({"guidance_in": 256} if guidance else {})}
    for name, inputs in embedders.items():
        linear(f"{name}.in_layer", inputs, width)
        linear(f"{name}.out_layer", width, width)
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            linear(f"{block}_mod.lin", width, 6 * width, gain=0.5)
            linear(f"{block}_attn.qkv", width, 3 * width)
            norms(f"{block}_attn.norm")
            linear(f"{block}_attn.proj", width, width)
            linear(f"{block}_mlp.0", width, 4 * width)
            linear(f"{block}_mlp.2", 4 * width, width)
    for i in range(single):
        block = f"single_blocks.{i}"
        linear(f"{block}.modulation.lin", width, 3 * width, gain=0.5)
        linear(f"{block}.linear1", width, 7 * width)
        norms(f"{block}.norm")
        linear(f"{block}.linear2", 5 * width, width)
    linear("final_layer.adaLN_modulation.1", width, 2 * width, gain=0.5)
    linear("final_layer.linear", width, 64)
    _save(weights, path)


def write_adapter(
    folder: Path,
    *,
    name: str = "model.safetensors",
    width: int = 3072,
    double: int = 1,
    single: int = 1,
    rank: int = 128,
    context: int = 768,
    hidden: int = 64,
    scale: float = 0.5,
    query: bool = True,
    key: bool = True,
    seed: int = SEED,
) -> Path:
    """Write a random adapter in the public adapter's format, and its config.json beside it; return the file.

    Args:
        folder: gets both files.
        name: of the weights' file.
        width: of the FLUX it is for.
        double: number of that FLUX's double-stream blocks.
        single: number of its single-stream blocks.
        rank: of every low-rank pair.
        context: width of the blur's embedding.
        hidden: width inside the embedding.
        scale: what a low-rank pair gives for an input of size 1.
        query: with query adapters.
        key: with key adapters.
        seed: of the random generator.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = dict(_linear("embedding_layer.0", 1, hidden, generator, torch.float32))
    weights.update(_linear("embedding_layer.2", hidden, context, generator, torch.float32))
    # Without biases every ReLU would bend at blur 0 and the embedding be a straight line.
    weights["embedding_layer.0.bias"].normal_(generator=generator)
    inputs = {"to_k_bokeh": context, "to_v_bokeh": context}
    inputs |= {"to_q_adp": width} if query else {}
    inputs |= {"to_k_adp": width} if key else {}
    for i in range(double + single):
        for part, size in inputs.items():
            down = torch.randn(rank, size, generator=generator) / math.sqrt(size)
            up = torch.randn(width, rank, generator=generator) * (scale / math.sqrt(rank))
            weights[f"adapter_modules.{i}.{part}.down.weight"] = down
            weights[f"adapter_modules.{i}.{part}.up.weight"] = up
    blocks = [f"transformer_blocks.{i}" for i in range(double)]
    blocks += [f"single_transformer_blocks.{i}" for i in range(single)]
    config = {
        "attn_hidden_dim": width,
        "blocks": blocks,
        "bokeh_context_dim": context,
        "bokeh_hidden_dim": hidden,
        "bokeh_input_dim": 1,
        "bokeh_scale": 1.0,
        "lora_alpha": None,
        "lora_rank": rank,
        "lora_scale": 1.0,
        "unfreeze_k": key,
        "unfreeze_q": query,
    }
    write_atomically(folder / "config.json", json.dumps(config, indent=2))
    _save(weights, folder / name)
    return folder / name


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


def _taef1(decoder: bool, channels: int = 16) -> nn.Sequential:
    """The small autoencoder's half; the places in the sequence are the numbers in its file's keys."""
    layers: list[nn.Module] = []
    if decoder:
        # At place 0 the host limits the latent, without weights; the ReLU follows the first convolution.
        layers += [nn.Identity(), nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [_Residual(), _Residual(), _Residual(), nn.Upsample(scale_factor=2)]
            layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False)]
        return nn.Sequential(*layers, _Residual(), nn.Conv2d(64, 3, 3, padding=1))
    layers += [nn.Conv2d(3, 64, 3, padding=1), _Residual()]
    for _ in range(3):
        layers += [nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False), _Residual(), _Residual(), _Residual()]
    return nn.Sequential(*layers, nn.Conv2d(64, channels, 3, padding=1))


@torch.no_grad()
def write_taef1(folder: Path, *, seed: int = SEED) -> tuple[Path, Path]:
    """Write the encoder and the decoder that the host's VAELoader offers together as "taef1"; return both."""
    generator = torch.Generator().manual_seed(seed)
    paths = []
    # Pictures lie in [0, 1], so 0.15 around 0.5 fills them without clipping much; latents lie around 0.
    for decoder, mean, spread in ((False, 0.0, 1.0), (True, 0.5, 0.15)):
        network = _taef1(decoder)
        for parameter in network.parameters():
            fan_in = parameter[0].numel()
            parameter.normal_(std=math.sqrt(1 / fan_in) if parameter.ndim > 1 else 0.1, generator=generator)
        shape = (1, 16, 16, 16) if decoder else (1, 3, 128, 128)
        # The size of a sampled latent by the time it gets to the decoder.
        sample = 2 * torch.randn(shape, generator=generator) if decoder else torch.rand(shape, generator=generator)
        last = network[-1]
        result = network(sample)
        # Channel by channel, so that the pictures have all colours.
        factor = spread / result.std(dim=(0, 2, 3))
        last.weight.mul_(factor[:, None, None, None])
        last.bias.sub_(result.mean(dim=(0, 2, 3))).mul_(factor).add_(mean)
        paths.append(folder / f"taef1_{'decoder' if decoder else 'encoder'}.safetensors")
        _save({name: weight.contiguous() for name, weight in network.state_dict().items()}, paths[-1])
    return paths[0], paths[1]


def write_clip_l(path: Path, *, dtype: torch.dtype = torch.float8_e4m3fn, seed: int = SEED) -> None:
    """Write a random CLIP-L text encoder for the host's CLIPLoader.

    Of type "sd3" it gives what FLUX takes: tokens padded to a width of 4096, and a pooled vector whose first 768
    numbers FLUX uses. `dtype` is that of the matrices; 8 bits keep the file small, the host widens them.
    """
    generator = torch.Generator().manual_seed(seed)
    width, layers, words, places = 768, 12, 49408, 77
    weights: dict[str, Tensor] = {}

    def matrix(name: str, rows: int, columns: int, size: float) -> None:
        weights[name] = (torch.randn(rows, columns, generator=generator) * size).to(dtype)

    def linear(name: str, inputs: int, outputs: int) -> None:
        matrix(f"{name}.weight", outputs, inputs, 1 / math.sqrt(inputs))
        weights[f"{name}.bias"] = torch.zeros(outputs, dtype=torch.float16)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = torch.ones(width, dtype=torch.float16)
        weights[f"{name}.bias"] = torch.zeros(width, dtype=torch.float16)

    matrix("text_model.embeddings.token_embedding.weight", words, width, 0.02)
    matrix("text_model.embeddings.position_embedding.weight", places, width, 0.02)
    for i in range(layers):
        layer = f"text_model.encoder.layers.{i}"
        norm(f"{layer}.layer_norm1")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{name}", width, width)
        norm(f"{layer}.layer_norm2")
        linear(f"{layer}.mlp.fc1", width, 4 * width)
        linear(f"{layer}.mlp.fc2", 4 * width, width)
    norm("text_model.final_layer_norm")
    matrix("text_projection.weight", width, width, 1 / math.sqrt(width))
    _save(weights, path)


def write_all(models: Path) -> None:
    """Write every stand-in that is missing into a models folder."""
    adapter = models / "bokeh_adapters" / ADAPTER_FOLDER
    vae = models / "vae_approx"
    flux = models / "diffusion_models" / FLUX_FILE
    clip = models / "text_encoders" / CLIP_FILE
    if not flux.is_file():
        write_flux(flux)
    if not clip.is_file():
        write_clip_l(clip)
    if not (adapter / ADAPTER_FILE).is_file():
        write_adapter(adapter, name=ADAPTER_FILE)
    if not all((vae / f"taef1_{half}.safetensors").is_file() for half in ("encoder", "decoder")):
        write_taef1(vae)
    readme = README.format(flux=FLUX_FILE, folder=ADAPTER_FOLDER, adapter=ADAPTER_FILE, clip=CLIP_FILE)
    write_atomically(models / "README.txt", readme)


def main() -> None:
    """Command line: write the stand-ins into a models folder."""
    parser = argparse.ArgumentParser(description="Write random stand-ins for FLUX.1-dev into a models folder.")
    parser.add_argument("models", type=Path, help="the models folder")
    write_all(parser.parse_args().models)


if __name__ == "__main__":
    main()
