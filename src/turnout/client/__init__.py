"""The public Python client: ``with Turnout("http://127.0.0.1:8150") as turnout: print(turnout.status())``.

Reads: core only; httpx2 is imported when the first client is made.  Start with api.py.
"""

from turnout.client.api import Turnout
from turnout.client.errors import ApiError, DaemonNotReachable, LeaseNotGranted
from turnout.client.lease import GrantedLease, LeaseHold, LeaseWaiting
from turnout.client.stream import AnswerFacts, ChatStream

__all__ = [
    "AnswerFacts", "ApiError", "ChatStream", "DaemonNotReachable", "GrantedLease", "LeaseHold", "LeaseNotGranted",
    "LeaseWaiting", "Turnout",
]  # fmt: skip
