"""Engines that train in several processes: what works, the reference in them, whole states.

FSDP2 and DeepSpeed's ZeRO-3 keep a model's weights in parts and put them together for the forward
and backward passes of its modules, so that nothing else may read them; DDP and ZeRO-1 and 2 keep
them whole.
"""

import copy
import importlib
import logging
import os
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from torch import Tensor, nn

from riskalign.errors import FieldError, InputError
from riskalign.models.sharding import is_partitioned, whole
from riskalign.tokens import output_layer_of

logger = logging.getLogger(__name__)

# Parts of DeepSpeed's configuration that are about training, or would be reported twice.
_OF_TRAINING = (
    *("optimizer", "scheduler", "flops_profiler"),
    *("tensorboard", "wandb", "comet", "csv_monitor"),
)


def check_engine(args: Any) -> None:
    """Raise `FieldError` for an engine that does not work here; `args` is an `RSAConfig`."""
    kind = getattr(args.distributed_state, "distributed_type", DistributedType.NO)
    if _asks_for("FSDP") or args.fsdp:
        config: Any = args.fsdp_config or {}
        version = config.get("version", 2) if args.fsdp else os.environ.get("FSDP_VERSION", "1")
        if int(version) != 2 or config.get("xla"):
            raise FieldError("fsdp", "is FSDP1 or XLA's; set fsdp_version: 2 (version in args)")
        if kind in (DistributedType.NO, DistributedType.MULTI_CPU):
            problem = f"is asked for, which accelerate does not run here ({kind.value}): it needs "
            raise FieldError("fsdp", problem + "several processes (accelerate launch), on GPUs")
        if args.load_best_model_at_end:
            problem = "is set, which does not work with fsdp; give the best checkpoint's folder"
            raise FieldError("load_best_model_at_end", problem)
    if _asks_for("MEGATRON_LM"):
        raise FieldError("Megatron-LM", "is asked for; use DDP, FSDP2 or DeepSpeed")
    if args.parallelism_config is not None or _asks_for("PARALLELISM_CONFIG"):
        problem = "is set: rows are shared out among all processes and nothing else is; remove it"
        raise FieldError("parallelism_config", problem)
    if not args.deepspeed_plugin:
        return
    settings = args.deepspeed_plugin.hf_ds_config
    if settings.get_value("tensor_parallel.autotp_size", 0) > 1:
        raise FieldError("deepspeed", "has tensor_parallel, which splits rows of the head; remove")
    saved = settings.get_value("zero_optimization.stage3_gather_16bit_weights_on_model_save")
    if settings.is_zero3() and not saved:
        problem = "has ZeRO-3 and would save no weights; set zero_optimization."
        raise FieldError("deepspeed", problem + "stage3_gather_16bit_weights_on_model_save: true")


def check_models(args: Any, policy: Any, ref: Any) -> None:
    """Raise `FieldError` for models or settings that do not go with weights in parts.

    A reference of a precision of its own is let pass with a warning.
    """
    layers: list[Any] = [output_layer_of(model).modules[-1] for model in (policy, ref)]
    kinds = [layer.weight.dtype for layer in layers]
    if kinds[0] != kinds[1]:
        logger.warning(
            "The model is in %s and ref_model in %s; where they compute in these, the difference "
            "counts as risk from the first step on. Load both in one precision.",
            *kinds,
        )
    if not in_parts(args):
        return
    if args.compile_layers:
        raise FieldError("compile_layers", "is set, which does not go with weights in parts")
    zero = not args.fsdp and not _asks_for("FSDP")
    if zero and (getattr(policy, "is_quantized", False) or getattr(ref, "is_quantized", False)):
        raise FieldError("deepspeed", "is ZeRO-3 and the model quantised; take FSDP2 or ZeRO-2")


def in_parts(args: Any) -> bool:
    """Whether the engine keeps weights in parts."""
    zero = args.deepspeed_plugin and args.deepspeed_plugin.hf_ds_config.is_zero3()
    return bool(args.fsdp or _asks_for("FSDP") or zero)


