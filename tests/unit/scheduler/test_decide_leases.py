"""Leases of foreign programs, room for voice, and memory that is measured."""

from __future__ import annotations

from simulation.scheduler_desk import DEEP, GPU, GPU1, LIGHT, Desk, card, elastic, memory, model
from turnout.core.memory import GIB, HOST_RAM, Lease
from turnout.scheduler import messages as m


def measured(used_gib: float, device: str = GPU, **by_holder: float) -> m.Measured:
    holders = {name: int(gib * GIB) for name, gib in by_holder.items()}
    return m.Measured(device=device, used_bytes=int(used_gib * GIB), by_holder=holders)


# Leases


def test_a_lease_is_granted_at_once_if_there_is_room() -> None:
    desk = Desk([model("a", 4)])
    desk.bring_up("a")
    assert desk.lease("job", 20, wait=0.0) == ["grant job"]
    assert desk.granted_gib() == 24.0
    assert [lease.id for lease in desk.decider.view(0.0).leases] == ["job"]


def test_a_lease_that_may_not_wait_is_refused_at_once_and_moves_nobody() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    assert desk.lease("job", 20, wait=0.0) == ["refuse job"]
    refusal = desk.lease_refusal()
    assert (refusal.position, refusal.too_large) == (1, False)
    assert refusal.expected_wait_seconds == 1.0  # a stop
    assert desk.phase("a") == "ready"


def test_a_lease_that_waits_has_idle_models_make_way() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    assert desk.lease("job", 20) == ["stop a"]
    assert desk.gone("a") == ["grant job"]


def test_a_lease_waits_behind_a_job_and_gets_its_turn() -> None:
    desk = Desk()
    desk.lease("first", 20)
    assert desk.lease("second", 20) == []
    assert desk.tell(m.LeaseReleased(id="first")) == ["grant second"]


def test_a_lease_is_refused_when_its_time_to_wait_is_over() -> None:
    desk = Desk()
    desk.lease("first", 20, ttl=70.0)
    desk.lease("second", 20, wait=30.0)
    desk.lease("third", 20, wait=20.0)
    assert desk.decider.next_at() == 20.0
    assert desk.tick(20.0) == ["refuse third"]
    assert desk.lease_refusal().position == 2
    assert desk.tick(30.0) == ["refuse second"]
    assert desk.lease_refusal().expected_wait_seconds == 40.0


def test_a_lease_that_can_never_be_granted_says_so() -> None:
    desk = Desk([model("pinned", 4, "pinned")])
    desk.bring_up("pinned")
    assert desk.lease("job", 21) == ["refuse job"]
    assert desk.lease_refusal().too_large
    assert "4.0 GiB are pinned" in desk.lease_refusal().message
    assert desk.lease("nowhere", devices={GPU1: GIB}) == ["refuse nowhere"]
    assert desk.lease("negative", devices={GPU: -GIB}) == ["refuse negative"]


def test_a_lease_over_two_devices_is_granted_as_a_whole_or_not_at_all() -> None:
    desk = Desk([], [card(), card(id_=GPU1)])
    desk.lease("one", devices={GPU1: 20 * GIB})
    assert desk.lease("both", devices={GPU: 20 * GIB, GPU1: 20 * GIB}) == []
    assert desk.granted_gib() == 0.0
    assert desk.tell(m.LeaseReleased(id="one")) == ["grant both"]


def test_a_small_lease_does_not_overtake_a_large_one() -> None:
    desk = Desk()
    desk.lease("running", 16)
    desk.lease("large", 24)
    assert desk.lease("small", 4) == []
    assert desk.lease("elsewhere", 4, wait=0.0) == ["refuse elsewhere"]
    assert desk.tell(m.LeaseReleased(id="large")) == ["grant small"]


def test_an_expired_lease_is_free_at_once() -> None:
    desk = Desk()
    desk.lease("first", 20, ttl=10.0)
    desk.lease("second", 20)
    assert desk.decider.next_at() == 10.0
    assert desk.tick(10.0) == ["end first", "grant second"]
    assert desk.lease("third", 20, wait=0.0, at=1010.0) == ["end second", "grant third"]  # nobody ticked


def test_a_renewal_moves_the_expiry_and_comes_too_late_after_it() -> None:
    desk = Desk()
    desk.lease("job", 20, ttl=10.0)
    desk.tell(m.LeaseRenewed(id="job", ttl_seconds=10.0), at=8.0)
    assert desk.tick(10.0) == []
    assert desk.decider.next_at() == 18.0
    assert desk.tell(m.LeaseRenewed(id="job", ttl_seconds=10.0), at=18.0) == ["end job"]


def test_a_foreign_lease_is_never_taken_away() -> None:
    desk = Desk([model("a")], aging_seconds=1)
    desk.lease("background", 20, priority="background", lease_class="elastic")
    desk.ask("1", "a", "interactive")
    assert all(desk.tick(float(second)) == [] for second in range(1, 60))
    assert desk.tell(m.LeaseReleased(id="background")) == ["start a"]


