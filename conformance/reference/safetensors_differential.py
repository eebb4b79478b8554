"""Compares accept/reject of packages/safetensors with the Rust library (through Python) on random broken files.

Run by hand; needs `pip install safetensors==0.8.0` and Node 24 on the PATH:

    python conformance/reference/safetensors_differential.py --files 20000 --seed 1

Each file is a valid one that was damaged in its bytes, its JSON tokens or its structure. Both sides say whether they take it.
A file that Rust takes and we refuse must fall under a stricter rule that `parseHeader` documents; those are counted.
Any other difference is printed and the exit code is 1. `--vector` prints the hash that write-safetensors.test.ts holds.
"""

import argparse
import collections
import ctypes
import hashlib
import json
import pathlib
import random
import re
import struct
import subprocess
import sys

from safetensors import SafetensorError, TensorSpec, deserialize, serialize

BITS = {"F32": 32, "F16": 16, "BF16": 16, "U8": 8, "I8": 8, "I64": 64, "F64": 64, "BOOL": 8, "I32": 32, "F4": 4,
        "F6_E2M3": 6, "F8_E4M3": 8, "F8_E8M0": 8, "C64": 64, "U16": 16, "I16": 16, "U32": 32, "U64": 64}
# Rules of ours that the Rust library does not have: the part of our message that tells them.
STRICTER = {
    "duplicate key": r"duplicate key",
    "name over 1,024 bytes": r"at most 1024 bytes|is longer than",
    "more than 64 dims": r"at most 64 numbers",
    "numbers from 2^53 on": r"2\^53",
    "nested unknown fields": r"nested too deeply",
    "serde's array or map form of a record": r"expected an object, found \"\[\"|expected a dtype string, found \"\{\"",
}
TOKENS = ['"a"', '""', "0", "1", "-1", "-0", "1.0", "1e0", "00", "4", "null", "true", "[]", "{}", '"F32"', '"U8"', '"Q"', ",", ":",
          "[", "]", "{", "}", "9007199254740993", "18446744073709551615", "18446744073709551616", " ", "\t", "\x0b", '"\\u0061"',
          '"\\ud800"', '"\\x"', "[0,0]", '"__metadata__"', "\ufeff", "1e400", "[[1]]", '"dtype"', '"shape"', '"data_offsets"', "nul"]


def valid(rng):
    """A correct header as pairs, and the length of its data."""
    names = rng.sample(["a", "b", "c", "w.weight", "é", "__proto__", "", "x y", "日本"], rng.randint(0, 4))
    at, members = 0, []
    for name in names:
        dtype = rng.choice(list(BITS))
        shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randint(0, 3))]
        bits = BITS[dtype]
        for dim in shape:
            bits *= dim
        if bits % 8:
            shape, bits = [8], BITS[dtype] * 8
        members.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [at, at + bits // 8]}))
        at += bits // 8
    if rng.random() < 0.3:
        members.insert(rng.randint(0, len(members)), ("__metadata__", rng.choice([{}, {"format": "pt"}, None, {"a": 1}])))
    return members, at


def damage_structure(rng, members):
    """Changes numbers, fields or the order of an otherwise good header."""
    if rng.random() < 0.3:
        rng.shuffle(members)
    if members and rng.random() < 0.05:
        members.append(rng.choice(members))  # a key that stands twice
    tensors = [info for name, info in members if name != "__metadata__"]
    if not tensors:
        return
    info = rng.choice(tensors)
    kind = rng.randint(0, 6)
    if kind == 0:
        info["data_offsets"][rng.randint(0, 1)] += rng.choice([-4, -1, 1, 4, 100])
    elif kind == 1:
        info["shape"].append(rng.choice([1, 0, 2, -1, 1.5, "4", 2**40, 2**53, 2**63, 2**64, None]))
    elif kind == 2:
        info["dtype"] = rng.choice(list(BITS) + ["Q7", "f32", "", 1])
    elif kind == 3:
        info.pop(rng.choice(list(info)), None)
    elif kind == 4:
        info["extra"] = rng.choice([1, "x", [1], {"a": 1}, {"a": [1]}, 1e300])
    elif kind == 5:
        info["data_offsets"] = rng.choice([[0], [0, 0, 0], [4, 0], [], "0", info["data_offsets"]])
    else:
        info["shape"] = rng.choice([[], [1] * 70, [0, 2**40, 2**40], [1, 1], 4])


def damage_text(rng, text):
    """Puts JSON tokens into, over and out of the text."""
    pieces = re.findall(r'"(?:[^"\\]|\\.)*"|[0-9]+|.', text, re.S)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(pieces) + 1)
        kind = rng.randint(0, 2)
        pieces[at : at + (kind > 0)] = [] if kind == 2 else [rng.choice(TOKENS)]
    return "".join(pieces)


