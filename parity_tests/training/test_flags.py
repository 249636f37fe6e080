"""What cannot be used is told in one sentence, before anything is trained or written; --help tells of every flag."""

import dataclasses

import pytest

import train
from jax_mix.training import data
from jax_mix.training.build import resolve
from jax_mix.training.config import Config

BAD_INPUT = {
    "alpha 0": (["--alpha", "0"], ["--alpha", "positive", "0.0", "--mix none"]),
    "alpha negative": (["--alpha", "-0.4", "--mix", "cutmix"], ["--alpha", "positive", "-0.4"]),
    "alpha nan": (["--alpha", "nan"], ["--alpha", "finite", "nan"]),
    "alpha infinite": (["--alpha", "inf"], ["--alpha", "finite", "inf"]),
    "alpha without mixing": (["--mix", "none", "--alpha", "1"], ["--alpha is 1.0", "--mix none"]),
    "layers without manifold": (["--mix", "cutmix", "--layers", "stem"], ["--layers", "--mix manifold", "cutmix"]),
    "layer unknown": (
        ["--layers", "stem", "layr1", "--width", "4"],
        ["--layers", "'layr1'", "did you mean 'layer1'", "'stem'"],
    ),
    "epochs 0": (["--epochs", "0"], ["--epochs", "at least 1", "0"]),
    "batch size 0": (["--batch-size", "0"], ["--batch-size", "at least 1", "0"]),
    "batch size above the set": (["--batch-size", "1440"], ["--batch-size", "at most 1437", "1440"]),
    "checkpoint every 0": (["--checkpoint-every", "0"], ["--checkpoint-every", "at least 1", "0"]),
    "nothing to resume": (["--resume", "--width", "4"], ["--resume: there is no checkpoint in"]),
    "width 0": (["--width", "0"], ["--width", "at least 1"]),
    "learning rate 0": (["--learning-rate", "0"], ["--learning-rate", "positive", "0.0"]),
    "alpha end 0": (["--alpha-end", "0"], ["--alpha-end", "positive", "0.0"]),
    "alpha end without mixing": (["--mix", "none", "--alpha-end", "1"], ["--alpha-end is 1.0", "--mix none"]),
    "groups without mixing": (["--mix", "none", "--mix-groups", "2"], ["--mix-groups is 2", "--mix none"]),
    "groups": (["--mix-groups", "7"], ["--mix-groups must divide the 64 images", "7"]),
    "groups of a part": (["--mix-groups", "64", "--accumulate", "2"], ["--mix-groups must divide the 32 images", "64"]),
    "groups 0": (["--mix-groups", "0"], ["--mix-groups", "at least 1", "0"]),
    "unmixed epochs": (["--mix-off-epochs", "21"], ["--mix-off-epochs", "from 0 to --epochs 20", "21"]),
    "accumulate 0": (["--accumulate", "0"], ["--accumulate", "at least 1", "0"]),
    "accumulate": (["--accumulate", "3"], ["--accumulate must divide --batch-size 64", "3"]),
    "parts of one image": (
        ["--mix", "mixup", "--batch-size", "8", "--accumulate", "8"],
        ["--batch-size must be at least 16", "part, one of --accumulate 8", "got 8", "--mix none"],
    ),
    "parts of one image, one group": (
        ["--mix", "cutmix", "--batch-size", "4", "--accumulate", "4", "--mix-groups", "1"],
        ["--batch-size must be at least 8", "got 4"],
    ),
    "batch size 1": (
        ["--batch-size", "1", "--devices", "1"],
        ["--batch-size must be at least 2", "its batch", "got 1"],
    ),
    "devices of one image": (
        ["--batch-size", "8", "--devices", "8"],
        ["--batch-size must be at least 16", "the 8 devices", "got 8", "fewer --devices", "--mix-groups 1"],
    ),
    "devices of one image, in parts": (
        ["--batch-size", "8", "--devices", "4", "--accumulate", "2", "--mix", "cutmix"],
        ["--batch-size must be at least 16", "4 devices times --accumulate 2", "got 8"],
    ),
    "compared batches of one image": (["compare", "--batch-size", "1"], ["--batch-size must be at least 2", "got 1"]),
    "compared devices of one image": (
        ["compare", "--batch-size", "8", "--devices", "8"],
        ["--batch-size must be at least 16", "8 devices"],
    ),
    "images of one pixel": (
        ["--mix", "cutmix", "--image-size", "1", "--width", "4"],
        ["--mix cutmix: CutMix can cut no box from images of (1, 1) pixels", "at least 2"],
    ),
    "frozen without weights": (["--freeze-epochs", "1"], ["--freeze-epochs is 1", "random weights: give --weights"]),
    "body rate without weights": (["--body-rate", "0.1"], ["--body-rate is 0.1", "give --weights"]),
    "body rate above 1": (["--body-rate", "2", "--weights", "x"], ["--body-rate must be positive, and at most 1", "2"]),
    "frozen longer than the run": (
        ["--freeze-epochs", "3", "--epochs", "2", "--weights", "x"],
        ["--freeze-epochs must be at most --epochs 2", "got 3"],
    ),
    "fine_tune without frozen epochs": (["--schedule", "fine_tune"], ["fine_tune needs --freeze-epochs", "got None"]),
    "fine_tune frozen to the end": (
        ["--schedule", "fine_tune", "--epochs", "2", "--freeze-epochs", "2", "--weights", "x"],
        ["fine_tune needs --freeze-epochs, less than --epochs 2", "got 2"],
    ),
    "warm-up of a cycle": (["--warmup-epochs", "2"], ["--warmup-epochs is 2", "one_cycle has a warm-up of its own"]),
    "warm-up of the whole run": (
        ["--warmup-epochs", "3", "--epochs", "3", "--schedule", "cosine"],
        ["--warmup-epochs must be less than --epochs 3", "got 3"],
    ),
    "clipped while frozen": (
        ["--clip-norm", "1", "--freeze-epochs", "1", "--weights", "x"],
        ["--clip-norm 1.0 clips by the norm of all", "--freeze-epochs leaves some of them out"],
    ),
    "LAMB while frozen": (
        ["--optimizer", "lamb", "--freeze-epochs", "1", "--weights", "x"],
        ["--optimizer lamb clips by the norm of all", "drop one"],
    ),
    "clip norm 0": (["--clip-norm", "0"], ["--clip-norm must be positive and finite, got 0.0"]),
    "layer decay and body rate": (
        ["--layer-decay", "0.7", "--body-rate", "0.1", "--weights", "x"],
        ["--layer-decay is 0.7 and --body-rate 0.1", "drop one"],
    ),
    "Adam's of SGD": (["--adam-beta2", "0.9"], ["--adam-beta2 is 0.9, but --optimizer sgd has none"]),
    "threshold without bce": (
        ["--target-threshold", "0.2"],
        ["--target-threshold is 0.2, but --loss cross_entropy has none"],
    ),
    "class weights misspelt": (
        ["--class-weights", "balancd"],
        ["--class-weights is 'balancd': did you mean 'balanced'"],
    ),
    "class weights 0": (["--class-weights", "1", "0"], ["--class-weights must be balanced, or a positive", "1 0"]),
    "class weights for bce": (
        ["--class-weights", "balanced", "--loss", "bce"],
        ["--class-weights is balanced, but --loss bce weighs no classes", "--sampler balanced"],
    ),
    "class weights and smoothing": (
        ["--class-weights", "balanced", "--label-smoothing", "0.1"],
        ["--class-weights is balanced and --label-smoothing 0.1", "drop one"],
    ),
    "classes balanced twice": (
        ["--class-weights", "balanced", "--sampler", "balanced"],
        ["--class-weights balanced and --sampler balanced both make up for rare classes"],
    ),
    "compared seeds as one with weights of their own": (
        ["compare", "--batch-seeds", "on", "--class-weights", "balanced"],
        ["--batch-seeds on", "--class-weights balanced", "drop one"],
    ),
    "dropped paths of 1": (["--drop-path", "1"], ["--drop-path must be between 0 and 1, got 1.0"]),
    "dropped paths of a network without": (
        ["--drop-path", "0.1", "--model", "mlp", "--mix", "none"],
        ["--drop-path is 0.1, but --model mlp has no residual blocks"],
    ),
    "normalize unknown": (["--normalize", "imagnet"], ["--normalize is 'imagnet': did you mean 'imagenet'?"]),
    "normalize by too few numbers": (["--normalize", "1", "2", "3"], ["--normalize must be data, imagenet", "1 2 3"]),
    "normalize by a deviation of 0": (["--normalize", "1", "0"], ["--normalize must be data", "positive", "1 0"]),
    "normalize grey images by colours": (["--normalize", "imagenet"], ["imagenet is of 3 channels", "digits of 1"]),
    "weights that are not there": (["--weights", "none.pt"], ["--weights: there is no file or folder 'none.pt'"]),
    "flag by its initials": (["--lr", "0.1"], ["'--lr' is not a flag: did you mean --learning-rate?"]),
    "flag and value in one": (["--lr=0.1"], ["'--lr' is not a flag: did you mean --learning-rate?"]),
    "flag misspelt": (["--batchsize", "8"], ["'--batchsize' is not a flag: did you mean --batch-size?"]),
    "flag by a word": (["--num-workers", "2"], ["'--num-workers' is not a flag: did you mean --workers?"]),
    "flag unlike any": (["--zzz"], ["'--zzz' is not a flag: see --help."]),
    "value without flag": (["--epochs", "3", "5"], ["'5' belongs to no flag"]),
    "command at the end": (["--epochs", "3", "compare"], ["'compare' belongs to no flag: a command stands first"]),
    "compared flag misspelt": (["compare", "--method", "none"], ["'--method' is not a flag: did you mean --methods?"]),
    "flag of a run, compared": (["compare", "--mix", "none"], ["--mix is not a flag of this command", "drop"]),
    "config nested deeply": (["--config", "NESTED"], ["--config: '", "cannot be read", "recursion"]),
    "config with false for a number": (["--config", "FALSE"], ["has False for 'epochs', which no flag can be"]),
    "config with an object": (["--config", "OBJECT"], ["has {'name': 'digits'} for 'dataset', which no flag can be"]),
    "config with a list of lists": (["--config", "LISTS"], ["has [['layer1']] for 'layers', which no flag can be"]),
    "config with a NUL": (["--config", "NUL"], ["for 'out', which no flag can be"]),
    "config with half a letter": (["--config", "SURROGATE"], ["for 'name', which no flag can be"]),
    "config with nan": (["--config", "NAN"], ["--learning-rate must be positive and finite, got nan"]),
    "alpha that mixes nothing": (["--alpha", "1e-300"], ["--alpha must be at least 0.001", "1e-300; or --mix none"]),
    "alpha end that mixes nothing": (["--alpha-end", "1e-4"], ["--alpha-end must be at least 0.001", "0.0001."]),
    "data of nobody": (["--dataset", "~nobody-at-all/x"], ["--dataset ~nobody-at-all/x: there is no such folder"]),
    "config of another command": (["--config", "METHODS"], ["--config: '", "'--methods' is not a flag"]),
    "label smoothing 1": (["--label-smoothing", "1"], ["--label-smoothing", "less than 1", "1.0"]),
    "ema 1": (["--ema", "1"], ["--ema", "between 0 and 1", "1.0"]),
    "patience 0": (["--patience", "0"], ["--patience", "at least 1", "0"]),
    "compared with patience": (["compare", "--patience", "3"], ["--patience is not a flag of this command", "drop"]),
    "devices 0": (["--devices", "0"], ["--devices", "at least 1", "0"]),
    "more devices than there are": (["--devices", "9"], ["--devices", "at most 8", "9"]),
    "a batch that devices cannot share": (
        ["--devices", "3"],
        ["--batch-size must be a multiple of 3, the 3 devices", "got 64", "fewer --devices"],
    ),
    "a part that devices cannot share": (["--accumulate", "16"], ["multiple of 128", "--accumulate 16", "got 64"]),
    "processes without coordinator": (["--num-processes", "2"], ["--num-processes is 2", "--coordinator is None"]),
    "coordinator without port": (["--coordinator", "host"], ["--coordinator", "host:port or auto", "'host'"]),
    "coordinator alone": (["--coordinator", "host:1"], ["--num-processes must be given"]),
    "no process": (
        ["--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"],
        ["--process-id", "from 0 to 1", "2"],
    ),
    "no cluster": (["--coordinator", "auto"], ["--coordinator auto", "could not be joined"]),
    "config not there": (["--config", "no.json"], ["--config", "'no.json'", "No such file"]),
    "config of a list": (["--config", "LIST"], ["--config", "is not the config.json of a run"]),
    "milestones beyond the run": (
        ["--schedule", "step", "--milestones", "0.5", "1.5"],
        ["--milestones", "between 0 and 1", "(0.5, 1.5)"],
    ),
    "milestones without step": (["--milestones", "0.3"], ["--milestones", "--schedule step", "one_cycle"]),
    "weight decay negative": (["--weight-decay", "-1"], ["--weight-decay", "0 or positive", "-1.0"]),
    "seed negative": (["--seed", "-1"], ["--seed", "from 0 to 4294967295", "-1"]),
    "data set misspelt": (["--dataset", "fashion_mnst"], ["--dataset 'fashion_mnst'", "did you mean 'fashion_mnist'"]),
    "data set not a name": (["--dataset", "a/../digits"], ["--dataset 'a/../digits'", "neither known to TFDS nor in"]),
    "folder not there": (["--dataset", "../photos"], ["--dataset ../photos: there is no such folder"]),
    "image size 0": (["--image-size", "0"], ["--image-size", "from 1 to 4096", "0"]),
    "erasing without crops": (["--erasing", "0.2"], ["--erasing is 0.2", "--augment is shift: give --augment crop"]),
    "operations without crops": (["--auto-augment", "trivial"], ["--auto-augment is trivial", "--augment crop"]),
    "scale without crops": (["--crop-scale", "0.1", "1"], ["--crop-scale is 0.1 1.0", "--augment crop"]),
    "test crop without crops": (["--test-crop", "0.9"], ["--test-crop is 0.9", "--augment crop"]),
    "crops of no size": (["--augment", "crop"], ["--augment crop needs --image-size", "such as --image-size 224"]),
    "crops on the device": (
        ["--augment", "crop", "--image-size", "8", "--feed", "device"],
        ["--feed device", "--augment crop decodes each", "--feed grain"],
    ),
    "crops of one bound": (
        ["--augment", "crop", "--image-size", "8", "--crop-scale", "0.5"],
        ["--crop-scale must be two parts", "0.08 1", "got 0.5"],
    ),
    "crops of bounds the wrong way": (
        ["--augment", "crop", "--image-size", "8", "--crop-scale", "1", "0.5"],
        ["--crop-scale must be two parts", "the smaller first", "got 1.0 0.5"],
    ),
    "operations misspelt": (
        ["--augment", "crop", "--image-size", "8", "--auto-augment", "rnd:2,9"],
        ["--auto-augment is 'rnd:2,9'", "did you mean 'rand'"],
    ),
    "operations by one number": (
        ["--augment", "crop", "--image-size", "8", "--auto-augment", "rand:2"],
        ["--auto-augment must be rand:OPERATIONS,LEVEL", "'rand:2'"],
    ),
    "operations of no level": (
        ["--augment", "crop", "--image-size", "8", "--auto-augment", "rand:2,31"],
        ["--auto-augment rand must have a level from 0 to 30", "31"],
    ),
    "operations without number": (
        ["--augment", "crop", "--image-size", "8", "--auto-augment", "rand:0,9"],
        ["--auto-augment rand must have 1 to 10 operations", "0"],
    ),
    "numbers of no operations": (
        ["--augment", "crop", "--image-size", "8", "--auto-augment", "trivial:2"],
        ["--auto-augment trivial takes no numbers", "'trivial:2'"],
    ),
    "erasing more than always": (["--erasing", "1.5"], ["--erasing must be from 0 to 1", "1.5"]),
    "test crop 0": (["--test-crop", "0"], ["--test-crop must be positive, and at most 1", "0.0"]),
    "compared crops": (["compare", "--augment", "crop", "--image-size", "8"], ["--augment crop is not for compare"]),
    "a delimiter without a table": (["--label-delim", " "], ["--label-delim is ' '", "give --labels FILE.csv"]),
    "an empty delimiter": (["--labels", "x.csv", "--label-delim", ""], ["--label-delim must be a letter or more"]),
    "a table of no folder": (["--labels", "x.csv"], ["--labels is x.csv, but --dataset digits is no folder of images"]),
    "a table and folders that go together": (
        ["--labels", "x.csv", "--split-by", "folder"],
        ["--split-by is folder", "--labels says what is on images", "is_valid"],
    ),
    "test fraction": (["--test-fraction", "1"], ["--test-fraction", "between 0 and 1", "1.0"]),
    "workers negative": (["--workers", "-1"], ["--workers", "from 0 to", "-1"]),
    "images of a giant": (["--image-size", "100000"], ["--image-size", "from 1 to 4096", "100000"]),
    "groups of one": (["--mix-groups", "64"], ["--mix-groups", "two images or more", "64"]),
    "workers without number": (["--workers", "100000"], ["--workers", "four a core", "100000"]),
    "workers for the device": (["--workers", "2", "--feed", "device"], ["--workers is 2", "--feed device"]),
    "model misspelt": (["--model", "resnet19"], ["--model 'resnet19'", "did you mean 'resnet18'"]),
    "width of a model that has none": (["--model", "mlp", "--width", "8"], ["--width is 8", "--model mlp"]),
    "more images than there are": (["--train-images", "1438"], ["--train-images", "at most 1437", "1438"]),
    "no images": (["--train-images", "0"], ["--train-images", "at least 1", "0"]),
    "label noise": (["--label-noise", "1.5"], ["--label-noise", "from 0 to 1", "1.5"]),
    "compared method misspelt": (["compare", "--methods", "manifld"], ["--methods", "did you mean 'manifold'"]),
    "compared method's alpha": (["compare", "--methods", "mixup:a"], ["--methods: 'mixup:a'", "mixup:0.4"]),
    "compared method's alpha 0": (
        ["compare", "--methods", "none", "mixup:0"],
        ["--methods: 'mixup:0'", "positive", "0.0"],
    ),
    "mix misspelt": (["--mix", "tim"], ["--mix tim: there is no 'tim'", "did you mean 'timm'", "'cutmix'"]),
    "mix of nothing": (["--mix", "mixup+"], ["--mix mixup+: there is no ''"]),
    "mix with an unknown argument": (
        ["--mix", "timm:mixup_alfa=1"],
        ["--mix timm:mixup_alfa=1: timm has no 'mixup_alfa'", "did you mean 'mixup_alpha'"],
    ),
    "mix with a wrong argument": (["--mix", "cutmix:box=papr"], ["box is 'papr'", "did you mean 'paper'"]),
    "mix with an argument twice": (["--mix", "mixup:0.4,alpha=1"], ["alpha is given twice"]),
    "mix with one argument more": (["--mix", "mixup:0.4,batch"], ["'batch' needs its name", "per="]),
    "mix with a comma too many": (["--mix", "mixup:0.4,"], ["mixup has a comma with nothing behind it"]),
    "mix with two in one place": (["--mix", "mixup:0.4,lam=0.5"], ["lam stands in the place of alpha", "drop one"]),
    "mix that mixes nothing": (["--mix", "cutmix:probability=0"], ["CutMix", "mixes nothing", "none"]),
    "mix with one probability": (
        ["--mix", "manifold:layer_probabilities=0.5"],
        ["must be a number for each layer", "0.5"],
    ),
    "mix at a layer without pixels": (
        ["--model", "mlp", "--mix", "cutmix:layers=hidden.0"],
        ["--mix cutmix:layers=hidden.0", "two spatial axes", "'hidden.0'", "(2, 128)"],
    ),
    "mix with an argument behind a name": (["--mix", "timm:mode=elem,0.8"], ["'0.8' needs its name"]),
    "mix without what it needs": (["--mix", "big_vision_mixup"], ["big_vision_mixup needs p"]),
    "mix by code": (["--mix", "mixup:open('x')"], ["\"open('x')\" is no number, no word"]),
    "mix's alpha that mixes nothing": (["--mix", "mixup+cutmix:1e-5"], ["alpha must be at least 0.001", "1e-05"]),
    "mix's groups": (["--mix", "mixup:groups=2"], ["groups", "--mix-groups"]),
    "alpha twice": (["--mix", "mixup:0.8", "--alpha", "1"], ["--alpha is 1.0", "--mix mixup:0.8 leaves no alpha"]),
    "alpha of a recipe": (["--mix", "timm", "--alpha", "1"], ["--alpha is 1.0", "--mix timm leaves no alpha open"]),
    "alpha end of several": (["--mix", "mixup+cutmix", "--alpha-end", "1"], ["--alpha-end is 1.0", "not one alpha"]),
    "alpha end of a fixed lambda": (["--mix", "mixup:lam=0.7", "--alpha-end", "1"], ["--alpha-end is 1.0"]),
    "layers twice": (["--mix", "manifold:layers=stem", "--layers", "stem"], ["--layers is only for", "itself; got"]),
    "layer unknown in mix": (
        ["--mix", "mixup+manifold:layers=(stem,layr1)", "--width", "4"],
        ["--mix mixup+manifold:layers=(stem,layr1): layers", "'layr1'", "did you mean 'layer1'"],
    ),
    "mix per sample of one": (["--mix", "mixup", "--mix-per", "sample"], ["--mix-per is sample", "mixup:per=batch"]),
    "mix per pair without pairs": (["--mix", "mixup+cutmix", "--mix-per", "pair"], ["partner='flip'", "permutation"]),
    "mix per sample at layers": (
        ["--mix", "mixup+manifold", "--mix-per", "sample", "--width", "4"],
        ["--mix mixup+manifold: per='sample' needs methods that mix at one and the same layer"],
    ),
    "probabilities above 1": (["--mix", "mixup@0.8+cutmix@0.4"], ["sum to 1, got 1.2"]),
    "probabilities that leave nothing": (["--mix", "mixup@1+cutmix"], ["leave something"]),
    "probability of one": (["--mix", "cutmix@0.5"], ["one method alone", "cutmix@0.5+none"]),
    "probability of 150%": (["--mix", "mixup+cutmix@1.5"], ["after @", "up to 1", "'1.5'"]),
    "no mixing twice": (["--mix", "none+mixup+none"], ["names none twice"]),
    "alpha of no mixing among others": (["--mix", "none:1+mixup"], ["draws no lambda"]),
    "compared methods of one file": (
        ["compare", "--methods", "keras_cutmix:(0.1,0.2)", "keras_cutmix:[0.1,0.2]"],
        ["--methods must differ in letters and digits"],
    ),
    "alpha of no mixing": (["compare", "--methods", "none:1"], ["--methods: 'none:1'", "without an alpha"]),
    "a method twice": (["compare", "--methods", "none", "none"], ["--methods", "differ", "('none', 'none')"]),
    "no method": (["compare", "--methods"], ["--methods", "at least one"]),
    "seeds 0": (["compare", "--seeds", "0"], ["--seeds", "from 1 to 1000", "0"]),
    "attacked 0": (["compare", "--attacked", "0"], ["--attacked", "at least 1", "0"]),
    "noise level": (["compare", "--noise-levels", "0.2", "20"], ["--noise-levels", "at most 1", "20.0"]),
    "radius": (["compare", "--radii", "0"], ["--radii", "above 0", "0.0"]),
    "compared batch": (["compare", "--batch-size", "1440"], ["--batch-size", "at most 1437", "1440"]),
    "compared layers": (["compare", "--layers", "layr1"], ["--layers", "did you mean 'layer1'"]),
    "compared width": (["compare", "--width", "0"], ["--width", "at least 1", "0"]),
    "data set not there": (
        ["--dataset", "cifar10"],
        ["--dataset cifar10 is not prepared in", "--data-dir", "tfds build cifar10 --file_format=array_record"],
    ),
}


