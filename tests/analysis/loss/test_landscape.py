"""The loss around trained weights: theory, brute force, and runs that are killed or shared."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utilities.analysis.loss import unfinished_landscape as module
from utilities.analysis.loss.directions import random_directions
from utilities.analysis.loss.grid_losses import duration, image_losses
from utilities.analysis.loss.landscape import Landscape, join_landscapes, loss_landscape
from utilities.claims.park_kim_2022.landscape import claims_of_landscape
from utilities.datasets import load_dataset, make_loader
from utilities.plots.loss.landscape import plot_contours, plot_cuts, plot_surfaces

QUIET = {"report": None, "progress": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def network(norm=True):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(6 * 36, 4))


def batches(n=24, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(n, 3, 8, 8, generator=generator), torch.randint(4, (n,), generator=generator)
    return list(zip(images.split(size), labels.split(size), strict=True))


def trained(model):
    """List the batch norm statistics that are not those of a fresh layer."""
    with torch.no_grad():
        for images, _ in batches(seed=9):
            model.train()(images * 2 + 1)
    return model


def test_the_centre_has_the_trained_loss():
    model = trained(network())
    result = loss_landscape(model, batches(), points=3, weight_decay=0.1, **QUIET)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in batches()])
    labels = torch.cat([labels for _, labels in batches()])
    assert result.nll[1, 1] == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    assert result.accuracy[1, 1] == (logits.argmax(1) == labels).double().mean().item()
    penalty = 0.05 * sum((p.detach().double() ** 2).sum().item() for p in model.parameters())
    assert result.l2[1, 1] == pytest.approx(penalty, rel=1e-9)
    assert result.total[1, 1] == result.nll[1, 1] + result.l2[1, 1]
    each = F.cross_entropy(logits, labels, reduction="none").double()
    assert result.stderr[1, 1] == pytest.approx(each.std().item() / np.sqrt(24), rel=1e-6)
    assert result.rise_stderr[1, 1] == 0


def test_all_points_are_those_of_weights_moved_by_hand():
    model = trained(network())
    result = loss_landscape(model, batches(), points=3, extent=0.5, seed=4, **QUIET)
    directions = random_directions(model, seed=4)
    first, second = directions.tensors("first"), directions.tensors("second")
    images, labels = (torch.cat(part) for part in zip(*batches(), strict=True))
    for row, b in enumerate((-0.5, 0.0, 0.5)):
        for column, a in enumerate((-0.5, 0.0, 0.5)):
            moved = {name: w + a * first[name] + b * second[name] for name, w in model.named_parameters()}
            logits = torch.func.functional_call(model.eval(), moved, images)
            loss = F.cross_entropy(logits, labels).item()
            assert result.nll[row, column] == pytest.approx(loss, abs=1e-5)  # float32, summed in another order


def test_two_runs_are_equal_bit_for_bit_and_another_seed_is_not():
    model = trained(network())
    one, again, other = (loss_landscape(model, batches(), points=3, seed=seed, **QUIET) for seed in (0, 0, 1))
    for name in ("nll", "l2", "accuracy", "stderr", "rise_stderr"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.nll, other.nll)


def test_augmented_images_are_the_same_at_every_point_and_in_the_next_call():
    data = load_dataset("digits", "train", n_images=40, augment=True)
    loader = make_loader(data, 20, shuffle="every_epoch")
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    one = loss_landscape(model, loader, points=3, **QUIET)
    assert loader.epoch == 0
    again = loss_landscape(model, loader, points=3, **QUIET)
    assert np.array_equal(one.nll, again.nll)
    loader.epoch = 1
    assert not np.array_equal(one.nll, loss_landscape(model, loader, points=3, **QUIET).nll)
    # A linear model's loss is convex along a line: noise of an augmentation of each point's own would show.
    line = loss_landscape(model, loader, points=21, extent=0.01, one_dimensional=True, **QUIET).nll[0]
    assert (np.diff(line, 2) > 0).all()


def test_batches_are_read_once_and_their_size_does_not_matter():
    class Once(list):
        reads = 0

        def __iter__(self):
            self.reads += 1
            yield from super().__iter__()

    model, whole, parts = trained(network()), Once(batches(size=24)), Once(batches(size=7))
    one, two = (loss_landscape(model, loader, points=3, **QUIET) for loader in (whole, parts))
    assert (whole.reads, parts.reads) == (1, 1)
    np.testing.assert_allclose(one.nll, two.nll, rtol=1e-6)  # float32 convolutions differ with the batch
    assert np.array_equal(one.accuracy, two.accuracy)


def test_a_linear_model_with_a_quadratic_loss_gives_a_parabola_with_the_curvature_dHd():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 12, generator=generator).double(), torch.randn(30, 3, generator=generator).double()
    squares = {"loss": lambda outputs, targets: ((outputs - targets) ** 2).sum(1)}
    result = loss_landscape(model, [(x, y)], points=9, extent=2.0, seed=2, **squares, **QUIET)
    hessian = 2 * x.T @ x / 30  # of each output's row of weights
    directions = random_directions(model, seed=2)
    d, e = (directions.tensors(which)["1.weight"] for which in ("first", "second"))
    h = 0.5
    expected = {0: (e @ hessian * e).sum().item() * h**2, 1: (d @ hessian * d).sum().item() * h**2}
    for axis, value in expected.items():
        np.testing.assert_allclose(np.diff(result.nll, 2, axis=axis), value, rtol=1e-9)
    crossed = np.diff(np.diff(result.nll, axis=0), axis=1)
    np.testing.assert_allclose(crossed, (d @ hessian * e).sum().item() * h**2, rtol=1e-8)
    curvature, error = result.curvature()
    assert curvature == pytest.approx((expected[0] + expected[1]) / 2 / h**2)
    assert error >= abs(expected[0] - expected[1]) / 2 / h**2
    assert np.isnan(result.accuracy).all()


def test_rescaled_filters_before_a_batch_norm_give_the_same_surface():
    """w_i -> c w_i leaves the function as it is, if the norm takes the batch's statistics, and so must the picture."""
    model, scaled = network().double(), network().double()
    with torch.no_grad():
        scaled[0].weight.mul_(torch.tensor([0.1, 3.0, 1.0, 20.0, 0.5, 7.0]).view(-1, 1, 1, 1))
    for norm in (model[1], scaled[1]):
        norm.eps = 1e-14  # the invariance is as good as eps is small beside the variance
    images = [(x.double(), y) for x, y in batches()]
    for how in ("batch", "estimate"):
        one, two = (loss_landscape(m, images, points=3, batch_norm=how, **QUIET) for m in (model, scaled))
        np.testing.assert_allclose(one.nll, two.nll, rtol=1e-9)
    trained_norms = [loss_landscape(m, images, points=3, **QUIET).nll for m in (model, scaled)]
    assert not np.allclose(*trained_norms, rtol=1e-2)


