"""Manifests: what they may say, which files they may name, and how every bad row is named."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from blur_pairs import HEIGHT, WIDTH, near_half, save_grey, save_lines, save_picture, save_scene, texture
from PIL import EpsImagePlugin, ExifTags, Image

from bokeh.training.depth_files import DepthError, read_depth, read_mask, to_disparity
from bokeh.training.entries import median_in
from bokeh.training.manifest import ManifestError, check_rows, read_manifest, write_manifest

SIZE = 64


@pytest.fixture
def data(tmp_path):
    """A folder with one good scene "a"."""
    save_scene(tmp_path, "a")
    return tmp_path


def scene(**changes) -> dict[str, object]:
    """The good row of scene "a" with some keys changed; None takes a key out."""
    row = {"picture": "sharp/a.png", "caption": "a", "depth": "depth/a.png", "mask": "masks/a.png"} | changes
    return {key: value for key, value in row.items() if value is not None}


def photo(**changes) -> dict[str, object]:
    return scene(depth=None, mask=None, **{"blur": 12.5, **changes})


def test_good_rows_of_both_kinds(data):
    rows = read_manifest(
        save_lines(
            data / "pairs.jsonl",
            b"\xef\xbb\xbf" + json.dumps(scene(caption="Bär vor Wald"), ensure_ascii=False).encode(),
            "",
            photo(picture="sharp\\a.png", caption="", blur=30),
            scene(mask=None, focus=0.8, near_is_bright=False),
        ),
        SIZE,
    )
    by_mask, by_camera, by_focus = rows
    assert [row.number for row in rows] == [1, 3, 4]
    assert (by_mask.caption, by_mask.name, by_mask.blur) == ("Bär vor Wald", "sharp/a.png", None)
    assert by_mask.depth.focus == 1.0
    assert by_mask.subject == (0.5, 0.0, 1.0, 1.0)
    assert (by_mask.width, by_mask.height) == (WIDTH, HEIGHT)
    assert (by_camera.blur, by_camera.depth, by_camera.name) == (30.0, None, "sharp/a.png")
    assert by_camera.subject == (0.0, 0.0, 1.0, 1.0)
    assert by_focus.depth.focus == 0.8
    # Turned round, 0.8 is where the map says 0.2: a quarter into the picture.
    assert by_focus.subject[0] < 0.25 < by_focus.subject[2] < 0.35
    assert by_focus.depth.disparity()[0, 0] == 1


BAD = {
    "not JSON": ('{"picture": "sharp/a.png",', "not JSON (Expecting property name"),
    "not an object": ('["sharp/a.png", "a"]', '["sharp/a.png", "a"], expected an object'),
    "not UTF-8": (b'{"caption": "\xff"}', "not UTF-8 (byte 14)"),
    "unknown key": (photo(bluur=3), 'unknown key "bluur", expected picture, caption, blur'),
    "no picture": (photo(picture=None), 'no "picture"'),
    "no caption": (photo(caption=None), 'no "caption"'),
    "caption not a text": (photo(caption=7), '"caption" is 7, expected text'),
    "missing picture": (photo(picture="sharp/b.png"), '"picture": there is no file "sharp/b.png" in'),
    "missing depth": (scene(depth="depth/b.png"), '"depth": there is no file "depth/b.png" in'),
    "missing mask": (scene(mask="masks"), '"mask": there is no file "masks" in'),
    "path out of the folder": (photo(picture="sharp/../../a.png"), "expected a path inside the folder"),
    "absolute path": (photo(picture="/etc/hosts"), '"picture" is "/etc/hosts", expected a path inside'),
    "path on a drive": (photo(picture="C:\\a.png"), "expected a path inside the folder"),
    "empty path": (photo(picture=" "), '"picture" is " ", expected the path of a file'),
    "path with a zero byte": (photo(picture="a\0.png"), "there is no file"),
    "unreadable picture": (photo(picture="notes.txt"), '"picture" notes.txt cannot be read as a picture'),
    "truncated picture": (photo(picture="cut.png"), '"picture" cut.png cannot be read as a picture'),
    "deep picture": (photo(picture="deep.png"), '"picture" deep.png has one channel of more than 8 bits'),
    "small picture": (photo(picture="small.png"), "is 96 x 63 px, expected a short side of at least 64 px"),
    "blur too large": (photo(blur=30.5), '"blur" is 30.5, expected a number from 0 to 30'),
    "blur below 0": (photo(blur=-1), '"blur" is -1, expected a number from 0 to 30'),
    "blur NaN": ('{"picture": "sharp/a.png", "caption": "", "blur": NaN}', '"blur" is NaN, expected a number'),
    "blur of 5000 digits": ('{"picture": "sharp/a.png", "caption": "", "blur": ' + "9" * 5000 + "}", "not JSON of any"),
    "blur without bounds": ('{"picture": "sharp/a.png", "caption": "", "blur": 1e999}', '"blur" is Infinity'),
    "half a character": ('{"picture": "sharp/a.png", "caption": "\\ud800", "blur": 3}', '"caption" is'),
    "name that is too long": (photo(picture="a" * 5000), '"picture": there is no file "aaa'),
    "blur a text": (photo(blur="12"), '"blur" is "12", expected a number'),
    "blur a truth": (photo(blur=True), '"blur" is true, expected a number'),
    "both kinds": (scene(blur=3), 'both "blur" and "depth"'),
    "neither kind": (photo(blur=None), 'neither "blur" nor "depth"'),
    "nothing in focus": (scene(mask=None), '"depth" with neither "focus" nor a "mask"'),
    "focus outside": (scene(focus=1.5), '"focus" is 1.5, expected a number from 0 to 1'),
    "focus where nothing is": (scene(focus=0.7), '"focus" is 0.7, but nothing in depth/a.png is within 0.05'),
    "focus of a photo": (photo(focus=0.5), '"focus" without a "depth"'),
    "near not a truth": (scene(near_is_bright=1), '"near_is_bright" is 1, expected true or false'),
    "contradiction": (scene(metric=True, near_is_bright=True), 'both "metric" and "near_is_bright"'),
    "distance 0": (scene(metric=True), "values that are not distances above 0"),
    "constant depth": (scene(depth="flat.png"), '"depth" flat.png has the same value, 128, everywhere'),
    "NaN depth": (scene(depth="nan.npy"), '"depth" nan.npy has NaN or infinite values in 1 of its 6144 pixels'),
    "coloured depth": (scene(depth="sharp/a.png"), '"depth" sharp/a.png is coloured'),
    "depth of a false size": (scene(depth="false.npy"), '"depth" false.npy cannot be read as a NumPy file'),
    "unreadable depth": (scene(depth="broken.npy"), '"depth" broken.npy cannot be read as a NumPy file'),
    "depth of another shape": (scene(depth="turned.png"), "is 64 x 96 px, another shape than the picture of 96 x 64"),
    "tiny depth": (scene(depth="tiny.png"), "is 6 x 4 px, expected a short side of at least 8 px"),
    "empty mask": (scene(mask="dark.png"), '"mask" dark.png is empty: its brightest value is 0.20 of 1'),
    "mask of another shape": (scene(mask="turned.png"), '"mask" turned.png is 64 x 96 px, another shape'),
}


def write_bad_files(data) -> None:
    (data / "notes.txt").write_text("no picture")
    (data / "cut.png").write_bytes((data / "sharp" / "a.png").read_bytes()[:5000])
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(data / "deep.png")
    save_picture(data / "small.png", height=63)
    save_grey(data / "flat.png", np.full((HEIGHT, WIDTH), 0.5))
    save_grey(data / "dark.png", np.full((HEIGHT, WIDTH), 0.2))
    save_grey(data / "turned.png", near_half(HEIGHT, WIDTH))
    save_grey(data / "tiny.png", near_half(6, 4))
    depth = near_half()
    depth[3, 5] = np.nan
    np.save(data / "nan.npy", depth)
    with (data / "false.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    (data / "broken.npy").write_bytes(b"\x93NUMPY nothing")


NO_MANIFEST = {
    "a line without an end": (b"x" * 200_000, "line 1 has more than 65536 bytes"),
    "zeros": (b"\0" * 200_000, "line 1 has more than 65536 bytes"),
    "too many rows": (b"0\n" * 200_002, "more than 200000 rows"),
}


@pytest.mark.parametrize("kind", NO_MANIFEST)
def test_a_file_that_is_no_manifest_is_not_read_to_its_end(tmp_path, kind):
    content, sentence = NO_MANIFEST[kind]
    (tmp_path / "big.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_manifest(tmp_path / "big.jsonl", SIZE)


def test_a_huge_file_is_refused_by_its_size(tmp_path):
    with (tmp_path / "huge.jsonl").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    with pytest.raises(ValueError, match="has more than 64 MB: no manifest"):
        read_manifest(tmp_path / "huge.jsonl", SIZE)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_arrays_are_not_unpacked_before_their_size_is_known(data, monkeypatch):
    monkeypatch.setattr("bokeh.training.depth_files.LARGEST", 2**20)
    np.save(data / "large.npy", np.zeros((512, 512)))
    np.savez_compressed(data / "bomb.npz", depth=np.zeros((512, 512)))
    for name in ("large.npy", "bomb.npz"):
        with pytest.raises(DepthError, match="holds 2 MB, expected at most 1"):
            read_depth(data / name)


def test_of_very_many_problems_the_first_are_shown(data):
    with pytest.raises(ManifestError) as caught:
        read_manifest(save_lines(data / "pairs.jsonl", *["[" * 50_000] * 3, *["{}"] * 300), SIZE)
    assert len(caught.value.problems) == 903
    assert str(caught.value).endswith("and 803 more.")
    assert len(str(caught.value)) < 20_000


def test_every_kind_of_bad_row_is_named_in_one_error(data):
    write_bad_files(data)
    # A good row after each bad one, so that counting is put to the test.
    lines = [line for bad, _ in BAD.values() for line in (bad, scene())]
    with pytest.raises(ManifestError) as caught:
        read_manifest(save_lines(data / "pairs.jsonl", *lines), SIZE)
    message = str(caught.value).splitlines()
    assert message[0] == f"{data / 'pairs.jsonl'}: {len(BAD)} bad rows. Mend or remove them."
    assert {row for row, _ in caught.value.problems} == {2 * i + 1 for i in range(len(BAD))}
    for i, (kind, (_, expected)) in enumerate(BAD.items()):
        named = [line for line in message if line.startswith(f"  row {2 * i + 1}: ")]
        assert any(expected in line for line in named), (kind, named)
    assert len(BAD) >= 12


def test_all_that_is_wrong_with_one_row_is_said(data):
    row = {"picture": "b.png", "caption": None, "blur": 99, "depth": "depth/a.png", "focus": 2, "colour": 1}
    with pytest.raises(ManifestError) as caught:
        check_rows([row], data, SIZE)
    text = str(caught.value)
    for expected in (
        "1 bad row. Mend",
        '"colour"',
        'no file "b.png"',
        '"caption" is null',
        "99",
        "both",
        '"focus" is 2',
    ):
        assert expected in text
    # A row without a number that anybody has seen is named by its picture.
    assert all(problem.startswith("b.png: ") for _, problem in caught.value.problems)


def test_a_manifest_that_is_missing_or_empty(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.jsonl cannot be read \(No such file"):
        read_manifest(tmp_path / "nothing.jsonl", SIZE)
    with pytest.raises(ValueError, match="has no rows"):
        read_manifest(save_lines(tmp_path / "empty.jsonl", "", " "), SIZE)


def test_progress_is_told_and_can_stop_the_check(data):
    manifest = save_lines(data / "pairs.jsonl", *[scene()] * 5)
    told = []
    read_manifest(manifest, SIZE, lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_manifest(manifest, SIZE, stop)


def test_a_picture_is_measured_the_right_way_up(data):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(texture(HEIGHT, WIDTH)).save(data / "turned.jpg", exif=exif)
    (row,) = check_rows([scene(picture="turned.jpg")], data, SIZE)
    assert (row.width, row.height) == (WIDTH, HEIGHT)


def test_no_file_starts_another_program(data, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    for name in ("sharp/a.png", "depth/a.png", "masks/a.png"):
        Image.fromarray(texture(HEIGHT, WIDTH)).save(data / name, "EPS")
    with pytest.raises(ManifestError) as refused:
        check_rows([scene()], data, SIZE)
    assert str(refused.value).count("cannot be read as a picture (cannot identify image file") == 3
    assert str(data) not in str(refused.value).partition("\n")[2]
    assert not started


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff"])
def test_maps_are_read_the_right_way_up(tmp_path, ending):
    values = np.repeat(np.linspace(0, 240, HEIGHT).astype(np.uint8)[:, None], WIDTH, axis=1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(values[::-1, ::-1]).save(tmp_path / f"map.{ending}", exif=exif)
    np.testing.assert_allclose(read_depth(tmp_path / f"map.{ending}"), values, atol=3)
    np.testing.assert_allclose(read_mask(tmp_path / f"map.{ending}"), values / 255, atol=3 / 255)


def test_a_manifest_is_written_whole_or_not_at_all(data):
    path = data / "pairs.jsonl"
    write_manifest(path, [scene(caption="Bär"), photo()])
    assert "Bär" in path.read_text(encoding="utf-8")
    assert len(read_manifest(path, SIZE)) == 2
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_manifest(path, [photo(), {"picture": object()}])
    assert path.read_bytes() == before
    assert [file.name for file in data.glob("*.partial")] == []


def depth_files(folder) -> dict[str, object]:
    """One map in every format that is read."""
    depth = (near_half() * 200).astype(np.uint8)
    eight = Image.fromarray(depth)
    eight.save(folder / "8.png")
    Image.fromarray(depth.astype(np.uint16) * 300).save(folder / "16.png")
    eight.convert("RGB").save(folder / "rgb.png")
    eight.convert("RGBA").save(folder / "rgba.png")
    eight.convert("LA").save(folder / "la.png")
    eight.convert("P").save(folder / "palette.png")
    Image.fromarray(depth.astype(np.float32) / 7).save(folder / "float.tiff")
    real = depth.astype(np.float32) * 0.3 + 5
    np.save(folder / "plain.npy", real)
    np.save(folder / "half.npy", depth.astype(np.float16))
    np.save(folder / "batch.npy", real[None, None])
    np.save(folder / "image.npy", np.repeat(real[None, ..., None], 3, axis=3))
    np.savez(folder / "named.npz", depth=real, focal=np.array(35.0))
    np.savez_compressed(folder / "only.npz", result=real)
    return {path.name: path for path in folder.iterdir()}


def test_every_format_gives_the_same_disparity(tmp_path):
    expected = to_disparity((near_half() * 200).astype(np.uint8))
    assert expected.min() == 0
    assert expected.max() == 1
    files = depth_files(tmp_path)
    assert len(files) == 13
    for name, path in files.items():
        disparity = to_disparity(read_depth(path))
        assert disparity.dtype == np.float32
        np.testing.assert_allclose(disparity, expected, atol=2e-6, err_msg=name)


def test_distances_and_dark_near_maps_become_disparity():
    distance = np.array([[1.0, 2.0], [4.0, 10.0]], np.float32)
    # (1/s - 1/10) / (1 - 1/10)
    np.testing.assert_allclose(to_disparity(distance, metric=True), [[1, 4 / 9], [1 / 6, 0]], rtol=1e-6)
    np.testing.assert_allclose(to_disparity(distance, near_is_bright=False), [[1, 8 / 9], [6 / 9, 0]], rtol=1e-6)
    np.testing.assert_allclose(to_disparity(distance), [[0, 1 / 9], [3 / 9, 1]], rtol=1e-6)


def test_arrays_that_hold_no_single_map_are_refused(tmp_path):
    path = tmp_path / "depth.npy"
    for array, expected in (
        (np.zeros((2, 8, 8)), r"has the shape \[2, 8, 8\], expected one map"),
        (np.zeros((0, 8)), r"has the shape \[0, 8\], expected one map"),
        (np.zeros((8, 8), complex), "values of type complex128, expected numbers"),
        (np.array([{"depth": 1}]), "cannot be read as a NumPy file of plain numbers"),
    ):
        np.save(path, array)
        with pytest.raises(DepthError, match=expected):
            read_depth(path)
    np.savez(tmp_path / "two.npz", near=np.zeros((8, 8)), far=np.zeros((8, 8)))
    with pytest.raises(DepthError, match="holds the arrays near, far, expected one"):
        read_depth(tmp_path / "two.npz")


def test_masks_of_8_and_16_bits(tmp_path):
    half = (near_half() == 1).astype(np.float32)
    save_grey(tmp_path / "8.png", half)
    Image.fromarray((half * 65535).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(half > 0).save(tmp_path / "1.png")
    for name in ("8.png", "16.png", "1.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), half, err_msg=name)


def test_the_focus_of_a_mask_is_a_depth_that_is_there():
    disparity = np.array([[0.1, 0.1, 0.9, 0.9]], np.float32)
    everything = np.ones((2, 8), np.float32)
    assert median_in(disparity, everything) == pytest.approx(0.1)
    # A subject of a quarter of a pixel of the depth map.
    speck = np.zeros((2, 16), np.float32)
    speck[0, 9:11] = 1
    assert median_in(disparity, speck) == pytest.approx(0.9)
