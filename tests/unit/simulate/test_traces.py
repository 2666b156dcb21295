"""Traces: Azure's CSV, turnout's own log, and workloads in YAML; errors name file, line and what was expected."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from support.cards import write_trace
from support.samples import a_request, a_trace, some_paths
from turnout.core.errors import SetupError
from turnout.core.events import RequestFinished
from turnout.core.memory import GIB, PRIORITIES
from turnout.core.words import Trace, Usage
from turnout.dispatch.traces import TraceStore
from turnout.simulate.finding import find_profile
from turnout.simulate.profile import Profile
from turnout.simulate.traces.arrivals import Arrivals, LeaseShape
from turnout.simulate.traces.reading import read_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


@pytest.fixture
def dev(tmp_path: Path) -> Profile:
    return find_profile("dev", some_paths(tmp_path)).profile


@pytest.fixture
def mixed(tmp_path: Path) -> Profile:
    return find_profile("mixed", some_paths(tmp_path)).profile


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def roles_of(arrivals: Arrivals) -> list[str]:
    return [arrivals.roles[index] for index in arrivals.role]


def test_a_csv_trace_becomes_arrivals(dev: Profile, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"{HEADER},Role,Priority,Key\n"
        "2023-11-16 18:17:03.9799600,9000,111,orchestrator,background,script\n"
        "2023-11-16 18:17:04.9799600,5000,71,reasoning,interactive,ann\n"
        "2023-11-16 18:17:05.4799600,60000,50,embedding,,\n",
    )
    arrivals = read_trace(path, dev, seed=1)
    assert list(arrivals.at) == pytest.approx([0.0, 1.0, 1.5], abs=1e-5)
    assert roles_of(arrivals) == ["orchestrator", "reasoning", "embedding"]
    assert [PRIORITIES[level] for level in arrivals.priority[:2]] == ["background", "interactive"]
    assert [arrivals.callers[index] for index in arrivals.caller[:2]] == ["script", "ann"]
    # 9,000 prompt tokens a second and 110 answer tokens a second; embeddings write nothing.
    assert list(arrivals.first) == pytest.approx([1.0, 1.0, 1.0])
    assert list(arrivals.work) == pytest.approx([2.0, 2.0, 1.0])
    assert list(arrivals.patience[:2]) == [3600.0, 120.0]


def test_what_a_trace_does_not_say_is_drawn_from_the_mix_by_the_seed(dev: Profile, tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.csv", 4000, seed=1)
    first, again, other = (read_trace(path, dev, seed) for seed in (7, 7, 8))
    assert msgspec.msgpack.encode(roles_of(first)) == msgspec.msgpack.encode(roles_of(again))
    assert roles_of(first) != roles_of(other)
    shares = {mix.role: mix.share for mix in dev.mix}
    for role, share in shares.items():
        expected = share / sum(shares.values())
        assert roles_of(first).count(role) / len(first) == pytest.approx(expected, abs=0.03)
    assert {name.rpartition(" ")[0] for name in first.callers} == set(shares)


def test_a_column_changes_nothing_about_what_is_drawn_for_the_others(dev: Profile, tmp_path: Path) -> None:
    rows = [f"{number},100,10" for number in range(200)]
    plain = read_trace(written(tmp_path, "\n".join([HEADER, *rows])), dev, 3)
    half = [f"{row},{'coding' if number % 2 else ''}" for number, row in enumerate(rows)]
    told = read_trace(written(tmp_path, "\n".join([HEADER + ",Role", *half]), "told.csv"), dev, 3)
    assert roles_of(plain)[::2] == roles_of(told)[::2]
    assert set(roles_of(told)[1::2]) == {"coding"}


def test_the_rate_scales_arrivals(dev: Profile, tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\n10,1,1\n20,1,1\n40,1,1\n")
    assert list(read_trace(path, dev, 1, rate=2.0).at) == [0.0, 5.0, 15.0]


def test_rows_out_of_order_are_sorted_with_all_their_columns(dev: Profile, tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER},Role\n20,9000,1,orchestrator\n10,5000,1,reasoning\n")
    arrivals = read_trace(path, dev, 1)
    assert list(arrivals.at) == [0.0, 10.0]
    assert roles_of(arrivals) == ["reasoning", "orchestrator"]
    assert [arrivals.targets[index].model.name for index in arrivals.target] == [  # type: ignore[union-attr]
        "local/reasoning",
        "local/orchestrator",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b,c\n", "t.csv:1: expected the column TIMESTAMP"),
        (f"{HEADER},Mood\n", "t.csv:1: there is no column 'mood'"),
        (f"{HEADER}\n1,2,3\n1,many,3\n", "t.csv:3: expected a count of tokens as ContextTokens, found 'many'"),
        (f"{HEADER}\n1,2,-3\n", "t.csv:2: expected a count of tokens as GeneratedTokens, found '-3'"),
        (f"{HEADER}\nyesterday,2,3\n", "t.csv:2: expected an ISO date or a number of seconds as TIMESTAMP"),
        (f"{HEADER}\n1,2\n", "t.csv:2: expected 3 values, found 2"),
        (f"{HEADER},Priority\n1,2,3,urgent\n", "t.csv:2: expected interactive, normal, background or nothing"),
        (f"{HEADER},Role\n1,2,3,chef\n", "t.csv:2: no model of profile 'dev' has the role 'chef'"),
        (f"{HEADER}\n", "t.csv: the trace has no requests"),
        ("", "t.csv:1: expected the column TIMESTAMP"),
    ],
)
def test_a_bad_line_is_named(text: str, told: str, dev: Profile, tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        read_trace(written(tmp_path, text, "t.csv"), dev, 1)
    assert told in str(caught.value)
    assert caught.value.hint


def test_a_file_that_is_not_there_is_the_users_to_mend(dev: Profile, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        read_trace(tmp_path / "none.csv", dev, 1)


def some_traces() -> list[Trace]:
    return [
        a_trace("req_a", received_at=100.0, served_target="local/coding", usage=Usage(9000, 131), key_name="ann"),
        a_trace("req_b", received_at=101.0, request=a_request(id="req_b", selector="reasoning"), usage=Usage(5000, 71)),
        a_trace("req_c", received_at=102.5, request=a_request(id="req_c", selector="auto", body_bytes=36000)),
        a_trace("req_d", received_at=103.0, request=a_request(id="req_d", selector="gpt-9")),
    ]


def check_log(arrivals: Arrivals) -> None:
    assert list(arrivals.at) == [0.0, 1.0, 2.5]
    assert roles_of(arrivals) == ["coding", "reasoning", "orchestrator"]
    assert arrivals.callers[arrivals.caller[0]] == "ann"
    assert list(arrivals.first) == pytest.approx([1.0, 1.0, 1.0])  # the last by the bytes of its body, four a token
    assert arrivals.left_out == 1


def test_the_daemons_own_file_is_a_trace(dev: Profile, tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite3"
    store = TraceStore(path, 100, lambda *_: None)
    for trace in some_traces():
        store.hear(RequestFinished(trace=trace))
    store.close()
    before = sorted(item.name for item in tmp_path.iterdir())
    check_log(read_trace(path, dev, 1))
    assert sorted(item.name for item in tmp_path.iterdir()) == before


@pytest.mark.parametrize("shape", ["lines", "document"])
def test_json_of_traces_is_a_trace(shape: str, dev: Profile, tmp_path: Path) -> None:
    plain = [msgspec.to_builtins(trace) for trace in some_traces()]
    if shape == "lines":
        text = "".join(json.dumps(trace) + "\n" for trace in plain)
    else:
        text = json.dumps({"traces": plain}, indent=2)
    check_log(read_trace(written(tmp_path, text, "log.jsonl"), dev, 1))


def test_one_trace_as_why_prints_it_is_a_trace(dev: Profile, tmp_path: Path) -> None:
    text = json.dumps(msgspec.to_builtins(some_traces()[0]), indent=2)
    assert len(read_trace(written(tmp_path, text, "one.json"), dev, 1)) == 1


def test_a_bad_line_of_a_log_is_named(dev: Profile, tmp_path: Path) -> None:
    good = json.dumps(msgspec.to_builtins(some_traces()[0]))
    with pytest.raises(SetupError, match=r"log.jsonl:2: expected a trace as JSON"):
        read_trace(written(tmp_path, f"{good}\n{{}}\n", "log.jsonl"), dev, 1)


def test_a_log_without_anything_for_the_profile_says_so(dev: Profile, tmp_path: Path) -> None:
    text = json.dumps(msgspec.to_builtins(some_traces()[3]))
    with pytest.raises(SetupError, match="no request of this log is for a model of profile 'dev'"):
        read_trace(written(tmp_path, text, "log.jsonl"), dev, 1)


def test_a_database_of_somebody_else_is_refused(dev: Profile, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    path.write_bytes(b"SQLite format 3\x00 and then nothing")
    with pytest.raises(SetupError, match="cannot be read"):
        read_trace(path, dev, 1)


WORKLOAD = """\
duration_seconds: 600
streams:
  chat: {role: orchestrator, priority: interactive, callers: 2, arrivals: {per_minute: 30},
         prompt_tokens: {median: 900, p95: 3600}, answer_tokens: {least: 10, most: 20}}
  batch: {model: coding, priority: background, arrivals: {every_seconds: 200, burst: 5, start_seconds: 50},
          patience_seconds: 99}
  picture: {lease: {gib: 14, holder: comfyui}, arrivals: {every_seconds: 100}, seconds: 20}
