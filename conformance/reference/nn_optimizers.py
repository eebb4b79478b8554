"""Two hundred steps of every optimizer on a problem that both sides can differentiate: loss, gradient norm and rate of each
step, final parameters and final state.

The loss of step t is sum(curvature * (p - goal)^2) / 2 + sum(noise[t % 8] * p) over four parameters, so gradients depend on
where the steps before led. torch's optimizers and transformers' Adafactor run in f64, bitsandbytes' in its f32.
"""

import bitsandbytes
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import Adafactor
from transformers import get_scheduler

from recording import Recording

STEPS = 200
NOISES = 8
SHAPES = {"matrix.weight": (7, 5), "matrix.bias": (5,), "cube": (3, 4, 2), "one": (1,)}

ADAM = {"lr": 0.03, "betas": [0.9, 0.99], "eps": 1e-8, "weightDecay": 0.1}


def adam(o: dict) -> dict:
    return {"lr": o["lr"], "betas": tuple(o["betas"]), "eps": o["eps"], "weight_decay": o["weightDecay"]}


def lion(o: dict) -> dict:
    return {"lr": o["lr"], "betas": tuple(o["betas"]), "weight_decay": o["weightDecay"]}


def sgd(o: dict) -> dict:
    return {"lr": o["lr"], "momentum": o["momentum"], "dampening": o.get("dampening", 0), "nesterov": o.get("nesterov", False),
            "weight_decay": o["weightDecay"]}


class DecayAfter(torch.optim.AdamW):
    """The order of bitsandbytes' CUDA kernels: the step, then the decay."""

    def step(self) -> None:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            group["weight_decay"] = 0.0
        super().step()
        with torch.no_grad():
            for group, decay in zip(self.param_groups, decays):
                group["weight_decay"] = decay
                for p in group["params"]:
                    p.mul_(1 - group["lr"] * decay)


