"""Greedy decoding for the memorization score: llm360's and `transformers.generate`, tokens per second.

The same Llama weights, the same prompts, the same batch, in alternating pairs in one process; both decode every
token (no sequence ends early), and what they decode is compared.

    ours     `llm360_trainer.model.decode.greedy`
    peer     `LlamaForCausalLM.generate(do_sample=False, num_beams=1)` with its key-value cache
    ratio    ours / peer in tokens per second, median of the pairs (goal: ≥ 2); the same by processor seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import transformers

from llm360_trainer.model import Decoder, DecoderConfig, initial_tensor, to_hf_name
from llm360_trainer.model.decode import greedy
from llm360_trainer.parallel import fill

EXAMPLES = """\
examples:
  python tests/benchmarks/memorization.py
  python tests/benchmarks/memorization.py --hidden 4096 --layers 32 --heads 32 --device cuda --dtype float16
"""


def build(args: argparse.Namespace) -> tuple[Decoder, transformers.LlamaForCausalLM]:
    """The same first values in both."""
    config = DecoderConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 11 // 4 // 8 * 8,
        num_layers=args.layers,
        num_heads=args.heads,
        num_kv_heads=args.heads,
        head_dim=args.hidden // args.heads,
    )
    ours = Decoder(config)
    fill(ours, lambda name, shape: initial_tensor(name, shape, config, 1))
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            rms_norm_eps=config.norm_epsilon,
            max_position_embeddings=config.max_position_embeddings,
            tie_word_embeddings=False,
        )
    )
    peer.load_state_dict({to_hf_name(name): tensor for name, tensor in ours.state_dict().items()})
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    return ours.to(**place).requires_grad_(False).eval(), peer.to(**place).eval()


def measure(decode: Callable[[], list[list[int]]], device: str) -> tuple[float, float]:
    """Seconds by the clock, and of this process on the processor: on a busy machine only the latter can be compared."""
    started, worked = time.perf_counter(), time.process_time()
    decode()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - worked


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("hidden", 256), ("layers", 6), ("heads", 8), ("vocab", 4096), ("batch", 32), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens decoded after it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ours, peer = build(args)
    prompts = torch.randint(0, args.vocab, (args.batch, args.prompt), generator=torch.Generator().manual_seed(2))
    ids = prompts.to(args.device)
    settings = transformers.GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=args.tokens, min_new_tokens=args.tokens, pad_token_id=0
    )

    def by_peer() -> list[list[int]]:
        with torch.inference_mode():
            found = peer.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return found[:, args.prompt :].tolist()

    def by_us() -> list[list[int]]:
        return greedy(ours, prompts.tolist(), args.tokens)

    same = sum(x == y for a, b in zip(by_us(), by_peer(), strict=True) for x, y in zip(a, b, strict=True))
    total = args.batch * args.tokens
    pairs = []
    for turn in range(args.pairs):
        seconds = {}
        for name, decode in (("ours", by_us), ("peer", by_peer)) if turn % 2 else (("peer", by_peer), ("ours", by_us)):
            seconds[name] = measure(decode, args.device)
        pairs.append(seconds)
    ratios, worked = ([pair["peer"][clock] / pair["ours"][clock] for pair in pairs] for clock in (0, 1))
    facts = {
        "parameters": sum(parameter.numel() for parameter in ours.parameters()),
        "batch": args.batch,
        "prompt": args.prompt,
        "tokens": args.tokens,
        "device": args.device,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "equal_tokens": f"{same} of {total}",
        "ours_tokens_per_second": total / statistics.median(pair["ours"][0] for pair in pairs),
        "peer_tokens_per_second": total / statistics.median(pair["peer"][0] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "ratio_of_processor_seconds": statistics.median(worked),
        "ratios_of_processor_seconds": [round(ratio, 3) for ratio in sorted(worked)],
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")


if __name__ == "__main__":
    main()
