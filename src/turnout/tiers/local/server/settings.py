"""Settings that every server started by turnout shares: how it is run."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from turnout.tiers.local.placement import PlacedSettings


class ServerSettings(PlacedSettings, frozen=True, kw_only=True):
    """Settings of a model served by another program."""

    runtime: Annotated[
        Literal["process", "docker"],
        Meta(description="`process`: a program of this machine; `docker`: a container (needs `turnout[docker]`)."),
    ] = "process"
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(description="Where it listens on 127.0.0.1; a free port is chosen if left out."),
    ] = None
    arguments: Annotated[
        list[str], Meta(description="Added to its command line as they are, one list entry for each argument.")
    ] = msgspec.field(default_factory=list)
    environment: Annotated[
        dict[str, str], Meta(description="Variables that it gets, with their values. No place for secrets.")
    ] = msgspec.field(default_factory=dict)
    environment_from: Annotated[
        list[str],
        Meta(description="Names of environment or `.env` variables that are handed on to it, such as `HF_TOKEN`."),
    ] = msgspec.field(default_factory=list)
    image: Annotated[str, Meta(description="With `runtime: docker`: the image.")] = ""
    pull: Annotated[bool, Meta(description="A missing image may be fetched at the start.")] = False
    memory_gib: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Limit of the machine's memory for the container; what exceeds it is ended by the system."),
    ] = None
    network: Annotated[
        Literal["published", "host"],
        Meta(
            description="`published`: Docker's network, its port on 127.0.0.1 only. `host`: the host's own network,"
            " where it listens on 127.0.0.1 itself."
        ),
    ] = "published"
    mounts: Annotated[
        list[str], Meta(description="Folders that the container sees: `/here:/there` or `/here:/there:ro`.")
    ] = msgspec.field(default_factory=list)
