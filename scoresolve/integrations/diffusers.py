"""``ScoreSolveScheduler``: any fixed-grid solver of this library as the scheduler of a diffusers pipeline.

The pipeline asks its network, the scheduler executes the rows of a :class:`Table` (``stepping.py``). The state that
goes back and forth is that of the process: variance preserving, or the flow's; of EDM networks their own, as in
diffusers, the input scaled by ``scale_model_input``. A pipeline sees one timestep for each network call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..conditioning import threshold
from ..errors import unknown
from ..model import ScoreModel
from ..noise import SOLVER, SampleStreams
from ..predictions import truth
from ..table import Table
from ..watch import version_of
from .making import TableMaker, adopted, calls_per_step, step_starts
from .networks import Preconditioned
from .schedules import Schedule, schedule_of
from .stepping import Mailbox, Stepper


@dataclass
class ScoreSolveOutput(BaseOutput):
    """What a step returns: the next point to ask the network at, and the data predicted at the last one."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class ScoreSolveScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A table as a scheduler: ``pipe.scheduler = ScoreSolveScheduler.from_config(pipe.scheduler.config, solver=...)``.

    Args:
        solver: a name of ``ss.solvers()`` or one that others use ("DPM++ 2M Karras"), a ``Table`` (a tuned one, or one
            of your own), or the path of its JSON. Default: that of ``ss.sample`` for the number of steps
            (``ss.default_solver``). Adaptive solvers cannot be schedulers.
        solver_options: the solver's own options, such as ``{"eta": 0.5}``.
        grid: a name of ``ss.grids.GRIDS``; "config" for the times that diffusers would take. Default: the solver's own
            grid; of a flow uniform times, shifted once.
        whole_timesteps: ask at whole indices only, for networks that look them up in a table.
        clip: keep the data prediction in [-clip, clip]. A ``clip_sample`` of other schedulers is not taken over.
        seed: draw the noise that ``ss.sample`` draws for it, in place of the pipeline's ``generator``.
        All others are those of diffusers' schedulers, and ``from_config`` takes them from any of these.

    ``num_inference_steps`` are steps; ``len(scheduler.timesteps)`` network calls. Noise comes from the pipeline's
    ``generator``, one for all or a list with one for each sample. Pipelines that hand it none (DiT, SD3, Flux) leave a
    stochastic solver to torch's global generator, as elsewhere in diffusers: give it a ``seed``.

    Raises: ValueError, TypeError at construction for what cannot be run.

    >>> import torch
    >>> from scoresolve.integrations.diffusers import ScoreSolveScheduler
    >>> scheduler = ScoreSolveScheduler(solver="heun")
    >>> scheduler.set_timesteps(3)
    >>> scheduler.timesteps.round().tolist()
    [999.0, 184.0, 184.0, 0.0, 0.0]
    """

    _compatibles = [each.name for each in KarrasDiffusionSchedulers]  # noqa: RUF012 (diffusers' own way)
    order = 1
    num_inference_steps: int | None = None
    _stepper: Stepper | None
    _begin_index: int | None
    _returned: Tensor | None
    _version: int | None

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        snr_shift_scale: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        shift_terminal: float | None = None,
        time_shift_type: str = "exponential",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
        solver: str | Table | Mapping[str, Any] | None = None,
        solver_options: Mapping[str, Any] | None = None,
        grid: str | None = None,
        whole_timesteps: bool = False,
        clip: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.schedule: Schedule = schedule_of(self.config)
        self._mailbox = Mailbox()
        self.model = self._model(clip, whole_timesteps)
        self._maker = TableMaker.of(self.config, self.schedule, self.model, solver)
        if self._maker.fixed is not None:
            self.register_to_config(solver=json.loads(self._maker.fixed.to_json()))  # type: ignore[no-untyped-call]
        self._adopt(self._maker.table(10 if self._maker.fixed is None else None, mu=0.0), None)

    # -- what pipelines call ------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler for the network that a configuration of diffusers describes; keywords go before it.

        Raises: TypeError for a keyword that is not one of the constructor's.
        """
        known = cls._get_init_keys(cls) - {"self"}  # type: ignore[no-untyped-call]
        if not return_unused_kwargs:
            for name in kwargs.keys() - known:
                raise TypeError(unknown("keyword", name, known))
        said = {key: value for key, value in adopted(config).items() if key in known}
        return super().from_config(said, return_unused_kwargs, **kwargs)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Make the table of a run.

        Args: num_inference_steps, of the solver; or timesteps, as the network is told them, or sigmas (sigma/alpha; of
        a flow before its shift), decreasing, one for each step; device, of ``timesteps``; mu, of a dynamic shift.
        """
        self._adopt(self._maker.table(num_inference_steps, timesteps, sigmas, mu), device)
        self.num_inference_steps = len(self.table.times) - 1

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is given: the state itself, but for EDM networks ``c_in x``."""
        if self.schedule.sigma_data is None:
            return sample
        sigma = self.table.rows[self._row(timestep)].t
        scaled: Tensor = sample * (sigma**2 + self.schedule.sigma_data**2) ** -0.5
        return scaled

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> ScoreSolveOutput | tuple[Tensor, Tensor]:
        """Take the network's output at (sample, timestep) one row further; see :class:`ScoreSolveOutput`.

        Args: eta, 0 or what the solver has as its own: it is an option of the solver here. Others are not used.
        """
        own = self.table.options.get("eta")
        if eta and eta != own:
            raise ValueError(f"eta={eta:g} is an option of the solver: solver_options={{'eta': {eta:g}}}, got {own}")
        stepper = self._at(timestep, sample)
        y, data = stepper.answer(model_output, self._noise(generator))
        following = y.to(sample.dtype, copy=True)
        self._returned, self._version = following, version_of(following)
        if not return_dict:
            return following, data.to(sample.dtype)
        return ScoreSolveOutput(prev_sample=following, pred_original_sample=data.to(sample.dtype))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where in ``timesteps`` a run begins that does not begin at the first: image to image."""
        self._begin_index = begin_index

    @property
    def begin_index(self) -> int | None:
        """The index that a pipeline has set."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """Which of ``timesteps`` comes next; None before the first."""
        return None if self._stepper is None else self._first + self._stepper.number

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x_0 + sigma noise`` at timesteps (batch,), (1,) or ()."""
        return self.model.sde.perturb(original_samples, self._times(timesteps), noise.to(original_samples))

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """The same under the name and the order of arguments of flow matching."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha noise - sigma x_0``, what a network of v is trained on."""
        return truth("v", self.model.sde, self._times(timesteps).expand(len(sample)), sample, noise)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    # -- the table ----------------------------------------------------------------------------------------------

    def _model(self, clip: float | None, whole: bool) -> ScoreModel:
        """The mailbox as a model: what its answers mean."""
        schedule, net = self.schedule, self._mailbox
        if schedule.sigma_data is not None:
            edm = Preconditioned(net, schedule.sigma_data, schedule.predicts)
            model = ScoreModel(edm, schedule.sde, predicts="data", time="sigma")
        else:
            time = "index" if whole and schedule.kind == "table" else schedule.time
            model = ScoreModel(net, schedule.sde, predicts=schedule.predicts, time=time)
        return model if clip is None else threshold(model, -clip, clip)

    def _adopt(self, table: Table, device: torch.device | str | None) -> None:
        """Show a table to the pipeline, and wait for its first step."""
        self.table, sde = table, self.model.sde
        times = np.array([row.t for row in table.rows])
        labels = self.schedule.labels(times)
        levels = times if self.schedule.kind == "flow" else sde.rho(times)
        self._labels, self._starts = labels, step_starts(table)
        if self.model.time == "index":
            self.timesteps = torch.tensor(np.rint(labels), dtype=torch.int64, device=device)
        else:
            self.timesteps = torch.tensor(labels, dtype=torch.float32, device=device)
        self.sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32, device="cpu")
        self.order = calls_per_step(table) or 1
        self.init_noise_sigma = sde.prior_std(table.start)
        self._stepper = None
        self._begin_index = None
        self._first = 0
        self._returned = None

    def _row(self, timestep: Any) -> int:
        """Which call comes next."""
        if self._stepper is not None:
            return self._first + self._stepper.number
        if self._begin_index is not None:
            return self._begin_index
        if timestep is None:
            return 0
        away = np.abs(self._labels[self._starts] - float(timestep))
        nearest = int(away.argmin())
        if away[nearest] > 1e-3 * max(1.0, abs(float(timestep))):
            raise ValueError(f"expected one of the timesteps at which a step begins, got {float(timestep):g}")
        return self._starts[nearest]

    def _is_next(self, timestep: Any) -> bool:
        """Whether a timestep is that of the call that comes next, to the digits that half precision leaves."""
        due = self._labels[self._row(None)]
        return timestep is None or abs(float(timestep) - due) <= 0.01 * max(np.ptp(self._labels), abs(due))

    def _at(self, timestep: Any, sample: Tensor) -> Stepper:
        """The loop where it stands. What a pipeline has done to the sample in between is done to the state."""
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        stepper = self._stepper
        if stepper is None:
            self._first = self._row(timestep)
            table = self.table if self._first == 0 else self._maker.rest(self.table, self._first)
            seed = self.config["seed"]
            self._streams = None if seed is None else SampleStreams(seed, range(len(x)))
            stepper = self._stepper = Stepper(table, self.model, self._mailbox, x)
        elif stepper.done:
            raise ValueError("the run is over, all its timesteps are done: call set_timesteps before another")
        elif sample.shape != stepper.x.shape or not self._is_next(timestep):
            raise ValueError(
                f"the run under way is of a sample {tuple(stepper.x.shape)}, next at timestep "
                f"{self._labels[self._row(None)]:g}, got {tuple(sample.shape)} at {timestep}: call "
                "set_timesteps before another run"
            )
        elif sample is not self._returned or version_of(sample) != self._version:
            stepper.move(x - stepper.y.to(sample.dtype).to(x.dtype))  # no change, but for the digits that half drops
        return stepper

    def _times(self, timesteps: Any) -> Tensor:
        """Our times of a pipeline's timesteps; a single one is for the whole batch."""
        given = timesteps if isinstance(timesteps, Tensor) else torch.as_tensor(timesteps, device="cpu")
        times: Tensor = self.schedule.times(given.double())
        return times.reshape(()) if times.numel() == 1 else times

    def _noise(self, generator: Any) -> Callable[[int, Tensor], Tensor]:
        """Noise of a call: as ``ss.sample`` draws it for the seed, or as pipelines do; a list has one for a sample."""
        streams = self._streams
        if streams is not None:
            return lambda number, like: streams.draw(SOLVER, number, like)
        return lambda number, like: randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
