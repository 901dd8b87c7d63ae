"""Deep ensembles: the members are the samples.

(Lakshminarayanan, Pritzel and Blundell 2017.) Each member starts from initial weights of its own
and sees, if ``augment.share = "sample"``, views of the batch of its own. With ``prior_std`` each
member is a maximum a posteriori estimate.
"""

from __future__ import annotations

from hpcsamp.methods.members import Members


class Ensemble(Members):
    """S networks that are trained beside each other and averaged in prediction.

    See :class:`~hpcsamp.methods.members.Members` for parameters.
    """
