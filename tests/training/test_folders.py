"""Rows from folders, the blur of photos from their EXIF, and the command that makes and checks manifests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from blur_pairs import HEIGHT, LENS, WIDTH, near_half, save_grey, save_lines, save_photo, save_picture, save_scene
from places import CHECKOUT

from bokeh.training.folders import ScanOptions, photo_blur, scan_folder
from bokeh.training.manifest import check_rows, read_manifest

CAPTIONED = ScanOptions(caption="")
# The thin lens by hand: K = 1000 f^2 S / (2 N (S - f)) * W / w with f 0.05 m, S 2 m, N 1.8, W / w of a 3:2
# picture of 768 px on a sensor of 43.27 / sqrt(1 + (2/3)^2) = 36.003 mm.
BLUR = 1000 * 0.0025 * 2 / (2 * 1.8 * 1.95) * 768 / (43.27 / np.hypot(1, 2 / 3))


def test_the_blur_of_a_photo_is_the_thin_lens_s(tmp_path):
    assert pytest.approx(15.19, abs=0.01) == BLUR
    blur, missing = photo_blur(save_photo(tmp_path / "a.jpg"), {})
    assert missing == []
    assert blur == pytest.approx(BLUR, rel=1e-6)
    # The same photo in any size has the same blur.
    large = save_photo(tmp_path / "b.jpg", width=3 * WIDTH, height=3 * HEIGHT)
    assert photo_blur(large, {})[0] == pytest.approx(BLUR, rel=1e-6)


@pytest.mark.parametrize(
    ("lacking", "missing", "given"),
    [
        ("SubjectDistance", "focus_distance", 2.0),
        ("FNumber", "f_number", 1.8),
        ("FocalLength", "focal_length", 50.0),
        ("FocalLengthIn35mmFilm", "sensor_width", 43.27 / np.hypot(1, 2 / 3)),
    ],
)
def test_what_a_photo_lacks_is_named_and_can_be_given(tmp_path, lacking, missing, given):
    photo = save_photo(tmp_path / "a.jpg", {key: value for key, value in LENS.items() if key != lacking})
    blur, found = photo_blur(photo, {})
    assert blur is None
    assert missing in found
    # Without a focal length its equivalent for full frame tells no sensor width either.
    assert set(found) - {missing} <= ({"sensor_width"} if lacking == "FocalLength" else set())
    assert photo_blur(photo, {missing: given})[0] == pytest.approx(BLUR, rel=1e-4)
    # What the photo says itself counts more.
    assert photo_blur(save_photo(tmp_path / "b.jpg"), {missing: 1.0})[0] == pytest.approx(BLUR, rel=1e-6)


def test_photos_that_give_no_blur_are_skipped_and_counted(tmp_path):
    wild = tmp_path / "wild"
    save_photo(wild / "good.jpg")
    save_photo(wild / "trip" / "good too.jpg")
    for i in range(3):
        save_photo(wild / f"far{i}.jpg", {**LENS, "SubjectDistance": 0})
    save_photo(wild / "open.jpg", {**LENS, "FocalLength": 85, "FocalLengthIn35mmFilm": 85, "FNumber": 1.2})
    save_photo(wild / "inside.jpg", {**LENS, "SubjectDistance": 0.04})
    save_picture(wild / "none.png")
    (wild / "broken.jpg").write_text("no photo")
    (wild / "._good.jpg").write_text("left by another system")
    rows, skipped = scan_folder(tmp_path, CAPTIONED)
    assert [row["picture"] for row in rows] == ["wild/good.jpg", "wild/trip/good too.jpg"]
    assert {row["blur"] for row in rows} == {round(BLUR, 3)}
    nothing = "no focal length in mm, no f-number, no subject distance in m, no sensor width in mm in the EXIF"
    assert skipped.pop(nothing) == 1
    assert skipped.pop("no subject distance in m in the EXIF") == 3
    assert skipped.pop("a blur above 30, the strongest there is") == 1
    rest = sorted(skipped)
    assert "inside the focal length" in rest[0]
    assert rest[1].startswith("EXIF that cannot be used: the photo is not a ")
    assert len(rest) == 2
    assert len(check_rows(rows, tmp_path, HEIGHT)) == 2


def test_what_is_missing_is_asked_for_photo_by_photo(tmp_path):
    for name in ("a", "b"):
        save_photo(tmp_path / "wild" / f"{name}.jpg", {**LENS, "SubjectDistance": 0})
    asked = []

    def ask(photo, missing):
        asked.append((photo.name, missing))
        return {"focus_distance": 2.0} if photo.name == "a.jpg" else {}

    rows, skipped = scan_folder(tmp_path, CAPTIONED, ask)
    assert asked == [("a.jpg", ["focus_distance"]), ("b.jpg", ["focus_distance"])]
    assert [(row["picture"], row["blur"]) for row in rows] == [("wild/a.jpg", round(BLUR, 3))]
    assert skipped == {"no subject distance in m in the EXIF": 1}


def test_hidden_and_foreign_folders_are_no_pictures_and_skips_name_the_first(tmp_path):
    save_scene(tmp_path, "a")
    for folder in (".thumbs", "@eaDir", "__MACOSX", "deep/.cache", "#recycle", "Thumbnails"):
        save_picture(tmp_path / "sharp" / folder / "a.png")
    for name in ("b", "c", "d", "e"):
        save_picture(tmp_path / "sharp" / "mine" / f"{name}.png")
    rows, skipped = scan_folder(tmp_path, CAPTIONED)
    assert [row["picture"] for row in rows] == ["sharp/a.png"]
    assert skipped.lines() == [
        "Skipped: 4, no depth map of the same name in depth: sharp/mine/b.png, sharp/mine/c.png, sharp/mine/d.png, ..."
    ]


def test_sharp_pictures_find_their_depths_masks_and_captions(tmp_path):
    expected = []
    for name in ("a", "deep/b"):
        expected.append(save_scene(tmp_path, name))
        (tmp_path / "sharp" / f"{name}.txt").write_text(f"\ufeffscene\n {name}\n", encoding="utf-8")
    save_picture(tmp_path / "sharp" / "c.JPG")
    # As Save Image names them; the latest counts.
    for counter in ("00001", "00002"):
        save_grey(tmp_path / "depth" / f"c_{counter}_.png", near_half())
    save_picture(tmp_path / "sharp" / "no depth.png")
    save_picture(tmp_path / "sharp" / "no focus.png")
    np.save(tmp_path / "depth" / "no focus.npy", near_half())
    rows, skipped = scan_folder(tmp_path, CAPTIONED)
    assert rows == expected
    assert skipped == {
        "no depth map of the same name in depth": 1,
        "no mask of the same name in masks, and no focus given": 2,
    }
    given = ScanOptions(caption="a picture", focus=1.0, near_is_bright=False)
    rows, skipped = scan_folder(tmp_path, given)
    assert len(rows) == 4
    by_name = {row["picture"]: row for row in rows}
    assert by_name["sharp/c.JPG"] == {
        "picture": "sharp/c.JPG",
        "caption": "a picture",
        "depth": "depth/c_00002_.png",
        "near_is_bright": False,
        "focus": 1.0,
    }
    assert by_name["sharp/no focus.png"]["depth"] == "depth/no focus.npy"
    assert scan_folder(tmp_path, ScanOptions(focus=1.0, metric=True)).rows[0]["metric"] is True
    assert scan_folder(tmp_path, ScanOptions(focus=1.0)).skipped["no caption: no .txt of the same name"] == 3


def test_a_folder_without_pictures_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"has no pictures to train on: expected some in sharp .* or in wild"):
        scan_folder(tmp_path, CAPTIONED)


def command(*arguments: object, answers: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "tools" / "pairs.py"), *map(str, arguments)],
        input=answers,
        capture_output=True,
        text=True,
        timeout=120,
        # The command needs no host.
        env={key: value for key, value in os.environ.items() if not key.startswith("COMFYUI")},
    )


def test_the_command_makes_a_manifest_that_it_finds_good(tmp_path):
    save_scene(tmp_path, "a")
    save_photo(tmp_path / "wild" / "b.jpg", {**LENS, "SubjectDistance": 0})
    save_photo(tmp_path / "wild" / "c.jpg")
    done = command("make", tmp_path, "--size", HEIGHT, "--caption", "Bär", "--ask", answers="far\n2,0\n")
    assert done.returncode == 0, done.stderr
    assert "b.jpg: subject distance in m (empty skips it): " in done.stdout
    assert "far is not a number" in done.stdout
    assert "Good rows: 3; sharp pictures with depth: 1; photos with their own blur: 2" in done.stdout
    rows = read_manifest(tmp_path / "manifest.jsonl", HEIGHT)
    assert [row.blur for row in rows] == [None, round(BLUR, 3), round(BLUR, 3)]
    assert {row.caption for row in rows} == {"Bär"}
    checked = command("check", tmp_path / "manifest.jsonl", "--size", HEIGHT)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("Good rows: 3;")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_not_utf_8_skips_its_picture_alone(tmp_path):
    save_scene(tmp_path, "good")
    save_scene(tmp_path, os.fsdecode(b"caf\xe9"))
    done = command("make", tmp_path, "--size", HEIGHT, "--caption", "")
    assert done.returncode == 0, done.stderr
    assert "Skipped: 1, a name that is not UTF-8, which no manifest can hold: sharp/caf\ufffd.png" in done.stdout
    assert [row.name for row in read_manifest(tmp_path / "manifest.jsonl", HEIGHT)] == ["sharp/good.png"]


def test_the_command_names_bad_pictures_and_leaves_them_out_on_request(tmp_path):
    save_scene(tmp_path, "good")
    save_scene(tmp_path, "flat")
    save_grey(tmp_path / "depth" / "flat.png", np.zeros((HEIGHT, WIDTH)))
    arguments = ("make", tmp_path, "--size", HEIGHT, "--caption", "")
    stopped = command(*arguments)
    assert stopped.returncode == 1
    assert 'sharp/flat.png: "depth" depth/flat.png has the same value, 0, everywhere' in stopped.stderr
    assert not (tmp_path / "manifest.jsonl").exists()
    done = command(*arguments, "--leave-out-bad")
    assert done.returncode == 0, done.stderr
    assert "Bad rows left out: 1\nGood rows: 1;" in done.stdout
    (row,) = (tmp_path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(row)["picture"] == "sharp/good.png"


def test_the_command_names_bad_rows_of_a_manifest(tmp_path):
    checked = command("check", save_lines(tmp_path / "pairs.jsonl", "{", '{"caption": 3}'))
    assert checked.returncode == 1
    assert "2 bad rows" in checked.stderr
    assert "row 1: not JSON" in checked.stderr
    assert "row 2: " in checked.stderr
    assert "Traceback" not in checked.stderr
    assert command("check", tmp_path / "missing.jsonl").returncode == 1
