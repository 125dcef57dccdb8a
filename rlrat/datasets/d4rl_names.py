"""Know all that D4RL's names of datasets stand for: file, time limit, environment, widths, reference returns.

Facts of d4rl 1.1: infos.py, and for Maze2D's v0 d4rl/pointmaze/__init__.py. The guide to families says what the
conventions are, and how each environment was compared with D4RL's. Nothing here needs NumPy or torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rlrat.environments import d4rl

Family = Literal["locomotion", "antmaze", "maze2d", "adroit", "kitchen"]

LEVELS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
"""How well the policies behind D4RL's locomotion datasets acted."""
SOURCE = "d4rl 1.1, d4rl/infos.py (REF_MIN_SCORE, REF_MAX_SCORE); Fu et al., arXiv 2004.07219"
DATE = "2022-09-12"
_MEASURED_WITH = "d4rl 1.1, gym and mujoco_py"
_MAZE2D_V0 = "d4rl 1.1, d4rl/pointmaze/__init__.py (ref_min_score, ref_max_score); Fu et al., arXiv 2004.07219"


@dataclass(frozen=True)
class D4RLName:
    """What a name stands for."""

    name: str
    family: Family
    path: str
    """Of its file, under the address of all of D4RL's files."""
    time_limit: int
    """Steps after which its episodes end, where the file has no `timeouts`."""
    widths: tuple[int, int]
    """Of observations and of actions."""
    random: float
    """Mean return of a uniform-random policy, by which D4RL normalises scores."""
    expert: float
    """Mean return of the expert."""
    env_id: str
    """Environment to evaluate in."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    """What is known to be wrong with the data: said whenever it is loaded."""
    source: str = SOURCE
    measured_with: str = _MEASURED_WITH
    """Packages that the reference returns were measured with."""

    @property
    def file(self) -> str:
        """Return the name of its file."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Agent:
    """A robot of the locomotion datasets."""

    env_id: str
    widths: tuple[int, int]
    random: float
    expert: float
    env_kwargs: dict[str, Any] = field(default_factory=dict)


AGENTS = {
    "halfcheetah": Agent("HalfCheetah-v4", (17, 6), -280.178953, 12135.0),
    "hopper": Agent("Hopper-v4", (11, 3), -20.272305, 3234.3),
    "walker2d": Agent("Walker2d-v4", (17, 6), 1.629008, 4592.3),
    # Gymnasium's Ant leaves out the contact forces, which the data has (as zeros).
    "ant": Agent("Ant-v4", (111, 8), -325.6, 3879.7, {"use_contact_forces": True}),
}
"""D4RL's -v2 environments, and the nearest that install, -v4."""
LOCOMOTION_LIMIT = 1000
_V0_FOLDER = "gym_mujoco/"


def _locomotion() -> Iterator[D4RLName]:
    for agent, about in AGENTS.items():
        rest = (LOCOMOTION_LIMIT, about.widths, about.random, about.expert, about.env_id, about.env_kwargs)
        for level in LEVELS:
            for version in ("v0", "v1", "v2"):
                name, stem = f"{agent}-{level}-{version}", f"{agent}_{level.replace('-', '_')}"
                if version != "v0":
                    path, note = f"gym_mujoco_{version}/{stem}-{version}.hdf5", _V1 if version == "v1" else ""
                elif level == "full-replay":
                    continue
                else:
                    stem = stem.replace("medium_replay", "mixed").replace("walker2d_mixed", "walker_mixed")
                    path = f"{_V0_FOLDER}{stem}.hdf5"
                    note = _HOPPER_V0 if name == "hopper-medium-expert-v0" else _V0
                yield D4RLName(name, "locomotion", path, *rest, note=note)
    ant = AGENTS["ant"]
    rest = (LOCOMOTION_LIMIT, ant.widths, ant.random, ant.expert, ant.env_id, ant.env_kwargs)
    yield D4RLName("ant-random-expert-v0", "locomotion", f"{_V0_FOLDER}ant_random_expert.hdf5", *rest, note=_V0)


_V0 = "D4RL's v0 has no timeouts and was replaced by v2: scores on it are not those of v2"
_HOPPER_V0 = f"{_V0}; it holds the expert's steps and medium-replay's, not medium's (D4RL's issue 19)"
_V1 = "D4RL replaced v1 by v2, which has a better expert of Hopper and right qpos and qvel: scores are not those of v2"
_ANTMAZE_V0 = "in D4RL's v0 timeouts are not where trajectories end (D4RL's issue 77): v2 has them right"


