"""The explorer without a browser: its widgets pressed by hand."""

import json
import time

import numpy as np
import pytest

from utilities.explorer import app, explore
from utilities.explorer.catalogue import count_layers, saved_similarities, weights_of
from utilities.explorer.heatmap import AnsweringHeatmap, describe_pair, less
from utilities.results.similarity import Similarity


def result(seed, rows="abcd", columns="uvwxyz", **facts):
    matrix = np.random.default_rng(seed).random((len(rows), len(columns)))
    matrix[0, 0] = np.nan
    return Similarity(matrix, list(rows), list(columns), 9, matrix / 100, provenance={"measure": "CKA", **facts})


@pytest.fixture
def explorer(tmp_path):
    result(0, model="one").save(tmp_path / "saved" / "one")
    result(1, model="two").save(tmp_path / "saved" / "two")
    result(2, rows="abc").save(tmp_path / "saved" / "other")
    return explore([tmp_path / "saved"], tmp_path / "new")


def wait(runner):
    for _ in range(1200):
        if runner.job is None:
            return
        time.sleep(0.1)
    raise TimeoutError(runner.text.value)


def test_it_opens_with_the_first_saved_result(explorer):
    assert explorer.saved.value.name == "one"
    assert explorer.heatmap.result.layers1 == list("abcd")
    assert explorer.images.run.disabled, "nobody knows by which models it was made"


def test_the_first_pair_is_not_a_layer_with_itself():
    shown = AnsweringHeatmap()
    shown.show(result(0, columns="abcd"))
    assert shown.pair == ("b", "c")
    shown.show(Similarity(np.eye(1), ["a"], ["a"], 9))
    assert shown.pair == ("a", "a")


def test_what_is_filled_later_is_told_again_to_a_page_that_was_still_loading(monkeypatch, tmp_path):
    assert app.AGAIN[0] > 0
    fill = app.Explorer._fill
    monkeypatch.setattr(app.Explorer, "_fill", lambda explorer: None)  # not by itself, in a thread
    monkeypatch.setattr(app, "AGAIN", (0,))
    explorer = explore([tmp_path], tmp_path / "new")
    told = []

    def listen(key=None):
        told.extend([] if key else [explorer.first.count.value])  # one value goes by its key, a whole state by none

    monkeypatch.setattr(explorer.first.count, "send_state", listen)
    fill(explorer)
    assert told == ["36 of 74 layers, the main ones"]


def test_a_click_reads_row_column_and_matches(explorer):
    shown, points = explorer.heatmap, type("Points", (), {"point_inds": [(2, 3)]})
    shown._from_click(None, points, None)
    assert shown.pair == ("c", "x")
    assert describe_pair(shown.result, 2, 3) in shown.readout.value
    row, column = shown.curves.children[0].data
    np.testing.assert_array_equal(row.y, shown.result.matrix[2])
    np.testing.assert_array_equal(column.y, shown.result.matrix[:, 3])
    best = shown.result.layers2[np.argmax(shown.result.matrix[2])]
    assert f"<li>{best}: {shown.result.matrix[2].max():.3f}</li>" in shown.matches.value
    (mark,) = shown.drawn.children[0].layout.shapes
    assert (mark.x0, mark.x1, mark.y0, mark.y1) == (2.5, 3.5, 1.5, 2.5)


def test_two_results_share_a_scale_and_a_difference_is_symmetric(explorer):
    explorer.beside.value = next(path for _, path in explorer.beside.options[1:] if path.name == "two")
    drawn = [figure.data[0] for figure in explorer.heatmap.drawn.children]
    assert len(drawn) == 2
    assert (drawn[0].zmin, drawn[0].zmax) == (drawn[1].zmin, drawn[1].zmax) == (0, 1)
    explorer.difference.value = True
    (figure,) = explorer.heatmap.drawn.children
    np.testing.assert_allclose(figure.data[0].z, result(0).matrix - result(1).matrix, rtol=1e-6)
    assert figure.data[0].zmin == -figure.data[0].zmax


def test_results_of_other_layers_have_no_difference(explorer):
    assert explorer.difference.disabled
    explorer.difference.value = True
    explorer.beside.value = next(path for _, path in explorer.beside.options[1:] if path.name == "other")
    assert explorer.difference.disabled
    assert len(explorer.heatmap.drawn.children) == 2


def test_another_result_of_the_same_layers_keeps_the_pair(explorer):
    explorer.heatmap.choose(3, 1)
    explorer.saved.value = next(path for _, path in explorer.saved.options if path.name == "two")
    assert explorer.heatmap.pair == ("d", "v")
    explorer.saved.value = next(path for _, path in explorer.saved.options if path.name == "other")
    assert explorer.heatmap.pair == ("b", "x")


