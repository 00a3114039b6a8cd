"""The training step: by default the plain one, bit for bit; and each option beside what it stands for."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F

from preprocess.errors import UsageError
from tests.v4d.synthetic import noise
from v4d.losses import AllLabels, FirstLabel
from v4d.mixing import Mixing, draw_mixing, partners
from v4d.recipes.files import load_recipe
from v4d.schedule import learning_rate
from v4d.step import Learner, build, distributed_norms

CPU = torch.device("cpu")
TINY = ("model.base_width=4", "data.train_crop=32", "data.frames=2", "train.global_batch=4")
ALL_STAGES = 'train.checkpoint_stages=["stem","res2","res3","res4","res5"]'


def learner(*settings):
    recipe = load_recipe("demo", (*TINY, *settings))
    model, optimizer = build(recipe, 5, CPU)
    return recipe, model, Learner(recipe, model, optimizer), optimizer


def taught(*settings, steps=3, evaluating=False, labels=None):
    """The losses of some steps, and the model after them."""
    recipe, model, learns, _ = learner(*settings)
    model.train(not evaluating)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        losses.append(learns.step(noise(recipe, seed=step, labels=labels), step, 4).loss.item())
    return losses, model


def assert_same(ours, theirs, **tolerance):
    theirs = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if tolerance:
            torch.testing.assert_close(value, theirs[name], msg=name, **tolerance)
        else:
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    "settings", [(), ("model.dropout=0.3",), ("train.channels_last=false", "optim.nesterov=false")]
)
def test_by_default_it_is_the_plain_step(settings):
    losses, model = taught(*settings)
    recipe = load_recipe("demo", (*TINY, *settings))
    plain, optimizer = build(recipe, 5, CPU)
    for step in range(3):
        torch.manual_seed(step)
        batch = noise(recipe, seed=step)
        x = batch.x if recipe.train.channels_last else batch.x.contiguous()
        loss = F.cross_entropy(plain(x, 4), batch.labels_B, ignore_index=-1, reduction="sum") / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert losses[step] == loss.item()
    assert_same(model, plain)


def test_what_a_step_says():
    recipe, model, learns, _ = learner()
    before = copy.deepcopy(model)
    batch = noise(recipe, labels=((0,), (1,), (), (3,)))
    learned = learns.step(batch, 0, 3)
    logits = before(batch.x, 4)
    loss = F.cross_entropy(logits[[0, 1, 3]], torch.tensor([0, 1, 3]))
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in before.parameters()))
    assert learned.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert learns.gradient_norm().item() == pytest.approx(norm, rel=1e-4)
    assert learned.correct == sum(int(logits[i].argmax()) == i for i in (0, 1, 3))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 7])
def test_a_batch_in_parts_is_the_whole_batch(micro_batch):
    """With norms that do not look at the batch."""
    settings = ("optim.lr=0.05", "optim.clip_norm=1.0")
    labels = ((0,), (), (2,), (1,))
    whole, theirs = taught(*settings, evaluating=True, labels=labels)
    losses, model = taught(*settings, f"train.micro_batch={micro_batch}", evaluating=True, labels=labels)
    assert losses == pytest.approx(whole, rel=1e-5)
    assert_same(model, theirs, rtol=1e-4, atol=1e-6)


def test_parts_are_normalised_each_by_itself():
    """As the shares of several processes are: so micro-batches on one GPU are the run on several."""
    recipe, model, learns, _ = learner("train.micro_batch=2")
    batch = noise(recipe)
    before = copy.deepcopy(model)
    learned = learns.step(batch, 0, 4)
    halves = zip(batch.x.chunk(2), batch.labels_B.chunk(2), strict=True)
    loss = sum(F.cross_entropy(before(x, 4), labels, reduction="sum") for x, labels in halves) / 4
    assert learned.loss.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("settings", [(), ("model.block_4d=nonlocal",), ("train.micro_batch=2", "train.loss=sigmoid")])
def test_recomputed_stages_change_nothing(settings):
    losses, model = taught(*settings)
    again, recomputed = taught(*settings, ALL_STAGES)
    assert again == losses
    # Norms' statistics among it.
    assert_same(recomputed, model)


def test_stages_are_recomputed_as_asked():
    recipe, model, learns, _ = learner('train.checkpoint_stages=["res3"]')
    calls = []
    for name, layer in model.layers.items():
        layer.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    learns.step(noise(recipe), 0, 4)
    assert sorted(name for name in set(calls) if calls.count(name) == 2) == ["res3_0", "res3_1", "res3_1_4d"]
    with torch.no_grad():
        model(noise(recipe).x, 4)


def test_a_large_gradient_is_clipped():
    _, model, learns, optimizer = learner("optim.clip_norm=0.01", "optim.weight_decay=0", "optim.momentum=0.5")
    optimizer.param_groups[0].update(lr=1.0, momentum=0.0, nesterov=False)
    before = [p.detach().clone() for p in model.parameters()]
    learns.step(noise(load_recipe("demo", TINY)), 0, 4)
    after = [p.detach() for p in model.parameters()]
    moved = math.sqrt(sum(float((p - b).square().sum()) for p, b in zip(after, before, strict=True)))
    assert learns.gradient_norm() > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_frozen_parameters_stay():
    recipe, model, learns, _ = learner("optim.frozen=['layers.*_4d.*', 'layers.stem.*']", "optim.weight_decay=0.1")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for step in range(3):
        learns.step(noise(recipe, seed=step), step, 4)
    for name, value in model.named_parameters():
        frozen = "_4d." in name or ".stem." in name
        assert torch.equal(value, before[name]) == frozen, name


def test_4d_blocks_held_at_zero_are_not_there():
    """The second stage on Kinetics: V4D that is TSN on its 3D network, and stays it."""
    settings = ("optim.frozen=['layers.*_4d.*']", "model.norm_init_4d=0")
    recipe, model, learns, _ = learner(*settings)
    for step in range(2):
        learns.step(noise(recipe, seed=step), step, 4)
    tsn, _ = build(load_recipe("demo", (*TINY, "model.blocks_4d=[]")), 5, CPU)
    tsn.load_state_dict({name: value for name, value in model.state_dict().items() if "_4d." not in name})
    x = noise(recipe, seed=9).x
    assert torch.equal(model.eval()(x, 4), tsn.eval()(x, 4))


@pytest.mark.parametrize(
    ("frozen", "says"),
    [
        ("layers.res3_1_4d.conv.wieght", "no parameter is named .* .did you mean 'layers.res3_1_4d.conv.weight'"),
        ("*", "holds all parameters"),
    ],
)
def test_patterns_of_frozen_parameters_must_fit(frozen, says):
    with pytest.raises(UsageError, match=says):
        learner(f"optim.frozen=['{frozen}']")


def test_norms_and_biases_decay_as_asked():
    _, model, _, optimizer = learner("optim.decay_norms=false", "optim.weight_decay=0.1")
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decayed[id(parameter)] == (0.0 if "norm" in name or parameter.ndim == 1 else 0.1), name
    _, model, _, optimizer = learner("optim.weight_decay=0.1")
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.1


def test_the_moving_average():
    recipe, model, learns, _ = learner("train.ema=0.75")
    assert learns.network is not model
    expected = None
    for step in range(3):
        learns.step(noise(recipe, seed=step), step, 4)
        now = {name: v.clone() for name, v in model.state_dict().items() if v.is_floating_point()}
        expected = now if expected is None else {name: 0.75 * expected[name] + 0.25 * v for name, v in now.items()}
    found = learns.network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert not torch.equal(found["classifier.weight"], now["classifier.weight"])


@pytest.mark.parametrize("settings", [("train.ema=0.75",), ("train.precision=fp16",), ("train.ema=0.5", ALL_STAGES)])
def test_it_goes_on_where_it_was(settings):
    recipe, model, learns, optimizer = learner(*settings)
    for step in range(2):
        learns.step(noise(recipe, seed=step), step, 4)
    kept = io.BytesIO()
    torch.save([learns.network.state_dict(), optimizer.state_dict(), learns.state_dict()], kept)
    kept.seek(0)
    weights, state, extras = torch.load(kept, weights_only=True)
    model_2, optimizer_2 = build(recipe, 5, CPU)
    model_2.load_state_dict(weights)
    optimizer_2.load_state_dict(state)
    again = Learner(recipe, model_2, optimizer_2)
    again.load_state_dict(extras)
    for step in range(2, 4):
        one, other = (learns_.step(noise(recipe, seed=step), step, 4) for learns_ in (learns, again))
        assert one.loss == other.loss
    assert_same(model_2, model)
    assert_same(again.network, learns.network)
    assert again.state_dict().keys() == extras.keys()


def test_there_is_nothing_more_to_keep_by_default():
    _, model, learns, _ = learner()
    assert learns.network is model
    assert learns.state_dict() == {}


def test_half_precision_is_scaled():
    recipe, _, learns, _ = learner("train.precision=fp16", "optim.clip_norm=100")
    losses = [learns.step(noise(recipe), step, 4) for step in range(4)]
    assert learns.state_dict()["scaler"]["scale"] == 2.0**16
    # The gradient's norm is not that of the scaled one.
    assert 0.1 < learns.gradient_norm() < 100
    plain, _ = taught(steps=1)
    assert losses[0].loss.item() == pytest.approx(plain[0], rel=0.01)
    assert losses[-1].loss < losses[0].loss


def test_norms_of_several_processes_want_gpus():
    _, model, _, _ = learner()
    distributed_norms(model, 1, CPU)
    assert type(model.layers["res2_0"].norm1) is torch.nn.BatchNorm3d
    with pytest.raises(UsageError, match="sync_norm works on GPUs"):
        distributed_norms(model, 2, CPU)
    distributed_norms(model, 2, torch.device("cuda"))
    assert type(model.layers["res3_1_4d"].norm) is torch.nn.SyncBatchNorm


def test_the_rate_grows_with_the_global_batch():
    recipe = load_recipe("mini_v4d_r18", ("optim.lr_per=16", "optim.warmup_epochs=1"))
    assert learning_rate(recipe, 10, 10) == pytest.approx(0.04)
    assert learning_rate(recipe, 0, 10) == pytest.approx(0.004)
    assert learning_rate(recipe, 350, 10) == pytest.approx(0.004)
    assert learning_rate(load_recipe("mini_v4d_r18"), 10, 10) == 0.01


# Losses


def test_smoothed_labels():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, -1, 2])
    targets = torch.zeros(4, 5).scatter_(1, labels.clamp(0)[:, None], 0.8) + 0.04
    by_hand = -(targets * logits.log_softmax(1)).sum(1)[[0, 1, 3]].sum()
    torch.testing.assert_close(FirstLabel(labels, 0.2).loss(logits), by_hand)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_all_labels_of_a_video(smoothing):
    recipe = load_recipe("demo", TINY)
    batch = noise(recipe, labels=((0, 3), (4,), (), (1, 2, 3)))
    targets = batch.targets_BK(5)
    assert targets.tolist() == [[1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5, [0, 1, 1, 1, 0]]
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    logits[2] = math.inf
    smooth = targets * (1 - smoothing) + smoothing / 5
    counted = [0, 1, 3]
    p = logits.sigmoid()
    by_hand = -(smooth * p.log() + (1 - smooth) * (1 - p).log())[counted].sum()
    torch.testing.assert_close(AllLabels(targets, smoothing).loss(logits), by_hand)


def test_a_hit_is_any_label():
    scores = torch.eye(5)[[3, 0, 2, 2]]
    labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5, [0, 1, 1, 1, 0]]).float()
    assert AllLabels(labels).hits(scores).tolist() == [True, False, False, True]
    assert FirstLabel(torch.tensor([3, 4, -1, 1])).hits(scores).tolist() == [True, False, False, False]


# Mixing


def test_partners_are_videos_with_labels():
    assert partners(torch.tensor([5, 6, 7, 8])).tolist() == [3, 2, 1, 0]
    assert partners(torch.tensor([5, -1, 7, 8, -1, 9])).tolist() == [5, 1, 3, 2, 4, 0]
    assert partners(torch.tensor([5, 6, -1, 8])).tolist() == [3, 1, 2, 0]


def test_mixing_is_drawn_from_seed_and_step_alone():
    config = load_recipe("demo", ("train.mixup=0.4", "train.cutmix=1.0")).train
    drawn = [draw_mixing(config, step, (48, 48)) for step in range(200)]
    torch.manual_seed(7)
    assert [draw_mixing(config, step, (48, 48)) for step in range(200)] == drawn
    other = config.model_copy(update={"seed": 1})
    assert [draw_mixing(other, step, (48, 48)) for step in range(200)] != drawn
    cut = [mixing for mixing in drawn if mixing.box]
    assert 60 < len(cut) < 140
    for share, (top, left, bottom, right) in ((mixing.share, mixing.box) for mixing in cut):
        assert 0 <= top <= bottom <= 48 and 0 <= left <= right <= 48
        assert share == 1 - (bottom - top) * (right - left) / 48**2
    blends = [mixing.share for mixing in drawn if not mixing.box]
    # Beta(0.4, 0.4): mean 1/2, and more at the ends than in the middle.
    assert 0.35 < sum(blends) / len(blends) < 0.65
    assert sum(abs(share - 0.5) > 0.25 for share in blends) > len(blends) / 2
    assert draw_mixing(load_recipe("demo").train, 0, (48, 48)) is None


def test_whole_videos_are_mixed():
    recipe = load_recipe("demo", TINY)
    x = noise(recipe).x
    kept = x.clone()
    videos = x.unflatten(0, (4, 4)).float()
    order = torch.tensor([3, 1, 2, 0])
    mixed = Mixing(0.75).pixels(x, order)
    torch.testing.assert_close(mixed.unflatten(0, (4, 4)), 0.75 * videos + 0.25 * videos[order])
    assert mixed.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(mixed[4:12], x[4:12].float())

    boxed = Mixing(0.5, (4, 8, 20, 32)).pixels(x, order)
    assert boxed.dtype == torch.uint8 and boxed.is_contiguous(memory_format=torch.channels_last_3d)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[4:20, 8:32] = True
    assert torch.equal(boxed.unflatten(0, (4, 4)).float(), torch.where(inside, videos[order], videos))
    # The loader's pixels stay as they are.
    assert torch.equal(x, kept)


@pytest.mark.parametrize("option", ["train.mixup=1.0", "train.cutmix=1.0"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_mixed_videos_are_told_for_both_labels(option, loss):
    settings = (option, f"train.loss={loss}")
    labels = ((0,), (1, 2), (), (3,))
    recipe, model, learns, _ = learner(*settings)
    before = copy.deepcopy(model)
    batch = noise(recipe, labels=labels)
    learned = learns.step(batch, 5, 3)
    mixing = draw_mixing(recipe.train, 5, (32, 32))
    order = partners(batch.labels_B)
    assert order.tolist() == [3, 1, 2, 0] and 0.01 < mixing.share < 0.99
    logits = before(mixing.pixels(batch.x, order), 4)
    targets = batch.targets_BK(5) if loss == "sigmoid" else torch.eye(5)[batch.labels_B.clamp(0)]
    soft = mixing.share * targets + (1 - mixing.share) * targets[order]
    counted = [0, 1, 3]
    if loss == "softmax":
        by_hand = F.cross_entropy(logits[counted], soft[counted], reduction="sum") / 3
    else:
        by_hand = F.binary_cross_entropy_with_logits(logits[counted], soft[counted], reduction="sum") / 3
    assert learned.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_mixing_goes_with_parts():
    settings = ("train.mixup=1.0", "optim.lr=0.05")
    whole, theirs = taught(*settings, evaluating=True)
    losses, model = taught(*settings, "train.micro_batch=1", evaluating=True)
    assert losses == pytest.approx(whole, rel=1e-5)
    assert_same(model, theirs, rtol=1e-4, atol=1e-6)
