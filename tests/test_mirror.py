"""Tests mirror the tree: every module has its own under its name, in tests/<wing>/test_<module>.py."""

from pathlib import Path

from tests.short_runs import ROOT

# Modules whose tests are elsewhere, and where.
ELSEWHERE = {
    "scripts/benchmarks/benchmark_settings.py": "scripts/benchmarks/test_benchmark.py, which tests the command line",
    "rlrat/evaluation/rendering.py": "scripts/test_evaluate.py, which films with it",
    "rlrat/rational/triton_polynomials.py": "rational/test_triton_kernels.py, whose kernels compute by it",
    "rlrat/updates/flat.py": "updates/test_optim.py, whose optimizers pass over it",
    "rlrat/runs/progress.py": "runs/test_group.py, which saves and restores it",
    "rlrat/runs/trained.py": "scripts/test_evaluate.py, which evaluates with it",
}
# Tests of several modules, or of a wing.
SEVERAL = {
    *("agents/test_every_agent.py", "agents/test_every_setting.py"),
    *("agents/test_mutants.py", "agents/test_registered.py"),
    "approximation/test_main.py",
    *("docs/test_own_data.py", "docs/test_pages.py", "docs/test_site.py"),
    "datasets/test_reader_fuzz.py",
    *("emulator/test_emulator.py", "emulator/test_rational_runs.py", "emulator/test_whole_runs.py"),
    "evaluation/test_goals.py",
    *("rational/test_dispatcher.py", "rational/test_imports.py", "rational/test_init.py", "rational/test_main.py"),
    "rational/test_op_transforms.py",
    *("reports/test_page.py", "reports/test_report_fuzz.py"),
    *("runs/test_damaged_folders.py", "runs/test_dictionary_observations.py"),
    *("runs/test_finishing.py", "runs/test_kill_storm.py"),
    "runs/test_older_folders.py",
    "scripts/test_families.py",
    *("sweeps/test_chaos.py", "sweeps/test_fuzz_folder.py"),
    *("test_import_graph.py", "test_layers.py", "test_mirror.py", "test_packaging.py"),
}


def modules() -> dict[str, str]:
    """Where the tests of each module belong, below tests/, by the module's path."""
    found = {}
    for top in ("rlrat", "agents", "scripts"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if not path.name.startswith("__"):
                path = path.relative_to(ROOT)
                wing = path.parent.relative_to("rlrat") if top == "rlrat" else path.parent
                found[path.as_posix()] = (wing / f"test_{path.name}").as_posix()
    return found


def written() -> set[str]:
    return {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_module_has_its_tests_under_its_name():
    there = written()
    missing = {module for module, place in modules().items() if place not in there}
    assert missing - ELSEWHERE.keys() == set(), "write their tests, or say in ELSEWHERE where they are"
    assert ELSEWHERE.keys() & modules().keys() == ELSEWHERE.keys() & missing, "these have their tests now"


def test_every_file_of_tests_has_the_name_of_what_it_tests():
    assert written() - set(modules().values()) == SEVERAL, "name it after its module, or add it to SEVERAL"


def test_every_file_of_tests_has_one():
    files = [ROOT / "tests" / path for path in written()]
    assert [file for file in files if "def test_" not in file.read_text(encoding="utf-8")] == []


def test_tests_are_packages_so_that_two_may_have_one_name():
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert Path(__file__).parent in folders
