"""Twenty steps of torch.optim.AdamW (and once of SGD) on a tiny Phi-3, every parameter trained: loss, grad norm and rate a step, final weights.

Each step: gradients of the mean loss over trained tokens, clip_grad_norm_, the optimizer, then the schedule.
"""

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from recording import Recording
from tiny_phi3 import build, random_batch, save, store_batch, token_loss, trained_tokens

STEPS = 20
SCHEDULES = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}
RUNS = {
    "linear": {"optimizer": "AdamW", "schedule": "linear", "learningRate": 3e-3, "warmupSteps": 4, "weightDecay": 0.1, "maxGradNorm": 0.5,
               "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "cosine": {"optimizer": "AdamW", "schedule": "cosine", "learningRate": 5e-3, "warmupSteps": 5, "weightDecay": 0.0, "maxGradNorm": 1.0,
               "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-6},
    "sgd": {"optimizer": "SGD", "schedule": "constant", "learningRate": 2e-2, "warmupSteps": 3, "weightDecay": 0.01, "maxGradNorm": 1.0,
            "momentum": 0.9},
}


def optimizer_of(parameters, o: dict) -> torch.optim.Optimizer:
    shared = {"lr": o["learningRate"], "weight_decay": o["weightDecay"]}
    if o["optimizer"] == "SGD":
        return torch.optim.SGD(parameters, momentum=o["momentum"], **shared)
    return torch.optim.AdamW(parameters, betas=(o["beta1"], o["beta2"]), eps=o["epsilon"], **shared)


def schedule_of(optimizer, o: dict):
    if o["schedule"] == "constant":
        return get_constant_schedule_with_warmup(optimizer, o["warmupSteps"])
    return SCHEDULES[o["schedule"]](optimizer, o["warmupSteps"], STEPS)


def record_run(r: Recording, label: str, options: dict) -> None:
    model = build(r, num_hidden_layers=1)
    save(model, r.directory / label)
    optimizer = optimizer_of(model.parameters(), options)
    schedule = schedule_of(optimizer, options)
    # Four batches again and again, so that the loss falls.
    batches = [random_batch(r, lengths) for lengths in ([9, 5], [12], [4, 3, 6], [8, 7])]
    inputs = {f"batch{i}/{k}": v for i, b in enumerate(batches) for k, v in store_batch(r, f"{label}/batch{i}", b).items()}
    seen = {"loss": [], "gradNorm": [], "learningRate": []}
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = sum(token_loss(model, ids, labels) for ids, labels in batch) / trained_tokens(batch)
        loss.backward()
        seen["gradNorm"].append(clip_grad_norm_(model.parameters(), options["maxGradNorm"]).item())
        seen["loss"].append(loss.item())
        seen["learningRate"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    outputs = {k: r.store(f"{label}/{k}", torch.tensor(v)) for k, v in seen.items()}
    outputs |= {f"parameter/{k}": r.store(f"{label}/parameter/{k}", p) for k, p in model.named_parameters()}
    r.cases.append({"name": f"model {label}", "op": "model", "attributes": {"model": label, "steps": STEPS, "batches": len(batches), **options},
                    "inputs": inputs, "outputs": outputs})


def record_models(r: Recording) -> None:
    for label, options in RUNS.items():
        record_run(r, label, options)