def test_an_adopted_lease_holds_whatever_room_there_is() -> None:
    desk = Desk([model("a")])
    lease = Lease(id="old", devices={GPU: 30 * GIB}, lease_class="job", holder="x")
    assert desk.tell(m.LeaseAdopted(lease=lease, expires_in=20.0)) == []
    assert desk.granted_gib() == 30.0
    assert desk.decider.view(0.0).devices[0].free_bytes == 0
    assert desk.ask("1", "a") == []
    assert desk.tick(20.0) == ["end old", "start a"]


def test_an_adopted_lease_that_expired_meanwhile_ends() -> None:
    desk = Desk()
    lease = Lease(id="old", devices={GPU: GIB}, lease_class="job", holder="x")
    assert desk.tell(m.LeaseAdopted(lease=lease, expires_in=-3.0)) == ["end old"]


def test_more_urgent_leases_go_first_and_programs_take_turns() -> None:
    desk = Desk()
    desk.lease("running", 20)
    desk.lease("a1", 20, caller="a")
    desk.lease("a2", 20, caller="a")
    desk.lease("b1", 20, caller="b")
    desk.lease("urgent", 20, priority="interactive", caller="a")
    order: list[str] = []
    for _ in range(4):
        (effect,) = desk.tell(m.LeaseReleased(id=order[-1] if order else "running"))
        order.append(effect.removeprefix("grant "))
    assert order == ["urgent", "a1", "b1", "a2"]


def test_doubled_and_unknown_facts_about_leases_do_no_harm() -> None:
    desk = Desk()
    desk.lease("job", 10)
    assert desk.lease("job", 10) == []
    assert desk.tell(m.LeaseReleased(id="nobody")) == []
    assert desk.tell(m.LeaseRenewed(id="nobody", ttl_seconds=5.0)) == []
    desk.tell(m.LeaseReleased(id="job"))
    assert desk.tell(m.LeaseReleased(id="job")) == []
    assert desk.granted_gib() == 0.0


def test_a_waiting_lease_can_be_taken_back() -> None:
    desk = Desk([model("a")], aging_seconds=1)
    desk.bring_up("a")
    desk.ask("a1", "a")
    desk.lease("job", 20)
    desk.tick(5.0)
    desk.ask("a2", "a")
    assert desk.tell(m.LeaseReleased(id="job")) == []
    assert desk.done("a1") == ["admit a2"]


# Voice


def test_room_for_voice_is_kept_from_jobs_and_models() -> None:
    desk = Desk([model("hear", 4, "voice"), model("a", 18)])
    assert desk.lease("job", 21) == ["refuse job"]
    assert "4.0 GiB are set aside for voice" in desk.lease_refusal().message
    desk.bring_up("a")
    assert desk.lease("small", 4, wait=0.0) == ["refuse small"]
    assert desk.ask("1", "hear") == ["start hear"]


def test_the_room_is_that_of_the_largest_voice_model() -> None:
    desk = Desk([model("hear", 2, "voice"), model("speak", 5, "voice"), model("a", 20)])
    desk.bring_up("hear")
    assert desk.lease("job", 20, wait=0.0) == ["refuse job"]
    assert desk.lease("smaller", 19, wait=0.0) == ["grant smaller"]
    assert desk.ask("1", "speak") == ["stop hear"]


def test_a_voice_lease_of_a_foreign_program_may_use_the_room() -> None:
    desk = Desk([model("hear", 4, "voice")])
    desk.lease("job", 20)
    assert desk.lease("whisper", 4, lease_class="voice", wait=0.0) == ["grant whisper"]


def test_a_model_that_fits_only_with_the_room_for_voice_may_use_it() -> None:
    desk = Desk([model("hear", 4, "voice"), model("large", 22)])
    assert desk.ask("1", "large") == ["start large"]
    desk.ready("large")
    desk.done("1")
    assert desk.ask("2", "hear") == ["stop large"]


def test_a_job_that_fits_only_with_the_room_for_voice_is_too_large() -> None:
    desk = Desk([model("hear", 4, "voice"), model("render", 22, "job")])
    assert desk.ask("1", "render") == ["refuse 1 too_large"]


def test_the_room_for_voice_can_be_switched_off() -> None:
    assert Desk([model("hear", 4, "voice")], voice_slot=False).lease("job", 24, wait=0.0) == ["grant job"]


def test_a_voice_model_that_cannot_fit_has_no_room_set_aside() -> None:
    desk = Desk([model("pinned", 20, "pinned"), model("hear", 8, "voice")])
    desk.bring_up("pinned")
    assert desk.lease("job", 4, wait=0.0) == ["grant job"]


