"""Claims of papers, put to results: each says whether it holds on what was run, and on what evidence.

`park_kim_2022` and `vilas_2023` hold the claims of one paper each, `claim` what they share, `evidence` what a verdict
asks of the models behind it.
"""

from utilities.claims.claim import Claim, state_claims

__all__ = ["Claim", "state_claims"]
