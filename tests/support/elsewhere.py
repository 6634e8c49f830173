"""A runner of Beam that is not known here: its own workers make the items."""

from apache_beam.runners.portability.fn_api_runner import FnApiRunner


class Elsewhere(FnApiRunner):
    """Its workers are threads of the process that drives Beam."""
