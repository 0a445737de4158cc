"""What notebooks share: profiles, the studies of one model and of several, and what their results say in words.

`study` trains, compares and saves one model, `group` several, `comparisons` goes beyond pairs, `profiles` holds the
settings, `wording` the sentences.
"""

from utilities.study.comparisons import across_datasets, teach, under_every_measure
from utilities.study.group import Group, each_pair, save_all, split_off
from utilities.study.study import Study
from utilities.study.wording import describe

__all__ = [
    "Group",
    "Study",
    "across_datasets",
    "describe",
    "each_pair",
    "save_all",
    "split_off",
    "teach",
    "under_every_measure",
]
