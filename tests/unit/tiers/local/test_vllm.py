"""What is pure about vLLM: its share of the card, its command line, its metrics, its sources, what a sleeper holds."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.samples import a_context
from support.vllm import CARD, RAM, vllm_settings
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, Device, DeviceReading
from turnout.core.words import Capability
from turnout.tiers.base import EngineContext, LiveWorker
from turnout.tiers.local.vllm.command import command_line, variables
from turnout.tiers.local.vllm.engine import VllmEngine
from turnout.tiers.local.vllm.memory import PROCESS_BYTES, RESIDUE_BYTES, share_of_card, sleep_cost, sleep_level
from turnout.tiers.local.vllm.metrics import EngineLoad, parse_load
from turnout.tiers.local.vllm.residue import Residues, used_by_others
from turnout.tiers.local.vllm.settings import VllmSettings
from turnout.tiers.local.vllm.weights import parse_vllm_source, weights_bytes
from turnout.tiers.scripted_transport import ScriptedTransport

RECORDED = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="one"} 3.0
vllm:num_requests_waiting{engine="0",model_name="one"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="one",reason="capacity"} 2.0
vllm:engine_sleep_state{engine="0",model_name="one",sleep_state="awake"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="one"} 0.25
vllm:kv_cache_usage_perc_created{engine="0",model_name="one"} 1.795575157e+09
"""


def a_vllm(root: Path, *, devices: tuple[Device, ...] = (CARD, RAM), **settings: Any) -> VllmEngine:
    context: EngineContext = msgspec.structs.replace(a_context(root, ScriptedTransport([])), devices=devices)
    return VllmEngine("one", vllm_settings(root, **settings), context)


# Its share of the card


def test_an_absolute_size_becomes_a_share_of_the_whole_card() -> None:
    assert share_of_card(8 * GIB, 32 * GIB, 0, "own") == 0.25
    assert share_of_card(8 * GIB, 32 * GIB, 12 * GIB, "own") == 0.25, "today it is the limit of one instance"


def test_a_version_that_counts_the_whole_card_gets_its_neighbours_on_top() -> None:
    assert share_of_card(8 * GIB, 32 * GIB, 12 * GIB, "card") == 0.625


@given(
    wanted=st.integers(GIB, 100 * GIB), total=st.integers(GIB, 100 * GIB), others=st.integers(0, 50 * GIB),
    counts=st.sampled_from(["own", "card"]),
)  # fmt: skip
def test_the_share_never_gives_more_than_was_wanted(
    wanted: int, total: int, others: int, counts: Literal["own", "card"]
) -> None:
    amount = wanted + (others if counts == "card" else 0)
    try:
        share = share_of_card(wanted, total, others, counts)
    except SetupError:
        assert amount > total
        return
    assert math.ceil(total * share) <= amount + 1
    assert amount - total * share <= total / 10_000 + 1
    assert 0 < share <= 1
    assert float(f"{share:.4f}") == share, "four digits reach the command line"


@pytest.mark.parametrize(("wanted", "others", "counts"), [(33, 0, "own"), (8, 25, "card"), (0, 0, "own")])
def test_what_no_card_has_is_refused(wanted: int, others: int, counts: Literal["own", "card"]) -> None:
    with pytest.raises(SetupError):
        share_of_card(wanted * GIB, 32 * GIB, others * GIB, counts)


# Its command line


def words_of(settings: VllmSettings, **facts: Any) -> list[str]:
    given: dict[str, Any] = {"model": "owner/name", "served_name": "one", "host": "127.0.0.1", "port": 8200,
                             "share": 0.25, "is_embedding": False}  # fmt: skip
    return list(command_line(settings, **(given | facts)))


def some_settings(**facts: Any) -> VllmSettings:
    return msgspec.convert({"engine": "vllm", "source": "hf:owner/name"} | facts, VllmSettings)


def test_the_command_line_says_what_the_settings_say() -> None:
    settings = some_settings(context_tokens=32768, slots=4, quantisation="fp8", tool_parser="hermes", sleep=True,
                             arguments=["--seed", "7"])  # fmt: skip
    assert words_of(settings) == [
        "vllm", "serve", "owner/name", "--served-model-name", "one", "--host", "127.0.0.1", "--port", "8200",
        "--gpu-memory-utilization", "0.2500", "--max-num-seqs", "4", "--max-model-len", "32768",
        "--quantization", "fp8", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-sleep-mode",
        "--seed", "7",
    ]  # fmt: skip


def test_what_is_left_out_is_left_to_vllm() -> None:
    words = words_of(some_settings())
    assert not {"--max-model-len", "--quantization", "--tool-call-parser", "--enable-sleep-mode"} & set(words)


def test_the_module_takes_the_model_by_name() -> None:
    words = words_of(some_settings(command=["python", "-m", "vllm.entrypoints.openai.api_server"]))
    assert words[:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "owner/name"]


def test_on_the_processor_it_is_not_asked_for_a_sleep_that_it_refuses() -> None:
    assert "--enable-sleep-mode" not in words_of(some_settings(sleep=True), is_on_card=False)


