"""The set-up and run scripts: what they repair, what they refuse and in which words, and the real server."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

from host_server import HostError, HostServer, SetupError, find_chromium
from setup import environment, host
from setup.server import PACK, link_pack, write_model_paths

import sweep

TOOLS = Path(host.__file__).parents[1]


class Recorder:
    """Three steps that leave a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        self.failing: str | None = None

    def steps(self) -> list[environment.Step]:
        return [self._step(name) for name in ("one", "two", "three")]

    def _step(self, name: str) -> environment.Step:
        def run() -> None:
            self.done.append(name)
            if name == self.failing:
                raise KeyboardInterrupt
            (self.folder / name).touch()

        return environment.Step(name, f"step {name}", run, (self.folder / name).is_file)

    def run(self) -> list[str]:
        self.done = []
        environment.run_steps(self.steps(), self.folder, report=lambda _: None)
        return self.done


def test_steps_are_done_once_and_an_interrupted_one_again(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.failing = "two"
    with pytest.raises(KeyboardInterrupt):
        recorder.run()
    # Its result looks whole, but it never came to its end.
    (tmp_path / "two").touch()
    recorder.failing = None
    assert recorder.run() == ["two", "three"]
    assert recorder.run() == []


def test_a_damaged_step_is_done_again_with_all_after_it(tmp_path):
    recorder = Recorder(tmp_path)
    assert recorder.run() == ["one", "two", "three"]
    (tmp_path / "two").unlink()
    assert recorder.run() == ["two", "three"]


def test_a_failing_command_is_shown_with_its_log(tmp_path):
    log = tmp_path / "setup.log"
    command = [sys.executable, "-c", "print('the cause'); raise SystemExit(3)"]
    with pytest.raises(SetupError, match=r"exit code 3(.|\n)*the cause"):
        environment.run_logged(command, log, environment.StatusLine("trial"), tmp_path)


def _install(site: Path, name: str) -> Path:
    (site / name).mkdir(parents=True)
    (site / name / "code.py").write_text("answer = 42\n")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\n")
    (info / "RECORD").write_text(f"{name}/code.py,sha256=x,12\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    return info


def test_packages_installed_by_half_are_found_and_forgotten(tmp_path):
    whole, cut, missing, record, metadata = (_install(tmp_path, name) for name in ("e", "a", "b", "c", "d"))
    assert environment.damaged_packages(tmp_path) == []
    (tmp_path / "a" / "code.py").write_text("answer")
    for file in (tmp_path / "b" / "code.py", record / "RECORD", metadata / "METADATA"):
        file.unlink()
    (tmp_path / "~f").mkdir()
    half = [cut, missing, record, metadata, tmp_path / "~f"]
    assert environment.damaged_packages(tmp_path) == half
    environment.remove_damaged_packages(tmp_path)
    assert environment.damaged_packages(tmp_path) == []
    assert whole.is_dir()
    assert not any(path.exists() for path in half)


HOLD_LOCK = """
import sys, time
sys.path.append(sys.argv[1])
from pathlib import Path
from setup.environment import SetupLock
with SetupLock(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def _hold_lock(path: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD_LOCK, str(TOOLS), str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_setup_waits_for_the_first_and_says_so(tmp_path):
    said = []
    process = _hold_lock(tmp_path / "lock", 1.0)
    with environment.SetupLock(tmp_path / "lock", said.append):
        assert process.wait(5) == 0
    assert len(said) == 1
    assert f"process {process.pid}" in said[0]


def test_a_killed_setup_leaves_no_lock_behind(tmp_path):
    process = _hold_lock(tmp_path / "lock", 60.0)
    process.kill()
    process.wait()
    start = time.monotonic()
    with environment.SetupLock(tmp_path / "lock", pytest.fail):
        assert time.monotonic() - start < 1.0


def test_the_key_follows_everything_a_setup_depends_on(monkeypatch, tmp_path):
    arguments = ("0.3.75", None, ["torch==2.11.0"])
    key = host.setup_key(*arguments)
    assert key == host.setup_key(*arguments)
    others = {
        host.setup_key("0.3.76", None, ["torch==2.11.0"]),
        host.setup_key("0.3.75", tmp_path, ["torch==2.11.0"]),
        host.setup_key("0.3.75", None, ["torch==2.12.0"]),
    }
    monkeypatch.setattr(sys.implementation, "cache_tag", "another-python")
    others.add(host.setup_key(*arguments))
    assert len(others | {key}) == 5


TOOL = """
import os, sys
sys.path.insert(0, os.path.dirname(__file__))
from inside import run_inside
if os.environ.get("MARK"):
    print("inside", os.environ["COMFYUI_PATH"], *sys.argv[1:])
else:
    sys.exit(run_inside(__file__, sys.argv[1:], "MARK"))
"""


def test_a_tool_installed_without_the_set_up_runs_in_the_comfyui_around_it(tmp_path):
    folder = tmp_path / "custom_nodes" / "pack" / "tools"
    folder.mkdir(parents=True)
    shutil.copy(TOOLS / "inside.py", folder)
    (folder / "tool.py").write_text(TOOL)
    run = functools.partial(
        subprocess.run, [sys.executable, folder / "tool.py", "word"], capture_output=True, text=True
    )
    alone = run()
    assert alone.returncode == 1
    assert "Run this with ComfyUI's own Python from the pack's folder" in alone.stderr
    (tmp_path / "main.py").touch()
    assert run().stdout == f"inside {tmp_path} word\n"


def test_what_the_registry_ships_runs_without_the_rest(tmp_path):
    pack = tmp_path / "custom_nodes" / "pack"
    left_out = tuple(filter(None, (PACK / ".comfyignore").read_text().splitlines()))
    for file in PACK.rglob("*.py"):
        name = file.relative_to(PACK).as_posix()
        if not name.startswith(left_out):
            (pack / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, pack / name)
    shipped = {path.name for path in (pack / "tools").iterdir()}
    assert shipped == {"inside.py", "pairs.py", "train.py"}, "a new tool: for users, or a line of .comfyignore?"
    said = {}
    for name, *arguments in (("pairs", "check", "none.jsonl"), ("train", "--help")):
        command = [sys.executable, pack / "tools" / f"{name}.py", *arguments]
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 1, run.stderr
        said[name] = run.stderr
    assert "none.jsonl" in said["pairs"]
    assert "Traceback" not in said["pairs"]
    assert said["train"].startswith(f"There is no ComfyUI around {pack}")


def test_requirements_are_read_without_comments_and_exceptions(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# a comment\ntorch\ncomfyui-workflow-templates==0.7.25\n\npydantic~=2.0  # why\ntorchsde\n")
    assert host.requirement_lines(file, ("comfyui-workflow-templates", "torch")) == ["pydantic~=2.0", "torchsde"]


def test_the_cache_lies_outside_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_BOKEH_CACHE", str(tmp_path / "a folder"))
    assert host.cache_folder() == tmp_path / "a folder"
    monkeypatch.delenv("COMFYUI_BOKEH_CACHE")
    assert PACK not in host.cache_folder().parents
    monkeypatch.setenv("COMFYUI_BOKEH_CACHE", str(PACK / "cache"))
    with pytest.raises(SetupError, match="lies inside the checkout"):
        host.cache_folder()


def test_comfyui_path_is_checked(tmp_path):
    with pytest.raises(SetupError, match=r"no main\.py\. Expected a ComfyUI folder .* or newer\. Unset COMFYUI_PATH"):
        host.own_host(str(tmp_path))
    inner = tmp_path / "ComfyUI"
    inner.mkdir()
    (inner / "main.py").touch()
    with pytest.raises(SetupError, match=r"Perhaps .*ComfyUI is meant"):
        host.own_host(str(tmp_path))
    with pytest.raises(SetupError, match="missing or names no version"):
        host.own_host(str(inner))
    (inner / "comfyui_version.py").write_text('__version__ = "0.3.9"\n')
    with pytest.raises(SetupError, match=r"which is ComfyUI 0\.3\.9\. Expected .*0\.3\.75 or newer"):
        host.own_host(str(inner))
    code, version = host.own_host(os.environ["COMFYUI_PATH"])
    assert (code / "main.py").is_file()
    assert tuple(map(int, version.split("."))) >= (0, 3, 75)


def test_comfyui_python_is_asked_for_packages_and_nothing_is_installed(monkeypatch):
    host._report_missing(Path(sys.executable), ["torch>=2", "numpy==0.0.1"])
    with pytest.raises(SetupError, match=r"lacks: no-such-package-at-all, torch>=99 \(found .*\)\. Nothing is"):
        host._report_missing(Path(sys.executable), ["no-such-package-at-all", "torch>=99"])
    monkeypatch.setenv("COMFYUI_PYTHON", "/no/such/python")
    with pytest.raises(SetupError, match="not a program"):
        host._named_python()


def test_the_pack_is_linked_and_a_wrong_link_is_mended(tmp_path):
    place = link_pack(tmp_path / "custom_nodes")
    assert place.name == "comfyui-bokeh"
    assert (place / "__init__.py").samefile(PACK / "__init__.py")
    assert link_pack(tmp_path / "custom_nodes") == place
    other = tmp_path / "other"
    (other / "kept").mkdir(parents=True)
    link_pack(tmp_path / "custom_nodes", other)
    assert place.samefile(other)
    link_pack(tmp_path / "custom_nodes")
    assert place.samefile(PACK)
    assert (other / "kept").is_dir()


def test_model_folders_are_written_as_the_host_reads_them(tmp_path):
    import yaml

    first, second = tmp_path / "it's: mine" / "models", tmp_path / "other"
    for folder in (first / "loras", first / "unet", second / "unet"):
        folder.mkdir(parents=True)
    write_model_paths(tmp_path / "paths.yaml", [first, second])
    read = yaml.safe_load((tmp_path / "paths.yaml").read_text(encoding="utf-8"))
    assert [list(entry.items()) for entry in read.values()] == [
        [("loras", str(first / "loras")), ("unet", str(first / "unet"))],
        [("unet", str(second / "unet"))],
    ]


def test_a_browser_that_is_named_must_exist(monkeypatch):
    monkeypatch.setenv("CHROMIUM_PATH", "/no/such/browser")
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"):
        find_chromium()


GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 255}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "tools"},
        "_meta": {"title": "Save"},
    },
}


def _graph() -> dict:
    return json.loads(json.dumps(GRAPH))


def test_inputs_are_set_by_id_title_and_class(tmp_path):
    graph = _graph()
    for assignment in ("1.width=128", "EmptyImage.color=7", "Save.filename_prefix=a=b"):
        sweep.set_input(graph, assignment)
    assert graph["1"]["inputs"]["width"] == 128
    assert graph["1"]["inputs"]["color"] == 7
    assert graph["2"]["inputs"]["filename_prefix"] == "a=b"
    for wrong, sentence in {
        "width": "expected NODE.INPUT=VALUE",
        "9.width=1": r"'9' fits no node\. The workflow has: 1 \(EmptyImage\)",
        "1.depth=1": "node 1 has no input 'depth'. It has: width",
    }.items():
        with pytest.raises(SetupError, match=sentence):
            sweep.set_input(graph, wrong)


def test_a_file_that_is_no_api_workflow_is_refused(tmp_path):
    file = tmp_path / "workflow.json"
    for text, sentence in (
        (None, "cannot be read"),
        ('{"nodes": [], "links": []}', r"page's format, .* Workflow > Export \(API\)"),
        ('{"1": {"inputs": {}}}', "not a workflow in API format"),
        ("{}", "not a workflow in API format"),
        ("{", "is not JSON"),
    ):
        if text is not None:
            file.write_text(text)
        with pytest.raises(SetupError, match=sentence):
            sweep.read_workflow(file)


def test_file_names_are_written_the_way_the_host_lists_them():
    graph = {"1": {"class_type": "Loader", "inputs": {"a": "sub/file", "b": "sub/other", "c": "sub/file"}}}
    new, old = ["COMBO", {"options": ["sub\\file"]}], [["x", "sub\\file"], {}]
    sweep.fit_separators(graph, {"Loader": {"input": {"required": {"a": new, "b": old}, "optional": {"c": old}}}})
    assert graph["1"]["inputs"] == {"a": "sub\\file", "b": "sub/other", "c": "sub\\file"}


def test_results_never_land_in_a_folder_that_is_there(tmp_path):
    (tmp_path / "sweep-1").mkdir()
    assert [sweep.new_folder(tmp_path, "sweep").name for _ in range(2)] == ["sweep-2", "sweep-3"]


class Lister:
    """A host's model lists, by folder."""

    def __init__(self, lists: dict[str, list[str]]) -> None:
        self.lists = lists

    def models(self, folder: str) -> list[str]:
        return self.lists.get(folder, [])


def test_flux_is_recognised_by_the_names_of_its_files():
    lists = {
        "diffusion_models": ["flux1-dev-kontext_fp8_scaled.safetensors", "FLUX\\flux1-dev-fp8.safetensors"],
        "text_encoders": ["t5xxl_fp8_e4m3fn.safetensors", "clip_l.safetensors", "clip_g.safetensors"],
        "vae": ["vae.safetensors", "flux/ae.safetensors"],
    }
    files, lacking = sweep.find_flux(Lister(lists))
    assert lacking == []
    assert files == {
        "unet_name": "FLUX\\flux1-dev-fp8.safetensors",
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "t5xxl_fp8_e4m3fn.safetensors",
        "vae_name": "flux/ae.safetensors",
    }
    lists["vae"].pop()
    assert sweep.find_flux(Lister(lists))[1] == ["the autoencoder ae (folder vae)"]


def test_the_step_is_read_from_the_servers_log():
    assert sweep.step_of("got prompt") == ""
    assert sweep.step_of("  0%|   | 0/30 [00:00<?, ?it/s]\n 30%|###   | 9/30 [00:01<00:02]") == "step 9 of 30"


@pytest.mark.server
def test_the_server_has_the_pack_and_runs_a_workflow(server, tmp_path):
    assert "BokehSweep" in server.client.object_info()
    entry = server.client.run(_graph(), timeout=60)
    saved = sweep.save_pictures(server.client, entry, tmp_path, "trial")
    assert [path.name for path in saved] == ["01-tools_00001_.png", "02-tools_00002_.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in saved)


@pytest.mark.server
def test_what_the_server_refuses_is_told_by_node(server):
    graph = _graph()
    graph["1"]["inputs"]["width"] = -5
    with pytest.raises(HostError, match=r"node 1 \(EmptyImage\): Value -5 smaller than min"):
        server.client.run(graph, timeout=60)
    graph["1"] = {"class_type": "BokehNoSuchNode", "inputs": {}}
    with pytest.raises(SetupError, match="does not know these nodes of the workflow: BokehNoSuchNode"):
        sweep.require_nodes(graph, server.client.object_info(), server)


@pytest.mark.server
def test_a_port_in_use_is_not_taken_for_ours(server, tmp_path):
    with pytest.raises(SetupError, match=f"Port {server.port} is in use"):
        HostServer(tmp_path, port=server.port).start()


@pytest.mark.server
def test_a_server_that_dies_at_once_is_shown_with_its_log(tmp_path):
    with pytest.raises(SetupError, match=r"ended with exit code 2(.|\n)*unrecognized arguments: --no-such-argument"):
        HostServer(tmp_path, cpu=True, arguments=["--no-such-argument"]).start()
