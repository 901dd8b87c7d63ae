"""Shard the weights of a method over the ranks of a sample group, if the method supports this."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.methods.predicting import Predicting
from hpcsamp.methods.sharing import SampleGroupLike


class Shareable(Predicting):
    """A method whose weights may be sharded, so that each rank of a sample group holds a share."""

    @property
    def shared_out(self) -> bool:
        """Whether the weights are sharded.

        If so, evaluations and the gradients of :meth:`Method.accumulating` are collective over the
        group; passes within :meth:`Method.trying` are not, because they use made-up weights.
        """
        return False

    def check_shares(self) -> None:
        """Check that the ranks of a sample group can shard the weights.

        Raises
        ------
        UsageError
            If the method or its network does not support sharding.
        """
        raise UsageError(
            f'optimizer.sharded = "weights" needs mean_field or ivon, whose weights all ranks of a '
            f"sample group hold; for {type(self).__name__} set optimizer.sharded = true or false"
        )

    def share_out(self, group: SampleGroupLike) -> None:
        """Keep only this rank's share of the first replica's weights. Collective over the replicas.

        Raises
        ------
        UsageError
            See :meth:`check_shares`.
        """
        self.check_shares()

    @abstractmethod
    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """See :meth:`Method.named_variational`."""

    def own_state(self) -> dict[str, Tensor]:
        """Return the trained tensors as this rank holds them, for :meth:`by_name`."""
        return dict(self.named_variational())

    def by_name(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return :meth:`named_variational`, from the :meth:`own_state` of all ranks."""
        return dict(whole)

    @property
    def numbers(self) -> int:
        """Total size of the parameters, including the shares of other ranks."""
        return sum(p.numel() for p in self.parameters())

    def optimizer_numbers(self, name: str) -> int | None:
        """Number of values that this method's own optimiser keeps; None for torch's optimisers."""
        return None

    @property
    def drawn_numbers(self) -> int:
        """Number of weights that are drawn, i.e. that have a standard deviation."""
        spread = getattr(self, "log_std", None)
        return 0 if spread is None else spread.numel()
