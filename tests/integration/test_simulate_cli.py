"""``turnout simulate`` as people run it: the real executable, its JSON, its page, its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.cards import write_trace

TURNOUT = str(Path(sys.executable).with_name("turnout"))
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
QUANTILES = {"p50", "p95", "p99"}


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TURNOUT, "simulate", *arguments], capture_output=True, text=True, timeout=50, env=os.environ | environment
    )


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return str(write_trace(tmp_path / "trace.csv", 300, seed=11, mean_gap=3))


def test_the_json_is_one_array_with_an_object_for_each_policy(trace: str) -> None:
    run = simulate("--trace", trace, "--profile", "small", "--seed", "4", "--json")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    told: list[dict[str, Any]] = json.loads(run.stdout)
    assert [entry["policy"] for entry in told] == ["turnout", "lru", "fifo"]
    for entry in told:
        assert entry["seed"] == 4
        assert entry["requests"] == 300 == entry["served"] + entry["refused"]
        assert {"swaps", "evictions", "swaps_lower_bound"} <= set(entry)
        for kind in ("wait_seconds", "first_token_seconds"):
            assert set(entry[kind]) == {"interactive", "normal", "background"}
            for figures in entry[kind].values():
                assert set(figures) >= QUANTILES
                assert all(figures[name] >= 0 for name in QUANTILES)


def test_the_same_seed_gives_the_same_bytes_in_any_process(trace: str) -> None:
    first, second = (
        simulate("--trace", trace, "--profile", "small", "--seeds", "2", "--json", PYTHONHASHSEED=number)
        for number in ("1", "2")
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    other = simulate("--trace", trace, "--profile", "small", "--seed", "9", "--json")
    assert json.loads(other.stdout)[0]["by_role"] != json.loads(first.stdout)[0]["by_role"]


def test_the_table_names_policies_priorities_and_roles(trace: str) -> None:
    run = simulate("--trace", trace, "--profile", "small", "--seeds", "2", "--policy", "turnout", "--policy", "fifo")
    assert run.returncode == 0, run.stderr
    assert "trace.csv on small: 300 requests" in run.stdout
    for words in ("turnout", "fifo", "interactive", "background", "coding", " to "):
        assert words in run.stdout
    for heading in ("SWAPS", "AT LEAST", "LONGEST", "MEMORY HELD", "TOKEN P50"):
        assert heading in run.stdout
    assert "lru" not in run.stdout


def test_the_page_is_written(trace: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run = simulate("--trace", trace, "--profile", "small", "--html", str(page))
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert f"wrote {page}" in run.stderr
    assert page.read_text().startswith("<!doctype html>")


def test_the_example_workload_runs_on_its_profile() -> None:
    run = simulate("--trace", str(EXAMPLES / "workstation.yaml"), "--profile", "mixed", "--json", "--policy", "fifo")
    assert run.returncode == 0, run.stderr
    roles = json.loads(run.stdout)[0]["by_role"]
    assert {"orchestrator", "transcription", "picture", "mesh"} <= set(roles)


def test_the_example_trace_runs() -> None:
    some = ("--policy", "turnout", "--policy", "fifo", "--json")  # the third way has a limit of three models anyway
    run = simulate("--trace", str(EXAMPLES / "trace.csv"), "--rate", "2", "--vram-gib", "64", *some)
    assert run.returncode == 0, run.stderr
    assert {entry["swaps"] for entry in json.loads(run.stdout)} == {0}  # on a card of 64 GiB all fit
    assert {entry["refused"] for entry in json.loads(run.stdout)} == {0}


def test_the_users_own_card_is_simulated(trace: str, tmp_path: Path) -> None:
    config = tmp_path / "turnout.yaml"
    config.write_text(
        "profiles:\n"
        "  mine:\n"
        "    devices: [{id: host/gpu0, kind: simulated, vram_gib: 12, headroom_gib: 2}]\n"
        "    models:\n"
        "      chat: {engine: simulated, vram_gib: 6, load_seconds: 4, roles: [orchestrator]}\n"
        "      code: {engine: simulated, vram_gib: 6, load_seconds: 4, roles: [coding]}\n"
    )
    run = simulate("--config", str(config), "--trace", trace, "--profile", "mine", "--json", "--policy", "turnout")
    assert run.returncode == 0, run.stderr
    assert set(json.loads(run.stdout)[0]["by_role"]) == {"orchestrator", "coding"}


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        (["--profile", "smal"], "there is no profile 'smal'", "did you mean small?"),
        (["--policy", "lrru"], "there is no policy 'lrru'", "did you mean lru?"),
        (["--seed", "1", "--seeds", "2"], "--seed and --seeds", "--seeds N means"),
        (["--trace", "nowhere.csv"], "cannot read 'nowhere.csv'", "--trace names a file"),
        (["--html", "/nowhere/at/all.html"], "there is no folder '/nowhere/at'", "--html"),
    ],
)
def test_errors_say_what_to_do(arguments: list[str], told: str, hint: str, trace: str) -> None:
    base = [] if "--trace" in arguments else ["--trace", trace]
    run = simulate(*base, *arguments)
    assert run.returncode == 1
    assert run.stdout == ""
    assert told in run.stderr
    assert "hint:" in run.stderr
    assert hint in run.stderr


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n2,2,x\n")
    run = simulate("--trace", str(bad))
    assert run.returncode == 1
    assert f"error: {bad}:3: expected a count of tokens as GeneratedTokens, found 'x'" in run.stderr


def test_the_simulator_loads_neither_server_nor_store_nor_engines() -> None:
    code = (
        "import sys, turnout.simulate.comparison, turnout.simulate.finding, turnout.simulate.page\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(run.stdout.split())
    assert not loaded & {"uvicorn", "starlette", "httpx2", "sqlalchemy", "numpy", "asyncio", "rich", "xllamacpp"}
