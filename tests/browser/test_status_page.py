"""The status page as a real browser shows it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from support.daemon import StartDaemon
from support.parts import need

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip


async def browse(url: str, home: Path, *flags: str) -> str:
    """Open a page in Chromium; return what it prints."""
    binary = shutil.which("chromium")
    need("chromium", binary)
    assert binary is not None
    process = await asyncio.create_subprocess_exec(
        binary, *FLAGS, f"--user-data-dir={home}", *flags, url,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(50):
        output, _ = await process.communicate()
    return output.decode()


@pytest.mark.timeout(120)
async def test_the_page_shows_models_and_requests(start_daemon: StartDaemon, tmp_path: Path) -> None:
    fast = {"engine": "simulated", "tokens_per_second": 5000, "roles": ["orchestrator"]}
    daemon = await start_daemon({"models": {"fast": fast}})
    answer = await daemon.chat()
    bad = await daemon.chat("<script>alert(1)</script>")
    assert (answer.status_code, bad.status_code) == (200, 404)
    page = await browse(f"{daemon.url}/", tmp_path / "profile", "--dump-dom")
    assert "local/fast" in page
    assert answer.headers["x-turnout-request-id"] in page
    assert "<script>" not in page  # what callers sent is text
    assert "&lt;script&gt;" in page


@pytest.mark.timeout(120)
async def test_the_page_can_be_looked_at(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = await start_daemon({"models": {"fast": {"engine": "simulated"}}})
    picture = tmp_path / "page.png"
    await browse(f"{daemon.url}/", tmp_path / "profile", f"--screenshot={picture}", "--window-size=1000,700")
    assert picture.read_bytes().startswith(b"\x89PNG")
