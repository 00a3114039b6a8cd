"""Trains V4D on shards with the Python API alone, and tests it with Algorithm 1 of the paper.

python examples/train_on_shards.py shards/fights

docs/api.md has the names. `v4d train` does more: checkpoints, several GPUs, schedules, mixing, recipes.
"""

import argparse
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F

import v4d
from pipelines import EvalLoader, Sampling, TrainLoader
from preprocess import Dataset, read_dataset

UNITS, UNITS_INFER, FRAMES, STRIDE = 4, 10, 4, 8


def train(dataset: Dataset, model: v4d.V4D, *, steps: int, batch: int, crop: int, lr: float) -> Iterator[float]:
    """The loss of each step."""
    device = next(model.parameters()).device
    take = Sampling(UNITS, FRAMES, STRIDE, crop, fit_stride=True)
    loader = TrainLoader(dataset, "train", take, global_batch=batch, seed=0, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for videos in islice(loader, steps):
        # Pixels are bytes: the network normalises them. Rows that only fill up a batch have the label -1.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(videos.x, UNITS)
        loss = F.cross_entropy(logits.float(), videos.labels_B.to(device), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def accuracy(dataset: Dataset, model: v4d.V4D, *, batch: int, crop: int) -> tuple[int, int]:
    """How many videos of the split val are told right, and of how many."""
    device = next(model.parameters()).device
    take = Sampling(UNITS_INFER, FRAMES, STRIDE, crop, fit_stride=True, fit_to=UNITS)
    model.eval()
    right = count = 0
    for videos in EvalLoader(dataset, "val", take, global_batch=batch, device=device):
        scores_CBK = torch.stack([v4d.video_scores(model, x, UNITS_INFER, UNITS) for x in videos.crops])
        is_right = scores_CBK.mean(dim=0).argmax(dim=1).cpu() == videos.labels_B
        right, count = right + int(is_right[videos.mask_B].sum()), count + int(videos.mask_B.sum())
    return right, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder that v4d preprocess has made")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=16, help="channels of the stem; 64 in the paper")
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--lr", type=float, default=0.02)
    args = parser.parse_args()
    torch.manual_seed(0)
    dataset = read_dataset(args.data)
    # From scratch 4D blocks do not start as the identity: docs/measurements.md.
    model = v4d.create_model("v4d_resnet18", len(dataset.classes), base_width=args.width, norm_init_4d=1.0)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    losses = train(dataset, model, steps=args.steps, batch=args.batch, crop=args.crop, lr=args.lr)
    for step, loss in enumerate(losses, 1):
        print(f"step {step}: loss {loss:.3f}")
    right, count = accuracy(dataset, model, batch=args.batch, crop=args.crop)
    print(f"{right} of {count} videos of val are told right")


if __name__ == "__main__":
    main()