def _antmaze() -> Iterator[D4RLName]:
    names = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}  # v1 has the names themselves
    for task in _tasks("AntMaze"):
        maze, version = task.kwargs["maze"], task.name[-2:]
        play, diverse = "-play" in task.name, "-diverse" in task.name
        starts = f"multistart_{play or diverse}_multigoal_{diverse}"
        folder = {"v0": "ant_maze_new", "v1": "ant_maze_v1", "v2": "ant_maze_v2"}[version]
        stem = f"Ant_maze_{maze if version == 'v1' else names[maze]}_noisy_{starts}_sparse"
        path = f"{folder}/{stem}{'_fixed' if version == 'v2' else ''}.hdf5"
        yield _of_task(task, "antmaze", path, 0.0, 1.0, note=_ANTMAZE_V0 if version == "v0" else "")


_MAZE2D = {
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-v0": (0.94, 62.6),
    "maze2d-umaze-dense-v0": (23.249793, 81.78995240126592),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-v0": (5.77, 85.14),
    "maze2d-medium-dense-v0": (19.477620, 96.03474232952358),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-v0": (4.83, 191.99),
    "maze2d-large-dense-v0": (27.388310, 215.09965671563742),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
}
_ADROIT = {
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
}


def _maze2d() -> Iterator[D4RLName]:
    for task in _tasks("Maze2D"):
        version = task.name[-2:]
        stem = f"maze2d-{task.kwargs['maze']}-{'dense' if task.kwargs['dense'] else 'sparse'}"
        path = f"maze2d/{stem}{'-v1' if version == 'v1' else ''}.hdf5"
        is_in_infos = version == "v1" or task.kwargs["maze"] == "open"
        yield _of_task(task, "maze2d", path, *_MAZE2D[task.name], source=SOURCE if is_in_infos else _MAZE2D_V0)


def _adroit() -> Iterator[D4RLName]:
    stems = {"human": "v0_demos_clipped", "cloned": "demos-v0-bc-combined", "expert": "v0_expert_clipped"}
    for task in _tasks("Adroit"):
        hand, level, version = task.name.split("-")
        path = f"hand_dapg/{hand}-{stems[level]}.hdf5" if version == "v0" else f"hand_dapg_v1/{task.name}.hdf5"
        yield _of_task(task, "adroit", path, *_ADROIT[hand])


def _kitchen() -> Iterator[D4RLName]:
    stems = {
        "complete": "mini_kitchen_microwave_kettle_light_slider",
        "partial": "kitchen_microwave_kettle_light_slider",
        "mixed": "kitchen_microwave_kettle_bottomburner_light",
    }
    for task in _tasks("Kitchen"):
        yield _of_task(task, "kitchen", f"kitchen/{stems[task.name.split('-')[1]]}-v0.hdf5", 0.0, 4.0)


def _tasks(maker: str) -> list[d4rl.Task]:
    return [task for task in d4rl.TASKS.values() if task.maker == maker]


def _of_task(task: d4rl.Task, family: Family, path: str, random: float, expert: float, **rest: Any) -> D4RLName:
    return D4RLName(task.name, family, path, task.max_episode_steps, task.widths, random, expert, task.name, **rest)


NAMES: dict[str, D4RLName] = {
    entry.name: entry for family in (_locomotion, _antmaze, _maze2d, _adroit, _kitchen) for entry in family()
}
"""By D4RL's name."""
_NAME_OF_STEM = {entry.file.removesuffix(".hdf5"): name for name, entry in NAMES.items()}


def agent_of(id: str) -> str | None:
    """Return the locomotion agent, such as hopper, of an id that has a level of D4RL's; None for any other id.

    Such an id may have no version or D4RL's v0 to v2: it need not be one of `NAMES`.
    """
    stem = id[:-3] if id.endswith(("-v0", "-v1", "-v2")) else id
    agent, _, level = stem.partition("-")
    return agent if agent in AGENTS and level in LEVELS else None


def d4rl_name_of(stem: str, is_d4rls: bool) -> str | None:
    """Return the id of a file whose name, without its suffix, is as D4RL's are; None for any other name.

    Args:
        is_d4rls: whether it lies in the folder of D4RL's files. Elsewhere anybody may have named a file as those of
            locomotion's v0 are, such as hopper_medium: it is not taken for D4RL's.
    """
    name, dashed = _NAME_OF_STEM.get(stem), stem.replace("_", "-")
    if name is not None and (is_d4rls or not NAMES[name].path.startswith(_V0_FOLDER)):
        return name
    return dashed if dashed in NAMES or agent_of(dashed) else None


_ENVIRONMENTS = {
    "AntMaze_": "antmaze",
    "PointMaze_": "maze2d",
    "AdroitHand": "adroit",
    "FrankaKitchen-": "kitchen",
}


def family_of(id: str, env_id: str | None) -> Family | None:
    """Return the family of D4RL's that a dataset is of by its name, or by the environment that it is of.

    Minari's sets of the same robots are of these families, too: `D4RL/antmaze/umaze-v1` is of `AntMaze_UMaze-v4`.
    """
    if id in NAMES:
        return NAMES[id].family
    if agent_of(id) is not None:
        return "locomotion"
    return next((family for start, family in _ENVIRONMENTS.items() if (env_id or "").startswith(start)), None)
