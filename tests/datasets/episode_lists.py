import numpy as np
from hypothesis import strategies as st


@st.composite
def episode_lists(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    observations, actions = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    episodes = []
    for steps in draw(st.lists(st.integers(1, 12), min_size=1, max_size=6)):
        ends = np.arange(steps) == steps - 1
        terminal, truncated = draw(st.booleans()), draw(st.booleans())
        episodes.append(
            {
                "observations": rng.standard_normal((steps + 1, observations)) * 100,
                "actions": rng.uniform(-1, 1, (steps, actions)),
                "rewards": rng.standard_normal(steps) * 1e3,
                "terminations": ends & terminal,
                "truncations": ends & truncated,
            }
        )
    return episodes
