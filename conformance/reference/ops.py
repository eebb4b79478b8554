"""Every op of the tensor package, against the PyTorch function of the same meaning."""

from ops_dtypes import record_dtypes
from ops_elementwise import record_elementwise
from ops_movement import record_movement
from ops_network import record_network
from ops_opinfo import record_opinfo
from ops_random import record_random
from ops_shapes import record_shapes
from recording import Recording


def record(recording: Recording) -> None:
    record_elementwise(recording)
    record_movement(recording)
    record_network(recording)
    record_random(recording)
    record_dtypes(recording)
    record_opinfo(recording)
    record_shapes(recording)