def test_the_room_goes_with_the_last_voice_model() -> None:
    desk = Desk([model("hear", 4, "voice")])
    desk.lease("job", 20)
    assert desk.lease("more", 4) == []
    assert desk.tell(m.ModelRemoved(name="hear")) == ["grant more"]


# Measured memory


def test_what_nobody_admits_to_delays_a_grant_and_frees_it_again() -> None:
    desk = Desk([model("a")])
    desk.tell(measured(10))
    assert desk.decider.view(0.0).devices[0].unattributed_bytes == 10 * GIB
    assert desk.ask("1", "a") == []
    assert desk.tell(measured(2), at=1.0) == ["start a"]


def test_a_shortage_that_stays_is_told_in_words() -> None:
    desk = Desk([model("a")], shortage_seconds=5)
    desk.tell(measured(10))
    desk.ask("1", "a")
    assert desk.decider.next_at() == 5.0
    desk.tell(measured(10), at=4.0)
    assert desk.tick(5.0) == ["refuse 1 failed"]
    refusal = desk.refusal()
    assert "host/gpu0 has 14.0 GiB free, 16.0 GiB are needed, and 10.0 GiB are used by programs" in refusal.message
    assert refusal.retry_after_seconds == 5.0


def test_a_lease_is_refused_for_the_same_reason() -> None:
    desk = Desk(shortage_seconds=5)
    desk.tell(measured(10))
    desk.lease("job", 20)
    assert desk.tick(5.0) == ["refuse job"]
    assert "without a lease" in desk.lease_refusal().message


def test_a_shortage_has_idle_models_put_away_before_anything_is_refused() -> None:
    desk = Desk([model("idle", 6, sleep_levels=(LIGHT, DEEP)), model("a", 12)], [card(), memory()], shortage_seconds=5)
    desk.bring_up("idle")
    desk.tell(measured(6 + 8, idle=6))
    assert desk.ask("1", "a") == []
    assert desk.tick(5.0) == ["sleep idle 1"]
    desk.asleep("idle", 1, at=6.0)
    desk.tell(measured(1 + 11.3, idle=1), at=6.5)  # the game takes what it can get
    assert desk.tick(12.0) == ["sleep idle 2"]
    desk.asleep("idle", 2, at=13.0)
    desk.tell(measured(0.5 + 11.6, idle=0.5), at=13.5)
    assert desk.tick(19.0) == ["stop idle"]
    desk.gone("idle", at=19.5)
    assert desk.tell(measured(11.5), at=20.0) == ["start a"]


def test_a_shortage_has_an_elastic_model_start_smaller() -> None:
    desk = Desk([elastic()], shortage_seconds=5)
    desk.tell(measured(14))
    assert desk.ask("1", "elastic") == []
    assert desk.tick(5.0) == ["start elastic 8g"]


def test_a_shortage_waits_for_busy_models_of_ours() -> None:
    desk = Desk([model("busy", 8), model("a", 12)], shortage_seconds=5)
    desk.bring_up("busy")
    desk.ask("long", "busy")
    desk.tell(measured(8 + 6, busy=8))
    desk.ask("1", "a")
    assert desk.tick(5.0) == []
    desk.tell(measured(8 + 6, busy=8), at=9.0)
    assert desk.done("long", at=10.0) == ["stop busy"]


def test_a_holder_counts_with_what_it_uses_if_that_is_more() -> None:
    desk = Desk([model("greedy", 8), model("a", 12)])
    desk.bring_up("greedy")
    desk.tell(measured(14, greedy=14))
    assert desk.decider.view(0.0).devices[0].unattributed_bytes == 0
    assert desk.ask("1", "a") == []
    assert desk.tell(measured(8, greedy=8), at=1.0) == ["start a"]


def test_a_measurement_never_allows_what_the_book_does_not() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    desk.ask("a1", "a")
    desk.tell(measured(1, a=1))
    assert desk.ask("1", "b") == []


def test_an_old_measurement_delays_nothing() -> None:
    desk = Desk([model("a")], reading_seconds=3, shortage_seconds=60)
    desk.tell(measured(20))
    desk.ask("1", "a")
    assert desk.decider.next_at() == 3.0
    assert desk.tick(3.0) == ["start a"]


def test_memory_that_does_not_come_back_delays_the_next() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    desk.ask("1", "b")
    desk.tell(measured(16), at=1.0)
    assert desk.gone("a", at=1.0) == []  # its process has ended, its memory is still measured
    assert desk.tell(measured(0.5), at=2.0) == ["start b"]


def test_weights_do_not_go_where_measured_memory_is_short() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT, DEEP)), model("b")], [card(), memory(64)])
    desk.bring_up("a")
    desk.tell(measured(60, HOST_RAM))
    assert desk.ask("1", "b") == ["sleep a 2"]


def test_a_measurement_of_an_unknown_device_is_ignored() -> None:
    desk = Desk([model("a")])
    assert desk.tell(measured(99, "host/elsewhere")) == []
    assert desk.ask("1", "a") == ["start a"]
