"""Put a built dataset on the hub."""

from pathlib import Path

from huggingface_hub import HfApi

from daclip.data.build import load_built
from daclip.errors import DaclipError

__all__ = ["push_dataset"]


def push_dataset(folder: str | Path, name: str, private: bool) -> str:
    """Upload a built dataset with its card and sample sheet; `data=hub` and `load_built` read it back.

    Args:
        folder: A folder made by `build_dataset`.
        name: `user/name` or `organisation/name` on the hub.
        private: Whether only its owners see it; of no effect on a dataset that exists already.

    Returns:
        Address of the dataset.

    Raises:
        DaclipError: No account, no permission, no network.
    """
    folder = Path(folder)
    built = load_built(folder)
    try:
        hub = HfApi()
        url = hub.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        # The card goes first: the upload of the rows adds its own header lines to the card that it finds.
        for file in ("README.md", "sheet.png"):
            hub.upload_file(path_or_fileobj=folder / file, path_in_repo=file, repo_id=name, repo_type="dataset")
        built.push_to_hub(name, private=private)
    except Exception as error:  # the hub client raises what its HTTP library raises
        lines = str(error).strip().splitlines()
        raise DaclipError(
            f"{folder} is built, but could not be pushed to {name} ({lines[0] if lines else type(error).__name__}); "
            "check the network and `hf auth login`, then run the command again"
        ) from error
    return str(url)
