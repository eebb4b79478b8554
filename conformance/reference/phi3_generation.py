"""Generation of transformers: greedy, alone and in padded batches, with its cache; and sampling, step by step.

Prompts are drawn until no step has two candidates so near each other that rounding could exchange them.
"""

import torch

from phi3_configs import pick, whole
from recording import Recording


def generate(model, ids: torch.Tensor, **options):
    """Nothing ends a text before its last token, unless a case says so: the end is an id that the model has not."""
    fixed = {"do_sample": False, "use_cache": True, "eos_token_id": model.config.vocab_size, "pad_token_id": 0}
    return model.generate(ids, output_logits=True, output_scores=True, return_dict_in_generate=True, **fixed | options)


def greedy_gap(made) -> float:
    """The smallest distance between the best and the second score of all steps."""
    best = torch.stack(made.scores).topk(2, -1).values
    return (best[..., 0] - best[..., 1]).min().item()


def clear_prompt(r: Recording, model, length: int, **options):
    """A prompt whose greedy continuation no rounding can change, and the continuation."""
    while True:
        ids = r.integers(1, length, low=3, high=model.config.vocab_size)
        made = generate(model, ids, **options)
        if greedy_gap(made) >= 1e-3:
            return ids, made


def record_greedy(r: Recording, model, folder: str, label: str, prompt: int, tokens: int, penalty: float, stop: bool = False) -> None:
    """Tokens, their log-probabilities before the penalty, and those of every token of the whole text."""
    name = f"{folder}/generate {label}"
    options = {"max_new_tokens": tokens, "repetition_penalty": penalty}
    ids, made = clear_prompt(r, model, prompt, **options)
    if not torch.equal(made.sequences, generate(model, ids, use_cache=False, **options).sequences):
        raise RuntimeError(f"{name}: transformers' cache gives another text than its full forward")
    stops: list[int] = []
    if stop:
        # A token of the text ends it, at its first occurrence; another id of the list never comes.
        text = made.sequences[0, prompt:].tolist()
        never = next(i for i in range(3, model.config.vocab_size) if i not in text)
        stops = [text[whole(r, 1, tokens - 2)], never]
        made = generate(model, ids, **options, eos_token_id=stops)
    logprobs = torch.stack([step[0].log_softmax(-1) for step in made.logits])
    generated = made.sequences[0, prompt:]
    with torch.no_grad():
        text_logprobs = model(input_ids=made.sequences, use_cache=False).logits[0, :-1].log_softmax(-1)
    r.cases.append({
        "name": name, "op": "generate",
        "attributes": {"model": folder, "maxNewTokens": tokens, "repetitionPenalty": penalty, "stopTokenIds": stops},
        "inputs": {"ids": r.store(f"{name}/prompt", ids[0])},
        "outputs": {"generated": r.store(f"{name}/generated", generated),
                    "logprobs": r.store(f"{name}/logprobs", logprobs.gather(1, generated[:, None])[:, 0]),
                    "scores": r.store(f"{name}/scores", text_logprobs.gather(1, made.sequences[0, 1:, None])[:, 0])},
    })


