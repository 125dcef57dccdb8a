"""scripts/card.py."""

from scripts import card
from tests.runs.exporting.policies import make_policy, save_run


def test_it_says_where_the_card_is(tmp_path, run_script, capsys):
    run = save_run(tmp_path / "seed0", make_policy())
    card.main(card.Arguments(run))
    assert capsys.readouterr().out == f"{run / 'MODEL_CARD.md'}\n"
    assert (run / "MODEL_CARD.md").read_text().startswith("---\n")
    assert run_script("card.py", str(tmp_path / "nowhere")) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no run folder ")
    assert said.count("\n") == 1
