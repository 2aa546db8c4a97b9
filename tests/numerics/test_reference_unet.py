"""The U-Net against recordings of the official network: outputs, gradients, training, names."""

from typing import Any

import pytest
import torch
from reference import (
    assert_near,
    facts,
    formula_unet,
    golden,
    recorded_process,
    recorded_unet,
    recording,
    unet_settings,
)

from daclip.backbones.unet import ConditionalUNet, from_official
from daclip.diffusion import Denoiser, PosteriorMatching
from daclip.types import Conditioning

NETWORKS = ["unet_daclip", "unet_wild"]


def _times(recorded: Any) -> torch.Tensor:
    values = recorded["tensor"] if isinstance(recorded, dict) else [recorded] * 2
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name: str, channels_last: bool) -> None:
    known = recording(name)
    assert known.facts["cases"]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    unet = recorded_unet(name).to(memory_format=layout)
    for call, case in known.facts["cases"].items():
        size = call.split("_")[0]
        x_t, lq = (known[f"in/{part}_{size}"].to(memory_format=layout) for part in ("xt", "cond"))
        conditioning = Conditioning(
            content=known["in/image_context"] if case["image_context"] else None,
            degradation=known["in/text_context"] if case["text_context"] else None,
        )
        with torch.no_grad():
            out = unet(x_t, lq, _times(case["time"]), conditioning)
        expected = known[f"out/{call}"]
        assert_near(out.contiguous(), expected, what=call)


@pytest.mark.parametrize("variant", ["daclip-sde", "wild-ir"])
def test_outputs_of_small_networks(variant: str) -> None:
    known = golden("unet_small")
    unet = formula_unet(known.facts["networks"][variant])
    conditioning = Conditioning(known["in/image_context"], known["in/text_context"])
    for case, given in ((variant, conditioning), (f"{variant}/plain", Conditioning())):
        with torch.no_grad():
            out = unet(known["in/xt"], known["in/cond"], known["in/time"], given)
        assert_near(out, known[f"out/{case}"], what=case)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_training(name: str, checkpoint: bool) -> None:
    known = recording(name)
    unet = recorded_unet(name)
    unet.checkpoint = checkpoint
    settings = known.facts["training"]
    process = recorded_process(settings["sde"])
    denoiser = Denoiser(unet, process, "epsilon").train()
    optimizer = torch.optim.AdamW(
        [p for p in unet.parameters() if p.requires_grad], settings["lr"], settings["betas"], weight_decay=0
    )
    lq, hq, noise = known["train/mu"], known["train/x0"], known["train/noise"]
    t = known["train/t"].flatten()
    torch.testing.assert_close(process.perturb(hq, lq, t, noise), known["train/xt"], rtol=1e-5, atol=1e-6)
    conditioning = Conditioning(known["in/image_context"], known.tensors.get("in/text_context"))
    objective = PosteriorMatching()
    losses = []
    for step in range(len(settings["loss_before_each_step"])):
        loss = objective(denoiser, lq, hq, conditioning, t, noise)
        loss.backward()
        if step == 0:
            _check_gradients(unet, name)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == pytest.approx(settings["loss_before_each_step"], rel=1e-3)


def _check_gradients(unet: ConditionalUNet, name: str) -> None:
    """Norms of all gradients and some in full, relative to their own size, which spans five orders."""
    known = recording(name)
    norms = from_official(known.facts["gradient_l2_norms"])
    full = from_official(known.under("grad"))
    silent = from_official(dict.fromkeys(known.facts["parameters_with_exactly_zero_gradient"]))
    parameters = dict(unet.named_parameters())
    assert set(norms) == set(parameters)
    assert {n for n, p in parameters.items() if not p.requires_grad} == set(silent)
    for key, parameter in parameters.items():
        if key in silent:
            assert norms[key] == 0
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.norm().item() == pytest.approx(norms[key], rel=1e-3), key
        if key in full:
            error = (parameter.grad - full[key]).norm() / full[key].norm()
            assert error < 1e-3, f"gradient of {key} is off by {error:.1e}"


@pytest.mark.parametrize("name", ["keys_unet_daclip-sde", "keys_unet_wild-ir"])
def test_names_of_the_full_size_network(name: str) -> None:
    known = facts(name)
    with torch.device("meta"):
        unet = ConditionalUNet(**unet_settings(known))
        official = {f"module.{k}": torch.empty(shape) for k, (shape, _) in known["keys"].items()}
    ours = {k: v.shape for k, v in unet.state_dict().items()}
    renamed = {k: v.shape for k, v in from_official(official).items()}
    assert renamed == ours
    assert len(renamed) == known["n_keys"]
    assert sum(p.numel() for p in unet.parameters()) == known["parameters"]


def test_bfloat16_stays_close() -> None:
    """Autocast must not change the epsilon of the norms: that alone would move the output by 12 %."""
    known = recording("unet_daclip")
    unet = recorded_unet("unet_daclip").to(memory_format=torch.channels_last)
    conditioning = Conditioning(known["in/image_context"], known["in/text_context"])
    case = known.facts["cases"]["32x32_t_tensor_both"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = unet(known["in/xt_32x32"], known["in/cond_32x32"], _times(case["time"]), conditioning)
    expected = known["out/32x32_t_tensor_both"]
    assert (out.float() - expected).norm() / expected.norm() < 0.02
