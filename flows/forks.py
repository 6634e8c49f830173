"""Lets a process fork after a flow has run in it, as a loader of `training` does when it starts its workers.

Prefect drains its services when a process ends. A fork has these calls as well, but none of the services' threads: it
would end with an `AssertionError` and exit code 1 (Prefect 3.7).
"""

import os
import threading


def _forget_services() -> None:
    """Takes Prefect's calls off the list of what a fork does at its end."""
    calls = getattr(threading, "_threading_atexits", [])
    calls[:] = [call for call in calls if not (getattr(call.func, "__module__", "") or "").startswith("prefect.")]


os.register_at_fork(after_in_child=_forget_services)
