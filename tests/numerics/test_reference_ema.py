"""The weight average against a recording of `ema_pytorch`, with the original's settings."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from reference import golden
from torch import nn
from torch.optim.swa_utils import AveragedModel

from daclip.training.callbacks import WarmedUpEMA, warmed_up_decay

CONFIG = Path(__file__).parents[2] / "conf" / "callbacks" / "ema_official.yaml"


def test_the_average_of_every_step() -> None:
    known = golden("ema")
    averaging = instantiate(OmegaConf.load(CONFIG).ema)
    assert isinstance(averaging, WarmedUpEMA)
    online = nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(online, avg_fn=averaging._average, use_buffers=False)
    found = []
    for step, value in enumerate(known["online"]):
        with torch.no_grad():
            online.weight.fill_(value)
        if averaging.should_update(step_idx=step):
            averaged.update_parameters(online)
        found.append(next(averaged.module.parameters()).item())
    torch.testing.assert_close(torch.tensor(found), known["ema"], rtol=1e-5, atol=1e-5)


def test_the_decays_that_were_measured() -> None:
    known = golden("ema").facts
    settings = known["beta"], known["defaults"]["update_after_step"], known["defaults"]["power"]
    for call, decay in known["decay_measured_at_call"].items():
        assert warmed_up_decay(int(call), *settings) == pytest.approx(decay, abs=1e-4)
    assert not instantiate(OmegaConf.load(CONFIG).ema).should_update(epoch_idx=0)