def make_file(rng):
    members, size = valid(rng)
    if rng.random() < 0.5:
        damage_structure(rng, members)
    separators = rng.choice([(",", ":"), (", ", ": ")])
    ensure_ascii = rng.random() < 0.5
    body = ",".join(json.dumps(k, ensure_ascii=ensure_ascii) + ":" + json.dumps(v, separators=separators) for k, v in members)
    text = rng.choice(["", "", " ", "\n\t"]) + "{" + body + "}" + rng.choice(["", "", "   ", "\n", "\0", "x"])
    if rng.random() < 0.3:
        text = damage_text(rng, text)
    header = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 3) if header else 0):
            header[rng.randrange(len(header))] = rng.randrange(256)
    size = max(0, size + (rng.choice([-8, -1, 1, 8]) if rng.random() < 0.15 else 0))
    length = len(header) + (rng.choice([-1, 1, 2**31, 2**63]) if rng.random() < 0.05 else 0)
    whole = struct.pack("<Q", max(0, length)) + bytes(header) + rng.randbytes(size)
    return whole[: rng.randint(0, 12)] if rng.random() < 0.02 else whole


def rust_accepts(data):
    try:
        deserialize(data)
        return True, ""
    except SafetensorError as error:
        return False, str(error)


def ours_accept(files):
    program = pathlib.Path(__file__).with_name("safetensors-accepts.ts")
    frames = b"".join(struct.pack("<I", len(data)) + data for data in files)
    lines = subprocess.run(["node", str(program)], input=frames, capture_output=True, check=True).stdout.decode().splitlines()
    assert len(lines) == len(files), (len(lines), len(files))
    return [json.loads(line) for line in lines]


def vector():
    """The tensors of the first test of write-safetensors.test.ts, as Python writes them."""
    tensors = {"z": ("uint8", [3], bytes([1, 2, 3])), "b": ("float32", [2], struct.pack("<2f", 1, -1)),
               "a": ("float32", [], struct.pack("<f", 2)), "h": ("bfloat16", [0, 4], b"")}
    held = {name: ctypes.create_string_buffer(data, max(1, len(data))) for name, (_, _, data) in tensors.items()}
    specs = {name: TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(held[name]), data_len=len(data))
             for name, (dtype, shape, data) in tensors.items()}
    print(hashlib.sha256(serialize(specs, {"format": "pt"})).hexdigest())


def compare(count, seed):
    rng = random.Random(seed)
    files = [make_file(rng) for _ in range(count)]
    tally, wrong = collections.Counter(), 0
    for data, problem in zip(files, ours_accept(files)):
        accepted, reason = rust_accepts(data)
        if accepted == (problem is None):
            tally["both accept" if accepted else "both refuse"] += 1
            continue
        rule = next((name for name, pattern in STRICTER.items() if accepted and re.search(pattern, problem)), None)
        if rule:
            tally[f"stricter: {rule}"] += 1
            continue
        wrong += 1
        print("DIFFERENT", "rust accepts" if accepted else f"rust: {reason}", "| ours:", problem, "|", data[:300], file=sys.stderr)
    for name, number in sorted(tally.items()):
        print(f"{number:8d} {name}")
    print(f"{wrong:8d} unexplained differences in {count} files, seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vector", action="store_true")
    options = parser.parse_args()
    if options.vector:
        vector()
    else:
        sys.exit(compare(options.files, options.seed))
