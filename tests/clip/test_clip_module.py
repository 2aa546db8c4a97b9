"""What stage 1's LightningModule promises beside its losses."""

from typing import Any

import pytest
import torch
from huggingface_hub import constants
from ranks import free_port
from torch import Tensor

from daclip.clip.controller import create_daclip
from daclip.clip.losses import CosineDistillation, DaClipLoss, MultiPositive, Sigmoid
from daclip.clip.module import ControllerPretraining
from daclip.clip.sources import hub
from daclip.errors import DaclipError
from daclip.types import RestorationBatch

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
WORDS = ["rainy", "hazy", "noisy"]


def module(caption_weight: float = 1.0, distillation_weight: float = 0.5, **changes: Any) -> ControllerPretraining:
    daclip = create_daclip(CLIP, None, "multi_crop", "reversed", 0)
    torch.manual_seed(0)
    for link in daclip.controller.links:
        torch.nn.init.normal_(link.get_parameter("weight"), std=0.1)
    settings: dict[str, Any] = {
        "optimizer": torch.optim.AdamW,
        "warmup_steps": 1,
        "final_lr": 0.0,
        "content_share": 0.5,
        "chunk_size": None,
        "checkpoint_blocks": False,
        "compile_blocks": False,
        **changes,
    }
    loss = DaClipLoss(MultiPositive(), CosineDistillation(), 1.0, caption_weight, distillation_weight)
    made = ControllerPretraining(daclip=daclip, loss=loss, classes=WORDS, **settings)
    made.log = lambda *_, **__: None  # type: ignore[method-assign]
    return made


def batch(size: int = 6) -> RestorationBatch:
    images = torch.rand(2, size, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    classes = [WORDS[i % 3] for i in range(size)]
    return RestorationBatch(images[0], images[1], ["a cat", "", "a dog"] * (size // 3), classes, ["a"] * size)


def step(made: ControllerPretraining) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = made.training_step(batch(), 0)
    loss.backward()
    gradients = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize("changes", [{"chunk_size": 2}, {"chunk_size": 4, "checkpoint_blocks": True}])
def test_chunks_give_the_gradients_of_the_whole_batch(changes: dict[str, Any]) -> None:
    whole, expected, _ = step(module())
    chunked, found, _ = step(module(**changes))
    torch.testing.assert_close(chunked, whole)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_checkpointed_blocks_keep_less_and_give_the_same_bits() -> None:
    loss, expected, bytes_kept = step(module())
    again, found, fewer = step(module(checkpoint_blocks=True))
    assert torch.equal(again, loss)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert fewer < 0.5 * bytes_kept


def test_compiled_blocks_are_those_of_both_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []

    def pretend(function: Any) -> Any:
        def run(block: torch.nn.Module, tokens: torch.Tensor) -> Any:
            compiled.append(block)
            return function(block, tokens)

        return run

    monkeypatch.setattr(torch, "compile", pretend)
    _, expected, _ = step(module())
    _, found, _ = step(module(compile_blocks=True))
    assert len({id(block) for block in compiled}) == 2 * CLIP["vision_cfg"]["layers"]  # type: ignore[index]
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_without_content_terms_links_are_left_alone_and_nothing_is_steered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(caption_weight=0.0, distillation_weight=0.0)
    _, gradients, _ = step(made)
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained == gradients.keys()
    assert not any("links" in name for name in trained)
    monkeypatch.setattr(made.daclip.clip, "encode_image", lambda *_: pytest.fail("needless"))
    made.training_step(batch(), 0)


def test_the_logit_scale_has_a_group_without_decay_and_stays_in_its_range() -> None:
    made = module()
    groups = made.parameter_groups()
    scale = made.daclip.logit_scale
    assert [group["params"] for group in groups if group.get("name") == "logit_scale"] == [[scale]]
    assert groups[-1]["weight_decay"] == 0
    every = [id(p) for group in groups for p in group["params"]]
    assert len(every) == len(set(every)) == sum(p.requires_grad for p in made.parameters())
    for value, expected in ((9.0, 100.0), (-3.0, 1.0)):
        scale.data.fill_(value)
        made.on_train_batch_end(None, batch(), 0)
        assert made.daclip.scale().item() == pytest.approx(expected, rel=1e-5)


def test_the_bias_of_the_sigmoid_is_learned() -> None:
    made = module()
    made.loss.matching = Sigmoid(-10.0)
    step(made)
    assert made.loss.matching.bias.grad is not None


@pytest.mark.parametrize("changes", [{"chunk_size": 0}, {"content_share": 0.0}])
def test_contradictory_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DaclipError, match=next(iter(changes))):
        module(**changes)


def test_a_loss_given_by_name_points_to_the_option() -> None:
    with pytest.raises(DaclipError, match="loss=official"):
        DaClipLoss("official", CosineDistillation(), 1.0, 1.0, 0.0)  # type: ignore[arg-type]


def test_a_hub_that_does_not_answer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with hub():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
