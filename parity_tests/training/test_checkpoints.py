"""jax_mix/training/checkpoints.py: a run that is cut off anywhere goes on as if it had not been."""

import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mix.training import optimizers
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.errors import UserError
from parity_tests.training import loop_with_checkpoints as loop

ROOT = Path(__file__).parents[2]
CONFIG = {"batch_size": 64, "alpha": 0.4, "layers": ("stem", "head"), "out": "runs"}
HISTORY = [{"epoch": 1, "loss": 0.1 + 0.2}]


def bits(tree):
    """Name, dtype, shape and bytes of each array."""

    def data(a):
        return jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(path, str(a.dtype), a.shape, np.asarray(data(a)).tobytes()) for path, a in leaves]


def small(seed):
    """A state that is quickly written: two arrays and a key."""
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.normal(size=(50, 20)), jnp.float32)
    return {"w": w, "half": w[0].astype(jnp.bfloat16), "key": jax.random.key(seed)}


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 10 and 20."""
    with Checkpoints(tmp_path / "two", CONFIG) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, small(step), HISTORY)
    return tmp_path / "two"


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, param_dtype=jnp.bfloat16, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.norm(self.first(x))))


def model_and_optimizer(seed):
    model = Net(nnx.Rngs(seed))
    transformation = optimizers.make("adam", "one_cycle", steps=9, learning_rate=0.1, weight_decay=1e-3)
    with jax.numpy_dtype_promotion("standard"):  # optax, of parameters in two dtypes
        return model, nnx.Optimizer(model, transformation, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x):
    loss, grads = nnx.value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)
    with jax.numpy_dtype_promotion("standard"):
        optimizer.update(model, grads)
    return loss


def test_a_run_goes_on_to_the_same_bits(tmp_path, capfd):
    x = jax.random.normal(jax.random.key(0), (16, 4))
    pair, other = model_and_optimizer(1), model_and_optimizer(2)
    for _ in range(3):
        train_step(*pair, x)
    with Checkpoints(tmp_path / "new" / "checkpoints", CONFIG) as checkpoints:
        checkpoints.save(3, nnx.state(pair), HISTORY)
        train_step(*pair, x)  # while it is being written
    with Checkpoints(tmp_path / "new" / "checkpoints", CONFIG) as checkpoints:
        step, state, history = checkpoints.restore(nnx.state(other))
    nnx.update(other, state)
    train_step(*other, x)
    assert (step, history) == (3, HISTORY)
    saved = bits(nnx.state(pair))
    assert bits(nnx.state(other)) == saved  # also where optax turned bfloat16 into float32 in the first step
    assert {"bfloat16", "float32", "int32", "uint32", "key<fry>"} <= {dtype for _, dtype, _, _ in saved}
    assert capfd.readouterr() == ("", "")  # Orbax is kept quiet


def test_what_is_saved_is_the_state_at_that_moment_though_its_memory_is_used_again(tmp_path):
    state, history = jnp.ones(100_000), [1]
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    step(state + 0)  # compiled, to be quick
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(1, {"x": state}, history)
        history.append(2)
        for _ in range(5):
            state = step(state)
        _, restored, saved = checkpoints.restore({"x": state})
    assert saved == [1]
    assert set(np.asarray(restored["x"]).tolist()) == {1.0}


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, CONFIG, keep=3) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, {"x": jnp.float32(step)}, [])
        assert checkpoints.steps == [3, 4, 5]
        assert checkpoints.restore({"x": jnp.float32(0)})[:2] == (5, {"x": 5})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_arrays_come_back_on_the_devices_that_are_asked_for(devices, tmp_path):
    def spread(n):
        return NamedSharding(Mesh(np.array(jax.devices()[:n]), ("data",)), PartitionSpec("data"))

    x = jax.random.normal(jax.random.key(0), (16, 3))
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(x, spread(4))}, [])
    like = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread(devices))
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        _, state, _ = checkpoints.restore({"x": like})
    assert state["x"].sharding == spread(devices)
    assert bits(state) == bits({"x": x})


TWO_PROCESSES = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax_mix.training.checkpoints import Checkpoints

folder = Path(sys.argv[1])
values = np.arange(8, dtype=np.float32)
spread = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
state = {"x": jax.make_array_from_callback(values.shape, spread, lambda index: values[index])}
with Checkpoints(folder, {}) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": state["x"] + step}, [step])
    if jax.process_index() == 0 and checkpoints.steps:
        (folder / "3" / "SHA256SUMS").unlink()
    step, state, history = checkpoints.restore(state)
    checkpoints.save(3, state, history)
    parts = [part.data.tolist() for part in state["x"].addressable_shards]
    print(step, history, parts, checkpoints.steps)
"""


