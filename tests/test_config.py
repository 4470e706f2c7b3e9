"""`Config` and presets: ranges, names, and the way through JSON."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import changed
from surefoot import (
    NPG,
    PPO,
    SGD,
    TRPO,
    Clipped,
    Config,
    FixPO,
    KLNewOld,
    MeanState,
    Networks,
    SharedValue,
    UsageError,
    ValueFit,
)
from surefoot.config import from_json, method_class, method_name, read_config, to_json
from surefoot.methods import METHODS
from surefoot.presets import all_presets, choose

PRESETS = all_presets()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.name)
def test_presets_go_through_json(preset):
    text = json.dumps(to_json(preset.config), allow_nan=False)
    assert from_json(json.loads(text)) == preset.config


def test_infinite_and_absent_numbers_go_through_json():
    config = Config(
        PPO(clip=float("inf"), stop_kl=None), ValueFit(SGD(max_grad_norm=None), clip=0.2)
    )
    again = from_json(json.loads(json.dumps(to_json(config), allow_nan=False)))
    assert again == config
    assert again.method.clip == float("inf")


def test_parts_of_methods_go_through_json():
    config = Config(TRPO(surrogate=Clipped(0.3)), ValueFit())
    assert from_json(to_json(config)).method.surrogate == Clipped(0.3)


def test_divergences_and_statistics_go_through_json():
    method = FixPO(divergence=KLNewOld(), statistic=MeanState(), fixup=False)
    assert from_json(to_json(Config(method, ValueFit()))).method == method
    data = to_json(Config(method, ValueFit()))
    data["method"]["divergence"] = {"type": "MeanState"}
    with pytest.raises(UsageError, match=r"allowed: .* one of KLOldNew, KLNewOld"):
        from_json(data)


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_every_method_goes_through_json(name):
    """With a value that is not its default, at every depth."""
    base = method_class(name)()
    method = changed.every_field(base)
    pairs = zip(changed.leaves(base, ""), changed.leaves(method, ""), strict=False)
    assert all(a != b for a, b in pairs)
    config = Config(method, ValueFit())
    text = json.dumps(to_json(config), allow_nan=False)
    assert from_json(json.loads(text)) == config != Config(base, ValueFit())


def test_whole_numbers_in_json_serve_as_numbers():
    data = to_json(Config(TRPO(), ValueFit()))
    data["gamma"] = 1
    assert from_json(data).gamma == 1.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("gama",), 0.9, "did you mean gamma"),
        (("method", "max_lk"), 0.1, "did you mean max_kl"),
        (("method", "type"), "os.system", "allowed: "),
        (("method", "surrogate"), {"type": "KLNewOld"}, "is 'KLNewOld'; allowed: "),
        (("method", "surrogate"), {"type": "MeanState"}, "of Importance, Clipped"),
        (("gamma",), 1.5, "Config.gamma is 1.5; allowed: a number in [0, 1]"),
        (("gamma",), "high", "allowed: float"),
        (("steps",), 2.5, "Config.steps is 2.5; allowed: a whole number of at least 1"),
        (("normalize_obs",), "yes", "allowed: bool"),
        (("method", "max_kl"), 1e-6, "TRPO.max_kl is 1e-06"),
    ],
)
def test_bad_settings_are_one_line_that_names_them(path, value, message):
    data = to_json(Config(TRPO(), ValueFit()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UsageError) as error:
        from_json(data)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**7)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)
FIELDS = [f.name for f in dataclasses.fields(Config)]


@given(st.sampled_from(FIELDS), JSON)
@settings(max_examples=60, deadline=None)
def test_hostile_json_is_refused_or_accepted_and_nothing_else(field, value):
    data = to_json(Config(TRPO(), ValueFit())) | {field: value}
    try:
        config = from_json(data)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert from_json(to_json(config)) == config


def test_config_files(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(UsageError, match="does not exist"):
        read_config(path)
    path.write_text("{not json")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        read_config(path)
    config = Config(NPG(lr=0.1, max_kl=None), ValueFit())
    path.write_text(json.dumps({"settings": to_json(config), "versions": {}}))
    assert read_config(path) == config


def test_rows_and_updates():
    config = Config(PPO(), ValueFit(), steps=1_000_000, num_envs=8)
    assert (config.rollout_steps, config.rows, config.updates) == (256, 2048, 489)
    assert dataclasses.replace(config, num_envs=7).rollout_steps == 293
    assert dataclasses.replace(config, num_steps=10).rows == 80


def test_minibatches_cannot_exceed_rows():
    with pytest.raises(UsageError, match=r"SGD\.minibatches is 32; allowed: at most 16"):
        Config(PPO(), ValueFit(SGD(minibatches=4)), num_envs=4, num_steps=4)


def test_shared_layers_go_with_a_shared_value():
    with pytest.raises(UsageError, match="shared_layers"):
        Config(PPO(), SharedValue())
    with pytest.raises(UsageError, match=r"joint is True; .* not joint with value ValueFit"):
        Config(PPO(), ValueFit(), networks=Networks(joint=True))
    assert Config(PPO(), SharedValue(), networks=Networks(joint=True)).networks.one_tree
    with pytest.raises(UsageError, match="TRPO refuses layers shared"):
        Config(TRPO(), SharedValue(), networks=Networks(shared_layers=1))
    assert (
        Config(PPO(), SharedValue(), networks=Networks(shared_layers=1)).algorithm.value
        == SharedValue()
    )


def test_methods_are_found_by_name():
    for name in METHODS:
        assert method_name(method_class(name)) == "type"  # the class is not a record
        entry = METHODS[name]
        assert method_class(name).__name__ == entry.record
    assert method_name(TRPO()) == "trpo"
    with pytest.raises(UsageError, match="did you mean trpo"):
        method_class("trop")


def test_presets_are_chosen_by_method_and_environment():
    assert choose("trpo", "HalfCheetah-v5").preset == "trpo-mujoco"
    assert choose("trpo", "HalfCheetah-v5").num_envs == 8
    pooled = choose("trpo", "envpool:HalfCheetah-v5")
    assert (pooled.preset, pooled.num_envs, pooled.rollout_steps) == ("trpo-mujoco", 64, 32)
    assert choose("ppo", "jax:CartPole-v1").preset == "ppo-cartpole"
    assert choose("npg", "CartPole-v1").preset == "npg-cartpole"
    published = choose("fixpo", "Hopper-v5")
    assert (published.preset, published.rows, published.num_envs) == ("fixpo-mujoco", 8192, 64)
    assert published.rows // published.method.sgd.minibatches == 512
    assert published.method == FixPO() and published.normalize_advantage == "none"
    bare = choose("ppo", "MyOwn-v0")
    assert (bare.preset, bare.method) == ("none", PPO())
    assert choose("ppo", "CartPole-v1", "none").method == PPO()
    assert choose("ppo", "CartPole-v1", "ppo-shared-trunk").networks.shared_layers == 2
    with pytest.raises(UsageError, match="did you mean ppo-mujoco"):
        choose("ppo", "CartPole-v1", "ppo-mojoco")
    with pytest.raises(UsageError, match="is for trpo, not for ppo"):
        choose("ppo", "CartPole-v1", "trpo-mujoco")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.name)
def test_presets_fit_their_own_methods(preset):
    for method in preset.methods:
        assert isinstance(preset.config.method, method_class(method))
    assert preset.source
