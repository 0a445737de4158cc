"""The verb ``evaluate``: loss and accuracy of models on a data set. Under torchrun the batches are shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from utilities.cli.arguments import options_of, parse
from utilities.cli.options import shared
from utilities.cli.user_errors import reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Where the table goes.

    Attributes:
        out: A CSV file; without it the table is printed alone.
        precision: exact: in the model's own, float32; half: the model in bfloat16.
        mirrored: Average the answers to each image and to its mirror image.
    """

    out: Path | None = None
    precision: Literal["exact", "half"] = "exact"
    mirrored: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Measure the cross-entropy and the accuracies of classifiers."
    options = [*shared(out=False), *options_of(Table)]
    given = parse(options, arguments or [], "python -m utilities evaluate", about, many="models")
    from utilities.cli.together import together

    with reporting(), together(given) as processes:
        import pandas as pd
        import torch

        from utilities.cli.opening import named_models, open_loader, open_model
        from utilities.datasets.images import refuse_mirror_images
        from utilities.results.writing import check_writable, write_whole
        from utilities.utils import evaluate
        from utilities.zoo.trained_on import refuse_other_classes

        if given.out is not None:
            if given.out.suffix.lower() != ".csv":
                raise ValueError(f"{given.out}: the table is written as .csv alone; choose that ending")
            check_writable(given.out)
        rows: list[dict] = []
        how = {"autocast": None if given.precision == "exact" else torch.bfloat16, "mirrored": given.mirrored}
        try:
            for named in named_models(given.models, given.model_seeds, given.seed):
                loader = open_loader(given, named)
                if given.mirrored:
                    refuse_mirror_images(loader.dataset)
                model, facts = open_model(named, loader.dataset.num_classes)
                refuse_other_classes(model, loader.dataset)
                about = {"dataset": f"{loader.dataset.name} ({loader.dataset.part})"}
                rows.append(facts | about | evaluate(model, loader, device=given.device, **how))
        finally:  # what was measured before a model failed is not lost
            if rows and processes.rank == 0:
                table = pd.DataFrame(rows)
                print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
                if given.out is not None:
                    write_whole(given.out, lambda path: table.to_csv(path, index=False))
                    print(f"wrote {given.out}")
