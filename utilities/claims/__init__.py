"""Claims of papers, put to results: each says whether it holds on what was run, and on what evidence."""

from utilities.claims.claim import Claim, state_claims

__all__ = ["Claim", "state_claims"]
