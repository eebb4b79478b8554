"""Phi3ForCausalLM of transformers: logits, loss and the gradient of every parameter, in f32 with eager attention.

Each model is a folder as transformers writes it: `<model>/config.json` and `<model>/model.safetensors`.
A batch is padding-free; transformers sees each of its sequences alone. The loss is the mean over trained tokens.
"""

import torch

from recording import Recording
from tiny_phi3 import build, random_batch, save, save_bf16, store_batch, token_loss, trained_tokens

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.25], "long_factor": [1.0, 2.5, 7.75],
}

#         model           changes                                                              lengths of the batches
MODELS = [("mha",         {"num_key_value_heads": 4},                                          {"two sequences": [7, 5], "one token more": [2]}),
          ("gqa-width-24", {"hidden_size": 96, "intermediate_size": 24, "num_hidden_layers": 1}, {"three sequences": [4, 9, 3]}),
          ("partial-tied", {"tie_word_embeddings": True, "rope_parameters":
                            {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}}, {"two sequences": [6, 8]}),
          ("window",      {"sliding_window": 4},                                               {"longer than the window": [13, 3]}),
          ("longrope",    {"rope_parameters": LONGROPE, "original_max_position_embeddings": 10}, {"short": [10], "long": [11]}),
          ("bf16",        {"num_hidden_layers": 1},                                            {"weights in bf16": [8, 3]})]


def record_case(r: Recording, model, folder: str, label: str, sequences) -> None:
    name = f"{folder}/{label}"
    model.zero_grad()
    logits = [model(input_ids=ids[None], use_cache=False).logits[0] for ids, _ in sequences]
    loss = sum(token_loss(model, ids, labels) for ids, labels in sequences) / trained_tokens(sequences)
    loss.backward()
    r.cases.append({
        "name": name, "op": "Phi3ForCausalLM", "attributes": {"model": folder},
        "inputs": store_batch(r, name, sequences),
        "outputs": {"logits": r.store(f"{name}/logits", torch.cat(logits)), "loss": r.store(f"{name}/loss", loss)},
        "gradients": {k: r.store(f"{name}/gradient/{k}", p.grad) for k, p in model.named_parameters()},
    })


def record_generation(r: Recording, model, folder: str, label: str, prompt: int, tokens: int, penalty: float) -> None:
    """Greedy decoding without a cache, which is what a cache must reproduce; log-probabilities before the penalty."""
    name = f"{folder}/generate {label}"
    # Prompts are drawn until no step has two tokens so near each other that rounding could exchange them.
    gap = 0.0
    while gap < 1e-3:
        ids = r.integers(1, prompt, low=3, high=model.config.vocab_size)
        made = model.generate(ids, do_sample=False, max_new_tokens=tokens, repetition_penalty=penalty, use_cache=False,
                              output_logits=True, output_scores=True, return_dict_in_generate=True)
        best = torch.cat(made.scores).topk(2, -1).values
        gap = (best[:, 0] - best[:, 1]).min().item()
    logprobs = torch.stack([step[0].log_softmax(-1) for step in made.logits])
    generated = made.sequences[0, prompt:]
    with torch.no_grad():
        whole = model(input_ids=made.sequences, use_cache=False).logits[0, :-1].log_softmax(-1)
    r.cases.append({
        "name": name, "op": "generate", "attributes": {"model": folder, "maxNewTokens": tokens, "repetitionPenalty": penalty},
        "inputs": {"ids": r.store(f"{name}/prompt", ids[0])},
        "outputs": {"generated": r.store(f"{name}/generated", generated),
                    "logprobs": r.store(f"{name}/logprobs", logprobs.gather(1, generated[:, None])[:, 0]),
                    "scores": r.store(f"{name}/scores", whole.gather(1, made.sequences[0, 1:, None])[:, 0])},
    })


#              model          label                  prompt, tokens, penalty
GENERATIONS = [("mha",          "greedy",              5, 20, 1.0),
               ("gqa-width-24", "with a penalty",      7, 20, 1.3),
               ("partial-tied", "with a penalty",      3, 20, 1.5),
               ("window",       "past the window",     9, 20, 1.2),
               ("longrope",     "across the border",   6, 12, 1.3),
               ("longrope",     "short",               4, 6,  1.0),
               ("bf16",         "greedy",              5, 12, 1.0)]


def record(r: Recording) -> None:
    for folder, changes, batches in MODELS:
        model = build(r, **changes)
        if folder == "bf16":
            save_bf16(model, r.directory / folder)
        else:
            save(model, r.directory / folder, old_spelling=folder == "longrope")
        for label, lengths in batches.items():
            record_case(r, model, folder, label, random_batch(r, lengths))
        for _, label, prompt, tokens, penalty in (g for g in GENERATIONS if g[0] == folder):
            record_generation(r, model, folder, label, prompt, tokens, penalty)
    # The padding row of the embedding gets no gradient, though the token occurs.
    model = build(r)
    save(model, r.directory / "padding")
    sequences = random_batch(r, [6, 4])
    sequences[0][0][2] = 0
    record_case(r, model, "padding", "padding id inside", sequences)
