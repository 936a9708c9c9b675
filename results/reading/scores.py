"""Read the scores of single edits in a run folder, for those that look at its study."""

from pathlib import Path

from sharetune.spaces.errors import RunError
from sharetune.spaces.planning.score_file import ScoreFile, StoredScores
from sharetune.spaces.run_folder import RunFolder


def stored_scores(run: Path) -> StoredScores | None:
    """Return the scores in a run folder; None without any, or if they cannot be read."""
    file = ScoreFile(RunFolder(run).scores)
    try:
        return file.read() if file.exists else None
    except RunError:
        return None
