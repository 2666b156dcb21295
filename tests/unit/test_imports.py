"""What each entry loads: a heavy module in the wrong place costs every start and every idle daemon."""

from __future__ import annotations

import subprocess
import sys

import pytest

STORE = {"sqlalchemy", "alembic"}
CLIENTS = {"httpx2", "httpx", "requests", "urllib3"}
ENGINES = {"xllamacpp", "onnxruntime", "tokenizers", "numpy", "torch", "huggingface_hub"}
SERVER = {"uvicorn", "starlette", "httptools", "uvloop"}
SCREEN = {"typer", "rich"}  # uvicorn itself imports click


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running some code."""
    script = f"{code}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    # -S keeps .pth files of the environment (and what they import) out of the count; the path comes from here.
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{script}"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return set(run.stdout.split())


def test_import_turnout_loads_nothing_else() -> None:
    bare = loaded_by("")
    assert loaded_by("import turnout") - bare <= {"turnout", "__future__"}


def test_the_words_need_the_standard_library_and_msgspec() -> None:
    loaded = loaded_by("import turnout.core.words, turnout.core.events, turnout.core.errors, turnout.core.snapshot")
    assert not loaded & (STORE | CLIENTS | ENGINES | SERVER | SCREEN | {"yaml", "asyncio", "platformdirs"})


def test_help_does_not_load_the_daemon() -> None:
    loaded = loaded_by(
        "import contextlib, io\n"
        "from turnout.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])"
    )
    assert "typer" in loaded
    assert not loaded & (STORE | CLIENTS | ENGINES | SERVER | {"yaml", "prometheus_client", "pynvml"})


def test_the_daemon_loads_neither_store_nor_screen_nor_engines() -> None:
    loaded = loaded_by("import turnout.app")
    assert {"httptools", "starlette"} <= loaded
    assert not loaded & (STORE | CLIENTS | ENGINES | SCREEN | {"pynvml"})


@pytest.mark.parametrize("worker", ["simulated", "llamacpp", "onnx"])
def test_a_worker_does_not_load_the_daemon(worker: str) -> None:
    loaded = loaded_by(f"import turnout.tiers.local.{worker}.worker")
    assert not loaded & (STORE | CLIENTS | SCREEN | {"prometheus_client", "pynvml", "starlette"})
