"""``turnout profile``: which shapes of the card there are, what each means here, and the switch to another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from turnout.cli.config_show import Shown, spell_yaml
from turnout.cli.daemon import find_daemon, named_url
from turnout.cli.options import ConfigOption, Given, JsonOption, UrlOption, given, new_app, show_help
from turnout.cli.profile_auto import auto_parts, auto_plan
from turnout.cli.profile_card import ChosenCard, choose_card
from turnout.cli.profile_words import Part, names, plan_parts
from turnout.cli.terminal import hint, printable, put, put_json, put_table, say, warn
from turnout.client import DaemonNotReachable
from turnout.config.loader import LoadedConfig, built_in_profiles, load_config
from turnout.config.paths import find_paths
from turnout.config.schema import RESERVED
from turnout.core.errors import SetupError
from turnout.core.memory import GIB
from turnout.profiles.gather import chain_in, roles_of, shape_of
from turnout.profiles.planner import CardPlan, leaving, plan_card
from turnout.profiles.shape import Shape
from turnout.tiers.local.weights.source import locate, parse_source
from turnout.tiers.registry import decode_model, engine_entry_points

app = new_app()
AUTO = "auto"
NameArgument = Annotated[str, typer.Argument(metavar="[NAME]", help="A profile; the configured one if left out.")]
VramOption = Annotated[
    float | None,
    typer.Option("--vram-gib", metavar="N", min=0.1, max=65_536, help="Another card than the one that is here."),
]
SHOWN_SECTIONS = ("shape", "models", "chains", "aliases", "effort", "discover", "devices", "scheduler", "server")


@app.callback(invoke_without_command=True)
def profile(context: typer.Context, config: ConfigOption = None) -> None:
    """Show profiles, plan the card, switch to another one."""
    given(context, config)
    if context.invoked_subcommand is None:
        show_help(context)


@app.command("list")
def list_profiles(context: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the profiles, built in and your own."""
    options = given(context, config)
    active = load(options, "")
    own = list(active.settings.profiles)
    names_of_all = dict.fromkeys([*built_in_profiles(), *own])
    entries = [_entry(name, options, active.settings.profile, own) for name in names_of_all]
    if json:
        put_json(entries)
        return
    rows = [
        (entry["name"] + " *" * entry["is_configured"], entry["origin"], entry["card"], entry["about"])
        for entry in entries
    ]
    put_table(("PROFILE", "FROM", "MADE FOR", "WHAT IT IS"), rows)
    say("* is the configured one; `turnout profile plan NAME` says what it means here", "dim")