@pytest.mark.long
def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [[sys.executable, "-c", TWO_PROCESSES, str(tmp_path), address, str(i)] for i in (0, 1)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(commands[0], cwd=ROOT, **pipes) as first,
        subprocess.Popen(commands[1], cwd=ROOT, **pipes) as second,
    ):
        told = [process.communicate() for process in (first, second)]
    lines = [out.splitlines()[-1] for out, _ in told]
    assert lines == ["2 [2] [[2.0, 3.0], [4.0, 5.0]] [2, 3]", "2 [2] [[6.0, 7.0], [8.0, 9.0]] [2, 3]"]
    assert ["is damaged" in err for _, err in told] == [True, False]  # said once


DAMAGES = {
    "cut to half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "one bit changed": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(damage, two, tmp_path, capfd):
    files = [path.relative_to(two) for path in (two / "20").rglob("*") if path.is_file()]
    assert len(files) > 15
    for file in files:
        folder = shutil.copytree(two, tmp_path / "damaged")
        DAMAGES[damage](folder / file)
        with Checkpoints(folder, CONFIG) as checkpoints:
            step, state, _ = checkpoints.restore(small(0))
            told = capfd.readouterr().err
            if len(file.parts) == 2 and file.name != "SHA256SUMS":  # Orbax's own notes beside the data
                assert (step, told) == (20, "")
            else:
                assert step == 10
                assert told.startswith(f"the checkpoint '{folder / '20'}' is damaged: ")
                assert told.endswith("; now '20.damaged1', step 10 is used.\n")
                checkpoints.save(20, small(20), HISTORY)  # as a run does that goes on from there
                assert (folder / "20.damaged1").is_dir()
                step, state, _ = checkpoints.restore(small(0))
        assert bits(state) == bits(small(step))
        shutil.rmtree(folder)


def test_if_all_are_damaged_it_says_so_and_leaves_them(two, capfd):
    for step in ("10", "20"):
        (two / step / "SHA256SUMS").unlink()
    files = sorted(two.rglob("*"))
    with (
        Checkpoints(two, CONFIG) as checkpoints,
        pytest.raises(UserError, match=r"^every checkpoint in '.*two'"),
    ):
        checkpoints.restore(small(0))
    assert capfd.readouterr().err.count("SHA256SUMS: No such file or directory") == 2
    assert sorted(two.rglob("*")) == files


def test_another_config_is_refused_with_the_difference(two):
    config = CONFIG | {"batch_size": 128, "alpha": 0.2, "out": "elsewhere"}
    with Checkpoints(two, config, may_differ=["out"]) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(small(0))
    was, now = "--alpha 0.4, --batch-size 64", "0.2 and 128"
    assert str(error.value) == f"--resume: the checkpoint in '{two}' was made with {was}; now they are {now}."
    with (
        Checkpoints(two, CONFIG | {"layers": ["stem"]}) as checkpoints,
        pytest.raises(UserError, match=r"made with --layers stem head; now it is stem\.$"),
    ):
        checkpoints.restore(small(0))
    with Checkpoints(two, CONFIG | {"out": "x"}, may_differ=["out"]) as checkpoints:
        assert checkpoints.restore(small(0))[0] == 20


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"w": jnp.ones((50, 21))},
            r"w is float32\[50, 20\] there and float32\[50, 21\] here; so differ 1 of 3 arrays",
        ),
        ({"key": jax.random.key(0, impl="rbg")}, r"key is key<fry>\[\] there and key<rbg>\[\] here"),
        ({"new": jnp.ones(2)}, r"new is missing there and float32\[2\] here; so differ 1 of 4"),
    ],
    ids=["shape", "key", "missing"],
)
def test_a_checkpoint_of_other_arrays_is_refused(changed, told, two):
    with Checkpoints(two, CONFIG) as checkpoints, pytest.raises(UserError, match=told):
        checkpoints.restore(small(0) | changed)


def test_later_checkpoints_are_forgotten(two):
    with Checkpoints(two, {}) as checkpoints:
        checkpoints.forget(after=10)
        assert checkpoints.steps == [10]
        checkpoints.forget(after=0)
        assert checkpoints.steps == []
        checkpoints.save(5, small(5), [])
        assert checkpoints.steps == [5]
    with Checkpoints(two / "new", {}) as checkpoints:
        checkpoints.forget(after=0)  # there is nothing


