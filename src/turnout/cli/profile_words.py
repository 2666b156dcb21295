"""A plan in words: what is there together, who changes places, who serves what, what does not fit and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from turnout.core.memory import GIB
from turnout.core.words import ROLES
from turnout.profiles.gather import chain_in, roles_of
from turnout.profiles.planner import STOP_SECONDS, CardPlan, Compared, ModelPlan, ProgramPlan
from turnout.profiles.shape import Shape

BITS = {
    "bf16": "16 bit", "fp16": "16 bit", "fp8": "8 bit", "awq": "4 bit (AWQ)", "gptq": "4 bit (GPTQ)",
    "bitsandbytes": "4 bit (bitsandbytes)",
}  # fmt: skip


NAMES = {"ollama": "Ollama", "external": "the server at its base_url"}


class Table(NamedTuple):
    """Rows under headings.

    Attributes:
        columns: The headings.
        rows: A cell for each.
        right: Headings of the columns that stand to the right.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[str, ...] = ()


Part = str | Table


def plan_parts(plan: CardPlan, card_words: str, *, has_roles: bool = True) -> Iterator[Part]:
    """Yield the lines and tables of a plan.

    Args:
        plan: The plan.
        card_words: Which card it is, and who said so.
        has_roles: Whether the profile alone decides who serves a role.
    """
    yield f"{plan.shape.name} on {card_words}"
    if plan.shape.about:
        yield plan.shape.about
    yield ""
    yield from _sum(plan)
    yield ""
    yield from _models(plan)
    roles = _roles(plan) if has_roles else iter(())
    for section in (_groups(plan), _swaps(plan), _missing(plan), _programs(plan), roles, _compared(plan)):
        lines = list(section)
        if lines:
            yield ""
            yield from lines
    if plan.shape.notes:
        yield ""
        yield from plan.shape.notes


def gib(count: int) -> str:
    """Return ``11.3 GiB``."""
    return f"{count / GIB:.1f} GiB"


def short(target: str) -> str:
    """Return a local target as the profile calls it: ``coding``."""
    return target.removeprefix("local/")


