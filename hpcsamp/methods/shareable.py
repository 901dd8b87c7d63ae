"""Weights that the ranks of a sample group share out, as far as a method can have them so."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.methods.predicting import Predicting
from hpcsamp.methods.sharing import SampleGroup


class Shareable(Predicting):
    """A method of whose weights each rank of a sample group may come to hold a share alone."""

    @property
    def shared_out(self) -> bool:
        """Whether it does.

        Evaluations, and the gradients of :meth:`Method.accumulating`, are then collective over the
        group; passes within :meth:`Method.trying` are not, whose weights are made up.
        """
        return False

    def check_shares(self) -> None:
        """Whether the ranks of a sample group can share the weights out.

        Raises
        ------
        UsageError
            If they cannot.
        """
        raise UsageError(
            f'optimizer.sharded = "weights" is for mean_field, of whose weights the ranks of a '
            f"sample group have copies; of a {type(self).__name__} take optimizer.sharded = true or"
            f" false"
        )

    def share_out(self, group: SampleGroup) -> None:
        """Keep a share of the weights, of those of the first replica. Collective over the replicas.

        Raises
        ------
        UsageError
            As :meth:`check_shares`.
        """
        self.check_shares()

    @abstractmethod
    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """See :meth:`Method.named_variational`."""

    def own_state(self) -> dict[str, Tensor]:
        """What is trained as this rank holds it, for :meth:`by_name`."""
        return dict(self.named_variational())

    def by_name(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """:meth:`named_variational` from :meth:`own_state` of all ranks."""
        return dict(whole)

    @property
    def numbers(self) -> int:
        """How many numbers the parameters are, with those that other ranks hold."""
        return sum(p.numel() for p in self.parameters())

    @property
    def drawn_numbers(self) -> int:
        """How many of these are standard deviations of draws."""
        spread = getattr(self, "log_std", None)
        return 0 if spread is None else spread.numel()