def test_estimated_batch_norms_are_those_of_the_frozen_images():
    """In one batch they are the batch's own, but for the unbiased variance; in several, an average by images."""
    model = trained(network())
    whole = batches(size=24)
    one, batch = (loss_landscape(model, whole, points=3, batch_norm=how, **QUIET) for how in ("estimate", "batch"))
    np.testing.assert_allclose(one.nll, batch.nll, rtol=5e-3)  # 864 values for each variance
    assert not np.allclose(one.nll, loss_landscape(model, whole, points=3, **QUIET).nll, rtol=5e-2)
    split = loss_landscape(model, batches(size=10), points=3, batch_norm="estimate", **QUIET)
    np.testing.assert_allclose(split.nll, one.nll, rtol=5e-2)


@pytest.mark.parametrize("batch_norm", ["trained", "batch", "estimate"])
def test_the_model_is_left_as_it_was(batch_norm):
    model = trained(network()).train()
    model[4].eval()
    model[1].momentum = 0.3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss_landscape(model, batches(), points=3, batch_norm=batch_norm, **QUIET)
    calls = []

    def fail_later(*_):
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt

    model[5].register_forward_hook(fail_later)
    with pytest.raises(KeyboardInterrupt):
        loss_landscape(model, batches(), points=3, batch_norm=batch_norm, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, True, True, True, False, True]
    assert (model[1].momentum, model[1].track_running_stats) == (0.3, True)


