"""transformers' logits processors on recorded rows, one after another, in f64.

Rows are of many kinds: spread, nearly flat, one far above the rest, ties. Each case records the scores after every step.
"""

import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from phi3_configs import pick, whole
from recording import Recording

# In the order in which generate applies them.
PROCESSORS = {
    "repetitionPenalty": RepetitionPenaltyLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "topK": TopKLogitsWarper,
    "topP": TopPLogitsWarper,
    "minP": MinPLogitsWarper,
}


def value_of(r: Recording, name: str):
    """A drawn option, at three figures so that JSON holds it exactly."""
    draws = {"repetitionPenalty": (0.5, 2.0), "temperature": (0.1, 3.0), "topP": (0.05, 0.99), "minP": (0.001, 0.9)}
    return whole(r, 1, 40) if name == "topK" else round(r.uniform(1, low=draws[name][0], high=draws[name][1]).item(), 3)


def rows_of(r: Recording, vocab: int, ties: bool) -> torch.Tensor:
    rows = [r.normal(vocab, std=3.0), r.normal(vocab, std=0.01), r.uniform(vocab, low=-60, high=60), r.normal(vocab)]
    rows[3][whole(r, 0, vocab - 1)] += 30
    if ties:
        # In the nucleus a tie has no order that torch promises; everywhere else ties have one answer.
        rows += [r.normal(vocab, std=2.0).round(), torch.full((vocab,), 1.5)]
    return torch.stack(rows)


def record_chain(r: Recording, label: str, names: list[str], vocab: int) -> None:
    rows = rows_of(r, vocab, ties="topP" not in names)
    history = r.integers(len(rows), whole(r, 1, 12), low=0, high=vocab)
    options = {name: value_of(r, name) for name in names}
    scores, outputs = rows.double(), {}
    for step in names:
        scores = PROCESSORS[step](options[step])(history, scores)
        outputs[f"after {step}"] = r.store(f"process/{label}/after {step}", scores)
    r.cases.append({
        "name": f"process/{label}", "op": "process", "attributes": {"options": options},
        "inputs": {"rows": r.store(f"process/{label}/rows", rows), "ids": r.store(f"process/{label}/ids", history)},
        "outputs": outputs,
    })


def record_processors(r: Recording) -> None:
    for name in PROCESSORS:
        record_chain(r, f"{name} alone", [name], whole(r, 20, 130))
    record_chain(r, "a vocabulary of one", list(PROCESSORS), 1)
    for chain in range(3):
        names = [name for name in PROCESSORS if pick(r, True, True, False)] or ["temperature"]
        record_chain(r, f"chain {chain}", names, whole(r, 20, 130))
    record_chain(r, "all of them", list(PROCESSORS), 97)
