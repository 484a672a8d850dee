"""Numerical faults written by hand, of the kinds that solver libraries have had: each must fail the tests it names.

A fault is a text of a source file that occurs there exactly once, and another in its place. ``tests/test_mutation.py``
sees to it that the texts are still there; ``make mutate ARGS=--hand`` runs the tests, none of which may pass.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A wrong formula. Attributes: what is wrong; the file; the right text and the wrong; the tests that must fail,
    each ``file::test`` of ``tests/test_file.py``, or of ``promises/file``.
    """

    what: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def source(self, text: str) -> str:
        """The text of the file with the fault. Raises ValueError unless its place is there once."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.what!r}: {self.old!r} occurs {text.count(self.old)} times in {self.path}, not once"
            )
        return text.replace(self.old, self.new)


def _fault(what: str, path: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(what, f"scoresolve/{path}.py", old, new, tests)


# fmt: off
PROCESSES = (
    _fault("VP: the half is missing in B", "processes",
           "t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)",
           "t * (self.beta_min + (self.beta_max - self.beta_min) * t)", "sde::test_closed_forms_of_the_diffusion"),
    _fault("sub-VP: a square root that does not belong there", "processes",
           "        return -torch.expm1(-self._integral(t))\n",
           "        return (-torch.expm1(-self._integral(t))).sqrt()\n", "sde::test_time_inverts_lam"),
    _fault("the cancellation of 1 - exp(-B)", "processes", "-torch.expm1(-self._integral(t))  # 1",
           "1 - torch.exp(-self._integral(t))  # 1", "sde::test_sigma_is_exact_down_to_the_smallest_times"),
    _fault("g^2 with one f sigma^2", "sde", "derivative(self._variance, t) - 2 * self._drift_rate(t)",
           "derivative(self._variance, t) - self._drift_rate(t)",
           "sde::test_drift_and_diffusion_are_the_rates_of_the_path"),
    _fault("the root of g^2 is missing", "sde", "self._squared_diffusion(u).sqrt()", "self._squared_diffusion(u)",
           "sde::test_closed_forms_of_the_diffusion"),
    _fault("the drift multiplied along the last axis", "sde", "value.reshape(-1, *[1] * (x.ndim - 1))", "value",
           "model::test_one_time_for_each_sample"),
    _fault("the prior's normalisation: pi for 2 pi", "sde", "0.5 * math.log(2 * math.pi)", "0.5 * math.log(math.pi)",
           "sde::test_marginal_perturb_and_prior"),
    _fault("the reverse SDE with the flow's half of the score", "dynamics", "(1 + self.eta**2)", "(0 + self.eta**2)",
           "sde::test_the_reverse_sde_has_the_marginals_of_the_process_for_every_eta"),
)
PREDICTIONS = (
    _fault("score = +noise / sigma", "predictions", "a, b = -a / own.sigma(t), -b / own.sigma(t)",
           "a, b = a / own.sigma(t), b / own.sigma(t)", "model::test_score_is_tweedies_formula"),
    _fault("v with the wrong sign", "predictions", "return -sde.sigma(t), sde.alpha(t)",
           "return sde.sigma(t), -sde.alpha(t)", "model::test_every_prediction_converts_to_every_other"),
    _fault("a view asked at its own time", "model", "tau = t if native is self.sde else native.time(self.sde.lam(t))",
           "tau = t", "model::test_a_network_seen_along_another_process_is_the_exact_one_of_that_process"),
    _fault("index labels: t N for t N - 1", "labels", "return t * len(getattr(native, \"betas\")) - 1",
           "return t * len(getattr(native, \"betas\"))", "model::test_time_labels"),
    _fault("index labels truncated", "labels", "_fractional_index(native, t).round()",
           "(_fractional_index(native, t) // 1)", "model::test_index_labels_are_rounded_not_truncated"),
)
STEPS = (
    _fault("sigma_t for sigma_s in the noise of a step", "forms",
           "noise = there.sigma * math.sqrt(-math.expm1(2 * log_q))",
           "noise = here.sigma * math.sqrt(-math.expm1(2 * log_q))",
           "solvers::test_ddim_at_eta_one_and_ddpm_are_the_posterior_step_on_the_full_grid"),
    _fault("the noise of a step x 1.02", "forms", "noise = there.sigma * math.sqrt(-math.expm1(2 * log_q))",
           "noise = 1.02 * there.sigma * math.sqrt(-math.expm1(2 * log_q))",
           "solvers::test_ddim_at_eta_one_and_ddpm_are_the_posterior_step_on_the_full_grid"),
    _fault("alpha is missing in the weight of the data", "forms",
           "ratio * math.exp(log_q), -there.alpha * math.expm1(-data_rate), noise",
           "ratio * math.exp(log_q), -math.expm1(-data_rate), noise",
           "solvers::test_ddim_is_the_exponential_euler_step"),
    _fault("alpha_t for alpha_s in the kernel of the data", "forms",
           "kernel=lambda v, there: there.alpha * rate * np.exp(-rate * (there.lam - v))",
           "kernel=lambda v, there: rate * np.exp(-rate * (there.lam - v))",
           "multistep::test_the_step_of_a_constant_output_is_the_kernels_integral"),
    _fault("eta for eta^2 in the decay of a step", "forms", "log_q = -(eta**2) * h if eta else 0.0",
           "log_q = -eta * h if eta else 0.0",
           "orders::test_the_law_given_the_start_is_that_of_the_sde[dpmpp_2m_sde-0.4]"),
    _fault("1 + eta for 1 + eta^2 on the noise form", "forms", "gain, rate * (there.sigma - gain * here.sigma)",
           "gain, (1 + eta) * (there.sigma - gain * here.sigma)",
           "multistep::test_the_step_of_a_constant_output_is_the_kernels_integral"),
    _fault("the sign of the kernel of the noise", "forms", "-rate * there.alpha * np.exp(-v)",
           "rate * there.alpha * np.exp(-v)", "multistep::test_the_step_of_a_constant_output_is_the_kernels_integral"),
    _fault("a varying noise level: the slope's sign", "forms", "-there.alpha * slopes * np.exp",
           "there.alpha * slopes * np.exp", "solvers::test_er_sde_3_is_the_published_taylor_step"),
    _fault("the exponent of DDIM's tau: 2 to 1", "solvers/exponential", "removed = eta**2 * math.expm1(-2 * h)",
           "removed = eta * math.expm1(-2 * h)",
           "solvers::test_ddim_at_any_eta_is_the_papers_formula_on_a_subsequence"),
    _fault("the noise of DDIM x 1.2", "solvers/exponential", "commit=(of_x, of_data), noise=noise_weights(noise)",
           "commit=(of_x, of_data), noise=noise_weights(1.2 * noise)",
           "solvers::test_ddim_at_any_eta_is_the_papers_formula_on_a_subsequence"),
    _fault("DDIM: +sigma^2 for -sigma^2 under the root", "solvers/exponential", "log_q = 0.5 * math.log1p(removed)",
           "log_q = 0.5 * math.log1p(-removed)",
           "solvers::test_ddim_at_any_eta_is_the_papers_formula_on_a_subsequence"),
    _fault("the forward variance of DDPM x 1.1", "solvers/ancestral",
           "noise = here.sigma * math.sqrt(_share_added(here, there))",
           "noise = here.sigma * math.sqrt(1.1 * _share_added(here, there))",
           "orders::test_the_forward_variance_of_ddpm_converges_at_order_one"),
    _fault("ancestral: the root of the share is missing", "solvers/ancestral",
           "min(1.0, eta * math.sqrt(-math.expm1(-2 * (there.lam - here.lam))))",
           "min(1.0, -eta * math.expm1(-2 * (there.lam - here.lam)))",
           "orders::test_ddims_eta_agrees_with_the_sde_as_steps_shrink[dpm_2_ancestral-1.0]"),
    _fault("reverse diffusion: half of the score", "solvers/ancestral", "pull = 0.5 * (1 + eta**2) * share",
           "pull = 0.5 * share", "solvers::test_reverse_diffusion_is_score_sdes_on_vp_and_ve"),
    _fault("Euler-Maruyama: dt for its root", "solvers/euler_maruyama", "eta * math.sqrt(g2 * dt)",
           "eta * math.sqrt(g2) * dt", "solvers::test_euler_maruyama_is_the_step_of_the_reverse_sde"),
)
MULTISTEP = (
    _fault("a node k + 1 for k", "quadrature", "(u - other) / (node - other)", "(u - node) / (node - other)",
           "multistep::test_exact_rules_integrate_polynomials_exactly"),
    _fault("half the panels are left out", "quadrature", "half * (1 + _POINTS)", "half * (1 - 0.5 * _POINTS)",
           "multistep::test_exact_rules_integrate_polynomials_exactly"),
    _fault("UniPC's weight 0.5 -> 0.45", "multistep", "0.5 * form.step(here, there)[1])",
           "0.45 * form.step(here, there)[1])",
           "solvers::test_dpmpp_2m_and_its_sde_equal_an_independent_implementation"),
    _fault("the 3M's D2 doubled", "multistep", "curvature = (newest - older) / (first + second)",
           "curvature = 2 * (newest - older) / (first + second)",
           "multistep::test_named_rules_are_exact_for_a_constant_and_one_order_short_after_it"),
    _fault("the 3M's D2 left out", "multistep", "curvature = (newest - older) / (first + second)",
           "curvature = 0 * (newest - older)", "multistep::test_published_weights_of_three_outputs_are_the_papers"),
    _fault("a weight of Adams-Bashforth 4", "multistep", "-59 / 24", "-58 / 24",
           "multistep::test_adams_weights_are_the_exact_ones_of_equal_steps"),
    _fault("a high start of one order less", "multistep", "BY_STAGES[min(full - 1, 4)]", "BY_STAGES[min(full - 2, 4)]",
           "multistep::test_a_high_start_keeps_the_order_and_a_low_one_spoils_it"),
    _fault("stale history: an output one call too old", "multistep",
           "self.history = [here, *self.history]\n        correction",
           "self.history = [*self.history[:1], here, *self.history[1:]]\n        correction",
           "multistep::test_a_whole_table_reproduces_the_integral"),
    _fault("the corrector forgets what was predicted", "multistep", "difference.get(age + 1, 0.0) - weight",
           "difference.get(age + 1, 0.0)", "orders::test_unipc_gains_an_order_from_its_corrector"),
    _fault("the correction without the gain of the next step", "multistep", "gain * correction.get(age, 0.0)",
           "correction.get(age, 0.0)", "orders::test_unipc_gains_an_order_from_its_corrector"),
    _fault("the last step is dropped", "multistep",
           "for i, (here, there) in enumerate(pairwise(points)):\n            run.step",
           "for i, (here, there) in enumerate(pairwise(points[:-1])):\n            run.step",
           "solvers::test_every_solver_ends_at_noise_zero_with_the_denoised_estimate"),
    _fault("SA-Solver's window of noise", "solvers/sa", "between[0] * here.alpha <= here.sigma",
           "between[0] <= here.sigma * here.alpha",
           "solvers::test_sa_solvers_noise_level_is_a_window_or_a_function_of_time"),
)
STAGES = (
    _fault("Heun's 1/2 -> 1/2.1", "single_step", "_at((0.0, 0), (1.0, 1))))", "_at((0.0, 0), (1.05, 1))))",
           "multistep::test_schemes_are_the_classical_tableaus_where_the_kernel_is_constant"),
    _fault("a stage of RK4", "single_step", "0.5: {1: 0.5, 2: 0.5}", "0.5: {1: 0.6, 2: 0.4}",
           "multistep::test_schemes_are_the_classical_tableaus_where_the_kernel_is_constant"),
    _fault("a stage's noise drawn afresh", "single_step", "zip(carried[::-1], increments[::-1], strict=True)",
           "zip(carried, increments[::-1], strict=True)",
           "multistep::test_the_noise_of_a_stochastic_step_is_that_of_one_path"),
    _fault("noise is raised by sigma for sigma^2", "single_step",
           "there.sigma**2 - (gain * here.sigma) ** 2, 0.0)) * scale", "there.sigma - gain * here.sigma, 0.0)) * scale",
           "promises/01_order::test_order_and_constant_on_a_gaussian[edm_heun]"),
    _fault("SRA1: the root of 3 in the integral's part", "solvers/srk", "factor * deviation * math.sqrt(3) / 2)",
           "factor * deviation * 3 / 2)", "promises/01_order::test_order_and_constant_on_a_gaussian[sra1]"),
    _fault("SRA1's end weights the wrong way round", "solvers/srk", "(0.0, 1.5), (1 / 3, 2 / 3))",
           "(0.0, 1.5), (2 / 3, 1 / 3))", "promises/01_order::test_order_and_constant_on_a_gaussian[sra1]"),
    _fault("RES: a stiff order condition", "solvers/single", "g = (2 * c3 - 3 * c3**2)", "g = (2 * c3 - 2.8 * c3**2)",
           "multistep::test_res_fulfils_the_stiff_order_conditions"),
    _fault("restart: what is repeated begins one step late", "solvers/restart",
           "rows[-1] = raised(rows[-1], there, way[0])", "rows[-1] = raised(rows[-1], there, way[1])",
           "solvers::test_restart_goes_up_as_often_as_it_is_told_and_down_on_the_grids_own_times"),
)
LOOP = (
    _fault("a register of the ring in the wrong place", "registers", "(number - age) % size] = weight",
           "(number - age - 1) % size] = weight", "table::test_the_loop_does_what_the_rows_say"),
    _fault("the folded step without the output's own x", "registers", "(weights[0] + weights[1] * a, weights[1] * b)",
           "(weights[0], weights[1] * b)", "operations::test_registers_are_the_weighted_sum"),
    _fault("a normal of an earlier step again", "loop", "drawn(noise, SOLVER, number, x)", "drawn(noise, SOLVER, 0, x)",
           "sampling::test_sample_i_of_a_seed_is_the_same_in_any_batch", "table::test_the_loop_does_what_the_rows_say"),
    _fault("verify: the state at the start of the step for its end", "table", "sum(row.commit[1:]) - truth[step + 1]",
           "sum(row.commit[1:]) - truth[step]", "table::test_verify_finds_a_wrong_weight"),
)
GRIDS = (
    _fault("a clock of rho^(1/7): its power", "grids", "np.exp(-lam / power), lambda u: -power * np.log(u)",
           "np.exp(-lam / (power - 1)), lambda u: -(power - 1) * np.log(u)",
           "grids::test_on_edm_the_grids_are_the_published_formulas"),
    _fault("the shift of a flow the wrong way", "grids", "expit(-lam - offset)", "expit(-lam + offset)",
           "grids::test_a_flow_is_shifted_once"),
    _fault("the cap of an infinite clock", "grid_clocks", "RHO_CAP = 80.0", "RHO_CAP = 40.0",
           "grids::test_a_clock_that_is_infinite_at_an_end_jumps_to_it"),
)
NOISE = (
    _fault("normals x 1.02", "noise", "radius.log_().mul_(-2.0)", "radius.log_().mul_(-2.08)",
           "noise::test_the_source_is_standard_normal"),
    _fault("the root of Box and Muller's radius is missing", "noise", ".clamp_(min=0.0).sqrt_()", ".clamp_(min=0.0)",
           "noise::test_the_source_is_standard_normal"),
    _fault("all samples have one key", "noise", "_mix(samples, salt=_mix_integer(self.seed))",
           "_mix(0 * samples, salt=_mix_integer(self.seed))", "noise::test_streams_draws_seeds_and_samples_all_differ"),
    _fault("one stream for all uses", "noise", "salt = _mix_integer(stream * 2**40 + int(index))",
           "salt = _mix_integer(int(index))", "noise::test_streams_draws_seeds_and_samples_all_differ"),
    _fault("the variance of the bridge x 1.03", "brownian", "torch.mul(W, c, out=left[:, 0]).addcmul_(z, s)",
           "torch.mul(W, c, out=left[:, 0]).addcmul_(z, s, value=1.03**0.5)",
           "brownian::test_halves_of_increments_alone_are_a_rotation"),
    _fault("an increment's area: 1/12 for its root", "brownian", "0.5 * z + z_2 / math.sqrt(12)], 1)",
           "0.5 * z + z_2 / 12], 1)",
           "brownian::test_what_is_drawn_for_a_root_has_the_covariance_of_increment_and_integral"),
)
PER_SAMPLE = (
    _fault("Langevin: the norm of the batch for that of the sample", "correctors",
           "score.reshape(len(score), -1).square().mean(dim=1)", "score.square().mean().expand(len(score))",
           "correctors::test_langevin_uses_the_norm_of_each_sample"),
    _fault("Langevin: the root of twice the step is missing", "correctors", "(2 * size).sqrt() * z", "size.sqrt() * z",
           "correctors::test_annealed_langevin_has_the_exact_stationary_variance_of_its_chain"),
    _fault("adaptive: the error of the batch for that of the sample", "controller",
           "(error / scale).square().mean(dim=1).sqrt().double()",
           "(error / scale).square().mean().sqrt().double().expand(len(error))",
           "adaptive_sde::test_a_sample_does_not_depend_on_its_batch"),
)
LIKELIHOOD = (
    _fault("the divergence of the network, not of the drift", "augmented",
           "scaled = columns * (over_batch(size, columns) if isinstance(size, Tensor) else size)", "scaled = columns",
           "likelihood::test_closed_forms_of_log_p"),
    _fault("the divergence with the wrong sign", "augmented", "scaled = columns * (over", "scaled = -columns * (over",
           "likelihood::test_closed_forms_of_log_p"),
    _fault("the scale of the coordinates left out of log det", "augmented",
           "estimates = change / size + x[0].numel() * math.log(size / size_of(self.sde, prediction, t))",
           "estimates = change / size", "likelihood::test_closed_forms_of_log_p"),
    _fault("Hutchinson's probe x 2", "divergence", "torch.where(normals < 0, -1.0, 1.0)",
           "torch.where(normals < 0, -2.0, 2.0)", "divergence::test_hutchinson_is_unbiased_and_knows_its_error"),
    _fault("the standard error of n probes without its root", "augmented",
           "estimates.detach().std(dim=1) / math.sqrt(count)", "estimates.detach().std(dim=1) / count",
           "divergence::test_hutchinson_is_unbiased_and_knows_its_error"),
    _fault("the mean of the law at t is missing", "exact", "law.means, law.variances = alpha * self.means, alpha**2",
           "law.means, law.variances = 0 * self.means, alpha**2",
           "likelihood::test_the_mismatch_of_the_prior_is_all_that_is_missing"),
    _fault("bits without the number of dimensions", "likelihood",
           "-log_prob / (latents[0].numel() * math.log(2)) + offset", "-log_prob / math.log(2) + offset",
           "likelihood::test_bits_per_dimension"),
    _fault("the offset of bits with the wrong sign", "likelihood", "return math.log2(levels / (high - low))",
           "return -math.log2(levels / (high - low))", "likelihood::test_bits_per_dimension"),
)
# fmt: on
FAULTS = (*PROCESSES, *PREDICTIONS, *STEPS, *MULTISTEP, *STAGES, *LOOP, *GRIDS, *NOISE, *PER_SAMPLE, *LIKELIHOOD)
