"""What the LightningModules promise beside their losses."""

import copy

import pytest
import torch

from daclip.backbones import ConditionalUNet
from daclip.clip.controller import create_daclip
from daclip.diffusion.module import RestorationDiffusion
from daclip.diffusion.objective import DataMatching
from daclip.diffusion.process import MeanRevertingSDE
from daclip.diffusion.schedules import ThetaSchedule
from daclip.samplers import PosteriorSampler

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def module() -> RestorationDiffusion:
    torch.manual_seed(0)
    return RestorationDiffusion(
        daclip=create_daclip(CLIP, None, "resize", "reversed", 0),
        backbone=ConditionalUNet(16, width=32, multipliers=(1, 1)),
        process=MeanRevertingSDE(ThetaSchedule()),
        sampler=PosteriorSampler(steps=2),
        parameterization="data",
        correct_epsilon_shift=False,
        objective=DataMatching(),
        optimizer=torch.optim.AdamW,
        warmup_steps=0,
        final_lr=0.0,
        seed=0,
    )


def test_frozen_daclip_is_neither_copied_nor_saved_nor_trained(module: RestorationDiffusion) -> None:
    # A weight average deep-copies the module; the frozen guide stays the same object.
    twin = copy.deepcopy(module)
    assert twin.guide.daclip is module.guide.daclip
    assert twin.denoiser.backbone is not module.denoiser.backbone
    assert all(name.startswith("denoiser.") for name in module.state_dict())
    assert not any(p.requires_grad for p in module.guide.daclip.parameters())


def test_a_photo_is_restored_the_same_in_any_batch(module: RestorationDiffusion) -> None:
    lq = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = module.restore(lq)
    alone = torch.cat([module.restore(lq[i : i + 1], first=i) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(module.restore(lq[:1], first=1), together[:1])
