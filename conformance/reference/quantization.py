"""bitsandbytes on the CPU: 4-bit codes and blocks, double quantization, 8-bit maps, its two linear layers, QLoRA models, and its
8-bit optimizers.

Everything that is stored in a file is compared bit for bit. One thread throughout: torch sums the mean of double
quantization in another order with more.
"""

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from quantization_model import record_models
from quantization_optim import record_optimizers
from recording import Recording

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def record_codes(r: Recording) -> None:
    """The tables that everything else is made of."""
    tables = {
        "nf4": bnb.get_4bit_type("nf4", "cpu"), "fp4": bnb.get_4bit_type("fp4", "cpu"),
        "dynamic": bnb.create_dynamic_map(signed=True), "unsigned dynamic": bnb.create_dynamic_map(signed=False),
    }
    for name, table in tables.items():
        r.cases.append({"name": f"code {name}", "op": "code", "attributes": {"code": name}, "inputs": {},
                        "outputs": {"code": r.store(f"code/{name}", table)}})


def dequantized(packed: torch.Tensor, state) -> torch.Tensor:
    """By bitsandbytes' portable kernel: its native one begins a block at each row, so it undoes its own quantizer only where
    rows are whole blocks (0.50)."""
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    code, n = state.code, state.shape.numel()
    nibbles = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], dim=1).reshape(-1)[:n].long()
    scales = absmax.repeat_interleave(state.blocksize)[:n]
    values = (code[nibbles] * scales).to(state.dtype).reshape(state.shape)
    if state.shape[-1] % state.blocksize == 0:
        native = bnb.dequantize_4bit(packed, state)
        if not torch.equal(native, values):
            raise AssertionError("the portable and the native dequantizer must agree on whole blocks")
    return values


def record_quantize_4bit(r: Recording, label: str, x: torch.Tensor, quant_type: str, blocksize: int, double: bool) -> None:
    packed, state = bnb.quantize_4bit(x, blocksize=blocksize, compress_statistics=double, quant_type=quant_type)
    outputs = {"packed": packed, "dequantized": dequantized(packed, state)}
    for key, value in state.as_dict(packed=True).items():
        outputs["state" if key.startswith("quant_state") else key] = value
    name = f"quantize4bit {label}"
    r.cases.append({
        "name": name, "op": "quantize4bit", "attributes": {"quantType": quant_type, "blocksize": blocksize, "doubleQuant": double},
        "inputs": {"x": r.store(f"{name}/x", x)}, "outputs": {k: r.store(f"{name}/{k}", v) for k, v in outputs.items()},
    })