def names(targets: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    words = [short(target) for target in targets]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def about(seconds: float) -> str:
    """Return ``about 25 s``; a guess has no decimals."""
    return f"about {seconds:.0f} s"


def _sum(plan: CardPlan) -> Iterator[str]:
    card, free = plan.card, plan.shape.keep_free_bytes
    on_card = [entry for entry in plan.models if entry.verdict not in ("memory", "elsewhere")]
    if not on_card:
        yield "It puts nothing of its own on a card."
        return
    sum_words = f"{gib(card.total_bytes)} - {gib(card.headroom_bytes)} that nobody gets (drivers, desktop, surprises)"
    if free:
        sum_words += f" - {gib(free)} kept free for programs"
    yield f"{sum_words} = {gib(plan.room_bytes) if plan.room_bytes else 'nothing'} for models."
    together = plan.bytes_of(plan.groups[0]) if plan.groups else 0
    lost = [entry for entry in on_card if entry.verdict not in ("stays", "beside", "swaps")]
    turns = any(entry.verdict == "swaps" for entry in on_card)
    who = f"The {len(on_card)} models want" if len(on_card) > 1 else "The model wants"
    wanted = f"{who} {gib(plan.wanted_bytes)}"
    if not plan.groups:
        yield f"{wanted}: nothing fits."
    elif lost:
        yield f"{wanted}: {names([entry.model.name for entry in lost])} {_do(lost, 'does', 'do')} not fit (see below)."
    elif turns:
        yield f"{wanted}: not all at once. {gib(together)} are there first, the others take turns."
    else:
        fit = "all fit" if len(on_card) > 1 else "it fits"
        yield f"{wanted}: {fit}, {gib(plan.room_bytes - together)} stay free."
    first = chain_in(plan.shape, "orchestrator")[:1]
    if first and any(first[0] in group for group in plan.groups):
        yield f"At the start only {short(first[0])} is loaded, every other model when somebody asks for it."
    elif plan.groups:
        yield "Every model is loaded when somebody asks for it."


def _do(entries: Sequence[object], one: str, several: str) -> str:
    return one if len(entries) == 1 else several


def _models(plan: CardPlan) -> Iterator[Part]:
    columns = ("MODEL", "WHAT", "TAKES", "WEIGHTS", "CACHE", "REST", "REQUESTS AT ONCE", "WHERE")
    rows = [_model_row(entry) for entry in plan.models]
    if not any(row[2] for row in rows):
        yield Table((*columns[:2], columns[-1]), [(*row[:2], row[-1]) for row in rows])
        return
    yield Table(columns, rows, right=columns[2:6])
    if any(entry.model.weights_bytes for entry in plan.models):
        yield "Computed from what the models' makers publish, not measured. REST: driver context, graphs, activations."


def _model_row(entry: ModelPlan) -> tuple[str, ...]:
    model = entry.model
    title = ", ".join(filter(None, (model.title, BITS.get(model.quantisation, model.quantisation))))
    if entry.verdict in ("memory", "elsewhere"):
        return short(model.name), title, "", "", "", "", "", _off_card(entry)
    cache = max(0, entry.bytes - model.weights_bytes - model.rest_bytes) if model.cache_bytes_per_token else 0
    parts = (model.weights_bytes, cache, model.rest_bytes)
    cells = tuple(gib(part) if part and model.weights_bytes else "" for part in parts)
    return short(model.name), title, gib(entry.bytes) if entry.bytes else "?", *cells, _at_once(entry), _where(entry)


def _at_once(entry: ModelPlan) -> str:
    model, tokens = entry.model, entry.cache_tokens
    if not tokens or not model.context_tokens:
        return ""
    whole = min(model.slots, tokens // model.context_tokens)
    if whole == model.slots:
        return f"{whole} of {model.context_tokens:,} tokens"
    return f"{whole} of {model.context_tokens:,} tokens, or {model.slots} of {tokens // model.slots // 100 * 100:,}"


def _off_card(entry: ModelPlan) -> str:
    model = entry.model
    if entry.verdict == "elsewhere":
        return f"{NAMES.get(model.engine, model.engine)} loads it by itself, if it runs"
    if model.file_bytes or not model.title.partition(":")[1]:
        return "in the machine's memory"
    return f"in the machine's memory, once it is here: `turnout models pull {model.title}`"


def _where(entry: ModelPlan) -> str:
    match entry.verdict:
        case "stays":
            return "on the card, always (pinned)"
        case "beside":
            return "on the card"
        case "swaps":
            return f"in turn with {names(entry.makes_way)}"
        case "unknown":
            return "nobody says how much it takes: vram_gib"
        case _:
            return "does not fit"


def _groups(plan: CardPlan) -> Iterator[Part]:
    if len(plan.groups) < 2:
        return
    yield "On the card together, at most:"
    for group in plan.groups:
        taken = plan.bytes_of(group)
        yield f"  {names(group)}: {gib(taken)}, {gib(plan.room_bytes - taken)} free"


def _swaps(plan: CardPlan) -> Iterator[Part]:
    swapping = [entry for entry in plan.models if entry.verdict == "swaps"]
    if not swapping:
        return
    yield f"Changing places: one ends its answers and stops ({about(STOP_SECONDS)}), then the other is loaded:"
    seconds = {entry.model.name: entry.model.load_seconds for entry in plan.models}
    for entry in swapping:
        back = max(seconds[name] for name in entry.makes_way) + STOP_SECONDS
        line = f"  {short(entry.model.name)}: {names(entry.makes_way)} {_do(entry.makes_way, 'makes', 'make')} way"
        yield f"{line}, ready after {about(entry.seconds)}; the way back takes {about(back)}"


def _missing(plan: CardPlan) -> Iterator[Part]:
    missing = [entry for entry in plan.models if entry.verdict in ("too_large", "no_room", "small_share", "unknown")]
    if not missing:
        return
    yield "Does not fit:"
    for entry in missing:
        yield f"  {short(entry.model.name)}: {_why_missing(entry)}"
        if instead := _instead(entry, plan):
            yield f"    so {instead}"
    if any(entry.model.name in chain_in(plan.shape, "orchestrator")[:1] for entry in missing):
        yield "  For this card: `turnout profile plan auto`, or a profile of your own that extends this one."


def _why_missing(entry: ModelPlan) -> str:
    model = entry.model
    if entry.verdict == "unknown":
        return f"nobody says how much it takes; add vram_gib to models.{short(model.name)}"
    least = model.weights_bytes + model.rest_bytes
    if entry.verdict == "small_share":
        words = f"it may take {gib(entry.bytes)}, and cannot start with less than {gib(model.least_bytes)}"
    elif not entry.room_bytes:
        return f"it wants {gib(entry.bytes)}, and nothing is left for it"
    elif entry.verdict == "no_room":
        words = f"it wants {gib(entry.bytes)}, and what is pinned leaves {gib(entry.room_bytes)}"
    else:
        words = f"it wants {gib(entry.bytes)}, and there are {gib(entry.room_bytes)}"
    if entry.fitting_tokens:
        setting = f"vram_gib: {entry.room_bytes / GIB:.1f}, context_tokens: {entry.fitting_tokens}"
        words += f". It would fit with `{setting}` (now {model.context_tokens})"
    elif model.weights_bytes:
        words += f". Its weights and the rest alone take {gib(least)}: a shorter context does not help"
    return words


def _instead(entry: ModelPlan, plan: CardPlan) -> str:
    """Say who serves its roles instead."""
    verdicts = {other.model.name: other.verdict for other in plan.models}
    roles: dict[str, list[str]] = {}
    for role in roles_of(plan.shape):
        chain = chain_in(plan.shape, role)
        if chain and chain[0] == entry.model.name:
            others = [target for target in chain[1:] if verdicts.get(target, "stays") not in LOST]
            roles.setdefault(others[0] if others else "", []).append(role)
    return "; ".join(
        f"{names(served)} {_do(served, 'goes', 'go')} to {target}" if target else f"nobody serves {names(served)}"
        for target, served in roles.items()
    )


LOST = ("too_large", "no_room", "small_share", "unknown")


def _programs(plan: CardPlan) -> Iterator[Part]:
    if not plan.programs:
        return
    yield "Programs beside turnout (`turnout lease run --gib N -- COMMAND`), one at a time:"
    for entry in plan.programs:
        yield f"  {entry.program.title}, {gib(entry.program.bytes)}: {_program(entry)}"


def _program(entry: ProgramPlan) -> str:
    if not entry.fits:
        return f"does not fit, what is pinned leaves {gib(entry.room_bytes)}"
    if not entry.makes_way:
        return "there is room, nobody makes way"
    back = f"back {about(entry.seconds)} after somebody asks for it again"
    return f"{names(entry.makes_way)} {_do(entry.makes_way, 'makes', 'make')} way; {back}"


def _roles(plan: CardPlan) -> Iterator[Part]:
    shape = plan.shape
    roles: dict[str, list[str]] = {}
    for role in roles_of(shape):
        roles.setdefault(_chain(chain_in(shape, role), plan) or _by_program(role, plan), []).append(role)
    if roles:
        yield Table(("ROLE", "WHO SERVES IT, IN ORDER"), [(", ".join(served), whom) for whom, served in roles.items()])
    if shape.effort:
        yield ""
        yield Table(("EFFORT", "WHO SERVES IT, IN ORDER"), list(_bands(shape, plan)))


def _bands(shape: Shape, plan: CardPlan) -> Iterator[tuple[str, ...]]:
    for band, whom in shape.effort.items():
        targets = [target for one in whom for target in (chain_in(shape, one) if one in ROLES else (one,))]
        yield band, _chain(targets, plan) or "nobody"


def _chain(targets: Sequence[str], plan: CardPlan) -> str:
    """Return the targets of a chain with the place of each; neighbours of one place share the word for it."""
    verdicts = {entry.model.name: entry for entry in plan.models}
    groups: list[tuple[str, list[str]]] = []
    for target in targets:
        place = _place(target, verdicts.get(target))
        if not groups or groups[-1][0] != place:
            groups.append((place, []))
        groups[-1][1].append(target)
    return "; then ".join(f"{', '.join(together)} ({place})" for place, together in groups)


def _place(target: str, entry: ModelPlan | None) -> str:
    if entry is None:
        tier = target.partition("/")[0]
        return {"local": "not in this profile", "rented": "rented, paid"}.get(tier, "provider, paid")
    words = {"stays": "always there", "beside": "on the card", "swaps": "in turn", "memory": "in memory"}
    return words.get(
        entry.verdict,
        f"if {NAMES.get(entry.model.engine, entry.model.engine)} runs"
        if entry.verdict == "elsewhere"
        else "does not fit",
    )


def _by_program(role: str, plan: CardPlan) -> str:
    titles = [entry.program.title for entry in plan.programs if role in entry.program.roles]
    return f"not turnout: {', '.join(titles)}" if titles else "nobody"


def _compared(plan: CardPlan) -> Iterator[Part]:
    if not plan.compared:
        return
    yield f"Beside {plan.shape.compared_with}:"
    rows = [
        (short(entry.name), _theirs(entry), gib(entry.ours_bytes), _difference(entry, plan)) for entry in plan.compared
    ]
    yield Table(("MODEL", "THERE", "HERE", "WHY"), rows, right=("THERE", "HERE"))
    total, theirs = sum(entry.theirs_bytes for entry in plan.compared), plan.shape.compared_card_bytes
    if len(rows) > 1 and theirs and total > theirs:
        yield f"Together they are {total / theirs:.0%} of that card: {gib(total)} of {gib(theirs)}."


def _theirs(entry: Compared) -> str:
    share = "" if entry.theirs_share is None else f"{entry.theirs_share:.0%} = "
    return share + gib(entry.theirs_bytes)


def _difference(entry: Compared, plan: CardPlan) -> str:
    model = next(other.model for other in plan.models if other.model.name == entry.name)
    if not entry.weights_bytes:
        return "its parts are not known"
    if entry.theirs_bytes < entry.weights_bytes:
        return f"its weights alone take {gib(entry.weights_bytes)} ({model.quantisation})"
    if entry.theirs_bytes < entry.weights_bytes + model.rest_bytes:
        return f"weights and rest take {gib(entry.weights_bytes + model.rest_bytes)}, without any context"
    if not model.cache_bytes_per_token:
        return "it needs no more: it has no cache" if entry.ours_bytes < entry.theirs_bytes else "what it needs"
    if abs(entry.theirs_bytes - entry.ours_bytes) < GIB // 8:
        return f"the same: {_context(entry.ours_tokens)}"
    return f"{_context(entry.ours_tokens)}; theirs would be {_context(entry.theirs_tokens)}"


def _context(tokens: int) -> str:
    return f"a cache of {tokens // 100 * 100:,} tokens"
