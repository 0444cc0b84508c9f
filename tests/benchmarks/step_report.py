"""What a person reads of the step's benchmark."""

from __future__ import annotations

from typing import Any


def describe(result: dict[str, Any]) -> str:
    """The report."""
    work, machine_, ours = result["work"], result["machine"], result["ours"]
    lines = [
        f"{work['parameters']:,} parameters, {work['layers']} layers, {work['batch_rows']} × {work['sequence_length']}"
        f" tokens a step; {machine_['device']}, torch {machine_['torch']}, Python {machine_['python']}"
        + (", deterministic" if machine_["deterministic"] else ""),
        one_line(ours),
    ]
    if "failed" in ours:
        return "\n".join(lines)
    if machine_["peak_flops"]:
        lines.append(
            f"MFU = tokens/s · (6N + 12·L·d·s = {work['flops_per_token']:.4g} FLOP)"
            f" / {machine_['peak_flops']:.4g} FLOP/s ({machine_['peak_source']})"
        )
    else:
        lines.append(f"no MFU: the peak of {machine_['device']} is not known")
    whole = ours["breakdown_seconds"]
    lines.append(f"one step under the profiler took {whole:.4f} s; without it, the median is {ours['seconds']:.4f} s:")
    lines += [f"  {part:16}{seconds:9.4f} s {seconds / whole:7.1%}" for part, seconds in ours["breakdown"].items()]
    return "\n".join(lines)


def describe_peer(result: dict[str, Any]) -> str:
    """The peer beside ours."""
    ours, peer = result["ours"], result["peer"]
    return (
        f"LlamaForCausalLM of transformers {peer['transformers']}, micro batch {peer['micro_batch']}"
        + (", all recomputed" if peer["checkpointing"] else "")
        + f": {peer['seconds']:.4f} s; ours is {peer['seconds'] / ours['seconds']:.2f} × as fast"
    )


def one_line(found: dict[str, Any]) -> str:
    setting = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["setting"].items())
    if "failed" in found:
        return f"{setting}: {found['failed']}"
    mfu = "" if found["mfu"] is None else f", MFU {found['mfu']:.1%}"
    return (
        f"{setting}: attention by {found['attention']}, {found['seconds']:.4f} s (of {len(found['all_seconds'])}),"
        f" {found['tokens_per_second']:,.0f} tokens/s{mfu}, {found['memory_bytes'] / 2**30:.2f} GiB"
    )
