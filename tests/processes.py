"""How tests start processes of Python that need torch."""

import sys

import torch

#: A fork has imported everything already; beside a GPU torch does not compute in forks.
START_METHOD = "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"
