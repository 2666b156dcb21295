"""Engines that somebody else runs: what they list, what it means, and what happens while they are away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.samples import a_context
from turnout.config.schema import DeadlineSettings
from turnout.core.errors import ConnectFailed, CutOff, LoadFailed, NotSupported, SetupError, Stalled
from turnout.core.events import Event, WorkerChanged
from turnout.core.words import Target
from turnout.tiers.base import Call
from turnout.tiers.local.external import ExternalEngine, ExternalSettings
from turnout.tiers.local.found import FoundServer
from turnout.tiers.local.ollama import OllamaEngine, OllamaSettings
from turnout.tiers.local.probe import ProbedEngine, check_base_url
from turnout.tiers.media.comfyui import ComfyUi
from turnout.tiers.scripted_transport import ScriptedResponse, ScriptedTransport, Step, json_response
from turnout.tiers.transport import Deadlines, HttpRequest

URL = "http://127.0.0.1:9/v1"


class World:
    """A server that answers as the test says, and what the engine told about it."""

    def __init__(self, root: Path, secrets: dict[str, str] | None = None) -> None:
        self.answers: dict[str, Step | Callable[[Any], Step]] = {}
        self.transport = ScriptedTransport(self._answer)
        self.events: list[Event] = []
        self.changes = 0
        self.context = a_context(
            root, self.transport, emit=self.events.append, secrets=secrets, on_change=self._changed
        )

    def _changed(self) -> None:
        self.changes += 1

    def _answer(self, request: HttpRequest) -> Step:
        answer = self.answers.get(request.path, json_response({}, status=404))
        return answer(msgspec.json.decode(request.body)) if callable(answer) else answer

    def lists(self, *models: dict[str, Any] | str) -> None:
        data = [{"id": model} if isinstance(model, str) else model for model in models]
        self.answers["/models"] = json_response({"object": "list", "data": data})

    def external(self, **settings: Any) -> ExternalEngine:
        given = ExternalSettings(**{"engine": "external", "base_url": URL, **settings})
        return ExternalEngine("far", given, self.context)

    def found(self) -> FoundServer:
        return FoundServer(URL, self.context)

    def ollama(self, origin: Any = "configured", besides: Sequence[str] = (), **settings: Any) -> OllamaEngine:
        given = OllamaSettings(**{"engine": "ollama", **settings})
        return OllamaEngine("small", given, self.context, origin, besides)

    def states(self) -> list[tuple[str, str]]:
        return [(event.target, event.state) for event in self.events if isinstance(event, WorkerChanged)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def look(engine: ProbedEngine) -> tuple[Target, ...]:
    """Let an engine live for one look."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        engine._known.clear()
        life = tasks.create_task(engine.run())
        await engine.wait_known()
        life.cancel()
    return engine.targets()


async def test_a_configured_server_is_shown_before_anybody_asked_it(world: World) -> None:
    (target,) = world.external(roles=["coding"], model="m").targets()
    assert (target.name, target.state, target.detail, target.roles) == (
        "local/far",
        "loading",
        "not asked yet",
        ("coding",),
    )
    assert not target.is_loaded


async def test_the_only_model_is_taken_where_none_is_named(world: World) -> None:
    world.lists({"id": "served", "max_model_len": 4096})
    (target,) = await look(world.external())

    assert (target.model, target.state, target.context_tokens, target.is_loaded) == ("served", "ready", 4096, True)
    assert world.states() == [("local/far", "ready")]
    assert world.changes == 1


@pytest.mark.parametrize(
    ("listed", "model", "detail"),
    [
        (["a", "b"], None, "lists several models, name one with 'model': a, b"),
        ([], None, "lists no model"),
        (["a", "b"], "c", "does not list 'c'; it lists: a, b"),
        ([], "c", "does not list 'c'; it lists: nothing"),
    ],
)
async def test_a_model_that_is_not_clear_or_not_there_is_told(
    world: World, listed: list[str], model: str | None, detail: str
) -> None:
    world.lists(*listed)
    engine = world.external(model=model)
    (target,) = await look(engine)

    assert (target.state, detail in target.detail) == ("failed", True), target.detail
    with pytest.raises(LoadFailed, match="local/far"):
        await engine.ready("local/far")


