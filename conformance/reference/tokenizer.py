"""tokenizers and transformers on texts and chats: ids, decoded and streamed text, chat rendering, assistant masks.

Two tokenizers are trained here and lie beside the recording (`<name>/tokenizer.json`, read as the file says, through
`PreTrainedTokenizerFast`). With the public data (../shared/data beside the repository) the true tokenizer of
Phi-3 and that of stories260K are recorded too, and the ids of every text of the data sets; the texts themselves are not.

A result is kept as one SHA-256 a block of items, its first four bytes as an i32: ids as `1,2,3` and a line feed, a text as its
UTF-8 and a NUL. `BLOCK` items make a block, so a wrong one is found within a few texts.
"""

import copy
import hashlib
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from recording import HERE, Recording
from tokenizer_chats import GENERATIONS, drawn_chats, rendered
from tokenizer_made import llama_like, phi4_like
from tokenizer_texts import drawn_texts

BLOCK, TEXTS, CHATS, ID_LISTS, STRIDE = 5, 10_000, 200, 400, 6
DATA = HERE.resolve().parents[2] / "shared/data"
SKIPPED = ("phi3-tokenizer", "phi3-configs", "stories260k")


def block_hashes(items: list, block: int) -> torch.Tensor:
    """One i32 a block of texts or of lists of ids."""
    sums = []
    for start in range(0, len(items), block):
        digest = hashlib.sha256()
        for item in items[start : start + block]:
            digest.update(item.encode() + b"\0" if isinstance(item, str) else (",".join(map(str, item)) + "\n").encode())
        sums.append(int.from_bytes(digest.digest()[:4], "little", signed=True))
    return torch.tensor(sums, dtype=torch.int32)


def store_texts(r: Recording, key: str, texts: list[str]) -> dict:
    """UTF-8 of all texts end to end, and where each ends."""
    data = [text.encode() for text in texts]
    ends = torch.tensor([len(d) for d in data]).cumsum(0)
    return {"utf8": r.store(f"{key}/utf8", torch.tensor(list(b"".join(data)), dtype=torch.uint8)), "ends": r.store(f"{key}/ends", ends)}


