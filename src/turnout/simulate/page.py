"""One HTML page that explains itself: no script, no font, no address outside it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

from turnout.core.memory import GIB
from turnout.simulate.pictures import POLICY_COLOURS, Bar, Range, areas, bars, colour_of, fitting, ranges
from turnout.simulate.profile import Profile
from turnout.simulate.report import Quantiles, Report

WHO = {
    "turnout": "turnout: leases by measured bytes, priorities that age, batches for each model",
    "lru": "lru, the way of Ollama: first come first served, idle models go first",
    "fifo": "fifo, the way of llama-swap: whoever asks for a running model is served at once, nothing ages",
}
TERMS = {
    "wait": "From the arrival of a request until its model begins to work on it. Whoever was refused or left counts "
    "with the whole patience, so that refusing makes no policy look better.",
    "p95, p99": "95 (99) of 100 waited so long or less. p50 is the median.",
    "swap": "A load, or a grant to another program, that took room which an eviction had made.",
    "at least": "A number of swaps below which no scheduler can stay that serves the same requests within the same "
    "patience, even if it knew the future and every load took no time.",
    "eviction": "A model put away, or made smaller, to make room.",
    "patience": "How long somebody waits for the begin of the work before giving up: ",
}


def page_of(profile: Profile, reports: Sequence[Report]) -> str:
    """Return the page.

    Args:
        profile: What there was.
        reports: Of one or several policies and seeds.
    """
    style = (resources.files("turnout.simulate") / "page.css").read_text(encoding="utf-8")
    by_policy = {name: [r for r in reports if r.policy == name] for name in dict.fromkeys(r.policy for r in reports)}
    body = "\n".join(
        [
            *_head(profile, by_policy),
            *_card(profile),
            *_swaps(by_policy),
            *_waits(by_policy),
            *_memory(profile, by_policy),
            *_roles(by_policy),
            *_terms(profile, reports[0]),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(reports[0].trace)} on {escape(profile.name)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _head(profile: Profile, by_policy: dict[str, list[Report]]) -> Iterator[str]:
    first = next(iter(by_policy.values()))[0]
    seeds = len(next(iter(by_policy.values())))
    yield f"<h1>{escape(first.trace)} on {escape(profile.name)}</h1>"
    spread = f"; medians of {seeds} seeds, the pictures of memory show seed {first.seed}" if seeds > 1 else ""
    yield (
        f'<p class="soft">{first.requests:,} requests in {_duration(first.simulated_seconds)} of virtual time'
        f"{spread}. {escape(profile.about)}.</p>"
    )
    yield '<ul class="lead">'
    for sentence in _summary(by_policy):
        yield f"<li>{sentence}</li>"
    yield "</ul>"


def _summary(by_policy: dict[str, list[Report]]) -> Iterator[str]:
    for name, runs in by_policy.items():
        longest = max((q.max or 0.0 for run in runs for q in run.wait_seconds.values()), default=0.0)
        refused = _median(runs, "refused")
        gone = f"refused or given up: {refused:,.0f}" if refused else "everybody was served"
        known = [value for run in runs if (value := run.wait_seconds["interactive"].p99) is not None]
        people = f"99 of 100 people waited at most {_spell(statistics.median(known))} s, " if known else ""
        yield (
            f"<b>{escape(name)}</b>: {_median(runs, 'swaps'):,.0f} swaps, {people}"
            f"the longest wait was {_spell(longest)} s, {gone}"
        )


def _card(profile: Profile) -> Iterator[str]:
    wanted, usable = sum(entry.bytes for entry in profile.models), profile.usable_bytes
    total = sum(device.total_bytes for device in profile.devices)
    yield "<h2>The card and its models</h2>"
    verdict = (
        f"Together the models want {wanted / GIB:.1f} GiB, and {usable / GIB:.1f} GiB may be granted: they take turns."
        if wanted > usable
        else f"The models want {wanted / GIB:.1f} GiB together and all fit into {usable / GIB:.1f} GiB."
    )
    yield f"<p>{verdict}</p>"
    colours = _colours(profile)
    yield "<figure>"
    yield _legend(
        [
            (f"{_short(entry.model.name)} {entry.bytes / GIB:.1f} GiB ({entry.title})", colours[entry.model.name])
            for entry in profile.models
        ]
    )
    yield fitting([(e.title, float(e.bytes), colours[e.model.name]) for e in profile.models], usable, total)
    yield "</figure>"


def _swaps(by_policy: dict[str, list[Report]]) -> Iterator[str]:
    yield "<h2>How often models changed places</h2>"
    yield (
        "<p>Each swap costs the seconds of a load, in which nobody is served by that room. The mark on each bar is the "
        "number below which no scheduler can stay.</p>"
    )
    yield _policy_legend(by_policy)
    rows = []
    for name, runs in by_policy.items():
        swaps = _median(runs, "swaps")
        rows.append(
            Bar(
                name=name,
                value=swaps,
                least=min(run.swaps for run in runs),
                most=max(run.swaps for run in runs),
                bound=_median(runs, "swaps_lower_bound"),
                words=f"{swaps:,.0f}",
                colour=_policy_colour(name),
            )
        )
    yield f"<figure>{bars(rows)}"
    yield "<figcaption>Swaps. Fewer is better. The upright mark: at least so many.</figcaption></figure>"


def _waits(by_policy: dict[str, list[Report]]) -> Iterator[str]:
    yield "<h2>How long people waited</h2>"
    yield (
        "<p>From the dot (half of all waited less) over the small bar (95 of 100) and the large bar (99 of 100) to the "
        "end of the thin line (the longest of all). Further left is better.</p>"
    )
    rows = []
    for priority in next(iter(by_policy.values()))[0].wait_seconds:
        for name, runs in by_policy.items():
            figures = _median_quantiles([run.wait_seconds[priority] for run in runs])
            if figures:
                p50, p95, p99, longest = figures
                rows.append(
                    Range(
                        group=priority,
                        name=name,
                        p50=p50,
                        p95=p95,
                        p99=p99,
                        longest=longest,
                        colour=_policy_colour(name),
                    )
                )
    yield f"<figure>{ranges(rows)}"
    yield "<figcaption>Seconds of waiting; the scale is stretched at the left.</figcaption></figure>"


def _memory(profile: Profile, by_policy: dict[str, list[Report]]) -> Iterator[str]:
    yield "<h2>What was in memory, when</h2>"
    colours = _colours(profile)
    firsts = {name: runs[0] for name, runs in by_policy.items()}
    for holder in sorted({holder for run in firsts.values() for holder in run.memory.holders}):
        colours.setdefault(holder, colour_of(len(colours)))
    end = max(run.simulated_seconds for run in firsts.values()) or 1.0
    top = profile.usable_bytes * 1.12
    bucket = max(run.memory.bucket_seconds for run in firsts.values())
    yield (
        f"<p>Each colour is a model or another program. Where the colours change quickly, models take turns; blank "
        f"below the line is memory that nobody held. One step is the mean of {_duration(max(bucket, end / 240))}.</p>"
    )
    seen = {holder for run in firsts.values() for holder in run.memory.holders}
    yield _legend([(_short(name), colour) for name, colour in colours.items() if name in seen])
    for name, run in firsts.items():
        yield f"<h3>{escape(name)}</h3>"
        memory = run.memory
        holders = [
            (_short(holder), [float(amount) for amount in memory.holders[holder]], colour)
            for holder, colour in colours.items()
            if holder in memory.holders
        ]
        yield f"<figure>{areas(holders, memory.bucket_seconds, end, float(memory.capacity_bytes), top)}</figure>"


def _roles(by_policy: dict[str, list[Report]]) -> Iterator[str]:
    yield "<h2>By role</h2>"
    yield '<figure class="scroll"><table><thead><tr><th>role</th><th class="words">policy</th><th>requests</th>'
    yield "<th>refused or left</th><th>wait p50</th><th>p95</th><th>p99</th><th>longest</th><th>first token p99</th>"
    yield "</tr></thead><tbody>"
    roles = sorted({role for runs in by_policy.values() for run in runs for role in run.by_role})
    for role in roles:
        for number, (name, runs) in enumerate(by_policy.items()):
            groups = [run.by_role[role] for run in runs if role in run.by_role]
            figures = _median_quantiles([group.wait_seconds for group in groups]) or [0.0] * 4
            first = [value for group in groups if (value := group.first_token_seconds.p99) is not None]
            cells = [
                f"{_median(groups, 'requests'):,.0f}",
                f"{_median(groups, 'refused'):,.0f}",
                *(_spell(figure) for figure in figures),
                _spell(statistics.median(first)) if first else "",
            ]
            label = "" if number else escape(role)
            opening = "<tr>" if number else '<tr class="group">'
            yield (
                f'{opening}<td>{label}</td><td class="words">{escape(name)}</td>'
                + "".join(f"<td>{cell}</td>" for cell in cells)
                + "</tr>"
            )
    yield "</tbody></table><figcaption>Seconds.</figcaption></figure>"


def _terms(profile: Profile, report: Report) -> Iterator[str]:
    yield "<h2>What the words mean</h2>\n<dl>"
    patience = ", ".join(f"{_spell(seconds)} s ({name})" for name, seconds in profile.patience_seconds.items())
    for term, meaning in TERMS.items():
        told = f"{meaning}{patience}, unless a workload says otherwise." if term == "patience" else meaning
        yield f"<dt>{escape(term)}</dt><dd>{escape(told)}</dd>"
    yield "</dl>"
    yield (
        "<p><small>Every policy got the same requests, speeds and patience on virtual time. What runs at once on a "
        "card slows its neighbours in reality; here each answer has its own speed. Written by "
        f"<code>turnout simulate</code>, profile {escape(profile.name)}, trace {escape(report.trace)}.</small></p>"
    )


def _colours(profile: Profile) -> dict[str, str]:
    return {entry.model.name: colour_of(number) for number, entry in enumerate(profile.models)}


def _policy_colour(name: str) -> str:
    return POLICY_COLOURS.get(name, "var(--soft)")


def _policy_legend(by_policy: dict[str, list[Report]]) -> str:
    return _legend([(WHO.get(name, name), _policy_colour(name)) for name in by_policy])


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><i style="background:{colour}"></i>{escape(words)}</li>' for words, colour in entries)
    return f'<ul class="legend">{items}</ul>'


def _median(items: Sequence[object], name: str) -> float:
    return float(statistics.median(getattr(item, name) for item in items)) if items else 0.0


def _median_quantiles(items: Sequence[Quantiles]) -> list[float]:
    """Return medians of p50, p95 and p99 and the largest of all; nothing where there was nobody."""
    known = [item for item in items if item.p50 is not None]
    if not known:
        return []
    medians = [_median(known, name) for name in ("p50", "p95", "p99")]
    return [*medians, max(item.max or 0.0 for item in known)]


def _short(name: str) -> str:
    return name.removeprefix("local/")


def _spell(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