@pytest.mark.parametrize(
    ("entry", "configured", "tokens"),
    [
        ({"max_model_len": 10}, 5, 10),
        ({"meta": {"n_ctx": 20}}, None, 20),
        ({"meta": {"n_ctx": "x"}}, None, None),
        ({}, 5, 5),
        ({"meta": None}, None, None),
    ],
)
async def test_the_context_comes_from_the_server_where_it_tells(
    world: World, entry: dict[str, Any], configured: int | None, tokens: int | None
) -> None:
    world.lists({"id": "m"} | entry)
    (target,) = await look(world.external(context_tokens=configured))
    assert target.context_tokens == tokens


async def test_a_server_that_goes_away_and_comes_back_is_followed(world: World) -> None:
    world.lists("m")
    engine = world.external()
    await look(engine)
    world.answers["/models"] = ConnectFailed("refused")
    (away,) = await look(engine)
    await look(engine)
    world.lists("m")
    (back,) = await look(engine)

    assert (away.state, away.detail, back.state) == ("unreachable", "refused", "ready")
    assert world.states() == [("local/far", state) for state in ("ready", "unreachable", "ready")]
    assert world.changes == 3, "what has not changed is not told"
    await engine.ready("local/far")


@pytest.mark.parametrize(
    "answer",
    [
        ConnectFailed("x"),
        Stalled("x"),
        json_response({}, status=500),
        json_response({}, status=401),
        json_response({}),
        json_response({"data": {}}),
        ScriptedResponse(pieces=(b"<html>",)),
        ScriptedResponse(pieces=(b'{"data":[{"id":"\xff"}]}',)),
        ScriptedResponse(pieces=(b'{"data":', CutOff("x"))),
        ScriptedResponse(pieces=(b"[" * 100_000,)),
        ScriptedResponse(pieces=(b"x" * (9 << 20),)),
        ScriptedResponse(),
    ],
)
async def test_no_answer_however_odd_ends_an_engines_life(world: World, answer: Step) -> None:
    world.answers["/models"] = world.answers["/api/tags"] = answer
    (target,) = await look(world.external())
    (small,) = await look(world.ollama(model="m"))

    assert (target.state, small.state) == ("unreachable", "unreachable")
    assert target.detail
    world.answers["/system_stats"] = answer
    for engine in (world.found(), world.ollama("found"), ComfyUi(URL, world.context)):
        assert await look(engine) == ()
    assert all(response.is_closed for response in world.transport.answers)


async def test_wishes_are_answered_by_a_look_at_once(world: World) -> None:
    world.lists("m")
    engine = world.external()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        life = tasks.create_task(engine.run())
        await engine.wait_known()
        world.answers["/models"] = ConnectFailed("gone")
        engine.wish("local/far")
        while engine.targets()[0].state != "unreachable":
            await asyncio.sleep(0)
        life.cancel()


async def test_models_with_a_key_of_their_own_are_not_found_a_second_time(world: World) -> None:
    tags = [{"name": "a:latest"}, {"name": "b:7b"}, {"name": "c:latest"}]
    world.answers["/api/tags"] = json_response({"models": tags})
    found = await look(world.ollama("found", besides=["a", "b:7b"]))
    assert [target.name for target in found] == ["local/ollama/c:latest"]


async def test_an_answer_that_comes_by_drops_is_given_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.answers["/models"] = ScriptedResponse(pieces=(b" ", asyncio.Event()))
    world.context = msgspec.structs.replace(world.context, deadlines=DeadlineSettings(probe=0.01))
    (target,) = await look(world.external())
    assert (target.state, "by drops" in target.detail) == ("unreachable", True), target.detail