def as_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Reads no special token in a text. `</s>` and `<|tool|>` steer a model too, though Phi-3's files call them not special."""
    made = json.loads(tokenizer.to_str())
    for token in made["added_tokens"]:
        token["special"] = token["special"] or token["content"].startswith("<") or token["content"] == "[LEFT]"
    plain = Tokenizer.from_str(json.dumps(made))
    plain.encode_special_tokens = True
    return plain


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What DecodeStream gives token by token. It waits for ever on U+FFFD that the text itself ends with: they are added."""
    stream = DecodeStream(skip_special_tokens=True)
    text = "".join(filter(None, (stream.step(tokenizer, token) for token in ids)))
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    return whole if whole.rstrip("\ufffd") == text.rstrip("\ufffd") else text


def record_texts(r: Recording, name: str, tokenizer: Tokenizer, texts: list[str], inputs: dict, place: dict) -> None:
    encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    results = {
        "ids": encoded,
        "with special tokens": [e.ids for e in tokenizer.encode_batch(texts)],
        "as plain text": [e.ids for e in as_plain_text(tokenizer).encode_batch(texts, add_special_tokens=False)],
        "decoded": [tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded],
        "decoded without special tokens": [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded],
        "streamed": [streamed(tokenizer, ids) for ids in encoded],
    }
    r.cases.append({
        "name": f"{name}/generated texts", "op": "encode", "attributes": {**place, "block": BLOCK, "count": len(texts)}, "inputs": inputs,
        "outputs": {k: r.store(f"{name}/texts/{k}", block_hashes(v, BLOCK)) for k, v in results.items()},
    })


def record_ids(r: Recording, name: str, tokenizer: Tokenizer, draw: random.Random, place: dict) -> None:
    """Any ids in any order: broken UTF-8, special tokens anywhere, ids that no token has."""
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    low = draw.choice([300, 600])
    lists = [[draw.randrange(size + 3 if draw.random() < 0.5 else min(size, low)) for _ in range(draw.randint(0, 24))] for _ in range(ID_LISTS)]
    results = {"decoded": [tokenizer.decode(ids, skip_special_tokens=False) for ids in lists],
               "decoded without special tokens": [tokenizer.decode(ids, skip_special_tokens=True) for ids in lists]}
    r.cases.append({
        "name": f"{name}/any ids", "op": "decode", "attributes": {**place, "block": BLOCK},
        "inputs": {"ids": r.store(f"{name}/ids/ids", torch.tensor(sum(lists, []))), "lengths": r.store(f"{name}/ids/lengths", torch.tensor([len(i) for i in lists]))},
        "outputs": {k: r.store(f"{name}/ids/{k}", block_hashes(v, BLOCK)) for k, v in results.items()},
    })


def chat_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    bos = {"bos_token": "<s>"} if tokenizer.token_to_id("<s>") is not None else {}
    return PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(tokenizer), eos_token="<|endoftext|>", **bos)


def record_chats(r: Recording, name: str, tokenizer: Tokenizer, generation: str, chats: list[list[dict]], place: dict, inputs: dict) -> None:
    template, training = GENERATIONS[generation]
    fast = chat_tokenizer(tokenizer)
    records = [rendered(fast, chat, template, training) for chat in chats]
    label = f"{name}/chats, {generation}"
    r.cases.append({
        "name": label, "op": "chat", "attributes": {**place, "block": BLOCK, "template": template, "trainingTemplate": training}, "inputs": inputs,
        "outputs": {k: r.store(f"{label}/{k}", block_hashes([record[k] for record in records], BLOCK)) for k in records[0]},
    })


def record_made(r: Recording, name: str, tokenizer: Tokenizer, generations: list[str], texts: list[str], inputs: dict, place: dict, draw: random.Random) -> None:
    record_texts(r, name, tokenizer, texts, inputs, place)
    record_ids(r, name, tokenizer, draw, place)
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    control = [t for t in added if t.startswith(("<", "["))]
    for generation in generations:
        chats = drawn_chats(draw, CHATS, control, generation)
        stored = store_texts(r, f"{name}/chats, {generation}", [json.dumps(chat, ensure_ascii=False) for chat in chats])
        record_chats(r, name, tokenizer, generation, chats, place, stored)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def data_texts(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        return [line for line in text.split("\n") if line]
    rows = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    return list(strings(rows))


def record_data(r: Recording, tokenizer: Tokenizer, place: dict) -> None:
    """Every string of every data set; and the chats of those that hold chats, under the templates that know their roles."""
    for path in sorted(DATA.glob("*/*.*")):
        if path.suffix not in (".jsonl", ".json", ".txt") or path.parent.name in SKIPPED:
            continue
        texts = data_texts(path)
        ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        file = str(path.relative_to(DATA))
        block = max(BLOCK, len(texts) // 500)
        results = {"ids": ids[::STRIDE], "ids of all texts": ids}
        r.cases.append({
            "name": f"phi3-tokenizer/texts of {file}", "op": "data", "attributes": {**place, "file": file, "block": block, "stride": STRIDE}, "inputs": {},
            "outputs": {k: r.store(f"data/{file}/{k}", block_hashes(v, block)) for k, v in results.items()},
        })
    for file in ("instruct-1100/messages.train.jsonl", "oasst-en100/messages.train.jsonl"):
        chats = [json.loads(line)["messages"] for line in (DATA / file).read_text(encoding="utf-8").split("\n") if line]
        for generation in ("phi3", "phi3.5"):
            record_chats(r, f"phi3-tokenizer/{file}", tokenizer, generation, chats[::STRIDE], {**place, "file": file, "stride": STRIDE}, {})


def record(r: Recording) -> None:
    draw = random.Random(int(r.integers(1, high=2**31 - 1)))
    texts = drawn_texts(draw, TEXTS)
    inputs = store_texts(r, "texts", texts)
    for name, tokenizer, generations in [("llama-like", llama_like(), ["first", "phi3", "phi3.5", "bare"]), ("phi4-like", phi4_like(), ["phi4-mini", "phi3", "bare"])]:
        (r.directory / name).mkdir(parents=True)
        (r.directory / name / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        record_made(r, name, tokenizer, generations, texts, inputs, {"tokenizer": name}, draw)
    if not DATA.exists():
        print(f"tokenizer: no public data in {DATA}: the tokenizers and texts there are not recorded")
        return
    phi3 = Tokenizer.from_file(str(DATA / "phi3-tokenizer/tokenizer.json"))
    place = {"data": "phi3-tokenizer"}
    record_made(r, "phi3-tokenizer", phi3, ["first", "phi3", "phi3.5"], texts, inputs, place, draw)
    record_data(r, phi3, place)
    stories = Tokenizer.from_file(str(DATA / "stories260k/phi3/tokenizer.json"))
    record_texts(r, "stories260k", stories, texts[:1000], inputs, {"data": "stories260k/phi3"})
