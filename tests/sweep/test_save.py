"""A sweep as files: what is written, where it may be written, and what is left when it fails."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import resource
import signal
import time
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
import numpy as np
import pytest
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui
from PIL import Image
from read_only import read_only
from saving import EXTRA, PROMPT, clone, description, film, listing, pictures, save, scenes

from bokeh.sweep.export import ExportError, save_sweep
from bokeh.sweep.measures import laplacian_variance
from bokeh.sweep.sheet import contact_sheet
from bokeh.sweep.trend import by_rank, lvcorr_k
from bokeh.sweep.values import Sweep


@pytest.fixture
def progress():
    """The host's progress reports as (done, total)."""
    before, reports = comfy.utils.PROGRESS_BAR_HOOK, []
    comfy.utils.set_progress_bar_global_hook(lambda done, total, preview, node_id=None: reports.append((done, total)))
    yield reports
    comfy.utils.set_progress_bar_global_hook(before)


@pytest.mark.parametrize("channels", [3, 4])
def test_folder_of_a_sweep(output, channels):
    images = pictures(4, channels=channels)
    sweep = Sweep((8.0, 0.0, 12.345, 8.0), pivot=0.0)
    shown = save(images, sweep)
    levels = ["01_blur_08.00.png", "02_blur_00.00.png", "03_blur_12.35.png", "04_blur_08.00.png"]
    files = [*levels, "sheet.png", "sweep.webp"]
    folder = output / "bokeh" / "sweep_00001_"
    assert listing(output) == [f"bokeh/sweep_00001_/{file}" for file in sorted([*files, "sweep.json"])]
    subfolder = os.path.join("bokeh", "sweep_00001_")
    assert shown["images"] == [{"filename": file, "subfolder": subfolder, "type": "output"} for file in files]
    assert shown["text"] == (f"Saved {os.path.join('output', subfolder)}",)
    for file, image in zip(levels, images, strict=True):
        with Image.open(folder / file) as written:
            assert written.mode == ("RGB" if channels == 3 else "RGBA")
            assert np.array_equal(np.asarray(written), (image * 255).round().byte().numpy())
    sheet = contact_sheet(images, sweep.labels, marks=(1,))[0]
    with Image.open(folder / "sheet.png") as written:
        assert np.array_equal(np.asarray(written), (sheet * 255).round().byte().numpy())


def test_description_says_what_the_pictures_are(output):
    images, values = pictures(4), (0.0, 10.0, 20.0, 30.0)
    save(images, Sweep(values, pivot=10.0))
    found = description(output / "bokeh" / "sweep_00001_")
    measures = found.pop("measures")
    assert found == {
        "format": "comfyui-bokeh-sweep",
        "format_version": 1,
        "name": "blur",
        "values": [0.0, 10.0, 20.0, 30.0],
        "labels": ["blur 0", "blur 10", "blur 20", "blur 30"],
        "pivot": 10.0,
        "pivot_row": 1,
        "size": {"width": 56, "height": 40},
        "seed": 2**60 + 1,
        "files": {
            "levels": ["01_blur_00.00.png", "02_blur_10.00.png", "03_blur_20.00.png", "04_blur_30.00.png"],
            "sheet": "sheet.png",
            "animation": "sweep.webp",
        },
    }
    variances = laplacian_variance(images)
    assert measures["laplacian_variance"] == pytest.approx(variances.tolist(), rel=1e-6)
    assert measures["lvcorr_k"] == pytest.approx(lvcorr_k(values, variances.tolist()), rel=1e-6)
    assert measures["by_rank"] == pytest.approx(1.0)
    assert list(measures) == ["laplacian_variance", "lvcorr_k", "by_rank"]
    # Something small that is sharp hides in the variance what happens beside it.
    images *= torch.linspace(0.6, 0.2, 4)[:, None, None, None]
    images[:, :8, :8] = torch.eye(8)[..., None] * torch.linspace(0.4, 1, 4)[:, None, None, None]
    save(images, Sweep(values))
    measures = description(output / "bokeh" / "sweep_00002_")["measures"]
    assert by_rank(values, measures["laplacian_variance"]) < 0.5
    assert measures["by_rank"] == pytest.approx(1)


