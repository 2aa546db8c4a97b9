"""daclip: universal image restoration guided by vision-language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daclip.restoring.restorer import Restorer

__all__ = ["Restorer", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The networks take seconds to import; `import daclip` alone stays cheap.
    if name == "Restorer":
        from daclip.restoring.restorer import Restorer

        return Restorer
    raise AttributeError(f"module 'daclip' has no attribute '{name}'")
