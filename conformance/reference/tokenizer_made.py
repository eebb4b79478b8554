"""Two small tokenizers trained here: one like Phi-3's (BPE with byte fallback), one like Phi-4-mini's (byte-level BPE)."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer_texts import WORDS


def phi3_added(first_id):
    """Added tokens with Phi-3's flags, on ids behind a small vocabulary."""
    names = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"]
    return [AddedToken(n, rstrip=n != "<|endoftext|>", normalized=False, special=True) for n in names]


def llama_like():
    """BPE with byte fallback, the normalizer of Llama and Phi-3's added tokens; also one token for each flag that Phi-3 does not use."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    # The trainer needs words: split by space for training only, as SentencePiece does.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(WORDS * 3, trainers.BpeTrainer(vocab_size=560, special_tokens=special, min_frequency=3))
    tokenizer.pre_tokenizer = None
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
    data["added_tokens"][2].update(special=False, rstrip=True)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens(phi3_added(560))
    tokenizer.add_tokens([
        AddedToken("lorikeet", single_word=True, normalized=False),
        AddedToken("[LEFT]", lstrip=True, normalized=False),
        AddedToken("앵무새", normalized=False),
        AddedToken("bird song", normalized=True),
    ])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def phi4_like():
    """Byte-level BPE with the split pattern of o200k and Phi-4-mini's chat tokens."""
    pattern = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS * 3, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, min_frequency=3))
    names = ["<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"]
    tokenizer.add_special_tokens([AddedToken(n, normalized=False, special=True) for n in names])
    tokenizer.add_tokens([AddedToken(n, normalized=False) for n in ["<|tool|>", "<|/tool|>"]])
    return tokenizer
