"""ResNets of other projects, written plainly: a random state dict in each project's names, and what it computes.

Names and strides are stated here anew, from the projects' sources, and share nothing with v4d's. The stride of a
bottleneck lies in its 3×3 convolution everywhere (torchvision's v1.5, STRIDE_1X1: False, style="pytorch").
"""

import itertools

import torch
import torch.nn.functional as F

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
GREY = ([0.45 * 255] * 3, [0.225 * 255] * 3)
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def torchvision(part, stage=0, block=0, conv=0):
    return {
        "stem": ("conv1", "bn1"),
        "conv": (f"layer{stage}.{block}.conv{conv}", f"layer{stage}.{block}.bn{conv}"),
        "shortcut": (f"layer{stage}.{block}.downsample.0", f"layer{stage}.{block}.downsample.1"),
        "classifier": "fc",
    }[part]


def pytorchvideo(part, stage=0, block=0, conv=0):
    letter, residual = " abc"[conv], f"blocks.{stage}.res_blocks.{block}"
    return {
        "stem": ("blocks.0.conv", "blocks.0.norm"),
        "conv": (f"{residual}.branch2.conv_{letter}", f"{residual}.branch2.norm_{letter}"),
        "shortcut": (f"{residual}.branch1_conv", f"{residual}.branch1_norm"),
        "classifier": "blocks.5.proj",
    }[part]


def pyslowfast(part, stage=0, block=0, conv=0):
    letter, residual = " abc"[conv], f"s{stage + 1}.pathway0_res{block}"
    return {
        "stem": ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
        "conv": (f"{residual}.branch2.{letter}", f"{residual}.branch2.{letter}_bn"),
        "shortcut": (f"{residual}.branch1", f"{residual}.branch1_bn"),
        "classifier": "head.projection",
    }[part]


def mmaction2(part, stage=0, block=0, conv=0):
    residual = f"backbone.layer{stage}.{block}"
    return {
        "stem": ("backbone.conv1.conv", "backbone.conv1.bn"),
        "conv": (f"{residual}.conv{conv}.conv", f"{residual}.conv{conv}.bn"),
        "shortcut": (f"{residual}.downsample.conv", f"{residual}.downsample.bn"),
        "classifier": "cls_head.fc_cls",
    }[part]


def released(part, stage=0, block=0, conv=0):
    if part == "classifier":
        return "new_fc"
    return tuple(f"base_model.{name}" for name in torchvision(part, stage, block, conv))


NAMES = {
    "torchvision": torchvision,
    "pytorchvideo": pytorchvideo,
    "pyslowfast": pyslowfast,
    "mmaction2": mmaction2,
    "v4d-released": released,
}


