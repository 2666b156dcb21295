"""The list of skips that are allowed is a list: anything else is a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCE = """
import pytest
from support.parts import OPTIONAL_PARTS

def test_no_reason(): pytest.skip("I do not feel like it")
def test_on_the_list(): pytest.skip("needs " + OPTIONAL_PARTS["chromium"])
"""


@pytest.mark.parametrize(("required", "failed", "skipped"), [("", 1, 1), ("chromium", 2, 0)])
def test_only_listed_skips_pass(tmp_path: Path, required: str, failed: int, skipped: int) -> None:
    (tmp_path / "test_it.py").write_text(SOURCE)
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-c", "/dev/null", "--rootdir", str(tmp_path),
         "-o", f"pythonpath={TESTS}", "-o", "markers=soak", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False, env={"TESTS_REQUIRE": required, "PATH": ""},
    )  # fmt: skip
    assert f"{failed} failed" in run.stdout, run.stdout
    assert (f"{skipped} skipped" in run.stdout) == bool(skipped)
