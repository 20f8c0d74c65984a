"""A virtual camera for any photo: Genfocus (arXiv 2512.16923) on a native FLUX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..attention.conditions import Conditions
from ..attention.genfocus import check_model, defocus_map, install_conditions
from ..attention.lora import Piece, read_pieces
from ..optics.check import check_finite
from ..optics.focus import Focus
from ..optics.lens import REFERENCE_SIZE
from ..sweep.values import Sweep, parse_blurs
from ..weights.genfocus import Genfocus
from .latent import repeat_scenes
from .schema import ADAPTER, FOCUS, SWEEP, schema, validation

# Tokens that the pre-deblurred picture stands to the right of the photo in the reference.
_ASIDE = (0, 32)
_HERE = (0, 0)
# Pixels of a token's side.
_PATCH = 16

_TILES = io.Boolean.Input(
    "tiles",
    default=True,
    tooltip="On: a photo of at least 512 px a side goes through the model in overlapping tiles of 512 px, as Genfocus "
    "does and was trained: the memory of a photo of 512 px, but more work, 9 tiles or 2.25 times the pixels at "
    "1024 x 1024. Off: the whole photo at once: memory grows with it, and above about 1000 px the authors warn of "
    "artifacts.",
)


def _photo_and_model(files: str, photo: str = "") -> list[io.Input]:
    """What both nodes start from; ``files`` are the adapters that fit."""
    return [
        io.Model.Input("model", tooltip="FLUX.1-dev, in any form that loads as native FLUX."),
        ADAPTER.Input("adapter", tooltip=f"From Load Bokeh Adapter: {files} of Genfocus."),
        io.Vae.Input("vae", tooltip="FLUX's VAE, for the photo."),
        io.Image.Input("image", tooltip=f"The photo. Its sides are cut to multiples of 16 px.{photo}"),
    ]


class BokehAllInFocus(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BokehAllInFocus",
            display_name="Bokeh All in Focus",
            description="Brings everything in a photo into focus, with Genfocus on FLUX.1-dev. The authors' prompt: a "
            "sharp photo with everything in focus; guidance 3.5, 28 steps.",
            inputs=[
                *_photo_and_model("deblurNet, or deblurNet_with_pre_deblur"),
                io.Boolean.Input(
                    "pre_deblur",
                    default=False,
                    tooltip="For deblurNet_with_pre_deblur, which sees two pictures: one that another program has "
                    "deblurred, black where there is none, and the photo. Off for deblurNet.",
                ),
                _TILES,
                io.Image.Input(
                    "deblurred",
                    optional=True,
                    tooltip="With pre_deblur: the photo as another program has deblurred it, of the photo's size.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes into the sampler."),
                io.Latent.Output(display_name="latent", tooltip="Empty, of the photo's size; goes into the sampler."),
            ],
        )

    @classmethod
    def execute(cls, model, adapter, vae, image, pre_deblur: bool, tiles: bool = True, deblurred=None) -> io.NodeOutput:
        photo = _cut(image)
        pictures, offsets = [photo], [_HERE]
        if pre_deblur:
            before = torch.zeros_like(photo) if deblurred is None else _cut(deblurred)
            if before.shape != photo.shape:
                raise ValueError(
                    f"There are {len(before)} deblurred pictures of {_size(before)}, but {len(photo)} photos of "
                    f"{_size(photo)}. Connect the deblurred version of these very photos."
                )
            pictures, offsets = [before, photo], [_ASIDE, _HERE]
        elif deblurred is not None:
            raise ValueError("A deblurred picture is connected, but pre_deblur is off. Switch it on, or disconnect it.")
        pieces = _pieces(model, adapter, vae)
        latents = tuple(_encoded(vae, picture) for picture in pictures)
        # In tiles the reference gives all of them the same positions.
        conditions = Conditions(latents, tuple(offsets), tiled=tiles)
        if conditions.in_tiles(latents[-1].shape):
            conditions = replace(conditions, offsets=(_HERE,) * len(latents))
        conditioned = install_conditions(model, pieces, conditions)
        return io.NodeOutput(conditioned, {"samples": torch.zeros_like(latents[-1])})


class BokehRefocus(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BokehRefocus",
            display_name="Bokeh Refocus",
            description="Gives a sharp photo any plane of focus and any blur, with Genfocus on FLUX.1-dev. The "
            "authors' prompt: an excellent photo with a large aperture; guidance 1, 28 steps.",
            inputs=[
                *_photo_and_model("bokehNet", " Sharp all over, as Bokeh All in Focus makes it."),
                io.String.Input(
                    "blurs",
                    default="",
                    tooltip="Empty for the blur of Bokeh Focus; or several as in Bokeh Sweep, 0, 5, 15, 30 or 0..30/7: "
                    "one picture for each, in place of it.",
                ),
                _TILES,
                FOCUS.Input(
                    "focus",
                    optional=True,
                    tooltip="From Bokeh Focus. Their K is the blur here in a picture of 512 px on its short side: a "
                    "disc of 100 px is white in their map of the defocus.",
                ),
                io.Mask.Input(
                    "defocus",
                    optional=True,
                    tooltip="In place of the focus, a map of your own: the radius of each pixel's disc of light in "
                    "pixels of the photo, as the defocus output of Bokeh Focus and Bokeh Render has it.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Goes into the sampler."),
                io.Latent.Output(display_name="latent", tooltip="Empty, one row a picture; goes into the sampler."),
                SWEEP.Output(display_name="sweep", tooltip="Says which picture shows which blur or focus."),
            ],
        )

    @classmethod
    def validate_inputs(cls, blurs: str | None) -> bool | str:
        return validation(parse_blurs, blurs) if blurs and blurs.strip() else True

    @classmethod
    def execute(
        cls,
        model,
        adapter,
        vae,
        image,
        blurs: str = "",
        tiles: bool = True,
        focus: Focus | None = None,
        defocus: Tensor | None = None,
    ) -> io.NodeOutput:
        pieces = _pieces(model, adapter, vae)
        by_focus = focus is not None and defocus is None
        radii, sweep, size = _of_focus(focus, blurs) if by_focus else _of_map(defocus, focus, blurs, len(image))
        if size != image.shape[1:3]:
            raise ValueError(
                f"The {'focus' if by_focus else 'defocus map'} is for a picture of {size[1]} x {size[0]}, but the "
                f"photo is {_size(image)}. Connect the same picture to Bokeh Focus."
            )
        if len(image) != sweep.scenes:
            raise ValueError(
                f"There are {len(image)} photos, but the {'focus' if by_focus else 'defocus map'} is for "
                f"{sweep.scenes}. Connect the same pictures to both nodes."
            )
        photo = _encoded(vae, _cut(image))
        bar, maps = ProgressBar(len(sweep)), []
        for row in range(len(sweep)):
            throw_exception_if_processing_interrupted()
            maps.append(vae.encode(_cut(defocus_map(radii(row)))))
            bar.update(1)
        photos = photo.repeat_interleave(sweep.levels, 0)
        conditions = Conditions((photos, torch.cat(maps)), (_HERE, _HERE), sweep.levels, tiles)
        latent = repeat_scenes({"samples": torch.zeros_like(photo)}, sweep.levels)
        return io.NodeOutput(install_conditions(model, pieces, conditions), latent, sweep)


# The radius map [H, W] of a picture by its number, the sweep (each photo is a scene), and height and width.
_Radii = tuple[Callable[[int], Tensor], Sweep, tuple[int, int]]


def _of_focus(focus: Focus, blurs: str) -> _Radii:
    values = parse_blurs(blurs) if blurs.strip() else ()
    if focus.swept and len(values) > 1:
        raise ValueError(
            f"Bokeh Focus gives {len(focus)} planes and {len(values)} blurs were asked for, but one picture shows one "
            "of each. Choose one plane, or leave blurs empty."
        )
    pictures = [(row, blur) for row in range(len(focus)) for blur in values or (focus.blur[row].item(),)]

    def radii(number: int) -> Tensor:
        row, blur = pictures[number]
        return replace(focus, blur=torch.full_like(focus.blur, blur)).defocus(row)

    sweep = focus.sweep if focus.swept else Sweep(tuple(blur for _, blur in pictures), scenes=len(focus))
    return radii, sweep, tuple(focus.disparity.shape[1:])


def _of_map(defocus: Tensor | None, focus: Focus | None, blurs: str, photos: int) -> _Radii:
    if defocus is None:
        raise ValueError(
            "Nothing says how far each thing is. Connect the focus of Bokeh Focus, which takes the photo and its depth "
            "map, or a defocus map."
        )
    if focus is not None:
        raise ValueError("Both a focus and a defocus map are connected. Disconnect one of them.")
    if blurs.strip():
        raise ValueError(f"A defocus map has its blur in it already, but blurs is {blurs!r}. Leave blurs empty.")
    check_finite(defocus, "defocus maps")
    defocus = defocus.reshape(-1, *defocus.shape[-2:])
    size = tuple(defocus.shape[1:])
    largest = defocus.abs().amax((1, 2)) * REFERENCE_SIZE / min(size)
    # Of one photo they are a sweep.
    return defocus.__getitem__, Sweep(tuple(largest.tolist()), scenes=1 if photos == 1 else len(defocus)), size


def _pieces(model, adapter, vae) -> list[Piece]:
    """The adapter's LoRA for this model; refused before the VAE takes its time."""
    if not isinstance(adapter, Genfocus):
        raise ValueError(
            f"The adapter {adapter.source} is none of Genfocus. Choose one of its files in Load Bokeh Adapter, or use "
            "Bokeh Blur and Bokeh Sweep with this one."
        )
    if vae is None:
        raise ValueError("There is no VAE: this checkpoint holds none. Load FLUX's with Load VAE.")
    pieces, left = read_pieces(adapter.tensors, model, adapter.source)
    check_model(model)
    if left:
        raise ValueError(f"{' '.join(left)} Connect the FLUX.1-dev that Genfocus was made for, with all its blocks.")
    return pieces


def _encoded(vae, picture: Tensor) -> Tensor:
    """The latent of pictures. Raises ValueError for that of a VAE for videos."""
    latent = vae.encode(picture)
    if latent.ndim != 4:
        raise ValueError(
            f"This VAE makes latents of the shape {list(latent.shape)}, as those for videos do; FLUX's are "
            "[B, channels, h, w]. Connect FLUX's VAE."
        )
    return latent


def _cut(image: Tensor) -> Tensor:
    """The middle of pictures [B, H, W, C], with sides that are multiples of a token's."""
    check_finite(image, "pictures")
    height, width = (side // _PATCH * _PATCH for side in image.shape[1:3])
    if not height or not width:
        raise ValueError(f"The picture is {_size(image)}, expected at least {_PATCH} px a side.")
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width, :3]


def _size(image: Tensor) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"
