"""What train.py is made of: data, models, evaluation, plots and files."""
