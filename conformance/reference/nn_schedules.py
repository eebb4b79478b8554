"""The factors of transformers' schedules at every step, one past the end included."""

import torch
from transformers import get_scheduler

from recording import Recording

STEPS = 200
#            options as ours spell them, then transformers' own
FACTORS = [
    ("constant", {}, {}), ("constant_with_warmup", {}, {}), ("linear", {}, {}), ("cosine", {}, {}),
    ("cosine", {"numCycles": 1.5}, {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}, {}), ("cosine_with_restarts", {"numCycles": 3}, {"num_cycles": 3}),
    ("polynomial", {"endFactor": 1e-7}, {}), ("polynomial", {"power": 2, "endFactor": 0.1}, {"power": 2, "lr_end": 0.1}),
    ("inverse_sqrt", {}, {}), ("inverse_sqrt", {"timescaleSteps": 9}, {"timescale": 9}),
    ("cosine_with_min_lr", {"minFactor": 0.1}, {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"minFactor": 0.1}, {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"minFactor": 0, "warmupFactor": 0.2}, {"min_lr_rate": 0.0, "warmup_lr_rate": 0.2}),
    ("warmup_stable_decay", {"decaySteps": 47, "minFactor": 0.05}, {"num_decay_steps": 47, "min_lr_ratio": 0.05}),
    ("warmup_stable_decay", {"decaySteps": 50, "warmupType": "cosine", "decayType": "linear"},
     {"num_decay_steps": 50, "warmup_type": "cosine", "decay_type": "linear"}),
    ("warmup_stable_decay", {"decaySteps": 50, "warmupType": "1-sqrt", "decayType": "1-sqrt"},
     {"num_decay_steps": 50, "warmup_type": "1-sqrt", "decay_type": "1-sqrt"}),
]


def record_schedule(r: Recording, name: str, options: dict, arguments: dict, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=arguments)
    factors = []
    for _ in range(STEPS + 2):
        factors.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    label = " ".join([f"schedule {name} warmup {warmup}", *(f"{k} {v}" for k, v in options.items())])
    r.cases.append({"name": label, "op": "schedule", "attributes": {"schedule": name, "steps": STEPS, "warmupSteps": warmup, "options": options},
                    "inputs": {}, "outputs": {"factors": r.store(label, torch.tensor(factors, dtype=torch.float64))}})


def record_schedules(r: Recording) -> None:
    drawn = int(r.integers(1, low=2, high=60))
    for name, options, arguments in FACTORS:
        for warmup in (0, drawn):
            record_schedule(r, name, options, arguments, warmup)
