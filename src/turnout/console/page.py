"""A plain status page without scripts: what is served, by whom, and the last requests."""

from __future__ import annotations

from html import escape
from typing import Any

from turnout.core.words import Trace

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#888}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2.5rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}td.n{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.92em}.soft{color:var(--soft)}
.state::before{content:"";display:inline-block;width:.6em;height:.6em;border-radius:50%;margin-right:.5em;
background:#999}.ready::before,.answered::before{background:#2a9d55}.loading::before{background:#e0a100}
.failed::before,.unreachable::before,.broken::before{background:#d0342c}
"""


def render_page(status: dict[str, Any], traces: list[Trace]) -> str:
    """Return the page.

    Args:
        status: What ``GET /turnout/v1/status`` answers.
        traces: The newest ones.
    """
    targets = "".join(_target_row(target) for target in status["targets"])
    requests = "".join(_trace_row(trace) for trace in traces)
    if not requests:
        requests = '<tr><td colspan="5" class="soft">None yet. Try <code>turnout run "Hello"</code></td></tr>'
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>turnout</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>
<h1>turnout</h1><p class="soft">{escape(status["version"])} · {escape(status["url"])} · profile
{escape(status["profile"])} · up {status["uptime_seconds"]:.0f} s · {status["running_requests"]} running</p>
<h2>Models</h2><table><tr><th>Target</th><th>Engine</th><th>Roles</th><th>State</th></tr>{targets}</table>
<h2>Last requests</h2><table><tr><th>Request</th><th>Asked for</th><th>Served by</th><th>Outcome</th><th>Time</th></tr>
{requests}</table></body></html>"""


def _target_row(target: dict[str, Any]) -> str:
    detail = f'<br><span class="soft">{escape(target["detail"])}</span>' if target["detail"] else ""
    return (
        f"<tr><td><code>{escape(target['name'])}</code></td><td>{escape(target['engine'])}</td>"
        f"<td>{escape(', '.join(target['roles']))}</td>"
        f'<td><span class="state {escape(target["state"])}">{escape(target["state"])}</span>{detail}</td></tr>'
    )


def _trace_row(trace: Trace) -> str:
    return (
        f"<tr><td><code>{escape(trace.id)}</code></td><td>{escape(trace.request.selector)}</td>"
        f"<td>{escape(trace.served_target)}</td>"
        f'<td><span class="state {trace.outcome}">{escape(trace.outcome)}</span></td>'
        f'<td class="n">{trace.total_ms:.0f} ms</td></tr>'
    )
