"""A server as a container, by the Docker Engine's API. Only keeper processes import this: it brings the docker package.

The container outlives a crash of the daemon, and the next one's keeper takes it over if it is the same in everything
that was asked for. It is found by its labels, and removed whenever it is stopped as ordered or ends by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from turnout.tiers.local.server.container_note import SETTINGS_LABEL, Note
from turnout.tiers.local.server.runtime import End, StartFailed
from turnout.tiers.local.server.spec import ContainerSpec, ServerSpec
from turnout.tiers.local.worker import announce_progress

PUBLISHED_ON = "127.0.0.1"
INNER_PORT = 8000
SHARED_MEMORY = "1g"
"""``/dev/shm``, by which the processes of one server hand tensors to each other; Docker's 64 MiB are too few."""
API_SECONDS = 60
SIGNALS_FROM = 128
KILL = 9


class ServerContainer:
    """A server in a container of its own.

    Args:
        spec: Of the server.
        container: How it is put into a container.
    """

    def __init__(self, spec: ServerSpec, container: ContainerSpec) -> None:
        self._spec = spec
        self._wanted = container
        self._engine: Any = None
        self._container: Any = None
        self._is_adopted = False
        self._is_removed = False
        self.port = spec.port
        self.pid = 0

    def start(self) -> None:
        """Take over the container that is there, or make one; see ``Runtime.start``."""
        try:
            import docker
            import docker.errors
        except ImportError as error:
            raise StartFailed(f"the package docker is missing ({error}); pip install 'turnout[docker]'") from error
        try:
            self._engine = self._connect(docker)
            self._container = self._left_behind(docker) or self._create(docker)
            if not self._is_adopted:
                self._container.start()
            self._learn()
        except docker.errors.DockerException as error:
            with contextlib.suppress(docker.errors.DockerException):
                self._remove()
            raise StartFailed(explain(self._wanted, str(error))) from error

    def pieces(self) -> Iterator[bytes]:
        """Yield what it prints; of one that was taken over, from now on."""
        yield from self._container.logs(stream=True, follow=True, tail=0 if self._is_adopted else "all")

    def wait(self) -> End:
        """Return when it has ended; a lack of memory is told as that."""
        status: int = self._container.wait(timeout=None)["StatusCode"]
        with contextlib.suppress(Exception):  # somebody may have removed it by hand
            self._container.reload()
            if self._container.attrs["State"]["OOMKilled"]:
                return End(-KILL, out_of_memory(self._wanted.memory_bytes))
        return End(SIGNALS_FROM - status if status > SIGNALS_FROM else status)

    def stop(self) -> None:
        """Send SIGTERM."""
        with contextlib.suppress(Exception):  # it may have ended in the same moment
            self._container.kill("SIGTERM")

    def kill(self) -> None:
        """Remove it, running or not."""
        with contextlib.suppress(Exception):
            self._remove()

    def orphan(self) -> None:
        """Leave it to the next daemon."""

    def remove_left_behind(self) -> None:
        """Remove what an earlier daemon left, and start nothing.

        Raises:
            StartFailed: The Docker Engine does not answer.
        """
        import docker
        import docker.errors

        try:
            self._engine = self._connect(docker)
            for found in self._all_left_behind():
                remove_for_good(docker, found)
        except docker.errors.DockerException as error:
            raise StartFailed(explain(self._wanted, str(error))) from error
        Path(self._wanted.note).unlink(missing_ok=True)

    def _connect(self, docker: Any) -> Any:
        url = self._wanted.docker_host
        engine = docker.DockerClient(base_url=url, timeout=API_SECONDS) if url else docker.from_env(timeout=API_SECONDS)
        engine.ping()
        return engine

    def _left_behind(self, docker: Any) -> Any:
        """Return a running container that is what we want; remove what is not."""
        for found in self._all_left_behind():
            is_same = found.labels.get(SETTINGS_LABEL) == self._wanted.labels[SETTINGS_LABEL]
            if is_same and found.status == "running":
                self._is_adopted = True
                return found
            remove_for_good(docker, found)
        return None

    def _all_left_behind(self) -> list[Any]:
        labels = [f"{name}={value}" for name, value in self._wanted.labels.items() if name != SETTINGS_LABEL]
        found: list[Any] = self._engine.containers.list(all=True, filters={"label": labels})
        return found

    def _create(self, docker: Any) -> Any:
        wanted, spec = self._wanted, self._spec
        self._provide_image(docker)
        gpus = [docker.types.DeviceRequest(device_ids=list(wanted.gpus), capabilities=[["gpu"]])] if wanted.gpus else []
        network: dict[str, Any] = (
            {"network_mode": "host"}
            if wanted.is_on_host_network
            else {"ports": {f"{INNER_PORT}/tcp": (PUBLISHED_ON, spec.port)}}
        )
        return self._engine.containers.create(
            wanted.image,
            name=wanted.name,
            entrypoint=[spec.arguments[0]],
            command=list(spec.arguments[1:]),
            environment=spec.environment,
            labels=wanted.labels,
            mem_limit=wanted.memory_bytes or None,
            memswap_limit=wanted.memory_bytes or None,
            device_requests=gpus,
            volumes=list(wanted.mounts),
            shm_size=SHARED_MEMORY,
            security_opt=["no-new-privileges"],
            detach=True,
            **network,
        )

    def _provide_image(self, docker: Any) -> None:
        image = self._wanted.image
        with contextlib.suppress(docker.errors.ImageNotFound):
            self._engine.images.get(image)
            return
        if not self._wanted.pull:
            raise StartFailed(f"the image {image} is not on this machine; `docker pull {image}`, or set `pull: true`")
        announce_progress("fetching the image", None)
        sizes: dict[str, tuple[int, int]] = {}
        tagged = image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"
        for step in self._engine.api.pull(tagged, stream=True, decode=True):
            if "error" in step:
                raise StartFailed(f"the image {image} cannot be fetched: {step['error']}")
            detail = step.get("progressDetail") or {}
            if step.get("status") == "Downloading" and detail.get("total"):
                sizes[step["id"]] = (detail["current"], detail["total"])
                done, total = (sum(size[part] for size in sizes.values()) for part in (0, 1))
                announce_progress("fetching the image", done / total)

    def _learn(self) -> None:
        """Find out its process and its port, and write down that it exists."""
        self._container.reload()
        attrs = self._container.attrs
        self.pid = attrs["State"]["Pid"]
        self.port = port_of(attrs, self._spec.port)
        path = Path(self._wanted.note)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(Note(container=self._container.id, pid=self.pid)))

    def _remove(self) -> None:
        if self._container is None or self._is_removed:
            return
        self._container.remove(force=True, v=True)
        self._is_removed = True
        Path(self._wanted.note).unlink(missing_ok=True)


