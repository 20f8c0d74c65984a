"""The model folder `bokeh_adapters`: what is in it, and the public adapters that can be downloaded into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..demo import ADAPTERS as DEMO_ADAPTERS
from ..demo import FOLDER as DEMO_FOLDER
from ..files import LONGEST_NAME, plain_name
from .settings import AdapterError

MODEL_FOLDER = "bokeh_adapters"
_ENDINGS = (".safetensors", ".bin")
DOWNLOAD = "download: "
# Where a download grows, in the folder that it is for.
STAGING = ".download"


@dataclass(frozen=True)
class PublicAdapter:
    """An adapter on the Hugging Face hub. `files[0]` holds the weights; all land in `folder` of the model folder.

    The label is saved in workflow files, so it is never changed.
    """

    label: str
    repository: str
    revision: str
    files: tuple[str, ...]
    folder: str

    @property
    def name(self) -> str:
        """The name of the weights in the loader's list once they are on disk."""
        return os.path.join(self.folder, self.files[0])


PUBLIC_ADAPTERS = (
    PublicAdapter(
        label=f"{DOWNLOAD}Bokeh Diffusion, FLUX.1-dev (583 MB, non-commercial)",
        repository="atfortes/BokehDiffusion",
        revision="main",
        files=("model.safetensors", "config.json"),
        folder="BokehDiffusion",
    ),
    PublicAdapter(
        label=f"{DOWNLOAD}BokehDepth, FLUX.1-Kontext-dev (non-commercial)",
        repository="fogradio/BokehDepth",
        revision="main",
        files=("bokeh_lora.bin",),
        folder="BokehDepth",
    ),
    *(
        PublicAdapter(
            label=f"{DOWNLOAD}Genfocus, {what}, FLUX.1-dev (Apache 2.0)",
            repository="nycu-cplab/Genfocus-Model",
            revision="main",
            files=(file,),
            folder="Genfocus",
        )
        for what, file in (
            ("all in focus", "deblurNet.safetensors"),
            ("all in focus after another deblurring", "deblurNet_with_pre_deblur.safetensors"),
            ("refocus", "bokehNet.safetensors"),
        )
    ),
)


def register_folder() -> None:
    """Make `bokeh_adapters` a model folder of the host; harmless when repeated.

    Folders that extra_model_paths.yaml named before stay in front, so a download goes to the first of them.
    """
    folder_paths.add_model_folder_path(MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER))
    # Left empty, the host would list every file.
    folder_paths.folder_names_and_paths[MODEL_FOLDER][1].update(_ENDINGS)


def adapter_choices() -> list[str]:
    """Names of the adapter files on disk, sorted; a "download: ..." entry for each public one that is not; the demo
    model's."""
    missing = [entry.label for entry in PUBLIC_ADAPTERS if find_adapter(entry.name) is None]
    present = [name for name in folder_paths.get_filename_list(MODEL_FOLDER) if STAGING not in Path(name).parts]
    return [*sorted(present), *missing, *DEMO_ADAPTERS]


def find_adapter(name: str) -> Path | None:
    """The file of that name in the first model folder that has it."""
    # A workflow saved on Windows has backslashes between folder and file.
    found = folder_paths.get_full_path(MODEL_FOLDER, name.replace("\\", "/"))
    return None if found is None else Path(found)


def adapter_path(name: str) -> Path:
    """Where the adapter of that name lies. Raises AdapterError when it is not in the model folder."""
    if name in DEMO_ADAPTERS:
        return _demo_adapter(DEMO_ADAPTERS[name])
    found = find_adapter(name)
    if found is None:
        raise AdapterError(
            f'The adapter "{name[:LONGEST_NAME]}" is not on this machine (looked in the model folder {MODEL_FOLDER}). '
            "Put the file there, or choose another adapter in the loader's list."
        )
    return found


def adapter_folders() -> list[str]:
    """The folders in which adapters are looked for; new files go into the first."""
    return folder_paths.get_folder_paths(MODEL_FOLDER)


def called(path: Path) -> str:
    """What sentences call an adapter file: its place in the model folder, nothing of this machine."""
    for folder in adapter_folders():
        if path.is_relative_to(folder):
            return Path(MODEL_FOLDER, path.relative_to(folder)).as_posix()
    return path.name


def new_adapter_path(name: str) -> Path:
    """The path for an adapter of that name in the first model folder; whether it is taken is seen when it is written.

    name: without ending, with "/" between folders. Raises AdapterError for an empty name, for one that leads out of the
    folder, and for one that would take the place of a published adapter. Looks at no disk.
    """
    folder = Path(adapter_folders()[0])
    try:
        relative = plain_name(
            folder, name.removesuffix(".safetensors"), "an adapter file", '"portrait" or "mine/portrait"'
        )
    except ValueError as error:
        raise AdapterError(str(error)) from None
    for entry in PUBLIC_ADAPTERS:
        # Its config.json would count for the new file too. Some systems take upper and lower case for the same.
        if relative.parts[0].casefold() == entry.folder.casefold():
            raise AdapterError(
                f'"{name}" cannot be the name of an adapter file: the folder {entry.folder} is for the published '
                'adapter. Expected a name such as "portrait" or "mine/portrait".'
            )
    return folder / relative.with_name(f"{relative.name}.safetensors")


def _demo_adapter(name: str) -> Path:
    path = DEMO_FOLDER / name
    if not path.is_file():
        raise AdapterError(
            f"{name}: there is no such file. The demo adapters come with the Bokeh pack: install the pack again, or "
            "restore the file."
        )
    return path
