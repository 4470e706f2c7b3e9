"""Plant a bug in a copy of the tree, run the test that is said to catch it, and expect it to fail.

    python tests/planted.py            # all of them, some minutes
    python tests/planted.py spo mdpo   # those with a word in their name

`PLANTED.md` shows the list; `test_planted.py` holds that every edit still fits the source.
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


class Bug(NamedTuple):
    """An edit of one place of one file, and a test that it makes fail."""

    name: str
    file: str
    right: str
    wrong: str
    test: str


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
HANDED = "test_virtual_region.py::test_the_batch_and_the_key_are_handed_on_as_they_are"

BUGS = (
    Bug(
        "ppo_kl: KL direction reversed",
        "methods/ppo_kl.py",
        "divergence: Divergence = KLOldNew()",
        "divergence: Divergence = __import__('surefoot').KLNewOld()",
        f"{LOSSES}[ppo_kl-gaussian]",
    ),
    Bug(
        "ppo_kl: the rule sees one state",
        "methods/ppo_kl.py",
        "d = batch.mean(self.divergence(policy(batch.obs), batch))",
        "d = self.divergence(policy(batch.obs), batch)[0]",
        BETA,
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
    ),
    Bug(
        "mdpo: KL direction reversed",
        "methods/mdpo.py",
        "KLNewOld()(new, batch)",
        "batch.old.kl(new)",
        f"{LOSSES}[mdpo-gaussian]",
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
    ),
    Bug(
        "mcpo: KL of the old region reversed",
        "methods/mcpo.py",
        "(1 - alpha) * KLOldNew()(new, batch)",
        "(1 - alpha) * counted(new, batch).kl(batch.old)",
        f"{MCPO_STEPS}[constant-categorical]",
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
)


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