def padded_left(lists: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of one batch."""
    longest = max(len(ids) for ids in lists)
    rows = [torch.cat([torch.zeros(longest - len(ids), dtype=torch.long), ids]) for ids in lists]
    return torch.stack(rows), torch.stack([torch.arange(longest) >= longest - len(ids) for ids in lists]).long()


def record_together(r: Recording, model, folder: str, prompts: list[int], tokens: int, penalty: float, alone: bool = False) -> None:
    """Prompts of several lengths: what generateBatch does without padding. In transformers one batch padded on the left,
    or each `alone`, where a batch would rotate all of them by the factors of the longest. A token that comes early in the
    first text ends every text that has it, so the others go on without that one."""
    name = f"{folder}/generate {'each alone' if alone else 'a batch padded on the left'}"
    options = {"max_new_tokens": tokens, "repetition_penalty": penalty}
    if alone:
        lists, runs = zip(*((ids[0], made) for ids, made in (clear_prompt(r, model, n, **options) for n in prompts)))
    else:
        gap = 0.0
        while gap < 1e-3:
            lists = [r.integers(n, low=3, high=model.config.vocab_size) for n in prompts]
            ids, mask = padded_left(lists)
            runs = [generate(model, ids, attention_mask=mask, **options)]
            gap = greedy_gap(runs[0])
    generated = torch.cat([made.sequences[:, -tokens:] for made in runs])
    logprobs = torch.cat([torch.stack(made.logits, 1).log_softmax(-1) for made in runs]).gather(2, generated[..., None])[..., 0]
    stop = generated[0, whole(r, 1, 2)].item()
    counts = [next((i + 1 for i, token in enumerate(row) if token == stop), tokens) for row in generated.tolist()]
    if not alone:
        stopped = generate(model, ids, attention_mask=mask, **options | {"eos_token_id": stop}).sequences[:, ids.shape[1] :]
        if any(row[:n] != one[:n] or any(row[n:]) for row, one, n in zip(stopped.tolist(), generated.tolist(), counts)):
            raise RuntimeError(f"{name}: transformers' batch with a stop token is not the batch without one, cut")
    kept = torch.arange(generated.shape[1]) < torch.tensor(counts)[:, None]
    r.cases.append({
        "name": name, "op": "generateBatch",
        "attributes": {"model": folder, "maxNewTokens": tokens, "repetitionPenalty": penalty, "stopTokenIds": [stop]},
        "inputs": {"ids": r.store(f"{name}/prompts", torch.cat(list(lists))), "lengths": r.store(f"{name}/lengths", torch.tensor(prompts))},
        "outputs": {"generated": r.store(f"{name}/generated", generated[kept]), "counts": r.store(f"{name}/counts", torch.tensor(counts)),
                    "logprobs": r.store(f"{name}/logprobs", logprobs[kept])},
    })


def boundary_gap(scores: torch.Tensor, options: dict) -> float:
    """How far the filters of `options` are from keeping one token more or fewer, in logits or in probability."""
    kept = scores[scores.isfinite()]
    gap = 1.0
    if 0 < (k := options.get("top_k", 0)) < len(kept):
        top = kept.topk(k + 1).values
        gap = min(gap, (top[-2] - top[-1]).item())
        kept = kept.topk(k).values
    if (p := options.get("top_p", 1.0)) < 1:
        ascending = kept.sort().values
        gap = min(gap, (ascending.softmax(-1).cumsum(-1) - (1 - p)).abs().min().item())
        kept = ascending[ascending.softmax(-1).cumsum(-1) > 1 - p]
    if m := options.get("min_p", 0.0):
        odds = kept.softmax(-1)
        gap = min(gap, (odds - m * odds.max()).abs().min().item())
    return gap


def record_sampling(r: Recording, model, folder: str, prompt: int, tokens: int) -> None:
    """A sampled text, and the scores that each of its tokens was drawn from: after every processor, -inf where excluded."""
    name = f"{folder}/generate sampled"
    options = {"temperature": pick(r, 0.7, 0.8, 1.3), "top_k": whole(r, 8, 25), "top_p": pick(r, 0.8, 0.9, 0.95),
               "min_p": pick(r, 0.02, 0.05), "repetition_penalty": pick(r, 1.1, 1.3)}
    while True:
        ids = r.integers(1, prompt, low=3, high=model.config.vocab_size)
        torch.manual_seed(whole(r, 0, 2**30))
        made = generate(model, ids, do_sample=True, max_new_tokens=tokens, **options)
        gap = 1.0
        for step, logits in enumerate(made.logits):
            seen = made.sequences[0, : prompt + step].unique()
            row = logits[0].clone()
            row[seen] = torch.where(row[seen] < 0, row[seen] * options["repetition_penalty"], row[seen] / options["repetition_penalty"])
            gap = min(gap, boundary_gap(row / options["temperature"], options))
        if gap >= 1e-4:
            break
    names = {"temperature": "temperature", "top_k": "topK", "top_p": "topP", "min_p": "minP", "repetition_penalty": "repetitionPenalty"}
    r.cases.append({
        "name": name, "op": "sample",
        "attributes": {"model": folder, "prompt": prompt, "options": {names[k]: v for k, v in options.items()}},
        "inputs": {"ids": r.store(f"{name}/ids", made.sequences[0])},
        "outputs": {"scores": r.store(f"{name}/scores", torch.cat(made.scores))},
    })


def record_generations(r: Recording, model, folder: str, branch: str) -> None:
    if branch == "mha":
        record_greedy(r, model, folder, "greedy", whole(r, 1, 5), 12, 1.0)
        record_sampling(r, model, folder, whole(r, 2, 6), 6)
    elif branch == "gqa":
        record_greedy(r, model, folder, "with a penalty", whole(r, 3, 7), 10, pick(r, 1.2, 1.5))
        record_together(r, model, folder, [whole(r, 4, 7), 1, whole(r, 2, 3)], 7, 1.0)
    elif branch == "one key head":
        record_greedy(r, model, folder, "until a stop token", whole(r, 2, 5), 12, 1.3, stop=True)
    elif branch == "partial rotary, tied":
        record_greedy(r, model, folder, "with a penalty", 1, 10, pick(r, 1.2, 1.5))
        record_together(r, model, folder, [2, whole(r, 5, 8)], 6, 1.3)
    elif branch == "window":
        window = model.config.sliding_window
        record_greedy(r, model, folder, "past the window", window - 1, 10, 1.2)
        record_together(r, model, folder, [window + 2, 1], 6, 1.2)
    elif branch == "longrope":
        border = model.config.original_max_position_embeddings
        record_greedy(r, model, folder, "across the switch", border - whole(r, 1, 3), 8, 1.3)
        record_greedy(r, model, folder, "from the switch on", border, 5, 1.3)
        record_greedy(r, model, folder, "beyond the switch", border + 1, 5, 1.3)
        record_together(r, model, folder, [border - 2, border + 1, whole(r, 1, 3)], 5, 1.2, alone=True)
