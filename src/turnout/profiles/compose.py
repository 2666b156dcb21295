"""The vLLM servers of a profile as a compose file: the same models with the same memory, and nobody who moves them.

What fits together starts with ``docker-compose up``; what would have to change places is behind a compose profile of
its own name. Ports are published on loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

import msgspec
import yaml

from turnout.core.memory import GIB
from turnout.profiles.planner import CardPlan, ModelPlan
from turnout.tiers.local.server.engine import gpus_of
from turnout.tiers.local.vllm.command import command_line
from turnout.tiers.local.vllm.memory import share_of_card
from turnout.tiers.local.vllm.settings import IMAGE, VllmSettings

DEFAULT_IMAGE = f"${{TURNOUT_VLLM_IMAGE:-{IMAGE}}}"
CONTAINER_PORT = 8000
FIRST_PORT = 8210
CACHE = "huggingface"
CONTAINER_CACHE = "/caches/huggingface"
HEALTH = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{CONTAINER_PORT}/health', timeout=5)"


class Composed(NamedTuple):
    """A compose file.

    Attributes:
        text: The YAML, with a head of comments.
        document: The same as plain values.
        on_wish: Models that start only when their compose profile is named.
        left_out: Models that vLLM does not serve, or that do not fit.
    """

    text: str
    document: dict[str, Any]
    on_wish: tuple[str, ...]
    left_out: tuple[str, ...]


def compose_file(plan: CardPlan, settings: Mapping[str, VllmSettings]) -> Composed:
    """Return a compose file for a plan.

    Args:
        plan: Of a profile on a card.
        settings: Of those models that vLLM serves, by target.

    Raises:
        SetupError: A model's share of the card is none that vLLM can work with.
    """
    services: dict[str, Any] = {}
    external: dict[str, Any] = {}
    swapping: list[str] = []
    left_out: list[str] = []
    ports = (port for port in count(FIRST_PORT) if port not in {given.port for given in settings.values()})
    before, used_bytes = "", 0
    for planned in plan.models:
        target = planned.model.name
        given = settings.get(target)
        if given is None or planned.verdict not in ("stays", "beside", "swaps"):
            left_out.append(target)
            continue
        key = target.removeprefix("local/")
        port = given.port or next(ports)
        services[key] = service = _service(planned, given, key, port, plan, used_bytes)
        external[key] = _external(planned, given, key, port)
        if planned.verdict == "swaps":
            swapping.append(target)
            service["profiles"] = [key]
            continue
        if before:
            service["depends_on"] = {before: {"condition": "service_healthy"}}
        before, used_bytes = key, used_bytes + planned.bytes
    document: dict[str, Any] = {"services": services}
    if any(volume.startswith(f"{CACHE}:") for service in services.values() for volume in service["volumes"]):
        document["volumes"] = {CACHE: {}}
    return Composed(_head(plan, external) + _spell(document), document, tuple(swapping), tuple(left_out))


def _service(
    planned: ModelPlan, given: VllmSettings, key: str, port: int, plan: CardPlan, used_bytes: int
) -> dict[str, Any]:
    kind, _, place = given.source.partition(":")
    weights = f"/models/{key}"
    words = command_line(
        msgspec.structs.replace(given, command=["vllm", "serve"]),
        model=place if kind == "hf" else weights,
        served_name=given.served_name or key,
        host="0.0.0.0",  # noqa: S104  inside the container; its port is published on loopback
        port=CONTAINER_PORT,
        share=share_of_card(planned.bytes, plan.card.total_bytes, used_bytes, given.memory_counts),
        is_embedding=set(given.roles) == {"embedding"},
    )
    gpus = gpus_of({given.device or plan.card.id: planned.bytes}) or (0,)
    devices = [{"driver": "nvidia", "device_ids": [str(gpu) for gpu in gpus], "capabilities": ["gpu"]}]
    mounts = [f"{CACHE}:{CONTAINER_CACHE}" if kind == "hf" else f"{place}:{weights}:ro", *given.mounts]
    return {
        "image": _escaped(given.image) if given.image else DEFAULT_IMAGE,
        "entrypoint": [words[0]],
        "command": [_escaped(word) for word in words[1:]],
        "ports": [f"127.0.0.1:{port}:{CONTAINER_PORT}"],
        "volumes": [_escaped(mount) for mount in mounts],
        "environment": [
            *dict.fromkeys(("HF_TOKEN", *given.environment_from)),  # a name alone: compose hands the value on
            *([f"HF_HOME={CONTAINER_CACHE}"] if kind == "hf" else []),
            *(_escaped(f"{name}={value}") for name, value in given.environment.items()),
        ],
        "shm_size": "4gb",  # the server and its engine speak through it
        "deploy": {"resources": {"reservations": {"devices": devices}}},
        "healthcheck": {
            "test": ["CMD", "python3", "-c", HEALTH],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": "900s",
        },
    }


def _external(planned: ModelPlan, given: VllmSettings, key: str, port: int) -> dict[str, Any]:
    roles = list(planned.model.roles)
    entry: dict[str, Any] = {
        "engine": "external", "base_url": f"http://127.0.0.1:{port}/v1", "model": given.served_name or key,
    }  # fmt: skip
    if roles:
        entry["roles"] = roles
    if roles == ["embedding"]:
        entry["can"] = ["embedding"]
    else:
        more = ["tools"] * bool(given.tool_parser) + ["vision"] * ("vision" in roles)
        entry["can"] = ["chat", "completion", "json", *more]
    return entry


def _escaped(word: str) -> str:
    return word.replace("$", "$$")


def _head(plan: CardPlan, external: Mapping[str, Any]) -> str:
    lines = [
        f"Profile {plan.shape.name} on a card of {plan.card.total_bytes / GIB:g} GiB, by `turnout profile compose`.",
        "Servers start one after the other, since vLLM measures the card while it starts.",
        "TURNOUT_VLLM_IMAGE names another image. In turnout.yaml they are:",
        "",
        "  models:",
        *(f"    {key}: {_inline(entry)}" for key, entry in external.items()),
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _inline(entry: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(entry), default_flow_style=True, width=10_000, sort_keys=False)
    return text.strip()


def _spell(document: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(document), sort_keys=False, width=10_000, default_flow_style=False)
    return text