class Killed(Exception):
    pass


def killed_after(model, count):
    """Let the forward pass of the batch with this number fail."""
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) > count:
            raise Killed

    return model.register_forward_hook(hook)


def test_a_killed_run_goes_on_and_ends_as_if_in_one_go(tmp_path):
    model, path = trained(network()), tmp_path / "deep" / "run"
    whole = loss_landscape(model, batches(), points=3, **QUIET)
    handle = killed_after(model, 1 + 3 + 4 * 3 + 1)  # a look, the centre, four points, and a third of the fifth
    with pytest.raises(Killed):
        loss_landscape(model, batches(), points=3, resume=path, **QUIET)
    handle.remove()
    assert [p.name for p in path.parent.iterdir()] == ["run.points0.npz"]
    lines, handle = [], killed_after(model, 1 + 3 + 5 * 3)  # not one pass more than the other points need
    result = loss_landscape(model, batches(), points=3, resume=path, **QUIET | {"report": lines.append})
    handle.remove()
    assert "5 points on 24 images, after 4 that are done" in lines[0]
    for name in ("nll", "accuracy", "stderr", "rise_stderr", "l2"):
        assert np.array_equal(getattr(result, name), getattr(whole, name))
    assert not list(path.parent.iterdir())


def test_several_models_go_on_from_one_path(tmp_path):
    for name in ("cnn", "timm/vit"):
        model = trained(network())
        handle = killed_after(model, 10)
        with pytest.raises(Killed):
            loss_landscape(model, batches(), points=3, resume=tmp_path / "run", provenance={"model": name}, **QUIET)
        handle.remove()
    assert {p.name for p in tmp_path.iterdir()} == {"run.cnn.points0.npz", "run.timm-vit.points0.npz"}
    loss_landscape(model, batches(), points=3, resume=tmp_path / "run", provenance={"model": name}, **QUIET)
    assert {p.name for p in tmp_path.iterdir()} == {"run.cnn.points0.npz"}


def test_another_run_is_not_gone_on_with(tmp_path):
    model, path = trained(network()), tmp_path / "run"
    handle = killed_after(model, 10)
    with pytest.raises(Killed):
        loss_landscape(model, batches(), points=3, resume=path, **QUIET)
    handle.remove()
    others = [{"seed": 1}, {"points": 5}, {"extent": 2.0}, {"batch_norm": "batch"}, {"n_images": 16}]
    others += [{"orthogonal": True}, {"loss": lambda logits, targets: image_losses(logits, targets) * 2}]
    for other in others:
        with pytest.raises(ValueError, match=r"run.points0.npz holds points of another run"):
            loss_landscape(model, batches(), resume=path, **{"points": 3, **other}, **QUIET)
    with pytest.raises(ValueError, match="another run"):
        loss_landscape(model, batches(seed=5), points=3, resume=path, **QUIET)
    with torch.no_grad():
        model[5].bias[0] += 1e-3
    with pytest.raises(ValueError, match="another run"):
        loss_landscape(model, batches(), points=3, resume=path, **QUIET)
    (tmp_path / "run.points0.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"run.points0.npz is damaged; delete it"):
        loss_landscape(model, batches(), points=3, resume=path, **QUIET)


def test_parts_joined_are_one_go(tmp_path):
    model = trained(network())
    whole = loss_landscape(model, batches(), points=3, weight_decay=0.1, **QUIET)
    options = {"points": 3, "weight_decay": 0.1, "resume": tmp_path / "run", **QUIET}
    parts = [loss_landscape(model, batches(), part=(i, 4), **options) for i in (2, 0, 3, 1)]
    assert [int(np.isfinite(part.nll).sum()) for part in parts] == [2, 3, 2, 2]
    joined = join_landscapes(parts)
    assert len(list(tmp_path.iterdir())) == 4
    collected = loss_landscape(model, batches(), **options)  # from the files that the parts left
    for result in (joined, collected):
        for name in ("nll", "accuracy", "stderr", "rise_stderr", "l2"):
            assert np.array_equal(getattr(result, name), getattr(whole, name))
        assert result.provenance == whole.provenance
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"parts 0 to 3 of 4 are needed, once each; got \[\(0, 4\), \(2, 4\)\]"):
        join_landscapes(parts[:2])
    other = loss_landscape(model, batches(seed=3), points=3, part=(1, 4), **QUIET)
    with pytest.raises(ValueError, match="part 1 belongs to another run"):
        join_landscapes([*parts[:3], other])
    with pytest.raises(ValueError, match="no parts"):
        join_landscapes([])


