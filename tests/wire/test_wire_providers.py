"""The provider table: complete rows, found by every name, speaking the right dialect at every path."""

from __future__ import annotations

from itertools import combinations

import pytest

from bursar.adapters.prices_file import bundled_book
from bursar.wire.openai_usage import Quirks
from bursar.wire.providers import dialect_by_id, parse_providers, provider, providers, split_url

ROW = """
[dialects.openai]
"*/chat/completions" = "openai_chat"
[[provider]]
id = "x"
name = "X"
aliases = []
hosts = ["x.test"]
base_url = "https://x.test/v1"
prices = ""
key_env = "X_KEY"
auth = "bearer"
stream_usage = "on_request"
dialects = ["openai"]
usage = { reasoning = "included", cached = "included", citations = "included", reported = "none" }
request = { output_cap = "max_tokens", note = "last", tiers = [] }
"""


def test_no_two_rows_share_a_name() -> None:
    """An id, an alias or a host belongs to one provider."""
    for one, two in combinations(providers(), 2):
        shared = {one.id, *one.aliases, *one.hosts} & {two.id, *two.aliases, *two.hosts}
        assert not shared, (one.id, two.id, shared)


def test_every_price_list_is_in_the_book() -> None:
    """A row's price id is a provider of the bundled prices; a router's prefix begins some."""
    known = set(bundled_book().providers())
    for each in providers():
        assert not each.prices or each.prices in known, each.id
        assert not each.router_prices or any(name.startswith(each.router_prices) for name in known)
        assert each.base_url == each.base_url.rstrip("/")
        assert each.hosts
        assert each.key_env or "localhost" in each.base_url


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai", "openai"),
        ("api.openai.com", "openai"),
        ("API.OpenAI.com", "openai"),
        ("https://api.openai.com/v1/chat/completions?x=1", "openai"),
        ("eu.api.openai.com", "openai"),
        ("bedrock", "aws"),
        ("bedrock-runtime.eu-west-1.amazonaws.com", "aws"),
        ("bedrock-mantle.us-east-1.api.aws", "aws"),
        ("vertex", "google"),
        ("gemini", "google"),
        ("europe-west4-aiplatform.googleapis.com", "google"),
        ("aiplatform.googleapis.com", "google"),
        ("acme.openai.azure.com", "azure"),
        ("azure.ai.openai", "azure"),
        ("x-ai", "xai"),
        ("acme.snowflakecomputing.com", "snowflake"),
        ("localhost:11434", "ollama"),
        ("http://gpu-box:11434/v1", "ollama"),
        ("localhost:8000", "vllm"),
        ("http://user:pass@api.groq.com:443/openai/v1", "groq"),
        ("localhost:8787", None),
        ("example.com", None),
        ("", None),
    ],
)
def test_a_provider_is_found_by_every_name(name: str, expected: str | None) -> None:
    """Ids, aliases, hosts with and without a port, and URLs."""
    found = provider(name)
    assert (found.id if found else None) == expected


@pytest.mark.parametrize(
    ("name", "path", "dialect_id"),
    [
        ("openai", "/v1/chat/completions", "openai_chat"),
        ("openai", "/v1/responses/resp_1", "openai_responses"),
        ("openai", "/v1/responses/compact", "openai_responses"),
        ("openai", "/v1/embeddings", "openai_embeddings"),
        ("openai", "/v1/images/generations", "openai_images"),
        ("openai", "/v1/audio/transcriptions", "openai_audio"),
        ("openai", "/v1/moderations", "generic"),
        ("azure", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-12-01", "openai_chat"),
        ("azure", "/anthropic/v1/messages", "anthropic"),
        ("anthropic", "/v1/messages?beta=true", "anthropic"),
        ("anthropic", "/v1/messages/count_tokens", "anthropic_count_tokens"),
        ("anthropic", "/v1/messages/batches", "generic"),
        ("google", "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", "gemini"),
        ("google", "/v1beta/openai/chat/completions", "openai_chat"),
        ("google", "/v1/projects/p/locations/l/publishers/anthropic/models/claude:rawPredict", "anthropic"),
        ("aws", "/model/us.amazon.nova-2-lite-v1%3A0/converse", "bedrock_converse"),
        ("aws", "/model/amazon.titan-embed-text-v2%3A0/invoke", "bedrock_invoke"),
        ("aws", "/openai/v1/chat/completions", "openai_chat"),
        ("cohere", "/v2/chat", "cohere"),
        ("cohere", "/compatibility/v1/chat/completions", "openai_chat"),
        ("openrouter", "/api/v1/messages", "anthropic"),
        ("groq", "/", "generic"),
    ],
)
def test_paths_have_dialects(name: str, path: str, dialect_id: str) -> None:
    """A path is spoken in the dialect that its provider documents, in the generic one where it documents none."""
    found = provider(name)
    assert found is not None
    assert found.dialect(path).id == dialect_id


def test_quirks_stay_with_their_provider() -> None:
    """Two providers of one dialect read the same body each in its own way."""
    xai, groq = provider("xai"), provider("groq")
    assert xai is not None
    assert groq is not None
    assert xai.quirks == Quirks("excluded", "included", "included", "cost_in_usd_ticks")
    body = {"usage": {"prompt_tokens": 1, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}}}
    outputs = [p.dialect("/v1/chat/completions").read_response(body).usage for p in (xai, groq)]
    assert [usage.output_tokens for usage in outputs if usage] == [14, 9]