def test_measures_that_are_not_defined_are_null(output):
    broken = pictures(2)
    broken[1, 0, 0, 0] = math.nan
    save(broken, Sweep((0.0, 30.0)))
    save(pictures(1, 8, 8), Sweep((5.0,), pivot=15.0), animation=False)
    first, second = (description(output / "bokeh" / f"sweep_0000{i}_") for i in (1, 2))
    assert first["measures"]["laplacian_variance"][0] > 0
    assert first["measures"]["laplacian_variance"][1] is None
    assert first["measures"]["lvcorr_k"] is first["measures"]["by_rank"] is None
    assert (first["pivot"], first["pivot_row"]) == (None, None)
    assert second["measures"] == {"laplacian_variance": [None], "lvcorr_k": None, "by_rank": None}
    assert (second["pivot"], second["pivot_row"], second["files"]["animation"]) == (15.0, None, None)


def test_pictures_of_nan_are_said_to_be(output):
    images = scenes(2)
    images[1, 0, 0] = float("nan")
    assert "1 of 2 pictures have NaN or infinite values" in save(images, Sweep((0.0, 1.0)))["text"][0]


def test_animation_goes_up_and_down_by_value(output):
    images, values = scenes(5), (8.0, 0.0, 30.0, 15.0, 0.0)
    save(images, Sweep(values), fps=12.5)
    frames, durations = film(output / "bokeh" / "sweep_00001_" / "sweep.webp")
    assert durations == [80] * 6
    for frame, row in zip(frames, [1, 0, 3, 2, 3, 0], strict=True):
        assert abs(frame - images[row].numpy()).mean() < 0.005
        others = [abs(frame - image.numpy()).mean() for i, image in enumerate(images) if i not in (row, 4)]
        assert min(others) > 0.05
    assert np.array_equal(frames[1], frames[5]), "a level looks the same on the way down"
    assert np.array_equal(frames[2], frames[4])


def test_animation_of_one_level_is_one_frame(output):
    images = scenes(1)
    save(images, Sweep((4.0,)))
    frames, _ = film(output / "bokeh" / "sweep_00001_" / "sweep.webp")
    assert len(frames) == 1
    assert abs(frames[0] - images[0].numpy()).mean() < 0.005


def test_animation_can_be_left_out(output):
    shown = save(pictures(2), Sweep((0.0, 1.0)), animation=False)
    assert [file["filename"] for file in shown["images"]] == ["01_blur_00.00.png", "02_blur_01.00.png", "sheet.png"]
    assert listing(output)[-1] == "bokeh/sweep_00001_/sweep.json"


def test_animation_keeps_transparency(output):
    images = torch.cat([scenes(2), torch.zeros(2, 96, 96, 1)], -1)
    images[:, :48, :, 3] = 1
    save(images, Sweep((0.0, 1.0)))
    with Image.open(output / "bokeh" / "sweep_00001_" / "sweep.webp") as animation:
        alpha = np.asarray(animation.convert("RGBA"))[..., 3]
    assert alpha[:48].min() == 255
    assert alpha[48:].max() == 0


def test_names_sort_in_the_order_of_the_sweep(output):
    images = pictures(1, 16, 16).expand(120, -1, -1, -1)
    save(images, Sweep(tuple(float(i % 31) for i in range(120))), animation=False)
    levels = description(output / "bokeh" / "sweep_00001_")["files"]["levels"]
    assert levels == sorted(set(levels))
    assert levels[99] == "100_blur_06.00.png"


def test_nothing_is_overwritten(output):
    folder = output / "bokeh"
    (folder / "sweep_00003_").mkdir(parents=True)
    (folder / "sweep_00005_.png").write_text("a picture of the host's own node")
    (folder / "sweeping_00009_").mkdir()
    images, sweep = pictures(2), Sweep((0.0, 1.0))
    for number in (6, 7):
        assert save(images, sweep)["text"] == (f"Saved output/bokeh/sweep_0000{number}_",)
    assert not any((folder / "sweep_00003_").iterdir())


