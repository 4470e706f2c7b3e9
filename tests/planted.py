"""Plant a bug in a copy of the tree, run the test that is said to catch it, and expect it to fail.

    python tests/planted.py            # all of them, a quarter of an hour
    python tests/planted.py spo mdpo   # those with a word in their name
    python tests/planted.py --table    # the list as `PLANTED.md` has it, planting nothing

`PLANTED.md` shows the list; `test_planted.py` holds that every edit still fits the source.
`COMMON` names the faults that are common in such libraries; a bug that is one says which.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


COMMON = {
    "advantage and return": (
        "gamma and lambda swapped",
        "off-by-one in the next value",
        "bootstrap at termination",
        "no bootstrap at truncation",
        "bootstrap from the reset observation",
        "done mask shifted by one",
        "lambda recursion not cut at episode end",
        "returns without value added back",
        "normalisation over the wrong axis",
        "normalisation before the sum",
        "value clip uses new values",
        "last row of rollout dropped",
        "garbage row of next-step mode kept",
    ),
    "distribution": (
        "log-probability not summed over action dims",
        "tanh correction missing",
        "std used as variance",
        "entropy sign",
        "old log-prob recomputed with new params",
        "clipped action used for the ratio",
        "KL direction reversed",
        "KL of one state only",
        "mean of KL replaced by KL of means",
        "std shared gradient stopped",
        "sample with the wrong key",
        "same key for all envs",
        "key not advanced between updates",
    ),
    "trust region": (
        "damping lost",
        "damping added twice",
        "Fisher of the wrong batch",
        "CG one iteration",
        "CG residual not updated",
        "step size without the factor 2",
        "bound compared with reversed sign",
        "line search accepts without improvement",
        "line search on surrogate of old params",
        "roll-back forgets the value net",
        "roll-back forgets the optimizer",
        "projection applied to the mean only",
        "projection not differentiated",
        "FixPO fix-up loop ends one state early",
        "MCPO memory holds aliases of the current params",
        "certificate computed on the minibatch",
    ),
    "optimisation": (
        "minibatches with replacement",
        "permutation fixed across epochs",
        "gradient clip after the step",
        "learning-rate schedule by update instead of step",
        "Adam epsilon 1e-2",
        "value coefficient ignored",
    ),
    "normaliser and I/O": (
        "statistics updated at evaluation",
        "statistics not restored",
        "observation clip before normalising",
        "reward scale by instantaneous std",
        "frame count doubled by frame skip",
        "evaluation uses sampled actions where mode is stated",
        "seed ignored by evaluation env",
    ),
}
"""Faults that are common in libraries like this one, by what they spoil."""


class Bug(NamedTuple):
    """An edit of one place of one file, and a test that it makes fail."""

    name: str
    file: str
    right: str
    wrong: str
    test: str
    common: str = ""
    """Which of `COMMON` it is."""


LOSSES = "test_first_order.py::test_losses_and_gradients"
VMPO = "test_first_order.py::test_vmpo_losses_and_gradients[gaussian]"
BOUNDS = "test_first_order.py::test_bounds_of_rows"
GRADIENTS = "test_first_order.py::test_where_gradients_vanish"
RULES = "test_first_order.py::test_the_published_rules[ppo]"
BETA = "test_first_order.py::test_beta_follows_the_kl_of_the_whole_batch"
TOP = "test_first_order.py::test_the_top_half"
STOPS = "test_identities.py::test_espo_stops_before_the_step_that_strays"
MASKED = "test_conformance.py::test_rows_that_do_not_count_have_no_influence"
NAN = "test_conformance.py::test_a_nan_never_passes_for_an_update"
MCPO_SLOPES = "test_mcpo.py::test_09_theta_and_phi_have_a_loss_each_and_the_rest_is_data[gaussian]"
MCPO_STEPS = "test_mcpo.py::test_two_updates_of_six_steps"
MCPO_WEIGHTS = "test_mcpo.py::test_04_the_masked_softmax"
QUEUE = "test_mcpo.py::test_06_the_memory_is_a_queue"
TIES = "test_mcpo.py::test_07_beta_is_one_of_two_numbers"
CONTEXT = "test_mcpo.py::test_15_the_context_and_its_beginning[gaussian]"
VIRTUAL = "test_virtual_region.py::test_the_pull_the_blend_and_the_write_by_hand[gaussian]"
GAE = "test_advantages.py::test_gae_is_the_sum_of_its_errors[0.99-0.95]"
ENDS = "test_advantages.py::test_nothing_crosses_an_end"
BATCH = "test_advantages.py::test_the_batch[none-False]"
TRPO = "test_methods.py::test_trpo_step[categorical]"
ADAM = "test_sgd.py::test_adam_with_clipped_gradient[False-0.5]"
ORDER = "test_sgd.py::test_every_epoch_is_a_permutation[64]"
EVALUATED = "test_agent.py::test_evaluation_is_of_the_policy_as_it_is"
HANDED = "test_virtual_region.py::test_the_batch_and_the_key_are_handed_on_as_they_are"

BUGS = (
    Bug(
        "ppo_kl: KL direction reversed",
        "methods/ppo_kl.py",
        "divergence: Divergence = KLOldNew()",
        "divergence: Divergence = __import__('surefoot').KLNewOld()",
        f"{LOSSES}[ppo_kl-gaussian]",
        "KL direction reversed",
    ),
    Bug(
        "ppo_kl: the rule sees one state",
        "methods/ppo_kl.py",
        "d = batch.mean(self.divergence(policy(batch.obs), batch))",
        "d = self.divergence(policy(batch.obs), batch)[0]",
        BETA,
        "KL of one state only",
    ),
    Bug(
        "ppo_kl: the rule sees a minibatch",
        "methods/ppo_kl.py",
        "d = batch.mean(self.divergence(policy(batch.obs), batch))",
        "mb = batch.take(jnp.arange(8))\n        d = mb.mean(self.divergence(policy(mb.obs), mb))",
        BETA,
    ),
    Bug(
        "factor rule: compared with reversed sign",
        "multipliers.py",
        "jnp.where(kl < self.low * target, beta / self.down, beta)",
        "jnp.where(kl > self.low * target, beta / self.down, beta)",
        RULES,
        "bound compared with reversed sign",
    ),
    Bug(
        "mdpo: KL direction reversed",
        "methods/mdpo.py",
        "KLNewOld()(new, batch)",
        "batch.old.kl(new)",
        f"{LOSSES}[mdpo-gaussian]",
        "KL direction reversed",
    ),
    Bug(
        "mdpo: the step size grows instead of falling",
        "methods/mdpo.py",
        "jnp.maximum(1 - progress, self.t_min)",
        "jnp.maximum(progress, self.t_min)",
        f"{LOSSES}[mdpo-gaussian]",
    ),
    Bug(
        "tsallis: its first-order term left in",
        "divergences.py",
        "return (expm1_minus(q * x) - q * expm1_minus(x)) / (q - 1)",
        "return (jnp.exp(q * x) - 1) / (q - 1)",
        "test_first_order.py::test_drifts_are_flat_at_the_old_policy[gaussian]",
    ),
    Bug(
        "trefree: capped on both sides",
        "methods/trefree.py",
        "jnp.minimum(gain, self.delta)",
        "jnp.clip(gain, -self.delta, self.delta)",
        GRADIENTS,
    ),
    Bug(
        "spo: the factor 2 missing",
        "methods/spo.py",
        "(2 * self.clip)",
        "self.clip",
        GRADIENTS,
    ),
    Bug(
        "ppo_rb: the slope beyond the interval has the wrong sign",
        "methods/ppo_rb.py",
        "near - self.alpha * (r - near)",
        "near + self.alpha * (r - near)",
        GRADIENTS,
    ),
    Bug(
        "truly_ppo: penalised on the losing side too",
        "methods/truly_ppo.py",
        "(kl >= self.delta) & ((r - 1) * A >= 0)",
        "kl >= self.delta",
        f"{LOSSES}[truly_ppo-gaussian]",
    ),
    Bug(
        "tr_ppo: frozen on the losing side too",
        "methods/tr_ppo.py",
        "& ((r - 1) * A >= 0)",
        "",
        f"{LOSSES}[tr_ppo-gaussian]",
    ),
    Bug(
        "discovered_po: alpha and beta swapped",
        "methods/discovered_po.py",
        "jnp.where(A >= 0, above, below)",
        "jnp.where(A < 0, above, below)",
        f"{LOSSES}[discovered_po-gaussian]",
    ),
    Bug(
        "spu: the gate reversed",
        "methods/spu.py",
        "jnp.where(outside, 0, gain)",
        "jnp.where(outside, gain, 0)",
        f"{LOSSES}[spu-gaussian]",
    ),
    Bug(
        "espo: the step that strays is made",
        "sgd.py",
        "carry = jax.tree.map(lambda a, b: jnp.where(halted, b, a), moved, carry)",
        "carry = moved",
        STOPS,
    ),
    Bug(
        "espo: a refused step moves the optimiser",
        "sgd.py",
        "carry = jax.tree.map(lambda a, b: jnp.where(halted, b, a), moved, carry)",
        "carry = (jnp.where(halted, carry[0], moved[0]), moved[1])",
        STOPS,
        "roll-back forgets the optimizer",
    ),
    Bug(
        "espo: the same minibatch every step",
        "sgd.py",
        "step(carry, batch.minibatch(rows[done]))",
        "step(carry, batch.minibatch(rows[0]))",
        "test_first_order.py::test_four_steps[espo-gaussian]",
    ),
    Bug(
        "maximise: the penalty added to the gain",
        "sgd.py",
        "return penalty(p, mb) - mb.mean(gain)",
        "return -penalty(p, mb) - mb.mean(gain)",
        "test_conformance.py::test_a_penalty_enters_with_a_minus[trefree-categorical]",
    ),
    Bug(
        "maximise: masked rows counted",
        "sgd.py",
        "penalty(p, mb) - mb.mean(gain)",
        "penalty(p, mb) - jnp.mean(gain)",
        "test_first_order.py::test_four_steps[spo-gaussian]",
    ),
    Bug(
        "vmpo: one row too many in the top half",
        "methods/vmpo.py",
        "ordered[x.shape[0] - keep]",
        "ordered[x.shape[0] - keep - 1]",
        TOP,
    ),
    Bug(
        "vmpo: masked rows among the top half",
        "methods/vmpo.py",
        "jnp.sort(jnp.where(mb.mask, x, -jnp.inf))",
        "jnp.sort(x)",
        f"{MASKED}[vmpo-gaussian]",
    ),
    Bug(
        "vmpo: a NaN drops out of the top half",
        "methods/vmpo.py",
        "jnp.where(jnp.any(mb.mask), mb.max(A), 0)",
        "jnp.max(jnp.where(best, A, -jnp.inf))",
        f"{NAN}[vmpo-gaussian]",
    ),
    Bug(
        "vmpo: the temperature is tuned on all rows",
        "methods/vmpo.py",
        "jnp.where(count > 0, total, 1) / jnp.maximum(count, 1)",
        "mb.mean(jnp.exp((A - largest) / eta))",
        VMPO,
    ),
    Bug(
        "vmpo: the weights carry a gradient to the temperature",
        "methods/vmpo.py",
        "psi = jax.lax.stop_gradient(e / jnp.maximum(total, LEAST))",
        "psi = e / jnp.maximum(total, LEAST)",
        VMPO,
    ),
    Bug(
        "vmpo: the sign of alpha's loss",
        "methods/vmpo.py",
        "alpha[i] * (eps - sg(kl))",
        "alpha[i] * (sg(kl) - eps)",
        VMPO,
    ),
    Bug(
        "vmpo: the covariance's part has no gradient",
        "divergences.py",
        "old.kl(DiagGaussian(old.mean, new.log_std))",
        "old.kl(DiagGaussian(old.mean, jax.lax.stop_gradient(new.log_std)))",
        VMPO,
        "std shared gradient stopped",
    ),
    Bug(
        "vmpo: the KL's parts are not decoupled",
        "divergences.py",
        "mean = old.kl(DiagGaussian(new.mean, old.log_std))",
        "mean = old.kl_parts(new)[0]",
        VMPO,
    ),
    Bug(
        "trgppo: one dimension's bound for the whole action",
        "ranges.py",
        "return _counted(batch, d * low, d * high)",
        "return _counted(batch, low, high)",
        BOUNDS,
    ),
    Bug(
        "trgppo: the deviation used as a variance",
        "ranges.py",
        "jnp.exp(-old.log_std)",
        "jnp.exp(-2 * old.log_std)",
        BOUNDS,
        "std used as variance",
    ),
    Bug(
        "trgppo: one state's bounds for all",
        "methods/trgppo.py",
        "low, high = batch.extra",
        "low, high = batch.extra[0][0], batch.extra[1][0]",
        f"{LOSSES}[trgppo-gaussian]",
    ),
    Bug(
        "batch: what travels with the rows stays behind",
        "types.py",
        "taken, extra = jax.tree.map(pick, (fields, self.extra))",
        "taken, extra = jax.tree.map(pick, fields), self.extra",
        "test_first_order.py::test_four_steps[trgppo-gaussian]",
    ),
    Bug(
        "duals: no floor",
        "multipliers.py",
        "jnp.maximum(x - lr * move, floor)",
        "x - lr * move",
        "test_first_order.py::test_duals_stay_above_their_floor",
    ),
    Bug(
        "mcpo: alpha without its minus one",
        "methods/mcpo.py",
        "jax.nn.sigmoid(batch.advantage * (tau - 1))",
        "jax.nn.sigmoid(batch.advantage * tau)",
        "test_mcpo.py::test_01_alpha_is_a_sigmoid_of_the_gain_of_psi[gaussian]",
    ),
    Bug(
        "mcpo: one alpha for the minibatch",
        "methods/mcpo.py",
        "alpha, d_psi = self.share(tau, mb), distance",
        "share = self.share(tau, mb)\n"
        "            alpha, d_psi = jnp.full_like(share, mb.mean(share)), distance",
        MCPO_SLOPES,
    ),
    Bug(
        "mcpo: alpha on the wrong region",
        "methods/mcpo.py",
        "(1 - alpha) * KLOldNew()(new, batch) + alpha * psi.kl(counted(new, batch))",
        "alpha * KLOldNew()(new, batch) + (1 - alpha) * psi.kl(counted(new, batch))",
        MCPO_SLOPES,
    ),
    Bug(
        "mcpo: KL of the virtual region reversed",
        "methods/mcpo.py",
        "alpha * psi.kl(counted(new, batch))",
        "alpha * counted(new, batch).kl(psi)",
        MCPO_SLOPES,
        "KL direction reversed",
    ),
    Bug(
        "mcpo: KL of the old region reversed",
        "methods/mcpo.py",
        "(1 - alpha) * KLOldNew()(new, batch)",
        "(1 - alpha) * counted(new, batch).kl(batch.old)",
        f"{MCPO_STEPS}[constant-categorical]",
        "KL direction reversed",
    ),
    Bug(
        "mcpo: penalty without beta",
        "methods/mcpo.py",
        "return gain - beta * near",
        "return gain - near",
        MCPO_SLOPES,
    ),
    Bug(
        "mcpo: beta by distances the wrong way round",
        "multipliers.py",
        "exceeds(d_theta, d_psi), self.high",
        "exceeds(d_psi, d_theta), self.high",
        TIES,
    ),
    Bug(
        "mcpo: a tie takes the larger beta",
        "multipliers.py",
        "jnp.where(exceeds(d_theta, d_psi), self.high, self.low)",
        "jnp.where(d_theta >= d_psi, self.high, self.low)",
        TIES,
    ),
    Bug(
        "mcpo: rounding decides a tie",
        "types.py",
        "kl > other * (1 + KL_MARGIN) + NO_KL",
        "kl > other",
        TIES,
    ),
    Bug(
        "mcpo: attention follows a KL too",
        "memory.py",
        "return batch.mean(tau * batch.advantage), (psi, dist, tau)",
        "return batch.mean(tau * batch.advantage - 0.01 * batch.old.kl(dist)), (psi, dist, tau)",
        "test_mcpo.py::test_09_theta_and_phi_have_a_loss_each_and_the_rest_is_data[gaussian]",
    ),
    Bug(
        "mcpo: attention descends",
        "memory.py",
        "unravel(phi + lr * move)",
        "unravel(phi - lr * move)",
        VIRTUAL,
    ),
    Bug(
        "mcpo: psi_old is the policy, not psi",
        "methods/mcpo.py",
        "after = MCPOState(opt, memory, blend, psi, s.beta, s.step + 1)",
        "after = MCPOState(opt, memory, blend, theta, s.beta, s.step + 1)",
        "test_mcpo.py::test_16_psi_is_kept_and_the_old_policy_stays[gaussian]",
    ),
    Bug(
        "mcpo: written by the distance before the step",
        "methods/mcpo.py",
        "far = distance(unravel(theta)(mb.obs), dist, mb)",
        "far = distance(unravel(at[0])(mb.obs), dist, mb)",
        f"{MCPO_STEPS}[as in the paper-gaussian]",
    ),
    Bug(
        "mcpo: written where it is near",
        "memory.py",
        "return exceeds(fresh, threshold)",
        "return exceeds(threshold, fresh)",
        VIRTUAL,
    ),
    Bug(
        "mcpo: intervals of the update, not of the run",
        "methods/mcpo.py",
        "write = self.writing(far, d_psi, s.step + 1)",
        "write = self.writing(far, d_psi, s.step - state.step + 1)",
        "test_mcpo.py::test_17_writing_at_fixed_intervals",
    ),
    Bug(
        "mcpo: the last write of an update is lost",
        "methods/mcpo.py",
        "memory = after.memory.push(theta, after.step, due)",
        "memory = after.memory.push(theta, after.step, due & False)",
        "test_mcpo.py::test_both_beginnings",
    ),
    Bug(
        "mcpo: dropout draws the same units every step",
        "methods/mcpo.py",
        "self.blend.draw(self.memory_size, jax.random.fold_in(k_blend, t))",
        "self.blend.draw(self.memory_size, jax.random.fold_in(k_blend, 0))",
        "test_mcpo.py::test_dropout_draws_from_a_key_of_its_own",
    ),
    Bug(
        "mcpo: adaptive beta follows the last minibatch",
        "methods/mcpo.py",
        "d = batch.mean(KLOldNew()(policy(batch.obs), batch))",
        'd = told["kl_old_theta"][-1]',
        "test_mcpo.py::test_13_adaptive_beta_follows_the_kl_of_the_whole_batch",
    ),
    Bug(
        "mcpo: the query counts from zero",
        "methods/mcpo.py",
        "query = before.step + at + 1",
        "query = before.step + at",
        "test_mcpo.py::test_the_report_asks_the_tenth_step",
    ),
    Bug(
        "memory: a weight for an empty slot",
        "memory.py",
        "here = jnp.arange(len(logits)) < filled",
        "here = jnp.arange(len(logits)) <= filled",
        MCPO_WEIGHTS,
    ),
    Bug(
        "memory: softmax without its largest term taken out",
        "memory.py",
        "jnp.exp(jnp.where(here, logits - top, 0))",
        "jnp.exp(jnp.where(here, logits, 0))",
        MCPO_WEIGHTS,
    ),
    Bug(
        "memory: the newest is overwritten",
        "memory.py",
        "at = self.pushes % (self.capacity + 1)",
        "at = (self.pushes - (self.pushes >= self.capacity)) % (self.capacity + 1)",
        QUEUE,
    ),
    Bug(
        "memory: gradients through too little of a stored policy",
        "memory.py",
        "return min(math.ceil(sum(sizes[: last + 1]) / LINE) * LINE, sum(sizes))",
        "return min(sum(sizes[: last + 1]) // LINE * LINE, sum(sizes))",
        "test_mcpo.py::test_what_gradients_need_is_in_front",
    ),
    Bug(
        "memory: weights by place, not by age",
        "memory.py",
        "return jnp.roll(jnp.append(w, jnp.zeros_like(w[:1])), self.oldest)",
        "return jnp.append(w, jnp.zeros_like(w[:1]))",
        QUEUE,
    ),
    Bug(
        "memory: context with the KL of theta and psi reversed",
        "memory.py",
        "theta.dist.kl(psi.dist),",
        "psi.dist.kl(theta.dist),",
        CONTEXT,
        "KL direction reversed",
    ),
    Bug(
        "memory: context with the value of theta for psi's",
        "memory.py",
        "values = (psi.value, batch.value, theta.value)",
        "values = (theta.value, batch.value, theta.value)",
        CONTEXT,
    ),
    Bug(
        "memory: context carries a gradient",
        "memory.py",
        "return jax.lax.stop_gradient(jax.vmap(batch.mean)(jnp.stack(rows)))",
        "return jax.vmap(batch.mean)(jnp.stack(rows))",
        CONTEXT,
    ),
    Bug(
        "virtual region: the pull the wrong way round",
        "wrappers/virtual_region.py",
        "kl = other(mb.obs).kl(counted(p(mb.obs), mb))",
        "kl = counted(p(mb.obs), mb).kl(other(mb.obs))",
        VIRTUAL,
        "KL direction reversed",
    ),
    Bug(
        "virtual region: the outer penalty is dropped",
        "wrappers/virtual_region.py",
        "return penalty(p, mb) + self.weight * mb.mean(kl)",
        "return self.weight * mb.mean(kl)",
        HANDED,
    ),
    Bug(
        "virtual region: the inner state draws from another key",
        "wrappers/virtual_region.py",
        "inner = self.inner.init(policy, key)",
        "inner = self.inner.init(policy, own)",
        HANDED,
    ),
    Bug(
        "gae: gamma and lambda swapped",
        "advantages.py",
        "delta = reward + gamma * jnp.where(terminated, 0, next_value) - value",
        "delta = reward + lam * jnp.where(terminated, 0, next_value) - value",
        GAE,
        "gamma and lambda swapped",
    ),
    Bug(
        "gae: the next value is that of the row after it",
        "advantages.py",
        "return values[:-1], values[1:]\n",
        "return values[:-1], jnp.roll(values, -2, axis=0)[:-1]\n",
        "test_advantages.py::test_the_true_successor[False]",
        "off-by-one in the next value",
    ),
    Bug(
        "gae: an end bootstraps",
        "advantages.py",
        "gamma * jnp.where(terminated, 0, next_value)",
        "gamma * next_value",
        ENDS,
        "bootstrap at termination",
    ),
    Bug(
        "gae: a cut does not bootstrap",
        "advantages.py",
        "jnp.where(terminated, 0, next_value) - value",
        "jnp.where(terminated | truncated, 0, next_value) - value",
        ENDS,
        "no bootstrap at truncation",
    ),
    Bug(
        "gae: the successor of a cut is the reset observation",
        "advantages.py",
        "return values[:-1], jnp.where(ended, value(rollout.final_obs), values[1:])",
        "return values[:-1], values[1:]",
        "test_advantages.py::test_the_true_successor[True]",
        "bootstrap from the reset observation",
    ),
    Bug(
        "gae: ends a row late",
        "advantages.py",
        "(1 - (terminated | truncated).astype(value.dtype))",
        "(1 - jnp.roll(terminated | truncated, 1, axis=0).astype(value.dtype))",
        ENDS,
        "done mask shifted by one",
    ),
    Bug(
        "gae: the sum crosses an end",
        "advantages.py",
        "rate = gamma * lam * (1 - (terminated | truncated).astype(value.dtype))",
        "rate = gamma * lam * jnp.ones_like(value)",
        ENDS,
        "lambda recursion not cut at episode end",
    ),
    Bug(
        "gae: the target without the value",
        "advantages.py",
        "value_target=flat(advantage + now)",
        "value_target=flat(advantage)",
        BATCH,
        "returns without value added back",
    ),
    Bug(
        "gae: standardised environment by environment",
        "advantages.py",
        "advantage=flat(advantage),",
        "advantage=flat(\n                (advantage - advantage.mean(0, keepdims=True))"
        " / advantage.std(0, keepdims=True)\n            ),",
        "test_advantages.py::test_the_batch[batch-False]",
        "normalisation over the wrong axis",
    ),
    Bug(
        "gae: standardised before the value is added",
        "advantages.py",
        "value_target=flat(advantage + now)",
        "value_target=flat((advantage - advantage.mean()) / advantage.std() + now)",
        BATCH,
        "normalisation before the sum",
    ),
    Bug(
        "gae: the last row is left out",
        "advantages.py",
        "mask=flat(rollout.mask),",
        "mask=flat(rollout.mask.at[-1].set(False)),",
        BATCH,
        "last row of rollout dropped",
    ),
    Bug(
        "collection: rows that are only resets count",
        "rollouts/host.py",
        "                    step.mask,\n",
        "                    True,\n",
        "test_episode_ends.py::test_host_suites_equal_the_closed_form[8-in process-mixed]",
        "garbage row of next-step mode kept",
    ),
    Bug(
        "value: clipped round the new value",
        "value.py",
        "near = batch.value + jnp.clip(value - batch.value, -clip, clip)",
        "near = value + jnp.clip(value - batch.value, -clip, clip)",
        "test_value.py::test_value_loss_is_half_the_mean_square_and_clips_pessimistically",
        "value clip uses new values",
    ),
    Bug(
        "value: the coefficient is ignored",
        "value.py",
        "return self.coef * value_loss(",
        "return value_loss(",
        "test_value.py::test_the_shared_critic_pays_through_the_penalty",
        "value coefficient ignored",
    ),
    Bug(
        "value: the sign of the entropy bonus",
        "value.py",
        "return -self.coef * batch.mean(",
        "return self.coef * batch.mean(",
        "test_value.py::test_entropy_bonus_and_its_gradient[categorical]",
        "entropy sign",
    ),
    Bug(
        "gaussian: log-density is a mean over actions",
        "distributions.py",
        "-jnp.sum(0.5 * z**2 + self.log_std + 0.5",
        "-jnp.mean(0.5 * z**2 + self.log_std + 0.5",
        "test_distributions.py::test_log_prob_and_entropy",
        "log-probability not summed over action dims",
    ),
    Bug(
        "gaussian: sigma used as a variance",
        "distributions.py",
        "z = (action - self.mean) * jnp.exp(-self.log_std)",
        "z = (action - self.mean) * jnp.exp(-0.5 * self.log_std)",
        "test_distributions.py::test_log_prob_and_entropy",
        "std used as variance",
    ),
    Bug(
        "gaussian: a sigma shared by all states has no gradient",
        "networks.py",
        "isinstance(self.std, Linear) else jnp.broadcast_to(self.std, mean.shape)",
        "isinstance(self.std, Linear)"
        " else jax.lax.stop_gradient(jnp.broadcast_to(self.std, mean.shape))",
        "test_methods.py::test_losses_and_gradients[gaussian]",
        "std shared gradient stopped",
    ),
    Bug(
        "ratio: the old log-probability is the new policy's",
        "surrogates.py",
        "return jnp.where(batch.mask, new.log_prob(batch.action) - batch.log_prob, 0)",
        "old = jax.lax.stop_gradient(new.log_prob(batch.action))\n"
        "    return jnp.where(batch.mask, new.log_prob(batch.action) - old, 0)",
        "test_surrogates.py::test_ratio_and_importance",
        "old log-prob recomputed with new params",
    ),
    Bug(
        "collection: the clipped action is kept",
        "rollouts/host.py",
        "self.action[t] = action",
        "self.action[t] = np.clip(action, -1, 1)",
        "test_rollouts.py::test_host_rollouts_are_what_the_policy_did[Pendulum-v1]",
        "clipped action used for the ratio",
    ),
    Bug(
        "ppo_kl: the rule sees the KL of mean distributions",
        "methods/ppo_kl.py",
        "d = batch.mean(self.divergence(policy(batch.obs), batch))",
        "middle = lambda d: jax.tree.map(lambda x: jnp.mean(x, 0), d)\n"
        "        d = middle(batch.old).kl(middle(policy(batch.obs)))",
        BETA,
        "mean of KL replaced by KL of means",
    ),
    Bug(
        "collection: actions drawn with the environment's key",
        "rollouts/device.py",
        ".sample(k_act)",
        ".sample(k_env)",
        "test_rollouts.py::test_device_rollouts_are_what_the_policy_did",
        "sample with the wrong key",
    ),
    Bug(
        "device environments: one key for all",
        "envs/device.py",
        "jax.random.split(key, self.spec.num_envs)",
        "jnp.stack([key] * self.spec.num_envs)",
        "test_envs_device.py::test_environments_begin_apart_and_begin_again_apart",
        "same key for all envs",
    ),
    Bug(
        "learn: the key stays",
        "train.py",
        "return_trace=trace,\n        key=key,",
        "return_trace=trace,\n        key=ts.key,",
        "test_learn.py::test_updates_are_repeatable_and_keys_move_on",
        "key not advanced between updates",
    ),
    Bug(
        "trpo: damping lost",
        "methods/trpo.py",
        "F = damped(gauss_newton(policy, batch), self.cg_damping)",
        "F = gauss_newton(policy, batch)",
        TRPO,
        "damping lost",
    ),
    Bug(
        "trpo: damping added twice",
        "methods/trpo.py",
        "F = damped(gauss_newton(policy, batch), self.cg_damping)",
        "F = damped(damped(gauss_newton(policy, batch), self.cg_damping), self.cg_damping)",
        TRPO,
        "damping added twice",
    ),
    Bug(
        "trpo: Fisher of a few rows",
        "methods/trpo.py",
        "damped(gauss_newton(policy, batch), self.cg_damping)",
        "damped(gauss_newton(policy, batch.take(jnp.arange(6))), self.cg_damping)",
        TRPO,
        "Fisher of the wrong batch",
    ),
    Bug(
        "trpo: one iteration of conjugate gradient",
        "methods/trpo.py",
        "conjugate_gradient(F, g, self.cg_iters)",
        "conjugate_gradient(F, g, 1)",
        TRPO,
        "CG one iteration",
    ),
    Bug(
        "trpo: the step without its factor 2",
        "methods/trpo.py",
        "jnp.sqrt(2 * self.max_kl / ",
        "jnp.sqrt(self.max_kl / ",
        TRPO,
        "step size without the factor 2",
    ),
    Bug(
        "trpo: what is outside is taken",
        "methods/trpo.py",
        "& within(KL(p), self.max_kl)",
        "& ~within(KL(p), self.max_kl)",
        TRPO,
        "bound compared with reversed sign",
    ),
    Bug(
        "trpo: no gain is asked for",
        "methods/trpo.py",
        "(gain > 0)\n                & (gain >= self.min_gain_ratio * scale * slope)\n"
        "                & within(",
        "within(",
        "test_conformance.py::test_zero_advantage_moves_nothing[trpo-categorical]",
        "line search accepts without improvement",
    ),
    Bug(
        "trpo: the gain is that of the old parameters",
        "methods/trpo.py",
        "gain = L(p) - L_old",
        "gain = L(policy) - L_old",
        TRPO,
        "line search on surrogate of old params",
    ),
    Bug(
        "conjugate gradient: the residual stays",
        "curvature.py",
        "x, r = tree_add(x, alpha, p), tree_add(r, -alpha, Ap)",
        "x = tree_add(x, alpha, p)",
        "test_curvature.py::test_conjugate_gradient_equals_a_dense_solve[1.0]",
        "CG residual not updated",
    ),
    Bug(
        "learn: a critic that is not finite stays",
        "train.py",
        "critic, value_state = tree_where(fitted, (critic, value_state), "
        "(ts.critic, ts.value_state))",
        "value_state = tree_where(fitted, value_state, ts.value_state)",
        "test_learn.py::test_nan_rewards_leave_policy_and_critic_as_they_were[trpo]",
        "roll-back forgets the value net",
    ),
    Bug(
        "learn: the optimiser of a policy that is undone stays",
        "train.py",
        "policy, method_state = tree_where(sound, (policy, method_state), "
        "(ts.policy, ts.method_state))",
        "policy = tree_where(sound, policy, ts.policy)",
        "test_learn.py::test_nan_rewards_leave_policy_and_critic_as_they_were[ppo shared]",
        "roll-back forgets the optimizer",
    ),
    Bug(
        "projection: of the mean alone",
        "projection.py",
        "return metric.project_cov(metric.project_mean(new, old, mean_bound), old, cov_bound)",
        "return metric.project_mean(new, old, mean_bound)",
        "test_projection.py::test_golden_gaussians[KLMetric()]",
        "projection applied to the mean only",
    ),
    Bug(
        "projection: not differentiated",
        "projection.py",
        "return metric.project_cov(metric.project_mean(new, old, mean_bound), old, cov_bound)",
        "near = metric.project_mean(new, old, mean_bound)\n"
        "    return jax.lax.stop_gradient(metric.project_cov(near, old, cov_bound))",
        "test_projection.py::test_gradients_are_central_differences['diagonal'-KLMetric()]",
        "projection not differentiated",
    ),
    Bug(
        "repair: the last state is not looked at",
        "repair.py",
        "(jnp.arange(chunks * size) < total)",
        "(jnp.arange(chunks * size) < total - 1)",
        "test_repair.py::test_rows_that_fill_the_last_chunk_do_not_count",
        "FixPO fix-up loop ends one state early",
    ),
    Bug(
        "memory: every place holds the newest",
        "memory.py",
        "return Store(put(self.head, head), put(self.tail, tail), born, pushes)",
        "return Store(\n            jnp.broadcast_to(head, self.head.shape),"
        " put(self.tail, tail), born, pushes\n        )",
        QUEUE,
        "MCPO memory holds aliases of the current params",
    ),
    Bug(
        "certificate: of the first rows",
        "certificate.py",
        "exact = verifier.measured(promise, joined(batch, *actors), to_json(config))",
        'part = batch["mask"] & (np.arange(len(batch["mask"])) < 3)[:, None]\n'
        '        some = {**batch, "mask": part}\n'
        "        exact = verifier.measured(promise, joined(some, *actors), to_json(config))",
        "test_certificate.py::test_what_a_line_says",
        "certificate computed on the minibatch",
    ),
    Bug(
        "shuffles: rows drawn with replacement",
        "sgd.py",
        "bits = jax.random.bits(key, (epochs, rows), jnp.uint32)",
        "return jax.random.randint(key, (epochs, rows), 0, rows, jnp.int32)\n"
        "    bits = jax.random.bits(key, (epochs, rows), jnp.uint32)",
        ORDER,
        "minibatches with replacement",
    ),
    Bug(
        "shuffles: one order for all epochs",
        "sgd.py",
        "bits = jax.random.bits(key, (epochs, rows), jnp.uint32)",
        "bits = jnp.tile(jax.random.bits(key, (1, rows), jnp.uint32), (epochs, 1))",
        ORDER,
        "permutation fixed across epochs",
    ),
    Bug(
        "sgd: clipped after Adam",
        "sgd.py",
        "return optax.chain(clip, optax.scale_by_adam(eps=self.adam_eps))",
        "return optax.chain(optax.scale_by_adam(eps=self.adam_eps), clip)",
        ADAM,
        "gradient clip after the step",
    ),
    Bug(
        "sgd: Adam's epsilon is 0.01",
        "sgd.py",
        "optax.scale_by_adam(eps=self.adam_eps)",
        "optax.scale_by_adam(eps=1e-2)",
        ADAM,
        "Adam epsilon 1e-2",
    ),
    Bug(
        "evaluation: statistics move",
        "evaluate.py",
        "        normalize(raw, obs)\n        noise = None",
        "        from surefoot.normalize import host_moments\n\n"
        "        stats = stats.merge(host_moments(raw, np.ones(n, bool)))\n"
        "        HostNormalizer(stats)(raw, obs)\n        noise = None",
        EVALUATED,
        "statistics updated at evaluation",
    ),
    Bug(
        "evaluation: actions are drawn",
        "evaluate.py",
        "noise = None if deterministic else _noise(rng, env.spec)",
        "noise = _noise(rng, env.spec)",
        EVALUATED,
        "evaluation uses sampled actions where mode is stated",
    ),
    Bug(
        "evaluation: the seed is ignored",
        "evaluate.py",
        "raw = np.asarray(env.reset(seed), np.float64)",
        "raw = np.asarray(env.reset(0), np.float64)",
        EVALUATED,
        "seed ignored by evaluation env",
    ),
    Bug(
        "load: statistics begin anew",
        "agent.py",
        "ts = checkpoint.tree_from_arrays(fresh_state(config, spec), arrays, str(path))",
        "fresh = fresh_state(config, spec)\n"
        "        ts = checkpoint.tree_from_arrays(fresh, arrays, str(path))\n"
        "        ts = dataclasses.replace(ts, obs_stats=fresh.obs_stats)",
        "test_checkpoint.py::test_agents_come_back_as_they_were",
        "statistics not restored",
    ),
    Bug(
        "normalize: clipped before, not after",
        "normalize.py",
        "return jnp.clip((x - shift) * jnp.broadcast_to(inv, x.shape), -OBS_CLIP, OBS_CLIP)",
        "x = jnp.clip(x, -OBS_CLIP, OBS_CLIP)\n"
        "        return (x - shift) * jnp.broadcast_to(inv, x.shape)",
        "test_normalize.py::test_host_and_device_normalise_alike[500]",
        "observation clip before normalising",
    ),
    Bug(
        "rewards: scaled by the deviation of this rollout's rewards",
        "rewards.py",
        "jnp.clip(reward / jnp.sqrt(stats.var + VAR_EPS), -REWARD_CLIP, REWARD_CLIP)",
        "jnp.clip(reward / jnp.std(reward), -REWARD_CLIP, REWARD_CLIP)",
        "test_learn.py::test_rewards_are_scaled_by_the_running_return",
        "reward scale by instantaneous std",
    ),
)


def table() -> str:
    """The list as a table."""
    head = ["| bug | common fault | test that failed |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {b.name} | {b.common} | `{b.test}` |" for b in BUGS)]) + "\n"


def passes(copy: Path, test: str) -> bool:
    """Whether a test of a copy passes; anything but one failed test is an error."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", f"tests/{test}"]
    env = os.environ | {"PYTHONPATH": str(copy / "src")}
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    if done.returncode not in (0, 1) or "no tests ran" in done.stdout:
        raise RuntimeError(f"{test}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Every bug with one of the words in its name; the number of those that were not caught."""
    if words == ["--table"]:
        print(table(), end="")
        return 0
    chosen = [b for b in BUGS if not words or any(w in b.name for w in words)]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, copy / part)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for test in sorted({b.test for b in chosen}):
            if not passes(copy, test):
                raise RuntimeError(f"{test} fails without a bug")
        for bug in chosen:
            file = copy / "src" / "surefoot" / bug.file
            whole = file.read_text()
            file.write_text(whole.replace(bug.right, bug.wrong))
            caught = not passes(copy, bug.test)
            file.write_text(whole)
            missed += not caught
            print(f"{'caught' if caught else 'MISSED':<8}{bug.name:<60}{bug.test}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
