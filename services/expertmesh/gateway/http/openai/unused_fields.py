"""Fields of OpenAI's API, and of vLLM's, TGI's, Mistral's and llama.cpp's forms of it, without a use here."""

from expertmesh.gateway.http.field_rules import FieldRules, ignored, refused

_PREFIX_CACHE = ("prompt_cache_key", "prompt_cache_retention", "cache_prompt", "n_cache_reuse", "id_slot")
_LAZY_GRAMMARS = ("grammar_lazy", "grammar_triggers", "preserved_tokens")
_REPETITION = (
    *("repetition_detection", "repetition_min_count"),
    *("max_repetition_pattern_size", "min_repetition_pattern_size"),
)
_OTHER_SAMPLING = ("mirostat", "dynatemp_range", "xtc_probability", "dry_multiplier")
_HOW_OF_OTHER_SAMPLING = (
    *("mirostat_tau", "mirostat_eta", "dynatemp_exponent", "xtc_threshold", "repeat_last_n"),
    *("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
)

COMPLETIONS: FieldRules = (
    ignored("would say who asks", "user", "safety_identifier"),
    ignored("would note something beside a kept answer, or keep it", "metadata", "store"),
    ignored("would choose a price and a place in the queue", "service_tier"),
    ignored("would say how prompts are kept; those that begin alike are computed once in any case", *_PREFIX_CACHE),
    ignored("would guess the answer, to have it sooner", "prediction"),
    ignored("would name the answer; the header X-Request-Id does", "request_id"),
    ignored("would choose a library for grammars", "guided_decoding_backend"),
    refused("blanks of JSON as this expression says", "guided_whitespace_pattern"),
    refused("text in tags with a grammar each", "structural_tag"),
    refused("beam search", "use_beam_search", "early_stopping", unless=(False,)),
    refused("beam search with another bonus for length", "length_penalty", unless=(1,)),
    refused("text without blanks between control tokens", "spaces_between_special_tokens", unless=(True,)),
    refused("tokens without their text", "detokenize", unless=(True,)),
    refused("only these tokens", "allowed_token_ids", unless=([],)),
    refused("none of these words", "bad_words", unless=([],)),
    refused("ids in place of texts in logprobs", "return_tokens_as_token_ids", unless=(False,)),
    refused("code of the client in the sampler", "logits_processors", unless=([],)),
    refused("to be computed before others", "priority", unless=(0,)),
    refused("a prefix cache of its own", "cache_salt"),
    refused("prompts as vectors", "prompt_embeds"),
    refused("prompts that another server computed", "kv_transfer_params"),
    refused("arguments of extensions", "vllm_xargs", "mm_processor_kwargs", "media_io_kwargs", unless=({},)),
    refused("ending an answer that repeats itself", *_REPETITION, unless=(0,)),
    refused("an adapter of the model", "adapter_id", "lora", unless=([], "")),
    refused("a mark in the choice of tokens", "watermark", unless=(False,)),
    refused("another name of max_tokens", "n_predict", unless=(-1,)),
    refused("another name of logprobs", "n_probs", unless=(0,)),
    refused("another name of repetition_penalty", "repeat_penalty", unless=(1,)),
    refused("another name of typical_p", "typ_p", unless=(1,)),
    refused("another name of guided_json", "json_schema", unless=({},)),
    refused("another name of guided_grammar", "grammar", unless=("",)),
    refused("parts of a grammar that a text sets going", *_LAZY_GRAMMARS, unless=(False, [])),
    refused("other ways of choosing tokens", *_OTHER_SAMPLING, unless=(0,)),
    ignored("would tell other ways of choosing tokens how", *_HOW_OF_OTHER_SAMPLING),
    refused("tokens within so many deviations of the best", "top_n_sigma", unless=(-1, 0)),
    refused("at least so many tokens to choose from", "min_keep", unless=(0, 1)),
    ignored("would put the steps of choosing a token in another order", "samplers"),
    refused("dropping the middle of a full context", "n_keep", "n_discard", unless=(0,)),
    refused("lines indented so far at least", "n_indent", unless=(0,)),
    refused("an end after so many milliseconds", "t_max_predict_ms", "t_max_prompt_ms", unless=(-1, 0)),
    refused("times or progress in the reply", "timings_per_token", "return_progress", unless=(False,)),
    refused("another name of return_token_ids", "return_tokens", unless=(False,)),
    refused("logprobs after the parameters", "post_sampling_probs", unless=(False,)),
    refused("only these fields of the reply", "response_fields", unless=([],)),
    refused("images", "image_data", unless=([],)),
)
CHAT: FieldRules = (
    ignored("would say how long to think, where a model was taught to", "reasoning_effort", "prompt_mode"),
    ignored("would say how long to answer, where a model was taught to", "verbosity"),
    ignored("would say where thoughts go in the reply", "include_reasoning", "reasoning_format"),
    refused("an end of thinking after so many tokens", "thinking_token_budget", "reasoning_budget", unless=(-1,)),
    refused("a text of the server's before the conversation", "safe_prompt", unless=(False,)),
    refused("a check of questions and answers", "moderation", "guardrails", unless=([],)),
    refused("sound", "audio"),
    refused("sound beside text", "modalities", unless=(["text"],)),
    refused("answers from the web", "web_search_options"),
    refused("texts for the template to quote", "documents", unless=([],)),
    refused("a template of the client's", "chat_template"),
    refused("words of the client's for a template", "tool_prompt", "guideline"),
    refused("a begin-of-sequence token beside the template's", "add_special_tokens", unless=(False,)),
    refused("the last message before the answer", "echo", unless=(False,)),
)
TEXT: FieldRules = (refused("filling a gap before this text", "suffix", unless=("",)),)
STREAM_OPTIONS: FieldRules = (
    ignored("would hide the lengths of events from those who see encrypted ones", "include_obfuscation"),
)
STRUCTURED_OUTPUTS: FieldRules = (
    ignored("would try no other library for grammars", "disable_fallback"),
    refused("JSON without blanks", "disable_any_whitespace", unless=(False,)),
    refused(
        "objects without properties that the schema does not name", "disable_additional_properties", unless=(False,)
    ),
    refused("blanks of JSON as this expression says", "whitespace_pattern"),
    refused("text in tags with a grammar each", "structural_tag"),
)
_BESIDE_AN_ANSWER = ("annotations", "reasoning", "reasoning_content")
MESSAGE: FieldRules = (
    ignored("would name the message", "id"),
    ignored("would say what to keep of the prompt", "cache_control"),
    ignored("what OpenAI's client has read out of an earlier answer", "parsed"),
    ignored("quotes and thoughts of an earlier answer, which templates do not read", *_BESIDE_AN_ANSWER),
    refused("an earlier answer that was none", "refusal"),
    refused("an earlier answer in sound", "audio"),
)
PART: FieldRules = (
    ignored("would say what to keep of the prompt", "cache_control"),
    ignored("quotes of an earlier answer, which templates do not read", "annotations"),
)
CALL: FieldRules = (ignored("would say which call of the answer it was; their order does", "index"),)
CALLED_FUNCTION: FieldRules = (ignored("what OpenAI's client has read out of the arguments", "parsed_arguments"),)
ITEM: FieldRules = (
    ignored("would name the item", "id"),
    ignored("how far an earlier answer came", "status"),
    ignored("what OpenAI's client has read out of the arguments", "parsed_arguments"),
)
MESSAGE_ITEM: FieldRules = (
    ignored("would name the item", "id"),
    ignored("how far an earlier answer came, and whether more was to follow", "status", "phase"),
)
REASONING_ITEM: FieldRules = (
    ignored("thoughts of an earlier answer", "id", "status", "summary", "content", "encrypted_content"),
)
CONTENT_PART: FieldRules = (
    ignored("what came with an earlier answer", "annotations", "logprobs"),
    ignored("what OpenAI's client has read out of an earlier answer", "parsed"),
)
TEXT_SETTINGS: FieldRules = (ignored("would say how long to answer, where a model was taught to", "verbosity"),)
_CACHE_OF_RESPONSES = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
RESPONSES: FieldRules = (
    ignored("would say who asks", "user", "safety_identifier"),
    ignored("would keep the answer; none is kept, and replies say so", "store"),
    ignored("would choose a price and a place in the queue", "service_tier"),
    ignored(
        "would say how prompts are kept; those that begin alike are computed once in any case", *_CACHE_OF_RESPONSES
    ),
    ignored("would say how long to think, where a model was taught to", "reasoning"),
    ignored("would bound the calls that the server makes itself; it makes none", "max_tool_calls"),
    ignored("would hide the lengths of events from those who see encrypted ones", "stream_options"),
    refused("dropping the beginning of what does not fit the context", "truncation", unless=("disabled",)),
    refused("a shorter form of a long conversation", "context_management", unless=([],)),
    refused("a check of questions and answers", "moderation"),
)
