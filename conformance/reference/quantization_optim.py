"""Two hundred steps of bitsandbytes' 8-bit optimizers on the CPU: the state byte for byte, the parameters within roundings.

Gradients do not depend on the parameters (a bank of sixteen, scaled anew each step), because torch's square root on a CPU is
up to one unit off: the parameters differ by that, the moments do not.
"""

import bitsandbytes
import torch
from transformers import get_scheduler

from recording import Recording

STEPS = 200
BANK = 16
SEEN = (1, 2, 3, 10, 50, 100, 200)

#      label                        ours         options                                                          shape       dtype
RUNS = [
    ("AdamW8bit",                  "AdamW8bit", {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weightDecay": 0.1}, (19, 37), torch.float32),
    ("AdamW8bit, fast second",     "AdamW8bit", {"lr": 0.003, "betas": [0.8, 0.95], "eps": 1e-6, "weightDecay": 0.0}, (256,),   torch.float32),
    ("AdamW8bit, bf16 parameters", "AdamW8bit", {"lr": 0.02, "betas": [0.9, 0.99], "eps": 1e-8, "weightDecay": 0.01}, (3, 101), torch.bfloat16),
    ("Lion8bit",                   "Lion8bit",  {"lr": 0.003, "betas": [0.9, 0.99], "weightDecay": 0.1},              (19, 37), torch.float32),
]


def optimizer_of(ours: str, parameter: torch.Tensor, o: dict):
    shared = {"lr": o["lr"], "betas": tuple(o["betas"]), "weight_decay": o["weightDecay"], "min_8bit_size": 0}
    if ours == "Lion8bit":
        return bitsandbytes.optim.Lion8bit([parameter], **shared)
    return bitsandbytes.optim.AdamW8bit([parameter], eps=o["eps"], **shared)


def record_run(r: Recording, label: str, ours: str, options: dict, shape: tuple, dtype: torch.dtype) -> None:
    start = r.normal(*shape).to(dtype)
    bank = r.normal(BANK, *shape) * torch.exp(r.normal(1, *shape))
    # An element that never moves, and steps that are all but nothing, as after clipping.
    bank.view(BANK, -1)[:, 0] = 0
    scales = torch.exp(r.normal(STEPS, std=2.0))
    name = f"optimizer8bit {label}"
    inputs = {k: r.store(f"{name}/{k}", t) for k, t in {"start": start, "bank": bank, "scales": scales}.items()}
    parameter = start.clone().requires_grad_(True)
    optimizer = optimizer_of(ours, parameter, options)
    schedule = get_scheduler("cosine", optimizer, 10, STEPS)
    outputs = {}
    for step in range(1, STEPS + 1):
        parameter.grad = (bank[(step - 1) % BANK] * scales[step - 1]).to(dtype)
        optimizer.step()
        schedule.step()
        if step in SEEN:
            state = optimizer.state[parameter]
            seen = {k: state[k] for k in ("state1", "absmax1", "state2", "absmax2") if k in state} | {"parameter": parameter}
            outputs |= {f"{step}/{k}": r.store(f"{name}/{step}/{k}", t) for k, t in seen.items()}
    attributes = {"optimizer": ours, "options": options, "schedule": "cosine", "warmupSteps": 10, "steps": STEPS}
    r.cases.append({"name": name, "op": "adamw8bit" if ours == "AdamW8bit" else "lion8bit", "attributes": attributes, "inputs": inputs, "outputs": outputs})


def record_optimizers(r: Recording) -> None:
    for label, ours, options, shape, dtype in RUNS:
        record_run(r, label, ours, options, shape, dtype)
