"""Records what Hugging Face's Python libraries make of texts and chats: packages/tokenizer/src/recordings/*.json.

Versions: tokenizers 0.23.3, transformers 5.23.0, trl 1.16.0. Usage, from the repository root:

    python conformance/reference/tokenizer_fixtures.py [shared-data-folder]

Without the folder only the tokenizers trained here are recorded. With it (default ../shared/data, if there), the real Phi-3 tokenizer's ids
of our own texts and SHA-256 sums of its ids over the data sets are recorded too. No text of the data sets is.
All texts in the fixtures are written or put together here.
"""

import hashlib
import itertools
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
import trl

root = pathlib.Path(__file__).resolve().parents[2]
fixtures = root / "packages/tokenizer/src/recordings"
shared = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else root.parent / "shared/data")
templates = pathlib.Path(trl.__file__).parent / "chat_templates"

WORDS = [
    "The parrot repeats what it hears.", "Lorikeets are small, colourful birds", "fine-tune a model on your own machine", "anteeksi, en ymmärrä",
    "안녕하세요, 만나서 반갑습니다.", "앵무새는 말을 따라 합니다", "값이 얼마예요? 닭볶음탕 이천 원", "こんにちは、世界。", "オウムはよくしゃべる鳥です", "東京都の天気は晴れです",
    "مرحبا بالعالم", "الببغاء يكرر الكلمات", "كتابٌ جديدٌ", "😀 hello 👍🏽", "👨‍👩‍👧‍👦 family", "🇰🇷🇯🇵 flags", "naïve café déjà-vu", "cafe\u0301 decomposed", "각 각",
    "def f(x):\n    return x ** 2\n", "\tindented\r\nline", "{\"a\": [1, 2.5, null]}", "3.14159 and 1e-5", "x = y // 2;  # two  spaces   three", "https://example.org/a?b=c&d=%20",
    "ÅÄÖ åäö ß ẞ", "Ελληνικά και Русский", "हिन्दी में लिखो", "ภาษาไทย", "𝒳 𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "zero\u200bwidth\ufeffmark", "a\u00a0b\u3000c\u2003d\u0085e",
    "tab\tnewline\n\nblank", "ALL CAPS and MixedCase", "don't can't I'll we've", "…—–“quotes”‘single’", "<0x0A> is not a byte", "▁ is not a space", "\x00\x01\x7f", "",
]
LOOKALIKES = ["<|end|>", "<|user|>\nHi", "a<|system|> b", "</s>", "<s>x</s>", "<unk>", "<|endoftext|>", " <|end|> ", "<|end|>\n\n  <|assistant|>\u0085 x", "<|end", "|end|>", "<|user|><|user|>", "가<|end|> 나", "x<|end|>\ufeffy", "<|end|>  ", "word<|assistant|>word"]


def own_texts():
    """Every sentence alone, with outer white space, and joined in pairs: a few hundred texts, always the same."""
    pairs = [f"{a}{glue}{b}" for (a, b), glue in zip(itertools.islice(itertools.combinations(WORDS, 2), 0, None, 5), itertools.cycle(["", " ", "\n", "  "]))]
    return WORDS + [f" {w}" for w in WORDS] + [f"{w}\n " for w in WORDS] + pairs + LOOKALIKES + [f"{w}{l}" for w, l in zip(WORDS, LOOKALIKES * 3)]


def chats():
    def turn(role, content):
        return {"role": role, "content": content}

    rows = [[turn("user", w), turn("assistant", v)] for w, v in zip(WORDS, WORDS[7:] + WORDS[:7])]
    rows += [[turn("system", s), turn("user", "안녕 😀"), turn("assistant", "네, 안녕하세요!"), turn("user", "مرحبا"), turn("assistant", "أهلا 👨‍👩‍👧")] for s in ["Be brief.", "", "짧게 답하세요."]]
    rows += [[turn("user", "question without an answer")], [turn("system", "only a system turn")]]
    return rows


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


