"""Model families: where in a network of the host bokeh acts. Tables only; ``install`` puts the hooks there.

Another family is one more function here and one more line in ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from torch import nn

from ..host import krea2


class Columns(NamedTuple):
    """Queries or keys: ``width`` columns, from ``start`` on, of the output of the network's module ``module``."""

    module: str
    start: int
    width: int


class Place(NamedTuple):
    """One self-attention of a network.

    Attributes:
        name: what adapter files list.
        owner: the module that calls it and is handed ``transformer_options``.
        width: of its output, and so of the bokeh value.
        q, k: where its queries and keys come from, before norm and rotary embedding; of the image where text has
            projections of its own.
        call: which of the owner's attention calls it is.
    """

    name: str
    owner: str
    width: int
    q: Columns
    k: Columns
    call: int = 0


class Family(NamedTuple):
    """Models whose adapters have the same place names.

    Attributes:
        name: what adapter files call it. title: what its users call it.
        holds: whether a network is one of them.
        places: the network's self-attentions, in the order in which they run.
        blocks: the modules that training may compute a second time instead of keeping what they computed.
        guided: whether the models take a guidance scale as an input.
        masked: whether they take a mask of the prompt's tokens with a row for each picture.
    """

    name: str
    title: str
    holds: Callable[[nn.Module], bool]
    places: Callable[[nn.Module], Iterator[Place]]
    blocks: Callable[[nn.Module], Iterator[str]]
    guided: bool = False
    masked: bool = True


def _flux(network) -> Iterator[Place]:
    width = network.hidden_size
    for index in range(len(network.double_blocks)):
        owner = f"double_blocks.{index}"
        # The authors' names, in which their files list the blocks.
        yield Place(f"transformer_blocks.{index}", owner, width, *_fused(f"{owner}.img_attn.qkv", width))
    for index in range(len(network.single_blocks)):
        owner = f"single_blocks.{index}"
        yield Place(f"single_transformer_blocks.{index}", owner, width, *_fused(f"{owner}.linear1", width))


def _unet(network) -> Iterator[Place]:
    for name, block in network.named_modules():
        # Blocks of the time axis belong to video models, whose rows are frames.
        if isinstance(block, BasicTransformerBlock) and not block.disable_self_attn and "time_stack" not in name:
            attention, width = f"{name}.attn1", block.n_heads * block.d_head
            yield Place(attention, attention, width, *_pair(attention, "to_q", "to_k", width))


def _sd3(network) -> Iterator[Place]:
    for index, block in enumerate(network.joint_blocks):
        owner, x_block = f"joint_blocks.{index}", block.x_block
        width = x_block.attn.qkv.in_features
        yield Place(owner, owner, width, *_fused(f"{owner}.x_block.attn.qkv", width))
        if x_block.x_block_self_attn:
            second = f"{owner}.x_block.attn2"
            yield Place(second, owner, width, *_fused(f"{second}.qkv", width), call=1)


def _qwen(network) -> Iterator[Place]:
    for index, block in enumerate(network.transformer_blocks):
        attention, width = f"transformer_blocks.{index}.attn", block.attn.inner_dim
        yield Place(attention, attention, width, *_pair(attention, "to_q", "to_k", width))


def _lumina(network) -> Iterator[Place]:
    for index, block in enumerate(network.layers):
        owner, attention = f"layers.{index}.attention", block.attention
        width = attention.n_local_heads * attention.head_dim
        keys = attention.n_local_kv_heads * attention.head_dim
        yield Place(owner, owner, width, *_fused(f"{owner}.qkv", width, keys))


def _krea2(network) -> Iterator[Place]:
    for index, block in enumerate(network.blocks):
        owner, attention = f"blocks.{index}.attn", block.attn
        width = attention.heads * attention.headdim
        yield Place(owner, owner, width, *_pair(owner, "wq", "wk", width, attention.kvheads * attention.headdim))


def _members(*lists: str) -> Callable[[nn.Module], Iterator[str]]:
    return lambda network: (f"{name}.{index}" for name in lists for index in range(len(getattr(network, name))))


def _unet_blocks(network) -> Iterator[str]:
    for name, module in network.named_modules():
        if isinstance(module, BasicTransformerBlock | ResBlock):
            yield name


def _fused(module: str, width: int, keys: int | None = None) -> tuple[Columns, Columns]:
    return Columns(module, 0, width), Columns(module, width, keys or width)


def _pair(owner: str, q: str, k: str, width: int, keys: int | None = None) -> tuple[Columns, Columns]:
    return Columns(f"{owner}.{q}", 0, width), Columns(f"{owner}.{k}", 0, keys or width)


def _is(kind: type[nn.Module]) -> Callable[[nn.Module], bool]:
    return lambda network: isinstance(network, kind)


_FLUX_BLOCKS = _members("double_blocks", "single_blocks")


def _is_flux2(network: nn.Module) -> bool:
    return isinstance(network, Flux) and getattr(network.params, "global_modulation", False)


FAMILIES = (
    Family("flux2", "FLUX.2", _is_flux2, _flux, _FLUX_BLOCKS, guided=True),
    Family("flux", "FLUX.1", _is(Flux), _flux, _FLUX_BLOCKS, guided=True),
    Family("chroma", "Chroma", _is(Chroma), _flux, _FLUX_BLOCKS),
    Family("unet", "Stable Diffusion 1.5, SDXL", _is(UNetModel), _unet, _unet_blocks),
    Family("sd3", "Stable Diffusion 3.5", _is(MMDiT), _sd3, _members("joint_blocks")),
    Family("qwen-image", "Qwen-Image", _is(QwenImageTransformer2DModel), _qwen, _members("transformer_blocks")),
    # The refiner of their prompts ends with an error at one (0.3.75), or never sees it (0.33).
    Family("lumina", "Z-Image, Lumina 2", _is(NextDiT), _lumina, _members("layers"), masked=False),
    *(Family("krea2", "Krea 2", _is(kind), _krea2, _members("blocks")) for kind in krea2()),
)


def find(network: nn.Module | None) -> Family | None:
    """The family of a network of the host; None where no table knows it."""
    return next((family for family in FAMILIES if family.holds(network)), None)


def takes_masks(network: nn.Module) -> bool:
    """Whether a network takes a mask of the prompt's tokens with a row for each picture."""
    family = find(network)
    return family is None or family.masked


def titles() -> str:
    """The models that adapters can be made for, as a list in words."""
    return ", ".join(family.title for family in FAMILIES)
