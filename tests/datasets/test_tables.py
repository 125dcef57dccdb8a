"""CSV and Parquet files: columns by their names or by a map beside them, and each mistake in one line."""

import sys

import numpy as np
import pandas
import pytest

from rlrat import load_dataset
from rlrat.datasets import Dataset, tables
from rlrat.errors import InputError


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    steps = 12
    return pandas.DataFrame(
        {
            **{f"observation_{i}": rng.standard_normal(steps) for i in range(11)},
            **{f"action_{i}": rng.uniform(-1, 1, steps) for i in range(2)},
            "reward": rng.standard_normal(steps),
            "terminal": [False] * 3 + [True] + [False] * 8,
            "timeout": [False] * 7 + [True] + [False] * 3 + [True],
            "episode": [3] * 4 + [1] * 4 + [2] * 4,
        }
    )


@pytest.fixture
def write(tmp_path):
    def write(table, name="log.csv", columns=None):
        path = tmp_path / name
        table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
        if columns is not None:
            (tmp_path / "log.columns.toml").write_text(columns)
        return path

    return write


def arrays(table):
    return {
        "observations": table[[f"observation_{i}" for i in range(11)]].to_numpy(),
        "actions": table[["action_0", "action_1"]].to_numpy(),
        "rewards": table["reward"].to_numpy(),
        "terminals": table["terminal"].to_numpy(),
        "timeouts": table["timeout"].to_numpy(),
    }


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize("left_out", [[], ["episode"], ["timeout"], ["terminal", "timeout"]])
def test_columns_by_their_names(table, write, tmp_path, name, left_out):
    wanted = arrays(table)
    if "terminal" in left_out:
        wanted["terminals"], wanted["timeouts"] = np.zeros(12, bool), wanted["timeouts"] | wanted["terminals"]
    np.savez(tmp_path / "wanted.npz", **wanted)
    wanted = load_dataset(tmp_path / "wanted.npz")
    dataset = load_dataset(write(table.drop(columns=left_out), name))
    assert (dataset.id, dataset.fingerprint) == ("log", wanted.fingerprint)
    assert dataset.episode_complete.all()
    np.testing.assert_array_equal(dataset.observations, wanted.observations)  # observation_10 is after observation_9


def test_a_map_names_other_columns(table, write):
    wanted = load_dataset(write(table, "wanted.csv"))
    names = {"observation_0": "x", "action_0": "u", "action_1": "v", "reward": "score", "terminal": "done"}
    others = table[["observation_0", "action_0", "action_1", "reward", "terminal", "timeout"]].rename(columns=names)
    columns = 'observations = "x"\nactions = ["v", "u"]\nrewards = "score"\nterminals = "done"\n'
    dataset = load_dataset(write(others, columns=columns))
    np.testing.assert_array_equal(dataset.observations, wanted.observations[:, :1])
    np.testing.assert_array_equal(dataset.actions, wanted.actions[:, ::-1])
    np.testing.assert_array_equal(dataset.terminations, wanted.terminations)
    path = write(others, columns=columns.replace('"v", "u"', '"u"'))  # a map that changed is noticed
    assert load_dataset(path).actions.shape[1] == 1


@pytest.mark.parametrize("observations", ["observation", "observations"])
def test_parquet_holds_vectors(table, write, observations):
    vectors = pandas.DataFrame(
        {
            observations: list(arrays(table)["observations"]),
            "action": list(arrays(table)["actions"]),
            **{name: table[name] for name in ("reward", "terminal", "timeout")},
            "log_prob": np.arange(12.0),
        }
    )
    dataset = load_dataset(write(vectors, "log.parquet"))
    wanted = load_dataset(write(table, "wanted.parquet"))
    np.testing.assert_array_equal(dataset.observations, wanted.observations)
    np.testing.assert_array_equal(dataset.actions, wanted.actions)
    assert dataset.log_probs.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    vectors.at[5, observations] = np.zeros(10)
    with pytest.raises(InputError, match=f"column {observations} is ragged: vectors of one length"):
        load_dataset(write(vectors, "log.parquet"))


def test_next_observations_lose_no_step(table, write):
    table = table.drop(columns=["timeout", "terminal"])
    following = np.arange(12 * 11.0).reshape(12, 11)
    for i in range(11):
        table[f"next_observation_{i}"] = following[:, i]
    dataset = load_dataset(write(table))
    np.testing.assert_array_equal(dataset.next_observations, following)


def test_episodes_may_have_words_for_names(table, write):
    table["episode"] = [f"trip {number}" for number in table["episode"]]
    dataset = load_dataset(write(table))
    assert dataset.episode_lengths.tolist() == [4, 4, 4]


