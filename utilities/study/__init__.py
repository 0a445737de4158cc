"""What notebooks share: profiles, the studies of one model and of several, and what their results say in words.

`study` trains, compares and saves one model, `group` several, `comparisons` goes beyond pairs, `real_weights` opens
models that others have trained, `layer_probes` fits probes to both, `profiles` holds the settings, `wording` the
sentences.
"""

from utilities.study.comparisons import across_datasets, teach, under_every_measure
from utilities.study.group import Group, each_pair, save_all, split_off
from utilities.study.layer_probes import probe_group_layers, probe_opened
from utilities.study.local_heads import heads_against_cnn
from utilities.study.probe_head import lens_through_probe
from utilities.study.real_weights import analyse_opened, compare_opened, open_models, own_dataset, real_images
from utilities.study.saved_findings import findings
from utilities.study.saving import Output
from utilities.study.study import Study
from utilities.study.wording import describe

__all__ = [
    "Group",
    "Output",
    "Study",
    "across_datasets",
    "analyse_opened",
    "compare_opened",
    "describe",
    "each_pair",
    "findings",
    "heads_against_cnn",
    "lens_through_probe",
    "open_models",
    "own_dataset",
    "probe_group_layers",
    "probe_opened",
    "real_images",
    "save_all",
    "split_off",
    "teach",
    "under_every_measure",
]
