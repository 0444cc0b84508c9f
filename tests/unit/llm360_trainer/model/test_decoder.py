from dataclasses import replace

import pytest
import torch

from llm360_trainer.model.decoder import rotate, rotation_table


def test_logits_have_a_number_per_word_and_position(build, config, ids):
    logits = build(config)(ids)
    assert logits.shape == (3, 17, 61)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_no_position_sees_those_after_it(build, config, ids):
    model = build(config)
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 61
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert (before[:, 9:] != after[:, 9:]).any(dim=-1).all()


def test_every_parameter_has_a_say(build, config, ids):
    model = build(config)
    model(ids).square().sum().backward()
    silent = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    # A softmax does not feel what shifts all its scores alike; with partial rotation alone the key bias does so.
    assert [name for name in silent if not name.endswith("k_proj.bias")] == []


def test_loss_is_the_cross_entropy_of_the_logits(build, config, ids):
    model = build(config)
    labels = ids.roll(-1, dims=1)
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2))
    total, losses = model.loss(ids, labels, weights)
    expected = torch.nn.functional.cross_entropy(model(ids).transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(total, (expected * weights).sum())
    assert not losses.requires_grad


def test_grouped_heads_equal_repeated_heads(build, llama, ids):
    grouped = build(replace(llama, num_kv_heads=2))
    full = build(llama)
    state = grouped.state_dict()
    for name in state:
        if ".k_proj." in name or ".v_proj." in name:
            state[name] = state[name].view(2, 8, 32).repeat_interleave(2, dim=0).view(32, 32)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(ids), full(ids))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotated_products_depend_on_distance_alone(llama, layout):
    rotation = rotation_table(replace(llama, rotary_layout=layout), 12, torch.device("cpu"))
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    queries = rotate(query.expand(1, 12, 1, 8), rotation, layout)[0, :, 0]
    keys = rotate(key.expand(1, 12, 1, 8), rotation, layout)[0, :, 0]
    scores = queries @ keys.T
    for distance in range(11):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)


def test_layouts_differ_by_the_order_of_dimensions(llama):
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(4))
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # interleaved position of each half-split dimension
    half = rotate(x, rotation_table(llama, 5, x.device), "half")
    table = rotation_table(replace(llama, rotary_layout="interleaved"), 5, x.device)
    torch.testing.assert_close(rotate(x[..., order], table, "interleaved"), half[..., order])


def test_partial_rotation_leaves_the_rest_alone(llama):
    x = torch.randn(1, 5, 1, 8, generator=torch.Generator().manual_seed(5))
    turned = rotate(x, rotation_table(replace(llama, rotary_fraction=0.5), 5, x.device), "half")
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert not torch.equal(turned[:, 1:, :, :4], x[:, 1:, :, :4])


def test_mup_multipliers_scale_what_they_say(build, llama, ids):
    plain = build(llama)
    scaled = build(replace(llama, output_logits_scale=0.25))
    torch.testing.assert_close(scaled(ids), plain(ids) * 0.25)
    tenfold = build(replace(llama, embeddings_scale=10.0))
    with torch.no_grad():
        plain.embed.weight *= 10.0
    torch.testing.assert_close(tenfold(ids), plain(ids))
    by_d = build(replace(llama, attention_scale="d"))
    assert by_d.layers[0].self_attn.scale == 1 / 8
    assert plain.layers[0].self_attn.scale == pytest.approx(8**-0.5)


def test_longer_than_the_model_is_refused(build, llama, ids):
    with pytest.raises(ValueError, match=r"17 tokens is longer than max_position_embeddings \(16\)"):
        build(replace(llama, max_position_embeddings=16))(ids)
