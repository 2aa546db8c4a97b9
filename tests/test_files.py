"""Writing files."""

import math
from pathlib import Path

from running import read

from daclip.files import write_json


def test_json_has_null_and_a_reason_where_python_has_infinity(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"mean": {"psnr": math.inf, "ssim": 1.0}, "rows": [1, math.nan], "count": 2})
    assert read(tmp_path / "a.json") == {
        "mean": {"psnr": None, "ssim": 1.0},
        "rows": [1, None],
        "count": 2,
        "null": {"mean.psnr": "infinite", "rows.1": "not a number"},
    }
