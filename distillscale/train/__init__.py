"""Training: the engine that turns a `RunSpec` into a `RunRecord`; the only room that may import torch, on demand."""
