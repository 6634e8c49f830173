"""The processes of a training run, and what they do together."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from schemas.errors import UserError, one_line
from schemas.shards import Damaged

T = TypeVar("T")


class World:
    """The device of this process, and the operations that all ranks do together."""

    def __init__(self) -> None:
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(self.device)  # where NCCL and pinned memory look
        if self.ranks > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")

    def sum(self, tensor: Tensor) -> Tensor:
        if self.ranks > 1:
            dist.all_reduce(tensor)
        return tensor

    def first(self, text: str | None) -> str | None:
        """The text of the first rank that has one, on all ranks."""
        texts = [text] * self.ranks
        if self.ranks > 1:
            dist.all_gather_object(texts, text)
        return next((one for one in texts if one is not None), None)

    def fail(self, line: str) -> NoReturn:
        """Ends the run on all ranks, with one `UserError`."""
        if self.rank:
            sys.exit(2)
        raise UserError(line)

    def together(self, do: Callable[[], T]) -> T:
        """What `do` gives, which needs no other rank. If it fails on any rank, the run ends with the first error."""
        if self.ranks == 1:
            return do()
        done, line = None, None
        try:
            done = do()
        except (UserError, Damaged, OSError) as error:
            line = one_line(error)
        if line := self.first(line):
            self.fail(line)
        return cast(T, done)

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Sums gradients over ranks in one message, since a small model has a hundred small ones.

        A rank whose batch had no image has no gradients for encoder and resampler. A gradient that no rank has stays
        None, as in a single process: the optimizer then skips the weight, with its momentum and decay.
        """
        if self.ranks == 1:
            return
        has_gradient = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=self.device)
        parts = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
        summed = self.sum(torch.cat([*(parameter.flatten() for parameter in parts), has_gradient]))
        *gradients, has_gradient = summed.split([*(parameter.numel() for parameter in parameters), len(parameters)])
        for parameter, gradient, any_gradient in zip(parameters, gradients, has_gradient.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if any_gradient else None
