import pytest

from expertmesh.gateway.http.unknown_paths import describe_unknown

KNOWN = ("/", "/generate", "/generate_stream", "/health", "/v1/chat/completions", "/v1/completions", "/v1/models")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/api/generate", "/generate"),
        ("/healthz", "/health"),
    ],
)
def test_the_nearest_path_is_named(path, nearest):
    assert f"; {nearest} is nearest" in describe_unknown(path, KNOWN)


def test_a_path_like_no_other_is_only_not_there():
    assert describe_unknown("/xyz", KNOWN) == "there is no '/xyz' here; /openapi.json lists all paths"


def test_endpoints_that_do_not_apply_say_so():
    assert "no embeddings of texts here" in describe_unknown("/v1/embeddings", KNOWN)
    assert "no sound here" in describe_unknown("/v1/audio/speech", KNOWN)


def test_no_response_is_there_to_be_fetched():
    assert "no response is kept" in describe_unknown("/v1/responses/resp_1", KNOWN)