FIXED = {"scaleParameter": False, "relativeStep": False}
#      label                  ours             options of ours                                     torch's optimizer                   dtype          names of its state
RUNS = [
    ("AdamW",                 "AdamW",         ADAM,                                               lambda p, o: torch.optim.AdamW(p, **adam(o)), torch.float64, ("exp_avg", "exp_avg_sq")),
    ("AdamW, decay after",    "AdamW",         ADAM | {"decayOrder": "after"},                     lambda p, o: DecayAfter(p, **adam(o)),        torch.float64, ("exp_avg", "exp_avg_sq")),
    ("PagedAdamW",            "PagedAdamW",    ADAM,                                               lambda p, o: bitsandbytes.optim.PagedAdamW(p, **adam(o)), torch.float32, ()),
    ("SGD",                   "SGD",           {"lr": 0.05, "momentum": 0.0, "weightDecay": 0.01}, lambda p, o: torch.optim.SGD(p, **sgd(o)),    torch.float64, ()),
    ("SGD, momentum",         "SGD",           {"lr": 0.02, "momentum": 0.9, "weightDecay": 0.01}, lambda p, o: torch.optim.SGD(p, **sgd(o)),    torch.float64, ("momentum_buffer",)),
    ("SGD, nesterov",         "SGD",           {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weightDecay": 0.01}, lambda p, o: torch.optim.SGD(p, **sgd(o)), torch.float64, ("momentum_buffer",)),
    ("SGD, dampening",        "SGD",           {"lr": 0.05, "momentum": 0.8, "dampening": 0.5, "weightDecay": 0.0},  lambda p, o: torch.optim.SGD(p, **sgd(o)), torch.float64, ("momentum_buffer",)),
    ("Lion",                  "Lion",          {"lr": 0.01, "betas": [0.9, 0.99], "weightDecay": 0.1}, lambda p, o: bitsandbytes.optim.Lion(p, **lion(o)), torch.float32, ("state1",)),
    ("Adafactor",             "Adafactor",     {"lr": 0.03, "weightDecay": 0.05} | FIXED,
     lambda p, o: Adafactor(p, lr=o["lr"], weight_decay=o["weightDecay"], scale_parameter=False, relative_step=False), torch.float64,
     ("exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")),
    ("Adafactor, relative",   "Adafactor",     {}, lambda p, o: Adafactor(p), torch.float64, ("exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")),
    ("Adafactor, first moment", "Adafactor",   {"lr": 0.03, "beta1": 0.9, "clipThreshold": 0.5, "decayRate": -0.7, "eps": [1e-12, 1e-2], "scaleParameter": True, "relativeStep": False},
     lambda p, o: Adafactor(p, lr=0.03, beta1=0.9, clip_threshold=0.5, decay_rate=-0.7, eps=(1e-12, 1e-2), scale_parameter=True, relative_step=False), torch.float64,
     ("exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")),
]


class Problem:
    """Draws the problem and knows its loss."""

    def __init__(self, r: Recording, shapes: dict, dtype: torch.dtype):
        self.start = {k: r.normal(*s) for k, s in shapes.items()}
        self.curvature = {k: r.uniform(*s, low=0.1, high=2.0) for k, s in shapes.items()}
        self.goal = {k: r.normal(*s, std=2.0) for k, s in shapes.items()}
        self.noise = {k: r.normal(NOISES, *s, std=0.3) for k, s in shapes.items()}
        self.parameters = {k: v.to(dtype).requires_grad_(True) for k, v in self.start.items()}

    def loss(self, step: int) -> torch.Tensor:
        total = 0
        for k, p in self.parameters.items():
            curvature, goal, noise = (t[k].to(p.dtype) for t in (self.curvature, self.goal, self.noise))
            total = total + (curvature * (p - goal) ** 2).sum() / 2 + (noise[step % NOISES] * p).sum()
        return total

    def store(self, r: Recording, label: str) -> dict[str, str]:
        parts = {"start": self.start, "curvature": self.curvature, "goal": self.goal, "noise": self.noise}
        return {f"{part}/{k}": r.store(f"{label}/{part}/{k}", t) for part, tensors in parts.items() for k, t in tensors.items()}


def record_run(r: Recording, label: str, ours: str, options: dict, make, dtype: torch.dtype, state: tuple, schedule: str, clip: float) -> None:
    problem = Problem(r, SHAPES, dtype)
    inputs = problem.store(r, label)
    parameters = list(problem.parameters.values())
    optimizer = make(parameters, options)
    # Adafactor with steps of its own has no rate that a schedule could scale.
    scheduler = get_scheduler(schedule, optimizer, 15, STEPS) if "lr" in options else None
    seen = {"loss": [], "gradNorm": [], "learningRate": []}
    for step in range(STEPS):
        loss = problem.loss(step)
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.grad = g
        seen["gradNorm"].append(clip_grad_norm_(parameters, clip).item())
        seen["loss"].append(loss.item())
        seen["learningRate"].append(scheduler.get_last_lr()[0] if scheduler else 0.0)
        optimizer.step()
        if scheduler:
            scheduler.step()
    outputs = {k: r.store(f"{label}/{k}", torch.tensor(v, dtype=torch.float64)) for k, v in seen.items()}
    for k, p in problem.parameters.items():
        outputs[f"parameter/{k}"] = r.store(f"{label}/parameter/{k}", p)
        for name in state:
            if name in optimizer.state[p]:
                outputs[f"state/{k}.{name}"] = r.store(f"{label}/state/{k}.{name}", optimizer.state[p][name])
    attributes = {"optimizer": ours, "options": options, "schedule": schedule, "warmupSteps": 15, "steps": STEPS, "maxGradNorm": clip}
    r.cases.append({"name": f"optimizer {label}", "op": "optimizer", "attributes": attributes, "inputs": inputs, "outputs": outputs})


def record_optimizers(r: Recording) -> None:
    for i, (label, ours, options, make, dtype, state) in enumerate(RUNS):
        schedule = ("linear", "cosine", "constant_with_warmup")[i % 3]
        # The norm of a gradient starts near 20 and ends near 2: the one limit clips the first steps, the other most.
        record_run(r, label, ours, options, make, dtype, state, schedule, clip=(8.0, 2.5)[i % 2])


def record_clipping(r: Recording) -> None:
    """clip_grad_norm_: the norm and the clipped gradients, in f64."""
    drawn = [tuple(int(v) for v in r.integers(2, low=1, high=20)) for _ in range(3)]
    #        label          shapes                 size   limit
    cases = [("above",      [(3, 4), (5,), ()],    3.0,   1.0),
             ("below",      [(3, 4), (5,)],        0.01,  1.0),
             ("zeros",      [(2, 2)],              0.0,   1.0),
             ("drawn",      drawn,                 50.0,  0.5),
             ("tiny limit", [(9,)],                1.0,   1e-4)]
    for label, shapes, size, limit in cases:
        given = [r.normal(*shape, std=size) if shape else r.normal(1, std=size)[0] for shape in shapes]
        parameters = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        for p, g in zip(parameters, given):
            p.grad = g.double()
        norm = clip_grad_norm_(parameters, limit)
        name = f"clipGradNorm {label}"
        outputs = {"norm": r.store(f"{name}/norm", norm)} | {str(i): r.store(f"{name}/clipped {i}", p.grad) for i, p in enumerate(parameters)}
        r.cases.append({"name": name, "op": "clipGradNorm", "attributes": {"maxGradNorm": limit},
                        "inputs": {str(i): r.store(f"{name}/{i}", g) for i, g in enumerate(given)}, "outputs": outputs})