def test_points_are_saved_now_and_then(tmp_path, monkeypatch):
    model, seen = network(), []
    files = module.UnfinishedLandscape
    original = files.save
    monkeypatch.setattr(files, "save", lambda self, done: (seen.append(len(done)), original(self, done)))
    monkeypatch.setattr(files, "seconds_between", 0)
    loss_landscape(model, batches(), points=3, one_dimensional=True, resume=tmp_path / "run", **QUIET)
    assert seen == [1, 2, 3, 3]


def test_mixed_images_with_soft_targets():
    mixup = pytest.importorskip("timm.data").Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=4)
    model, given = trained(network()), batches()
    copies = [images.clone() for images, _ in given]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, again = (loss_landscape(model, given, points=3, mix=mixup, **QUIET) for _ in range(2))
    other = loss_landscape(model, given, points=3, mix=mixup, seed=1, **QUIET)
    assert np.array_equal(one.nll, again.nll)
    assert one.nll[1, 1] != other.nll[1, 1]
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert all(torch.equal(copy, images) for copy, (images, _) in zip(copies, given, strict=True))
    assert one.provenance["mix"] == "Mixup"
    probabilities = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    logits = torch.randn(2, 2)
    torch.testing.assert_close(
        image_losses(logits, probabilities), F.cross_entropy(logits.double(), probabilities, reduction="none")
    )


def test_the_loss_is_finite_where_probabilities_underflow():
    losses = image_losses(torch.tensor([[0.0, 3e4], [0.0, -3e38]]), torch.tensor([0, 1]))
    assert losses.tolist() == [3e4, pytest.approx(3e38)]


def test_overflowing_points_are_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight.fill_(1e30)
        model[2].weight.fill_(1e8)
    images = [(torch.full((2, 1, 2, 2), 1e-20), torch.tensor([0, 1]))]
    with pytest.warns(UserWarning, match=r"of 3 points have no finite loss"):
        loss_landscape(model, images, points=3, extent=1e9, one_dimensional=True, **QUIET)


def test_the_time_is_told_before():
    lines = []
    loss_landscape(network(), batches(), points=3, **QUIET | {"report": lines.append})
    assert lines == ["loss landscape: 9 points on 24 images: about 1 s"]
    assert [duration(s) for s in (3, 99.5, 600, 7200)] == ["3 s", "100 s", "10 min", "2.0 h"]


def test_it_comes_back_from_disk_and_as_a_table(tmp_path):
    facts = {"model": "cnn", "seed": 7}
    options = {"points": 3, "weight_decay": 0.1, "one_dimensional": True, "seed": 3}
    result = loss_landscape(network(), batches(), provenance=facts, **options, **QUIET)
    loaded = Landscape.load(result.save(tmp_path / "landscape"))
    assert loaded.provenance == result.provenance
    expected = {
        "model": "cnn",
        "seed": 7,
        "direction_seed": 3,
        "n": 24,
        "batch_norm": "trained",
        "directions": "random",
    }
    assert expected.items() <= result.provenance.items()
    frame = loaded.to_frame()
    assert frame["x"].tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(frame["total"], result.nll[0] + result.l2[0])


def test_given_directions_are_used():
    model = network()
    directions = random_directions(model, seed=6)
    given = loss_landscape(model, batches(), points=3, directions=directions, **QUIET)
    assert np.array_equal(given.nll, loss_landscape(model, batches(), points=3, seed=6, **QUIET).nll)
    assert given.provenance["direction_seed"] == 6