def test_prefix_takes_the_hosts_variables(output):
    save(pictures(1), Sweep((0.0,)), filename_prefix="%year%/%width%x%height%", animation=False)
    assert (output / time.strftime("%Y") / "56x40_00001_" / "sweep.json").is_file()


def test_prefix_takes_the_number_of_the_scene_as_the_hosts_number_in_a_batch(output):
    save(pictures(4), Sweep((0.0, 1.0) * 2, scenes=2), filename_prefix="scene%batch_num%", animation=False)
    assert sorted(os.listdir(output)) == ["scene0_00001_", "scene1_00002_"]


def test_prefix_stays_inside_in_the_plainest_form(output):
    for prefix in ("./bokeh//sub/../sweep/", str(output / "bokeh" / "sweep"), " bokeh/sweep "):
        save(pictures(1), Sweep((0.0,)), filename_prefix=prefix, animation=False)
    assert sorted(os.listdir(output / "bokeh")) == ["sweep_00001_", "sweep_00002_", "sweep_00003_"]


def test_workflow_is_embedded_as_in_the_hosts_own_pictures(output):
    images = scenes(2)
    save(images, Sweep((0.0, 1.0)))
    host_node, host = clone(PROMPT, EXTRA), ui.ImageSaveHelper
    host.save_images(images[:1], "host", io.FolderType.output, host_node)
    host.save_animated_webp(images, "host", io.FolderType.output, host_node, 6.0, False, 80, 4)
    folder = output / "bokeh" / "sweep_00001_"
    with Image.open(output / "host_00001_.png") as host:
        expected = host.text
    assert json.loads(expected["workflow"]) == EXTRA["workflow"]
    for file in ("01_blur_00.00.png", "02_blur_01.00.png", "sheet.png"):
        with Image.open(folder / file) as ours:
            assert ours.text == expected
    (host_webp,) = output.glob("host_*.webp")
    with Image.open(host_webp) as host, Image.open(folder / "sweep.webp") as ours:
        assert dict(ours.getexif()) == dict(host.getexif())
        assert json.loads(ours.getexif()[0x0110].removeprefix("prompt:")) == PROMPT
        assert json.loads(ours.getexif()[0x010F].removeprefix("workflow:")) == EXTRA["workflow"]


def test_no_metadata_where_the_host_is_told_so(output):
    args.disable_metadata = True
    try:
        save(scenes(2), Sweep((0.0, 1.0)))
    finally:
        args.disable_metadata = False
    folder = output / "bokeh" / "sweep_00001_"
    with Image.open(folder / "01_blur_00.00.png") as level, Image.open(folder / "sweep.webp") as animation:
        assert level.text == {}
        assert dict(animation.getexif()) == {}
    assert description(folder)["seed"] is None


def test_without_a_prompt_there_is_no_seed(output):
    save(pictures(1), Sweep((0.0,)), prompt=None, extra=None)
    folder = output / "bokeh" / "sweep_00001_"
    assert description(folder)["seed"] is None
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.text == {}


def test_progress_counts_pictures_and_frames(output, progress):
    save(pictures(3), Sweep((0.0, 1.0, 2.0)))
    assert progress[:7] == [(i, 7) for i in range(1, 8)]
    assert set(progress[7:]) <= {(7, 7)}


@pytest.mark.parametrize("after", [2, 4])
def test_an_interrupt_leaves_nothing_behind(output, after):
    """After the second picture, and after the first frame of the animation."""
    before = comfy.utils.PROGRESS_BAR_HOOK

    def interrupt(done, total, preview, node_id=None):
        if done == after:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            save(pictures(3), Sweep((0.0, 1.0, 2.0)))
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.model_management.interrupt_current_processing(False)
    assert os.listdir(output / "bokeh") == []


