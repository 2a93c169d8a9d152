"""Which provider a request is for, and where it goes there.

Rule 1: a path that starts with a provider's id goes to that provider: ``/groq/openai/v1/chat/completions``.
Rule 2: else the path's own grammar decides: Anthropic's, Gemini's, and OpenAI's for the rest; ``x-bursar-provider``
        names another provider that speaks it.
Rule 3: a model ``provider/name`` on one of OpenAI's paths goes to that provider as ``name``, unless one was named.
Rule 4: a path stays what it is: steps up (``..``) are refused, and what had to be percent-encoded is again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlsplit

from bursar.core.values import valueclass
from bursar.engine.rulebook import ProviderRule, Rulebook
from bursar.wire.dialect import BadRequest, Dialect
from bursar.wire.providers import Provider

__all__ = ["Destination", "destination", "model_provider", "resolve"]

PROVIDER_HEADER: Final = "x-bursar-provider"

_GOOGLE: Final = re.compile(
    r"/(v1|v1alpha|v1beta)/(models/[^/]+:|tunedModels/|cachedContents|operations/)|/v1beta/|/v1alpha/"
)


@valueclass
class Destination:
    """Where a request goes. ``path`` is the provider's, beginning with a slash; ``named`` is whether it was asked for by name."""

    rule: ProviderRule
    path: str
    dialect: Dialect
    named: bool

    @property
    def url(self) -> str:
        return _url(self.rule.provider, self.rule.base_url, self.path)

    @property
    def must_ask_usage(self) -> bool:
        """Whether a stream of this call states its usage only if it is asked to."""
        return self.dialect.id == "openai_chat" and self.rule.provider.stream_usage == "on_request"


def resolve(path: str, headers: Mapping[str, str], rulebook: Rulebook) -> Destination:
    """Raises BadRequest when the named provider is not known, or the path is none."""
    if path[:1] != "/" or ("/." in path and not {".", ".."}.isdisjoint(path.split("/"))):
        raise BadRequest("path", f"{path[:100]!r} is no path at a provider: begin with / and leave out . and .. steps")
    first, _, rest = path[1:].partition("/")
    rule = rulebook.providers.get(first)
    if rule is not None and rest:
        return destination(rule, f"/{rest}", named=True)
    wanted = headers.get(PROVIDER_HEADER)
    if wanted:
        return destination(_known(wanted, rulebook.providers), path, named=True)
    if path.startswith("/v1/messages") or "anthropic-version" in headers:
        provider = "anthropic"
    elif _GOOGLE.match(path) or ("x-goog-api-key" in headers and "authorization" not in headers):
        provider = "google"
    else:
        provider = "openai"
    return destination(rulebook.providers[provider], path, named=False)


def model_provider(to: Destination, model: str, rulebook: Rulebook) -> tuple[Destination, str]:
    """The destination and model that a ``provider/name`` model means; the same two when it means nothing special."""
    if to.named or to.rule.provider.id != "openai":
        return to, model
    prefix, slash, name = model.partition("/")
    rule = rulebook.providers.get(prefix) if slash and name else None
    if rule is None:
        return to, model
    return destination(rule, to.path, named=True), name


@lru_cache(maxsize=1024)
def _url(provider: Provider, base_url: str, path: str) -> str:
    return provider.url(_below(path, base_url, provider.base_url), base_url)


def _below(path: str, *base_urls: str) -> str:
    """The path below the base URL, percent-encoded: a client may or may not have written the base's own path too."""
    for base_url in base_urls:
        own = urlsplit(base_url).path.rstrip("/")
        if own and path.startswith(f"{own}/"):
            path = path[len(own) :]
            break
    return quote(path, safe="/:@!$&'()*+,;=~")


def destination(rule: ProviderRule, path: str, *, named: bool) -> Destination:
    """Where a path at a provider is."""
    return Destination(rule, path, rule.provider.dialect(path), named)


def _known(name: str, providers: Mapping[str, ProviderRule]) -> ProviderRule:
    rule = providers.get(name.strip().lower())
    if rule is None:
        raise BadRequest(
            PROVIDER_HEADER, f"provider {name[:60]!r} is not known; known are {', '.join(sorted(providers))}"
        )
    return rule