def test_without_a_checkpoint_it_says_so(tmp_path):
    with (
        Checkpoints(tmp_path / "new", CONFIG) as checkpoints,
        pytest.raises(UserError, match=r"^--resume: there is no checkpoint in '.*new'\.$"),
    ):
        checkpoints.restore(small(0))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the folder '.*file'"):
        Checkpoints(tmp_path / "file", CONFIG)


def test_what_a_killed_save_left_is_no_checkpoint_and_goes(two):
    shutil.copytree(two / "20", two / "30.orbax-checkpoint-tmp")
    with Checkpoints(two, CONFIG) as checkpoints:
        assert checkpoints.restore(small(0))[0] == 20
        checkpoints.save(30, small(30), HISTORY)
    assert sorted(path.name for path in two.iterdir()) == ["20", "30"]


FULL_DISK = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.errors import UserError

def largest_file(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

state = {"x": jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)}
try:
    with Checkpoints(Path(sys.argv[1]), {}) as checkpoints:
        checkpoints.save(1, state, [])
        checkpoints.restore(state)
        for step in (2, 3):
            largest_file(50_000)
            checkpoints.save(step, state, [])
            checkpoints.restore(state)
            largest_file(resource.RLIM_INFINITY)
        checkpoints.save(4, state, [])
        checkpoints.restore(state)
        largest_file(50_000)
        checkpoints.save(5, state, [])
except UserError as error:
    print(error)
"""


def test_when_nothing_more_can_be_written_the_older_ones_are_kept_and_saving_goes_on(tmp_path):
    """A limit on the size of files stands for a full disk, which needs a disk."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told = (
        "the checkpoint of step {} could not be saved in '"
        + str(tmp_path)
        + "' (File too large); that of step {} is kept."
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("the checkpoint")]
    assert lines == [told.format(2, 1), told.format(3, 1), told.format(5, 4)]
    assert "Traceback" not in done.stderr  # of the threads that wrote
    assert done.stdout.splitlines() == [told.format(5, 4)]  # the last one failed: leaving raises
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4"]


def test_a_first_save_that_fails_is_told_and_the_next_may_find_room(tmp_path, capfd):
    """The folder cannot be made: here because there is a file of its name."""
    folder = tmp_path / "run" / "checkpoints"
    with Checkpoints(folder, CONFIG) as checkpoints:
        folder.parent.write_text("")
        for step in (1, 2):
            checkpoints.save(step, small(0), HISTORY)
            assert checkpoints.steps == []
        told = capfd.readouterr().err
        assert told.count("could not be saved") == 2
        assert "Traceback" not in told
        assert "the checkpoint of step 2 could not be saved" in told
        assert "there is none yet." in told
        folder.parent.unlink()
        checkpoints.save(3, small(0), HISTORY)
        assert checkpoints.steps == [3]


def start_loop(folder):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "parity_tests.training.loop_with_checkpoints", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_loop(folder, lines):
    """Start the loop and kill it soon after so many lines of output; the steps it started and last saved at."""
    with start_loop(folder) as process:
        said = [int(process.stdout.readline().split()[1]) for _ in range(lines)]
        threading.Event().wait(random.uniform(0, 0.03))  # into the middle of something
        process.kill()
        assert process.wait() == -signal.SIGKILL
    return said[0], said[-1]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_run_killed_anywhere_ends_in_the_same_bits(kills, tmp_path):
    saves = loop.STEPS // loop.EVERY
    with start_loop(tmp_path / "unbroken") as unbroken_loop:
        reached = 0
        for _ in range(kills):
            start, last = kill_loop(tmp_path / "killed", lines=random.randint(2, saves // kills))
            assert start >= reached - loop.EVERY  # what was saved before the last save is there
            reached = last
        with start_loop(tmp_path / "killed") as last_loop:
            start = int(last_loop.stdout.readline().split()[1])
            last_loop.communicate()
        unbroken_loop.communicate()
    assert reached - loop.EVERY <= start < loop.STEPS
    assert (unbroken_loop.returncode, last_loop.returncode) == (0, 0)
    unbroken, killed = (np.load(tmp_path / name / "end.npz") for name in ("unbroken", "killed"))
    assert len(unbroken.files) > 5
    assert sorted(unbroken.files) == sorted(killed.files)
    assert all(unbroken[name].tobytes() == killed[name].tobytes() for name in unbroken.files)
    assert len(unbroken["history"]) == saves
