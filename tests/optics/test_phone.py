"""Portraits as phones write them, made up byte by byte: HEIC's rules with a stand-in for its package, JPEG for real."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import time
import types
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from bokeh.nodes.phone import BokehPortrait
from bokeh.optics.phone import read_portrait

RAMP = np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))
LAST = 248 / 255


def jpeg(image: Image.Image, xmp: str = "", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lens = exif.get_ifd(ExifTags.IFD.Exif)
    lens |= {ExifTags.Base.FocalLength: 5.7, ExifTags.Base.FNumber: 1.5, ExifTags.Base.FocalLengthIn35mmFilm: 26}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif, xmp=xmp.encode())
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def extended(data: bytes, xmp: str, piece: int) -> bytes:
    """With the XMP in pieces behind the start of the file, the last piece first."""
    whole, segments = xmp.encode(), []
    for at in range(0, len(whole), piece):
        head = (
            b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + len(whole).to_bytes(4, "big") + at.to_bytes(4, "big")
        )
        body = head + whole[at : at + piece]
        segments.append(b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body)
    return data[:2] + b"".join(reversed(segments)) + data[2:]


PHOTO = Image.new("RGB", (64, 48), (90, 120, 60))
GOOGLE = 'GDepth:Format="RangeInverse" GDepth:Near="0.5" GDepth:Far="4" GDepth:Units="m"'


def test_google_s_depth_in_pieces_of_xmp_is_in_metres(tmp_path):
    data = f'GDepth:Data="{base64.b64encode(png(RAMP)).decode()}"'
    path = tmp_path / "google.jpg"
    path.write_bytes(extended(jpeg(PHOTO, f"<x {GOOGLE}/>"), f"<x {data}/>", 100))
    portrait = read_portrait(path)
    assert portrait.metric
    assert portrait.disparity.shape == (24, 32)
    assert portrait.disparity[0, [0, -1]] == pytest.approx([2, 2 + LAST * (0.25 - 2)], rel=1e-4)
    assert (portrait.exif.focal_length, portrait.exif.f_number) == (5.7, 1.5)


def test_linear_ranges_and_ranges_without_metres(tmp_path):
    data = f'GDepth:Data="{base64.b64encode(png(RAMP)).decode()}"'
    linear, bare = tmp_path / "linear.jpg", tmp_path / "bare.jpg"
    linear.write_bytes(extended(jpeg(PHOTO, f"<x {GOOGLE.replace('Inverse', 'Linear')}/>"), f"<x {data}/>", 9000))
    bare.write_bytes(extended(jpeg(PHOTO, "<x/>"), f"<x {data}/>", 9000))
    assert 1 / read_portrait(linear).disparity[0, [0, -1]] == pytest.approx([0.5, 0.5 + LAST * 3.5], rel=1e-4)
    portrait = read_portrait(bare)
    assert not portrait.metric
    assert portrait.disparity[0, [0, -1]] == pytest.approx([1, 1 - LAST])


def test_android_s_depth_is_an_item_behind_the_picture_and_turns_with_it(tmp_path):
    depth, other = png(RAMP), b"something else"
    items = (("Primary", 0), ("Depth", len(depth)), ("Other", len(other)))
    xmp = "".join(f'<Container:Item Item:Semantic="{name}" Item:Length="{size}"/>' for name, size in items)
    xmp += '<x DepthMap:Format="RangeInverse" DepthMap:Near="0.5" DepthMap:Far="4"/>'
    path = tmp_path / "android.jpg"
    path.write_bytes(jpeg(PHOTO, xmp, orientation=6) + depth + other)
    portrait = read_portrait(path)
    assert portrait.image.size == (48, 64)
    assert portrait.disparity.shape == (32, 24)
    # A quarter turn clockwise: the left edge becomes the upper one.
    assert portrait.disparity[[0, -1], 0] == pytest.approx([2, 2 + LAST * (0.25 - 2)], rel=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_depth_turns_and_is_mirrored_with_its_picture(tmp_path, orientation):
    values = RAMP // 2 + 3 * np.arange(24, dtype=np.uint8)[:, None]
    xmp = f'<x {GOOGLE} GDepth:Data="{base64.b64encode(png(values)).decode()}"/>'
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg(Image.fromarray(values).resize((64, 48)).convert("RGB"), xmp, orientation))
    portrait = read_portrait(path)
    grey = np.asarray(portrait.image.resize(portrait.disparity.shape[::-1]).convert("L"), dtype=np.float32)
    assert np.corrcoef(grey.ravel(), portrait.disparity.ravel())[0, 1] < -0.98


def test_apple_s_depth_is_a_further_picture_of_the_file(tmp_path):
    xmp = '<x apdi:AuxiliaryImageType="disparity" apdi:FloatMinValue="0.5" apdi:FloatMaxValue="3"/>'
    path = tmp_path / "apple.jpg"
    further = Image.fromarray(RAMP)
    further.encoderinfo = {"xmp": xmp.encode(), "quality": 100}
    PHOTO.save(path, "MPO", save_all=True, append_images=[further])
    portrait = read_portrait(path)
    assert portrait.metric
    assert portrait.disparity[0, [0, -1]] == pytest.approx([0.5, 0.5 + LAST * 2.5], abs=0.02)


@pytest.fixture
def heif(monkeypatch):
    """Puts what pillow-heif would have read in its place."""

    def install(metadata: dict | None, depth: np.ndarray = RAMP, photo: Image.Image = PHOTO, **info) -> None:
        as_pillow = types.SimpleNamespace(to_pillow=lambda: Image.fromarray(depth), info={"metadata": metadata})
        # Its opened file says nothing about orientation; the picture that it decodes does.
        decoded = photo.copy()
        decoded.info |= info
        opened = types.SimpleNamespace(to_pillow=lambda: decoded, info={"depth_images": [as_pillow]})
        module = types.SimpleNamespace(open_heif=lambda file: [opened])
        monkeypatch.setitem(sys.modules, "pillow_heif", module)

    return install


@pytest.mark.parametrize(
    ("metadata", "metric", "ends"),
    [
        ({"representation_type": 1, "d_min": 1.5, "d_max": 4.5}, True, (1.5, 1.5 + LAST * 3)),
        ({"representation_type": 0, "z_near": 0.5, "z_far": 4.0}, True, (0.25, 0.25 + LAST * 1.75)),
        ({"representation_type": 2, "z_near": 0.5, "z_far": 4.0}, True, (0.25, 1 / (4 - LAST * 3.5))),
        (None, False, (0, LAST)),
    ],
)
def test_a_heic_s_depth_is_as_its_file_says(heif, tmp_path, metadata, metric, ends):
    heif(metadata)
    path = tmp_path / "photo.HEIC"
    path.touch()
    portrait = read_portrait(path)
    assert portrait.metric is metric
    assert portrait.disparity[0, [0, -1]] == pytest.approx(ends, rel=1e-4)
    assert portrait.image.size == (64, 48)


@pytest.mark.parametrize("stored", [RAMP, np.rot90(RAMP, -1)], ids=["as the sensor saw it", "upright already"])
def test_an_upright_heic_has_upright_depth(heif, tmp_path, stored):
    heif(
        {"representation_type": 1, "d_min": 1.0, "d_max": 2.0},
        stored,
        PHOTO.rotate(90, expand=True),
        original_orientation=6,
    )
    path = tmp_path / "upright.heic"
    path.touch()
    portrait = read_portrait(path)
    assert portrait.image.size == (48, 64)
    assert portrait.disparity.shape == (32, 24)
    assert portrait.disparity[[0, -1], 0] == pytest.approx([1, 1 + LAST], rel=1e-4)


@pytest.mark.parametrize("length", [700, 1000, 1300])
def test_a_portrait_that_was_cut_off_is_refused_in_a_sentence(tmp_path, length):
    """Between the end of the first picture of an MPO and the end of its depth."""
    further = Image.fromarray(RAMP)
    further.encoderinfo = {"xmp": b'<x apdi:AuxiliaryImageType="disparity"/>', "quality": 100}
    path = tmp_path / "cut.jpg"
    PHOTO.save(path, "MPO", save_all=True, append_images=[further])
    data = path.read_bytes()
    assert length < len(data)
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match=r"cut\.jpg (cannot be read|carries no depth|is not a photo)"):
        read_portrait(path)


def test_without_its_package_a_heic_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "photo.heic"
    path.touch()
    with pytest.raises(
        ValueError, match=re.escape("photo.heic is a HEIC, which needs the package pillow-heif. Install")
    ):
        read_portrait(path)


def test_what_is_no_portrait_is_refused_in_a_sentence(tmp_path):
    plain, text = tmp_path / "plain.jpg", tmp_path / "text.jpg"
    plain.write_bytes(jpeg(PHOTO))
    text.write_text("no picture")
    for path, message in (
        (plain, "plain.jpg carries no depth. Take it in the phone's portrait mode"),
        (text, "text.jpg is not a photo"),
        (tmp_path / "none.jpg", "There is no photo none.jpg"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            read_portrait(path)


def test_the_node_gives_metres_the_lens_and_what_is_blurred_already():
    data = f'GDepth:Data="{base64.b64encode(png(RAMP)).decode()}"'
    photo = jpeg(PHOTO.resize((1536, 1152)), f"<x {GOOGLE}/>")
    Path(folder_paths.get_input_directory(), "portrait_test.jpg").write_bytes(extended(photo, f"<x {data}/>", 9000))
    (image, depth, focal_length, f_number, text) = BokehPortrait.execute("portrait_test.jpg").result
    assert image.shape == (1, 1152, 1536, 3)
    assert depth.shape == (1, 24, 32, 3)
    assert depth[0, 0, 0].tolist() == [0.5] * 3
    assert depth[0, 0, -1, 0].item() == pytest.approx(1 / (2 + LAST * (0.25 - 2)), rel=1e-4)
    assert (focal_length, f_number) == (5.7, 1.5)
    assert "1536 x 1152, depth of 32 x 24 in metres, from 0.50 m to 3.36 m: depth_is metres" in text
    assert "taken with 5.7 mm at f/1.5" in text
    # K = 1000 * 0.0057^2 * 0.87 / (3 * 0.8643) * 682.67 / 7.587 = 0.981; 2 K (2 - 1 / 0.87) * 1152 / 512 = 3.8 px
    assert re.search(r"its lens, focused at 0\.8\d m, has already drawn discs of up to 4 px: blur adds to them", text)
    assert BokehPortrait.fingerprint_inputs("portrait_test.jpg") == BokehPortrait.fingerprint_inputs(
        "portrait_test.jpg"
    )
    assert BokehPortrait.fingerprint_inputs(None) is None
    assert torch.isfinite(depth).all()


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "a\0b.jpg", "\ud800.jpg", "x" * 300, "", "out.jpg"])
def test_only_files_of_the_input_folder_are_portraits(tmp_path, name):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(PHOTO))
    link = Path(folder_paths.get_input_directory(), "out.jpg")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    assert isinstance(BokehPortrait.fingerprint_inputs(name), str)
    with pytest.raises(ValueError, match="There is no photo"):
        BokehPortrait.execute(name)
    if name != "out.jpg":
        assert "There is no photo" in BokehPortrait.validate_inputs(name)


def test_a_portrait_stops_no_queue_that_does_not_use_it():
    assert not BokehPortrait.GET_SCHEMA().is_output_node


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
BOMB = png(np.zeros((1, 1), np.uint8)).replace(b"\0\0\0\x01\0\0\0\x01", b"\x7f\0\0\0\x7f\0\0\0", 1)


@pytest.mark.parametrize(
    "xmp",
    [
        f'GDepth:Data="{base64.b64encode(EPS).decode()}"',
        f'GDepth:Data="{base64.b64encode(BOMB).decode()}"',
        'GDepth:Data="abc"',
        f'GDepth:Near="x" GDepth:Far="y" GDepth:Data="{base64.b64encode(png(RAMP)).decode()}"',
        f'GDepth:Near="1e-320" GDepth:Far="2" GDepth:Data="{base64.b64encode(png(RAMP)).decode()}"',
        '<Container:Item Item:Semantic="Depth" Item:Length="many"/>',
        '<Container:Item Item:Semantic="Depth" Item:Length="-99999999999"/>',
        "<Container:Item" * 40_000,
        "GDepth:Data>" * 100_000,
    ],
)
def test_no_portrait_starts_programs_or_takes_for_ever(tmp_path, monkeypatch, xmp):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    path = tmp_path / "hostile.jpg"
    path.write_bytes(extended(jpeg(PHOTO, "<x/>"), f"<x {xmp}/>", 60_000))
    started = time.monotonic()
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"hostile\.jpg (cannot be read|is not a photo|carries no depth)"),
    ):
        read_portrait(path)
    assert time.monotonic() - started < 5


def test_a_pipe_is_no_portrait(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=re.escape("pipe.jpg cannot be read (it is a pipe or a device)")):
        read_portrait(tmp_path / "pipe.jpg")
