"""The Hugging Face hub, in a child process that pull.py may kill at any moment.

``python -m turnout.tiers.local.weights.hub plan OWNER/NAME [FILE]`` says which file is meant;
``... fetch OWNER/NAME FILE REVISION BYTES PART`` appends to PART what is missing of it. Both print JSON lines.

huggingface_hub finds the endpoint (HF_ENDPOINT), the token and the proxy. The bytes are read here, with its session:
since version 2.4 its ``hf_hub_download`` writes to a name with a random part and deletes that at the end, so that it
resumes within one call but never after Ctrl-C (``_download_to_tmp_and_move`` in huggingface_hub/file_download.py).
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from turnout.tiers.local.weights.source import choose_gguf

ATTEMPTS = 5
RETRY_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 1 << 20
LISTED_FILES = 12


class HubLine(msgspec.Struct, omit_defaults=True):
    """One line of this program's stdout."""

    file: str = ""
    bytes: int = 0
    sha256: str = ""
    revision: str = ""
    done: int = -1
    failed: str = ""
    hint: str = ""


def plan(repository: str, file: str) -> None:
    """Say which file of a repository is meant, how large it is and what it hashes to."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT_SECONDS)
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    chosen = file or choose_gguf({name: sibling.size or 0 for name, sibling in files.items()})
    if chosen is None or chosen not in files:
        listed = sorted(files, key=lambda name: (not name.endswith(".gguf"), name))[:LISTED_FILES]
        there = ", ".join(listed) + (", ..." if len(files) > len(listed) else "")
        missing = f"no file {file!r}" if file else "no GGUF file in one piece"
        _fail(
            f"{repository!r} has {missing}; it holds: {there or 'nothing'}", "look for a repository that ends in -GGUF"
        )
    sibling = files[chosen]
    digest = sibling.lfs.sha256 if sibling.lfs is not None else ""
    _say(HubLine(file=chosen, bytes=sibling.size or 0, sha256=digest, revision=info.sha or "main"))


def fetch(repository: str, file: str, revision: str, size: int, part: Path) -> None:
    """Append what is missing of a file, and say how much of it is there.

    A connection that breaks is tried again after a second, ``ATTEMPTS`` times without a new byte.
    """
    from huggingface_hub import get_session, get_token, hf_hub_url

    url, session = hf_hub_url(repository, file, revision=revision), get_session()
    # huggingface_hub 1.x speaks through httpx, 2.x through httpx2.
    transport_error = sys.modules[type(session).__module__.partition(".")[0]].TransportError
    token = get_token()
    # The session drops it where a redirect leads to another host.
    headers = {"authorization": f"Bearer {token}"} if token else {}
    attempts = ATTEMPTS
    with part.open("ab") as output:
        while (begun_at := output.tell()) < size:
            try:
                _append(session, url, headers, output)
            except transport_error as error:
                attempts = ATTEMPTS if output.tell() > begun_at else attempts - 1
                sys.stderr.write(f"the download broke off after {output.tell()} bytes: {error!r}\n")
                if attempts == 0:
                    raise
                threading.Event().wait(RETRY_SECONDS)
                continue
            if output.tell() <= begun_at:
                _fail(f"the hub sent nothing of {file!r} after byte {begun_at}", "try again later")


def _append(session: Any, url: str, headers: dict[str, str], output: Any) -> None:
    from huggingface_hub import hf_raise_for_status

    begun_at = output.tell()
    # identity: a compressed answer would make nonsense of the range.
    headers = headers | {"range": f"bytes={begun_at}-", "accept-encoding": "identity"}
    with session.stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code >= 400:
            answer.read()
        hf_raise_for_status(answer)
        if answer.status_code != 206 and begun_at:  # the server knows no ranges: from the start
            output.seek(0)
            output.truncate()
        for block in answer.iter_bytes(BLOCK_BYTES):
            output.write(block)
            output.flush()
            _say(HubLine(done=output.tell()))


def _say(line: HubLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _fail(message: str, hint: str) -> NoReturn:
    _say(HubLine(failed=message, hint=hint))
    sys.exit(1)


def _explain(error: Exception, repository: str) -> tuple[str, str]:
    from huggingface_hub import errors

    first_line = (str(error).strip() or repr(error)).splitlines()[0]
    if isinstance(error, errors.GatedRepoError):
        return f"{repository!r} is gated", "accept its terms on its page, then `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no public repository {repository!r}", "check the name; a private one needs HF_TOKEN"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"the hub may not be asked: {first_line}", "unset HF_HUB_OFFLINE"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full: {first_line}", "free some space; the next pull goes on where this one stopped"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return f"cannot get {repository!r} from {endpoint}: {first_line}", "check the network, the proxy and HF_ENDPOINT"


def main(arguments: list[str]) -> None:
    """Run one command; failures of every kind become one line on stdout and exit status 1."""
    command, repository, *rest = arguments
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        _fail("models from the hub need the package huggingface-hub", "pip install 'turnout[hub]'")
    try:
        if command == "plan":
            plan(repository, rest[0] if rest else "")
        else:
            fetch(repository, rest[0], rest[1], int(rest[2]), Path(rest[3]))
    except Exception as error:  # noqa: BLE001  the library raises from four families; the parent gets one line
        _fail(*_explain(error, repository))


if __name__ == "__main__":
    main(sys.argv[1:])