STUDIO = {
    "object": "list",
    "data": [
        {"id": "chat", "type": "llm", "state": "loaded", "loaded_context_length": 4096, "max_context_length": 32768,
         "capabilities": ["tool_use"]},
        {"id": "eyes", "type": "vlm", "state": "not-loaded", "max_context_length": 8192},
        {"id": "words", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
    ],
}  # fmt: skip


async def test_lm_studio_is_known_by_its_own_list(world: World) -> None:
    world.lists({"id": "chat", "owned_by": "organization_owner"})
    world.answers["/api/v0/models"] = json_response(STUDIO)
    chat, eyes, words = await look(world.found())

    assert (chat.name, chat.engine, chat.state, chat.context_tokens) == (
        "local/lm-studio/chat",
        "lm-studio",
        "ready",
        4096,
    )
    assert (eyes.state, eyes.context_tokens, "vision" in eyes.can, "tools" in eyes.can) == ("cold", 8192, True, False)
    assert "tools" in chat.can
    assert words.can == {"embedding"}
    assert {request.base_url for request in world.transport.requests} == {URL, URL.removesuffix("/v1")}


async def test_a_llama_server_is_known_by_the_owner_of_its_model(world: World) -> None:
    world.lists({"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}})
    (target,) = await look(world.found())
    assert (target.name, target.engine, target.state) == ("local/llama-server/m.gguf", "llama-server", "ready")
    assert target.context_tokens == 4096


async def test_a_comfyui_is_shown_but_gets_no_request(world: World) -> None:
    stats = {"system": {"os": "posix", "comfyui_version": "0.3.60"}, "devices": [{"name": "cuda:0", "vram_total": 9}]}
    world.answers["/system_stats"] = json_response(stats)
    engine = ComfyUi("http://127.0.0.1:8188", world.context)
    (target,) = await look(engine)
    assert (target.name, target.model, target.can, target.state) == (
        "local/comfyui",
        "ComfyUI 0.3.60",
        frozenset(),
        "ready",
    )
    with pytest.raises(NotSupported):
        await engine.send(target, Call(kind="chat", body=b"{}", request_id="r", deadlines=Deadlines()))


async def test_a_strangers_list_of_models_is_not_taken_for_anything(world: World) -> None:
    world.lists({"id": "m", "owned_by": "someone"})
    assert await look(world.found()) == ()
    assert [request.path for request in world.transport.requests] == ["/models", "/api/v0/models"]
    assert world.states() == []


async def test_a_found_server_is_taken_for_a_vllm_only_if_it_says_so(world: World) -> None:
    world.lists({"id": "q", "owned_by": "vllm", "max_model_len": 9}, {"id": "o", "owned_by": "someone"})
    engine = world.found()
    assert engine.targets() == ()
    (target,) = await look(engine)

    assert (target.name, target.engine, target.model, target.origin) == ("local/vllm/q", "vllm", "q", "found")
    world.answers["/models"] = ConnectFailed("gone")
    assert await look(engine) == ()
    assert world.states() == [("local/vllm/q", "ready"), ("local/vllm/q", "unreachable")]


async def test_the_key_goes_along_with_every_call(tmp_path: Path) -> None:
    world = World(tmp_path, {"FAR_KEY": "sk-far\n"})
    world.lists("m")
    world.answers["/chat/completions"] = json_response({})
    engine = world.external(api_key_env="FAR_KEY")
    (target,) = await look(engine)
    call = Call(kind="chat", body=b"{}", request_id="req_1", deadlines=Deadlines(gap=7))
    await engine.send(target, call)

    assert all((b"authorization", b"Bearer sk-far") in request.headers for request in world.transport.requests)
    sent = world.transport.requests[-1]
    assert (sent.method, sent.base_url, sent.path, sent.body) == ("POST", URL, "/chat/completions", b"{}")
    assert sent.request_id == "req_1"
    assert world.transport.deadlines[-1].gap == 7


async def test_without_a_key_none_is_sent_and_an_unsendable_one_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, {"BAD": "a\r\nx: y", "EMPTY": ""})
    world.lists("m")
    await look(world.external(api_key_env="MISSING"))
    await look(world.external(api_key_env="EMPTY"))
    assert not any(name == b"authorization" for request in world.transport.requests for name, _ in request.headers)
    with pytest.raises(SetupError, match="the value of BAD cannot be sent") as raised:
        world.external(api_key_env="BAD")
    assert "x: y" not in raised.value.message, "secrets are never shown"


@pytest.mark.parametrize(
    ("url", "is_beyond"),
    [
        ("http://127.0.0.1:1/v1", False),
        ("http://localhost:1", False),
        ("http://[::1]:1", False),
        ("http+unix:///run/x.sock", False),
        ("http://gpu.lan:1", True),
        ("https://api.example.org/v1", True),
        ("http://localhost.evil.com", True),
        ("http://10.0.0.1", True),
    ],
)
def test_what_leaves_this_machine_is_known(world: World, url: str, is_beyond: bool) -> None:
    assert world.external(base_url=url).targets()[0].is_beyond_loopback is is_beyond
    assert world.ollama(base_url=url, model="m").targets()[0].is_beyond_loopback is is_beyond


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://h/v1", "http://", "http://h/v1?x=1", "http://h/v1#x", "http://user@h", "http://h:port/v1",
     "http://h:99999/v1", "http://[::1/v1", "file:///x"],
)  # fmt: skip
def test_a_base_url_that_cannot_work_is_refused(world: World, url: str) -> None:
    assert check_base_url(url)
    with pytest.raises(SetupError, match="base_url"):
        world.external(base_url=url)
    with pytest.raises(SetupError, match="base_url"):
        world.ollama(base_url=url, model="m")