def test_a_router_is_priced_by_its_path() -> None:
    """Hugging Face's router names who serves in the path."""
    router = provider("router.huggingface.co")
    assert router is not None
    assert router.price_id("/together/v1/chat/completions") == "huggingface_together"
    ollama = provider("ollama")
    assert ollama is not None
    assert ollama.price_id("/v1/chat/completions") == "ollama"


@pytest.mark.parametrize(
    ("name", "path", "url"),
    [
        ("openai", "/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
        ("groq", "/v1/chat/completions?x=1", "https://api.groq.com/openai/v1/chat/completions?x=1"),
        (
            "google",
            "/v1beta/models/m:generateContent",
            "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent",
        ),
        ("perplexity", "/v1/chat/completions", "https://api.perplexity.ai/chat/completions"),
        ("aws", "/model/m/converse", "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/converse"),
        ("zai", "/v1/chat/completions", "https://api.z.ai/api/paas/v4/chat/completions"),
    ],
)
def test_a_clients_path_is_put_behind_the_base_url(name: str, path: str, url: str) -> None:
    """The client's version gives way to the provider's."""
    found = provider(name)
    assert found is not None
    assert found.url(path) == url
    assert found.url("/v1/models", "http://localhost:9/v2/") == "http://localhost:9/v2/models"


def test_a_regional_host_is_a_term() -> None:
    """Data residency changes the price; the host says where."""
    openai = provider("openai")
    assert openai is not None
    assert openai.host_terms("eu.api.openai.com") == (("region", "eu"),)
    assert openai.host_terms("api.openai.com") == ()


def test_urls_are_split() -> None:
    """Host in lower case with its port, path with its query."""
    assert split_url("https://Api.X.ai:443/v1/a?b=/c") == ("api.x.ai", "/v1/a?b=/c")
    assert split_url("localhost:11434") == ("localhost:11434", "")
    assert split_url("host?x=1") == ("host", "?x=1")


def test_a_row_must_state_how_it_counts() -> None:
    """No field that could miscount has a default, and an error names the row."""
    assert parse_providers(ROW)[0].quirks == Quirks("included", "included", "included", "none")
    for old, new, word in (
        (', reported = "none"', "", "'x'"),
        ('cached = "included"', 'cached = "maybe"', "maybe"),
        ('dialects = ["openai"]', 'dialects = ["klingon"]', "klingon"),
        ('"openai_chat"', '"klingon_chat"', "klingon_chat"),
        ('note = "last"', 'note = "first"', "first"),
        ('output_cap = "max_tokens", ', "", "output_cap"),
        ('auth = "bearer"', 'auth = "none"', "auth"),
        ('name = "X"', 'name = "X"\nsize = 3', "size"),
    ):
        with pytest.raises(ValueError, match=word):
            parse_providers(ROW.replace(old, new))


def test_dialects_are_found_by_id() -> None:
    """Every id answers for itself, and an unknown one is an error."""
    assert dialect_by_id("openai_chat").id == "openai_chat"
    with pytest.raises(KeyError):
        dialect_by_id("klingon")
