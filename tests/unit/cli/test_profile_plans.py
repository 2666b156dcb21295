"""The plans of the built-in profiles on cards of five sizes, word by word: each is meant to be read by a person.

``WRITE_GOLDEN=1 pytest tests/unit/cli/test_profile_plans.py`` writes them anew; read what has changed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from turnout.cli import main as cli

Captured = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parents[2] / "golden"
CARDS = (8, 16, 24, 32, 80)
SIZES = {"qwen3:4b": 2.5e9, "qwen3:8b": 5.2e9, "qwen3:14b": 9.3e9, "qwen3:32b": 20.2e9, "nomic-embed-text": 0.3e9}
"""What an Ollama says of the models that it has."""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in [name for name in os.environ if name.startswith("TURNOUT_")]:
        monkeypatch.delenv(variable)


def compare(name: str, text: str) -> None:
    """Compare with the kept plan, or keep this one."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def plan_of(tmp_path: Path, profile: str, gib: int, capsys: Captured, discover: str = "[]") -> str:
    file = tmp_path / "turnout.yaml"
    file.write_text(f"discover: {discover}\n", encoding="utf-8")
    assert cli.main(["profile", "plan", profile, "--vram-gib", str(gib), "--config", str(file)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("gib", CARDS)
@pytest.mark.parametrize("profile", ["dev", "production", "creative", "elastic"])
def test_a_profile_on_a_card(tmp_path: Path, capsys: Captured, profile: str, gib: int) -> None:
    compare(f"profile-plan-{profile}-{gib}", plan_of(tmp_path, profile, gib, capsys))


def test_cpu_is_the_same_on_every_card_but_for_the_first_line(tmp_path: Path, capsys: Captured) -> None:
    plans = [plan_of(tmp_path, "cpu", gib, capsys) for gib in CARDS]
    compare("profile-plan-cpu", plans[0])
    assert len({plan.partition("\n")[2] for plan in plans}) == 1


@pytest.mark.parametrize("gib", CARDS)
def test_auto_where_nothing_is_found(tmp_path: Path, capsys: Captured, gib: int) -> None:
    compare(f"profile-plan-auto-{gib}", plan_of(tmp_path, "auto", gib, capsys))


class Ollama(BaseHTTPRequestHandler):
    """Says which models it has, and that none is loaded."""

    def do_GET(self) -> None:
        models = SIZES.items() if self.path == "/api/tags" else ()
        self._answer({"models": [{"name": name, "size": int(size)} for name, size in models]})

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        self._answer({"capabilities": ["embedding"] if "embed" in name else ["completion", "tools"]})

    def _answer(self, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def ollama() -> Iterator[str]:
    """An Ollama's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.mark.parametrize("gib", [*CARDS, 12, 48])
def test_auto_with_an_ollama_that_has_models(tmp_path: Path, capsys: Captured, ollama: str, gib: int) -> None:
    text = plan_of(tmp_path, "auto", gib, capsys, f"[{{engine: ollama, base_url: '{ollama}'}}]")
    compare(f"profile-plan-auto-ollama-{gib}", text.replace(ollama, "http://127.0.0.1:11434"))
