"""The profile that was chosen while the daemon ran, and the note of a switch that is under way. Two small files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from turnout.config.files import write_privately
from turnout.core.errors import UNREADABLE_JSON


class KeptProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A choice.

    Attributes:
        profile: What runs since ``turnout profile use``.
        instead_of: What the configuration said then; if it says something else now, the configuration counts.
    """

    profile: str
    instead_of: str


class SwitchNote(msgspec.Struct, frozen=True, kw_only=True):
    """A switch that was begun.

    Attributes:
        before: The profile that ran.
        after: The one that was wanted.
        step: How far it was.
    """

    before: str
    after: str
    step: str


class ProfileFiles:
    """Both files.

    Args:
        folder: The state directory.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "profile.json"
        self._note = folder / "profile-switch.json"

    def kept(self, configured: str) -> str:
        """Return the profile to run.

        Args:
            configured: What the configuration says.
        """
        with contextlib.suppress(OSError, *UNREADABLE_JSON):
            kept = msgspec.json.decode(self._kept.read_bytes(), type=KeptProfile)
            if kept.instead_of == configured:
                return kept.profile
        return configured

    def keep(self, profile: str, configured: str) -> None:
        """Run a profile from now on, also after a restart.

        Args:
            profile: Which.
            configured: What the configuration says.

        Raises:
            SetupError: The disk is full or the folder cannot be written.
        """
        write_privately(self._kept, msgspec.json.encode(KeptProfile(profile=profile, instead_of=configured)))

    def note(self, note: SwitchNote) -> None:
        """Write down how far a switch is, before the next step.

        Raises:
            SetupError: The disk is full or the folder cannot be written.
        """
        write_privately(self._note, msgspec.json.encode(note))

    def interrupted(self) -> SwitchNote | None:
        """Return the switch that a daemon did not live to end, once."""
        with contextlib.suppress(OSError, *UNREADABLE_JSON):
            note = msgspec.json.decode(self._note.read_bytes(), type=SwitchNote)
            self.over()
            return note
        return None

    def over(self) -> None:
        """A switch has ended, one way or the other."""
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)
