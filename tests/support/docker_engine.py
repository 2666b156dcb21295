"""A Docker Engine to test against: the one that runs already, or one of our own with an image of nothing.

The image is empty. What a container needs of this machine (Python, the C library, the tests) is mounted, so that
nothing is ever fetched.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

IMAGE = "turnout-test:nothing"
START_SECONDS = 30.0
LOOK_SECONDS = 5.0
PAUSE_SECONDS = 0.1
USUAL_SOCKET = "unix:///var/run/docker.sock"
ROOTS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


def can_have_docker() -> bool:
    """Return whether a Docker Engine runs here, or can be started."""
    return answers(os.environ.get("DOCKER_HOST", USUAL_SOCKET)) or (
        sys.platform == "linux" and os.geteuid() == 0 and shutil.which("dockerd") is not None
    )


def answers(host: str) -> bool:
    """Return whether a Docker Engine answers."""
    parts = urlsplit(host)
    is_path = parts.scheme == "unix"
    address: Any = parts.path if is_path else (parts.hostname, parts.port or 2375)
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as sock:
        sock.settimeout(LOOK_SECONDS)
        try:
            sock.connect(address)
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(4096).split(b"\r\n", 1)[0]
        except OSError:
            return False


@contextlib.contextmanager
def docker_engine() -> Iterator[str]:
    """Provide a Docker Engine that has the test's image; yield where it listens."""
    running = os.environ.get("DOCKER_HOST", USUAL_SOCKET)
    if answers(running):
        with _image(running):
            yield running
        return
    root = Path(tempfile.mkdtemp(prefix="turnout-docker-"))
    host = f"unix://{root}/docker.sock"
    # The rules of the host's network are left alone: a published port works by Docker's own proxy then.
    words = ["dockerd", "--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "--host", host,
             "--pidfile", f"{root}/docker.pid", "--iptables=false", "--ip6tables=false", "--ip-masq=false",
             "--bip", "10.213.0.1/24"]  # fmt: skip
    with (root / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        _wait_for(host, process, root / "dockerd.log")
        with _image(host):
            yield host
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)
        _unmount_below(root)
        shutil.rmtree(root)


def mounts_of_this_machine() -> list[str]:
    """Return what a container needs to run this Python with these tests."""
    repository = Path(__file__).parents[2]
    places = {*ROOTS, sys.base_prefix, sys.prefix, str(repository / "src"), str(repository / "tests")}
    return [f"{place}:{place}:ro" for place in sorted(places) if Path(place).exists()]


def containers(host: str) -> list[Any]:
    """Return the containers of the test's image, running or not."""
    import docker

    with contextlib.closing(docker.DockerClient(base_url=host)) as client:
        return list(client.containers.list(all=True, filters={"ancestor": IMAGE}))


def _wait_for(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    pause = threading.Event()
    for _ in range(int(START_SECONDS / PAUSE_SECONDS)):
        if process.poll() is not None:
            break
        if answers(host):
            return
        pause.wait(PAUSE_SECONDS)
    raise AssertionError(log.read_text()[-2000:])


def _unmount_below(root: Path) -> None:
    """Undo the mounts that it leaves, such as its network's name."""
    for line in Path("/proc/mounts").read_text().splitlines():
        place = line.split()[1]
        if Path(place).is_relative_to(root):
            subprocess.run(["umount", "--lazy", place], check=True)  # noqa: S607  Linux, as root


@contextlib.contextmanager
def _image(host: str) -> Iterator[None]:
    import docker

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder)
    with contextlib.closing(docker.DockerClient(base_url=host)) as client:
        repository, tag = IMAGE.split(":")
        client.api.import_image_from_data(data.getvalue(), repository=repository, tag=tag)
        try:
            yield
        finally:
            client.images.remove(IMAGE, force=True)
