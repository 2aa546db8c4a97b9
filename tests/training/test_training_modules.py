"""Both stages' LightningModules: freezing, seeds, dropped and told conditioning, caching, compilation."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_clip import ARCHITECTURE

from daclip.backbones import ConditionalUNet
from daclip.clip.controller import create_daclip
from daclip.diffusion.module import FrozenGuide, RestorationDiffusion
from daclip.diffusion.objectives import DataMatching
from daclip.diffusion.sde import DirectRegression, MeanRevertingSDE, ThetaSchedule
from daclip.errors import DaclipError
from daclip.restoring.control import steer
from daclip.samplers import PosteriorSampler
from daclip.types import Conditioning, RestorationBatch


def build(**options: Any) -> RestorationDiffusion:
    torch.manual_seed(0)
    return RestorationDiffusion(
        daclip=create_daclip(ARCHITECTURE, None, "resize", "reversed", 0),
        backbone=ConditionalUNet(16, width=32, multipliers=(1, 1)),
        process=options.pop("process", None) or MeanRevertingSDE(ThetaSchedule()),
        sampler=PosteriorSampler(steps=2),
        parameterization="data",
        correct_epsilon_shift=False,
        objective=DataMatching(),
        optimizer=torch.optim.AdamW,
        warmup_steps=0,
        final_lr=0.0,
        seed=0,
        **options,
    )


@pytest.fixture
def module() -> RestorationDiffusion:
    return build()


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
    alone = torch.cat([module.restore(lq[i : i + 1], numbers=[i]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(module.restore(lq[:1], numbers=[1]), together[:1])


def _loss(module: RestorationDiffusion, lq: torch.Tensor) -> float:
    """Of the first training step, outside of a Trainer."""
    batch = RestorationBatch(lq, 0.9 * lq, [""] * len(lq), ["noisy"] * len(lq), [""] * len(lq))
    stand_in = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=0), global_rank=0, world_size=1)
    module._trainer = stand_in  # type: ignore[assignment]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss.item()


def test_dropped_conditioning_teaches_the_unconditional_network() -> None:
    lq = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    losses = {}
    for share in (0.0, 0.5, 1.0):
        module = build(conditioning_dropout=share)
        with torch.no_grad():
            for parameter in module.denoiser.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        seen: list[Conditioning] = []
        module.denoiser.backbone.register_forward_pre_hook(lambda _, arguments, seen=seen: seen.append(arguments[3]))
        losses[share] = _loss(module, lq)
        content, degradation = seen[0].content, seen[0].degradation
        assert content is not None
        assert degradation is not None
        dropped = (content == 0).all(1)
        assert torch.equal(dropped, (degradation == 0).all(1))
        assert dropped.float().mean() == share if share != 0.5 else 0 < dropped.sum() < 4
        assert all(p.grad is not None for p in module.denoiser.parameters() if p.requires_grad)
    assert len(set(losses.values())) == 3
    with pytest.raises(DaclipError, match="conditioning_dropout"):
        build(conditioning_dropout=1.5)


def test_told_classes_move_embeddings_to_them_and_leave_the_rest() -> None:
    daclip = create_daclip(ARCHITECTURE, None, "resize", "reversed", 0)
    guide, classes = FrozenGuide(daclip), ["noisy", "rainy", "hazy"]
    seen = guide(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    truth = ["hazy", "noisy", "rainy"]
    told = guide.with_true_classes(seen, truth, classes, torch.tensor([True, False, True]))
    assert seen.degradation is not None
    assert told.degradation is not None
    assert torch.equal(told.degradation[1], seen.degradation[1])
    assert told.content is seen.content
    torch.testing.assert_close(told.degradation.norm(dim=1), seen.degradation.norm(dim=1))
    before, after = (daclip.classify(one, classes) for one in (seen.degradation, told.degradation))
    for number in (0, 2):
        assert after[number, classes.index(truth[number])] > before[number, classes.index(truth[number])]
    # Several classes at once are told as a user tells them.
    both = guide.with_true_classes(seen, ["hazy, rainy"] * 3, classes, torch.ones(3, dtype=torch.bool)).degradation
    steered = steer(seen, daclip, {"hazy": 0.5, "rainy": 0.5}, classes).degradation
    assert both is not None
    assert steered is not None
    torch.testing.assert_close(both, steered)
    same = guide.decided(seen, classes, 1.0).degradation
    surer = guide.decided(seen, classes, 0.125).degradation
    assert surer is not None
    torch.testing.assert_close(same, seen.degradation)
    likeliest = before.argmax(1, keepdim=True)
    assert (daclip.classify(surer, classes).gather(1, likeliest) > before.gather(1, likeliest)).all()
    with pytest.raises(DaclipError, match="true_class_share"):
        build(true_class_share=-0.1)


def test_a_caching_guide_gives_the_same_embeddings_with_fewer_calls() -> None:
    daclip = create_daclip(ARCHITECTURE, None, "resize", "reversed", 0)
    plain, caching = FrozenGuide(daclip), FrozenGuide(daclip, cache_size=3)
    computed: list[int] = []
    compute = caching._compute

    def counted(lq: torch.Tensor) -> dict[str, torch.Tensor]:
        computed.append(len(lq))
        return compute(lq)

    caching._compute = counted  # type: ignore[method-assign]
    photos = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for numbers in ([0, 1], [1, 2], [0, 1, 2], [3, 3], [1, 2], [0]):
        expected, found = plain(photos[numbers]), caching(photos[numbers])
        for name in ("content", "degradation", "patches"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    # 0, 1 and 2 are asked for once; 3 takes the place of 0, which is then computed again.
    assert computed == [2, 1, 2, 1]
    assert copy.deepcopy(caching) is caching


def test_a_compiled_network_can_be_averaged_and_saved(module: RestorationDiffusion) -> None:
    compiled = build(compiled=True)
    assert compiled.state_dict().keys() == module.state_dict().keys()
    assert copy.deepcopy(compiled).state_dict().keys() == module.state_dict().keys()


def test_a_sampler_that_does_not_fit_the_process_is_found_at_the_start() -> None:
    with pytest.raises(DaclipError, match="2 is more than the 1"):
        build(process=DirectRegression())


def test_photos_with_nothing_wrong_are_no_case_of_a_gain(module: RestorationDiffusion) -> None:
    hq = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lq = torch.stack([hq[0], 0.5 * hq[1], 0.5 * hq[2]])
    loader = SimpleNamespace(batch_size=3, dataset=range(3))
    stand_in = SimpleNamespace(val_dataloaders=loader, world_size=1, global_rank=0)
    module._trainer = stand_in  # type: ignore[assignment]
    batch = RestorationBatch(lq, hq, [""] * 3, ["clean", "low-light", "low-light"], [""] * 3)
    module.validation_step(batch, 0)
    results = module.results()
    assert list(results["per_degradation"]) == ["low-light"]
    assert torch.tensor(results["mean"]["psnr_lq"]).isfinite()
    assert 0 < results["clean_psnr"] <= 100
