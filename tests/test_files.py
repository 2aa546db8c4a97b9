"""Writing files."""

import math
from pathlib import Path

from running import read

from daclip.files import read_json, write_json


def test_json_has_null_and_a_reason_where_python_has_infinity(tmp_path: Path) -> None:
    scores = {"mean": {"psnr": math.inf, "ssim": 1.0}, "rows": [1, -math.inf], "count": 2}
    write_json(tmp_path / "a.json", scores)
    assert read(tmp_path / "a.json") == {
        "mean": {"psnr": None, "ssim": 1.0},
        "rows": [1, None],
        "count": 2,
        "null": {"mean.psnr": "inf", "rows.1": "-inf"},
    }
    assert read_json(tmp_path / "a.json") == scores
