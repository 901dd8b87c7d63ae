"""Inputs beside those of the batch at which functions are compared; they have no targets.

Functions that agree on the training items differ where there are none, which a batch cannot show.
Each step has inputs of its own, drawn by (seed, step): rows of a table, or standard normal numbers.
(Wang et al. 2019, section 3, draw them from a region around the training inputs.)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.streams import Purpose, numpy_generator


class FurtherInputs:
    """Further inputs of each step.

    Parameters
    ----------
    count
        Number of inputs in a step.
    table
        A ``.npy`` file with inputs ``(n, ...)`` in the units that the network receives; None for
        standard normal numbers.
    seed
        Seed of the run.

    Raises
    ------
    UsageError
        If there are fewer than 0 inputs, or a table without a number of inputs.
    """

    def __init__(self, count: int, table: str | None, seed: int) -> None:
        if count < 0:
            raise UsageError(f"method.space_inputs = {count} must be at least 0")
        if table is not None and not count:
            raise UsageError(
                f"method.space_table = {table!r} needs method.space_inputs, the number of its rows "
                f"in a step"
            )
        self.count, self.seed, self.path = count, seed, table

    @cached_property
    def table(self) -> np.ndarray | None:
        """The table, which is read in training only; None if there is none.

        Raises
        ------
        UsageError
            If it cannot be read, or has too few rows.
        """
        if self.path is None:
            return None
        try:
            found: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except OSError as e:
            raise UsageError(f"method.space_table = {self.path!r}: {e.strerror or e}") from e
        except (ValueError, EOFError) as e:
            raise UsageError(
                f"method.space_table = {self.path!r} is no array of numbers that numpy.save wrote"
            ) from e
        shape = getattr(found, "shape", None)  # an .npz file has none
        if not shape or shape[0] < self.count:
            raise UsageError(
                f"method.space_table = {self.path!r} must be an array of at least "
                f"method.space_inputs = {self.count} rows; its shape is {shape}"
            )
        if found.dtype.kind not in "buif":
            raise UsageError(
                f"method.space_table = {self.path!r} must hold real numbers, not {found.dtype}"
            )
        return found

    def draw(self, step: int, like: Tensor) -> Tensor:
        """Return the ``(count, ...)`` inputs of a step, with shape and type of a batch ``like``.

        Raises
        ------
        UsageError
            If the network has several inputs, the shapes differ, a value is not finite, or inputs
            of the network are no real numbers while there is no table.
        """
        if not isinstance(like, Tensor):
            raise UsageError("method.space_inputs: the network must have a single input")
        generator, shape = numpy_generator(self.seed, Purpose.SPACE, step), tuple(like.shape[1:])
        if self.table is not None:
            if self.table.shape[1:] != shape:
                raise UsageError(
                    f"method.space_table = {self.path!r} has rows of shape "
                    f"{self.table.shape[1:]}, but an input of the network has {shape}"
                )
            rows = np.sort(generator.choice(len(self.table), self.count, replace=False))
            found = np.array(self.table[rows], self.table.dtype.newbyteorder("="))
            if not np.isfinite(found).all():
                raise UsageError(
                    f"method.space_table = {self.path!r} has a row with a value that is not finite"
                )
        elif like.is_floating_point():
            found = generator.standard_normal((self.count, *shape))
        else:
            raise UsageError(
                f"method.space_inputs draws normal numbers, but inputs have the type {like.dtype}: "
                f"set method.space_table to a .npy file of inputs"
            )
        return torch.from_numpy(found).to(like.device, like.dtype)