def _asks_for(engine: str) -> bool:
    """Whether `accelerate launch` does."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def settle(accelerator: Accelerator, args: Any) -> None:
    """Set what follows from the engine that runs; `InputError` where it is not the one asked for.

    FSDP2 in half precision would round every module's outputs, and losses with them; where its
    state dicts are to be in parts, `Trainer` would save no model.
    """
    asked = "FSDP" if args.fsdp or _asks_for("FSDP") else None
    asked = "DEEPSPEED" if args.deepspeed_plugin else asked
    runs = accelerator.distributed_type.value
    if asked and asked != runs:
        raise InputError(f"{asked} is asked for, but accelerate runs {runs}. Set only one engine.")
    if accelerator.is_fsdp2:
        plugin = accelerator.state.fsdp_plugin
        plugin.set_state_dict_type("FULL_STATE_DICT")
        policy = plugin.mixed_precision_policy
        if policy is not None and policy.output_dtype is not None:
            plugin.mixed_precision_policy = type(policy)(
                policy.param_dtype, policy.reduce_dtype, None, policy.cast_forward_inputs
            )


def check_start(accelerator: Accelerator) -> None:
    """Raise `InputError` where DeepSpeed has evaluated and so has no optimizer to train with."""
    zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if zero and accelerator._models and accelerator.deepspeed_engine_wrapped is None:
        raise InputError(
            "This trainer has evaluated before training, after which DeepSpeed cannot train. "
            "Set eval_on_start, or evaluate with a trainer of its own."
        )


def place(model: Any, accelerator: Accelerator) -> Any:
    """Give a frozen model the policy's engine, device and precision, in place.

    Call it when the policy has its engine. What is returned must be kept as long as the model.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
        zero = config["zero_optimization"]
        zero.pop("offload_optimizer", None)
        if zero["stage"] != 3:  # without an optimizer the others have nothing to share out
            zero["stage"] = 0
        config = {name: value for name, value in config.items() if name not in _OF_TRAINING}
        engine, *_ = importlib.import_module("deepspeed").initialize(model=model, config=config)
        return engine
    if accelerator.is_fsdp2:
        fsdp_utils = importlib.import_module("accelerate.utils.fsdp_utils")
        return fsdp_utils.fsdp2_prepare_model(accelerator, model)
    if not hasattr(model, "quantization_method"):  # quantised weights have their place already
        model.to(accelerator.device)
    return model


def part(model: Any) -> None:
    """Have FSDP2 part weights that it left whole after a forward pass without a backward pass.

    An optimizer made of whole ones would not train the parts.
    """
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy for evaluation; of weights in parts every process copies its own, one by one."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for own, new in zip(model.parameters(), copied.parameters(), strict=True):
        if is_partitioned(own):
            with whole([own]):
                new.data = own.data.detach().clone()
            partition: Any = own
            partition.convert_to_zero_parameters(param_list=[new])
    return copied


def whole_tensor(value: Any) -> Any:
    """A tensor of FSDP2 whole, on all processes; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def any_process(accelerator: Accelerator, here: Tensor | bool) -> bool:
    """Whether it holds on any process: all stop, or the others wait for ever."""
    flag = torch.as_tensor(here, device=accelerator.device).reshape(1)
    return bool(accelerator.gather(flag).any())


def check_parts(model: nn.Module, accelerator: Accelerator, whose: str) -> None:
    """Raise `InputError`, on all processes, where the parts of one hold NaN or infinity."""
    bad = ""
    for name, parameter in model.named_parameters():
        own: Any = getattr(parameter, "ds_tensor", parameter)
        own = own.to_local() if hasattr(own, "to_local") else own
        if not bool(own.isfinite().all()):
            bad = bad or f", {name!r} among them"
    if any_process(accelerator, bool(bad)):
        raise InputError(f"{whose}: weights hold NaN or infinity{bad}, so training diverged.")
