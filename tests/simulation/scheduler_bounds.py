"""The bounds that scheduler/design.md states, each as a story that ends in an assertion."""

from __future__ import annotations

from simulation.scheduler_stage import GPU, Stage
from turnout.core.memory import GIB, LeaseClass, Model, Size
from turnout.scheduler.settings import SchedulerSettings

SETTINGS = SchedulerSettings(aging_seconds=20, residency_per_load=2.0)
LOAD_SECONDS, STOP_SECONDS = 5.0, 0.5
RESIDENCY_SECONDS = 2.0 * LOAD_SECONDS


def model(name: str, gib: int, lease_class: LeaseClass = "resident", **words: object) -> Model:
    """A model in one size."""
    given = {"slots": 1, "min_residency_seconds": 5.0} | words
    return Model(name=name, sizes=(Size(devices={GPU: gib * GIB}),), lease_class=lease_class, **given)  # type: ignore[arg-type]


def a_background_request_is_served_in_time() -> None:
    """However many urgent requests keep another model busy: (p+1) A, then residency, drain, eviction, load."""
    stage = Stage(
        [model("chat", 16), model("batch", 16)], settings=SETTINGS, run_seconds={"chat": 2.0}, load_seconds=LOAD_SECONDS
    )
    for number in range(400):
        stage.request(number * 1.0, "chat", priority="interactive", caller=f"person{number % 3}")
    late = stage.request(10.0, "batch", priority="background")
    stage.run(300.0)
    bound = 3 * SETTINGS.aging_seconds + RESIDENCY_SECONDS + 2.0 + STOP_SECONDS + LOAD_SECONDS
    waited = stage.waits.get(late, float("inf"))
    assert waited <= bound, f"late: {waited} s, promised are {bound} s"
    assert waited >= 3 * SETTINGS.aging_seconds - 1.0, "the urgent ones had to make way too early"


def a_low_request_for_a_busy_model_is_served_in_time() -> None:
    """Within one model: once overdue, every second slot is for the overdue ones, in turn."""
    stage = Stage([model("chat", 16)], settings=SETTINGS, run_seconds={"chat": 3.0}, load_seconds=LOAD_SECONDS)
    for number in range(300):  # three times as many as can be served, each of somebody else
        stage.request(number * 1.0, "chat", priority="interactive", caller=f"{number}")
    late = stage.request(10.0, "chat", priority="background", caller="script")
    stage.run(300.0)
    # When it is overdue, at 70 s, so are those who came before 50 s, less the 21 who have been served.
    bound = 3 * SETTINGS.aging_seconds + 2 * (50 - 21 + 1) * 3.0
    waited = stage.waits.get(late, float("inf"))
    assert waited <= bound, f"late: {waited} s, promised are {bound} s"


def a_script_does_not_crowd_out_a_person() -> None:
    """A thousand requests of one caller stand before one of another, who waits for two turns at most."""
    stage = Stage([model("chat", 16)], settings=SETTINGS, run_seconds={"chat": 2.0}, load_seconds=LOAD_SECONDS)
    for number in range(500):
        stage.request(number * 0.001, "chat", caller="script")
    early = stage.request(8.0, "chat", caller="person")  # before anything has aged
    late = stage.request(200.0, "chat", caller="person")  # when all the script's requests are overdue
    urgent = stage.request(300.0, "chat", caller="script", priority="interactive")  # of the same caller
    stage.run(400.0)
    for ticket in (early, late, urgent):
        waited = stage.waits.get(ticket, float("inf"))
        assert waited <= 3 * 2.0, f"crowded out: {ticket} waited {waited} s"


def models_take_turns_without_loading_all_the_time() -> None:
    """Two models of which only one fits, both wanted all the time: both are served, and loads stay the smaller part."""
    stage = Stage(
        [model("a", 16), model("b", 16)], settings=SETTINGS, run_seconds={"a": 1.0, "b": 1.0}, load_seconds=LOAD_SECONDS
    )
    tickets = [stage.request(number * 0.75, "ab"[number % 2], deadline=number + 400.0) for number in range(800)]
    stage.run(600.0)
    loading = stage.loads() * (LOAD_SECONDS + STOP_SECONDS)
    assert loading <= 600.0 * 0.4, f"loads take {loading} of 600 s"
    served = [sum(ticket in stage.waits for ticket in tickets[half::2]) for half in (0, 1)]
    assert min(served) >= 100, f"served {served}"