def test_the_key_is_no_argument_and_development_routes_come_with_sleep_only() -> None:
    plain, sleepy = variables(some_settings(), "sk-1"), variables(some_settings(sleep=True, download=True), "sk-1")
    assert plain["VLLM_API_KEY"] == "sk-1"
    assert "VLLM_SERVER_DEV_MODE" not in plain
    assert plain["HF_HUB_OFFLINE"] == "1"
    assert plain["VLLM_NO_USAGE_STATS"] == "1"
    assert sleepy["VLLM_SERVER_DEV_MODE"] == "1"
    assert "HF_HUB_OFFLINE" not in sleepy


# Its metrics


def test_the_load_is_read_from_recorded_metrics() -> None:
    assert parse_load(RECORDED) == EngineLoad(running=3, waiting=2, cache_use=0.25)


def test_several_engines_behind_one_server_count_together() -> None:
    more = RECORDED + RECORDED.replace('engine="0"', 'engine="1"').replace(" 0.25", " 0.75")
    assert parse_load(more) == EngineLoad(running=6, waiting=4, cache_use=0.75)


def test_an_older_name_of_the_cache_is_known_and_none_is_none() -> None:
    assert parse_load(RECORDED.replace("kv_cache_usage", "gpu_cache_usage")) == EngineLoad(
        running=3, waiting=2, cache_use=0.25
    )
    assert parse_load("vllm:num_requests_running 1.0\n") == EngineLoad(running=1, waiting=0)
    assert parse_load("vllm:num_requests_running NaN\n") is None


@given(st.text())
def test_no_text_makes_it_stumble(text: str) -> None:
    assert parse_load(text) is None or "vllm:" in text


# Its weights


def test_the_hubs_cache_is_where_its_own_variables_say(tmp_path: Path) -> None:
    found = parse_vllm_source("hf:owner/name", {"HF_HOME": str(tmp_path)}.get)
    assert found.folder == tmp_path / "hub" / "models--owner--name" / "snapshots"
    assert not found.is_here
    assert parse_vllm_source("hf:a/b", {"HF_HUB_CACHE": "/c"}.get).folder == Path("/c/models--a--b/snapshots")


def test_the_weights_of_a_cached_model_are_counted_through_its_links(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "blob").write_bytes(bytes(5000))
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blob")
    (snapshot / "pytorch_model.bin").write_bytes(bytes(9000))
    (snapshot / "config.json").write_text("{}")
    found = parse_vllm_source("hf:owner/name", {"HF_HOME": str(tmp_path)}.get)
    assert weights_bytes(found) == 5000, "vLLM reads one form only"


