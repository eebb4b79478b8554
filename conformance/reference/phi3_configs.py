"""Small Phi-3 configurations drawn from the seed, one for each branch of the model.

A row says what must hold (the branch); all sizes around it are drawn. Widths are kept odd where they may be, so that no
kernel meets only whole tiles.
"""

import copy
import json
from pathlib import Path

import torch

from recording import Recording
from tiny_phi3 import build, save, save_bf16


def whole(r: Recording, low: int, high: int) -> int:
    """An integer in low .. high."""
    return int(r.integers(1, low=low, high=high + 1))


def pick(r: Recording, *options):
    return options[whole(r, 0, len(options) - 1)]


def sizes(r: Recording, groups: tuple = (1, 2, 3), key_values: tuple = (1, 2), widths: tuple = (6, 8, 10, 12), layers: tuple = (1, 2)) -> dict:
    """Widths of a model; query heads are key-value heads times a group."""
    kv = pick(r, *key_values)
    heads = kv * pick(r, *groups)
    width = pick(r, *widths)
    while heads * width > 40 and width > widths[0]:
        width = pick(r, *widths)
    return {
        "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_size": heads * width,
        "intermediate_size": whole(r, 9, 33), "num_hidden_layers": pick(r, *layers), "vocab_size": whole(r, 41, 67),
        "rms_norm_eps": pick(r, 1e-5, 1e-6), "tie_word_embeddings": False,
    }


def wide_heads(r: Recording, width: int, **changes) -> dict:
    """Heads wider than the activations: the head size of a true Phi-3 in a model that stays small."""
    drawn, heads = sizes(r, layers=(1,)), pick(r, 2, 3)
    return drawn | {"head_dim": width, "num_attention_heads": heads, "num_key_value_heads": 1, "hidden_size": heads * whole(r, 5, 7)} | changes


def rope(r: Recording, partial: float = 1.0) -> dict:
    return {"rope_type": "default", "rope_theta": pick(r, 10000.0, 500.0, 250000.0), "partial_rotary_factor": partial}


def longrope(r: Recording, partial: float, width: int) -> dict:
    """Divisors of every frequency, and the factor on cosines and sines: from the stretch, from `factor`, or explicit."""
    pairs = int(width * partial) // 2
    return rope(r, partial) | {
        "rope_type": "longrope",
        "short_factor": [round(v, 3) for v in r.uniform(pairs, low=1.0, high=1.6).tolist()],
        "long_factor": [round(v, 3) for v in r.uniform(pairs, low=1.0, high=9.0).tolist()],
        **pick(r, {}, {"factor": 3.5}, {"attention_factor": 1.17}),
    }


def partial_sizes(r: Recording) -> dict:
    width, partial = pick(r, (8, 0.5), (8, 0.75), (12, 0.5), (16, 0.25), (16, 0.75))
    return sizes(r, widths=(width,)) | {"tie_word_embeddings": True, "rope_parameters": rope(r, partial)}


def longrope_sizes(r: Recording) -> dict:
    width, partial = pick(r, (8, 0.75), (8, 1.0), (12, 0.5), (16, 0.5))
    return sizes(r, widths=(width,)) | {
        "rope_parameters": longrope(r, partial, width), "original_max_position_embeddings": whole(r, 6, 12),
        "max_position_embeddings": whole(r, 40, 64), "sliding_window": pick(r, None, None, 5),
    }


BRANCHES = {
    "mha": lambda r: sizes(r, groups=(1,), key_values=(2, 3)),
    "gqa": lambda r: sizes(r, groups=(2, 3), key_values=(2,), widths=(6, 8, 10)),
    "one key head": lambda r: sizes(r, groups=(3, 4), key_values=(1,)),
    "head 96": lambda r: wide_heads(r, 96, rope_parameters=rope(r)),
    "head 128, partial rotary": lambda r: wide_heads(r, 128, rope_parameters=rope(r, 0.75)),
    "partial rotary, tied": partial_sizes,
    "window": lambda r: sizes(r, layers=(2,)) | {"sliding_window": whole(r, 2, 6)},
    "longrope": longrope_sizes,
    "bf16": lambda r: sizes(r, layers=(1,)),
    "f16": lambda r: sizes(r, layers=(1,)),
}


def save_folder(r: Recording, model, branch: str) -> str:
    """The folder as transformers writes it, sometimes in the spelling of version 4 as Microsoft's own files have it."""
    folder = branch.replace(",", "").replace(" ", "-")
    place = r.directory / folder
    if branch == "bf16":
        save_bf16(model, place)
    elif branch == "f16":
        save_f16(model, place)
    else:
        save(model, place)
    rope_parameters = model.config.rope_parameters
    if pick(r, True, False) and "factor" not in rope_parameters and "attention_factor" not in rope_parameters:
        old_spelling(r, place, rope_parameters["rope_type"] == "longrope")
    return folder


def save_f16(model, folder: Path) -> None:
    """Weights in f16, and the same rounded values left in the f32 model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    save(copy.deepcopy(model).to(torch.float16), folder)


def old_spelling(r: Recording, folder: Path, scaled: bool) -> None:
    """rope_theta and rope_scaling beside each other; the type by one of the names that Phi-3's releases gave it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    old = config.pop("rope_parameters")
    config |= {"rope_theta": old["rope_theta"], "partial_rotary_factor": old["partial_rotary_factor"]}
    config["rope_scaling"] = {k: old[k] for k in ("short_factor", "long_factor")} | {"type": pick(r, "longrope", "su", "yarn")} if scaled else None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def draw(r: Recording, branch: str):
    """A model of that branch with random weights, and the folder it is written to."""
    model = build(r, **BRANCHES[branch](r))
    return model, save_folder(r, model, branch)
