"""The data set that an adapter is trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..files import plain_name
from ..optics.check import check_finite
from ..optics.depth import EACH
from ..sweep.sheet import contact_sheet
from ..sweep.values import format_value
from ..training.entries import Entry, within
from ..training.folders import DEPTH, MANIFEST_NAME, MASKS, SHARP, WILD, ScanOptions, files_of, scan_folder
from ..training.gather import gather
from ..training.manifest import check_rows, named_files, read_manifest
from ..training.pairs import STEP, ManifestPairs
from ..training.pictures import Dataset
from ..training.scenes import SIZE, Scenes
from .depth import BRIGHT, DARK, INVERSE, METRES, read_disparity
from .schema import PAIRS, fingerprint, schema, without_places

_PROCEDURAL = "procedural scenes"
_MANIFEST = "manifest or folder"
_GRAPH = "pictures of the graph"
# Folders that the owner opens to workflows, in extra_model_paths.yaml.
LISTED = "bokeh_pairs"
# Files whose change is noticed; more would be asked for at every queue, over a network too.
_FILES_WATCHED = 4000
_PATH_SHOWN = 200
# No system takes longer paths; following the links of one of 100,000 folders takes seconds.
_LONGEST_PATH = 32_767
# Characters. Each takes at most six bytes of a manifest's line, which has 64 kB.
_LONGEST_CAPTION = 10_000
# Blurs look the same at any size, and rendering costs its fourth power.
_SHOWN_SCENES, _SHOWN_BLURS, _SHOWN_SIZE = 3, 4, 192


class BokehPairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "training data",
            "dataset",
            "manifest",
            "hybrid pipeline",
            node_id="BokehPairs",
            display_name="Bokeh Pairs",
            description="The pictures to train a bokeh adapter on, all checked before training starts: your own files, "
            "pictures that this graph makes, or scenes that are made up as they are needed.",
            inputs=[
                io.Combo.Input(
                    "source",
                    options=[_PROCEDURAL, _MANIFEST, _GRAPH],
                    tooltip="Procedural scenes need no photo: endless coloured objects before patterns, 128 x 128, for "
                    "the demo model. Manifest or folder: your own pictures, at the path below. Pictures of the graph: "
                    "those of the inputs images, depth and masks; every queue adds its own to the set.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    tooltip="A manifest (.jsonl), or a folder with one in it or with the folders sharp, depth, masks "
                    "and wild; the help page says what goes into them. A path inside the input folder, in "
                    "output/bokeh_pairs, or inside a folder that extra_model_paths.yaml lists as bokeh_pairs. For "
                    "pictures of the graph: the name of their set, which is written to output/bokeh_pairs.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=STEP,
                    tooltip="Shorter side in pixels to train at. No picture may be smaller. Not used for procedural "
                    "scenes.",
                ),
                io.Boolean.Input(
                    "keep_aspect",
                    default=False,
                    tooltip="Off: square crops. On: every picture in nearly its own shape, at most 1 to 2.",
                ),
                io.Float.Input(
                    "held_out",
                    default=0.05,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of your pictures that is not trained on, but measures how well training goes. At "
                    "least one of each kind is held out above 0.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="For pictures of the graph: sharp all over, generated or loaded, a batch of one size.",
                ),
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="Their depth maps: Depth Anything, MoGe or any other node's, grey. What it shows is said "
                    "by depth_is.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="White where each picture's subject is, whose depth is what stays in focus: from BiRefNet, "
                    "SAM3 or any other node.",
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="For pictures of the graph: one caption for all, or one a line, without words about blur.",
                ),
                io.Combo.Input(
                    "depth_is",
                    options=[BRIGHT, DARK, METRES, INVERSE],
                    optional=True,
                    tooltip="What the depth shows: grey with near things bright (Depth Anything, MiDaS) or dark; "
                    "distances in metres; or their inverse.",
                ),
            ],
            outputs=[
                PAIRS.Output(display_name="pairs", tooltip="Goes into Bokeh Train Adapter."),
                io.Image.Output(display_name="samples", tooltip="Some of the pictures, with their blurs."),
                io.String.Output(display_name="report", tooltip="How many pictures there are, and what was skipped."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, source: str | None, path: str | None, **_):
        # Pictures that were changed, added or taken away are checked again; those of the graph the host knows itself.
        if source in (_PROCEDURAL, _GRAPH):
            return source
        return fingerprint(lambda source, path: _state(_place(path, _folders())), source, path)

    @classmethod
    @without_places
    def execute(
        cls,
        source: str,
        path: str,
        size: int,
        keep_aspect: bool,
        held_out: float,
        images=None,
        depth=None,
        masks=None,
        captions: str = "",
        depth_is: str = BRIGHT,
    ) -> io.NodeOutput:
        if source == _PROCEDURAL:
            pairs = shown = Scenes()
            report = f"Procedural scenes, {SIZE} x {SIZE}, as many as are wanted"
        else:
            name, added = path.strip(), []
            if source == _GRAPH:
                place, name, added = _add(path, size, images, depth, masks, captions, depth_is)
            else:
                place = _place(path, _folders())
            rows, skipped = _read(place, name, size)
            device = comfy.model_management.get_torch_device()
            pairs = ManifestPairs(rows, size, keep_aspect, held_out, device)
            shown = ManifestPairs(rows, min(size, _SHOWN_SIZE), keep_aspect, held_out, device)
            report = "\n".join([*added, pairs.summary(), *skipped])
        samples = _samples(shown)
        preview = {**ui.PreviewImage(samples, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(pairs, samples, report, ui=preview)


def _sets() -> Path:
    """The folder of the sets that graphs have made."""
    return Path(folder_paths.get_output_directory(), LISTED)


def _add(path: str, size: int, images, depth, masks, captions: str, depth_is: str) -> tuple[Path, str, list[str]]:
    """Add the pictures of the graph to their set; returns where it is, what it is called, and a line about it."""
    missing = [name for name, value in (("images", images), ("depth", depth), ("masks", masks)) if value is None]
    if missing:
        raise ValueError(
            f'The source is "{_GRAPH}", but nothing is connected to {", ".join(missing)}. Connect sharp pictures, '
            "their depth maps, and masks of their subjects."
        )
    place = _sets() / plain_name(_sets(), path, "a set of pictures", '"portraits"')
    count, texts = len(images), [line.strip() for line in captions.splitlines() if line.strip()] or [""]
    if len(texts) not in (1, count):
        raise ValueError(
            f"There are {len(texts)} captions for {count} pictures, expected one for all or one a line for each."
        )
    longest = max(map(len, texts))
    if longest > _LONGEST_CAPTION:
        raise ValueError(f"A caption has {longest} characters, expected at most {_LONGEST_CAPTION}. Shorten it.")
    check_finite(images, "pictures")
    masks = masks.reshape(-1, *masks.shape[-2:])
    if len(masks) != count:
        raise ValueError(
            f"There are {len(masks)} masks for {count} pictures, expected one each: the subject. Where a picture has "
            "several, put them into one mask."
        )
    stopped = comfy.model_management.throw_exception_if_processing_interrupted
    disparity, *_ = read_disparity(depth, depth_is, count, tuple(depth.shape[1:3]), EACH, stopped)
    name = f"{LISTED}/{path.strip()}"
    try:
        new = gather(place, images, disparity, masks, texts * (count // len(texts)), size, name, _progress())
    except OSError as error:
        raise ValueError(
            f"The set {name} cannot be written ({error.strerror or error}). Free space, or make the output folder "
            "writable."
        ) from error
    return place / MANIFEST_NAME, name, [f"Added to output/{name}: {new} new of {count}"]


def _folders() -> list[Path]:
    """The folders that a workflow may read: its author may be a stranger on a server of others."""
    listed, _ = folder_paths.folder_names_and_paths.get(LISTED, ((), ()))
    own = (folder_paths.get_input_directory(), _sets())
    folders = [Path(os.path.abspath(folder)) for folder in (*own, *listed)]
    return list(dict.fromkeys([*folders, *(Path(os.path.realpath(folder)) for folder in folders)]))


def _place(path: str, folders: Sequence[Path]) -> Path:
    """The manifest or folder that is meant, links followed.

    Raises:
        ValueError: one and the same for what is not there and for what is not to be known.
    """
    text = path.strip().strip('"')
    for folder in folders if text and len(text) <= _LONGEST_PATH and text.isprintable() else ():
        place = Path(os.path.abspath(os.path.join(folder, text)))
        # Before the disk is asked: a network path would be called up.
        if not any(place.is_relative_to(allowed) for allowed in folders):
            continue
        for found in (place / MANIFEST_NAME, place):
            real = Path(os.path.realpath(found))
            if (os.path.isfile(real) or (os.path.isdir(real) and found == place)) and within(real, folders):
                return real
    shown = path if len(path) <= _PATH_SHOWN else f"{path[:_PATH_SHOWN]}..."
    raise ValueError(
        f'The path of the pairs is "{shown}", and there is no manifest (.jsonl) or folder "{shown}" in the input '
        f"folder, in output/{LISTED} or in a folder that extra_model_paths.yaml lists as {LISTED}. Put the pictures "
        f'there, or choose "{_PROCEDURAL}".'
    )


def _state(place: Path) -> list[tuple[str, int, int]]:
    """Of the manifest and the files that it names, or of the pictures of a folder; of the first thousands."""
    if place.is_file():
        files = [place, *named_files(place, _FILES_WATCHED)]
    else:
        files = [file for part in (SHARP, DEPTH, MASKS, WILD) for file in files_of(place, part)]
        files += [file.with_suffix(".txt") for file in files]
    state = [("files", len(files), 0)]
    for file in files[:_FILES_WATCHED]:
        with suppress(OSError, ValueError):
            status = file.stat()
            state.append((file.name, status.st_mtime_ns, status.st_size))
    return state


def _read(place: Path, name: str, size: int) -> tuple[list[Entry], list[str]]:
    """The rows of a manifest or a folder, all of them good, and a line for each reason why pictures were skipped."""
    roots = _folders()
    if place.is_file():
        return read_manifest(place, size, _progress(), roots, name), []
    scan = scan_folder(place, ScanOptions(), roots=roots, name=name)
    skipped = scan.skipped.lines()
    if not scan.rows:
        raise ValueError("\n".join([f"No picture of {name} can be used. Mend what was skipped:", *skipped]))
    return check_rows(scan.rows, place, size, _progress(), roots, name), skipped


def _progress() -> Callable[[int, int], None]:
    """Shows how many are done of how many, and stops when the user says so."""
    bar = ProgressBar(1)

    def on_progress(done: int, total: int) -> None:
        bar.update_absolute(done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return on_progress


def _samples(pairs: Dataset) -> torch.Tensor:
    """A contact sheet of a few scenes, each at a few blurs where the data set has groups."""
    per_scene = _SHOWN_BLURS if pairs.groups else 1
    drawn = pairs.draw(torch.Generator().manual_seed(0), _SHOWN_SCENES, per_scene)
    labels = [f"blur {format_value(blur)}" for blur in drawn.blurs.tolist()]
    return contact_sheet(drawn.images, labels, per_scene if pairs.groups else 0)
