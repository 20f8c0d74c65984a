"""The node Bokeh Pairs in the real host."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import folder_paths
import nodes
import pytest
import torch
from blur_pairs import LENS, save_lines, save_photo, save_picture, save_scene

from bokeh.training.manifest import ManifestError
from bokeh.training.pairs import ManifestPairs
from bokeh.training.scenes import Scenes

NODE = nodes.NODE_CLASS_MAPPINGS["BokehPairs"]


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """The host's input folder, with a data set in its folder "mine"."""
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    rows = [save_scene(tmp_path / "mine", name, seed) for seed, name in enumerate("abc")]
    save_lines(tmp_path / "mine" / "manifest.jsonl", *rows)
    return tmp_path / "mine"


def run(path: object = "mine", source: str = "manifest or folder", size: int = 64, keep_aspect=False, held_out=0.1):
    return NODE.EXECUTE_NORMALIZED(source=source, path=str(path), size=size, keep_aspect=keep_aspect, held_out=held_out)


@pytest.mark.parametrize("path", ["mine", "mine/manifest.jsonl", "whole"])
def test_a_manifest_becomes_pairs(data, path):
    done = run(data if path == "whole" else path, keep_aspect=True)
    pairs, samples, report = done.result
    assert isinstance(pairs, ManifestPairs)
    assert report.startswith("Sharp pictures with depth: 3 (held out: 1)")
    assert samples.shape[0] == 1
    assert samples.shape[1] > 3 * 64
    assert samples.shape[2] > 4 * 96
    images, _, blurs = pairs.draw(torch.Generator().manual_seed(0), 1, 4)
    assert images.shape == (4, 64, 96, 3)
    assert len(blurs) == 4
    assert set(done.ui) == {"images", "text", "animated"}


def test_procedural_scenes_need_no_path(data):
    pairs, samples, report = run("", "procedural scenes").result
    assert isinstance(pairs, Scenes)
    assert report.startswith("Procedural scenes, 128 x 128")
    assert samples.shape[1] > 3 * 128


def test_a_folder_without_a_manifest_is_searched_and_skips_are_counted(data):
    (data / "manifest.jsonl").unlink()
    for path in (data / "sharp").glob("*.png"):
        path.with_suffix(".txt").write_text("a scene")
    save_photo(data / "wild" / "near.jpg").with_suffix(".txt").write_text("a photo")
    save_photo(data / "wild" / "far.jpg", {**LENS, "SubjectDistance": 0}).with_suffix(".txt").write_text("a photo")
    lines = run().result[2].splitlines()
    assert lines[0] == "Sharp pictures with depth: 3 (held out: 1)"
    assert lines[1:] == [
        "Photos with their own blur: 1 (held out: 0)",
        "Skipped: 1, no subject distance in m in the EXIF: wild/far.jpg",
    ]


def test_photos_alone_are_shown_too(data):
    (data / "manifest.jsonl").unlink()
    for i in range(3):
        save_photo(data / "other" / "wild" / f"{i}.jpg").with_suffix(".txt").write_text("a photo")
    pairs, samples, _ = run("mine/other").result
    assert not pairs.groups
    assert samples.shape[0] == 1


def test_bad_rows_and_paths_are_refused_by_name(data):
    save_lines(data / "bad.jsonl", "{", '{"picture": "sharp/a.png", "caption": "", "blur": 31}')
    with pytest.raises(ManifestError, match=r"(?s)2 bad rows.*row 1: not JSON.*row 2: \"blur\" is 31"):
        run("mine/bad.jsonl")
    with pytest.raises(ValueError, match=r'The path of the pairs is "theirs", and there is no .*theirs'):
        run("theirs")
    with pytest.raises(ValueError, match='The path of the pairs is " "'):
        run(" ")
    save_picture(data / "odd" / "sharp" / "a.png")
    with pytest.raises(
        ValueError, match=r"(?s)No picture of mine/odd can be used.*Skipped: 1, no caption.*sharp/a\.png"
    ):
        run("mine/odd")


def refusal(path: str) -> str:
    with pytest.raises(ValueError, match="The path of the pairs is") as refused:
        run(path)
    return str(refused.value).replace(path, "...")