def voice_starts_although_jobs_fill_the_card() -> None:
    """With a long reasoning request and a queue of renders, a transcription waits for two loads at most."""
    stage = Stage(
        [model("hear", 2, "voice"), model("reason", 12), model("image", 9, "job")],
        settings=SETTINGS,
        run_seconds={"hear": 1.0, "reason": 600.0, "image": 120.0},
        load_seconds=LOAD_SECONDS,
    )
    stage.request(0.0, "reason")
    for number in range(20):
        stage.request(1.0 + number, "image", priority="interactive")
        stage.lease(1.5 + number, {GPU: 2 * GIB}, hold=300.0, priority="interactive")
    spoken = [stage.request(40.0 + 30 * number, "hear") for number in range(10)]
    stage.run(400.0)
    for ticket in spoken:
        waited = stage.waits.get(ticket, float("inf"))
        assert waited <= 2 * LOAD_SECONDS, f"voice waited {waited} s"


def a_flood_of_voice_starves_nobody() -> None:
    """Four voice models, of which the slot holds one, are wanted without end; the orchestrator still gets its turn."""
    voices = [f"voice{number}" for number in range(4)]
    stage = Stage(
        [*(model(name, 7, "voice") for name in voices), model("orchestrator", 16)],
        settings=SETTINGS,
        run_seconds=dict.fromkeys(voices, 1.0) | {"orchestrator": 2.0},
        load_seconds=LOAD_SECONDS,
    )
    for number in range(2000):
        stage.request(number * 0.3, voices[number % 4], priority="interactive", deadline=number + 200.0)
    asked = [stage.request(50.0 + 40 * number, "orchestrator") for number in range(10)]
    stage.run(600.0)
    # Overdue after 2 A; before it come four others at most, each with residency, drain, eviction and loads.
    turn = RESIDENCY_SECONDS + 2.0 + 2 * STOP_SECONDS + 2 * LOAD_SECONDS
    bound = 2 * SETTINGS.aging_seconds + 5 * turn
    for ticket in asked:
        waited = stage.waits.get(ticket, float("inf"))
        assert waited <= bound, f"the orchestrator waited {waited} s, promised are {bound} s"
    heard = [wait for ticket, wait in stage.waits.items() if ticket not in asked]
    assert len(heard) > 300, f"voice was starved in turn: {len(heard)} of 2000 were served"


def an_urgent_lease_does_not_wait_for_a_flood_of_old_ones() -> None:
    """Fifty leases of one program wait, all overdue; a person's request waits for its own bound and one of them."""
    stage = Stage([model("chat", 10)], settings=SETTINGS, run_seconds={"chat": 1.0}, load_seconds=LOAD_SECONDS)
    for number in range(50):
        stage.lease(number * 0.01, {GPU: 20 * GIB}, hold=15.0, caller="script", priority="background")
    person = stage.request(100.0, "chat", priority="interactive", caller="person")
    stage.run(800.0)
    bound = SETTINGS.aging_seconds + 2 * 15.0 + LOAD_SECONDS
    waited = stage.waits.get(person, float("inf"))
    assert waited <= bound, f"waited {waited} s behind leases, promised are {bound} s"
    assert len(stage.granted) >= 40, f"only {len(stage.granted)} leases were granted"


BOUNDS = (
    a_background_request_is_served_in_time,
    a_low_request_for_a_busy_model_is_served_in_time,
    a_script_does_not_crowd_out_a_person,
    models_take_turns_without_loading_all_the_time,
    voice_starts_although_jobs_fill_the_card,
    a_flood_of_voice_starves_nobody,
    an_urgent_lease_does_not_wait_for_a_flood_of_old_ones,
)
