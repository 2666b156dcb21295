"""Switches the profile of a running daemon: hold the door, drain, move, verify; or go back.

From the moment when the door is held new requests wait outside, each with its own deadline. Those that are inside end
first: nothing is moved under a running answer. Engines that are the same in both shapes stay loaded. If the new shape
does not come up (a model does not load, or gives no real answer), the old one is put together again by the same moves.
A daemon that dies in the middle starts with the old profile: the new one is written down when it has been verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

import msgspec

from turnout.config.kept_profile import ProfileFiles, SwitchNote
from turnout.config.loader import LoadedConfig
from turnout.core.clock import Clock
from turnout.core.errors import Busy, LoadFailed, SetupError, TurnoutError
from turnout.core.events import Emit, ProfileStep
from turnout.core.ids import new_request_id
from turnout.core.words import Target
from turnout.dispatch.dispatcher import Dispatcher
from turnout.profiles.moves import compare, needs_restart
from turnout.routing.chains import chain_of
from turnout.scheduler.loop import SchedulerLoop
from turnout.tiers.base import Call, Engine
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.restart import LONGEST_DELAY_SECONDS
from turnout.tiers.transport import Deadlines

DRAIN_SECONDS = 300.0
"""How long answers that run may take to end; after that nothing is moved, and the door is opened again."""
KNOWN_SECONDS = 10.0
TRIES_BACK = 3
"""Going back is tried again: it begins with whatever is there."""
PAUSE_SECONDS = 0.5
"""Between two tries, at least: that a worker has died is not known at the moment when it gives no answer. A model that
failed says itself when another start makes sense."""
GOING_BACK = "going back"
QUESTION = "Say OK."
ANSWER_BYTES = 1 << 20

logger = logging.getLogger("turnout.profiles")
Name = tuple[bool, str]
"""Whether an engine was found, and its name: a found one may be called like a configured one."""


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a switch.

    Attributes:
        profile: What runs now.
        before: What ran before.
        seconds: From the wish to the opening of the door.
        verified: Targets that were loaded, the orchestrator with a real answer.
    """

    profile: str
    before: str
    seconds: float
    verified: tuple[str, ...] = ()


