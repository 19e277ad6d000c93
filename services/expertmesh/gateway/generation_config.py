"""What a checkpoint suggests for requests that do not say: generation_config.json. Knows its keys, not requests."""

from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys, is_int
from expertmesh.errors import InvalidRequestError
from expertmesh.model.sampling import PARAMETERS, SamplingParams

FILE_NAME = "generation_config.json"
FIELDS = tuple(name for name, parameter in PARAMETERS.items() if parameter.is_suggested)
# What those that sample mean by saying nothing of these.
SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 50}
KEYS: KeyRules = (
    honoured("do_sample", but="; without it, answers are greedy"),
    honoured("temperature", "top_k", but="; absent, they are 1 and 50 with `do_sample: true`"),
    honoured(*(field for field in FIELDS if field not in SAMPLING_DEFAULTS), "eos_token_id"),
    refused("", "num_beams", "num_beam_groups", "num_return_sequences", unless=(1,)),
    refused("", "penalty_alpha", "diversity_penalty", "epsilon_cutoff", "eta_cutoff", "top_h", unless=(0,)),
    refused("", "encoder_repetition_penalty", "guidance_scale", unless=(1,)),
    refused("", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens", unless=(0,)),
    refused(
        "",
        "bad_words_ids",
        "force_words_ids",
        "constraints",
        "suppress_tokens",
        "begin_suppress_tokens",
        "sequence_bias",
        "stop_strings",
        unless=([], {}),
    ),
    refused(
        "",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "exponential_decay_length_penalty",
        "watermarking_config",
        "dola_layers",
        "decoder_start_token_id",
    ),
    refused("", "token_healing", "remove_invalid_values", "renormalize_logits", unless=(False,)),
    nothing("requests say how long an answer may be", "max_new_tokens", "max_length", "max_time"),
    nothing("they are about beams", "length_penalty", "early_stopping", "low_memory"),
    nothing("the tokenizer says it", "bos_token_id", "pad_token_id"),
    nothing(
        "the answer is the same, only computed otherwise",
        "use_mtp",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "speculation_type",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "prefill_chunk_size",
    ),
    nothing(
        "requests say what they want to be told",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
    ),
    nothing("they are about the program that wrote the file", "transformers_version", "_from_model_config"),
)


def read_defaults(directory: Path) -> SamplingParams:
    """Read the sampling defaults of a checkpoint; greedy where it has none or does not say ``do_sample: true``.

    CheckpointError names a key that is refused and a value that cannot be.
    """
    keys = _read(directory)
    check_keys(keys, KEYS)
    suggested: dict[str, Any] = {name: _number(keys, name) for name in FIELDS if name in keys}
    if keys.flag("do_sample", False):
        suggested = {**SAMPLING_DEFAULTS, **suggested}
    else:
        suggested["temperature"] = 0.0
    try:
        defaults = SamplingParams(**suggested)
        defaults.validate()
    except InvalidRequestError as error:
        raise keys.error(str(error)) from None
    return defaults


def _number(keys: Keys, name: str) -> float:
    """Read a number of the kind that the parameter of this name takes."""
    value = keys.get(name)
    if is_int(value) or (isinstance(value, float) and name != "top_k"):
        return value
    raise keys.wrong(name, "an integer" if name == "top_k" else "a number")


def read_eos_ids(directory: Path, vocab_size: int) -> frozenset[int]:
    """Read the ids that end an answer, beside those that config.json names."""
    return frozenset(_read(directory).token_ids("eos_token_id", vocab_size))


def _read(directory: Path) -> Keys:
    path = directory / FILE_NAME
    return Keys(read_json(path) if path.exists() else {}, path)
