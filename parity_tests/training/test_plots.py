"""jax_mix/training/plots.py and files.py: pictures are written whole, and say what was drawn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from matplotlib.text import Text

import jax_mix
from jax_mix.training import files, plots
from jax_mix.training.errors import UserError

pytestmark = pytest.mark.pictures

NAMES = ("cat", "dog", "newt")
IMAGE = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
LABEL = np.array([0, 1, 2, 1, 0])


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved = []
    save = plots.save

    def spy(figure, path):
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save", spy)
    return saved


def texts(figure):
    return [figure.get_suptitle(), *(text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()))]


def check_png(path):
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left
    with PIL.Image.open(path) as picture:
        picture.verify()
        assert picture.format == "PNG"
        assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (None, ["one batch, not mixed", "cat", "newt"]),
        (
            jax_mix.Mix(jnp.array([0.75, 1, 0.5, 0.5, 0.5]), jnp.array([2, 0, 1, 4, 3])),
            ["one mixed batch", "sample 2\nnewt", "λ = 0.75\n0.75 cat + 0.25 newt"],
        ),
        (
            jax_mix.Mix(jnp.array([0.75] * 5), jnp.array([2, 0, 1, 4, 3]), layer="layer1"),
            [
                "one mixed batch, drawn for the hidden layer 'layer1', shown on the input",
                "mixed",
                "λ = 0.75\n0.75 cat + 0.25 newt",
            ],
        ),
        (
            jax_mix.Mix.from_box(jnp.array([2, 0, 1, 4, 3]), jnp.array([[0, 2, 4, 6]] + [[0, 0, 8, 4]] * 4), (8, 8)),
            ["λ = 0.75\n0.75 cat + 0.25 newt", "λ = 0.50\n0.50 dog + 0.50 cat"],
        ),
        (
            jax_mix.Mix(
                jnp.array([0.75, 0.5, 1, 1, 1]),
                jnp.array([2, 0, 1, 4, 3]),
                jnp.array([[0, 2, 4, 6]] + [[0, 0, 0, 0]] * 4),
                image_size=(8, 8),
                outside=jnp.array([1, 0.5, 1, 1, 1]),
            ),
            ["λ = 0.75\n0.75 cat + 0.25 newt", "λ = 0.50\n0.50 dog + 0.50 cat"],
        ),
    ],
    ids=["none", "mixup", "manifold", "cutmix", "one of several"],
)
def test_a_mixed_batch_is_drawn_with_its_draw(mix, expected, figures, tmp_path):
    plots.plot_mixed_batch(tmp_path / "batch.png", IMAGE, LABEL, NAMES, mix)
    check_png(tmp_path / "batch.png")
    assert set(expected) <= set(texts(figures[0])), texts(figures[0])


def test_the_rows_are_image_partner_and_mix(figures, tmp_path):
    mix = jax_mix.Mix(jnp.array([0.75, 1, 0.5, 0.5, 0.5]), jnp.array([2, 0, 1, 4, 3]))
    plots.plot_mixed_batch(tmp_path / "batch.png", IMAGE, LABEL, NAMES, mix, limit=3)
    shown = np.stack([axes.images[0].get_array() for axes in figures[0].axes]).reshape(3, 3, 8, 8, 3)
    pixels = IMAGE.astype(np.float64) / IMAGE.max()
    lam = np.array([0.75, 1, 0.5]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(shown[0], pixels[:3], rtol=1e-6)
    np.testing.assert_allclose(shown[1], pixels[[2, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(shown[2], lam * pixels[:3] + (1 - lam) * pixels[[2, 0, 1]], rtol=1e-5, atol=1e-6)


def test_a_sampled_manifold_draw_and_gray_images_can_be_drawn(figures, tmp_path):
    method = jax_mix.ManifoldMixup(0.4, layers=("stem",), use_input=False)
    mix = method.sample(jax.random.key(0), (5, 8, 8, 1))
    plots.plot_mixed_batch(tmp_path / "batch.png", IMAGE[..., :1], LABEL, NAMES, mix, limit=2)
    check_png(tmp_path / "batch.png")
    assert "hidden layer 'stem'" in figures[0].get_suptitle()


def test_a_learning_curve_of_one_epoch_can_be_drawn(tmp_path):
    plots.plot_learning_curve(tmp_path / "c.png", [{"epoch": 1, "loss": 1.0, "nll": 0.5, "accuracy": 0.9}], title="run")
    check_png(tmp_path / "c.png")


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        files.write_json(path, {"accuracy": object()})

    def interrupted():
        with files.write_atomically(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_checking_a_folder_makes_nothing(tmp_path):
    files.check_writable(tmp_path / "runs" / "first")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out: cannot write to the folder .*file.first"):
        files.check_writable(tmp_path / "file" / "first")


@pytest.mark.parametrize("name", ["US$", "$x$", "$\\frac{$", "a_b^c", "50%", "naïve", "\\alpha", "日本"])
@pytest.mark.filterwarnings("ignore:Glyph .* missing from:UserWarning")  # a square, where the font has no such letter
def test_any_name_is_drawn_as_it_is(name, figures, tmp_path):
    history = [{"epoch": 1, "loss": 1.0, "nll": 1.0, "accuracy": 0.5}]
    plots.plot_learning_curve(tmp_path / "curve.png", history, title=name)
    plots.plot_mixed_batch(tmp_path / "batch.png", IMAGE, LABEL, [name] * 3, None)
    assert figures[0].get_suptitle() == name
    for figure in figures:
        drawn = [text for text in figure.findobj(Text) if text.get_text() == name]
        assert drawn
        assert not any(text.get_parse_math() for text in drawn)


def test_the_learning_curve_draws_what_its_labels_say(figures, tmp_path):
    history = [{"epoch": k, "loss": 3.0 / k, "nll": 2.0 / k, "accuracy": k / 10} for k in (1, 2, 3)]
    plots.plot_learning_curve(tmp_path / "curve.png", history, title="it")
    left, right = figures[0].axes
    drawn = {line.get_label(): line.get_ydata() for line in left.get_lines()}
    assert {name: list(y) for name, y in drawn.items()} == {
        "training loss, mixed batches": [each["loss"] for each in history],
        "test NLL": [each["nll"] for each in history],
    }
    (accuracy,) = right.get_lines()
    np.testing.assert_allclose(accuracy.get_ydata(), [10, 20, 30])
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in (*left.get_lines(), accuracy))
    assert (left.get_ylabel(), right.get_ylabel()) == ("nats", "test accuracy, %")


@pytest.mark.parametrize("classes", [2, 31, 61])
def test_a_confusion_matrix_is_drawn_a_row_for_each_class(classes, figures, tmp_path):
    counts = np.zeros((classes, classes), int)
    counts[0, :2] = (3, 1)
    names = [f"${k}" for k in range(classes)]
    plots.plot_confusion(tmp_path / "confusion.png", counts, names, title="it on photos")
    check_png(tmp_path / "confusion.png")
    axes = figures[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array()[0, :2], [0.75, 0.25])
    assert (axes.get_ylabel(), axes.get_xlabel(), axes.get_title()) == ("is", "taken for", "it on photos")
    assert [label.get_text() for label in axes.get_yticklabels()] == (names if classes <= 60 else [])
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert written == ({((0, 0), "3"), ((1, 0), "1")} if classes <= 30 else set())