class ProfileSwitch:
    """The one switch of a daemon.

    Args:
        loaded: The configuration in effect.
        configured: The profile that the configuration names.
        load: Returns the configuration with another profile.
        build: Returns the engines of a configuration, none of them alive.
        moved: Called when another configuration is in effect.
        fleet: Whose engines move.
        dispatcher: Whose door is held.
        scheduling: Loads models.
        files: Where choice and progress are kept.
        clock: Time.
        emit: Tells everybody about each step.
        drain_seconds: How long running answers may take to end.
    """

    def __init__(
        self,
        *,
        loaded: LoadedConfig,
        configured: str,
        load: Callable[[str], LoadedConfig],
        build: Callable[[LoadedConfig], list[Engine]],
        moved: Callable[[LoadedConfig], None],
        fleet: Fleet,
        dispatcher: Dispatcher,
        scheduling: SchedulerLoop,
        files: ProfileFiles,
        clock: Clock,
        emit: Emit,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._loaded = loaded
        self._configured = configured
        self._load = load
        self._build = build
        self._moved = moved
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._scheduling = scheduling
        self._files = files
        self._clock = clock
        self._emit = emit
        self._drain_seconds = drain_seconds
        self._wishes: asyncio.Queue[tuple[str, asyncio.Future[Switched]]] = asyncio.Queue()
        self.wanted = ""
        """The profile that is being switched to; empty while nothing moves."""
        self.step = ""
        """How far it is, in words."""
        self._before = ""
        self._is_going_back = False
        self._watchers: list[asyncio.Queue[str]] = []

    @property
    def active(self) -> str:
        """The profile that runs."""
        return self._loaded.settings.profile

    @property
    def loaded(self) -> LoadedConfig:
        """The configuration in effect."""
        return self._loaded

    async def use(self, name: str) -> Switched:
        """Switch to a profile; whoever stops waiting does not stop the switch.

        Args:
            name: Which.

        Raises:
            SetupError: There is no such profile, or it needs a restart.
            Busy: Another switch is under way.
            TurnoutError: The new shape did not come up; the old one runs.
        """
        if self.wanted:
            raise Busy(f"a switch to profile {self.wanted!r} is under way", code="switching", hint="wait for its end")
        self.wanted = name
        done: asyncio.Future[Switched] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # told, also if nobody waits
        self._wishes.put_nowait((name, done))
        return await asyncio.shield(done)

    async def run(self) -> None:
        """Switch as wished until cancelled."""
        while True:
            name, done = await self._wishes.get()
            try:
                done.set_result(await self._switch(name))
            except TurnoutError as error:
                done.set_exception(error)
            except Exception as error:  # the supervisor: a bug in here must not take the daemon along
                logger.exception("the switch to profile %r failed", name)
                done.set_exception(LoadFailed(f"{type(error).__name__}: {error}; this is a bug in turnout"))
            finally:
                self.wanted = self.step = ""
                if not done.done():
                    done.cancel()

    async def _switch(self, name: str) -> Switched:
        began, before = self._clock.monotonic_seconds(), self._loaded
        self._before, self._is_going_back = before.settings.profile, False
        wanted = self._load(name)
        if sections := needs_restart(before.settings, wanted.settings):
            raise SetupError(
                f"profile {name!r} changes {', '.join(sections)}, which cannot change while the daemon runs",
                hint=f"`turnout down`, then `turnout up --profile {name}`",
            )
        self._build(wanted)  # whatever is wrong in it is told before anybody has to wait
        try:
            with self._dispatcher.held_door() as door:
                self._tell(name, "draining")
                try:
                    async with asyncio.timeout(self._drain_seconds):
                        await door.until_quiet()
                except TimeoutError:
                    raise Busy(
                        f"answers still run after {self._drain_seconds:g} s; profile {self.active!r} stays as it is",
                        code="not_drained",
                        hint="try again when they have ended",
                    ) from None
                verified = await self._move_or_go_back(before, wanted)
                self._say(name, "done")  # not written down: it is over, and no full disk makes it a failure
        finally:
            self._files.over()
        seconds = self._clock.monotonic_seconds() - began
        return Switched(profile=name, before=before.settings.profile, seconds=round(seconds, 3), verified=verified)

    async def _move_or_go_back(self, before: LoadedConfig, wanted: LoadedConfig) -> tuple[str, ...]:
        name = wanted.settings.profile
        try:
            verified = await self._move(wanted)
            self._tell(name, "keeping")
            self._files.keep(name, self._configured)
        except Exception as error:  # whatever it was: callers wait at the door
            await self._go_back(before, error)
            message = error.message if isinstance(error, TurnoutError) else f"{type(error).__name__}: {error}"
            raise LoadFailed(
                f"profile {name!r} did not come up: {message}; profile {self.active!r} runs as before",
                code="profile_failed",
                hint=(error.hint if isinstance(error, TurnoutError) else "") or "`turnout logs` shows why",
            ) from error
        return verified

    async def _go_back(self, before: LoadedConfig, error: Exception) -> None:
        for attempt in range(1, TRIES_BACK + 1):
            try:
                self._tell(before.settings.profile, GOING_BACK)
                await self._move(before)
            except Exception as again:  # as above
                if attempt == TRIES_BACK:
                    raise LoadFailed(
                        f"neither the new profile came up ({error}) nor the old one again ({again})",
                        code="profile_lost",
                        hint="`turnout ps` shows what is served; `turnout down` and `turnout up` begin anew",
                    ) from again
                await asyncio.sleep(_pause_seconds(again))
            else:
                return

    async def _move(self, to: LoadedConfig) -> tuple[str, ...]:
        """Make the fleet what a configuration says, whatever it is now; return the targets that were verified."""
        name = to.settings.profile
        now = {_name(engine): engine for engine in self._fleet.engines}
        then = {_name(engine): engine for engine in self._build(to)}
        moves = compare({key: _facts(e) for key, e in now.items()}, {key: _facts(e) for key, e in then.items()})
        for key in moves.leave:
            self._tell(name, f"ending {now[key].name}")
            await self._fleet.end(now[key])
        self._scheduling.models_changed()
        for key in moves.come:
            self._tell(name, f"adding {then[key].name}")
            self._fleet.add(then[key])
        self._fleet.arrange([now[key] if key in moves.stay else then[key] for key in then])
        chains = {role: tuple(names) for role, names in to.settings.chains.items()}
        self._fleet.set_routes(dict(to.settings.aliases), chains)
        self._loaded = to
        self._scheduling.models_changed()
        self._moved(to)
        with contextlib.suppress(TimeoutError):  # an address that does not answer is looked at again by its own engine
            async with asyncio.timeout(KNOWN_SECONDS):
                await self._fleet.wait_known()
        return await self._verify(name)

    async def _verify(self, name: str) -> tuple[str, ...]:
        managed = {model: entry[0] for model, entry in self._fleet.models().items()}
        first = [choice.target for choice in chain_of("orchestrator", self._fleet.snapshot)[:1]]
        pinned = [target for target, model in managed.items() if model.lease_class == "pinned"]
        wanted = [target for target in dict.fromkeys([*first, *pinned]) if target in managed]
        for target in wanted:
            self._tell(name, f"loading {target}")
            await self._scheduling.requests.load(target)
            if target in first:
                self._tell(name, f"asking {target}")
                await self._ask(target)
        return tuple(wanted)

    async def _ask(self, name: str) -> None:
        target, engine = self._fleet.snapshot.targets.get(name), self._fleet.owner(name)
        if target is None or engine is None:
            raise LoadFailed(f"{name} is gone")
        if "chat" not in target.can:
            return
        response = await engine.send(target, _question(target, self._loaded))
        try:
            body = await response.read_all(ANSWER_BYTES)
        finally:
            response.close()
        if response.status != 200:
            raise LoadFailed(f"{name} is loaded but answers with status {response.status}: {body[:200]!r}")

    def _tell(self, profile: str, step: str) -> None:
        """Write a step down, and say it. On the way back a full disk keeps nobody from their model."""
        self._is_going_back |= step == GOING_BACK
        try:
            self._files.note(SwitchNote(before=self._before, after=self.wanted, step=step))
        except SetupError as error:
            if not self._is_going_back:
                raise
            logger.warning("a step of going back is not written down: %s", error.message)
        self._say(profile, step)

    def _say(self, profile: str, step: str) -> None:
        self.step = step
        self._emit(ProfileStep(profile=profile, step=step))
        for steps in self._watchers:
            steps.put_nowait(step)

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Queue[str]]:
        """Yield a queue that gets every step from now on."""
        steps: asyncio.Queue[str] = asyncio.Queue()
        self._watchers.append(steps)
        try:
            yield steps
        finally:
            self._watchers.remove(steps)


def _pause_seconds(error: Exception) -> float:
    """Return how long to wait before a model that failed is loaded again."""
    seconds = error.retry_after_seconds if isinstance(error, TurnoutError) else None
    return min(max(seconds or 0.0, PAUSE_SECONDS), LONGEST_DELAY_SECONDS)


def _name(engine: Engine) -> Name:
    return (_origin(engine) == "found", engine.name)


def _facts(engine: Engine) -> tuple[object, ...]:
    return type(engine), _origin(engine), getattr(engine, "settings", None)


def _origin(engine: Engine) -> object:
    return getattr(engine, "origin", "configured")


def _question(target: Target, loaded: LoadedConfig) -> Call:
    deadlines = loaded.settings.deadlines
    body = {"model": target.model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
    return Call(
        kind="chat",
        body=msgspec.json.encode(body),
        request_id=new_request_id(),
        deadlines=Deadlines(
            connect=deadlines.connect, first_byte=deadlines.first_byte, gap=deadlines.gap, write=deadlines.write_stall
        ),
    )
