"""The row `litellm`: installed from PyPI into an environment of its own, which is kept in the temporary directory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.machine import Missing
from benchmarks.rows import Launch, Place, Row

VERSION = "1.109.1"
ENVIRONMENT = Path(tempfile.gettempdir()) / f"turnout-bench-litellm-{VERSION}"
INSTALL_SECONDS = 900
UNPINNED = ("certifi", "litellm-proxy-extras")
"""Its metadata ask for versions of these two that an index may not have yet; no database is used here."""
REQUIREMENTS = f"""
import importlib.metadata
from pip._vendor.packaging.requirements import Requirement
for text in importlib.metadata.requires("litellm"):
    requirement = Requirement(text)
    markers = requirement.marker
    if markers is None or markers.evaluate({{"extra": ""}}) or markers.evaluate({{"extra": "proxy"}}):
        extras = f"[{{','.join(requirement.extras)}}]" if requirement.extras else ""
        print(requirement.name + extras + ("" if requirement.name in {UNPINNED!r} else str(requirement.specifier)))
"""
CONFIG = """
model_list:
  - {{model_name: mock, litellm_params: {{model: openai/mock, api_base: "{upstream}", api_key: sk-1234}}}}
  - {{model_name: paced, litellm_params: {{model: openai/paced, api_base: "{upstream}", api_key: sk-1234}}}}
"""
SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # asks nobody on the internet for prices
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def install() -> None:
    """Install LiteLLM's proxy, unless it is installed.

    Raises:
        Missing: pip could not.
    """
    done = ENVIRONMENT / "done"
    if done.exists():
        return
    print(f"installing litellm {VERSION} into {ENVIRONMENT}", file=sys.stderr, flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    _pip("--no-deps", f"litellm=={VERSION}")
    listed = subprocess.run([_program("python"), "-c", REQUIREMENTS], capture_output=True, text=True, check=True)
    _pip(*listed.stdout.split())
    done.touch()


def _program(name: str) -> str:
    return str(ENVIRONMENT / "bin" / name)


def _pip(*arguments: str) -> None:
    command = [_program("pip"), "install", "--quiet", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if ran.returncode != 0:
        raise Missing(f"error: litellm cannot be installed: {ran.stderr.strip()[-500:]}\nhint:  leave out LITELLM=1")


def litellm() -> Row:
    """Return LiteLLM's proxy with one worker and no database.

    Raises:
        Missing: It cannot be installed.
    """
    install()

    def launch(place: Place) -> Launch:
        file = place.home / "litellm.yaml"
        file.write_text(CONFIG.format(upstream=place.upstream))
        command = [_program("litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(place.port)]
        command += ["--num_workers", "1", "--telemetry", "False"]
        return Launch(f"http://127.0.0.1:{place.port}/v1", command, SETTINGS)

    return Row("litellm", VERSION, launch)
