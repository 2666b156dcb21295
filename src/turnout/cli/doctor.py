"""``turnout doctor``: look at this machine and say, line by line, what is well and how to mend what is not."""

from __future__ import annotations

import typer

from turnout.cli.checkup import examine
from turnout.cli.findings import Finding, Verdict
from turnout.cli.options import ConfigOption, JsonOption, UrlOption, given, new_app
from turnout.cli.terminal import count_of, printable, put, put_json

app = new_app()
STYLES: dict[Verdict, str] = {"ok": "good", "warn": "warning", "fail": "error"}
NAME_COLUMNS = 16


@app.command()
def doctor(
    context: typer.Context, json: JsonOption = False, config: ConfigOption = None, url: UrlOption = None
) -> None:
    """Look at this machine and say how to mend what is wrong."""
    findings, advice = examine(given(context, config, url))
    failed = [finding for finding in findings if finding.verdict == "fail"]
    if json:
        put_json({"findings": findings, "better_models": advice, "is_well": not failed})
    else:
        for finding in findings:
            _put(finding)
        put()
        put("Better models on this machine", "bold")
        for line in advice:
            put(f"  {line}")
        put()
        put(f"{count_of(len(failed), 'problem')} to mend" if failed else "nothing is broken")
    if failed:
        raise typer.Exit(1)


def _put(finding: Finding) -> None:
    verdict = f"{finding.verdict:<5}"
    put(f"{verdict}{finding.name:<{NAME_COLUMNS}}{printable(finding.words)}", STYLES[finding.verdict])
    if finding.mend:
        put(f"{'':5}{'':{NAME_COLUMNS}}{finding.mend}", "dim")
