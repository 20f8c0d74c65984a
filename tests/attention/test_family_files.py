"""Version 2 of the adapter format: the family, the names of the blocks, widths of their own."""

from __future__ import annotations

import json

import pytest
import torch
from families import build_case, random_adapter
from flux import Golden, relative_error
from safetensors import safe_open

from bokeh.attention.install import block_places, install, network_places
from bokeh.attention.rows import Pivot, Plan
from bokeh.weights.files import read_adapter, write_adapter
from bokeh.weights.format import AdapterError, build_adapter

SWEEP = Plan((3.0, 15.0, 27.0), Pivot(15.0, 0.5), one_scene=True)


@pytest.fixture(scope="module")
def case():
    return build_case("sdxl")


def settings_of(adapter) -> dict:
    settings = adapter.settings
    return {"variant": settings.variant, "family": settings.family, "blocks": list(settings.block_names)}


def reordered(adapter, order: list[int]):
    """The same adapter with its blocks listed in another order."""
    tensors = {name: tensor for name, tensor in adapter.tensors.items() if not name.startswith("blocks.")}
    for position, number in enumerate(order):
        prefix = f"blocks.{number}."
        for name, tensor in adapter.tensors.items():
            if name.startswith(prefix):
                tensors[f"blocks.{position}.{name.removeprefix(prefix)}"] = tensor
    settings = settings_of(adapter)
    return build_adapter(tensors, settings | {"blocks": [settings["blocks"][number] for number in order]}, "FILE")


def test_a_file_gives_back_the_adapter_and_its_pictures(case, tmp_path):
    adapter = random_adapter(case.model)
    assert set(adapter.settings.widths) == {64}
    path = write_adapter(adapter, tmp_path / "sdxl.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("comfyui-bokeh-adapter", "2")
    stored = json.loads(metadata["settings"])
    assert stored["family"] == "unet"
    assert stored["blocks"] == [place.name for place in network_places(case.model)[1]]
    again = read_adapter(path)
    assert again.settings == adapter.settings
    assert torch.equal(case.run(install(case.model, again, SWEEP), 3), case.run(install(case.model, adapter, SWEEP), 3))


def test_widths_are_each_blocks_own(tmp_path):
    case = build_case("sd15")
    adapter = read_adapter(write_adapter(random_adapter(case.model), tmp_path / "sd15.safetensors"))
    assert adapter.settings.widths == tuple(place.width for place in network_places(case.model)[1])
    assert len(set(adapter.settings.widths)) == 2


def test_blocks_are_found_by_name_whatever_their_order(case):
    adapter = random_adapter(case.model, choose=[1, 3, 4])
    turned = reordered(adapter, [2, 0, 1])
    assert [place.name for place in block_places(case.model, turned)] == list(turned.settings.block_names)
    rows = case.run(install(case.model, turned, SWEEP), 3)
    assert relative_error(rows, case.run(install(case.model, adapter, SWEEP), 3)) <= 1e-6


def test_keys_may_be_narrower_than_queries():
    """Models with fewer key heads, such as Lumina 2 and Krea 2."""
    tensors = random_adapter(build_case("sd15").model, choose=[0]).tensors
    narrow = {"blocks.0.k.down.weight": torch.zeros(4, 8), "blocks.0.k.up.weight": torch.zeros(8, 4)}
    settings = {"variant": "text-to-image", "family": "lumina", "blocks": ["layers.0.attention"]}
    adapter = build_adapter(tensors | narrow, settings, "FILE")
    assert (adapter.width(0, "v"), adapter.width(0, "q"), adapter.width(0, "k")) == (32, 32, 8)


def test_what_does_not_fit_is_refused_with_both_sides(case):
    adapter = random_adapter(case.model, choose=[0, 1])
    settings = settings_of(adapter)
    with pytest.raises(AdapterError, match="name 1 different blocks, but its tensors adapt 2 blocks, numbered 0, 1"):
        build_adapter(adapter.tensors, settings | {"blocks": settings["blocks"][:1]}, "FILE")
    with pytest.raises(AdapterError, match="name 0 different blocks"):
        build_adapter(adapter.tensors, {key: settings[key] for key in ("variant", "family")}, "FILE")
    odd = build_adapter(adapter.tensors, settings | {"blocks": [settings["blocks"][0], "middle.9"]}, "FILE")
    with pytest.raises(
        AdapterError, match=r'adapts the block "middle.9", but this model has no such block among its 9'
    ):
        install(case.model, odd, SWEEP)
    with pytest.raises(AdapterError, match="width 64, but this model's width is 32"):
        install(build_case("sd15").model, reordered_names(adapter, build_case("sd15").model), SWEEP)
    with pytest.raises(AdapterError, match=r'of the family "unet", but this model is Lumina2 .*words \(Bokeh Words\)'):
        install(build_case("z-image").model, adapter, SWEEP)


def reordered_names(adapter, model):
    names = [place.name for place in network_places(model)[1][:2]]
    return build_adapter(adapter.tensors, settings_of(adapter) | {"blocks": names}, "FILE")


def test_older_files_are_for_flux():
    golden = Golden("true_cfg")
    adapter = read_adapter(golden.folder / "adapter" / "model.safetensors")
    assert (adapter.settings.family, adapter.settings.by_name) == ("flux", False)
    with pytest.raises(AdapterError, match='of the family "flux", but this model is Flux2'):
        install(build_case("flux.2").model, adapter, SWEEP)
