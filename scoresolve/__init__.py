"""scoresolve: numerical SDE and ODE solvers for score models.

>>> import torch, scoresolve as ss
>>> net = lambda x, t: -x  # a score network: any callable (x, t) -> tensor of x's shape
>>> model = ss.ScoreModel(net, ss.VPSDE(), predicts="score")
>>> ss.sample(model, shape=(16, 3, 8, 8), solver="dpmpp_2m", nfe=10, seed=0)
Solution(samples (16, 3, 8, 8) torch.float32, nfe=10, dpmpp_2m, t 1 -> 0.001)
"""

from . import exact, grids, losses, operators, quadrature, registry, shards
from . import solvers as _solvers  # noqa: F401 (registers them)
from .advice import Advice, advise
from .backends import Backend, backend
from .bound import VariationalBound, variational_bound
from .brownian_path import BrownianPath
from .captured import Captured, capture
from .comparison import Comparison, compare
from .conditioning import classifier_guidance, threshold
from .conformance import Conformance, conform
from .correctors import AnnealedLangevin, Corrector, Langevin
from .custom import DiscreteVPSDE, GaussianPath
from .defaults import default_solver
from .designed import Antithetic, QuasiRandom
from .diagnosis import Diagnosis, doctor
from .divergence import Divergence
from .dynamics import ProbabilityFlow, ReverseSDE
from .empirical import ModelStatistics, model_statistics
from .errors import BudgetError, NetworkOutputError, NonFiniteError, ScoreSolveError, StepUnderflowError
from .integrations.loading import from_diffusers
from .inverse import Replacement, posterior_guidance, resampled
from .latents import decode, interpolate
from .likelihood import LogLikelihood, dequantise, log_likelihood
from .model import ScoreModel
from .noise import NoiseSource, PathSource, SampleStreams, StillSource
from .operators import LinearOperator
from .outcome import Failure, Outcome, Status
from .parallel import Picard
from .placement import local_device
from .processes import EDM, VESDE, VPSDE, CosineVPSDE, RectifiedFlow, SubVPSDE
from .refinement import Refinement
from .registry import SolverInfo, build_table, get_solver, solver, solvers
from .row import Row
from .sampling import encode, sample
from .sde import SDE
from .shards import SampleSet, sample_to
from .solution import Solution, Step
from .table import Table
from .tuning import tune
from .zero_terminal import ZeroTerminalVPSDE

__version__ = "0.1.0"

__all__ = [
    "EDM", "SDE", "VESDE", "VPSDE", "Advice", "AnnealedLangevin", "Antithetic", "Backend", "BrownianPath",
    "BudgetError", "Captured", "Comparison", "Conformance", "Corrector", "CosineVPSDE", "Diagnosis", "DiscreteVPSDE",
    "Divergence", "Failure", "GaussianPath", "Langevin", "LinearOperator", "LogLikelihood", "ModelStatistics",
    "NetworkOutputError", "NoiseSource", "NonFiniteError", "Outcome", "PathSource", "Picard", "ProbabilityFlow",
    "QuasiRandom", "RectifiedFlow", "Refinement", "Replacement", "ReverseSDE", "Row", "SampleSet", "SampleStreams",
    "ScoreModel", "ScoreSolveError", "Solution", "SolverInfo", "Status", "Step", "StepUnderflowError", "StillSource",
    "SubVPSDE", "Table", "VariationalBound", "ZeroTerminalVPSDE", "advise", "backend", "build_table", "capture",
    "classifier_guidance", "compare", "conform", "decode", "default_solver", "dequantise", "doctor", "encode", "exact",
    "from_diffusers", "get_solver", "grids", "interpolate", "local_device", "log_likelihood", "losses",
    "model_statistics", "operators", "posterior_guidance", "quadrature", "registry", "resampled", "sample", "sample_to",
    "shards", "solver", "solvers", "threshold", "tune", "variational_bound",
]  # fmt: skip