def on_borders(code: torch.Tensor, blocksize: int) -> torch.Tensor:
    """A block whose values lie on the codes, on the borders between them, and one step of f32 to either side."""
    ordered = code.sort().values
    middle = (ordered[:-1] + ordered[1:]) / 2
    steps = [torch.nextafter(middle, torch.tensor(end)) for end in (-2.0, 2.0)]
    values = torch.cat([ordered, middle, *steps])
    filled = torch.ones(-(-values.numel() // blocksize) * blocksize)
    filled[: values.numel()] = values
    filled[blocksize - 1 :: blocksize] = 1.0  # each block's largest, so that values stay what they are
    return filled.reshape(-1, blocksize)


def record_4bit(r: Recording) -> None:
    for quant_type in ("nf4", "fp4"):
        for dtype_name, dtype in DTYPES.items():
            blocksize = BLOCKSIZES[int(r.integers(1, high=4))]
            shape = [int(n) for n in r.integers(2, low=1, high=70)]
            record_quantize_4bit(r, f"{quant_type} {dtype_name} {shape}", r.normal(*shape, std=0.1).to(dtype), quant_type, blocksize, False)
            rows = int(r.integers(1, low=70, high=90))
            x = (r.normal(rows, 64, std=0.1) * r.uniform(rows, 1, low=0.1, high=3.0)).to(dtype)
            record_quantize_4bit(r, f"{quant_type} {dtype_name} double [{rows}, 64]", x, quant_type, 64, True)
        for blocksize in BLOCKSIZES:
            columns = int(r.integers(1, low=blocksize, high=blocksize + 70))
            x = r.normal(2, columns, std=0.2).bfloat16()
            record_quantize_4bit(r, f"{quant_type} blocks of {blocksize}", x, quant_type, blocksize, blocksize % 3 == 1)
        record_quantize_4bit(r, f"{quant_type} one element", r.normal(1, 1), quant_type, 64, False)
        record_quantize_4bit(r, f"{quant_type} seven elements", r.normal(1, 7), quant_type, 32, True)
        record_quantize_4bit(r, f"{quant_type} zeros", torch.zeros(3, 64), quant_type, 64, False)
        record_quantize_4bit(r, f"{quant_type} small", r.normal(4, 64) * 1e-38, quant_type, 64, False)
        record_quantize_4bit(r, f"{quant_type} large", r.normal(4, 64) * 1e37, quant_type, 64, False)
        record_quantize_4bit(r, f"{quant_type} on its borders", on_borders(bnb.get_4bit_type(quant_type, "cpu"), 64), quant_type, 64, False)
    # More groups of scales than one, the last one short; the mean is summed in its four levels.
    rows = int(r.integers(1, low=520, high=560))
    record_quantize_4bit(r, f"nf4 {rows} groups", (r.normal(rows, 64) * r.uniform(rows, 1, low=0.5, high=1.5)).bfloat16(), "nf4", 64, True)


def record_8bit(r: Recording) -> None:
    for signed in (True, False):
        code = bnb.create_dynamic_map(signed=signed)
        for blocksize, shape in ((64, (3, 70)), (256, (2, 600)), (4096, (1, 4100)), (256, (1, 1)), (64, (4, 64))):
            x = r.normal(*shape) if signed else r.uniform(*shape, low=0.0, high=1e-3) ** 2
            quantized, state = bnb.quantize_blockwise(x, code=code, blocksize=blocksize)
            name = f"quantizeBlockwise {'signed' if signed else 'unsigned'} {list(shape)} in {blocksize}"
            outputs = {"quantized": quantized, "absmax": state.absmax, "dequantized": bnb.dequantize_blockwise(quantized, state)}
            r.cases.append({
                "name": name, "op": "quantizeBlockwise", "attributes": {"signed": signed, "blocksize": blocksize},
                "inputs": {"x": r.store(f"{name}/x", x)}, "outputs": {k: r.store(f"{name}/{k}", v) for k, v in outputs.items()},
            })


def with_native_arithmetic_off(layer: Linear4bit) -> Linear4bit:
    """Without gradients, bitsandbytes computes in bf16 where the processor can; the layer itself is compared."""
    layer.support_avx512bf16_for_cpu = False
    return layer


def record_linear_4bit(r: Recording) -> None:
    for quant_type, double, (rows, columns), m in (
        ("nf4", True, (96, 128), 5), ("nf4", False, (33, 64), 1), ("fp4", True, (20, 192), 3), ("fp4", False, (7, 64), 17), ("nf4", True, (130, 256), 2),
    ):
        label = f"{quant_type}{' double' if double else ''} [{rows}, {columns}] x {m}"
        layer = Linear4bit(columns, rows, bias=False, compute_dtype=torch.float32, compress_statistics=double, quant_type=quant_type)
        layer.load_state_dict({"weight": r.normal(rows, columns, std=0.3)})
        layer = with_native_arithmetic_off(layer.to("cpu"))
        state = layer.weight.quant_state
        weight, x = dequantized(layer.weight.data, state), r.normal(m, columns)
        if not torch.allclose(layer(x), x @ weight.t(), rtol=1e-4, atol=1e-4):
            raise AssertionError(f"{label}: Linear4bit must multiply by the dequantized weight")
        tensors = {"packed": layer.weight.data, **{k: v for k, v in state.as_dict(packed=True).items() if not k.startswith("quant_state")}}
        offset = {"nestedOffset": float(state.offset)} if double else {}
        r.record("matmul4bit", label, {"x": x, "w": weight}, lambda x, w: x @ w.t(),
                 {"quantType": quant_type, "blocksize": 64, **offset}, frozen=("w",), products={"out": columns, "x": rows})
        r.cases[-1]["inputs"] |= {k: r.store(f"matmul4bit/{label}/{k}", v) for k, v in tensors.items()}


def record_linear_8bit(r: Recording) -> None:
    for threshold, (rows, columns), m in ((0.0, (24, 40), 5), (6.0, (24, 40), 5), (6.0, (9, 33), 1), (2.5, (17, 64), 6)):
        label = f"[{rows}, {columns}] x {m}, threshold {threshold}"
        layer = Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False, threshold=threshold)
        weight = r.normal(rows, columns, std=0.3)
        layer.load_state_dict({"weight": weight})
        # In training bitsandbytes multiplies the decoded weight on a CPU (MatMul8bitFp); LLM.int8 is what it does elsewhere.
        layer = layer.to("cpu").eval()
        x = r.normal(m, columns)
        x[0, columns // 2] = 7.25
        x.requires_grad_()
        out = layer(x)
        cotangent = r.normal(*out.shape)
        (out * cotangent).sum().backward()
        name = f"matmul8bit {label}"
        r.cases.append({
            "name": name, "op": "matmul8bit", "attributes": {"threshold": threshold},
            "inputs": {"x": r.store(f"{name}/x", x), "weight": r.store(f"{name}/weight", weight)},
            "outputs": {"out": r.store(f"{name}/out", out), "quantized": r.store(f"{name}/quantized", layer.state.CB), "SCB": r.store(f"{name}/SCB", layer.state.SCB)},
            "cotangents": {"out": r.store(f"{name}/cotangent", cotangent)},
            "gradients": {"x": r.store(f"{name}/gradient/x", x.grad)},
        })


def record(r: Recording) -> None:
    record_codes(r)
    record_4bit(r)
    record_8bit(r)
    record_linear_4bit(r)
    record_linear_8bit(r)
    record_models(r)
    record_optimizers(r)