"""


def test_a_workload_becomes_arrivals(mixed: Profile, tmp_path: Path) -> None:
    arrivals = read_trace(written(tmp_path, WORKLOAD, "w.yaml"), mixed, 1)
    by_role: dict[str, list[int]] = {}
    for index, role in enumerate(roles_of(arrivals)):
        by_role.setdefault(role, []).append(index)
    assert sorted(by_role) == ["coding", "orchestrator", "picture"]
    assert len(by_role["orchestrator"]) == pytest.approx(300, rel=0.2)
    assert [arrivals.at[i] for i in by_role["coding"]] == pytest.approx([50.0] * 5 + [250.0] * 5 + [450.0] * 5, abs=3)
    assert len(by_role["picture"]) == 6
    lease = arrivals.targets[arrivals.target[by_role["picture"][0]]]
    assert isinstance(lease, LeaseShape)
    assert (lease.holder, lease.bytes, lease.lease_class) == ("comfyui", 14 * GIB, "job")
    assert {arrivals.work[i] for i in by_role["picture"]} == {20.0}
    assert math.isnan(arrivals.first[by_role["picture"][0]])
    assert {arrivals.patience[i] for i in by_role["coding"]} == {99.0}
    assert {arrivals.callers[arrivals.caller[i]] for i in by_role["orchestrator"]} == {"chat 1", "chat 2"}
    prompts = sorted(arrivals.first[i] * 9000 for i in by_role["orchestrator"])
    assert prompts[len(prompts) // 2] == pytest.approx(900, rel=0.25)
    assert prompts[int(len(prompts) * 0.95)] == pytest.approx(3600, rel=0.4)


def test_another_stream_changes_nothing_about_the_first(mixed: Profile, tmp_path: Path) -> None:
    alone = WORKLOAD[: WORKLOAD.index("  batch")]
    both = read_trace(written(tmp_path, WORKLOAD, "w.yaml"), mixed, 5)
    one = read_trace(written(tmp_path, alone, "a.yaml"), mixed, 5)
    chat = [both.work[i] for i in range(len(both)) if both.roles[both.role[i]] == "orchestrator"]
    assert chat == list(one.work)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("role: orchestrator", "role: vision"), "w.yaml:3: streams.chat.role: profile 'mixed' has no model"),
        (("role: orchestrator, ", ""), "w.yaml:3: streams.chat: a stream names one of role, model and lease"),
        (("{per_minute: 30}", "{}"), "streams.chat.arrivals: arrivals name one of"),
        (("{per_minute: 30}", "{per_minute: 30, every_seconds: 2}"), "streams.chat.arrivals: arrivals name one of"),
        (("p95: 3600", "most: 3600"), "streams.chat.prompt_tokens: expected {least, most} or {median, p95}"),
        (("least: 10, most: 20", "least: 30, most: 20"), "streams.chat.answer_tokens: expected"),
        ((", seconds: 20", ""), "w.yaml:7: streams.picture: a stream of leases says how many seconds"),
        (("holder: comfyui", "holder: comfyui, device: host/gpu9"), "has no device 'host/gpu9'"),
        (("duration_seconds: 600", "duration_seconds: -1"), "w.yaml:1: duration_seconds: expected"),
        (("priority: interactive", "prioriti: interactive"), "streams.chat.prioriti: there is no such setting"),
        (("duration_seconds: 600", "duration_seconds: 0.000001"), "nothing arrives"),
    ],
)
def test_what_is_wrong_in_a_workload_is_told_with_its_line(
    change: tuple[str, str], told: str, mixed: Profile, tmp_path: Path
) -> None:
    text = WORKLOAD.replace(*change)
    assert text != WORKLOAD
    if "nothing arrives" in told:
        text = text[: text.index("  batch")]
    with pytest.raises(SetupError) as caught:
        read_trace(written(tmp_path, text, "w.yaml"), mixed, 1)
    assert told in str(caught.value)
    assert caught.value.hint
