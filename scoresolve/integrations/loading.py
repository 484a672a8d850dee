"""``from_diffusers``: a pipeline, a network or a directory of diffusers as a ``ScoreModel``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import require
from ..labels import TimeLabel
from ..model import ScoreModel
from ..predictions import Prediction
from ..reading import parse_json, read_file
from .networks import DiffusersNetwork, Preconditioned
from .schedules import Config, Schedule, schedule_of

NETWORKS = ("unet", "transformer")
"""Under which names pipelines hold their network."""
TOLD_SIGMA = ("Flux", "Chroma", "QwenImage")
"""Flow networks that are told sigma itself, and multiply it by 1000 inside."""
TOLD_INDEX = ("SD3", "Sana", "Wan", "LTX", "HunyuanVideo", "CogView4")
"""Flow networks that are told ``num_train_timesteps`` times sigma."""


def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    predicts: Prediction | None = None,
    time: TimeLabel | Callable[[Tensor], Tensor | float] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ScoreModel:
    """A network of diffusers with its process, prediction and time label, as its scheduler's configuration has them.

    Args:
        source: a pipeline; a network (``UNet2DModel``, ``UNet2DConditionModel``, ``DiTTransformer2DModel``, a
            transformer of SD3 or Flux, ...); or a local directory of either, read from safetensors only. With
            ``model_index.json`` it is a pipeline's; with ``config.json`` a network's, its ``scheduler`` folder in it or
            beside it.
        scheduler: a scheduler, its configuration (a mapping) or a directory with ``scheduler_config.json``, in place
            of the one found with the source.
        predicts, time: as in ``ScoreModel``, in place of what the configuration says.
        dtype, device: of a network that is read from a directory.

    Returns: a ``ScoreModel`` on ``DiscreteVPSDE`` or ``ZeroTerminalVPSDE`` (tables of betas), ``RectifiedFlow`` (flow
    matching), ``EDM``, ``VESDE`` or ``VPSDE``, around the network as it is, in its own mode. What the network wants
    beside x and time is bound with ``model.condition``, guidance with ``model.guide``. Learned variances are cut off.

    Raises: ValueError for schedulers and networks that are not known, ImportError without diffusers.

    >>> import torch, scoresolve as ss
    >>> class Net(torch.nn.Module):  # stands for a UNet2DModel
    ...     def forward(self, sample, timestep, return_dict=True):
    ...         return (0.5 * sample,)
    >>> config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    >>> model = ss.from_diffusers(Net(), config)  # or ss.from_diffusers(pipeline)
    >>> model.sde, model.predicts, model.time
    (DiscreteVPSDE(<1000 betas, 0.00085 to 0.012, mean 0.00534899>), 'noise', 'fractional_index')
    """
    net, config = _read(source, scheduler, dtype, device)
    schedule = schedule_of(config)
    wrapped: nn.Module = DiffusersNetwork(net)
    if schedule.sigma_data is not None:
        require(predicts is None and time is None, "predicts and time of an EDM network as its configuration has them")
        wrapped = Preconditioned(wrapped, schedule.sigma_data, schedule.predicts)
        return ScoreModel(wrapped, schedule.sde, predicts="data", time="sigma")
    if predicts is None:
        predicts = "score" if _divides_by_sigma(net) else schedule.predicts
    return ScoreModel(wrapped, schedule.sde, predicts=predicts, time=_label(net, schedule) if time is None else time)


def config_of(scheduler: Any) -> dict[str, Any]:
    """The complete configuration of a scheduler, of a mapping or of a directory, its class's defaults filled in.

    A saved configuration may leave out what its class has by default, and classes have different defaults.
    """
    if isinstance(scheduler, str | Path):
        scheduler = _mapping(_file(Path(scheduler), "scheduler_config.json"))
    config: Config = getattr(scheduler, "config", scheduler)
    if not hasattr(config, "keys"):
        raise TypeError(f"expected a scheduler, its configuration or a directory, got {type(scheduler).__name__}")
    said = {key: value for key, value in config.items() if key != "_use_default_values"}
    if not isinstance(said.get("_class_name"), str) and scheduler is not config:
        said["_class_name"] = type(scheduler).__name__
    if "_class_name" not in said:
        return said
    import diffusers

    known = getattr(diffusers, str(said["_class_name"]), None)
    if known is None:
        return said
    parameters = inspect.signature(known.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} | said


def _read(source: Any, scheduler: Any, dtype: Any, device: Any) -> tuple[nn.Module, Config]:
    """The network and the scheduler's configuration."""
    if isinstance(source, str | Path):
        return _read_directory(Path(source), scheduler, dtype, device)
    require(dtype is None and device is None, "dtype and device with a directory only: a network has its own")
    if isinstance(source, nn.Module):
        require(scheduler is not None, "scheduler=, which says how the network was trained, beside a bare network")
        return source, config_of(scheduler)
    net = next((found for name in NETWORKS if (found := getattr(source, name, None)) is not None), None)
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"source must be a pipeline with a unet or a transformer, a network, or a directory; got "
            f"{type(source).__name__}: of another pipeline give ss.from_diffusers(network, scheduler)"
        )
    return net, config_of(source.scheduler if scheduler is None else scheduler)


