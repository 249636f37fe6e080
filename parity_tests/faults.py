"""Small faults, planted one at a time in a copy of the project: the test that is named has to turn red for each.

python -m parity_tests.faults: all of them, in some minutes.

python -m parity_tests.faults compare pgd: those with "compare" or "pgd" in their file, text or test.

It ends with status 1 if a test stayed green, or could not be run. parity_tests/parity/test_mutations.py does the same
for the library's arithmetic, without a copy.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs", "shared", "docs", "benchmarks")


class Fault(NamedTuple):
    """`old` stands in `file` once; with `new` in its place `test` must fail."""

    file: str  # in jax_mix
    old: str
    new: str
    test: str  # file::function, in parity_tests


FAULTS = [Fault(*fault) for fault in (
    # What is measured of a run, and its line of cells.csv.
    ("compare/cells.py", "return 1 - float(evaluation.accuracy", "return float(evaluation.accuracy", "compare/test_measuring.py::test_errors_of_attacked_and_corrupted_images"),
    ("compare/cells.py", "axis=-1) != some.label", "axis=-1) == some.label", "compare/test_measuring.py::test_errors_of_attacked_and_corrupted_images"),
    ("compare/cells.py", "float(dataset.train.image.max())", "255.0", "compare/test_measuring.py::test_errors_of_attacked_and_corrupted_images"),
    ("compare/cells.py", "np.random.default_rng(0).permutation(n)[:", "np.arange(n)[:", "compare/test_measuring.py::test_errors_of_attacked_and_corrupted_images"),
    ("compare/cells.py", "clean=cell.noise == 0", "clean=True", "compare/test_measuring.py::test_a_run_with_wrong_labels_is_not_attacked"),
    ("compare/cells.py", "some, train = self._some(cell, _FITTED), self._dataset.train", "some, train = self._some(cell, _FITTED), self._data(cell).train", "compare/test_measuring.py::test_how_well_training_images_are_fitted"),
    ("compare/cells.py", "(said == given)[wrong]", "(said == true)[wrong]", "compare/test_measuring.py::test_how_well_training_images_are_fitted"),
    ("compare/cells.py", "evaluation.nll(logits, given)", "evaluation.nll(logits, true)", "compare/test_measuring.py::test_how_well_training_images_are_fitted"),
    ("compare/regime.py", 'row["method"] == "none"', "True", "compare/test_regime.py::test_what_the_sentence_is_of"),
    ("compare/regime.py", "if error <= _FITS:", "if error < _FITS:", "compare/test_regime.py::test_the_sentence"),
    ("compare/regime.py", 'row["noise"] == 0 and "train_error" in row', '"train_error" in row', "compare/test_regime.py::test_the_sentence"),
    ("compare/regime.py", "fall > before.std(ddof=1)", "fall > 0", "compare/test_regime.py::test_a_curve_falls_if_its_last_fifth_is_lower_by_more_than_the_fifth_before_scatters"),
    ("compare/regime.py", '("error", "true_error", "learned")', '("true_error", "error", "learned")', "compare/test_regime.py::test_the_table_of_wrong_labels_learned_by_heart"),
    ("compare/figures.py", '100 * (1 - epoch["fit_accuracy"])', '100 * epoch["fit_accuracy"]', "compare/test_regime.py::test_learning_curves_show_training_error_where_it_is_known"),
    ("compare/figures.py", "(found.difference.high - found.difference.low) / 2", "(found.difference.high - found.difference.low)", "compare/test_sweep.py::test_the_curves_are_means_by_alpha_with_the_interval_of_the_difference"),
    ("compare/tables.py", 'row["cells"][i] for row in part', 'row["cells"][0] for row in part', "compare/test_sweep.py::test_tables_of_claims_have_a_row_for_each_method"),
    ("compare/tables.py", "of[a].mean == low", "of[a].mean != low", "compare/test_sweep.py::test_the_table_of_alphas"),
    ("compare/papers.py", 'if verdicts == {"better"} else', 'if "better" in verdicts else', "compare/test_sweep.py::test_a_claim_of_several_numbers_holds_in_part"),
    ("compare/sweep.py", "sorted(methods, key=lambda each: alpha(comparison, each) or 0.0)", "list(methods)", "compare/test_sweep.py::test_families"),
    ("compare/styles.py", "(-_DARKEST - _LIGHTEST)", "(_DARKEST - _LIGHTEST) * 0", "compare/test_sweep.py::test_a_family_has_one_hue_darker_for_more_alpha"),
    ("compare/attacks.py", "(wrong / n).tolist()", "(wrong / n)[::-1].tolist()", "compare/test_measuring.py::test_an_attack_has_its_own_error_for_each_radius_in_the_order_given"),
    ("compare/attacks.py", "adversarial, radius / 4,", "adversarial, radius / 3,", "compare/test_measuring.py::test_steps_of_pgd_are_a_quarter_of_the_radius"),
    ("compare/attacks.py", "& counts).sum(1)", ").sum(1)", "compare/test_measuring.py::test_an_attack_has_its_own_error_for_each_radius_in_the_order_given"),
    ("compare/summary.py", '"last": history[-1]', '"last": history[0]', "compare/test_report.py::test_a_run_is_a_line_of_cells_csv"),
    ("compare/summary.py", "best = min(history,", "best = min(history[::-1],", "compare/test_report.py::test_a_run_is_a_line_of_cells_csv"),
    ("compare/summary.py", 'f"{name}_error": 1 - epoch["accuracy"]', 'f"{name}_error": epoch["accuracy"]', "compare/test_report.py::test_a_run_is_a_line_of_cells_csv"),
    ("compare/summary.py", "statistics.fmean(errors.values())", "statistics.median(errors.values())", "compare/test_report.py::test_a_run_is_a_line_of_cells_csv"),
    ("compare/summary.py", "for radius, error in pairs}", "for radius, error in zip(adversarial['radius'], adversarial['fgsm'])}", "compare/test_report.py::test_a_run_is_a_line_of_cells_csv"),
    ("compare/planar.py", "axis=-1) < SURE", "axis=-1) > SURE", "compare/test_measuring.py::test_what_is_measured_on_the_plane"),
    ("compare/planar.py", "argmax(-1) != label", "argmax(-1) == label", "compare/test_measuring.py::test_what_is_measured_on_the_plane"),
    ("compare/planar.py", "on_grid[0, :, 1]", "on_grid[0, :, 0]", "compare/test_measuring.py::test_what_is_measured_on_the_plane"),
    ("compare/settings.py", '"label_noise": noise, "seed": seed', '"label_noise": noise, "seed": 0', "compare/test_measuring.py::test_each_run_is_what_its_cell_says"),
    ("compare/settings.py", 'values["alpha"] = alpha', 'values["alpha"] = 1.0', "compare/test_measuring.py::test_each_run_is_what_its_cell_says"),
    ("compare/command.py", "(cell.method, cell.noise, None if", "(cell.method, 0, None if", "compare/test_measuring.py::test_runs_that_are_trained_as_one_differ_in_their_seed_alone"),
    ("compare/command.py", 'known["seeds"] == seeds', 'known["seeds"] >= 0', "compare/test_measuring.py::test_the_plane_is_kept_for_as_many_seeds"),
    ("compare/command.py", "(hidden or draws)[0]", "draws[0]", "compare/test_measuring.py::test_the_draws_that_are_shown"),
    ("training/run.py", "history[-1][name] for name in", "history[0][name] for name in", "training/test_run.py::test_metrics_are_of_the_last_epoch_and_have_the_history"),
    ("training/plots.py", '100 * record["accuracy"]', 'record["accuracy"]', "training/test_plots.py::test_the_learning_curve_draws_what_its_labels_say"),
    ("training/plots.py", '[record["nll"] for', '[record["loss"] for', "training/test_plots.py::test_the_learning_curve_draws_what_its_labels_say"),
    # Differences, intervals, verdicts.
    ("compare/summary.py", "of_method[seed] - reference[seed]", "reference[seed] - of_method[seed]", "compare/test_report.py::test_differences_are_those_of_the_method_less_the_baseline"),
    ("compare/summary.py", "among=len(comparison.methods) - 1", "among=len(comparison.methods)", "compare/test_report.py::test_differences_are_those_of_the_method_less_the_baseline"),
    ("compare/summary.py", '"better" if self.high < 0 else "worse" if self.low > 0', '"worse" if self.high < 0 else "better" if self.low > 0', "compare/test_report.py::test_the_verdict_is_of_the_side_of_zero"),
    ("compare/summary.py", '{"better": "less", "worse": "more"', '{"better": "more", "worse": "less"', "compare/test_report.py::test_the_plane_in_words"),
    ("compare/summary.py", 'r["noise"] == claim.noise', 'r["noise"] >= claim.noise', "compare/test_report.py::test_mean_and_deviation_of_a_method"),
    ("compare/summary.py", "statistics.stdev(self.values.values())", "statistics.pstdev(self.values.values())", "compare/test_report.py::test_mean_and_deviation_of_a_method"),
    ("compare/summary.py", 'Claim("last_nll", "NLL", scale=1, unit="nats")', 'Claim("last_nll", "NLL")', "compare/test_report.py::test_the_table_of_means_and_deviations"),
    ("compare/summary.py", 'Claim("last_ece", "Calibration', 'Claim("best_ece", "Calibration', "compare/test_report.py::test_the_table_of_means_and_deviations"),
    # Words.
    ("compare/page.py", '"better": "lowered by", "worse": "raised by"', '"better": "raised by", "worse": "lowered by"', "compare/test_report.py::test_the_sentences_of_each_part"),
    ("compare/page.py", '"better": "lowers it", "worse": "raises it"', '"better": "raises it", "worse": "lowers it"', "compare/test_report.py::test_the_first_sentences"),
    ("compare/page.py", 'ece=_verdicts(tables.line_of(found, "last_ece"))', 'ece=_verdicts(tables.line_of(found, "last_nll"))', "compare/test_report.py::test_the_sentences_of_each_part"),
    ("compare/page.py", "mean, low, high = (100 * value", "mean, high, low = (100 * value", "compare/test_report.py::test_the_first_sentences"),
    ("compare/page.py", "others.sort(key=lambda each: each.difference.mean if", "others.sort(key=lambda each: -each.difference.mean if", "compare/test_report.py::test_of_two_that_lower_it_the_larger_is_first"),
    ("compare/page.py", '{first.mean:.2%}, {from_base}', '{base.mean:.2%}, {from_base}', "compare/test_report.py::test_the_first_sentences"),
    ("compare/page.py", "zip(values[key], of[\"none\"][key]", "zip(of[\"none\"][key], values[key]", "compare/test_report.py::test_the_plane_in_words"),
    ("compare/page.py", "strict=True)], among=2)", "strict=True)], among=1)", "compare/test_report.py::test_the_intervals_of_the_plane_are_two"),
    ("compare/papers.py", "if each.values), key=lambda each: each.mean)", "if each.values), key=lambda each: -each.mean)", "compare/test_report.py::test_the_order_of_methods_beside_the_papers"),
    ("compare/page.py", '== (method, noise) for r in records)', '== (method, 0.0) for r in records)', "compare/test_report.py::test_failures_are_counted_by_method_and_share_of_labels"),
    ("compare/page.py", "f\"{1 + len(comparison.noise_levels)} noise", "f\"{len(comparison.noise_levels)} noise", "compare/test_report.py::test_what_the_runs_were"),
    ("compare/page.html", '"agrees" if order.agrees else "does not agree"', '"does not agree" if order.agrees else "agrees"', "compare/test_report.py::test_whether_the_order_agrees_is_said"),
    ("compare/page.html", "better than {{ base }} in {{ count.better }}", "better than {{ base }} in {{ count.worse }}", "compare/test_report.py::test_the_table_of_claims_and_how_it_is_counted"),
    ("compare/papers.py", 'ORDER = ("manifold", "mixup"', 'ORDER = ("mixup", "manifold"', "compare/test_report.py::test_the_order_of_methods_beside_the_papers"),
    # Figures.
    ("compare/figures.py", "errors[-1] if last else min(errors)", "min(errors) if last else errors[-1]", "compare/test_figures.py::test_label_noise_has_the_last_and_the_best_epoch_at_each_share"),
    ("compare/figures.py", "(count * each).sum(0)", "(count.mean() * each).sum(0)", "compare/test_figures.py::test_reliability_weighs_each_seed_by_how_many_predictions_it_has"),
    ("compare/figures.py", "axes.plot(confidence[there], accuracy[there]", "axes.plot(accuracy[there], confidence[there]", "compare/test_figures.py::test_reliability_weighs_each_seed_by_how_many_predictions_it_has"),
    ("compare/figures.py", "np.array([found[attack] for found", "np.array([found['pgd'] for found", "compare/test_figures.py::test_attacks_have_a_panel_each"),
    ("compare/figures.py", '100 * (1 - epoch["accuracy"])', '100 * epoch["accuracy"]', "compare/test_figures.py::test_learning_curves_are_means_over_seeds_with_a_band_of_one_deviation"),
    ("compare/figures.py", 'axes.annotate("better", (0.02', 'axes.annotate("worse", (0.02', "compare/test_figures.py::test_differences_are_drawn_from_bottom_to_top_with_their_intervals_and_seeds"),
    ("compare/figures.py", 'origin="lower"', 'origin="upper"', "compare/test_figures.py::test_boundaries_are_drawn_from_below_and_blue_is_class_1"),
    ("compare/figures.py", "100 * np.mean(of_seeds, 0)", "100 * np.max(of_seeds, 0)", "compare/test_figures.py::test_corruptions_have_a_panel_each"),
    # Corruptions.
    ("compare/corruptions.py", "(0, pixels, pixels, 0)", "(0, pixels, pixels, pixels)", "compare/test_corruptions.py::test_blur_is_scipys_of_each_channel_by_itself"),
    ("compare/corruptions.py", "rng.standard_normal(image.shape, np.float32)", "rng.standard_normal(image.shape[:-1], np.float32)[..., None]", "compare/test_corruptions.py::test_noise_is_drawn_for_each_pixel_image_and_channel"),
    ("compare/corruptions.py", "rng.random(len(image)) < 0.5", "rng.random(len(image)) < 1.5", "compare/test_corruptions.py::test_rotation_turns_both_ways_about_the_middle"),
    # Chunks.
    ("training/data/dataset.py", "range(0, len(image), chunk)", "range(0, len(image) - chunk + 1, chunk)", "training/test_chunks.py::test_mean_and_deviation"),
    ("training/data/dataset.py", "image[start : start + chunk]", "image[start : start + chunk - (chunk > 1)]", "training/test_chunks.py::test_mean_and_deviation"),
    ("training/data/tfds_sets.py", "range(0, len(source), _CHUNK)", "range(0, len(source) - 400, _CHUNK)", "training/test_chunks.py::test_a_set_of_tfds"),
    ("training/data/folder.py", "labelled[start : start + many]", "labelled[start : start + many - (many < len(labelled))]", "training/test_chunks.py::test_a_folder"),
    ("training/data/folder.py", "range(0, len(labelled), many)", "range(0, len(labelled) - many + 1, many)", "training/test_chunks.py::test_a_folder"),
    ("training/data/cache.py", "zlib.crc32(part, crc)", "zlib.crc32(part)", "training/test_chunks.py::test_the_checksum_of_a_file_in_parts"),
    ("training/evaluation.py", "np.arange(start, start + batch_size)", "np.arange(0, batch_size)", "training/test_chunks.py::test_predictions"),
    ("training/evaluation.py", "jax.device_get(logits))[:n]", "jax.device_get(logits))[-n:]", "training/test_chunks.py::test_predictions"),
    # A whole run.
    ("training/step.py", "recipe.method_at(optimizer.step[...])", "recipe.method_at(jnp.int32(0))", "training/test_by_hand.py::test_a_run_alone"),
    ("training/step.py", "/ 2 * (self.alpha_end - start)", "* (self.alpha_end - start)", "training/test_by_hand.py::test_seeds_trained_as_one"),
    ("training/step.py", "batch.label, mix, recipe.loss, drop_key, recipe.split_over)", "batch.label, mix)", "training/test_by_hand.py::test_a_run_alone"),
    ("training/step.py", "mixed_hits(logits, label, mix)", "mixed_hits(logits, label, None)", "training/test_by_hand.py::test_a_run_alone"),
    ("training/loop.py", "if len(hits) == steps else {}", "", "training/test_mix.py::test_a_run_that_a_version_without_training_accuracy_has_begun_goes_on"),
    ("training/loop.py", "losses, hits = [], []", "losses = []", "training/test_by_hand.py::test_a_run_alone"),
    ("_sampling.py", "jnp.maximum(jnp.asarray(probabilities, jnp.float32), 0)", "jnp.asarray(probabilities, jnp.float32)", "library/test_sampling.py::test_a_schedule_that_ends_a_rounding_below_zero_is_at_zero"),
    # What --mix says.
    ("training/methods.py", 'if alpha is not None and part.leaves_alpha:', 'if alpha is not None and part.name in METHODS:', "training/test_mix.py::test_flags_reach_the_methods_that_leave_them_open"),
    ("training/methods.py", "round(rest / sharing, 9)", "round(1 / len(parts), 9)", "training/test_mix.py::test_what_is_written_is_made"),
    ("training/methods.py", "per=per or", "per=", "training/test_mix.py::test_flags_reach_the_methods_that_leave_them_open"),
    ("training/methods.py", "probabilities=method.probabilities, per=method.per)", "per=method.per)", "training/test_mix.py::test_every_row_of_the_recipes_page_can_be_trained"),
    ("training/methods.py", 'f"{name[:70]}-{digest}"', "name[:80]", "training/test_mix.py::test_names_of_files_are_safe_and_differ"),
    ("training/methods.py", r'r"\+(?!\d)"', r'r"\+"', "training/test_mix.py::test_what_is_written_is_made"),
    ("training/build.py", "if methods.leaves_layers(each) else each", "if hasattr(each, 'use_input') else each", "training/test_mix.py::test_layers_are_those_of_the_methods_that_leave_them_open"),
    ("training/about.py", "layers=_layers(prepared.recipe.method)", "layers=None", "training/test_mix.py::test_a_run_of_several_methods_goes_on_to_the_same_bytes"),
    ("compare/settings.py", "if len(parts) == 1:", "if written is None:", "compare/test_settings.py::test_methods_are_what_a_run_can_be_mixed_by"),
    ("training/loop.py", "epoch <= config.epochs - config.mix_off_epochs", "epoch < config.epochs - config.mix_off_epochs", "training/test_by_hand.py::test_a_run_alone"),
    ("compare/seeds.py", "epoch <= config.epochs - config.mix_off_epochs", "epoch < config.epochs - config.mix_off_epochs", "training/test_by_hand.py::test_seeds_trained_as_one"),
    ("compare/seeds.py", "first = (epoch - 1) * epoch_steps", "first = 0 * epoch_steps", "training/test_by_hand.py::test_seeds_trained_as_one"),
    ("training/build.py", "nnx.Rngs(split_seed(config)[0]))\n    steps", "nnx.Rngs(config.seed))\n    steps", "training/test_by_hand.py::test_a_run_alone"),
    ("training/data/feeding.py", "_order(key_data, epoch + 1,", "_order(key_data, epoch,", "training/test_by_hand.py::test_a_run_alone"),
    ("training/data/feeding.py", "jax.random.fold_in(key, epoch)", "jax.random.fold_in(key, epoch - 1)", "training/test_by_hand.py::test_seeds_trained_as_one"),
    ("training/data/feeding.py", "slice(process * part, (process + 1) * part)", "slice(0, part)", "training/test_feeding.py::test_each_process_reads_its_part"),
    ("training/ema.py", "jnp.minimum(decay, (1 + step)", "jnp.minimum(decay, step", "training/test_step.py::test_averaged_weights_are_evaluated"),
    ("training/optimizers.py", "momentum: float | optax.Schedule = 0.9", "momentum: float | optax.Schedule = 0.9 if schedule != 'cosine' else 0.95", "parity/test_optimizer.py::test_momentum_stays_at_its_value_on_all_but_one_cycle"),
    ("training/optimizers.py", "0.1 ** at.count(step)", "0.1", "parity/test_optimizer.py::test_milestones_in_one_step_divide_twice"),
    # What is done with a run.
    ("training/trained.py", '"average" if about.averaged else "model"', '"model"', "training/test_trained.py::test_it_is_as_good_as_its_run_says_to_the_last_digit"),
    ("training/trained.py", "    model.eval()", "    pass", "training/test_trained.py::test_a_models_own_file_is_kept_with_its_run"),
    ("training/trained.py", "require(step == wanted,", "require(True,", "training/test_trained.py::test_a_folder_that_cannot_be_used_is_told_and_left_as_it_is"),
    ("training/about.py", "bits=config.bits or 16", "bits=16", "training/test_trained.py::test_bits_that_are_in_use_are_those_of_the_run"),
    ("training/about.py", "str(path.parent.absolute())", "None", "training/test_trained.py::test_a_models_own_file_is_kept_with_its_run"),
    ("training/confusion.py", "np.asarray(label, np.int64) * classes + np.argmax(logits, axis=1)", "np.argmax(logits, axis=1) * classes + np.asarray(label, np.int64)", "training/test_using.py::test_the_confusion_matrix_is_scikit_learns"),
    ("training/predicting.py", "np.argsort(-row", "np.argsort(row", "training/test_using.py::test_what_is_predicted_is_told_in_three_forms"),
    ("training/evaluating.py", "labels = np.repeat(numbers,", "labels = np.repeat(np.arange(len(numbers)),", "training/test_using.py::test_a_folder_is_measured_by_the_names_of_its_classes"),
    ("training/exporting.py", "jnp.floor(each / 2)", "jnp.floor(wide - columns)", "training/test_exporting.py::test_images_are_scaled_as_pillow_does_but_for_rounding"),
    ("training/models/torch_names.py", "4: (3, 2, 0, 1)", "4: (3, 2, 1, 0)", "parity/test_exported_weights.py::test_weights_that_came_from_pytorch_go_back_to_the_last_bit"),
    ("training/loop.py", "saves = saves or has_ended(history, config.patience)", "pass", "training/test_best.py::test_a_run_ends_and_keeps_its_best"),
    ("training/loop.py", "range(done // epoch_steps + 1,", "range(len(history) + 1,", "training/test_best.py::test_test_images_are_looked_at_after_every_so_many_epochs"),
    ("training/loop.py", "best.forget(after=done)", "pass", "training/test_best.py::test_a_run_that_lost_the_checkpoints_of_its_best_makes_it_again"),
    ("training/run.py", '"best",  #', "#", "training/test_best.py::test_a_run_ends_and_keeps_its_best"),
    ("training/checkpoints.py", "or wanted[name] is not False", "or True", "training/test_depends.py::test_a_flag_that_an_earlier_version_had_not_is_unused_in_its_runs"),
    # Data.
    ("training/data/subset.py", "np.sort(np.random.default_rng(0).permutation(n)[:count])", "np.arange(count)", "training/test_subset.py::test_few_training_images_are_drawn_from_all"),
    ("training/data/subset.py", "normalize=measured(few)", "normalize=measured(dataset.train.image)", "training/test_subset.py::test_few_training_images_are_the_same_ones_each_time"),
    ("training/data/subset.py", "np.asarray(jax.random.permutation(which_key, n))", "np.arange(n)", "training/test_subset.py::test_wrong_labels_are_drawn_from_all"),
    ("training/data/folder.py", "made_of=[str(root.resolve()), image_size, bits,", "made_of=[str(root.resolve()), bits,", "training/test_depends.py::test_a_cache_is_of_all_that_decoded_images_depend_on"),
    ("training/data/folder.py", "made_of=[str(root.resolve()), image_size, bits, broken,", "made_of=[str(root.resolve()), image_size, broken,", "training/test_depends.py::test_a_cache_is_of_all_that_decoded_images_depend_on"),
    ("training/data/tfds_sets.py", "made_of=[image_size, str(", "made_of=[str(", "training/test_depends.py::test_so_it_is_of_a_set_of_tfds"),
    ("training/data/dataset.py", "(self.train.label, self.test.label, self", "(self.train.label, self", "training/test_depends.py::test_the_fingerprint_is_another_one_of_other"),
    ("training/data/dataset.py", "self.normalize.mean, self.normalize.std)", "self.normalize.mean)", "training/test_depends.py::test_the_fingerprint_is_another_one_of_other"),
    ("training/data/source.py", "left, top = (wide - columns) // 2, (high - rows) // 2", "left, top = 0, (high - rows) // 2", "training/test_folder.py::test_images_are_scaled_and_cut_square"),
    ("training/data/splitting.py", '_by_hash(those, f"{name}/")[: counts[name]]', "those[: counts[name]]", "training/test_subset.py::test_the_test_images_of_a_folder_are_not_the_first"),
    ("training/config.py", '"checkpoint_every", *HERE)', '"checkpoint_every", "label_smoothing", *HERE)', "training/test_depends.py::test_a_run_does_not_go_on_with_another"),
    ("training/config.py", 'MAY_DIFFER = ("data_dir", "cache_dir", "feed", "workers",', 'MAY_DIFFER = ("data_dir", "cache_dir", "feed",', "training/test_depends.py::test_a_run_goes_on_with_another"),
    # Several processes.
    ("training/last_words.py", "if line.startswith(_GONE) or _FATAL in line:", "if line.startswith(_GONE):", "training/test_last_words.py::test_the_last_words_are_a_sentence"),
    ("training/last_words.py", "which and (which[1] or which[2])", "which and which[1]", "training/test_last_words.py::test_the_last_words_are_a_sentence"),
    ("training/last_words.py", "    yield from held\n", "", "training/test_last_words.py::test_what_is_said_of_others_comes_at_the_end_if_none_is_gone"),
    ("training/last_words.py", "        os.waitpid(beside.pid, 0)", "        pass", "training/test_last_words.py::test_a_process_that_goes_on_alone_has_its_stderr_again"),
    ("training/signals.py", "self.signal = self.own", "self.signal = _PASSED_ON", "training/test_signals.py::test_of_several_processes_each_ends_by_the_signal_it_got"),
    ("training/signals.py", "os.kill(os.getpid(), _PASSED_ON)", "pass", "training/test_signals.py::test_of_several_processes_each_ends_by_the_signal_it_got"),
    ("training/signals.py", "if before in (None, signal.SIG_IGN) or", "if before is None or", "training/test_signals.py::test_ending_at_once_is_for_a_while"),
    ("training/last_words.py", "os._exit(1)", "os._exit(0)", "training/test_last_words.py::test_the_status_and_all_that_is_said"),
    ("training/last_words.py", "barrier failed|", "", "training/test_last_words.py::test_which_errors_are_of_another_process"),
    # Folders of images, and what is made of them.
    ("training/files.py", "return _CONTROLS.sub(lambda found: found[0].encode(\"unicode_escape\").decode(), text)", "return text", "training/test_hostile_folders.py::test_names_that_would_move_the_cursor_are_spelled_out"),
    ("training/files.py", "[-_LONGEST:]", "", "training/test_hostile_folders.py::test_long_names_are_no_hindrance"),
    ("training/files.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "training/test_run.py::test_a_folder_is_one_runs_until_its_process_ends"),
    ("training/data/pixels.py", "in (5, 6, 7, 8)", "in (5, 6, 7, 8, 9)", "training/test_hostile_folders.py::test_a_picture_is_turned_as_its_camera_says"),
    ("training/data/pixels.py", "image.getexif().get(0x0112) in", "1 in", "training/test_hostile_folders.py::test_a_picture_is_turned_as_its_camera_says"),
    ("training/data/pixels.py", ".get(_PHOTOMETRIC) == 0", ".get(_PHOTOMETRIC) == 9", "training/test_pixels.py::test_where_white_is_0_values_are_turned_round"),
    ("training/data/pixels.py", "values = 2**bits - 1 - values", "values = 2**bits - values", "training/test_pixels.py::test_where_white_is_0_values_are_turned_round"),
    ("training/data/pixels.py", 'image.format != "MPO" and ', "", "training/test_pixels.py::test_a_phones_preview_is_no_second_image"),
    ("training/data/listing.py", '"lost+found", ', "", "training/test_layout.py::test_what_is_left_out_is_counted_and_named_at_each_start"),
    ("training/data/augment.py", "min(height, width) // 8", "max(height, width) // 8", "training/test_data.py::test_an_oblong_image_is_shifted_by_an_eighth_of_its_shorter_side"),
    ("training/data/augment.py", "random_flip(jax.random.fold_in(key, 1), shifted)", "random_flip(key, shifted)", "training/test_data.py::test_augmentation_by_name"),
    ("training/data/cache.py", "> 24 * 3600", "> 0", "training/test_folder.py::test_what_killed_processes_left_of_a_cache_goes_after_a_day"),
    ("training/data/cache.py", "if not folder.is_dir():  # another", "if True:  # another", "training/test_folder.py::test_a_cache_that_another_process_has_just_made_is_used"),
    ("training/data/splitting.py", 'unicodedata.normalize("NFC", image.relative_to(folder).as_posix())', "image.relative_to(folder).as_posix()", "training/test_subset.py::test_an_accent_as_a_letter_of_its_own_is_the_same_name"),
    ("training/build.py", "split_seed(config)[4])", "split_seed(config)[3])", "training/test_subset.py::test_wrong_labels_are_those_of_the_seeds_fifth_key"),
    ("training/run.py", '    write_jsonl(folder / "metrics.jsonl", metrics["history"])  #', "    #", "training/test_train.py::test_a_run_that_was_stopped_goes_on_to_the_same_bytes"),
    ("training/command_line.py", "if flag in saved and flag not in typed:", "if False:", "training/test_run.py::test_a_damaged_config_is_told_with_its_run"),
    ("training/evaluation.py", "    model.eval()\n", "", "training/test_evaluation.py::test_every_test_image_counts_once"),
    ("compare/attacks.py", "image.dtype, -1, 1), low, high)", "image.dtype, 0, 1), low, high)", "compare/test_attacks.py::test_pgd_starts_at_random"),
    ("compare/corruptions.py", "height - rows + 1,", "height - rows,", "compare/test_corruptions.py::test_occlusion_reaches_all_borders"),
    ("compare/planar.py", "points(problem, _FRESH, 2**31)", "points(problem, _FRESH, 0)", "compare/test_measuring.py::test_fresh_points_are_none_of_those_trained_on"),
    # The library.
    ("_sampling.py", "    if fold:", "    if fold and shape:", "library/test_methods.py::test_folded_lambdas_are_the_larger_of_both"),
    ("_sampling.py", 'end = (whole + 1) // 2 if how == "timm" else half', "end = half", "library/test_options.py::test_timms_box_may_be_odd"),
    ("_sampling.py", "words.below(length - whole + 1", "words.below(length - whole", "library/test_options.py::test_boxes_kept_inside_are_as_large_as_they_were_drawn"),
    ("_sampling.py", "index.at[order].set(jnp.roll(order, 1))", "order", "library/test_options.py::test_a_derangement_is_a_circle"),
    ("_sampling.py", "jnp.where(index == first, last, index - 1)", "index - 1", "library/test_options.py::test_partners_within_classes_and_never_a_padded_row"),
    ("_methods.py", "np.minimum(at, size - 1 - at)", "at // 2", "library/test_options.py::test_pairs_share_their_draw"),
    ("_methods.py", "return Mix(kept(where, lam), partner", "return Mix(lam, partner", "library/test_options.py::test_padded_rows_stay_as_they_are_in_every_method"),
    ("_one_of.py", "row(1 if pasted else", "row(1 if not pasted else", "library/test_one_of.py::test_each_row_is_mixed_by_one_of_the_methods"),
    ("_plot_batch.py", "y1 - 0.5, x1 - 0.5", "y1, x1", "library/test_plot.py::test_words_and_boxes_are_the_draws"),
    ("_plot_batch.py", "return pixels / 255, ", "return pixels / pixels.max(), ", "library/test_plot.py::test_how_numbers_become_shades"),
    ("_plot_batch.py", "seen = pixels[[*range(min(n, len(pixels))), *partners]]", "seen = pixels * 0", "library/test_plot.py::test_how_numbers_become_shades"),
    ("_plot_draws.py", "(-1) ** sum(corner)", "1", "library/test_plot.py::test_boxes_of_one_and_three_axes_are_counted"),
    ("_plot_draws.py", "sum(len(each.lam) for each in drawn)", "len(boxes)", "library/test_plot.py::test_samples_with_a_box_blended_and_neither_are_counted_apart"),
    ("_plot_draws.py", "blended = np.zeros(len(lam), bool)", "blended = lam < 1", "library/test_plot.py::test_samples_with_a_box_blended_and_neither_are_counted_apart"),
    ("plot.py", "pixels[partner], whose", "pixels, whose", "library/test_plot.py::test_the_rows_are_the_samples_their_partners_and_the_mix"),
    ("plot.py", "if mix.layer_name == INPUT:", "if True:", "library/test_plot.py::test_at_a_hidden_layer_the_images_go_in_as_they_are"),
    ("_mix.py", "    lam: Array\n", "    lam: Any\n", "library/test_types.py::test_arrays_are_seen"),
    ("recipes.py", "    mode: TimmMode = \"batch\",", "    mode: str = \"batch\",", "library/test_types.py::test_misspelt_words_are_errors"),
    ("_mix.py", "if self.box_layers is not None and layer not in self.box_layers:", "if False:", "library/test_one_of.py::test_cutmix_or_manifold_mixup_is_one_step"),
    ("_pixels.py", "part * (length / pixels), 0, 1)", "jnp.round(part * (length / pixels)), 0, 1)", "library/test_one_of.py::test_a_hidden_layer_is_cut_by_the_box_at_its_own_size"),
    ("_pixels.py", "            if places:", "            if places and False:", "library/test_targets.py::test_what_is_meant_by_targets_with_pixels_is_said_or_refused"),
    ("_losses.py", "(weight / weight.mean())", "weight", "parity/test_weighted_loss.py::test_weights_and_ignored_labels_are_torchs_weighted_mean"),
    ("_losses.py", "jnp.where(mix._mask(like.shape, axes), 0, outside)", "outside", "library/test_targets.py::test_the_loss_of_a_pixel_is_of_the_image_that_it_comes_from"),
    ("_choosing.py", "if issubclass(l.type, want)", "if l.type is want", "library/test_choosing.py::test_a_type_stands_for_its_subclasses_too_and_for_no_base"),
    ("_choosing.py", '("RNNCellBase",)', '("RNNCellBase", "RNN")', "library/test_choosing.py::test_a_recurrent_network_is_a_layer_and_its_cell_is_none"),
    ("_choosing.py", '"GroupNorm", "InstanceNorm")', '"GroupNorm")', "library/test_choosing.py::test_what_is_never_chosen_unasked"),
    ("_choosing.py", "if issubclass(l.type, (MixPoint, LinenMixPoint))", "if l.type in (MixPoint, LinenMixPoint)", "library/test_choosing.py::test_a_mark_of_ones_own_is_a_mark"),
    ("_choosing.py", '("RNNCellBase",)', "()", "library/test_choosing.py::test_what_is_never_chosen_unasked"),
    ("_paths.py", '"?": r"[^.]"}', '"?": r"."}', "library/test_choosing.py::test_globs"),
    ("_places.py", 'set("*?") & set(l)', 'set("*") & set(l)', "library/test_choosing.py::test_a_question_mark_is_one_character_of_a_name"),
    # What goes around a layer, how layers are chosen, shown, called and looked at.
    ("_cuts.py", "bent |= operands[0].on & operands[1].on", "pass", "library/test_cuts.py::test_what_is_affine_is_the_same_again"),
    ("_cuts.py", '"div": (1, None),', '"div": (2, None),', "library/test_cuts.py::test_what_is_affine_is_the_same_again"),
    ("_cuts.py", "bent |= 0 if all(floats) else flow.on", "pass", "library/test_cuts.py::test_what_is_affine_is_the_same_again"),
    ("_cuts.py", "            if grown == carry:\n                return [*carry, *out", "            if True:\n                return [*carry, *out", "library/test_cuts.py::test_what_is_affine_is_the_same_again"),
    ("_cuts.py", "chosen = _bent(operands[0])", "chosen = Flow()", "library/test_cuts.py::test_a_choice_is_a_way_around"),
    ("_cuts.py", "_union([before, after, going_on])", "_union([before, after])", "library/test_cuts.py::test_a_choice_is_a_way_around"),
    ("_cuts.py", "            env.update(dict.fromkeys(written, _bent(_union([*operands, *results]))))\n", "", "library/test_cuts.py::test_a_layer_is_a_cut_just_if_the_output_at_lam_0_is_the_partners"),
    ("_cuts.py", "self._called = set(called)", "pass", "library/test_cuts.py::test_the_choice_is_the_owners"),
    ("_cuts.py", "            return flow  # called again", "            pass  # called again", "library/test_cuts.py::test_a_layer_is_a_cut_just_if_the_output_at_lam_0_is_the_partners"),
    ("_cuts.py", "            through = 0\n", "            through = own = functools.reduce(operator.or_, (1 << n for n in numbers))\n", "library/test_cuts.py::test_the_choice_is_the_owners"),
    ("_cuts.py", "            weighed |= flow.on\n", "            pass\n", "library/test_cuts.py::test_what_is_affine_is_the_same_again"),
    ("_layers.py", "if shape[:1] == (n,) and grown[:1] != (longer,)", "if False", "library/test_cuts.py::test_an_axis_that_is_as_long_as_the_batch_by_chance_is_none"),
    ("_layers.py", "counts = [out.shape != grown.shape for", "counts = [out.shape[:1] == (n,) for", "library/test_cuts.py::test_an_output_counts_if_it_grows_with_the_batch"),
    ("_layers.py", "if b and here not in call.mixed))", "if b and here != 0))", "library/test_choosing.py::test_an_argument_that_is_not_mixed_goes_around_what_comes_before_it"),
    ("_choosing.py", "    warnings.warn(message, stacklevel=4)", "    pass", "library/test_choosing.py::test_a_layer_that_is_no_cut_is_warned_of_once_and_refused_if_strict"),
    ("_choosing.py", '        raise ValueError(f"strict=True, but {message}")', "        pass", "library/test_choosing.py::test_a_layer_that_is_no_cut_is_warned_of_once_and_refused_if_strict"),
    ("_choosing.py", "if l.cut or l.name in found.but_for_arguments", "if l.cut", "library/test_choosing.py::test_if_only_an_argument_goes_around_the_blocks_they_are_chosen_with_a_warning"),
    ("_choosing.py", "first.setdefault(l.same_as or l.name, l.name)", "first.setdefault(l.name, l.name)", "library/test_choosing.py::test_of_layers_that_are_the_same_the_first_is_chosen"),
    ("_choosing.py", "    yield _outermost(_repeated(branching))\n", "", "library/test_cuts.py::test_the_choice_is_the_owners"),
    ("_explain.py", "why.get(layer.name, otherwise)", "otherwise", "library/test_choosing.py::test_explain_is_a_table_of_what_mixing_there_is_and_what_is_chosen"),
    ("_explain.py", '(*first, "yes" if use_input else', '(*first, "yes" if not use_input else', "library/test_choosing.py::test_explain_is_a_table_of_what_mixing_there_is_and_what_is_chosen"),
    ("_leaves.py", "batch and id(leaf) not in given", "batch", "library/test_forward_inputs.py::test_what_is_no_batch_of_floats_or_only_handed_on_is_not_mixed"),
    ("_leaves.py", 'name == selector or name.startswith(selector + ".")', "name.startswith(selector)", "library/test_forward_inputs.py::test_what_is_no_batch_of_floats_or_only_handed_on_is_not_mixed"),
    ("_call.py", "[1:] if function else []", " if function else []", "library/test_forward_inputs.py::test_a_positional_argument_is_mixed_by_its_name"),
    ("_call.py", "        model = owner  # a TrainState's apply_fn", "        pass", "library/test_forward_inputs.py::test_a_train_states_apply_fn_stands_for_its_model"),
    ("_intercepting.py", "if type(self) is cls else None", "if True else None", "library/test_forward_classes.py::test_a_layer_whose_class_extends_that_of_another_layer_is_mixed_at_its_own_end"),
    ("_intercepting.py", "        if held.runs:\n            return\n", "", "library/test_forward_classes.py::test_other_threads_see_their_models_unmixed_and_mix_them_on_their_own"),
    ("_tracing.py", "            names.append(name[1])\n", "            raise\n", "library/test_forward_structures.py::test_a_batch_norm_over_the_devices_is_bound_without_them_and_mixed_with_them"),
    ("_tracing.py", "            nested = True\n        else:", "            raise\n        else:", "library/test_forward_structures.py::test_layers_outside_of_stacks_of_stacks_are_listed_and_those_inside_refused"),
    ("recipes.py", '"pair": "pair"', '"pair": "sample"', "parity/test_recipes.py::test_timms_draws_make_timms_batch"),
    ("recipes.py", "probabilities=(1 - switch_prob, switch_prob)", "probabilities=(switch_prob, 1 - switch_prob)", "parity/test_recipes.py::test_timms_draws_make_timms_batch"),
    ("recipes.py", 'box="timm", correct_lam=correct_lam', 'box="timm", correct_lam=True', "parity/test_recipes.py::test_timms_draws_make_timms_batch"),
    ("recipes.py", 'CutMix(cutmix_alpha, box="timm"', 'CutMix(cutmix_alpha, box="paper"', "parity/test_recipes.py::test_draws_are_distributed_as_timms"),
    ("recipes.py", 'CutMix(alpha, box="paper", partner="roll")', 'CutMix(alpha, partner="roll")', "parity/test_recipes.py::test_torchvisions_draws_make_torchvisions_batch"),
    ("recipes.py", "lam=(1 - high, 1 - low)", "lam=(low, high)", "parity/test_recipes_kornia.py::test_kornias_draws_make_kornias_mixup"),
    ("recipes.py", "probabilities=(p, 1 - p)", "probabilities=(1 - p, p)", "parity/test_recipes_kornia.py::test_kornias_draws_make_kornias_cutmix"),
    ("recipes.py", 'per=per, box="inside"), p)', 'per=per, box="paper"), p)', "parity/test_recipes_kornia.py::test_draws_are_distributed_as_kornias"),
    ("recipes.py", 'box="keras", correct_lam=False', 'box="keras", correct_lam=True', "parity/test_recipes_keras.py::test_kerass_draws_make_kerass_cutmix"),
    ("recipes.py", "return MixUp(alpha, fold=False)", "return MixUp(alpha)", "parity/test_recipes_keras.py::test_draws_are_distributed_as_kerass"),
    # Starting from others' weights.
    ("training/weights_files.py", 'hashlib.file_digest(opened, "sha256").digest()', 'b""', "training/test_depends.py::test_a_run_depends_on_what_is_in_its_weights"),
    ("compare/command.py", "if comparison.weights:", "if False:", "compare/test_settings.py::test_a_comparison_does_not_start_from_the_folder_that_it_writes_over"),
    ("training/weights.py", "if missing or left or wrong:", "if missing or wrong:", "training/test_weights.py::test_what_does_not_fit_is_named"),
    ("training/weights.py", "theirs is not None and theirs != ours", "theirs is not None and theirs == ours", "training/test_weights.py::test_a_head_of_other_classes_is_new_and_that_is_told"),
    ("training/weights.py", "if old == (rows, columns):", "if position.shape[1] == prefix + rows * columns:", "training/test_weights.py::test_positions_are_resampled_or_refused"),
    ("training/weights.py", '"bicubic", antialias=True', '"bicubic", antialias=False', "parity/test_weights.py::test_positions_are_resampled_as_timms"),
    ("training/weights_files.py", "t.float() if t.is_floating_point()", "t if t.is_floating_point()", "parity/test_weights.py::test_weights_of_other_floats"),
    ("training/data/dataset.py", "255 * value for value in values", "256 * value for value in values", "training/test_weights.py::test_pixels_are_normalised_as_the_weights_need_it"),
    ("training/build.py", "return dataclasses.replace(dataset, normalize=normalize)", "return dataset", "training/test_weights.py::test_the_normalisation_is_the_runs"),
    ("training/models/torch_names.py", '(r"^norm\\.", "head.norm.")', '(r"^norm\\.", "norm.")', "parity/test_weights.py::test_a_file_of_pytorch_comes_and_goes_to_the_last_bit"),
    ("training/models/vit.py", "else x[:, 0])", "else x[:, 1])", "parity/test_model.py::test_timms_networks_at_their_real_size"),
    ("training/models/convnext.py", "epsilon=1e-6", "epsilon=1e-5", "parity/test_model.py::test_timms_networks_at_their_real_size"),
    ("training/optimizers.py", "jnp.where(step < frozen, 0.0, after)", "jnp.where(step <= frozen, 0.0, after)", "training/test_weights.py::test_rates_of_head_body_and_norms"),
    ("training/optimizers.py", "jnp.where(anew > 0, first, now)", "now", "training/test_weights.py::test_rates_of_head_body_and_norms"),
    ("training/optimizers.py", "jnp.where(step < frozen, 0.1, after)", "jnp.where(step < frozen, 0.0, after)", "parity/test_optimizer.py::test_fine_tuning_equals_fastais_step_by_step"),
    # Recipes' parts.
    ("training/optimizers.py", "first = peak / 1000", "first = peak / 100", "parity/test_recipes_of_training.py::test_the_warm_up_is_timms_by_updates_and_torchs"),
    ("training/optimizers.py", "step * ((peak - first) / steps)", "(step + 1) * ((peak - first) / steps)", "parity/test_recipes_of_training.py::test_the_warm_up_is_timms_by_updates_and_torchs"),
    ("training/optimizers.py", "jnp.minimum(1.0, most / (norm + added))", "jnp.minimum(1.0, most)", "parity/test_recipes_of_training.py::test_parameters_equal_timms_and_torchs_step_by_step"),
    ("training/optimizers.py", "if weight_decay else []", "if True else []", "parity/test_recipes_of_training.py::test_parameters_equal_timms_and_torchs_step_by_step"),
    ("training/optimizers.py", "optax.masked(optax.scale_by_trust_ratio(), _kernels)", "optax.scale_by_trust_ratio()", "parity/test_recipes_of_training.py::test_parameters_equal_timms_and_torchs_step_by_step"),
    ("training/optimizers.py", "_clipped(1.0, added=0.0), adam", "adam", "parity/test_recipes_of_training.py::test_parameters_equal_timms_and_torchs_step_by_step"),
    ("training/optimizers.py", "b2 if beta2 is None else beta2", "b2", "parity/test_recipes_of_training.py::test_parameters_equal_timms_and_torchs_step_by_step"),
    ("training/losses.py", "target if mix is None else mix.targets(target)", "target", "parity/test_recipes_of_training.py::test_bce_is_timms_on_mixed_targets"),
    ("training/losses.py", "target > self.target_threshold", "target >= 0.5", "parity/test_recipes_of_training.py::test_bce_is_timms_on_mixed_targets"),
    ("training/losses.py", "losses.sum(-1) if self.name == \"bce_sum\" else losses.mean(-1)", "losses.mean(-1)", "parity/test_recipes_of_training.py::test_bce_is_timms_on_mixed_targets"),
    ("training/losses.py", "class_weights=weights)", "class_weights=None)", "parity/test_recipes_of_training.py::test_class_weights_are_torchs_weighted_mean"),
    ("training/balance.py", "len(label) / (len(images) * images[k])", "len(label) / images[k]", "training/test_recipe_parts.py::test_balanced_weights_are_those_of_scikit_learn"),
    ("training/data/feeding.py", "0, len(counts), jnp.int32", "0, len(counts) - 1, jnp.int32", "parity/test_recipes_of_training.py::test_balanced_draws_are_distributed_as_torchs"),
    ("training/data/feeding.py", "epoch + 1, n, batch_size, sampler)", "epoch + 1, n, batch_size, None)", "training/test_recipe_parts.py::test_balanced_batches_are_a_function_of_key_and_epoch_in_every_feed"),
    ("training/models/depth.py", "jax.random.fold_in(self.drop_key[...], which)", "self.drop_key[...]", "parity/test_recipes_of_training.py::test_networks_drop_what_timms_drop"),
    ("training/models/depth.py", "astype(h.dtype) / kept)", "astype(h.dtype))", "parity/test_recipes_of_training.py::test_networks_drop_what_timms_drop"),
    ("training/models/depth.py", "rate * i / (len(blocks) - 1)", "rate", "parity/test_recipes_of_training.py::test_networks_drop_what_timms_drop"),
    ("training/models/depth.py", "            del block.drop_key", "            pass", "training/test_recipe_parts.py::test_paths_are_dropped_by_the_key_alone_and_by_none_without"),
    ("training/models/depth.py", "last - 1 + _NORM_LEARNS_WITH[kind]", "last", "parity/test_recipes_of_training.py::test_rates_by_layer_are_timms"),
    ("training/step.py", "jax.random.fold_in(key, _DROPPED)", "jax.random.key(_DROPPED)", "training/test_recipe_parts.py::test_parts_of_a_batch_are_dropped_and_their_mean_gradient_is_clipped"),
    ("training/command_line.py", "if _field(name) not in fields:", "if False:", "training/test_recipe_files.py::test_what_is_wrong_in_a_file_is_told"),
    ("training/optimizers.py", "learning_rate / 1e5, pct_start=0.99", "learning_rate / 1e5, pct_start=0.25", "parity/test_optimizer.py::test_fine_tuning_equals_fastais_step_by_step"),
    ("training/config.py", "require(value is None or start, told)", "require(value is None or True, told)", "training/test_flags.py::test_bad_input_is_told_in_one_sentence"),
    # Parameters split over devices.
    ("training/sharding.py", "with_sharding_constraint(a, devices.everywhere(mesh))", "with_sharding_constraint(a, parts(a, mesh))", "training/test_sharding.py::test_only_parameters_are_gathered_and_for_each_pass_anew"),
    ("training/sharding.py", "return primitive.name not in made_of_one or", "return True or", "training/test_sharding.py::test_what_is_gathered_for_the_forward_pass_is_not_kept"),
    ("training/sharding.py", '"sharding_constraint", "convert_element_type")', '"sharding_constraint")', "training/test_sharding.py::test_what_is_gathered_for_the_forward_pass_is_not_kept"),
    ("training/sharding.py", "        nnx.update(model, changed)\n", "", "training/test_sharding.py::test_the_losses_are_those_of_one_device"),
    ("training/sharding.py", "optimization_barrier((a, after))", "optimization_barrier((a, None))", "training/test_sharding.py::test_only_parameters_are_gathered_and_for_each_pass_anew"),
    ("training/sharding.py", "max(axes, key", "min(axes, key", "training/test_sharding.py::test_which_axis_is_split"),
    ("training/sharding.py", "SMALL = 2**12", "SMALL = 2**11", "training/test_sharding.py::test_which_axis_is_split"),
    ("training/loop.py", "devices.everywhere(mesh) if whole", "devices.everywhere(mesh) if True", "training/test_sharding.py::test_a_device_holds_an_eighth"),
    ("training/evaluation.py", "    if split:\n", "    if False:\n", "training/test_sharding.py::test_only_parameters_are_gathered_to_evaluate_beside_the_logits"),
    ("training/build.py", "count > 1 or not config.shard_parameters", "True", "training/test_sharding.py::test_one_device_has_none_to_share_with"),
    # A user's own port beside its original.
    ("parity/torch_side.py", "(1 - weight) * x[partner]", "(1 - weight) * x", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/torch_side.py", "(sizes[0] - 1) / sizes[0]", "1.0", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/torch_side.py", "return [value.detach().numpy().copy()]", "return [value.detach().numpy()]", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/torch_side.py", "copy.deepcopy(model).cpu()", "model.cpu()", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/flax_side.py", "setattr(module, name, jnp.float64)", "pass", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/flax_side.py", "module.attention_fn = _attention", "pass", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/flax_side.py", "rates(_named(self.models[True]), off=True)", "rates(_named(self.models[True]), off=False)", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/arrays.py", "np.flip(array, tuple(range(2, array.ndim))).transpose", "array.transpose", "parity/test_your_port.py::test_other_layers_and_a_map_of_arrays"),
    ("parity/arrays.py", "ends <= others or others <= ends", "True", "parity/test_your_port.py::test_what_shapes_and_order_do_not_tell_is_left_over"),
    ("parity/names.py", "len(alike) == len(others)", "len(alike) <= len(others)", "parity/test_your_port.py::test_what_shapes_and_order_do_not_tell_is_left_over"),
    ("parity/differences.py", "yield (0, *range(2, rank), 1)", "yield (0, *range(1, rank))", "parity/test_your_port.py::test_a_right_port_is_equal_at_every_rung_and_left_as_it_is"),
    ("parity/differences.py", "best._replace(note=REORDERED)", "best", "parity/test_your_port.py::test_a_mistake_is_found_at_the_first_layer_that_differs"),
    ("parity/comparing.py", "weights is None and any(", "weights is None and all(", "parity/test_your_port.py::test_a_mistake_in_the_users_own_conversion_is_found"),
    ("parity/torch_side.py", "if losses.shape != lam.shape:", "if False:", "parity/test_your_port.py::test_labels_losses_and_layers_that_do_not_fit_are_told"),
    ("parity/apart.py", "hints.activations(last, mine.inputs[0], ", "hints.activations(mine.inputs[0], last, ", "parity/test_your_port.py::test_a_mistake_is_found_at_the_first_layer_that_differs"),
    ("parity/apart.py", "row = max(within", "row = min(within", "parity/test_your_port.py::test_a_mistake_is_found_at_the_first_layer_that_differs"),
    ("parity/hints.py", "None if value is None else 1 - value", "value", "parity/test_your_port.py::test_a_mistake_is_found_at_the_first_layer_that_differs"),
    ("parity/__main__.py", "return int(not report)", "return 0", "parity/test_your_port.py::test_the_command"),
    # Photographs: images of any size, cropped when their batch comes.
    ("training/data/photographs.py", "counter=[0, 0, row, step]", "counter=[0, 0, 0, step]", "training/test_photographs.py::test_each_step_row_and_seed_has_draws_of_its_own"),
    ("training/data/photographs.py", "key=_philox_key(seed)", "key=[1, 2]", "training/test_photographs.py::test_each_step_row_and_seed_has_draws_of_its_own"),
    ("training/data/feeding.py", "range(self._rows.start, self._rows.stop)", "range(self._rows.stop - self._rows.start)", "training/test_photographs.py::test_batches_are_a_function_of_seed_and_step_alone"),
    ("training/data/feeding.py", "except UserError:  # it names an image", "except KeyError:", "training/test_photographs.py::test_a_broken_photograph_is_named_when_it_is_met"),
    ("training/data/photographs.py", "index = index[[each is None for each in errors]]", "pass", "training/test_photographs.py::test_broken_photographs_are_skipped_from_the_start_and_named_each_time"),
    ("training/data/photographs.py", 'source.found[:] = known["found"].tolist()', "pass", "training/test_photographs.py::test_broken_photographs_are_skipped_from_the_start_and_named_each_time"),
    ("training/build.py", "return data.with_mean_erased(normalized(config, dataset))", "return normalized(config, dataset)", "training/test_photographs.py::test_a_box_is_erased_with_the_mean_that_is_then_0"),
    ("training/data/encoded.py", "orientation if orientation in _TURNS else 1", "orientation or 1", "training/test_photographs.py::test_both_decoders_give_the_same_pixels"),
    ("training/data/encoded.py", "6: lambda a: np.rot90(a, -1)", "6: lambda a: np.rot90(a)", "training/test_photographs.py::test_both_decoders_give_the_same_pixels"),
    ("training/data/encoded.py", '"Gray", "YCbCr")', '"Gray", "YCbCr", "CMYK", "YCCK")', "training/test_photographs.py::test_what_is_no_usual_jpeg_is_read_as_a_folders_files_are"),
    ("training/data/crops.py", "by * _GAP * side", "by * side", "training/test_photographs.py::test_a_large_jpeg_is_decoded_smaller_and_the_same_part_is_taken"),
    ("training/data/crops.py", "(left / by - x, top / by - y,", "(left / by, top / by,", "training/test_photographs.py::test_a_large_jpeg_is_decoded_smaller_and_the_same_part_is_taken"),
    ("training/data/crops.py", "if rng.random() < 0.5:", "if rng.random() < 0.05:", "training/test_photographs.py::test_a_flip_is_for_every_second_image"),
    ("training/data/crops.py", "if rows < height and columns < width:", "if rows <= height and columns <= width:", "parity/test_photographs.py::test_erased_boxes_of_the_same_draws"),
    ("training/data/crops.py", "if width / height < narrowest:", "if width / height > narrowest:", "parity/test_photographs.py::test_crops_of_the_same_draws"),
    ("training/data/policies.py", "(6 if wide else 4)", "(4 if wide else 6)", "parity/test_photographs.py::test_operations"),
    ("training/data/policies.py", "_affine(image, 1, m, 0, 0, 1, 0)", "_affine(image, 1, -m, 0, 0, 1, 0)", "parity/test_photographs.py::test_operations"),
    ("training/data/source.py", "left, top = round((wide - columns) / 2), round((high - rows) / 2)", "left, top = 0, 0", "parity/test_photographs.py::test_a_test_image"),
    ("training/trained.py", "as_it_is = self.about.test_crop is None and", "as_it_is =", "training/test_photographs.py::test_a_run_is_tested_as_it_is_used"),
    ("training/trained.py", "bits=self.bits, crop=crop)", "bits=self.bits)", "training/test_photographs.py::test_a_run_is_tested_as_it_is_used"),
    ("training/exporting.py", "rows, columns, trained.about.test_crop)", "rows, columns)", "training/test_photographs.py::test_what_is_exported_scales_and_cuts_alike"),
)]  # fmt: skip


def main() -> int:
    words = sys.argv[1:]
    chosen = [fault for fault in FAULTS if not words or any(word in text for word in words for text in fault)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=LEFT_OUT))
        green = [fault for fault in chosen if not turns_red(copy, fault)]
    print(f"{len(chosen)} faults, of which {len(green)} stayed unseen")
    return 1 if green else 0


def turns_red(copy: Path, fault: Fault) -> bool:
    """Whether the test fails with the fault in the copy, which is mended then."""
    path = copy / "jax_mix" / fault.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    options = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb", "no"]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}  # no stale bytecode
    command = [sys.executable, "-m", "pytest", *options, f"parity_tests/{fault.test}"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    path.write_text(text, encoding="utf-8")
    red = done.returncode == 1  # others: a test that is not there, or an import that fails
    seen = {0: "GREEN", 1: "red"}.get(done.returncode, f"NOT RUN, status {done.returncode}")
    print(f"{seen}: {fault.file}: {fault.new!r} in the place of {fault.old!r}", flush=True)
    if not red:
        print(f"    {fault.test}\n    {(done.stdout.strip().splitlines() or [''])[-1]}", flush=True)
    return red


if __name__ == "__main__":
    sys.exit(main())
