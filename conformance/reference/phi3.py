"""Phi3ForCausalLM of transformers, eager attention, f32: logits, hidden states, loss, the gradient of every parameter, generation.

Configurations are drawn from the seed (phi3_configs.py), one for each branch of the model. A batch here has no padding;
transformers sees the same sequences in one of four layouts, and a case says which:

    alone  each sequence in a forward of its own
    row    one behind another in one row with position ids that begin again: its own padding-free form
    left, right   rows of one length, padded on that side, with an attention mask

The loss is transformers' own (`labels=`), with `num_items_in_batch` or Trainer's LabelSmoother where the case says so.
"""

import torch
from transformers.trainer_pt_utils import LabelSmoother

from phi3_configs import BRANCHES, draw, pick, whole
from phi3_generation import record_generations
from phi3_sampling import record_processors
from recording import Recording
from tiny_phi3 import random_batch, store_batch, trained_tokens

PAD = 0


def laid_out(sequences, layout: str) -> list[dict]:
    """The calls that transformers gets: input ids, labels, positions, mask. Nothing predicts a sequence's first token."""
    sequences = [(ids, torch.where(torch.arange(len(ids)) == 0, -100, labels)) for ids, labels in sequences]
    if layout == "alone":
        return [{"input_ids": ids[None], "labels": labels[None]} for ids, labels in sequences]
    if layout == "row":
        positions = torch.cat([torch.arange(len(ids)) for ids, _ in sequences])
        ids, labels = (torch.cat(values)[None] for values in zip(*sequences))
        return [{"input_ids": ids, "labels": labels, "position_ids": positions[None]}]
    longest = max(len(ids) for ids, _ in sequences)

    def padded(values: torch.Tensor, by: int) -> torch.Tensor:
        gap = torch.full((longest - len(values),), by)
        return torch.cat([gap, values] if layout == "left" else [values, gap])

    mask = torch.stack([padded(torch.ones_like(ids), 0) for ids, _ in sequences])
    return [{
        "input_ids": torch.stack([padded(ids, PAD) for ids, _ in sequences]),
        "labels": torch.stack([padded(labels, -100) for _, labels in sequences]),
        # As generate makes them from the mask: a sequence counts from its own first token.
        "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }]


def without_padding(values: torch.Tensor, call: dict) -> torch.Tensor:
    """[rows, length, ...] -> [t, ...]: the tokens of all sequences, one after another."""
    return values[call["attention_mask"].bool()] if "attention_mask" in call else values[0]


def hidden_states(model, calls: list[dict]) -> list[torch.Tensor]:
    """What enters the first layer, what leaves each layer, and the last of these after the final norm, [t, d] each."""
    collected: list[list[torch.Tensor]] = [[] for _ in range(len(model.model.layers) + 2)]
    for call in calls:
        seen: list[torch.Tensor] = []
        hooks = [model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
        hooks += [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in model.model.layers]
        with torch.no_grad():
            last = model.model(**{k: v for k, v in call.items() if k != "labels"}, use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        for place, state in zip(collected, [*seen, last]):
            place.append(without_padding(state, call))
    return [torch.cat(states) for states in collected]


def loss_of(model, calls: list[dict], count: int, options: dict):
    """One scalar over all calls, the way transformers' Trainer gets it."""
    if smoothing := options.get("labelSmoothing"):
        smoother, call = LabelSmoother(epsilon=smoothing), calls[0]
        outputs = model(**{k: v for k, v in call.items() if k != "labels"}, use_cache=False)
        return smoother(outputs, call["labels"], shift_labels=True)
    # The sum of all losses divided by one number: what accumulation passes, else the number of trained tokens.
    items = torch.tensor(options.get("normalizer", count))
    return sum(model(**call, use_cache=False, num_items_in_batch=items).loss for call in calls)


def record_batch(r: Recording, model, folder: str, label: str, layout: str, sequences, options: dict | None = None) -> None:
    name = f"{folder}/{label}"
    calls = laid_out(sequences, layout)
    with torch.no_grad():
        logits = torch.cat([without_padding(model(**call, use_cache=False).logits, call) for call in calls])
    model.zero_grad()
    loss = loss_of(model, calls, trained_tokens(sequences), options or {})
    loss.backward()
    states = {f"hidden/{i}": r.store(f"{name}/hidden/{i}", s) for i, s in enumerate(hidden_states(model, calls))}
    r.cases.append({
        "name": name, "op": "Phi3ForCausalLM", "attributes": {"model": folder, "layout": layout, **(options or {})},
        "inputs": store_batch(r, name, sequences),
        "outputs": {"logits": r.store(f"{name}/logits", logits), "loss": r.store(f"{name}/loss", loss), **states},
        "gradients": {k: r.store(f"{name}/gradient/{k}", p.grad) for k, p in model.named_parameters()},
    })


def lengths(r: Recording, *fixed: int, longest: int = 9) -> list[int]:
    """These lengths and a drawn one, in a drawn order."""
    all_of = [*fixed, whole(r, 2, longest)]
    return [all_of[i] for i in torch.randperm(len(all_of), generator=r.random).tolist()]


def batches(r: Recording, branch: str, model) -> list[tuple[str, str, list[int], dict]]:
    """Label, layout, lengths and loss options of the cases of a model. Sequences of one token are among them."""
    if branch == "mha":
        return [("one token and more", "row", lengths(r, 1, 7), {})]
    if branch == "gqa":
        return [("ragged", "left", lengths(r, 5, 2), {}), ("accumulated", "alone", lengths(r, 3), {"normalizer": whole(r, 20, 40)})]
    if branch == "one key head":
        smoothing = {"labelSmoothing": pick(r, 0.05, 0.1, 0.3)}
        return [("ragged", "right", lengths(r, 1, 6), {}), ("label smoothing", "row", lengths(r, 4, 3), smoothing)]
    if branch == "window":
        window = model.config.sliding_window
        return [(f"beyond the window, {layout}", layout, lengths(r, window, window + 1, window * 3 + 1), {}) for layout in ("row", "left", "right")]
    if branch == "longrope":
        border = model.config.original_max_position_embeddings
        # transformers chooses the factors by the longest sequence of a call; here each sequence is as if it were alone.
        return [("short factors", "row", [border, whole(r, 1, border)], {}), ("long factors", "alone", [border + 1], {}),
                ("both", "alone", [whole(r, 2, border), border + whole(r, 2, 5)], {})]
    return [("ragged", pick(r, "row", "left", "right", "alone"), lengths(r, 6, 1), {})]


def record(r: Recording) -> None:
    for branch in BRANCHES:
        model, folder = draw(r, branch)
        for label, layout, sizes, options in batches(r, branch, model):
            sequences = random_batch(r, sizes, vocab=model.config.vocab_size)
            if branch == "mha":
                # The padding row of the embedding gets no gradient, though the token occurs.
                next(ids for ids, _ in sequences if len(ids) > 2)[1] = PAD
            record_batch(r, model, folder, label, layout, sequences, options)
        record_generations(r, model, folder, branch)
    record_processors(r)
