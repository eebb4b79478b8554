"""Family nn: modules, initialisers, optimizers, clipping and schedules of PyTorch, transformers and bitsandbytes."""

from nn_initialisers import record_initialisers
from nn_model import record_models
from nn_modules import record_modules
from nn_optimizers import record_clipping
from nn_optimizers import record_optimizers
from nn_schedules import record_schedules

from recording import Recording


def record(r: Recording) -> None:
    record_modules(r)
    record_initialisers(r)
    record_schedules(r)
    record_clipping(r)
    record_optimizers(r)
    record_models(r)