def test_every_path_outside_gets_the_sentence_of_one_that_is_not_there(data, tmp_path_factory, monkeypatch):
    outside = tmp_path_factory.mktemp("outside")
    save_lines(outside / "manifest.jsonl", save_scene(outside, "secret", 1))
    (data / "link").symlink_to(outside)
    (data / "link.jsonl").symlink_to(outside / "manifest.jsonl")
    (data / "linked manifest").mkdir()
    (data / "linked manifest" / "manifest.jsonl").symlink_to(outside / "manifest.jsonl")
    os.mkfifo(data / "pipe")
    paths = [
        str(outside),
        str(outside / "manifest.jsonl"),
        str(outside / "not there"),
        f"../../{outside.parent.name}/{outside.name}",
        "/etc/passwd",
        "/dev/ptmx",
        "mine/link",
        "mine/link.jsonl",
        "mine/pipe",
        "//server/share",
        "nul\0",
        "a\nb",
        "~",
    ]
    expected = refusal("theirs")
    assert str(data) not in expected
    for path in paths:
        assert refusal(path) == expected, path
    started = time.process_time()
    assert len(refusal("long/" * 100_000)) < 1000
    assert time.process_time() - started < 1
    with pytest.raises(ValueError, match="linked manifest has no pictures to train on"):
        run("mine/linked manifest")
    # The owner may open a folder to workflows.
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "bokeh_pairs", ([str(outside)], set()))
    assert run(outside).result[2].startswith("Sharp pictures with depth: 1")
    assert run("mine/link").result[2].startswith("Sharp pictures with depth: 1")


