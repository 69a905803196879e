"""The error for published weights that are not there; importing it costs nothing."""

from pathlib import Path


class MissingWeights(FileNotFoundError):
    """Published weights are wanted in `folder` and are not there; `name` is what the project's catalogue calls them."""

    def __init__(self, name: str, folder: Path | str) -> None:
        super().__init__(f"the weights {name} are not in {folder}")
        self.name = name
        self.folder = Path(folder)

    def __reduce__(self) -> tuple[type["MissingWeights"], tuple[str, Path]]:
        return MissingWeights, (self.name, self.folder)
