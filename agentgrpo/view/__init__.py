"""``view``: a run's trajectories as one HTML file that opens from disk, without a server and without a network."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from agentgrpo.run_folder import RunFolder
from agentgrpo.run_head import describe
from agentgrpo.view.compact import PageData
from agentgrpo.view.page import write_page
from agentgrpo.view.reading import read_file, trajectory_files
from agentgrpo.view.tokens import TokenTexts


def view_command(config: DictConfig) -> int:
    """Writes the page and says where it is and what is missing from it."""
    if not config.run_dir:
        raise ValueError("view needs a run: python -m agentgrpo view run_dir=runs/demo")
    data = collect(Path(str(config.run_dir)))
    path = Path(str(config.out)) if config.out else Path(str(config.run_dir)) / "trajectories.html"
    size = write_page(data, path)
    for note in data.notes:
        print(f"note: {note}")
    print(
        f"{path}: {data.num_trajectories} trajectories in {data.num_groups} group{'s' * (data.num_groups != 1)}, "
        f"{size / 1e6:.1f} MB. "
        "Open it in a browser; ? lists the keys."
    )
    return 0


def collect(path: Path) -> PageData:
    """Everything that the page shows of a run.

    Raises:
        ValueError: the folder holds no run, or no trajectory of it can be read.
    """
    folder = RunFolder(path)
    data = PageData(describe(folder))
    files = trajectory_files(folder)
    for file in files:
        records, notes = read_file(file)
        data.notes.extend(notes)
        data.add(records)
    if not data.num_trajectories:
        raise ValueError(" ".join([f"None of the {len(files)} trajectory files of {path} can be read.", *data.notes]))
    texts = TokenTexts.of_run(folder)
    data.finish(texts)
    return data