def test_a_damaged_result_is_a_sentence(explorer):
    explorer.saved.options[1][1].with_suffix(".npz").write_bytes(b"no npz")
    explorer.saved.index = 1
    assert "damaged" in explorer.note.value


def test_missing_values_are_said_to_be_missing():
    assert describe_pair(result(0), 0, 0) == "a with u: missing"


def test_names_are_no_html():
    shown = AnsweringHeatmap()
    shown.show(Similarity(np.ones((1, 1)), ["<b>"], ["<i>"], 9, provenance={"model": "<u>", "weights": "<s>"}))
    said = "".join(box.value for box in (shown.readout, shown.matches, shown.caption))
    assert not {"<i>", "<u>", "<s>"} & set(said.split())
    assert "&lt;b&gt;" in shown.readout.value
    assert "<u>" not in shown.drawn.children[0].layout.title.text


def test_a_difference_needs_the_same_layers():
    with pytest.raises(ValueError, match="only results of the same layers"):
        less(result(0), result(0, rows="abc"))


def test_bad_choices_are_sentences(explorer):
    explorer.first.name.value = " "
    explorer.compare.run.click()
    assert "no name stands for model 1" in explorer.compare.text.value
    assert not explorer.compare.run.disabled
    explorer.first.name.value = "resnet19"
    assert "close: resnet18" in explorer.first.count.value
    explorer.first.name.value = "resnet18"
    explorer.first.layers.value = "layer9"
    assert "close: layer4" in explorer.first.count.value
    explorer.first.layers.value = ""
    explorer.analyses.choice.value = "lens"
    assert explorer.analyses._words()[-5] == "32", "the lens takes few images by itself"


def test_a_run_is_shown_kept_and_asked_for_its_images(explorer, tmp_path):
    explorer.first.name.value = "resnet18"
    explorer.first.layers.value = "layer?.?"
    assert explorer.first.count.value == "8 of 74 layers"
    explorer.data.count.value = 40
    explorer.compare.run.click()
    wait(explorer.compare)
    assert "done in" in explorer.compare.text.value
    assert explorer.saved.value.parent == tmp_path / "new"
    assert explorer.heatmap.result.n == 40
    assert "--layers1 'layer?.?'" in explorer.code.children[0].value
    explorer.images.run.click()
    wait(explorer.images)
    assert ["<figcaption>" in child.value for child in explorer.sheets.children] == [True] * 3
    explorer.export.click()
    written = sorted(path.suffix for path in (tmp_path / "new" / "exports").iterdir())
    assert written == [".csv", ".json", ".npz", ".pdf", ".png", ".svg"]
    again = explore([tmp_path / "new"], tmp_path / "new")
    assert not again.images.run.disabled, "how it was made is kept beside it"


def test_an_analysis_is_drawn(explorer):
    explorer.first.name.value = "vit_tiny_patch2_16"
    explorer.data.count.value = 12
    explorer.analyses.choice.value = "lens"
    explorer.analyses.runner.run.click()
    wait(explorer.analyses.runner)
    shown = explorer.analyses.found.children[0]
    shown.image.value, shown.block.index = 4, 1
    picture, tokens = (figure.data[0] for figure in shown.drawn.children)
    np.testing.assert_allclose(tokens.z, shown.result.image_map(shown.result.score[3, 0, 1]), rtol=1e-6)
    assert picture.z.shape == (16, 16, 3)


def test_weights_are_found_by_name_and_by_what_stands_beside_them(tmp_path):
    for name in ("resnet18_seed_0.pth", "resnet18_seed_0.resume.pth", "resnet180_seed_0.pth", "mine.pth"):
        (tmp_path / name).touch()
    (tmp_path / "mine.json").write_text(json.dumps({"name": "resnet18"}))
    labels = [label for label, _ in weights_of("resnet18", tmp_path)]
    assert labels == ["random", "mine.pth", "resnet18_seed_0.pth"]


def test_layers_of_a_users_model_are_counted_too(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    layer = torch.nn.Linear(2, 3)\n"
        "    assert layer.weight.sum().item() < 9\n"  # which needs numbers
        "    return torch.nn.Sequential(layer, torch.nn.ReLU())\n"
    )
    assert count_layers(f"{tmp_path / 'net.py'}:make", ["0"]) == "1 of 2 layers"
    assert count_layers("timm/vit_giant_patch14_dinov2", ["blocks.*.attn"]) == "40 of 891 layers"


def test_what_is_no_similarity_is_not_offered(tmp_path):
    (tmp_path / "a.json").write_text("[1")
    (tmp_path / "b.json").write_text('{"type": "Fourier"}')
    (tmp_path / "c.json").write_text('{"type": "Similarity"}')  # without its numbers
    assert saved_similarities([tmp_path]) == []
    assert "no result is saved" in explore([tmp_path]).note.value.lower()