def test_files_that_links_lead_out_to_are_not_there(data, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    secret = save_scene(outside, "secret", 1)
    for part in ("sharp", "depth"):
        (data / part / "out.png").symlink_to(outside / secret["picture" if part == "sharp" else "depth"])
    (data / "sharp" / "out.txt").write_text("a scene")
    row = {"picture": "sharp/out.png", "caption": "", "depth": "depth/a.png", "focus": 1.0}
    save_lines(data / "out.jsonl", row, {**row, "picture": "sharp/a.png", "depth": "depth/out.png"})
    with pytest.raises(ManifestError) as refused:
        run("mine/out.jsonl")
    message = str(refused.value)
    assert message.startswith("mine/out.jsonl: 2 bad rows")
    assert 'row 1: "picture": there is no file "sharp/out.png" in the folder of the manifest' in message
    assert 'row 2: "depth": there is no file "depth/out.png" in the folder of the manifest' in message
    (data / "manifest.jsonl").unlink()
    (data / "sharp" / "a.txt").symlink_to(outside / "manifest.jsonl")
    with pytest.raises(ValueError, match="No picture of mine can be used") as refused:
        run("mine")
    assert "out.png" not in str(refused.value)
    # What PIL says of a file names no folder of the server either.
    (data / "sharp" / "b.png").write_bytes(b"nothing")
    save_lines(data / "bad.jsonl", {**row, "picture": "sharp/b.png"})
    with pytest.raises(ManifestError) as refused:
        run("mine/bad.jsonl")
    assert str(data) not in str(refused.value)


def test_changed_files_are_checked_again(data):
    def fingerprint(path="mine"):
        return NODE.fingerprint_inputs(source="manifest or folder", path=path, size=64)

    before = fingerprint()
    assert fingerprint() == before
    (data / "depth" / "a.png").touch()
    touched = fingerprint()
    assert touched != before
    # What the manifest does not name is not looked at: the folder may be the disk.
    save_picture(data / "sharp" / "new.png")
    (data / "broken").symlink_to(data / "nowhere")
    assert fingerprint() == touched
    # Over a link both are None, and an exception would switch the cache off for all behind.
    assert NODE.fingerprint_inputs(source="manifest or folder", path=None) is None
    assert NODE.fingerprint_inputs(source=None, path=None) is None
    assert fingerprint("not there") == fingerprint("not there")
    (data / "manifest.jsonl").unlink()
    searched = fingerprint()
    save_picture(data / "sharp" / "newer.png")
    assert fingerprint() != searched
    assert NODE.fingerprint_inputs(source="procedural scenes", path="anything") == "procedural scenes"


def test_the_check_can_be_interrupted(data):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run()


# Pictures of the graph


def made(count: int = 3, seed: int = 0, size: int = 80) -> dict[str, object]:
    """Pictures with a subject that is nearer than what lies behind it, as nodes for depth and subjects give them."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, size, size)
    masks[:, 20:60, 20:60] = 1
    depth = 0.2 + 0.3 * torch.linspace(0, 1, size).expand(count, size, size) + 0.4 * masks
    return {
        "images": torch.rand(count, size, size, 3, generator=generator),
        "depth": depth[..., None].expand(-1, -1, -1, 3),
        "masks": masks,
        "captions": "a box",
    }


def from_graph(name: str = "mine", **inputs):
    settings = {"source": "pictures of the graph", "path": name, "size": 64, "keep_aspect": False, "held_out": 0.1}
    return NODE.EXECUTE_NORMALIZED(**settings, **inputs)


@pytest.fixture
def sets(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path / "bokeh_pairs"


def test_pictures_of_the_graph_become_a_checked_set_that_grows(sets):
    pairs, _, report = from_graph(**made()).result
    assert report.splitlines()[:2] == [
        "Added to output/bokeh_pairs/mine: 3 new of 3",
        "Sharp pictures with depth: 3 (held out: 1)",
    ]
    images, captions, _ = pairs.draw(torch.Generator().manual_seed(0), 1, 4)
    assert images.shape == (4, 64, 64, 3)
    assert captions == ["a box"]
    # The same pictures are in it once; other ones join.
    # Some nodes give masks with an axis for their channel.
    assert "0 new of 3" in from_graph(**made() | {"masks": made()["masks"][:, None]}).result[2]
    assert from_graph(**made(2, seed=1)).result[0].summary().startswith("Sharp pictures with depth: 5")
    assert run("mine").result[0].summary() == from_graph(**made()).result[0].summary()
    assert not [path for path in sets.rglob("*") if path.name.endswith(".partial")]


def test_distances_with_a_sky_at_infinity_focus_on_the_subject(sets):
    inputs = made(1)
    depth = 1 / inputs["depth"]
    depth[:, :8] = float("inf")
    pairs = from_graph(**inputs | {"depth": depth}, depth_is="metres").result[0]
    (entry,) = pairs._grouped[False] + pairs._grouped[True]
    near = 1 / depth[0, 40, 40, 0]
    assert entry.depth.focus == pytest.approx(float(near / (1 / depth).max()), abs=0.15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": None}, "nothing is connected to depth. Connect sharp pictures"),
        ({"images": torch.full((3, 80, 80, 3), float("nan"))}, "The pictures have NaN or infinite values"),
        ({"masks": torch.ones(2, 80, 80)}, "There are 2 masks for 3 pictures, expected one each"),
        ({"captions": "a\nb"}, "There are 2 captions for 3 pictures, expected one for all"),
        ({"captions": "a" * 70_000}, "A caption has 70000 characters, expected at most 10000"),
        ({"masks": torch.zeros(3, 80, 80)}, r"bad rows\. Mend or remove them\..*is empty"),
        ({"depth": torch.full((3, 80, 80, 3), 0.5)}, "has the same value"),
        ({"images": torch.rand(3, 40, 40, 3)}, "expected a short side of at least 64 px"),
    ],
)
def test_pictures_of_the_graph_that_training_cannot_use_are_named_and_none_is_kept(sets, change, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        from_graph(**made() | change)
    assert not [path for path in sets.rglob("*") if path.is_file()]


def test_rows_that_its_owner_wrote_stay_in_a_set(sets):
    from_graph(**made(1))
    manifest = sets / "mine" / "manifest.jsonl"
    row = json.loads(manifest.read_text(encoding="utf-8"))
    rows = [row, {**row, "focus": 1.0}]
    save_lines(manifest, *rows)
    assert "1 new of 1" in from_graph(**made(1, seed=1)).result[2]
    assert "0 new of 1" in from_graph(**made(1)).result[2]
    kept = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    assert kept[:2] == rows
    assert len(kept) == 3


def test_a_name_of_a_set_stays_in_its_folder(sets):
    for name in ("", "../mine", "a//b"):
        with pytest.raises(ValueError, match="cannot be the name of a set of pictures"):
            from_graph(name, **made(1))