def with_ollama(
    world: World, tags: list[dict[str, Any]], loaded: list[dict[str, Any]], shown: dict[str, list[str]]
) -> list[str]:
    """Set up an Ollama; return the list of names that it is asked to show."""
    asked: list[str] = []

    def show(body: Any) -> Step:
        asked.append(body["model"])
        return json_response({"capabilities": shown[body["model"]]} if body["model"] in shown else {})

    world.answers["/api/tags"] = json_response({"models": tags})
    world.answers["/api/ps"] = json_response({"models": loaded})
    world.answers["/api/show"] = show
    return asked


TAGS = [{"name": "llama3.2:3b", "size": 2000, "digest": "d1"}, {"name": "nomic:latest", "size": 300, "digest": "d2"}]


async def test_every_model_of_a_found_ollama_is_a_target(world: World) -> None:
    shown = {"llama3.2:3b": ["completion", "tools", "vision"], "nomic:latest": ["embedding"]}
    asked = with_ollama(world, TAGS, [{"name": "llama3.2:3b", "context_length": 4096}], shown)
    engine = world.ollama("found")
    chat, embed = await look(engine)

    assert (chat.name, chat.model, chat.engine, chat.origin) == (
        "local/ollama/llama3.2:3b",
        "llama3.2:3b",
        "ollama",
        "found",
    )
    assert (chat.state, chat.is_loaded, chat.context_tokens, chat.size_bytes) == ("ready", True, 4096, 2000)
    assert chat.can == {"chat", "completion", "json", "tools", "vision"}
    assert (embed.can, embed.state, embed.is_loaded, embed.context_tokens) == (
        frozenset({"embedding"}),
        "cold",
        False,
        None,
    )
    await look(engine)
    assert asked == ["llama3.2:3b", "nomic:latest"], "each digest is asked about once"
    pulled_again = [TAGS[0] | {"digest": "d9"}, TAGS[1]]
    world.answers["/api/tags"] = json_response({"models": pulled_again})
    await look(engine)
    assert asked == ["llama3.2:3b", "nomic:latest", "llama3.2:3b"]


async def test_a_configured_ollama_model_is_found_with_and_without_its_tag(world: World) -> None:
    with_ollama(world, TAGS, [], {})
    (plain,) = await look(world.ollama(model="nomic", roles=["embedding"]))
    (tagged,) = await look(world.ollama(model="llama3.2:3b"))

    assert (plain.name, plain.model, plain.state, plain.roles) == (
        "local/small",
        "nomic:latest",
        "cold",
        ("embedding",),
    )
    assert (tagged.model, tagged.can) == ("llama3.2:3b", frozenset({"chat", "completion", "json"}))


async def test_a_model_that_is_not_pulled_says_how(world: World) -> None:
    with_ollama(world, TAGS, [], {})
    engine = world.ollama(model="llama3.2:1b")
    (target,) = await look(engine)

    assert (target.state, target.detail) == ("failed", "Ollama does not have 'llama3.2:1b': `ollama pull llama3.2:1b`")
    with pytest.raises(LoadFailed, match="ollama pull"):
        await engine.ready("local/small")


async def test_an_old_ollama_that_shows_nothing_can_chat_and_is_asked_again(world: World) -> None:
    with_ollama(world, TAGS[:1], [], {})
    world.answers["/api/show"] = json_response({}, status=500)
    engine = world.ollama("found")
    (target,) = await look(engine)
    assert target.can == {"chat", "completion", "json"}
    with_ollama(world, TAGS[:1], [], {"llama3.2:3b": ["tools"]})
    (target,) = await look(engine)
    assert "tools" in target.can


async def test_ollama_is_called_on_its_openai_side(world: World) -> None:
    with_ollama(world, TAGS[:1], [], {})
    world.answers["/v1/embeddings"] = json_response({})
    engine = world.ollama(model="llama3.2:3b")
    (target,) = await look(engine)
    await engine.send(target, Call(kind="embedding", body=b"{}", request_id="r", deadlines=Deadlines()))
    assert world.transport.requests[-1].path == "/v1/embeddings"


def test_a_configured_ollama_needs_a_model(world: World) -> None:
    with pytest.raises(SetupError, match="'model' is missing"):
        world.ollama()
