"""python train.py compare: trains every method over several seeds and writes a report of what mixing does.

Top down: `command.py` is the command, `settings.py` what it depends on, `cells.py` trains and measures, `planar.py` is
the two-dimensional problem, `summary.py` says what was found, `regime.py` whether the network fits its data,
`figures.py`, `tables.py` and `page.py` show it. `cells.py` has its seeds trained as one by `seeds.py`, and measures
with `attacks.py` and `corruptions.py`. `sweep.py` knows methods that differ in their alpha alone, `styles.py` how each
is drawn, and `papers.py` what the papers say.
"""

from jax_mix.training import needed  # noqa: F401 - says what is not installed
