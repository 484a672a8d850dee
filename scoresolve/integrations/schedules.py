r"""The forward process of a diffusers scheduler's configuration, in float64; no diffusers needed.

Index i of their ``alphas_cumprod`` is our time ``t = (i + 1) / N`` with ``alpha(t)^2 = alphas_cumprod[i]``. Their
tables are float32 products; ours are made again from the definition of the betas, and agree to that rounding. With
b_0, b_1 = ``beta_start, beta_end``, i = 0 ... N - 1:

    linear               equally spaced from b_0 to b_1
    scaled_linear        square roots equally spaced
    sigmoid              b_0 + (b_1 - b_0) s(u), s the logistic function, u equally spaced from -6 to 6
    squaredcos_cap_v2    min(1 - f((i + 1)/N) / f(i/N), 0.999),  f(t) = cos^2(pi/2 (t + 0.008) / 1.008)
    exp                  the same with f(t) = exp(-12 t)
    laplace              the same with f(t) = (r / (1 + r))^(1/2), log r = -1/2 sign(1/2 - t) log(1 - |1 - 2 t| + 1e-6)

``trained_betas`` goes before all. Then, where a configuration says so, the ratio of signal to noise is divided by
``snr_shift_scale`` c, ``1/alpha^2 -> (c + (1 - c) alpha^2) / alpha^2``, and the end is rescaled to zero signal.

Flow matching is ``RectifiedFlow`` (their sigma is our t), whatever the shift: that is a matter of the grid. An EDM
configuration is ``EDM`` with a network F inside ``D = c_skip x + c_out F(c_in x, log(sigma) / 4)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from ..custom import DiscreteVPSDE
from ..errors import require, unknown
from ..labels import TimeLabel, label_of
from ..predictions import Prediction
from ..processes import EDM, VESDE, VPSDE, RectifiedFlow
from ..sde import SDE
from ..zero_terminal import ZeroTerminalVPSDE

Config: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["table", "flow", "edm", "ve", "vp"]

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "noise", "sample": "data", "original_sample": "data", "v_prediction": "v", "flow_prediction": "flow",
}  # fmt: skip
"""Their prediction types by our names."""
REFUSED = {
    "CMStochasticIterativeScheduler": "a consistency model is not a score network: it has no path to follow",
    "SCMScheduler": "a consistency model is not a score network: it has no path to follow",
    "CosineDPMSolverMultistepScheduler": "its networks are told arctan(sigma): write the ScoreModel by hand",
    "DDPMWuerstchenScheduler": "its networks are told r of a cosine schedule: use ss.CosineVPSDE and a ScoreModel",
    "IPNDMScheduler": "it has no schedule of its own: take the configuration that the network was trained with",
    "VQDiffusionScheduler": "its states are discrete",
    "AmusedScheduler": "its states are discrete",
}
"""Schedulers whose networks are not (continuous) score networks of a schedule known here."""


@dataclass(frozen=True)
class Schedule:
    """What a scheduler's configuration says of its network.

    Attributes:
        kind: "table" (of betas), "flow", "edm" (with ``sigma_data``), "ve" or "vp" (the score SDEs).
        sde: the forward process.
        predicts: what the network answers; of "edm", the inner network's "noise" or "v".
        time: what it is told, as ``ScoreModel`` wants it; of "edm" the inner network's.
        sigma_data: of "edm" only.
    """

    kind: Kind
    sde: SDE
    predicts: Prediction
    time: TimeLabel | Callable[[Tensor], Tensor]
    sigma_data: float | None = None

    def labels(self, times: np.ndarray) -> np.ndarray:
        """What the network is told at times, float64: what diffusers calls timesteps."""
        return np.asarray(label_of(self.time, self.sde, times))

    def times(self, labels: np.ndarray | Tensor) -> Any:
        """The inverse of :meth:`labels`, in kind."""
        match self.kind:
            case "table":
                return (labels + 1) / len(getattr(self.sde, "betas"))  # noqa: B009
            case "flow":
                return labels / scaled_by(self.time)
            case "edm":
                return (4 * labels).exp() if isinstance(labels, Tensor) else np.exp(4 * labels)
        raise ValueError(f"no timesteps of a {self.kind!r} process: they are those of its own pipelines")


def schedule_of(config: Config) -> Schedule:
    """The process, prediction and time label of a complete configuration.

    Args: config, a mapping with the keys of a diffusers scheduler, ``_class_name`` among them if it is known.
    Raises: ValueError for a scheduler, a prediction type or a schedule that is not known.

    >>> config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    >>> schedule_of({**config, "prediction_type": "v_prediction"}).predicts
    'v'
    >>> schedule_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}).sde
    RectifiedFlow()
    """
    try:
        return _schedule(config)
    except KeyError as error:
        raise ValueError(f"expected a complete configuration, got one without {error}") from error
    except OverflowError as error:
        raise ValueError(f"expected numbers that a float holds in the configuration: {error}") from error


def _schedule(config: Config) -> Schedule:
    name = class_of(config)
    if name in REFUSED:
        raise ValueError(f"{name} cannot be taken over: {REFUSED[name]}")
    said = config.get("prediction_type") or "epsilon"
    if said not in PREDICTIONS:
        raise ValueError(unknown("prediction_type", said, PREDICTIONS))
    predicts, steps = PREDICTIONS[said], int(config.get("num_train_timesteps") or 1000)
    require(1 <= steps <= 10**6, f"num_train_timesteps from 1 to a million, got {steps}")
    match kind_of(config):
        case "flow":
            require(not config.get("invert_sigmas"), "a flow with noise at sigma = 1; invert_sigmas has it at 0")
            return Schedule("flow", RectifiedFlow(), "flow", partial(scaled, factor=float(steps)))
        case "edm":
            require(predicts in ("noise", "v"), f"an EDM network of epsilon or v_prediction, got {said!r}")
            low, high = _levels(config)
            sigma_data = float(config.get("sigma_data") or 1.0)
            return Schedule("edm", EDM(low, high), predicts, quarter_log, sigma_data)
        case "ve":
            return Schedule("ve", VESDE(config["sigma_min"], config["sigma_max"]), "score", "sigma")
        case "vp":
            ends = config["beta_min"], config["beta_max"]
            return Schedule("vp", VPSDE(*ends), "noise", partial(scaled, factor=steps - 1.0))
    return Schedule("table", table_of(config), predicts, "fractional_index")


def kind_of(config: Config) -> Kind:
    """Which family a configuration belongs to. Raises: ValueError if its keys name none."""
    name = class_of(config)
    flows = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flows or name.startswith("FlowMatch"):
        return "flow"
    if config.get("sigma_data") is not None or config.get("timestep_type") == "continuous":
        return "edm"
    if config.get("trained_betas") is not None or config.get("beta_schedule") is not None:
        return "table"
    if config.get("shift") is not None:
        return "flow"
    if config.get("beta_min") is not None:
        return "vp"
    require(config.get("snr") is not None, f"a schedule among the keys of {name or 'the configuration'}; {_HOW}")
    return "ve"


def class_of(config: Config) -> str:
    """The class that a configuration is of, as far as it is said or seen: that of a scheduler in memory has no name."""
    if "_class_name" in config:
        return str(config["_class_name"])
    if "clip_denoised" in config:
        return "CMStochasticIterativeScheduler"
    if {"sigma_data", "solver_order"} <= config.keys() and "algorithm_type" not in config:
        return "CosineDPMSolverMultistepScheduler"
    return ""


_HOW = "beta_schedule or trained_betas (tables), FlowMatch... (flows), sigma_data (EDM), beta_min, snr (score SDEs)"


def table_of(config: Config) -> DiscreteVPSDE:
    """The process of a table of betas, with its shift and its rescaling."""
    betas = betas_of(config)
    shift = float(config.get("snr_shift_scale") or 1.0)
    if shift != 1.0:
        integral = -np.cumsum(np.log1p(-betas))
        integral = integral + np.log(shift + (1 - shift) * np.exp(-integral))
        betas = -np.expm1(-np.diff(integral, prepend=0.0))
    return ZeroTerminalVPSDE(betas) if config.get("rescale_betas_zero_snr") else DiscreteVPSDE(betas)


def betas_of(config: Config) -> np.ndarray:
    """The betas before any rescaling, float64 (N,). Raises: ValueError for a schedule that is not known."""
    trained = config.get("trained_betas")
    if trained is not None:
        return np.asarray(trained, dtype=np.float64)
    steps = int(config.get("num_train_timesteps") or 1000)
    first, last = float(config.get("beta_start") or 1e-4), float(config.get("beta_end") or 0.02)
    schedule = str(config.get("beta_schedule") or "linear")
    match schedule:
        case "linear":
            return np.linspace(first, last, steps)
        case "scaled_linear":
            return np.linspace(first**0.5, last**0.5, steps) ** 2
        case "sigmoid":
            return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, steps)))
    if schedule not in _KEPT:
        raise ValueError(unknown("beta_schedule", schedule, ("linear", "scaled_linear", "sigmoid", *_KEPT)))
    kept = _KEPT[schedule](np.arange(steps + 1) / steps)
    return np.asarray(np.minimum(1 - kept[1:] / kept[:-1], 0.999))


def _laplace(t: np.ndarray) -> np.ndarray:
    log_ratio = -0.5 * np.where(t <= 0.5, 1.0, -1.0) * np.log(1 - np.abs(1 - 2 * t) + 1e-6)
    return np.asarray((1 + np.exp(-log_ratio)) ** -0.5)


_KEPT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "squaredcos_cap_v2": lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2,
    "exp": lambda t: np.exp(-12.0 * t),
    "laplace": _laplace,
}


def _levels(config: Config) -> tuple[float, float]:
    """The lowest and highest noise level of an EDM configuration; those of its betas where it names none."""
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is not None and high is not None:
        return float(low), float(high)
    sde = table_of(config)
    levels = sde.rho(np.array([1 / sde.N, 1.0]))
    return float(levels[0] if low is None else low), float(levels[1] if high is None else high)


def scaled(t: Tensor, factor: float) -> Tensor:
    """``factor t``."""
    return factor * t


def scaled_by(time: Any) -> float:
    """The factor of a label made by :func:`scaled`."""
    return float(time.keywords["factor"])


def quarter_log(sigma: Tensor) -> Tensor:
    """``log(sigma) / 4``: what an EDM network is told."""
    return 0.25 * sigma.log()