def _read_directory(path: Path, scheduler: Any, dtype: Any, device: Any) -> tuple[nn.Module, Config]:
    if not path.is_dir():
        raise ValueError(
            f"no directory {str(path)!r}: a model of the hub is loaded by diffusers, "
            "ss.from_diffusers(DiffusionPipeline.from_pretrained(name))"
        )
    if (path / "model_index.json").is_file():
        parts = _mapping(path / "model_index.json")
        folder = next(
            (path / name for name in NETWORKS if isinstance(parts.get(name), list) and any(parts[name])), None
        )
        require(folder is not None, f"a pipeline with one of {NETWORKS}, got {sorted(parts)}")
        beside = [path / "scheduler"]
    else:
        folder, beside = path, [path / "scheduler", path, path.parent / "scheduler"]
    if scheduler is None:
        scheduler = next((one for one in beside if (one / "scheduler_config.json").is_file()), None)
        require(scheduler is not None, f"scheduler=, or scheduler_config.json in one of {[str(one) for one in beside]}")
    where = str(_file(folder, "config.json").parent)
    require("auto_map" not in _mapping(Path(where) / "config.json"), f"no auto_map in {where}: it names code to run")
    from diffusers import AutoModel

    load: Callable[..., nn.Module] = AutoModel.from_pretrained
    net = load(where, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
    return net.to(device) if device is not None else net, config_of(scheduler)


def _file(folder: Path | None, name: str) -> Path:
    """A file of a folder. Raises: ValueError if it is not there."""
    assert folder is not None
    path = folder if folder.name == name else folder / name
    require(path.is_file(), f"{name} in {str(folder)!r}")
    return path


def _mapping(path: Path) -> dict[str, Any]:
    """What a file of JSON says by names. Raises: ValueError, naming the file."""
    try:
        found = parse_json(read_file(path))
        require(isinstance(found, dict), f"names and values, got {type(found).__name__}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dict(found)


def _divides_by_sigma(net: nn.Module) -> bool:
    """Whether it is an NCSN++, which is told sigma and answers with a score."""
    return getattr(getattr(net, "config", None), "time_embedding_type", None) == "fourier"


def _label(net: nn.Module, schedule: Schedule) -> Any:
    """How the network is told the time. Raises: ValueError for a flow network that is not known."""
    name, embedding = type(net).__name__, getattr(getattr(net, "config", None), "time_embedding_type", None)
    if embedding == "learned":  # looked up in a table
        return "index"
    if schedule.kind != "flow" or name.startswith("UNet") or name.startswith(TOLD_INDEX):
        return schedule.time
    if name.startswith(TOLD_SIGMA):
        return "t"
    raise ValueError(
        f"expected time=, as {name} is not known: time='t' if it is told sigma (its pipeline divides by 1000), "
        "time=lambda t: 1000 * t if it is told 1000 sigma. If its pipeline turns the sign of the answer, wrap it"
    )