def set_value(name, row, value):
    def change(table):
        table[name] = table[name].astype(object)
        table.at[row, name] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.rename(columns={"reward": "r"}),
            "has no columns reward: say in .*log.columns.toml.*its other columns are r$",
        ),
        (lambda t: t[["reward"]], r"has no columns observation_0, \.\.\. and action_0, \.\.\.: say in"),
        (lambda t: t.drop(columns="observation_3"), "has 10 columns observation_..., but no observation_3"),
        (lambda t: t.assign(terminated=False), "has columns terminal and terminated: name the one that counts in"),
        (lambda t: t.assign(episode=[0, 0, 1, 1] * 3), "episode 0 is in several pieces: sort the rows"),
        (lambda t: t.assign(episode=0), r"row 3 \(from 0\) ends its episode, and the next row is of the same one, 0"),
        (lambda t: t.assign(action_0=0, action_1=1), "actions are int64: continuous actions only.*d3rlpy"),
        (set_value("reward", 5, "high"), r"column reward holds text \(high\) in row 5"),
        (set_value("reward", 5, None), "rewards hold nan at episode 1, step 1"),
        (set_value("observation_2", 5, None), r"observations hold nan at episode 1, step 1 \(component 2\)"),
        (set_value("terminal", 5, "no"), "column terminal holds text"),
        (lambda t: t[:0], "is empty: it has no rows"),
    ],
)
def test_mistakes_are_one_line(table, write, change, said):
    with pytest.raises(InputError, match=rf"log\.csv.* {said}") as caught:
        load_dataset(write(change(table)), action_bounds=[(-1, 1)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("observations = [", "is no TOML"),
        ('observation = ["x"]', "names observation, which is none of observations, actions"),
        ("observations = [1]", "observations must be the name of a column, or several"),
        ("observations = []", "observations must be the name of a column, or several"),
        ('rewards = ["reward", "terminal"]', "rewards must be one column, not 2"),
        ('rewards = "score"', "rewards names the column score, which log.csv has not"),
    ],
)
def test_mistakes_of_a_map_are_one_line(table, write, columns, said):
    with pytest.raises(InputError, match=rf"log\.columns\.toml:? {said}") as caught:
        load_dataset(write(table, columns=columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,3\n1\n1,2,3,4", b"\xff\xfe\x00"])
def test_what_is_no_table(tmp_path, content):
    for name in ("log.csv", "log.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} (cannot be read as a table|has no columns)") as caught:
            load_dataset(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "log.csv").write_text("reward, reward\n1,2\n")
    with pytest.raises(InputError, match="has two columns reward"):
        load_dataset(tmp_path / "log.csv")
    with pytest.raises(InputError, match="no file"):
        load_dataset(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("missing", "name", "said"),
    [
        ("pandas", "log.csv", "log.csv is a table, for which pandas is needed: pip install pandas"),
        ("pyarrow", "log.parquet", "log.parquet is a Parquet file, for which pyarrow is needed: pip install pyarrow"),
    ],
)
def test_a_package_that_is_not_installed(table, write, monkeypatch, missing, name, said):
    path = write(table, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=said):
        load_dataset(path)


def test_a_csv_keeps_every_digit(table, write):
    dataset = load_dataset(write(table))
    assert isinstance(dataset, Dataset)
    np.testing.assert_array_equal(dataset.observations[:3], arrays(table)["observations"][:3].astype(np.float32))
    assert tables.column_map(write(table)).name == "log.columns.toml"


def test_columns_that_nobody_reads_are_named(table, write, capsys):
    others = table.drop(columns="episode").assign(done=0)
    load_dataset(write(others), action_bounds=[(-1, 1)])
    assert "log.csv: done is not used; log.columns.toml says which columns count\n" in capsys.readouterr().err
    load_dataset(write(others, columns='rewards = "reward"'), action_bounds=[(-1, 1)])
    assert "not used" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_times_are_no_numbers(table, write, name):
    with pytest.raises(InputError, match=f"{name}: column observation_0 holds (datetime64|text)"):
        load_dataset(write(table.assign(observation_0=pandas.date_range("2020", periods=12)), name))


def test_vectors_of_vectors(table, write):
    table["observations"] = [[[0.0, 1.0], [2.0, 3.0]]] * 12
    images = table.drop(columns=[f"observation_{i}" for i in range(11)])
    with pytest.raises(InputError, match="column observations holds vectors of vectors"):
        load_dataset(write(images, "log.parquet"))


def test_a_row_without_an_episode(table, write):
    with pytest.raises(InputError, match=r"row 2 \(from 0\) has no episode"):
        load_dataset(write(table.assign(episode=[3, 3, None, 3, *[1] * 4, *[2] * 4])))


def test_a_suffix_may_have_capitals(table, write):
    path = write(table)
    assert load_dataset(path.rename(path.with_suffix(".CSV"))).id == "log"
