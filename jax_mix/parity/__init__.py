"""Parity for a port of your own: a Flax model beside its PyTorch original, layer by layer, in float64.

`compare(model, original, x)` in Python, `python -m jax_mix.parity my_port.py:model my_port.py:original` on the command
line. PyTorch is imported when it is needed. docs/your_port.md explains.

| asked                                   | answered in                                    |
|-----------------------------------------|------------------------------------------------|
| what is compared, in which order        | `comparing.py`, with `differences.py`          |
| which module is which                   | `names.py`                                     |
| which array is which, and its axes      | `arrays.py`                                    |
| what either side puts out               | `flax_side.py`, `torch_side.py`, `records.py`  |
| what is told                            | `report.py`, `apart.py`, `hints.py`            |
"""

from jax_mix.parity.comparing import compare
from jax_mix.parity.report import Report, Row

__all__ = ["Report", "Row", "compare"]