class PlainResNet:
    """A random ResNet of ``project``, of 2D convolutions or of 3D ones as in the slow pathway.

    ``every_4d`` are the stages (1 to 4) that have a 4D block after every other residual block, as in the V4D authors'
    code, and so entries of the sequence that count among the residual ones.
    """

    def __init__(self, project, depth, *, width=8, classes=7, is_2d=False, every_4d=(), seed=0):
        self.name, self.depth, self.is_2d, self.every_4d = NAMES[project], depth, is_2d, every_4d
        self.random = torch.Generator().manual_seed(seed)
        self.state = {}
        self._unit("stem", {}, width, 3, (1, 7, 7))
        inputs, self.sequence = width, {}
        for stage, count in enumerate(BLOCKS[depth], 1):
            inner, outputs = width << (stage - 1), (width << (stage - 1)) * (4 if depth == 50 else 1)
            time, place = (3 if stage >= 3 and not is_2d else 1), itertools.count()
            self.sequence[stage] = []
            for i in range(count):
                at = {"stage": stage, "block": next(place)}
                self.sequence[stage].append(("residual", at, 2 if i == 0 and stage > 1 else 1))
                kernels = [(time, 1, 1), (1, 3, 3), (1, 1, 1)] if depth == 50 else [(time, 3, 3)] * 2
                sizes = [inputs, *[inner] * (len(kernels) - 1), outputs]
                for conv, kernel in enumerate(kernels, 1):
                    self._unit("conv", {**at, "conv": conv}, sizes[conv], sizes[conv - 1], kernel)
                if i == 0 and (stage > 1 or inputs != outputs):
                    self._unit("shortcut", at, outputs, inputs, (1, 1, 1))
                inputs = outputs
                if stage in every_4d and i % 2 == 1:
                    key = f"base_model.layer{stage}.{next(place)}.tsa.weight"
                    self.state[key] = self._normal(outputs, outputs, 3, 3, 1) / (outputs * 9) ** 0.5
                    self.sequence[stage].append(("4d", key, 1))
        self.state[f"{self.name('classifier')}.weight"] = self._normal(classes, inputs) / inputs**0.5
        self.state[f"{self.name('classifier')}.bias"] = self._normal(classes)

    def _normal(self, *shape):
        return torch.randn(*shape, generator=self.random)

    def _unit(self, part, at, outputs, inputs, kernel):
        conv, norm = self.name(part, **at)
        kernel = kernel[1:] if self.is_2d else kernel
        weight = self._normal(outputs, inputs, *kernel)
        self.state[f"{conv}.weight"] = weight * (2 / weight[0].numel()) ** 0.5
        self.state[f"{norm}.weight"] = 0.5 + torch.rand(outputs, generator=self.random)
        self.state[f"{norm}.bias"] = 0.1 * self._normal(outputs)
        self.state[f"{norm}.running_mean"] = 0.1 * self._normal(outputs)
        self.state[f"{norm}.running_var"] = 0.5 + torch.rand(outputs, generator=self.random)
        self.state[f"{norm}.num_batches_tracked"] = torch.tensor(1000)

    def _compute(self, x, part, at, stride=1):
        conv, norm = self.name(part, **at)
        weight = self.state[f"{conv}.weight"]
        padding = tuple(extent // 2 for extent in weight.shape[2:])
        if self.is_2d:
            x = F.conv2d(x, weight, stride=stride, padding=padding)
        else:
            x = F.conv3d(x, weight, stride=(1, stride, stride), padding=padding)
        statistics = self.state[f"{norm}.running_mean"], self.state[f"{norm}.running_var"]
        return F.batch_norm(x, *statistics, self.state[f"{norm}.weight"], self.state[f"{norm}.bias"])

    def features(self, x, units=1):
        """The last feature map of normalised pixels, (N, 3, H, W) or (N, 3, T, H, W)."""
        x = F.relu(self._compute(x, "stem", {}, 2))
        x = F.max_pool2d(x, 3, 2, 1) if self.is_2d else F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in (1, 2, 3, 4):
            for kind, at, stride in self.sequence[stage]:
                x = self._residual(x, at, stride) if kind == "residual" else self._with_4d(x, at, units)
        return x

    def _residual(self, x, at, stride):
        y, convs = x, 3 if self.depth == 50 else 2
        for conv in range(1, convs + 1):
            here = stride if conv == convs - 1 else 1
            y = self._compute(y, "conv", {**at, "conv": conv}, here)
            y = F.relu(y) if conv < convs else y
        if f"{self.name('shortcut', **at)[0]}.weight" in self.state:
            x = self._compute(x, "shortcut", at, stride)
        return F.relu(x + y)

    def _with_4d(self, x, key, units):
        n, c, t, h, w = x.shape
        y = x.reshape(n // units, units, c, t, h * w).transpose(1, 2)
        y = F.conv3d(y, self.state[key], padding=(1, 1, 0))
        return x + y.transpose(1, 2).reshape(n, c, t, h, w)

    def scores(self, x, units=1):
        """Scores of videos of ``units`` units of normalised pixels: the mean of their units' scores, (B, K)."""
        features = self.features(x, units).flatten(2).mean(2)
        name = self.name("classifier")
        scores = F.linear(features, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
        return scores.unflatten(0, (-1, units)).mean(1)


def normalised(pixels, mean_and_std):
    """Pixels, 0 to 255, (N, 3, ...), as the networks expect them."""
    mean, std = (torch.tensor(numbers).view(1, 3, *[1] * (pixels.ndim - 2)) for numbers in mean_and_std)
    return (pixels.float() - mean) / std