@pytest.mark.parametrize(
    "text", ["package:x", "hf:name", "hf:../../etc/x", "hf:a/b/c", "file:here", "file:", "", "hf:-a/b"]
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(SetupError) as raised:
        parse_vllm_source(text, os.environ.get)
    assert "hf:OWNER/NAME" in raised.value.hint


def test_it_is_told_where_the_hubs_cache_is(tmp_path: Path) -> None:
    (tmp_path / "hub" / "models--owner--name" / "snapshots").mkdir(parents=True)
    context = a_context(tmp_path, ScriptedTransport([]), secrets={"HF_HOME": str(tmp_path)})
    program = {"command": [sys.executable, "serve"]}
    here = VllmEngine("one", some_settings(**program), context).spec("sk")
    assert here.environment["HF_HUB_CACHE"] == str(tmp_path / "hub")
    there = VllmEngine("one", some_settings(runtime="docker"), context).spec("sk")
    assert there.container is not None
    assert f"{tmp_path / 'hub'}:{there.environment['HF_HUB_CACHE']}:ro" in there.container.mounts
    compiled = [mount for mount in there.container.mounts if mount.endswith(f":{there.environment['VLLM_CACHE_ROOT']}")]
    assert len(compiled) == 1, "what it compiles is kept where it is told to look"
    assert there.container.image == "vllm/vllm-openai:latest"
    assert there.key != "sk", "a container's key outlives the daemon"


# What it takes, awake and asleep


def test_it_takes_the_first_card_and_some_of_the_machines_memory(tmp_path: Path) -> None:
    (model,) = a_vllm(tmp_path, vram_gib=5.5).models()
    assert model.sizes[0].devices == {"host/gpu0": int(5.5 * GIB), HOST_RAM: PROCESS_BYTES}
    assert model.slots == 1
    assert model.sleep_levels == ()


def test_without_a_size_it_takes_what_vllm_takes(tmp_path: Path) -> None:
    (model,) = a_vllm(tmp_path, vram_gib=None).models()
    assert model.sizes[0].devices["host/gpu0"] == int(0.9 * CARD.total_bytes)


def test_a_sleeper_holds_its_weights_in_the_machines_memory_or_drops_them(tmp_path: Path) -> None:
    light = a_vllm(tmp_path, sleep=True, sleep_level=1)
    (tmp_path / "weights" / "model.safetensors").write_bytes(bytes(1 << 20))
    light = a_vllm(tmp_path, sleep=True, sleep_level=1)
    (level,) = light.models()[0].sleep_levels
    assert level.level == 1
    assert level.devices == {"host/gpu0": RESIDUE_BYTES, HOST_RAM: PROCESS_BYTES + (1 << 20)}
    (level,) = a_vllm(tmp_path, sleep=True, sleep_level=2).models()[0].sleep_levels
    assert level.level == 2
    assert level.devices == {"host/gpu0": RESIDUE_BYTES, HOST_RAM: PROCESS_BYTES}


def test_the_machines_memory_decides_how_it_sleeps() -> None:
    ram = Device(id=HOST_RAM, kind="ram", total_bytes=34 * GIB, headroom_bytes=2 * GIB)
    assert sleep_level(None, 16 * GIB, ram) == 1
    assert sleep_level(None, 17 * GIB, ram) == 2
    assert sleep_level(1, 17 * GIB, ram) == 1
    assert sleep_level(None, 1, None) == 2, "what is not known cannot be promised"


def test_dropped_weights_cost_time_on_the_way_back() -> None:
    devices = {"host/gpu0": 20 * GIB}
    light, deep = (sleep_cost(level, 16 * GIB, devices, {}) for level in (1, 2))
    assert light.wake_seconds < deep.wake_seconds
    assert light.sleep_seconds > deep.sleep_seconds


async def test_what_was_measured_of_a_sleeper_counts_from_the_next_start_on() -> None:
    reading = DeviceReading(device="host/gpu0", used_bytes=5 * GIB, by_process={os.getpid(): 3 * GIB, 1: GIB})
    residues = Residues(lambda: [reading])
    workers = [LiveWorker(target="local/one", pid=os.getpid(), devices={})]
    await residues.measure({"host/gpu0": 8 * GIB, HOST_RAM: GIB}, workers)
    assert residues.settled() == {}
    residues.settle()
    assert residues.settled() == {"host/gpu0": 3 * GIB}
    assert sleep_cost(1, 0, {"host/gpu0": 8 * GIB}, residues.settled()).devices["host/gpu0"] == 3 * GIB


def test_a_driver_that_does_not_say_leaves_the_guess() -> None:
    assert used_by_others(CARD, list) == 0
    reading = DeviceReading(device="host/gpu0", used_bytes=5 * GIB)
    assert used_by_others(CARD, lambda: [reading]) == 5 * GIB


# What it refuses


def test_sleep_is_refused_where_its_routes_would_be_reachable_from_outside(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="sleep"):
        a_vllm(tmp_path, runtime="docker", sleep=True)
    a_vllm(tmp_path, runtime="docker", sleep=True, network="host")


@pytest.mark.parametrize("setting", [{"image": "x"}, {"memory_gib": 1.0}, {"mounts": ["/a:/b"]}])
def test_settings_of_containers_are_refused_for_a_process(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="containers"):
        a_vllm(tmp_path, **setting)


def test_a_program_or_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no program 'nonesuch'"):
        a_vllm(tmp_path, command=["nonesuch", "serve"]).spec("sk")
    engine = VllmEngine("one", some_settings(source="hf:owner/nonesuch"), a_context(tmp_path, ScriptedTransport([])))
    with pytest.raises(SetupError, match="not on this machine") as raised:
        engine.spec("sk")
    assert "hf download owner/nonesuch" in raised.value.hint


def test_the_card_is_chosen_by_its_place_on_the_bus(tmp_path: Path) -> None:
    second = msgspec.structs.replace(CARD, id="host/gpu1")
    engine = a_vllm(tmp_path, devices=(CARD, second, RAM), device="host/gpu1")
    spec = engine.spec("sk")
    assert spec.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert spec.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "0.1250" in spec.arguments
    assert "sk" not in spec.arguments


@pytest.mark.parametrize(
    ("settings", "can"),
    [
        ({"roles": ["embedding"]}, {"embedding"}),
        ({"roles": ["vision"]}, {"chat", "completion", "json", "vision"}),
        ({"tool_parser": "hermes"}, {"chat", "completion", "json", "tools"}),
        ({"can": ["chat"]}, {"chat"}),
    ],
)
def test_what_it_can_is_told_by_its_roles(tmp_path: Path, settings: dict[str, Any], can: set[Capability]) -> None:
    (target,) = a_vllm(tmp_path, **settings).targets()
    assert target.can == can
    assert target.model == "one"


def test_a_variable_is_handed_on_by_name_and_missed_by_name(tmp_path: Path) -> None:
    context = a_context(tmp_path, ScriptedTransport([]), secrets={"HF_TOKEN": "hf-1"})
    settings = vllm_settings(tmp_path, environment_from=["HF_TOKEN"])
    assert VllmEngine("one", settings, context).spec("sk").environment["HF_TOKEN"] == "hf-1"
    with pytest.raises(SetupError, match="OTHER"):
        VllmEngine("one", vllm_settings(tmp_path, environment_from=["OTHER"]), context).spec("sk")
