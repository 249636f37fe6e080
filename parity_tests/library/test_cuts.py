"""Which layers are cuts, what goes around the others, and what is chosen, on every kind of model in the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mix
from jax_mix._call import as_call
from jax_mix._layers import find_layers
from parity_tests.library.zoo import ZOO, in_evaluation
from parity_tests.library.zoo.computing import compiled, distance, partners_of
from parity_tests.tolerances import assert_close

N = 4
DIFFERENT = 1e-4  # of the largest output; what is equal differs by less than a millionth
KINDS = [pytest.param(kind, id=kind.name) for kind in ZOO if "unseen" not in kind.options]


@pytest.mark.filterwarnings("ignore:layer .* is called more than once")
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_a_cut_just_if_the_output_at_lam_0_is_the_partners(kind):
    model, variables, args, kwargs = in_evaluation(kind, n=N)
    found = find_layers(as_call(model, args, kwargs, variables, None, ()))
    layers = [layer for layer in found.layers if layer.batch and not layer.looped]
    name = {l.name: f"{l.name}[{found.selectors[l.name]}]" if l.name in found.selectors else l.name for l in layers}
    is_float = jnp.issubdtype(args[0].dtype, jnp.floating)
    run = compiled(model, variables, kwargs, (*name.values(), *["input"] * is_float))

    own = run(name[layers[0].name], 1.0, args, kwargs)
    partners = run(name[layers[0].name], 1.0, *partners_of((args, kwargs)))
    halves: dict[str, object] = {}
    for layer in layers:
        got = run(name[layer.name], 0.0, args, kwargs)
        if not layer.cut:
            assert layer.around, layer
            assert distance(got, partners) > DIFFERENT, f"{layer.name} is a cut"
            continue
        assert not layer.around, layer
        jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), got, partners)
        if layer.same_as not in ("", "output"):  # after an output that is no logits, weights decide and not values
            half = run(name[layer.name], 0.5, args, kwargs)
            same = halves.setdefault(layer.same_as, run(name.get(layer.same_as, layer.same_as), 0.5, args, kwargs))
            jax.tree.map(lambda a, b: assert_close(a, b, "another order of summation"), half, same)
    assert_close(own, run(name[layers[0].name], 1.0, args, kwargs), "same program")


@pytest.mark.parametrize("kind", KINDS)
def test_the_choice_is_the_owners(kind):
    model, variables, args, kwargs = in_evaluation(kind, n=N)
    layers = {l.name: l for l in jax_mix.list_layers(model, *args, variables=variables, **kwargs)}
    assert {name for name in kind.cuts | kind.not_cuts if layers[name].batch and layers[name].cut} == kind.cuts
    method = jax_mix.ManifoldMixup(1.0, use_input=False)
    if not kind.owner | kind.options["also"]:
        with pytest.raises(ValueError, match="no eligible layer was found in the model"):
            method.bind(model, *args, variables=variables, **kwargs)
        return
    chosen = {name.partition("[")[0] for name in method.bind(model, *args, variables=variables, **kwargs).layers}
    assert kind.owner <= chosen <= kind.owner | kind.options["also"]