def remove_for_good(docker: Any, container: Any) -> None:
    """Remove a container and wait until it is gone: its name and its port are free then.

    Args:
        docker: The package.
        container: Running or not, or being removed already by a keeper that did not live to see it.
    """
    with contextlib.suppress(docker.errors.APIError):
        container.remove(force=True, v=True)
    with contextlib.suppress(docker.errors.NotFound):
        container.wait(condition="removed")


def port_of(attrs: dict[str, Any], otherwise: int) -> int:
    """Return the port on loopback of a container that runs.

    Args:
        attrs: As the engine tells them.
        otherwise: Where it does not publish any.
    """
    published = (attrs["NetworkSettings"].get("Ports") or {}).get(f"{INNER_PORT}/tcp")
    if published:
        return int(published[0]["HostPort"])
    words: list[str] = attrs["Config"].get("Cmd") or []  # on the host's network it is where it was told to be
    if "--port" in words[:-1]:
        return int(words[words.index("--port") + 1])
    return otherwise


def out_of_memory(limit_bytes: int) -> str:
    """Return why a container was ended, in words."""
    if not limit_bytes:
        return "out of memory: the machine has none left for the container"
    return f"out of memory: the container may use {limit_bytes / (1 << 30):g} GiB; raise `memory_gib`"


def explain(wanted: ContainerSpec, said: str) -> str:
    """Return what to do about what the Docker Engine says.

    Args:
        wanted: The container.
        said: By the engine or the docker package.
    """
    if "could not select device driver" in said:
        return f"Docker has no runtime for GPUs; install the NVIDIA Container Toolkit ({said})"
    if "permission denied" in said.lower():
        return f"the Docker Engine does not let us in; is your user in the group docker? ({said})"
    if any(sign in said for sign in ("Error while fetching server API version", "Connection refused", "FileNotFound")):
        where = wanted.docker_host or "its usual place"
        return f"the Docker Engine does not answer at {where}; is it started? ({said})"
    return f"Docker cannot start {wanted.image}: {said}"
