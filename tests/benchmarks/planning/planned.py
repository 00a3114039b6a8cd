"""What the tests plan: small sets, for they rehearse at once."""

from benchmarks.planning.plan import Asked, Machine
from v4d.recipes.files import load_recipe


def asked(*settings, videos=1000, frames=300, codec="mjpeg", recipe="v4d_resnet18", gpus=1, batch=64, **changes):
    """A plan of so many videos for ``gpus`` H100 of which each has ``batch`` videos of a step."""
    of_machine = {name: changes.pop(name) for name in tuple(changes) if name in Machine.__dataclass_fields__}
    machine = Machine(**{"gpu": "h100", "gpus": gpus, **of_machine})
    chosen = load_recipe(recipe, (f"train.global_batch={batch * gpus}", *settings))
    return Asked(videos, frames, 30.0, codec, chosen, machine, **changes)
