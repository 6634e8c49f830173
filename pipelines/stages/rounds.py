"""The rounds of an alignment: `align.json` in the root says which have begun, and which policy answers in each.

A round that is over is never asked again: its answers do not change, whatever the configuration says now, since its
policy is no longer served.
"""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.engine.alignment import read_alignment
from pipelines.engine.root import Root
from pipelines.models.endpoints import Endpoint
from schemas.align import AlignConfig, Policy, checkpoint_of
from schemas.config.model import Config
from schemas.selection import SetConfig


def policies(config: Config) -> list[Policy] | None:
    """The policies of the rounds that have begun, the first at least; None without [align]."""
    if config.align is None:
        return None
    begun = [one["policy"] for one in read_alignment(Root(config.root))["rounds"]]
    return begun or [{"model": None, "revision": None}]


def set_of(number: int) -> str:
    """The shard set with the pairs of a round."""
    return f"round_{number}"


def with_sets(config: Config) -> Config:
    """The configuration with a set of pairs for each round that has begun. A set of that name in the file stays."""
    begun = policies(config) or []
    also = f" and ({config.align.where}\n)" if config.align and config.align.where else ""
    own = {
        set_of(number): SetConfig(task="preference", where=f"round = {number}{also}")
        for number, _ in enumerate(begun, 1)
        if set_of(number) not in config.sets
    }
    return config.model_copy(update={"sets": config.sets | own})


def serving(endpoint: Endpoint, align: AlignConfig, policy: Policy) -> Endpoint:
    """The endpoint as it serves a policy: with a command, the checkpoint is its model. Servers of a url keep the
    model's name, and are made to serve the checkpoint by `align.policy_command`."""
    if (model := checkpoint_of(align, policy)) is None:
        return endpoint
    if endpoint.config.command is None:
        return replace(endpoint, revision=policy["revision"])
    config = endpoint.config.model_copy(update={"model": model})
    return replace(endpoint, config=config, model=None, revision=policy["revision"])


def identities(endpoint: Endpoint, align: AlignConfig, begun: Sequence[Policy]) -> dict[str, dict]:
    """round -> what decides the answers of its policy."""
    return {str(number): serving(endpoint, align, policy).identity() for number, policy in enumerate(begun, 1)}
