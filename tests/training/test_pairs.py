"""Blur pairs from a manifest: what is drawn, at which blurs, and which part of it is held out."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import numpy as np
import pytest
import torch
from blur_pairs import HEIGHT, near_half, save_grey, save_picture, save_scene
from PIL import Image

from bokeh.optics.render import render_depth
from bokeh.training.entries import Entry
from bokeh.training.manifest import check_rows
from bokeh.training.pairs import RENDER_BYTES, ManifestPairs, group_blurs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo_row(name: str, blur: float = 10.0, width: int = 96, height: int = 64) -> Entry:
    """A photo that exists only by name, for what needs no pixels."""
    path = Path(name)
    whole = (0.0, 0.0, 1.0, 1.0)
    return Entry(number=1, name=name, picture=path, caption="", width=width, height=height, subject=whole, blur=blur)


@pytest.fixture
def scenes(tmp_path) -> list[Entry]:
    return check_rows([save_scene(tmp_path, name, seed) for seed, name in enumerate("abcd")], tmp_path, 64)


def test_a_group_is_one_crop_rendered_at_contrasting_blurs(tmp_path):
    # As large as the training size, so that there is nothing to crop.
    rows = check_rows([save_scene(tmp_path, "a", size=(64, 64))], tmp_path, 64)
    pairs = ManifestPairs(rows, 64, held_out=0)
    seen_sharp = False
    for seed in range(8):
        images, captions, blurs = pairs.draw(seeded(seed), 1, 4)
        assert images.shape == (4, 64, 64, 3)
        assert images.dtype == torch.float32
        assert captions == ["scene a"]
        with Image.open(rows[0].picture) as picture:
            sharp = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
        for image, blur in zip(images, blurs, strict=True):
            if blur == 0:
                seen_sharp = True
                assert torch.equal(image, sharp)
            expected = render_depth(sharp[None], torch.from_numpy(near_half(64, 64))[None], 1.0, blur[None])
            # The depth map on disk has 8 bits.
            assert (image - expected[0]).abs().max() < 0.03
            # What is in focus stays, further inside than the largest disc reaches.
            assert torch.equal(image[:, 40:], sharp[:, 40:])
    assert seen_sharp


def test_everything_drawn_is_settled_by_the_generator(scenes):
    pairs = ManifestPairs(scenes, 64, held_out=0)
    first, again, other = (pairs.draw(seeded(seed), 3, 2) for seed in (5, 5, 6))
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert torch.equal(first.blurs, again.blurs)
    assert not torch.equal(first.images, other.images)
    # Two pictures a scene, one caption a scene, no scene twice.
    assert len(first.images) == len(first.blurs) == 6
    assert len(set(first.captions)) == 3
    # More scenes than there are.
    assert len(pairs.draw(seeded(), 9, 1).captions) == 9


def test_blurs_of_a_group_contrast():
    drawn = torch.stack([group_blurs(4, seeded(seed)) for seed in range(2000)])
    assert drawn.max() <= 30
    sharp = drawn == 0
    assert drawn[~sharp].min() >= 1
    assert (sharp.sum(1) <= 1).all()
    assert sharp.float().mean() == pytest.approx(1 / 8, abs=0.01)
    # One in each quarter of 1..30, wherever it stands in the group.
    quarters = ((drawn.clamp(min=1) - 1) / 29 * 4).floor().clamp(max=3).sort(1).values
    assert torch.equal(quarters, torch.arange(4.0).expand_as(quarters))
    assert drawn.argmin(1).float().mean() == pytest.approx(1.5, abs=0.1)
    single = torch.cat([group_blurs(1, seeded(seed)) for seed in range(4000)])
    assert (single == 0).float().mean() == pytest.approx(1 / 8, abs=0.02)
    assert single[single > 0].mean() == pytest.approx(15.5, abs=0.5)


def ramp_rows(folder, blur: float) -> list[Entry]:
    """A photo of 256 x 256 whose brightness is the place from left to right."""
    ramp = np.tile(np.linspace(0, 255, 256, dtype=np.float32), (256, 1)).round().astype(np.uint8)
    Image.fromarray(ramp).save(folder / "ramp.png")
    return check_rows([{"picture": "ramp.png", "caption": "", "blur": blur}], folder, 64)


def test_the_blur_of_a_photo_grows_as_the_crop_shrinks(tmp_path):
    pairs = ManifestPairs(ramp_rows(tmp_path, 12.0), 64, held_out=0)
    zooms = []
    for seed in range(12):
        images, _, blurs = pairs.draw(seeded(seed), 1, 1)
        shown = (images[0, :, -1].mean() - images[0, :, 0].mean()) * 64 / 63
        assert blurs.item() == pytest.approx(12 / shown.item(), rel=0.02)
        zooms.append(blurs.item() / 12)
    assert 1 <= min(zooms) < 1.1
    assert 1.15 < max(zooms) <= 1.25


def test_a_blur_never_leaves_its_range(tmp_path):
    pairs = ManifestPairs(ramp_rows(tmp_path, 29.0), 64, held_out=0)
    blurs = torch.cat([pairs.draw(seeded(seed), 1, 1).blurs for seed in range(12)])
    assert blurs.max() <= 30
    assert blurs.min() >= 29
    assert blurs.max() > 29.5


@pytest.mark.parametrize("keep_aspect", [False, True])
def test_crops_keep_the_subject(tmp_path, keep_aspect):
    picture = np.zeros((256, 512, 3), np.uint8)
    picture[200:250, 440:510, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    save_grey(tmp_path / "mask.png", picture[..., 0] / 255)
    rows = check_rows([{"picture": "a.png", "caption": "", "blur": 1, "mask": "mask.png"}], tmp_path, 128)
    pairs = ManifestPairs(rows, 128, keep_aspect, held_out=0)
    for seed in range(20):
        images, _, blurs = pairs.draw(seeded(seed), 1, 1)
        # Enlarged as much as the blur: the whole red patch is there.
        assert images[..., 0].sum() == pytest.approx(50 * 70 * (blurs.item() / 2) ** 2, rel=0.03)


def test_a_crop_lies_within_a_subject_that_is_larger(tmp_path):
    picture = np.zeros((64, 256, 3), np.uint8)
    picture[:, 60:220, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    save_grey(tmp_path / "mask.png", picture[..., 0] / 255)
    rows = check_rows([{"picture": "a.png", "caption": "", "blur": 1, "mask": "mask.png"}], tmp_path, 64)
    pairs = ManifestPairs(rows, 64, held_out=0)
    assert all(pairs.draw(seeded(seed), 1, 1).images[..., 0].min() == 1 for seed in range(20))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(96, 64, (64, 96)), (64, 96, (96, 64)), (100, 65, (64, 96)), (640, 64, (64, 128)), (70, 64, (64, 64))],
)
def test_a_kept_aspect_is_a_multiple_of_16_and_never_larger_than_the_picture(tmp_path, width, height, expected):
    save_picture(tmp_path / "a.png", width, height)
    rows = check_rows([{"picture": "a.png", "caption": "", "blur": 3}], tmp_path, 64)
    images = ManifestPairs(rows, 64, keep_aspect=True, held_out=0).draw(seeded(), 1, 1).images
    assert images.shape[1:3] == expected


def test_all_scenes_of_one_draw_have_one_shape(tmp_path):
    sizes = [(96, 64), (96, 64), (64, 96), (64, 64)]
    rows = check_rows([save_scene(tmp_path, str(i), i, size) for i, size in enumerate(sizes)], tmp_path, 64)
    pairs = ManifestPairs(rows, 64, keep_aspect=True, held_out=0)
    shapes = {pairs.draw(seeded(seed), 3, 2).images.shape for seed in range(12)}
    assert shapes == {(6, 64, 96, 3), (6, 96, 64, 3), (6, 64, 64, 3)}


def test_single_pictures_come_from_both_kinds_and_groups_from_pictures_with_depth(tmp_path, scenes):
    save_picture(tmp_path / "wild.png")
    photos = check_rows([{"picture": "wild.png", "caption": "wild", "blur": 7}], tmp_path, 64)
    pairs = ManifestPairs(scenes + photos, 64, held_out=0)
    assert (pairs.groups, pairs.singles) == (True, True)
    singles = {caption for seed in range(20) for caption in pairs.draw(seeded(seed), 1, 1).captions}
    assert singles == {"scene a", "scene b", "scene c", "scene d", "wild"}
    grouped = {caption for seed in range(20) for caption in pairs.draw(seeded(seed), 1, 2).captions}
    assert grouped == singles - {"wild"}
    only_photos = ManifestPairs(photos, 64, held_out=0)
    assert not only_photos.groups
    with pytest.raises(ValueError, match=r"There are no groups to draw. Add rows with a depth"):
        only_photos.draw(seeded(), 1, 2)


def held_out(pairs: ManifestPairs, rows: list[Entry]) -> set[str]:
    """Names of the rows that are held out, as drawing shows them."""
    kept = {row.name for row in pairs._photos[True]}
    assert kept | {row.name for row in pairs._photos[False]} == {row.name for row in rows}
    assert not kept & {row.name for row in pairs._photos[False]}
    return kept


def test_the_held_out_part_is_a_share_that_stays_when_rows_are_added():
    rows = [photo_row(f"{i}.jpg") for i in range(2000)]
    few, many = (held_out(ManifestPairs(part, 64, held_out=0.1), part) for part in (rows[:1000], rows))
    assert len(many) == pytest.approx(200, abs=40)
    assert few == many & {row.name for row in rows[:1000]}
    # All rows of one picture are on one side.
    twice = rows[:50] + [photo_row(row.name, 20.0) for row in rows[:50]]
    pairs = ManifestPairs(twice, 64, held_out=0.3)
    assert len(held_out(pairs, twice)) * 2 == len(pairs._photos[True])


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_each_kind_has_both_parts_from_two_pictures_on(scenes, share):
    for seed in range(10):
        photos = [photo_row(f"{seed}-{i}.jpg") for i in range(2)]
        pairs = ManifestPairs(scenes + photos, 64, held_out=share)
        assert all(part for parts in (pairs._grouped, pairs._photos) for part in parts.values())


def test_what_is_held_out_is_not_trained_on(scenes):
    pairs = ManifestPairs(scenes, 64, held_out=0.25)
    kept, trained = (
        {caption for seed in range(20) for caption in pairs.draw(seeded(seed), 1, 2, part).captions}
        for part in (True, False)
    )
    assert kept
    assert trained
    assert kept | trained == {"scene a", "scene b", "scene c", "scene d"}
    assert not kept & trained
    assert pairs.summary() == f"Sharp pictures with depth: 4 (held out: {len(kept)})"
    with pytest.raises(ValueError, match=r"no held-out groups to draw. Hold out a share above 0"):
        ManifestPairs(scenes, 64, held_out=0).draw(seeded(), 1, 2, held_out=True)


def test_a_file_that_is_gone_names_its_row(scenes):
    pairs = ManifestPairs(scenes[2:3], 64, held_out=0)
    scenes[2].depth.path.unlink()
    with pytest.raises(
        ValueError, match=r"(?s)Row 3 of the manifest, sharp/c\.png: .*cannot be read.*Check the manifest"
    ):
        pairs.draw(seeded(), 1, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": 60}, "training size is 60 px, expected a multiple of 16"),
        ({"size": 0}, "training size is 0 px"),
        ({"held_out": 0.6}, r"held-out share is 0.6, expected 0 to 0.5"),
        ({"entries": []}, "no rows to train on"),
    ],
)
def test_options_out_of_range_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        ManifestPairs(**{"entries": [photo_row("a.jpg")], "size": 64} | options)


def test_the_picture_is_never_enlarged(tmp_path):
    # One pixel wide stripes survive only at the picture's own size.
    stripes = np.zeros((HEIGHT, HEIGHT, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    rows = check_rows([{"picture": "a.png", "caption": "", "blur": 3}], tmp_path, HEIGHT)
    for seed in range(5):
        images = ManifestPairs(rows, HEIGHT, held_out=0).draw(seeded(seed), 1, 1).images
        assert torch.equal(images[0], torch.from_numpy(stripes / np.float32(255)))


def test_other_files_captions_or_settings_are_another_identity(tmp_path):
    def identity(names="ab", **settings):
        rows = check_rows([save_scene(tmp_path, name, ord(name)) for name in names], tmp_path, 64)
        return ManifestPairs(rows, **{"size": 64, "held_out": 0.1, **settings}).identity()

    first = identity()
    # The same files written again are the same data.
    assert identity() == first
    assert {name for name in first if identity("abc")[name] != first[name]} == {"pictures", "captions"}
    for setting, value in (("size", 48), ("keep_aspect", True), ("held_out", 0.2)):
        assert {name for name in first if identity(**{setting: value})[name] != first[name]} == {setting}
    rows = [save_scene(tmp_path, name, ord(name)) for name in "ab"]
    rows[0]["caption"] = "something else"
    changed = ManifestPairs(check_rows(rows, tmp_path, 64), 64, held_out=0.1).identity()
    assert {name for name in first if changed[name] != first[name]} == {"captions"}
    # Of the same name and size, one pixel another.
    pixels = np.asarray(Image.open(tmp_path / "sharp" / "a.png")).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "sharp" / "a.png")
    changed = ManifestPairs(check_rows(rows, tmp_path, 64), 64, held_out=0.1).identity()
    assert changed["pictures"] != first["pictures"]


@pytest.mark.parametrize("what", ["no room", "room for two", "no memory after all"])
def test_rendering_asks_the_host_for_memory_and_goes_to_the_cpu_where_there_is_none(scenes, monkeypatch, what):
    expected = ManifestPairs(scenes, 64, held_out=0).draw(seeded(), 1, 4)
    memory = RENDER_BYTES * 64 * 64
    free = {"no room": memory - 1, "room for two": 2 * memory, "no memory after all": 9 * memory}[what]
    asked, rendered = [], []
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda size, device: asked.append((size, device)))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free)

    def render(picture, disparity, focus, blurs):
        rendered.append((picture.device.type, len(picture)))
        if picture.device.type == "meta":
            if what == "no memory after all":
                raise comfy.model_management.OOM_EXCEPTION("out of memory")
            return torch.zeros_like(picture, device="cpu")
        return render_depth(picture, disparity, focus, blurs)

    # A device that exists everywhere and computes nothing.
    monkeypatch.setattr("bokeh.training.pairs.render_depth", render)
    drawn = ManifestPairs(scenes, 64, held_out=0, device="meta").draw(seeded(), 1, 4)
    assert asked == [(memory, torch.device("meta"))]
    if what == "room for two":
        assert rendered == [("meta", 2), ("meta", 2)]
    else:
        assert rendered[-1] == ("cpu", 4)
        assert torch.equal(drawn.images, expected.images)