def encoded(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


def chat_records(tokenizer, template, rows, eos="<|endoftext|>"):
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    records = []
    for messages in rows:
        both = fast.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        prompt = fast.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=True, add_generation_prompt=True)
        text = fast.apply_chat_template(messages, chat_template=template, tokenize=False)
        records.append({"messages": messages, "text": text, "ids": both["input_ids"], "assistantMask": both["assistant_masks"], "promptIds": prompt["input_ids"]})
    return records


PHI4_TRAINING = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% elif messages[-1]['role'] == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% else %}{{ eos_token }}{% endif %}"
)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def dataset_texts(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        return [line for line in text.split("\n") if line]
    rows = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    return list(strings(rows))


def ids_sum(lists):
    digest = hashlib.sha256()
    for ids in lists:
        digest.update((",".join(map(str, ids)) + "\n").encode())
    return digest.hexdigest()


def shared_record(stride=5):
    """Sums of ids over every `stride`-th text of each data set, and over all of them."""
    tokenizer = Tokenizer.from_file(str(shared / "phi3-tokenizer/tokenizer.json"))
    stories = Tokenizer.from_file(str(shared / "stories260k/phi3/tokenizer.json"))
    sums = {}
    for path in sorted(shared.glob("*/*.*")):
        if path.suffix not in (".jsonl", ".json", ".txt") or path.parent.name in ("phi3-tokenizer", "phi3-configs", "stories260k"):
            continue
        texts = dataset_texts(path)
        lists = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        sums[str(path.relative_to(shared))] = {"texts": len(texts), "tokens": sum(map(len, lists)), "all": ids_sum(lists), "strided": ids_sum(lists[::stride])}
    template = (templates / "phi3_training.jinja").read_text()
    chat_sums = {}
    for name in ["instruct-1100/messages.train.jsonl", "oasst-en100/messages.train.jsonl"]:
        rows = [json.loads(line)["messages"] for line in (shared / name).read_text(encoding="utf-8").split("\n") if line][::stride]
        records = chat_records(tokenizer, template, rows)
        chat_sums[name] = {"ids": ids_sum(r["ids"] for r in records), "assistantMask": ids_sum(r["assistantMask"] for r in records)}
    return {
        "stride": stride,
        "texts": [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in own_texts()],
        "stories260k": [{"text": t, "ids": stories.encode(t).ids} for t in own_texts()[:120]],
        "chats": chat_records(tokenizer, template, chats()),
        "datasets": sums,
        "datasetChats": chat_sums,
    }


def write(name, value):
    (fixtures / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    fixtures.mkdir(parents=True, exist_ok=True)
    flags = ["lorikeet", "a lorikeet!", "lorikeets", "xlorikeet", "lorikeet_", "é lorikeet é", "가lorikeet", "a [LEFT] b", "a  [LEFT]  b", "<|end|> [LEFT]", "앵무새 앵무새", "bird song", "a bird song", "xbird song"]
    for name, tokenizer, template in [
        ("llama-like", llama_like(), (templates / "phi3_training.jinja").read_text()),
        ("phi4-like", phi4_like(), PHI4_TRAINING),
    ]:
        texts = own_texts() + (flags if name == "llama-like" else [])
        # Random ids make byte runs that are not valid UTF-8.
        size = tokenizer.get_vocab_size()
        runs = [[(7 * i * i + 13 * i * k + 5 * k) % size for i in range(1, 24)] for k in range(1, 24)]
        write(f"{name}.json", {
            "tokenizerJson": json.loads(tokenizer.to_str()),
            "texts": [encoded(tokenizer, t) for t in texts],
            "withSpecialTokens": tokenizer.encode("앵무새 parrot").ids,
            "decoded": [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False), "plain": tokenizer.decode(ids, skip_special_tokens=True)} for ids in runs],
            "trainingTemplate": template,
            "chats": chat_records(tokenizer, template, chats()),
        })
    if (shared / "phi3-tokenizer").exists():
        write("phi3-real.json", shared_record())


if __name__ == "__main__":
    main()
