import re
from dataclasses import replace

import pytest
import torch

from llm360_trainer.model.decode import Cache, extend, greedy, logits


@pytest.fixture(params=[4, 2], ids=["own_keys", "shared_keys"])
def num_kv_heads(request):
    return request.param


@pytest.fixture
def config(config, num_kv_heads):
    """Every form, with as many key heads as query heads and with fewer."""
    return replace(config, num_kv_heads=num_kv_heads)


def without_cache(model, prompt, num_tokens):
    """Greedy decoding by the plain forward over everything so far."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(num_tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def ragged_prompts():
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, 61, (length,), generator=generator).tolist() for length in (9, 1, 14, 5, 9)]


def test_a_prefill_is_the_plain_forward(build, config, ids):
    model = build(config)
    hidden = extend(model, Cache.empty(model, 3, 17), ids)
    torch.testing.assert_close(logits(model, hidden), model(ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pieces", [[16, 1], [1] * 17, [5, 7, 5]])
def test_pieces_give_the_logits_of_the_whole(build, config, ids, pieces):
    model = build(config)
    cache = Cache.empty(model, 3, 17)
    hidden = [extend(model, cache, piece) for piece in ids.split(pieces, dim=1)]
    torch.testing.assert_close(logits(model, torch.cat(hidden, dim=1)), model(ids), rtol=1e-5, atol=1e-5)
    assert cache.lengths == [17, 17, 17]


def test_ragged_pieces_give_each_sequence_its_own_logits(build, config, ids):
    model = build(config)
    cache = Cache.empty(model, 3, 20)
    counts = [[4, 9, 1], [3, 1, 6], [10, 7, 10]]
    starts, seen = [0, 0, 0], [[], [], []]
    for step in counts:
        width = max(step)
        padded = torch.full((3, width), 60)
        for row, (start, count) in enumerate(zip(starts, step, strict=True)):
            padded[row, :count] = ids[row, start : start + count]
        hidden = extend(model, cache, padded, step)
        for row, count in enumerate(step):
            seen[row].append(hidden[row, :count])
        starts = [start + count for start, count in zip(starts, step, strict=True)]
    assert cache.lengths == starts == [17, 17, 17]
    together = logits(model, torch.stack([torch.cat(rows) for rows in seen]))
    torch.testing.assert_close(together, model(ids), rtol=1e-5, atol=1e-5)


def test_greedy_decoding_equals_that_without_a_cache(build, config):
    model = build(config)
    prompts = ragged_prompts()
    decoded = greedy(model, prompts, 24)
    assert decoded == [without_cache(model, prompt, 24) for prompt in prompts]
    assert len({tuple(row) for row in decoded}) > 1, "the model says the same whatever the prompt"


def test_a_sequence_ends_with_the_end_and_the_others_go_on(build, llama):
    model = build(llama)
    prompts = ragged_prompts()
    free = greedy(model, prompts, 24)
    end = next(token for token in free[0] if sum(token in row for row in free) < len(free))
    ended = greedy(model, prompts, 24, end_id=end)
    assert ended == [row[: row.index(end) + 1] if end in row else row for row in free]
    assert len(ended[0]) < 24 == max(len(row) for row in ended)


def test_decoding_stops_when_all_have_ended(build, llama, monkeypatch):
    model = build(llama)
    first = greedy(model, [[3, 4]], 1)[0][0]
    calls = []
    monkeypatch.setattr(model.norm, "forward", lambda x, forward=model.norm.forward: (calls.append(1), forward(x))[1])
    assert greedy(model, [[3, 4], [3, 4]], 30, end_id=first) == [[first], [first]]
    assert len(calls) == 1


def test_a_shared_prefix_is_read_once(build, config, ids):
    model = build(config)
    cache = Cache.empty(model, 3, 17)
    extend(model, cache, ids[:, :10])
    branches = cache.select([2, 0, 2])
    tails = torch.stack([ids[2, 10:], ids[0, 10:], ids[1, 10:]])
    hidden = extend(model, branches, tails)
    whole = model(torch.cat([ids[[2, 0, 2], :10], tails], dim=1))
    torch.testing.assert_close(logits(model, hidden), whole[:, 10:], rtol=1e-5, atol=1e-5)
    assert (cache.lengths, branches.lengths) == ([10] * 3, [17] * 3)


def test_what_has_no_room_is_refused(build, llama, ids):
    model = build(replace(llama, max_position_embeddings=20))
    with pytest.raises(ValueError, match=re.escape("21 tokens are more than max_position_embeddings (20)")):
        greedy(model, ids.tolist(), 5)
    assert len(greedy(model, ids.tolist(), 4)[0]) == 4
    cache = Cache.empty(model, 3, 18)
    extend(model, cache, ids)
    with pytest.raises(ValueError, match="room for 18 tokens of a sequence, 19 are needed"):
        extend(model, cache, ids[:, :2])
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        greedy(model, [[1], []], 3)
