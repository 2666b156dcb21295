"""The scheduler against a world in which everything goes wrong, as Hypothesis chooses; what must hold is in
``scheduler_promises.py``.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from simulation.scheduler_chance import CLASSES, DEMANDS, Chance
from simulation.scheduler_world import World
from turnout.core.memory import GIB, PRIORITIES, Demand, LeaseClass, Priority
from turnout.scheduler.decide import Decider

INDEX = st.integers(0, 20)
DOUBLED = st.booleans()


class SchedulerMachine(RuleBasedStateMachine):
    """Each rule is something that can happen; every fact and effect is checked as it passes."""

    @initialize(seed=st.integers(0, 1000), steps=st.sampled_from((0, 30)))
    def begin(self, seed: int, steps: int) -> None:
        self.world = World(Decider)
        Chance(self.world, seed).steps(steps)  # so that not every story begins with an empty card

    @rule(
        model=st.integers(0, 7),
        priority=st.sampled_from(PRIORITIES),
        caller=st.sampled_from("abc"),
        deadline_in=st.sampled_from((None, 1.0, 20.0, 100.0)),
        quality=st.integers(0, 3),
        keep=st.sampled_from((None, None, None, 0.0, 5.0, -1.0)),
        doubled=DOUBLED,
    )
    def arrive(
        self,
        model: int,
        priority: Priority,
        caller: str,
        deadline_in: float | None,
        quality: int,
        keep: float | None,
        doubled: bool,
    ) -> None:
        self.world.arrive(
            model,
            priority=priority,
            caller=caller,
            deadline_in=deadline_in,
            quality=quality,
            keep=keep,
            doubled=doubled,
        )

    @rule(model=st.integers(0, 7), count=st.integers(2, 15), caller=st.sampled_from("abc"))
    def arrive_many(self, model: int, count: int, caller: str) -> None:
        for _ in range(count):
            self.world.arrive(model, caller=caller)

    @rule(index=INDEX, doubled=DOUBLED)
    def finish(self, index: int, doubled: bool) -> None:
        self.world.finish(index, doubled=doubled)

    @rule(index=INDEX, doubled=DOUBLED)
    def leave(self, index: int, doubled: bool) -> None:
        self.world.leave(index, doubled=doubled)

    @rule(
        devices=st.sampled_from(DEMANDS),
        lease_class=st.sampled_from(CLASSES),
        priority=st.sampled_from(PRIORITIES),
        ttl=st.sampled_from((1.0, 10.0, 40.0)),
        wait=st.sampled_from((0.0, 5.0, 100.0)),
        doubled=DOUBLED,
    )
    def ask(
        self, devices: Demand, lease_class: LeaseClass, priority: Priority, ttl: float, wait: float, doubled: bool
    ) -> None:
        self.world.ask(
            devices, lease_class=lease_class, priority=priority, ttl=ttl, wait=wait, doubled=doubled, caller="p"
        )

    @rule(index=INDEX, doubled=DOUBLED)
    def release(self, index: int, doubled: bool) -> None:
        self.world.release(index, doubled=doubled)

    @rule(index=INDEX)
    def renew(self, index: int) -> None:
        self.world.renew(index)

    @rule(index=INDEX, how=st.sampled_from(("good", "good", "good", "bad", "lost")), doubled=DOUBLED)
    def end_order(self, index: int, how: str, doubled: bool) -> None:
        self.world.end_order(index, how=how, doubled=doubled)

    @rule(index=INDEX, retry_in=st.sampled_from((0.0, 3.0, None)), doubled=DOUBLED)
    def die(self, index: int, retry_in: float | None, doubled: bool) -> None:
        self.world.die(index, retry_in=retry_in, doubled=doubled)

    @rule(device=st.integers(0, 5), ghost=st.sampled_from((0, 0, 3 * GIB, 12 * GIB, 40 * GIB)))
    def measure(self, device: int, ghost: int) -> None:
        self.world.measure(device, ghost)

    @rule(index=INDEX)
    def nonsense(self, index: int) -> None:
        self.world.nonsense(index)

    @rule(index=INDEX)
    def repeat(self, index: int) -> None:
        self.world.repeat(index)

    @rule(index=st.integers(0, 7), how=st.sampled_from(("removed", "added", "pinned", "other")))
    def change_model(self, index: int, how: str) -> None:
        self.world.change_model(index, how)

    @rule(index=INDEX)
    def unload(self, index: int) -> None:
        self.world.unload(index)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(seconds=st.sampled_from((0.001, 0.1, 1.0, 4.0, 15.0, 60.0)))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.stop()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_ten_thousand_seeded_steps() -> None:
    for seed in range(5):
        world = World(Decider, look_every=3)
        Chance(world, seed).steps(2_000)
        world.settle()
        world.stop()
        assert world.counts["AdmitRequest"] > 100
        assert world.counts["GrantLease"] > 3


def test_the_same_facts_lead_to_the_same_effects() -> None:
    def story() -> list[str]:
        told: list[str] = []

        class Told(Decider):
            def decide(self, fact, now):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
                effects = super().decide(fact, now)
                told.extend(map(repr, effects))
                return effects

        Chance(World(Told, look_every=1000), 7).steps(1_000)
        return told

    assert story() == story()
