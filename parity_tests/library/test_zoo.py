"""The zoo itself: every model runs, and what is told about its layers is found by computing, without any analysis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mix
from parity_tests.library.zoo import ZOO, in_evaluation
from parity_tests.library.zoo.computing import compiled, distance, partners_of
from parity_tests.tolerances import assert_close

N = 4
DIFFERENT = 0.01  # of the largest output; what is equal differs by less than a millionth


@pytest.mark.filterwarnings("ignore:layer .* is called more than once")
@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in ZOO])
def test_what_is_told_about_layers_is_so(kind):
    """At a layer with lam 0 the output is the partner's if the layer is a cut, and else it is not.

    Those that the owner would choose are cuts, at which mixing is neither that of the input nor of the output, and no
    two are the same.
    """
    model, variables, args, kwargs = in_evaluation(kind, n=N)
    told = kind.owner | kind.cuts | kind.not_cuts
    found = {layer.name for layer in jax_mix.list_layers(model, *args, variables=variables, **kwargs)}
    assert told | kind.options["also"] <= found, told | kind.options["also"] - found
    assert not (kind.cuts | kind.owner) & kind.not_cuts
    layers = sorted(told)
    is_float = jnp.issubdtype(args[0].dtype, jnp.floating)
    run = compiled(model, variables, kwargs, (*layers, "input") if is_float else tuple(layers))

    own = run(layers[0], 1.0, args, kwargs)
    assert all(np.all(np.isfinite(output)) for output in jax.tree.leaves(own))
    partners = run(layers[0], 1.0, *partners_of((args, kwargs)))
    for layer in layers:
        got = run(layer, 0.0, args, kwargs)
        if layer in kind.not_cuts:
            assert distance(got, partners) > DIFFERENT, f"{layer} is a cut"
        else:
            jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), got, partners)

    values = {"the outputs": jax.tree.map(lambda a, b: (a + b) / 2, own, partners)}
    if is_float and len(args) == 1:  # else the input is more than what is mixed
        values["the input"] = run("input", 0.5, args, kwargs)
    for layer in kind.owner.intersection(layers):
        value = run(layer, 0.5, args, kwargs)
        for other, its in values.items():
            assert distance(value, its) > DIFFERENT / 10, f"mixing at {layer} is mixing at {other}"
        values[layer] = value