def test_rise_holds_both_errors():
    x = np.linspace(-1, 1, 5)
    nll = x[None, :] ** 2 + 3 * x[:, None] ** 2
    error = np.full((5, 5), 0.1)
    surface = Landscape(x, x, nll, error, error, error, 2 * nll, 10)
    assert surface.rise(1.0) == (2.0, pytest.approx(np.hypot(0.1, 1.0)))  # directions rise by 1 and 3
    assert surface.rise(0.75)[0] == pytest.approx((0.25 + 1) / 2 * 2)  # halfway between two points
    assert surface.rise(1.0, of="l2") == (4.0, 2.0)
    assert surface.rise(1.0, of="total")[0] == 6.0
    assert surface.curvature()[0] == pytest.approx(4.0)
    with pytest.raises(ValueError, match="radius=2 should be a number above 0 and at most 1"):
        surface.rise(2)
    with pytest.raises(ValueError, match="surface 'loss' is not known; choose from nll, l2, total"):
        surface.rise(of="loss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 4}, "points=4 should be odd"),
        ({"points": 1}, "points=1 should be a whole number, 3 or more"),
        ({"extent": 0.0}, r"extent=0\.0 should be a number above 0"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0 should be a number of 0 or more"),
        ({"batch_norm": "running"}, "batch_norm 'running' is not known; choose from trained, batch, estimate"),
        ({"part": (2, 2)}, r"part=\(2, 2\) should be \(index, count\)"),
        ({"n_images": 99}, "n_images=99 is more than the 24 that the loader yields"),
        ({"memory": 1e-6}, "more than memory=1e-06; use fewer with n_images"),
        ({"loss": F.cross_entropy}, r"loss should give each image's loss, shape \(8,\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        loss_landscape(network(), batches(), **{"points": 3, **options}, **QUIET)


def test_bad_data_and_models():
    images, labels = batches()[0]
    with pytest.raises(ValueError, match="labels are needed"):
        loss_landscape(network(), [images], **QUIET)
    with pytest.raises(ValueError, match="label 4 is none of the model's 4 classes"):
        loss_landscape(network(), [(images, labels + 7 - labels.max())], **QUIET)

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="the model gives a tuple"):
        loss_landscape(Pair(8, 4), [(images, labels)], **QUIET)


def test_only_the_first_images_are_used():
    model = trained(network())
    some = loss_landscape(model, batches(), n_images=11, points=3, **QUIET)
    images, labels = (torch.cat(part)[:11] for part in zip(*batches(), strict=True))
    whole = loss_landscape(model, [(images, labels)], points=3, **QUIET)
    assert some.n == 11
    np.testing.assert_allclose(some.nll, whole.nll, rtol=1e-6)


TRAINED = {"weights": "trained for 9 epochs", "accuracy": 0.97}


def bowl(depth, saturation=np.inf, penalty=1.0, error=0.01):
    x = np.linspace(-1, 1, 9)
    nll = np.minimum(depth * (x[:, None] ** 2 + x**2), saturation)
    none = np.full_like(nll, error)
    return Landscape(x, x, nll, none, none, none, penalty * (1 + x[:, None] ** 2 + x**2), 100, TRAINED)


def verdicts(**models):
    names = {"cnn": "resnet18", "hybrid": "alternet18", "vit": "vit_tiny_patch2_16"}
    return [claim.holds for claim in claims_of_landscape({names[key]: one for key, one in models.items()})]


def test_claims_follow_the_numbers():
    assert verdicts(cnn=bowl(10), hybrid=bowl(5), vit=bowl(1)) == [True, True, True]
    assert verdicts(cnn=bowl(1), hybrid=bowl(5), vit=bowl(10)) == [False, False, False]
    assert verdicts(cnn=bowl(10), hybrid=bowl(20), vit=bowl(1)) == [True, True, False]
    assert verdicts(cnn=bowl(1), hybrid=bowl(1), vit=bowl(1)) == [None, None, None]
    assert verdicts(cnn=bowl(10, error=50), vit=bowl(1, error=50)) == [None, None, None]
    # steeper near the centre and flatter far away: neither
    assert verdicts(cnn=bowl(10), vit=bowl(50, saturation=5)) == [None, None, None]
    # a penalty alone can turn the sum round
    assert verdicts(cnn=bowl(10, penalty=1), vit=bowl(1, penalty=30))[:2] == [True, False]
    assert verdicts(cnn=bowl(10, penalty=0), vit=bowl(1, penalty=0))[:2] == [True, None]
    assert verdicts(cnn=bowl(10)) == [None, None, None]


def test_batch_norms_estimated_anew_are_judged_apart():
    kept, estimated = ({"resnet18": bowl(depth), "vit_tiny_patch2_16": bowl(5)} for depth in (100, 1))
    claims = claims_of_landscape(kept, estimated)
    assert [claim.holds for claim in claims] == [True, True, None, False]
    assert "estimated anew" in claims[3].claim


def test_claims_say_what_they_were_judged_by():
    nll, total, between = claims_of_landscape({"resnet18": bowl(10), "vit_tiny_patch2_16": bowl(1)})
    assert "at 0.25 CNN 0.625 ± 0.01, ViT 0.0625 ± 0.01" in nll.found
    assert "curvature at the centre: CNN 20 ±" in nll.found
    assert "share of the penalty at 1: CNN 9%, ViT 50%" in total.found
    assert between.found == "no hybrid was run"


def test_drawings_show_the_numbers():
    results = {"resnet18": bowl(10), "vit_tiny_patch2_16": bowl(1)}
    figure = plot_contours(results)
    panels = figure.axes[:6]
    assert [ax.get_title().splitlines()[1] for ax in panels[:3]] == [
        "NLL, 0 at the centre",
        "L2 penalty, 1 at the centre",
        "NLL + L2, 1 at the centre",
    ]
    assert {ax.get_aspect() for ax in panels} == {1.0}
    assert panels[3].get_xlabel() == "direction 1 (filter-normalised)"
    assert len({(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in panels}) == 1
    assert len(plot_contours(bowl(1, penalty=0)).axes) == 2
    surfaces = plot_surfaces(results, top=5).axes
    assert [ax.get_zlim() for ax in surfaces] == [(0.0, 5.0)] * 2
    left, right = plot_cuts(results).axes
    assert left.lines[0].get_ydata().tolist() == results["resnet18"].nll[4].tolist()
    assert right.get_ylabel() == "accuracy"
    assert [plot_cuts(bowl(height)).axes[0].get_yscale() for height in (1, 100)] == ["linear", "log"]
    assert "vit_tiny_patch2_16" in [line.get_label() for line in left.lines]


def test_a_line_has_no_contours():
    whole = bowl(1)
    row = {name: getattr(whole, name)[4:5] for name in ("nll", "stderr", "rise_stderr", "accuracy", "l2")}
    line = Landscape(x=whole.x, y=np.zeros(1), n=100, **row)
    for draw in (plot_contours, plot_surfaces):
        with pytest.raises(ValueError, match="a landscape along one direction is a line; draw it with plot_cuts"):
            draw({"line": line})
    with pytest.raises(ValueError, match="surface 'loss' is not known"):
        plot_surfaces(whole, of="loss")
    assert len(plot_cuts(line).axes) == 2
    assert "one direction" in claims_of_landscape({"resnet18": line, "vit_tiny_patch2_16": line})[0].found


def test_a_run_is_the_same_run_with_another_number_of_threads(tmp_path):
    """Sums over a million weights differ in their last digits; parts of a run may have other threads than the whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.Linear(1000, 4))
    batch = torch.randn(4, 1, 4, 4), torch.arange(4)
    options = {"points": 3, "one_dimensional": True, "resume": tmp_path / "run", **QUIET}
    before, runs = torch.get_num_threads(), []
    try:
        for part, threads in ((0, 1), (1, 2)):
            torch.set_num_threads(threads)
            runs.append(loss_landscape(model, [batch], part=(part, 2), **options).provenance["run"])
        whole = loss_landscape(model, [batch], **options)  # finds the points of both
    finally:
        torch.set_num_threads(before)
    assert set(runs) == {whole.provenance["run"]}
    assert np.isfinite(whole.nll).all()