@contextmanager
def small_disk():
    """No file may grow beyond 3,000 bytes: the write in the middle of a picture fails as on a full disk.

    Not a fixture: pytest's own output may be a file, and it writes before fixtures end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def unwritable(folder: str, number: int) -> str:
    return (
        f"The sweep cannot be written to {folder} ({os.strerror(number)}). No unfinished sweep was left there. "
        "Free space, make the folder writable, or choose another filename prefix."
    )


def test_a_full_disk_leaves_nothing_behind(output):
    with small_disk(), pytest.raises(ExportError) as error:
        save(pictures(3), Sweep((0.0, 1.0, 2.0)))
    assert str(error.value) == unwritable("output/bokeh", errno.EFBIG)
    assert os.listdir(output / "bokeh") == []


def test_an_output_folder_that_refuses_writes(output):
    (output / "bokeh").mkdir()
    with read_only(output / "bokeh"), pytest.raises(ExportError) as error:
        save(pictures(1), Sweep((0.0,)))
    assert str(error.value) == unwritable("output/bokeh", errno.EACCES)


@pytest.mark.parametrize("prefix", ["bokeh/sweep", "bokeh/more/sweep"])
def test_a_file_in_the_place_of_the_folder(output, prefix):
    (output / "bokeh").write_text("mine")
    with pytest.raises(ExportError) as error:
        save(pictures(1), Sweep((0.0,)), filename_prefix=prefix)
    assert str(error.value) == unwritable(f"output/{os.path.dirname(prefix)}", errno.ENOTDIR)
    assert listing(output) == ["bokeh"]


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def test_metadata_that_cannot_be_embedded_costs_no_pictures(output):
    extra = {f"extra{i}": "x" for i in range(7)} | {
        "set": {1},
        "deep": nested(100_000),
        "名": "x",
        "workflow": {"a": 1},
    }
    text = save(scenes(2), Sweep((0.0, 1.0)), extra=extra)["text"][0]
    assert text == (
        "Saved output/bokeh/sweep_00001_ Not saved with the pictures, as it is no text that they can hold: 'set', "
        "'deep', '\\u540d'. Saved with the pictures, but not with the animation, which is full: extra5, "
        "extra6, workflow."
    )
    with Image.open(output / "bokeh/sweep_00001_/01_blur_00.00.png") as level:
        assert level.text.keys() == {"prompt", "workflow", *(f"extra{i}" for i in range(7))}
    with Image.open(output / "bokeh/sweep_00001_/sweep.webp") as animation:
        assert animation.getexif()[0x0110].startswith("prompt:")


def test_what_died_a_day_ago_goes_with_the_next_save(output):
    (output / "bokeh" / ".old_0123.partial" / "deep").mkdir(parents=True)
    (output / "bokeh" / ".new.partial").mkdir()
    (output / "bokeh" / ".old.partial").write_text("half")
    (output / "bokeh" / "mine.partial").write_text("not hidden")
    for name in (".old_0123.partial", ".old.partial", "mine.partial"):
        os.utime(output / "bokeh" / name, (time.time() - 90_000,) * 2)
    save(pictures(1), Sweep((0.0,)), animation=False)
    assert sorted(os.listdir(output / "bokeh")) == [".new.partial", "mine.partial", "sweep_00001_"]


def _save_many(folder: str) -> None:
    for _ in range(20):
        save_sweep(pictures(1, 16, 16), Sweep((0.0,)), folder, "sweep")


def test_two_processes_lose_nothing(output):
    processes = [multiprocessing.get_context("fork").Process(target=_save_many, args=(str(output),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(os.listdir(output)) == [f"sweep_{number:05}_" for number in range(1, 41)]
    assert all((folder / "sweep.json").is_file() for folder in output.iterdir())


@pytest.mark.parametrize("fps", [math.nan, 0.0, 1e-9])
def test_a_speed_that_no_animation_has(output, fps):
    said = r"(The animation is to show|frames_per_second is) .+, expected .*0\.1 to 60\."
    with pytest.raises(ValueError, match=said):
        save(pictures(2), Sweep((0.0, 1.0)), fps=fps)


def test_pictures_and_sweep_of_different_length(output):
    with pytest.raises(ValueError, match="There are 2 pictures, but the sweep has 3 values") as error:
        save(pictures(2), Sweep((0.0, 1.0, 2.0)))
    assert str(error.value) == (
        "There are 2 pictures, but the sweep has 3 values. Connect the pictures that were sampled with this very "
        "sweep, all of them and in their order."
    )
    assert os.listdir(output) == []
