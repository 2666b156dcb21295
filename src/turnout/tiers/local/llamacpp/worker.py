"""The embedded engine's worker process: llama.cpp's own HTTP server, hosted by xllamacpp.

``python -m turnout.tiers.local.llamacpp.worker``; the spec comes on stdin (worker.py). Every path but ``/health`` wants
the key, so that neither a web page nor another user of the machine can use the port.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from turnout.tiers.local.llamacpp.spec import LlamaCppSpec
from turnout.tiers.local.weights.check import check_weights
from turnout.tiers.local.worker import (
    STDERR,
    announce_failed,
    announce_progress,
    announce_ready,
    exit_with_parent,
    read_spec,
)

HOST = "127.0.0.1"
WARNINGS, EVERYTHING = 2, 4
"""llama.cpp's verbosity."""
SPARE_HTTP_THREADS = 16
"""Each waiting request holds a thread of llama.cpp's HTTP server: some beyond the slots keep /health answering."""


def parameters(spec: LlamaCppSpec) -> Any:
    """Return xllamacpp's CommonParams for a spec.

    llama.cpp divides ``n_ctx`` evenly over the slots. With ``kv_unified`` the slots share one pool of that size, which
    took 348 MB rather than 902 MB for SmolLM2 (8192 tokens, 4 slots). But when the pool runs out every running request
    ends with status 500, also those that fitted: so each slot gets a context of its own here.
    """
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path = spec.path
    wanted.model_alias = [spec.model]  # a plain string would be taken for a set of letters
    wanted.hostnames = [HOST]
    wanted.port = spec.port
    wanted.api_keys = [spec.key]
    wanted.cors_origins = ""  # no web page talks to a worker
    wanted.ui = False
    wanted.offline = True
    wanted.n_ctx = spec.context_tokens * spec.slots
    wanted.n_parallel = spec.slots
    wanted.kv_unified = False
    wanted.fit_params = False  # it would load the model twice, and shrink what does not fit without saying so
    # The cache of finished prompts in RAM may take 8 GiB by default; a worker's footprint has to stay what it was.
    wanted.cache_ram_mib = 0
    wanted.cache_idle_slots = False
    wanted.cpuparams.n_threads = spec.threads
    wanted.cpuparams_batch.n_threads = spec.threads
    wanted.n_threads_http = spec.slots + SPARE_HTTP_THREADS
    wanted.use_jinja = True
    wanted.endpoint_metrics = True
    wanted.endpoint_slots = True
    wanted.verbosity = EVERYTHING if spec.verbose else WARNINGS
    return wanted


def load(spec: LlamaCppSpec) -> Any:
    """Start the server; it listens when this returns. A failure ends the process with llama.cpp's own reason."""
    import xllamacpp

    try:
        return xllamacpp.Server(parameters(spec))
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = _reason(spec) or str(error)
        announce_failed(
            f"llama.cpp cannot load {spec.path!r} ({spec.context_tokens} tokens x {spec.slots} slots): {reason}; "
            "check the file, or lower context_tokens or slots if memory is short"
        )


def _reason(spec: LlamaCppSpec) -> str:
    """Fail again with stderr in a file, and return the first error in it.

    xllamacpp says "failed to init" whatever happened; the reason is only in the log that llama.cpp writes to
    descriptor 2. The first try logs normally, so that a crash leaves its last words.
    """
    import xllamacpp

    real = os.dup(STDERR)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), STDERR)
        try:
            xllamacpp.Server(parameters(spec))
        except (RuntimeError, ValueError, MemoryError):
            pass
        finally:
            os.dup2(real, STDERR)
            os.close(real)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    found = re.search(r"^[\d.]+ E (.+)$", said, re.MULTILINE)
    return found[1].strip() if found else ""


def main() -> None:
    """Run the worker until its parent or a signal ends it."""
    spec = read_spec(LlamaCppSpec)
    exit_with_parent()
    if not spec.key:
        announce_failed("the spec has no key: the port would serve everybody")
    # Spinning threads would eat the cores that the rest of the machine needs; read when libgomp loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        announce_failed(f"xllamacpp cannot be imported ({error}); pip install 'turnout[embedded]'")
    check_weights(Path(spec.path), spec.sha256)
    # Loading holds the interpreter's lock. SIGTERM keeps its default action: it ends the process at any moment.
    announce_progress("loading", None)
    server = load(spec)
    announce_ready(server.listening_address)
    threading.Event().wait()


if __name__ == "__main__":
    main()