FILES = {
    "LIST": "[1]",
    "METHODS": '{"methods": ["none"]}',
    "NESTED": '{"epochs": ' * 100_000,
    "FALSE": '{"epochs": false}',
    "OBJECT": '{"dataset": {"name": "digits"}}',
    "LISTS": '{"layers": [["layer1"]]}',
    "NUL": '{"out": "runs\\u0000"}',
    "SURROGATE": '{"name": "\\ud800"}',
    "NAN": '{"learning_rate": NaN}',
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_told_in_one_sentence(case, data_dir, tmp_path, capsys):
    arguments, fragments = BAD_INPUT[case]
    if arguments[0] == "--config" and arguments[1] in FILES:
        (tmp_path / "file.json").write_text(FILES[arguments[1]])
        arguments = ["--config", str(tmp_path / "file.json")]
    command, arguments = (arguments[:1], arguments[1:]) if arguments[0] == "compare" else ([], arguments)
    assert train.main([*command, "--data-dir", data_dir, "--out", str(tmp_path / "runs"), *arguments]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("train.py: ")
    assert all(fragment in told for fragment in fragments), told
    assert not (tmp_path / "runs").exists()  # nothing is left behind


@pytest.mark.parametrize(("word", "told"), [("comapre", "did you mean 'compare'? "), ("mixup", "")])
def test_a_command_that_is_none_is_told(word, told, capsys):
    assert train.main([word, "--epochs", "1"]) == 2
    error = capsys.readouterr().err
    there_are = ", ".join(map(repr, train.COMMANDS))
    assert error == (f"train.py: there is no command '{word}': {told}There are: {there_are}. Without one it trains.\n")


BATCHES = {
    "not mixed": {"mix": "none", "batch_size": 8, "accumulate": 8},
    "one image, not mixed": {"mix": "none", "batch_size": 1},
    "two in each part": {"mix": "mixup", "batch_size": 16, "accumulate": 8},
    "two in each group": {"mix": "mixup", "batch_size": 16, "accumulate": 2, "mix_groups": 4},
}


@pytest.mark.parametrize("case", BATCHES)
def test_small_batches_that_may_be(case):
    resolve(Config(devices=1, **BATCHES[case]))


def test_devices_of_one_image_may_mix_across():
    assert resolve(Config(batch_size=8, devices=8, mix_groups=1)).mix_groups == 1
    assert resolve(Config(batch_size=8, devices=8, mix="none")).mix_groups is None


def test_a_folder_that_cannot_be_written_is_found_before_the_data_is_read(data_dir, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("the data was read"))
    assert train.main(["--data-dir", data_dir, "--out", str(tmp_path / "file")]) == 2
    assert "--out: cannot write to the folder" in capsys.readouterr().err


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(["--data-dir", str(tmp_path / "file"), "--out", str(tmp_path)]) == 2
    assert "--data-dir: cannot prepare the digits" in capsys.readouterr().err


def test_a_data_set_is_looked_for_without_the_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert train.main(["--dataset", "cifar10", "--data-dir", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "cifar10 is not prepared" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--batch_size=12", "--layers", "a", "-h"]])
def test_help_explains_every_field(arguments, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        train.main(arguments)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(Config):
        flag = f"--{field.name.replace('_', '-')} "
        assert flag in text
        assert not text.split(flag)[1].split(" ", 1)[1].startswith("(default"), f"{flag} has no help"
    assert "handwritten digits with Manifold Mixup" in text
