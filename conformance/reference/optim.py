"""Twenty steps of torch.optim.AdamW on a tiny Phi-3, every parameter trained: loss, grad norm and rate a step, final weights.

Each step: gradients of the mean loss over trained tokens, clip_grad_norm_, AdamW, then the schedule.
"""

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from recording import Recording
from tiny_phi3 import build, random_batch, save, store_batch, token_loss, trained_tokens

STEPS = 20
SCHEDULES = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}
RUNS = {
    "linear": {"schedule": "linear", "learningRate": 3e-3, "warmupSteps": 4, "weightDecay": 0.1, "maxGradNorm": 0.5,
               "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "cosine": {"schedule": "cosine", "learningRate": 5e-3, "warmupSteps": 5, "weightDecay": 0.0, "maxGradNorm": 1.0,
               "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-6},
}


def record_run(r: Recording, label: str, options: dict) -> None:
    model = build(r, num_hidden_layers=1)
    save(model, r.directory / label)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["learningRate"], weight_decay=options["weightDecay"],
                                  betas=(options["beta1"], options["beta2"]), eps=options["epsilon"])
    schedule = SCHEDULES[options["schedule"]](optimizer, options["warmupSteps"], STEPS)
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
    r.cases.append({"name": label, "op": "AdamW", "attributes": {"model": label, "steps": STEPS, "batches": len(batches), **options},
                    "inputs": inputs, "outputs": outputs})


def record(r: Recording) -> None:
    for label, options in RUNS.items():
        record_run(r, label, options)
