"""From our requests to vLLM's: messages with the picture first, sampling parameters, replies."""

from __future__ import annotations

from typing import Any

from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest


def messages(request: EngineRequest) -> list[Any]:
    """One user turn, the picture before the text so that all its perspectives share a prefix."""
    content: list[dict[str, Any]] = []
    if request.image is not None:
        content.append({"type": "image_pil", "image_pil": request.image, "uuid": request.image_id})
    content.append({"type": "text", "text": request.text})
    return [{"role": "user", "content": content}]


def sampling_params(request: EngineRequest) -> Any:
    """vLLM's SamplingParams; output only when finished."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    structured = StructuredOutputsParams(json=request.json_schema) if request.json_schema is not None else None
    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        max_tokens=request.max_tokens,
        seed=request.seed,
        repetition_penalty=request.repetition_penalty,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=structured,
    )


def reply(output: Any) -> EngineReply:
    """A finished vLLM RequestOutput as a reply. Raises EngineFailure for one that the engine broke off."""
    completion = output.outputs[0]
    if completion.finish_reason in {"error", "abort"}:
        raise EngineFailure("engine", f"the engine ended the request: {completion.finish_reason}", retryable=True)
    return EngineReply(
        text=completion.text,
        finish_reason=str(completion.finish_reason),
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=int(output.num_cached_tokens or 0),
        completion_tokens=len(completion.token_ids),
    )
