import pytest

from llm360_trainer.model import DecoderConfig, Initializer

SIZES = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_layers": 1}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_heads": 4, "num_kv_heads": 3, "head_dim": 2}, r"num_kv_heads is 3; it must divide num_heads \(4\)"),
        ({"num_heads": 4, "num_kv_heads": 0, "head_dim": 2}, "num_kv_heads is 0"),
        ({"num_heads": 2, "num_kv_heads": 2, "head_dim": 6, "rotary_fraction": 0.5}, "gives 3 rotated dimensions"),
        ({"num_heads": 2, "num_kv_heads": 2, "head_dim": 4, "rotary_fraction": 0.0}, "gives 0 rotated dimensions"),
        (
            {"num_heads": 2, "num_kv_heads": 2, "head_dim": 4, "tied_embeddings": True, "output_bias": True},
            "output_bias needs a head of its own",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        DecoderConfig(**SIZES, **fields)


def test_rotated_dimensions_are_a_share_of_the_head():
    config = DecoderConfig(**SIZES, num_heads=1, num_kv_heads=1, head_dim=128, rotary_fraction=0.25)
    assert config.rotary_dim == 32


@pytest.mark.parametrize("cut", [None, 0.0])
def test_truncated_normal_needs_a_cut(cut):
    with pytest.raises(ValueError, match="needs cut above 0"):
        Initializer("truncated_normal", std=0.1, cut=cut)


def test_negative_deviation_is_refused():
    with pytest.raises(ValueError, match="std is -1"):
        Initializer(std=-1)
