"""Prefect flows and the command line `shardmill`. Thin: a task calls one function and passes paths, never payloads."""

import os
import warnings

for name, value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the first start makes a database
}.items():
    os.environ.setdefault(name, value)
warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # `flows.server` then takes another
