"""What the TPU's own compiler makes of a mixed training step, where it is installed; no TPU is needed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks import tpu

PROGRAM = """
import json
from flax import nnx
from benchmarks import tpu
from jax_mix.training.models import PreActResNet

model = nnx.eval_shape(lambda: PreActResNet(3, 10, blocks=(1,), width=64, rngs=nnx.Rngs(0)))
rows = {"none": (None, None), **{name: tpu.methods()[name] for name in ("MixUp", "CutMix")}}
print(json.dumps({name: tpu.counts(model, *row) for name, row in rows.items()}))
"""


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install libtpu")
def test_mixing_adds_no_collective_and_hardly_a_byte():
    environment = os.environ | tpu.alone()
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    counted = json.loads(done.stdout.splitlines()[-1])
    plain = counted.pop("none")
    for name, row in counted.items():
        assert row["collectives"] == plain["collectives"], name
        assert row["bytes_accessed"] < 1.05 * plain["bytes_accessed"], name
        assert row["flops"] < 1.05 * plain["flops"], name


def test_collectives_are_counted_once():
    program = """
      %a = f32[4] all-reduce(%x), channel_id=1
      %b = (f32[4], f32[4]) all-gather-start(%x), channel_id=2
      %c = f32[4] all-gather-done(%b)
      %d = f32[4] fusion(%all-reduce.1), calls=%all-gather.clone
    """
    assert tpu.collectives(program) == {"all-gather": 1, "all-reduce": 1}