@app.command()
def show(
    context: typer.Context,
    name: NameArgument = "",
    origin: Annotated[bool, typer.Option("--origin", help="Say behind each value who set it.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print what a profile sets, with the changes of your turnout.yaml."""
    loaded = load(given(context, config), name)
    values = {key: loaded.merged[key] for key in SHOWN_SECTIONS if key in loaded.merged}
    if json:
        put_json({"profile": loaded.settings.profile, **values})
        return
    for line in spell_yaml(Shown(values, dict(loaded.origins)), with_origins=origin):
        put(line)


@app.command()
def plan(
    context: typer.Context,
    name: NameArgument = "",
    vram_gib: VramOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Say what a profile means on the card: what is there together, what changes places, what does not fit."""
    options = given(context, config, url)
    loaded = load(options, name)
    shape = shape_of(loaded, file_bytes)
    chosen = choose_card(shape, loaded.settings, vram_gib)
    card_plan = plan_card(shape, chosen.card)
    now = _now(options, card_plan, chosen)
    auto = auto_plan(loaded, chosen) if loaded.settings.profile == AUTO else None
    if json:
        facts = {"profile": shape.name, "card_from": chosen.words, "fits": card_plan.fits, "leaving_now": now}
        put_json({**facts, "plan": card_plan, **({"auto": auto} if auto else {})})
    else:
        _put(plan_parts(card_plan, chosen.words, has_roles=auto is None))
        if auto is not None:
            _put(auto_parts(auto))
        for line in _now_words(now, card_plan, chosen):
            put(line)
    for line in _not_yet(shape):
        warn(line)


@app.command()
def use(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A profile.")],
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Switch the running daemon to a profile; running answers end first."""
    with find_daemon(given(context, config, url)) as daemon:
        told = daemon.use_profile(name, lambda step: say(f"  {step} …", "dim"))
    if json:
        put_json(told)
    else:
        checked = names(told["verified"]) or "nothing of ours"
        took = f"{told['seconds']:.1f} s (before: {told['before']})"
        say(f"profile {told['profile']} runs after {took}; checked: {checked}", "good")


@app.command()
def compose(
    context: typer.Context,
    name: NameArgument = "",
    vram_gib: VramOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print a compose file with the vLLM servers of a profile."""
    from turnout.profiles.compose import compose_file
    from turnout.tiers.local.vllm.settings import VllmSettings

    loaded = load(given(context, config), name)
    shape = shape_of(loaded)
    chosen = choose_card(shape, loaded.settings, vram_gib)
    vllms = {
        f"local/{key}": settings
        for key, entry in loaded.settings.models.items()
        if entry.get("engine") == "vllm" and isinstance(settings := decode_model(key, entry, loaded)[1], VllmSettings)
    }
    composed = compose_file(plan_card(shape, chosen.card), vllms)
    if json:
        put_json(composed.document)
    else:
        put(composed.text.rstrip("\n"))
    say(f"for {chosen.words}", "dim")
    if composed.left_out:
        say(f"left out, since vLLM does not serve them or they do not fit: {names(composed.left_out)}", "dim")
    if composed.on_wish:
        hint(f"started only with --profile NAME, since they do not fit beside the others: {names(composed.on_wish)}")


def load(options: Given, name: str) -> LoadedConfig:
    """Return the configuration with a profile.

    Args:
        options: May name the file.
        name: The profile; empty for the configured one.

    Raises:
        SetupError: There is no such profile, or something is wrong in it.
    """
    flags: dict[tuple[str | int, ...], Any] = {("profile",): name} if name else {}
    return load_config(find_paths(), file=options.config, flags=flags)


def file_bytes(source: str) -> int:
    """Return the size of a source's file on this machine; 0 if it is not here.

    Args:
        source: As under ``models``.
    """
    try:
        file = locate(parse_source(source), find_paths().data_dir)
    except SetupError:
        return 0
    return file.bytes if file else 0


def _entry(name: str, options: Given, configured: str, own: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "origin": "turnout.yaml" if name in own else "built in",
        "is_configured": name == configured,
        "card": "",
        "models": [],
    }
    try:
        shape = shape_of(load(options, name))
    except SetupError as error:
        return {**entry, "about": f"cannot be used: {error.message}"}
    card = f"{shape.card_bytes / GIB:g} GiB" if shape.card_bytes else "any card or none"
    return {**entry, "about": shape.about, "card": card, "models": [model.name for model in shape.models]}


def _put(parts: Iterator[Part]) -> None:
    for part in parts:
        if isinstance(part, str):
            put(printable(part))
        else:
            put_table(part.columns, part.rows, right=part.right)


def _now(options: Given, card_plan: CardPlan, chosen: ChosenCard) -> list[str] | None:
    """Return who would leave the card now; None where nobody knows."""
    if not chosen.is_here:
        return None
    try:
        with find_daemon(options) as daemon:
            status = daemon.status()
    except DaemonNotReachable:
        if named_url(options):
            raise
        return None
    holders = [
        holder["holder"]
        for device in status.get("devices", [])
        if device["id"] == chosen.card.id
        for holder in device["holders"]
        if not holder["lease"]
    ]
    return list(leaving(card_plan, holders))


def _now_words(now: list[str] | None, card_plan: CardPlan, chosen: ChosenCard) -> Iterator[str]:
    if not chosen.is_here or not card_plan.groups:
        return
    yield ""
    if now is None:
        yield "What would have to leave the card now is not known: turnout is not running."
    elif now:
        yield f"Now on the card, and without a place in this profile: {names(now)}."
    else:
        yield "Nothing that is on the card now would have to leave it."


def _not_yet(shape: Shape) -> Iterator[str]:
    """Yield what of a profile this version cannot do."""
    engines = sorted({model.engine for model in shape.models} - set(engine_entry_points()))
    if engines:
        what = f"engine {engines[0]}" if len(engines) == 1 else f"engines {', '.join(engines)}"
        yield f"this version has no {what}: the plan is arithmetic, `turnout up --profile {shape.name}` is refused"
    outside = {target.partition("/")[0] for role in roles_of(shape) for target in chain_in(shape, role)} - {"local"}
    outside |= {one.partition("/")[0] for whom in shape.effort.values() for one in whom if "/" in one} - {"local"}
    if "rented" in outside and "rented" in RESERVED:
        yield "this version does not rent cards yet: such targets are passed over"
    if (providers := sorted(outside - {"rented"})) and "providers" in RESERVED:
        yield f"this version does not speak to {', '.join(providers)} yet: such targets are passed over"
    if shape.effort and "effort" in RESERVED:
        yield "this version does not choose by effort yet"
