"""The methods that `--preset` and `riskalign compare` know, one YAML file each.

A preset says what makes the method and nothing else; model, data, world, targets, learning rates
and budget are the job's. docs/paper_index.md gives each paper's own hyperparameters.
"""
