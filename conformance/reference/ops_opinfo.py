"""PyTorch's own samples of each op: `op_db` of torch.testing._internal, the inputs that PyTorch tests itself with.

Everything that PyTorch tries and our op can say (ops_samples.py) is recorded, calls that it refuses included.
"""

from typing import Callable

import torch
from torch.testing._internal.common_methods_invocations import op_db

from ops_dtypes import HALVES
from ops_samples import TABLE, Call
from ops_terms import record_term_sums
from recording import Recording

# A recording stays small: a sample with more numbers than this in its inputs is left out.
LARGEST = 1400
# The reader of safetensors takes no more axes than this.
MOST_AXES = 64
# In half precision the shapes say nothing new; this many samples an op are enough to see each dtype.
HALF_SAMPLES = 2
# Ops whose result keeps half precision; the others widen to f32 or move elements.
IN_HALF = {"neg", "abs", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "silu", "relu", "gelu", "add", "sub", "mul", "div",
           "maximum", "minimum", "where", "max", "softmax", "logSoftmax", "reshape", "transpose", "permute", "slice", "concat", "stack",
           "indexSelect", "gather", "matmul", "rmsNorm", "layerNorm"}

def axis_sum(t, a):
    return t.sum(a["axis"], keepdim=True)


# Gradients that PyTorch computes from the result (derivatives.yaml): of the result r, its cotangent c and the attributes.
FROM_RESULT = {
    "exp": lambda r, c, a: c * r,
    "sqrt": lambda r, c, a: c / (2 * r),
    "rsqrt": lambda r, c, a: -0.5 * c * r**3,
    "tanh": lambda r, c, a: c * (1 - r * r),
    "sigmoid": lambda r, c, a: c * r * (1 - r),
    "softmax": lambda r, c, a: r * (c - axis_sum(c * r, a)),
    "logSoftmax": lambda r, c, a: c - r.exp() * axis_sum(c, a),
}


def entry(name: str, variant: str):
    return next(o for o in op_db if o.name == name and o.variant_test_name == variant)


def plain(call: Call) -> Call:
    """Leaves torch's graph behind: samples may require gradients."""
    call.inputs = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in call.inputs.items()}
    return call


def is_small(call: Call) -> bool:
    tensors = [v for v in call.inputs.values() if isinstance(v, torch.Tensor)]
    return sum(v.numel() for v in tensors) <= LARGEST and all(v.dim() <= MOST_AXES for v in tensors)


def signature(call: Call) -> str:
    return str([(k, tuple(v.shape) if isinstance(v, torch.Tensor) else v) for k, v in call.inputs.items()] + [call.attributes])


def record_samples(r: Recording, op: str, name: str, variant: str, adapt: Callable) -> None:
    found = entry(name, variant)
    short = name.split(".")[-1]
    for label, dtype in {"": torch.float32, **(HALVES if op in IN_HALF else {})}.items():
        seen = set()
        for sample in found.sample_inputs("cpu", dtype, requires_grad=False, set_seed=False):
            call = adapt(sample)
            if call is None or not is_small(call) or signature(call) in seen or (label and len(seen) == HALF_SAMPLES):
                continue
            if label and not all(v.numel() for v in call.inputs.values() if isinstance(v, torch.Tensor)):
                continue
            seen.add(signature(call))
            call = plain(call)
            r.record(op, " ".join(filter(None, (short, label, str(len(seen))))), call.inputs, call.compute, call.attributes,
                     frozen=call.frozen, products=None if label else call.products, tolerance=call.tolerance)
            record_term_sums(r, call.inputs, call.compute, call.summed)
            if label:
                halve(r, op, dtype)


def halve(r: Recording, op: str, dtype: torch.dtype) -> None:
    """The last case's results keep half precision. Its gradients stay f32, and f64's truth unless they are computed from the
    result: then it is the rounded one."""
    case = r.cases[-1]
    for key in case["outputs"].values():
        r.tensors[key] = r.tensors[key].to(dtype)
    case.pop("torchErrors", None)
    if op in FROM_RESULT:
        result, cotangent = (r.tensors[case[kind]["out"]].double() for kind in ("outputs", "cotangents"))
        r.tensors[case["gradients"]["x"]] = FROM_RESULT[op](result, cotangent, case["attributes"]).float()


def record_errors(r: Recording, op: str, name: str, variant: str, adapt: Callable) -> None:
    """Calls that PyTorch refuses, where our op can be called so at all and PyTorch refuses our form of it too."""
    found = entry(name, variant)
    if found.error_inputs_func is None:
        return
    number = 0
    for refused in found.error_inputs("cpu", set_seed=False):
        try:
            call = adapt(refused.sample_input)
        except (IndexError, TypeError, ValueError, AttributeError, RuntimeError):
            continue  # wrong in a way that our form has no place for, such as a missing argument
        if call is None or not is_recordable(call) or not is_small(call):
            continue
        call = plain(call)
        try:
            call.compute(**{k: v for k, v in call.inputs.items() if v is not None})
        except Exception as error:  # noqa: BLE001  (whatever torch raises is the answer)
            number += 1
            message = str(error).splitlines()[0][:120]
            r.record_error(op, f"{name.split('.')[-1]} refused {number}", {k: v for k, v in call.inputs.items() if v is not None}, message, call.attributes)


def is_recordable(call: Call) -> bool:
    dtypes = {torch.float32, torch.int64, torch.uint8}
    tensors = [v for v in call.inputs.values() if isinstance(v, torch.Tensor)]
    return all(v.dtype in dtypes and v.device.type == "cpu" for v in tensors)


def record_opinfo(r: Recording) -> None:
    for row in TABLE:
        record_samples(r, *row)
        record_errors(r, *row)
